"""Names out of a file, as hostile as they come, through every command that shows them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_compat import cli, load
from caffe_compat.cli.training_tools import _figure
from caffe_compat.display import shown
from caffe_compat.errors import CaffeCompatError, CaffeCompatWarning
from caffe_compat.formats.log_tables import LogTables, log_tables
from caffe_compat.formats.logs import read_log
from caffe_compat.pycaffe import draw
from caffe_compat.pycaffe.runtime import log as caffe_log
from caffe_compat.reports.inspection import inspect_file
from caffe_compat.schema.printing import quoted
from tests.networks import filled, parse, write_weights

# Clears the screen, renames the terminal, rings, begins a line that looks like ours, goes back in it, and a CSI of one
# byte; then text that runs backwards and a name nobody can see.
NASTY = "a\x1b[2J\x1b]0;pwn\x07\nERROR: all fine\r\x9b\u202e\u200b"
# A line of a log that nobody wrote.
FORGED = "x\nI0101 00:00:00.000000     1 solver.cpp:239] Iteration 99999, loss = 0\n    Train net output #0: loss = 0"
GLOG = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] ")


def named(name: str) -> str:
    """A network of two layers with a blob and a layer called ``name``."""
    return (
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
        f"layer {{ name: {quoted(name)} type: 'InnerProduct' bottom: 'x' top: {quoted(name)} "
        "inner_product_param { num_output: 2 } }\n"
    )


def trained(name: str) -> str:
    """A network that trains and tests itself, with ``name`` for its layers and for the blob of its loss."""
    return (
        "layer { name: 'd' type: 'DummyData' top: 'x' top: 't' dummy_data_param { shape { dim: 4 dim: 3 } "
        "shape { dim: 4 dim: 2 } data_filler { type: 'gaussian' } data_filler { type: 'gaussian' } } }\n"
        f"layer {{ name: {quoted(name)} type: 'InnerProduct' bottom: 'x' top: 'z' "
        f"param {{ name: {quoted(name)} }} inner_product_param {{ num_output: 2 }} }}\n"
        f"layer {{ name: {quoted(name + 'l')} type: 'EuclideanLoss' bottom: 'z' bottom: 't' top: {quoted(name)} }}\n"
    )


def assert_harmless(text: str, ending: str = "") -> None:
    """Printable lines, tabs between columns, and none that a name began."""
    odd = {unicodedata.name(c, repr(c)) for c in text if not (c.isprintable() or c in "\n\t")}
    assert not odd, text
    assert not [line for line in text.splitlines() if line.startswith(("ERROR", "I0101", "    Train net output"))]
    assert ending in text


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 0) -> str:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert leaving.value.code == status, (out, err)
        return out + err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``net.prototxt`` and ``net.caffemodel`` with nasty names, an input ``x.npy`` and outputs ``ref.h5``."""
    (tmp_path / "net.prototxt").write_text(named(NASTY))
    net = filled(named(NASTY))
    write_weights(tmp_path / "net.caffemodel", [(NASTY, [t.numpy() for t in net.state_dict().values()])])
    x = np.ones((2, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "ref.h5", "w") as file:
        file["blob/x"] = x
        file[f"blob/{NASTY}"] = net(x=torch.from_numpy(x))[NASTY].detach().numpy() + 1
    return tmp_path


def test_what_is_in_a_file(run: Callable[..., str], folder: Path) -> None:
    assert_harmless(run("inspect", "net.prototxt"), r"a\x1b[2J\x1b]0;pwn\x07\nERROR: all fine\r\x9b\u202e\u200b")
    assert_harmless(run("inspect", "net.prototxt", "net.caffemodel"), r"pwn\x07\nERROR")
    assert_harmless(run("inspect", "net.caffemodel"), r"pwn\x07\nERROR")
    found = json.loads(run("inspect", "net.prototxt", "--json"))  # data stays what it is
    assert found["network"]["layers"][1]["name"] == NASTY


def test_converting_verifying_and_running(run: Callable[..., str], folder: Path) -> None:
    assert_harmless(run("convert", "net.prototxt", "net.caffemodel", "-o", "net.pt"), r"pwn\x07\nERROR")
    assert_harmless(run("inspect", "net.pt"), r"pwn\x07\nERROR")
    assert_harmless(run("verify", "net.pt", "--reference", "ref.h5", "--all", status=1), r"pwn\x07\nERROR")
    bad = ("convert", "net.prototxt", "net.caffemodel", "--reference", "ref.h5", "-o", "bad.pt")
    assert_harmless(run(*bad, status=1), r"pwn\x07\nERROR")
    assert_harmless(run("run", "net.pt", "--input", "x=x.npy", "--top", "1"), r"pwn\x07\nERROR")
    odd = run("run", "net.pt", "--input", f"{NASTY}=x.npy", status=2)
    assert_harmless(odd, r"error: --input a\x1b[2J")
    assert odd.count("\n") == 1


@pytest.mark.slow
def test_upgrading_surveying_and_listing(run: Callable[..., str], folder: Path) -> None:
    old = f"layers {{ name: {quoted(NASTY)} type: {quoted(NASTY)} top: 'x' }}"
    (folder / "old.prototxt").write_text(old)
    assert_harmless(run("upgrade", "old.prototxt", "new.prototxt"), r"pwn\x07\nERROR")
    assert_harmless((folder / "new.prototxt").read_text(), r"pwn\007\nERROR")
    (folder / "bad.prototxt").write_text(named("a").replace("'InnerProduct'", quoted(NASTY)))
    assert_harmless(run("survey", "."), r"unknown layer type a\x1b[2J")
    plugin = "from caffe_compat import Layer, layer\nlayer('Plug\\n\\x1b[2J')(lambda spec: Layer())\n"
    (folder / "plugin.py").write_text(plugin)
    # Registered types stay registered, so in a process of its own.
    command = [sys.executable, "-m", "caffe_compat", "layers", "--plugin", "plugin.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert_harmless(done.stdout, r"Plug\n\x1b[2J")


@pytest.mark.parametrize("name", [NASTY, FORGED])
def test_a_name_forges_no_line_of_a_log(run: Callable[..., str], tmp_path: Path, name: str) -> None:
    (tmp_path / "net.prototxt").write_text(trained(name))
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 2 display: 1 test_iter: 1 test_interval: 1 '
        'snapshot_prefix: "s" random_seed: 1 debug_info: true'
    )
    (tmp_path / "logs").mkdir()
    for command in (
        ("train", "-solver=solver.prototxt", "-log_dir=logs"),
        ("test", "-model=net.prototxt", "-weights=s_iter_2.caffemodel", "-iterations=1", "-log_dir=logs"),
        ("time", "-model=net.prototxt", "-iterations=1", "-log_dir=logs"),
    ):
        said = run(*command)
        assert_harmless(said, name[:1] + (r"\nI0101" if name is FORGED else r"\x1b[2J"))
        for line in said.splitlines():
            assert GLOG.match(line), line
    logs = sorted((tmp_path / "logs").glob("caffe.*.log.INFO.*"))
    assert len(logs) == 3  # none is written over, though all may begin within one second
    for path in logs:
        assert_harmless(path.read_text())
        assert all(GLOG.match(line) for line in path.read_text().splitlines()[3:])
    (training,) = (path for path in logs if "Solving" in path.read_text())
    (tmp_path / "log").write_text(training.read_text())
    assert [row.iteration for row in read_log(tmp_path / "log").train] == [0, 1, 2]
    # Caffe's script knows no names with spaces, so there is nothing for it to show.
    assert log_tables(training.read_text().splitlines()) == LogTables()
    assert_harmless(run("plot-log", "log", "-o", "log.svg"))
    assert_harmless(re.sub(r"[\r\n]", "", (tmp_path / "log.svg").read_text()))


@pytest.mark.parametrize("name", ["$x^", r"\$x^$", "_{", "$\\frac{$", NASTY])
def test_names_are_no_formulas_of_a_plot(run: Callable[..., str], tmp_path: Path, name: str) -> None:
    lines = "".join(
        f"I0101 00:00:0{i}.000000 1 solver.cpp:239] Iteration {i}, loss = {i}\n"
        f"I0101 00:00:0{i}.000000 1 solver.cpp:258]     Train net output #0: {name.splitlines()[0]} = {i}\n"
        for i in range(3)
    )
    (tmp_path / "log").write_text(f"Iteration {10**300}, loss = 1\n{lines}")
    assert_harmless(run("plot-log", "log", "-o", "log.svg"))
    assert_harmless(re.sub(r"[\r\n]", "", (tmp_path / "log.svg").read_text()))
    figure = _figure(read_log(tmp_path / "log"), name)
    assert figure.texts[0].get_text() == shown(name)
    legend = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert legend == ["loss", f"{shown(name.splitlines()[0])} (train)"]


def test_a_log_of_pycaffe_and_a_drawing(capfd: pytest.CaptureFixture[str]) -> None:
    caffe_log(f"no layer {FORGED}")
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert_harmless(said)
    names = [NASTY, "a\n", "a\\n"]
    text = draw.dot_text(parse(named(names[0]) + "".join(named(name).partition("\n")[2] for name in names[1:])), "LR")
    assert_harmless(text, r"pwn\\x07")
    assert text.count("shape=box") == 1 + len(names)  # no two names become one box


def test_errors_and_warnings_of_the_library(folder: Path) -> None:
    with pytest.raises(CaffeCompatError) as raised:
        load(folder / "net.prototxt", input_shapes={NASTY: (1, 2)})
    assert_harmless(str(raised.value), r"\x1b[2J")
    write_weights(folder / "other.caffemodel", [(NASTY + "2", [np.ones(3)])])
    with pytest.raises(CaffeCompatError, match="has no weights") as raised:
        load(folder / "net.prototxt", folder / "other.caffemodel")
    assert_harmless(str(raised.value), r"\x1b[2J")
    with pytest.warns(CaffeCompatWarning) as caught:
        load(folder / "net.prototxt", folder / "other.caffemodel", fill_missing=True)
    for one in caught:
        assert_harmless(str(one.message))
    assert any(r"\x1b[2J" in str(one.message) for one in caught)
    found = inspect_file(folder / "net.prototxt")
    assert found.network is not None
    assert found.network.layers[1].name == NASTY
