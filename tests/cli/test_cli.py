"""The command line: exit status, one line per error, and nothing written unless everything went well."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat import cli
from caffe_compat.network.checkpoint import read_checkpoint
from caffe_compat.network.registry import _TYPES
from caffe_compat.testing.suite import read_suite
from tests.networks import input_layer, ip, layer, parse, write_weights

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
TINY = REFERENCE / "tiny_mask3d"
PLUGIN = Path(__file__).with_name("plugin_example.py")

NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4) + layer("r", "ReLU", "y", "z")
X = np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32)
WEIGHT, BIAS = np.random.RandomState(2).uniform(-1, 1, (4, 3)), np.random.RandomState(3).uniform(-1, 1, 4)
Y = (X @ WEIGHT.T + BIAS).astype(np.float32)


@dataclass
class Result:
    status: int | str | None
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        assert self.status == 2, (self.status, self.out, self.err)
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("caffe-compat: error: ")
        return lines[0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(leaving.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.prototxt, net.caffemodel, x.npy, ref.h5 (right) and bad.h5 (wrong in z)."""
    (tmp_path / "net.prototxt").write_text(NET)
    write_weights(tmp_path / "net.caffemodel", [("fc", [WEIGHT, BIAS])])
    np.save(tmp_path / "x.npy", X)
    for name, z in (("ref.h5", np.maximum(Y, 0)), ("bad.h5", Y)):
        with h5py.File(tmp_path / name, "w") as file:
            for blob, value in {"x": X, "y": Y, "z": z}.items():
                file[f"blob/{blob}"] = value.astype(np.float32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = ["bad.h5", "net.caffemodel", "net.prototxt", "ref.h5", "x.npy"]
CONVERT = ("convert", "net.prototxt", "net.caffemodel", "-o", "m.pt")


# convert


def test_convert(run: Callable[..., Result], model: Path) -> None:
    result = run(*CONVERT, "--reference", "ref.h5")
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert ["fc", "InnerProduct", "2x4", "16"] in rows
    assert ["r", "ReLU", "2x4"] in rows
    assert "equal to ref.h5 in 3 blobs" in result.out
    assert "wrote m.pt" in result.out
    assert sorted(os.listdir()) == sorted([*FILES, "m.pt"])
    content = read_checkpoint("m.pt")
    assert [s["name"] for s in content.sources] == ["net.prototxt", "net.caffemodel"]
    assert content.parity is not None
    assert content.parity.blobs == 3
    np.testing.assert_allclose(caffe_compat.load("m.pt").run({"x": X})["z"], np.maximum(Y, 0), rtol=1e-5, atol=1e-6)


def test_convert_that_departs_from_the_reference_writes_nothing(run: Callable[..., Result], model: Path) -> None:
    result = run(*CONVERT, "--reference", "bad.h5")
    assert result.status == 1
    assert "m.pt was not written: the net does not reproduce bad.h5" in result.err
    assert "FAIL" in result.out
    assert sorted(os.listdir()) == FILES


def test_convert_runs_once_and_says_that_nothing_was_checked(run: Callable[..., Result], model: Path) -> None:
    result = run(*CONVERT, "--run", "--quiet")
    assert result.status == 0
    assert "ran once on a seeded input: z [2, 4] is finite" in result.err
    assert "not checked against real Caffe" in result.out
    assert "InnerProduct" not in result.out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_convert_casts_after_verifying(dtype: str, run: Callable[..., Result], model: Path) -> None:
    assert run(*CONVERT, "--reference", "ref.h5", "--dtype", dtype).status == 0
    loaded = caffe_compat.load("m.pt")
    assert loaded.fc.weight.dtype == getattr(torch, dtype)
    assert torch.equal(loaded.fc.weight.float(), torch.from_numpy(WEIGHT).float().to(getattr(torch, dtype)).float())


@pytest.mark.parametrize("target", ["net.prototxt", "net.caffemodel", "./net.caffemodel", "ref.h5", "x.npy", "link"])
def test_convert_does_not_overwrite_what_it_reads(target: str, run: Callable[..., Result], model: Path) -> None:
    os.symlink("net.caffemodel", "link")
    before = {name: Path(name).read_bytes() for name in FILES}
    error = run(*CONVERT[:3], "--reference", "ref.h5", "--input", "x=x.npy", "--format", "pt", "-o", target).error
    assert f"-o {target} would overwrite" in error
    assert {name: Path(name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("target", ["net.prototxt", "net.caffemodel", "x.npy"])
def test_run_does_not_overwrite_what_it_reads(target: str, run: Callable[..., Result], model: Path) -> None:
    before = Path(target).read_bytes()
    error = run("run", "net.prototxt", "net.caffemodel", "--input", "x=x.npy", "-o", target).error
    assert f"-o {target} would overwrite" in error
    assert Path(target).read_bytes() == before


def test_run_says_that_there_were_no_weights(run: Callable[..., Result], model: Path) -> None:
    result = run("run", "net.prototxt", "--input", "x=x.npy")
    assert result.status == 0
    assert result.err == (
        "warning: net.prototxt came without weights: its layers have the values that their fillers draw\n"
    )
    assert run("run", "net.prototxt", "net.caffemodel", "--input", "x=x.npy").err == ""


def test_warnings_of_the_library_take_one_line(run: Callable[..., Result], model: Path) -> None:
    write_weights(Path("net.caffemodel"), [("fc", [WEIGHT, BIAS]), ("more", [BIAS])])
    result = run("run", "net.prototxt", "net.caffemodel", "--input", "x=x.npy")
    assert result.status == 0
    (line,) = result.err.splitlines()
    assert line.startswith("warning: ")
    assert "'more'" in line


@pytest.mark.parametrize("option", [["--optimize"], ["--preprocess", "order=bgr"]])
def test_what_a_pt2_has_no_place_for(option: list[str], run: Callable[..., Result], model: Path) -> None:
    error = run("convert", "net.prototxt", "net.caffemodel", "-o", "m.pt2", "--format", "pt2", *option).error
    assert f"{option[0]} has no place in a torch.export program" in error
    assert not Path("m.pt2").exists()


@pytest.mark.slow
def test_a_pt2_is_told_from_a_pt(run: Callable[..., Result], model: Path) -> None:
    assert run("convert", "net.prototxt", "net.caffemodel", "-o", "m.pt2", "--format", "pt2").status == 0
    assert "m.pt2: is a torch.export program (.pt2): torch.export.load runs it" in run("inspect", "m.pt2").error


def test_convert_replaces_an_older_result(run: Callable[..., Result], model: Path) -> None:
    Path("m.pt").write_text("old")
    assert run(*CONVERT).status == 0
    assert caffe_compat.load("m.pt").output_names == ("z",)


@pytest.mark.slow
def test_a_data_layer_becomes_an_input(run: Callable[..., Result], model: Path) -> None:
    data = layer("d", "Data", "", "x", 'data_param { source: "/nowhere" batch_size: 2 }')
    Path("net.prototxt").write_text(data + NET.partition("\n")[2])
    assert (
        "the shape of input x (layer 'd', Data) is not in the file; pass --input-shape x=N,C,H,W" in run(*CONVERT).error
    )
    result = run(*CONVERT, "--input-shape", "x=2,3")
    assert result.status == 0
    assert "data layer 'd' (Data) became the input x=2,3" in result.out
    guessed = "x is 2x3x1x1 (fc has 3 inputs)"
    assert f"; probably {guessed}: --guess-shapes" in run(*CONVERT).error
    result = run(*CONVERT, "--guess-shapes")
    assert (result.status, result.err) == (0, f"warning: guessed: {guessed}\n")
    assert f"guessed: {guessed}" in run("inspect", CONVERT[-1]).out
    assert f"guessed: {guessed}" in run("inspect", "net.prototxt", "net.caffemodel", "--guess-shapes").out
    assert re.search(r"^built_on_guesses +1$", run("survey", ".", "--guess-shapes").out, re.MULTILINE)


def test_phase_and_stages(run: Callable[..., Result], model: Path) -> None:
    Path("net.prototxt").write_text(
        NET
        + layer("t", "Power", "z", "t", "include { phase: TRAIN }")
        + layer("s", "Power", "z", "s", 'include { stage: "s" }')
    )
    assert run(*CONVERT).status == 0
    assert caffe_compat.load("m.pt").output_names == ("z",)
    assert run(*CONVERT, "--phase", "train", "--stage", "s").status == 0
    assert caffe_compat.load("m.pt").output_names == ("s", "t")


def test_a_caffemodel_with_its_own_network(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("convert", REFERENCE / "formats" / "v1net.caffemodel", "-o", tmp_path / "m.pt")
    assert result.status == 0
    assert len(read_checkpoint(tmp_path / "m.pt").sources) == 1


def test_the_model_that_ships(run: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    arguments = ("convert", TINY / "deploy.prototxt", TINY / "tiny_mask3d.caffemodel", "-o", out)
    result = run(*arguments, "--reference", TINY / "tiny_mask3d.h5")
    assert result.status == 0
    assert run("verify", out, "--reference", TINY / "tiny_mask3d.h5").status == 0


# verify


def test_verify_a_model(run: Callable[..., Result], model: Path) -> None:
    good = run("verify", "net.prototxt", "net.caffemodel", "--reference", "ref.h5")
    assert good.status == 0
    assert "1 of 1 passed, 3 blobs compared" in good.out
    bad = run("verify", "net.prototxt", "net.caffemodel", "--reference", "bad.h5")
    assert bad.status == 1
    assert "the first blob in execution order that departs is z" in bad.out
    document = json.loads(run("verify", "net.prototxt", "net.caffemodel", "--reference", "bad.h5", "--json").out)
    assert (document["cases"], document["passed"], document["unsupported"]) == (1, 0, [])
    (failed,) = document["failed"]
    assert failed["blob"] == "z"
    np.testing.assert_allclose(failed["max_abs"], -Y.min(), rtol=1e-5)


@pytest.mark.slow
def test_verify_in_other_forms(run: Callable[..., Result], model: Path) -> None:
    files = ("net.prototxt", "net.caffemodel", "--reference", "ref.h5")
    for form in (
        ["--optimize"],
        ["--format", "pt"],
        ["--format", "pt2"],
        ["--dtype", "bfloat16", "--tolerance", "0.05"],
    ):
        assert run("verify", *files, *form).status == 0
    assert run("verify", *files[:2], "--reference", "bad.h5", "--optimize").status == 1
    summary = run("verify", *files[:2], "--reference", "bad.h5", "--markdown")
    assert summary.status == 1
    assert summary.out.startswith("### net.prototxt: NOT equal\n")
    assert "| case | blob |" in summary.out


def test_verify_writes_a_suite(run: Callable[..., Result], model: Path) -> None:
    result = run("verify", "net.prototxt", "net.caffemodel", "--reference", "ref.h5", "--init", "parity.toml")
    assert result.status == 0
    assert "pytest --parity parity.toml" in result.err
    (test,) = read_suite("parity.toml")
    assert (test.id, test.reference) == ("net[net-cpu-float32]", "ref.h5")
    assert run("verify", "net.prototxt", "net.caffemodel", "--reference", "bad.h5", "--init", "b.toml").status == 1
    assert not Path("b.toml").exists()


@pytest.mark.slow
def test_verify_two_models(run: Callable[..., Result], model: Path) -> None:
    assert run("convert", "net.prototxt", "net.caffemodel", "-o", "net.pt").status == 0
    assert run("convert", "net.prototxt", "net.caffemodel", "-o", "net.pt2", "--format", "pt2").status == 0
    write_weights(Path("other.caffemodel"), [("fc", [1.5 * WEIGHT, BIAS])])
    same = run("verify", "net.pt", "net.prototxt", "net.caffemodel")
    assert same.status == 0
    assert "1 of 1 passed, 2 blobs compared" in same.out
    assert run("verify", "net.pt2", "net.pt").status == 0
    assert "of two, each is taken as it is" in run("verify", "net.pt", "net.pt2", "--format", "pt2").error
    ignored = run("verify", "net.pt2", "--reference", "ref.h5", "--dtype", "float16", "--tolerance", "0.1")
    assert "net.pt2 was exported already; --dtype would be ignored" in ignored.error
    for name in ("net.prototxt", "net.caffemodel"):  # a file is what its first bytes say, whatever its name
        Path(name).rename(f"{name}.orig")
    assert run("verify", "net.prototxt.orig", "net.caffemodel.orig", "--reference", "ref.h5").status == 0
    for name in ("net.prototxt", "net.caffemodel"):
        Path(f"{name}.orig").rename(name)
    other = run("verify", "net.pt", "net.prototxt", "other.caffemodel")
    assert other.status == 1
    assert "the first blob in execution order that departs is y" in other.out


def test_verify_cases(run: Callable[..., Result], tmp_path: Path) -> None:
    cases = tmp_path / "cases.h5"
    with h5py.File(cases, "w") as file:
        for name, text in (("good", NET), ("worse", NET), ("not", NET.replace("ReLU", "Nope"))):
            case = file.create_group(name)
            case.attrs["prototxt"] = text
            case["bottom/x"], case["param/fc/0"], case["param/fc/1"] = X, WEIGHT, BIAS
            case["top/z"] = np.maximum(Y, 0) + (np.nan if name == "worse" else 0)
    result = run("verify", "--cases", cases, "--json")
    assert result.status == 1
    document = json.loads(result.out)
    assert (document["cases"], document["passed"]) == (3, 1)
    (failed,) = document["failed"]
    assert {key: failed[key] for key in ("case", "blob", "max_abs", "max_rel")} == {
        "case": "worse", "blob": "z", "max_abs": None, "max_rel": None,
    }  # fmt: skip
    (unsupported,) = document["unsupported"]
    assert unsupported["case"] == "not"
    assert "'Nope'" in unsupported["reason"]
    table = run("verify", "--cases", cases)
    assert table.status == 1
    assert "1 of 3 passed" in table.out
    assert run("verify", "--cases", cases, "--case", "good").status == 0
    assert "no case named bad" in run("verify", "--cases", cases, "--case", "bad").error


def test_verify_reads_a_case_as_the_fork_it_names(run: Callable[..., Result], tmp_path: Path) -> None:
    cases, shape = tmp_path / "cases.h5", (2, 3, 4, 1)
    inputs = "".join(
        f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ dim: {list(shape)} }} }} }}'
        for n in "ab"
    )
    with h5py.File(cases, "w") as file:
        case = file.create_group("c")
        case.attrs["prototxt"] = inputs + 'layer { name: "l" type: "SmoothL1Loss" bottom: ["a", "b"] top: "l" }'
        case.attrs["dialect"] = "daijifeng001/caffe-rfcn"  # divides by examples and positions, SSD by examples
        case["bottom/a"], case["bottom/b"] = np.full(shape, 2.5, np.float32), np.zeros(shape, np.float32)
        case["top/l"] = np.float32(24 * 2 / 8)
    assert run("verify", "--cases", cases).status == 0
    assert run("verify", "--cases", cases, "--dialect", "daijifeng001/caffe-rfcn").status == 0
    assert run("verify", "--cases", cases, "--dialect", "weiliu89/caffe@ssd").status == 1
    assert run("verify", "--cases", cases, "--dialect", "auto").status == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "pass either --cases FILE or MODEL --reference FILE"),
        (["verify", "--reference", "ref.h5"], "MODEL is a .pt, or a prototxt and its weights"),
        (["verify", "net.prototxt", "--cases", "ref.h5"], "net.prototxt would be ignored"),
        (["verify", "--cases", "ref.h5", "--dialect", "nobody/nothing"], "no dialect 'nobody/nothing'"),
        (["verify", "--cases", "ref.h5", "--phase", "test"], "--phase would be ignored"),
        (["verify", "net.prototxt", "--reference", "ref.h5", "--case", "x"], "--case chooses from --cases FILE"),
        (["verify", "net.prototxt", "--reference", "gone.h5"], "gone.h5: cannot be opened: No such file"),
        (["verify", "net.prototxt", "--reference", "net.caffemodel"], "net.caffemodel: is no HDF5 file"),
        (["verify", "net.prototxt", "--reference", "ref.h5:none"], "ref.h5: has no group 'none'"),
        (["verify", "net.prototxt", "--reference", "ref.h5", "--input", "x"], "--input 'x': NAME=VALUE was expected"),
        (["verify", "net.prototxt", "--reference", "ref.h5", "--input", "x=gone.npy"], "gone.npy: cannot be opened"),
        (
            ["verify", "net.prototxt", "--reference", "ref.h5", "--input", "x=net.prototxt"],
            "net.prototxt: is no .npy array",
        ),
        ([*CONVERT[:2], "-o", "m.pt"], "net.prototxt is a prototxt; pass its weights"),
        (["convert", "gone", "net.caffemodel", "-o", "m.pt"], "gone: cannot be opened"),
        (["convert", "net.prototxt", "gone", "-o", "m.pt"], "gone: cannot be opened"),
        (["convert", ".", "-o", "m.pt"], ".: a folder, not a file"),
        (["convert", "x.npy", "-o", "m.pt"], "x.npy"),
        (["convert", "net.prototxt", "net.prototxt", "-o", "m.pt"], "net.prototxt"),
        ([*CONVERT[:3], "-o", "no/m.pt"], "no/m.pt: cannot be written: there is no folder"),
        ([*CONVERT[:3], "-o", "."], "cannot be written: it is a folder"),
        ([*CONVERT, "--dialect", "nobody/nothing"], "nobody/nothing"),
        ([*CONVERT, "--input-shape", "x=2,-3"], "--input-shape x=2,-3: whole numbers"),
        ([*CONVERT, "--input-shape", "x=²"], "--input-shape x=²: whole numbers"),
        ([*CONVERT, "--input-shape", f"x={'9' * 5000}"], "whole numbers"),
        ([*CONVERT, "--input-shape", "w=2,3"], "names 'w', which is no input of the net (x)"),
        ([*CONVERT, "--input-shape", "x=2,5"], "blob 0 (weight): the file has shape [4, 3], the net needs [4, 5]"),
        ([*CONVERT, "--device", "abacus"], "--device abacus: "),
        ([*CONVERT, "--device", "meta"], "--device meta: "),
        ([*CONVERT, "--preprocess", "colour=pink"], "colour"),
        ([*CONVERT, "--plugin", "gone.py"], "--plugin gone.py: a Python file was expected"),
        ([*CONVERT, "--plugin", "net.prototxt"], "--plugin net.prototxt"),
        ([*CONVERT, "--reference", "ref.h5:none"], "ref.h5: has no group 'none'"),
        (["run", "net.prototxt", "--input", "w=x.npy"], "--input w: the net's inputs are x"),
        (["run", "net.prototxt", "--input", "x=net.caffemodel"], "net.caffemodel"),
        (
            ["run", "net.prototxt", "--input", "x=x.npy", "--input", "x=y.npy"],
            "--input x is given twice: x.npy and y.npy",
        ),
        (["run", "net.prototxt", "--input", "x=x.npy", "--top", "-1"], "Invalid value for '--top'"),
        (["run", "net.prototxt", "--input", "x=x.npy", "--blobs", "z,w"], "no blob 'w'; the net has x, y, z"),
        (["inspect", "gone"], "gone: cannot be opened"),
        (["inspect", "x.npy"], "x.npy"),
        (["upgrade", "gone", "new"], "gone: cannot be opened"),
        (["dialects", "nobody/nothing"], "nobody/nothing"),
        (["survey", "gone"], "gone"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, run: Callable[..., Result], model: Path) -> None:
    assert message in run(*arguments).error
    assert sorted(os.listdir()) == FILES


