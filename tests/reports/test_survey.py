"""The survey of a folder: what counts as what, and that no file can stop it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from caffe_compat.errors import FileError, UsageError
from caffe_compat.reports import survey as module
from caffe_compat.reports.survey import BUILT, GRAPH, KNOWN, RAN, READ, UNREAD, FileResult, survey, survey_file

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 9 } } }\n'
CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
    "convolution_param { num_output: 4 kernel_size: 3 } }\n"
)
GOOD = INPUT + CONV
SLOW_PLUGIN = """
import os, time
from caffe_compat import layer

@layer("Hangs")
def hangs(spec):
    time.sleep(60)

@layer("Dies")
def dies(spec):
    print("noise on stdout")
    os._exit(3)

@layer("Fails")
def fails(spec):
    raise KeyError("x")

@layer("Eats")
def eats(spec):
    return [bytes(1 << 30) for _ in range(64)]
"""


def layer(type_: str, bottom: str = "data", more: str = "") -> str:
    return f'layer {{ name: "{type_}" type: "{type_}" bottom: "{bottom}" top: "{type_}" {more} }}\n'


def check(tmp_path: Path, text: str, *, run: bool = False) -> FileResult:
    (tmp_path / "net.prototxt").write_text(text)
    return survey_file(tmp_path, "net.prototxt", run=run)


def test_stages_of_the_network_itself_count(tmp_path: Path) -> None:
    staged = CONV.replace("convolution_param", 'include { stage: "deploy" } convolution_param')
    odd = layer("NoSuchType", "conv", 'include { stage: "deploy" }')
    found = check(tmp_path, 'state { stage: "deploy" }\n' + INPUT + staged + odd)
    assert (found.reached, found.reasons) == (GRAPH, ("unknown layer type NoSuchType",))


def test_how_far_a_network_gets(tmp_path: Path) -> None:
    good = check(tmp_path, GOOD)
    assert (good.reached, good.state, good.reasons, good.detail) == (BUILT, "TEST", (), "")
    broken = check(tmp_path, "layer {{ }")
    assert (broken.network, broken.reached) == (True, UNREAD)
    assert broken.reasons == ("text: expected a field name, found '...'",)
    assert broken.detail.startswith("line 1, column 8")
    dangling = check(tmp_path, INPUT + layer("ReLU", "nowhere"))
    assert (dangling.reached, dangling.reasons) == (
        READ,
        (
            "graph: bottom '...' is produced by no layer above it; if it is an input of the network, have its shape "
            "guessed (--guess-shapes) or give it: --input",
        ),
    )
    unknown = check(tmp_path, INPUT + layer("Odd") + layer("Strange", "Odd") + layer("ReLU", "Strange"))
    assert (unknown.reached, unknown.reasons) == (GRAPH, ("unknown layer type Odd", "unknown layer type Strange"))
    shapeless = check(tmp_path, 'layer { name: "data" type: "Data" top: "data" data_param { batch_size: 2 } }' + CONV)
    assert (shapeless.reached, shapeless.reasons) == (KNOWN, ("the shape of an input is not in the file",))
    guessed = survey_file(tmp_path, "net.prototxt", guess_shapes=True)
    assert (guessed.reached, guessed.reasons) == (BUILT, ())
    assert guessed.guessed == ("data is 2x3x224x224 (nothing tells its size; this is a usual one that fits)",)
    misfit = check(tmp_path, GOOD.replace("kernel_size: 3", "kernel_size: 30"))
    assert misfit.reached == KNOWN
    assert misfit.reasons[0].startswith("layer Convolution: ")


def test_equal_errors_have_one_reason(tmp_path: Path) -> None:
    reasons = {
        check(tmp_path, GOOD.replace("kernel_size: 3", f"kernel_size: {k}").replace('"conv"', f'"c{k}"')).reasons
        for k in (30, 31)
    }
    assert len(reasons) == 1


def test_the_best_of_phases_and_stages_counts(tmp_path: Path) -> None:
    rule = INPUT.replace("input_param", "include { phase: TRAIN } input_param")
    train = check(tmp_path, rule + CONV)
    assert (train.reached, train.state) == (BUILT, "TRAIN")
    rule = INPUT.replace("input_param", 'include { stage: "deploy" } input_param')
    stage = check(tmp_path, rule + CONV)
    assert (stage.reached, stage.state) == (BUILT, "TEST deploy")
    unread = check(tmp_path, INPUT + layer("Odd", more="include { phase: TRAIN }") + layer("ReLU"))
    assert (unread.reached, unread.state) == (BUILT, "TEST")


def test_old_generations_count(tmp_path: Path) -> None:
    old = """input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 9
    layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
             convolution_param { num_output: 4 kernel_size: 3 } }
    """
    assert check(tmp_path, old).reached == BUILT
    mixed = check(tmp_path, old + layer("ReLU", "conv"))
    assert mixed.reached == READ
    assert mixed.reasons[0].startswith("network: ")


@pytest.mark.parametrize(
    "text",
    [
        'net: "net.prototxt" base_lr: 0.1',
        "item { name: 'cat' id: 1 }",
        "",
        "just words",
        # The configuration of an inference server, which has inputs too.
        'name: "m" input [ { name: "x" dims: [3] } ]',
    ],
)
def test_what_is_no_network(tmp_path: Path, text: str) -> None:
    result = check(tmp_path, text)
    assert (result.network, result.reasons) == (False, ())


def test_solver_with_a_network_inside(tmp_path: Path) -> None:
    solver = check(tmp_path, f"base_lr: 0.1 test_net_param {{ {GOOD} }}")
    assert (solver.network, solver.reached) == (True, BUILT)


def test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = 'layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 2 dim: 6 dim: 7 } } }\n'
    text = GOOD + layer("BatchNorm", "conv") + labels + layer("SoftmaxWithLoss", "BatchNorm", 'bottom: "label"')
    assert check(tmp_path, text, run=True).reached == RAN
    monkeypatch.setattr(module, "MAX_RUN_MACS", 10)
    large = check(tmp_path, text, run=True)
    # 2 images of 6 x 7 positions
    assert (large.reached, large.reasons, large.detail) == (
        BUILT,
        ("not run: too large",),
        f"{2 * 6 * 7 * 4 * 3 * 9:,} multiply-accumulates",
    )


@pytest.mark.slow
def test_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "good.prototxt").write_text(GOOD)
    (tmp_path / "a" / "also good.pt").write_text("# text, in spite of its name\n" + GOOD)
    (tmp_path / "a" / "torch.pt").write_bytes(b"PK\x03\x04" + bytes(30))
    (tmp_path / "a" / "b" / "odd.prototxt").write_text(INPUT + layer("Odd"))
    (tmp_path / "a" / "b" / "odd2.prototxt").write_text(INPUT + layer("Odd") + layer("Strange"))
    (tmp_path / "broken.prototxt").write_text("layer {")
    (tmp_path / "solver.prototxt").write_text('net: "x"')
    (tmp_path / "notes.txt").write_text("layer {")
    (tmp_path / "folder.prototxt").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    result = survey(tmp_path, run=True)
    plain: dict[str, Any] = result.to_json()
    json.dumps(plain)
    reasons = plain.pop("reasons")
    assert plain == {"files": 6, "not_networks": 1, "read": 4, "graph": 4, "known": 2, "built": 2, "ran": 2}
    assert next(iter(reasons)) == "unknown layer type Odd"
    assert reasons["unknown layer type Odd"] == 2
    assert reasons["unknown layer type Strange"] == 1
    assert len(reasons) == 3
    assert result.examples["unknown layer type Strange"] == ["a/b/odd2.prototxt"]
    assert [r.path for r in result.results] == sorted(r.path for r in result.results)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    assert survey(tmp_path).to_json() == {
        "files": 0,
        "not_networks": 0,
        "read": 0,
        "graph": 0,
        "known": 0,
        "built": 0,
        "reasons": {},
    }
    with pytest.raises(FileError, match="no such folder"):
        survey(tmp_path / "missing")


@pytest.mark.slow
def test_files_that_hang_or_kill_the_worker(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(SLOW_PLUGIN)
    bad = ["Hangs", "Dies", "Fails"] + (["Eats"] if sys.platform == "linux" else [])
    for i, name in enumerate(bad):
        (tmp_path / f"{i}.prototxt").write_text(INPUT + layer(name))
        (tmp_path / f"{i}a.prototxt").write_text(GOOD)
    result = survey(tmp_path, workers=1, time_limit=3, plugins=[str(tmp_path / "plugin.py")])
    found = {r.path: (r.reached, r.reasons) for r in result.results}
    for i in range(len(bad)):
        assert found[f"{i}a.prototxt"] == (BUILT, ())
    assert found["0.prototxt"] == (UNREAD, ("internal: time limit",))
    assert found["1.prototxt"] == (UNREAD, ("internal: crashed",))
    assert found["2.prototxt"] == (UNREAD, ("internal: KeyError",))
    if sys.platform == "linux":
        assert found["3.prototxt"] == (UNREAD, ("internal: out of memory",))


@pytest.mark.slow
def test_plugin_that_fails(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(GOOD)
    (tmp_path / "plugin.py").write_text("raise ValueError('no good')")
    with pytest.raises(UsageError, match="ValueError: no good"):
        survey(tmp_path, plugins=[str(tmp_path / "plugin.py")])