def test_names_cannot_break_the_line(run: Callable[..., Result], model: Path) -> None:
    Path("net.prototxt").write_text(NET + 'layer { name: "a\\nb" type: "N\\033[31m\\n" bottom: "z\\n\\r" top: "w" }')
    error = run(*CONVERT).error
    assert error.isprintable()


# The other commands


def test_run(run: Callable[..., Result], model: Path) -> None:
    result = run("run", "net.prototxt", "net.caffemodel", "--input", "x=x.npy", "-o", "out.npz", "--blobs", "all")
    assert result.status == 0
    assert [line.split()[0] for line in result.out.splitlines()[1:4]] == ["x", "y", "z"]
    with np.load("out.npz") as stored:
        assert list(stored) == ["x", "y", "z"]
        np.testing.assert_allclose(stored["y"], Y, rtol=1e-5, atol=1e-6)
    assert run(*CONVERT).status == 0
    assert run("run", "m.pt", "--input", "x=x.npy", "-o", "out.npz", "--top", "2").status == 0
    with np.load("out.npz") as stored:
        assert list(stored) == ["z"]


def test_run_with_blobs_named_like_numpys_own_arguments(run: Callable[..., Result], model: Path) -> None:
    names = ["file", "allow_pickle", "a/b", "args"]
    Path("net.prototxt").write_text(NET + "".join(layer(n, "Power", "z", n) for n in names))
    assert run("run", "net.prototxt", "net.caffemodel", "--input", "x=x.npy", "-o", "out.npz").status == 0
    with np.load("out.npz") as stored:
        assert sorted(stored) == sorted(names)
        np.testing.assert_allclose(stored["file"], np.maximum(Y, 0), rtol=1e-5, atol=1e-6)


def test_inspect(run: Callable[..., Result], model: Path) -> None:
    result = run("inspect", "net.prototxt", "net.caffemodel")
    assert (result.status, result.err) == (0, "")
    assert "16 parameters" in result.out
    document = json.loads(run("inspect", "--json", "net.prototxt").out)
    assert isinstance(document, dict)
    assert len(json.loads(run("inspect", "--json", "net.prototxt", "net.prototxt").out)) == 2
    run(*CONVERT)
    assert "fc" in run("inspect", "m.pt").out


def test_upgrade(run: Callable[..., Result], model: Path) -> None:
    old = REFERENCE / "formats" / "v0net.prototxt"
    assert run("upgrade", old, "new.prototxt").status == 0
    assert len(parse(Path("new.prototxt").read_text()).layer) > 3
    assert "layers" not in Path("new.prototxt").read_text()


def test_lists(run: Callable[..., Result]) -> None:
    assert {"Convolution", "SkelVectorLoss"} <= set(run("layers").out.splitlines())
    assert "chanyn/3Dpose_ssl" in run("dialects").out.splitlines()
    assert "SkelVectorLoss" in run("dialects", "chanyn/3Dpose_ssl").out


@pytest.mark.slow
def test_survey(run: Callable[..., Result], model: Path) -> None:
    Path("broken.prototxt").write_text("layer {")
    document = json.loads(run("survey", ".", "--json").out)
    assert {key: document[key] for key in ("files", "read", "graph", "known", "built")} == {
        "files": 2, "read": 1, "graph": 1, "known": 1, "built": 1,
    }  # fmt: skip
    assert sum(document["reasons"].values()) == 1


def test_capture_script(run: Callable[..., Result], tmp_path: Path) -> None:
    script = run("capture-script").out
    compile(script, "capture", "exec")
    assert run("capture-script", "-o", tmp_path / "c.py").status == 0
    assert (tmp_path / "c.py").read_text() == script


# How a command is called


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuch",), "No such command 'nosuch' (caffe-compat --help)"),
        (("convert",), "Missing argument 'MODEL' (caffe-compat convert --help)"),
        (("inspect", "--jsn", "x"), "No such option '--jsn'"),
        ((*CONVERT, "--phase", "both"), "'both' is not one of 'test', 'train'"),
        ((*CONVERT, "--root", "nowhere"), "Directory 'nowhere' does not exist"),
    ],
)
def test_misuse_takes_one_line(
    arguments: tuple[str, ...], message: str, run: Callable[..., Result], model: Path
) -> None:
    assert message in run(*arguments).error


def test_without_a_command_it_shows_its_help(run: Callable[..., Result]) -> None:
    result = run()
    assert result.status == 2
    assert "capture-script" in result.err


# Plugins


def test_a_plugin_brings_layers(run: Callable[..., Result], model: Path) -> None:
    Path("net.prototxt").write_text(NET + layer("g", "ChannelGate", "z", "g") + layer("s", "Softsign", "g", "s"))
    write_weights(Path("net.caffemodel"), [("fc", [WEIGHT, BIAS]), ("g", [np.array([1.0, 2, -3, 4])])])
    assert "no layer type 'ChannelGate'" in run(*CONVERT).error
    try:
        assert run(*CONVERT, "--plugin", PLUGIN).status == 0
        gated = np.maximum(Y, 0) / (1 + np.exp(-np.array([1.0, 2, -3, 4])))
        found = caffe_compat.load("m.pt").run({"x": X})["s"]
        np.testing.assert_allclose(found, gated / (1 + np.abs(gated)), rtol=1e-5, atol=1e-6)
        assert "registered twice" in run(*CONVERT, "--plugin", PLUGIN).error
    finally:
        _TYPES.pop(("ChannelGate", ""))
        _TYPES.pop(("Softsign", ""))


def test_a_plugin_that_fails(run: Callable[..., Result], model: Path) -> None:
    Path("p.py").write_text("import no_such_module")
    assert (
        "--plugin p.py: ModuleNotFoundError: No module named 'no_such_module'"
        in run(*CONVERT, "--plugin", "p.py").error
    )


# As a process


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "caffe_compat", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


@pytest.mark.slow
def test_a_terminal_that_knows_only_ascii(model: Path) -> None:
    Path("net.prototxt").write_text(NET + layer("层", "ReLU", "z", "é"), encoding="utf-8")
    result = process("inspect", "net.prototxt", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    Path("net.prototxt").write_text(NET + layer("层", "Nope", "z", "é"), encoding="utf-8")
    result = process(*CONVERT, PYTHONIOENCODING="ascii")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("layers",), ("inspect", "net.prototxt")])
def test_a_reader_that_leaves(arguments: tuple[str, ...], model: Path) -> None:
    command = [sys.executable, "-m", "caffe_compat", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout(model: Path) -> None:
    command = [sys.executable, "-m", "caffe_compat", "inspect", "net.prototxt"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["caffe-compat: error: the output cannot be written: No space left on device"]


def test_upgrade_keeps_its_source(tmp_path: Path) -> None:
    source = tmp_path / "net.prototxt"
    text = 'name: "n" input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4'
    source.write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "caffe_compat", "upgrade", str(source), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "would overwrite its own source" in result.stderr
    assert source.read_text() == text
