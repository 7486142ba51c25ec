"""``caffe-compat train`` in this process."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, TextIO

import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_compat.cli.caffe_commands import _device, reordered
from caffe_compat.errors import UsageError
from caffe_compat.network.registry import Layer, LayerSpec, layer
from caffe_compat.training import parallel
from caffe_compat.training.parallel import Rank
from caffe_compat.training.session import open_solver
from caffe_compat.training.session import train as train_with
from caffe_compat.training.solver import latest_snapshot, read_snapshot, read_solver
from tests.training.tiny_training import NET, assert_same, blobs, caffe_compat, train, write_training


class Interrupt(Layer):
    """Sends this process the signals that are planned for a pass of training."""

    plan: ClassVar[dict[int, int]] = {}

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and self.training:
            for number in [Interrupt.plan.pop(self.randomness.iteration, 0)]:
                if number:
                    os.kill(os.getpid(), number)
        return x * 1


@layer("InterruptForTests", bottoms=1, tops=1)
def interrupt(spec: LayerSpec) -> Layer:
    return Interrupt()


INTERRUPTED = NET.replace('bottom: "p" bottom: "y"', 'bottom: "q" bottom: "y"') + (
    'layer { name: "interrupt" type: "InterruptForTests" bottom: "p" top: "q" }'
)
# Layers run in the order of the file.
INTERRUPTED = re.sub(r'(layer \{ name: "loss".*?\}\n)(.*)', r"\2\n\1", INTERRUPTED, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Interrupt, "plan", {})


@pytest.mark.parametrize(
    "settings",
    [
        'type: "Adam" momentum2: 0.99 random_seed: 4 snapshot: 4',
        "snapshot_format: HDF5 random_seed: 4 snapshot: 4",
        "iter_size: 2 snapshot: 4 test_iter: 2 test_interval: 3",
    ],
)
def test_training_resumed_is_training_never_stopped(settings: str, tmp_path: Path) -> None:
    write_training(tmp_path, settings)
    assert train() == 0
    end = ".caffemodel.h5" if "HDF5" in settings else ".caffemodel"
    for path in tmp_path.glob("snap_iter_8*"):
        path.rename(path.with_name(path.name.replace("snap", "straight")))
    state = next(tmp_path.glob("snap_iter_4.solverstate*"))
    assert train("-snapshot", str(state)) == 0
    assert_same(f"snap_iter_8{end}", f"straight_iter_8{end}")
    if "random_seed" not in settings:  # then the seed, and with it the order of the rows, comes from the snapshot
        assert train() == 0
        assert not np.array_equal(blobs("snap_iter_8.caffemodel")[0], blobs("straight_iter_8.caffemodel")[0])


def test_the_log_is_in_caffes_format(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 snapshot: 4 test_iter: 2 test_interval: 4")
    assert train() == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    messages = []
    for line in lines:
        match = re.fullmatch(r"([IW])(\d{4}) (\d\d:\d\d:\d\d\.\d{6}) +(\d+) ([a-z_]+\.cpp:\d+)\] (.*)", line)
        assert match, line
        messages.append((match[5], match[6]))
    number = r"[-+.\de]+"
    order = [
        ("caffe.cpp:239", "Starting Optimization"),
        ("solver.cpp:289", "Solving tiny"),
        ("solver.cpp:290", "Learning Rate Policy: step"),
        ("solver.cpp:347", r"Iteration 0, Testing net \(#0\)"),
        ("solver.cpp:414", rf"    Test net output #0: loss = {number} \(\* 1 = {number} loss\)"),
        ("solver.cpp:239", rf"Iteration 0 \({number} iter/s, {number}s/2 iters\), loss = {number}"),
        ("solver.cpp:258", rf"    Train net output #0: loss = {number} \(\* 1 = {number} loss\)"),
        ("sgd_solver.cpp:112", "Iteration 0, lr = 0.001"),
        ("solver.cpp:239", rf"Iteration 2 \({number} iter/s, {number}s/2 iters\), loss = {number}"),
        ("solver.cpp:464", "Snapshotting to binary proto file snap_iter_4.caffemodel"),
        ("sgd_solver.cpp:284", "Snapshotting solver state to binary proto file snap_iter_4.solverstate"),
        ("solver.cpp:347", r"Iteration 4, Testing net \(#0\)"),
        ("sgd_solver.cpp:112", "Iteration 4, lr = 0.0005"),
        ("solver.cpp:464", "Snapshotting to binary proto file snap_iter_8.caffemodel"),
        ("solver.cpp:327", rf"Iteration 8, loss = {number}"),
        ("solver.cpp:332", "Optimization Done."),
        ("caffe.cpp:250", "Optimization Done."),
    ]
    left = iter(messages)
    for place, pattern in order:
        assert any(at == place and re.fullmatch(pattern, text) for at, text in left), (place, pattern)


def test_the_log_begins_as_caffes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What scripts read of a run before its first iteration: settings, shapes, memory, where the weights come from."""
    branched = NET + 'layer { name: "tell" type: "Silence" bottom: "p" }\n'
    write_training(tmp_path, "random_seed: 1 snapshot: 4 test_iter: 2 test_interval: 4", branched)
    assert train() == 0
    capfd.readouterr()
    assert train("-weights", "snap_iter_4.caffemodel") == 0
    found = re.findall(r"^I\d{4} \S+ +\d+ (\S+:\d+)\] (.*)$", capfd.readouterr().err, re.MULTILINE)
    split = "p_second_0_split"
    order = [
        ("caffe.cpp:197", "Use CPU."),
        ("solver.cpp:45", "Initializing solver from parameters: "),
        ("solver.cpp:45", "base_lr: 0.001"),
        ("solver.cpp:102", "Creating training net from net file: net.prototxt"),
        ("net.cpp:86", "Creating Layer data"),
        ("net.cpp:382", "data -> x"),
        ("net.cpp:124", "Setting up data"),
        ("net.cpp:131", "Top shape: 4 3 5 (60)"),
        ("net.cpp:131", "Top shape: 4 7 (28)"),
        ("net.cpp:139", "Memory required for data: 352"),
        ("net.cpp:408", "norm <- h"),
        ("net.cpp:369", "norm -> h (in-place)"),
        ("net.cpp:139", "Memory required for data: 640"),
        ("net.cpp:408", f"{split} <- p"),
        ("net.cpp:382", f"{split} -> {split}_1"),
        ("net.cpp:131", "Top shape: 4 7 (28)"),
        ("net.cpp:139", "Memory required for data: 1264"),
        ("net.cpp:408", f"loss <- {split}_0"),
        ("net.cpp:131", "Top shape: (1)"),
        ("net.cpp:134", "    with loss weight 1"),
        ("net.cpp:139", "Memory required for data: 1268"),
        ("net.cpp:244", "This network produces output loss"),
        ("net.cpp:257", "Network initialization done."),
        ("solver.cpp:72", "Finetuning from snap_iter_4.caffemodel"),
        ("solver.cpp:190", "Creating test net (#0) specified by net file: net.prototxt"),
        ("net.cpp:131", "Top shape: 3 3 5 (45)"),
        ("solver.cpp:72", "Finetuning from snap_iter_4.caffemodel"),
        ("solver.cpp:57", "Solver scaffolding done."),
        ("caffe.cpp:239", "Starting Optimization"),
    ]
    left = iter(found)
    for line in order:
        assert line in left, line


def test_networks_inside_the_solver_file_are_said_to_be_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path, f"random_seed: 1 max_iter: 1 net: train_net_param {{ {NET} }}")
    text = (tmp_path / "solver.prototxt").read_text().replace("net: train_net_param", "train_net_param")
    (tmp_path / "solver.prototxt").write_text(text)
    assert train() == 0
    assert "solver.cpp:88] Creating training net specified in train_net_param.\n" in capfd.readouterr().err


@pytest.mark.parametrize("end", ["", ".h5"])
def test_weights_are_no_snapshot_to_go_on_from(end: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    form = "snapshot_format: HDF5" if end else ""
    write_training(tmp_path, f"random_seed: 1 snapshot: 4 {form}")
    assert train() == 0
    capfd.readouterr()
    assert train(f"-snapshot=snap_iter_4.caffemodel{end}") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert f"goes on from the state of its solver, snap_iter_4.solverstate{end}, which names these weights" in error


def test_debug_info_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 max_iter: 1 debug_info: true")
    assert train() == 0
    found = re.findall(
        r"^([IWE])\d{4} \S+ +\d+ (net\.cpp:\d+)\]     (.*?)(?: = \(|: )", capfd.readouterr().err, re.MULTILINE
    )
    assert found[0] == ("I", "net.cpp:593", "[Forward] Layer data, top blob x data")
    assert ("I", "net.cpp:605", "[Forward] Layer first, param blob 0 data") in found
    assert ("I", "net.cpp:621", "[Backward] Layer second, bottom blob h diff") in found
    assert ("I", "net.cpp:632", "[Backward] Layer first, param blob 1 diff") in found
    assert found[-1] == ("E", "net.cpp:721", "[Backward] All net params (data, diff)")


def test_a_copy_of_the_log_as_glog_keeps_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1")
    (tmp_path / "logs").mkdir()
    assert train("-log_dir=logs") == 0
    head, *rest = (tmp_path / "logs" / "caffe.INFO").read_text().splitlines()
    assert re.fullmatch(r"Log file created at: \d{4}/\d\d/\d\d \d\d:\d\d:\d\d", head)
    assert rest[2:] == capfd.readouterr().err.splitlines()
    assert train("-log_dir=nowhere") == 2
    assert "does the folder exist" in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["-solver=solver.prototxt", "-sigint_effect=none"],
        ["--solver", "solver.prototxt", "--sigint_effect", "none"],
        ["-solver", "solver.prototxt", "-sigint-effect", "none", "-logtostderr=1", "--v=2", "-alsologtostderr"],
        ["-nologtostderr", "-solver", "solver.prototxt", "-sigint_effect=none", "--noalsologtostderr"],
    ],
)
def test_spellings_of_gflags(flags: list[str], tmp_path: Path) -> None:
    write_training(tmp_path, "random_seed: 1", INTERRUPTED)
    Interrupt.plan = {2: signal.SIGINT}
    assert caffe_compat("train", *flags, "-workers=0") == 0
    assert (tmp_path / "snap_iter_8.solverstate").exists()


def test_the_command_may_stand_anywhere() -> None:
    assert reordered(["-solver", "train", "train", "-gpu=0"]) == ["train", "-solver", "train", "-gpu=0"]
    assert reordered(["train", "--gpu", "all"]) == ["train", "--gpu", "all"]
    assert reordered(["--logtostderr", "test", "-v", "2"]) == ["test", "--logtostderr", "-v", "2"]
    assert reordered(["-log_dir", "logs", "-v", "2", "time"]) == ["time", "-log_dir", "logs", "-v", "2"]
    with pytest.raises(UsageError, match="unknown action 'paint'; Caffe's are train, test, time, device_query"):
        reordered(["-gpu", "0", "paint"])
    with pytest.raises(UsageError, match="usage: caffe COMMAND"):
        reordered(["-gpu", "0"])


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        ([], "train needs a solver"),
        (["-solver", "no.prototxt"], "no.prototxt"),
        (["-solver", "solver.prototxt", "-weights", "a", "-snapshot", "b"], "not both"),
        (["-solver", "solver.prototxt", "-sighup_effect", "dance"], "snapshot, stop or none"),
        (["-solver", "solver.prototxt", "-gpu", "first"], "numbers separated by commas, or all"),
        (["-solver", "solver.prototxt", "-snapshot", "no_iter_3.solverstate"], "no_iter_3.solverstate"),
        (["-solver", "solver.prototxt", "-weights", "no.caffemodel"], "no.caffemodel"),
        (["-solver", "solver.prototxt", "-weights=a.caffemodel,"], "file names with commas between were expected"),
        (["-solver", "solver.prototxt", "-weights", ","], "file names with commas between were expected"),
        (["-solver", "solver.prototxt", "-solvr", "x"], "-solvr"),
        (["-solver", "solver.prototxt", "--require-gpu"], "pass --gpu 0"),
        (["-solver", "solver.prototxt", "-level", "x"], "level"),
    ],
)
def test_wrong_flags(flags: list[str], wrong: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path)
    assert caffe_compat("train", *flags) == 2
    assert wrong in capfd.readouterr().err


def test_sigint_takes_a_snapshot_and_stops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1", INTERRUPTED)
    assert train() == 0
    for path in tmp_path.glob("snap_iter_8*"):
        path.rename(path.with_name(path.name.replace("snap", "straight")))
    Interrupt.plan = {2: signal.SIGINT}
    before = signal.getsignal(signal.SIGINT)
    assert train() == 0
    assert signal.getsignal(signal.SIGINT) == before
    assert "Optimization stopped early." in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("snap*")) == [
        "snap_iter_3.caffemodel",
        "snap_iter_3.resume.npz",
        "snap_iter_3.solverstate",
    ]
    assert train("-snapshot", "snap_iter_3.solverstate") == 0
    assert_same("snap_iter_8.caffemodel", "straight_iter_8.caffemodel")


@pytest.mark.parametrize(
    ("flags", "number", "found"),
    [
        ([], "SIGHUP", [3, 8]),
        (["-sighup_effect=stop"], "SIGHUP", [3]),
        (["-sighup_effect=none"], "SIGHUP", [8]),
        (["-sigint_effect=snapshot"], "SIGINT", [3, 8]),
        (["-sigint_effect=none"], "SIGINT", [8]),
    ],
)
def test_effects_of_signals(flags: list[str], number: str, found: list[int], tmp_path: Path) -> None:
    write_training(tmp_path, "random_seed: 1", INTERRUPTED)
    Interrupt.plan = {2: getattr(signal, number)}
    assert train(*flags) == 0
    assert sorted(int(re.findall(r"\d+", p.name)[0]) for p in tmp_path.glob("*.solverstate")) == found


def test_weights_of_the_command_line_replace_those_of_the_solver(tmp_path: Path) -> None:
    write_training(tmp_path, "random_seed: 1")
    assert train() == 0
    first = blobs("snap_iter_8.caffemodel")
    (tmp_path / "solver.prototxt").write_text(
        (tmp_path / "solver.prototxt").read_text() + 'weights: "missing.caffemodel"'
    )
    with open_solver(read_solver("solver.prototxt"), weights=["snap_iter_8.caffemodel"], workers=0) as solver:
        assert np.array_equal(solver.learnable[0].tensor.detach().numpy(), first[0])
        assert solver.iteration == 0
    with open_solver(read_solver("solver.prototxt"), snapshot="snap_iter_8.solverstate", workers=0) as solver:
        assert solver.iteration == 8


def test_several_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 max_iter: 1")
    assert train() == 0
    (tmp_path / "a.caffemodel").write_bytes((tmp_path / "snap_iter_1.caffemodel").read_bytes())
    assert train("-weights", "a.caffemodel, snap_iter_1.caffemodel") == 0
    assert train("-weights=a.caffemodel,b.caffemodel") == 2
    assert "b.caffemodel" in capfd.readouterr().err


def test_a_snapshot_beyond_the_end_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 snapshot: 4")
    assert train() == 0
    assert "nothing is left" not in capfd.readouterr().err
    write_training(tmp_path, "random_seed: 1 max_iter: 4")
    assert train("-snapshot=snap_iter_8.solverstate") == 0
    assert "nothing is left to train: max_iter is 4, and iteration 8 is reached" in capfd.readouterr().err


def test_a_folder_of_snapshots_that_is_missing_is_found_out_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path, 'random_seed: 1 snapshot: 4 snapshot_prefix: "out/"')
    assert train() == 2
    error = capfd.readouterr().err
    assert "out: snapshots cannot be written there: No such file or directory; does the folder exist?" in error
    assert "Iteration 0" not in error
    (tmp_path / "out").mkdir()
    assert train() == 0
    assert (tmp_path / "out" / "solver_iter_8.solverstate").exists()


@pytest.mark.parametrize("stderr", ["/dev/full", None, "a pipe that nobody reads"])
def test_a_training_outlives_its_log(stderr: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a closed stream, a terminal or a pipe that has gone."""
    write_training(tmp_path, "random_seed: 1")
    stream = None if stderr is None else _unwritable(stderr)
    monkeypatch.setattr(sys, "stderr", stream)
    status = train()
    monkeypatch.undo()
    assert status == 0
    assert (tmp_path / "snap_iter_8.solverstate").exists()
    if stream is not None:
        with suppress(OSError):
            stream.close()


def _unwritable(kind: str) -> TextIO:
    if kind.startswith("/"):
        return open(kind, "w")
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


@pytest.mark.parametrize(("flags", "mode"), [(["-gpu=0"], ""), (["--gpu", "all"], ""), ([], "solver_mode: GPU")])
def test_a_gpu_where_there_is_none(
    flags: list[str],
    mode: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_training(tmp_path, f"random_seed: 1 max_iter: 1 {mode}")
    assert train(*flags) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("W")]
    asked = f"--gpu {flags[-1].split('=')[-1]}" if flags else "solver.prototxt: solver_mode: GPU"
    assert [line.partition("] ")[2] for line in warnings] == [
        f"{asked}, and there is no CUDA device: the CPU does the work"
    ]
    assert train(*flags, "--require-gpu") == 2
    assert f"{asked}, and there is no CUDA device" in capfd.readouterr().err


def test_several_gpus_become_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[list[str], int]] = []

    def launch(arguments: list[str], count: int) -> int:
        launched.append((arguments, count))
        return 7

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(parallel, "launch", launch)
    write_training(tmp_path)
    assert train("-gpu=2,0") == 7
    assert train("--gpu", "all") == 7
    same = ["train", "--solver", "solver.prototxt", "--workers", "0"]
    assert launched == [([*same, "-gpu=2,0"], 2), ([*same, "--gpu", "all"], 3)]


@pytest.mark.parametrize(
    ("flag", "rank", "expected"),
    [
        ("2,0", Rank(1, 2, 1, 2), "cuda:0"),
        ("all", Rank(5, 8, 1, 4), "cuda:1"),
        ("", Rank(1, 2, 1, 2), "cuda:1"),  # the solver file's device_id is for a process that is alone
        ("2", Rank(), "cuda:2"),
    ],
)
def test_which_gpu_a_process_takes(flag: str, rank: Rank, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    gpus = {"2,0": [2, 0], "all": [0, 1, 2], "": [0], "2": [2]}[flag]
    assert str(_device(gpus, rank, flag)) == expected
    with pytest.raises(UsageError, match="2 processes on this machine for 1 GPUs"):
        _device([0], Rank(1, 2, 1, 2), "0")


@pytest.mark.parametrize(("flag", "odd"), [("0,3", "names GPU 3"), ("1,1", "each once")])
def test_gpus_that_are_not_there(
    flag: str, odd: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    write_training(tmp_path)
    assert train("-gpu", flag) == 2
    assert odd in capfd.readouterr().err


def test_levels_and_stages_reach_the_trained_network(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rules = 'include { stage: "wide" min_level: 2 }'
    wide = 'layer { name: "wide" type: "InnerProduct" bottom: "x" top: "w" inner_product_param { num_output: 2 } %s }'
    net = NET + wide % rules + f'layer {{ name: "quiet" type: "Silence" bottom: "w" {rules} }}'
    write_training(tmp_path, "random_seed: 1 max_iter: 1 train_state { level: 1 }", net)
    assert train() == 0
    assert "train_state.level 1 gives way to --level 0" in capfd.readouterr().err
    plain = len(blobs("snap_iter_1.caffemodel"))
    assert train("-level=3", "-stage=other,wide") == 0
    assert len(blobs("snap_iter_1.caffemodel")) == plain + 4


def test_flags_without_effect(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 max_iter: 1")
    assert train("-iterations=5") == 0
    assert "warning: --iterations has no effect on train" in capfd.readouterr().err


EXPLODING = NET.replace('type: "Dropout"', 'type: "Exp"').replace(
    'name: "drop"', 'name: "drop" exp_param { scale: 1e6 }'
)


def test_a_loss_that_is_no_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1", EXPLODING)
    assert train() == 2
    assert "layer 'drop' (Exp): top 'h' is not finite (NaN or infinity) at iteration 0" in capfd.readouterr().err
    assert latest_snapshot("snap") is None
    assert train("--keep-going-on-nan") == 0
    assert re.search(r"loss = -?(inf|nan)", capfd.readouterr().err)
    assert latest_snapshot("snap") is not None


def test_snapshots_stay_below_the_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    write_training(work, f'max_iter: 1 snapshot: 1 snapshot_prefix: "{elsewhere}/s"')
    monkeypatch.chdir(work)
    assert train() == 2
    log = capfd.readouterr().err
    assert "allow another folder with --write-root" in log
    assert "Iteration 0" not in log  # not after hours of training
    assert not list(elsewhere.iterdir())
    assert train("--write-root", str(elsewhere)) == 0
    assert (elsewhere / "s_iter_1.solverstate").exists()
    write_training(work, "max_iter: 1")
    assert train("--write-root", str(elsewhere)) == 0  # the working directory stays allowed
    assert (work / "snap_iter_1.solverstate").exists()


def test_input_layers_have_nobody_to_feed_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
    write_training(tmp_path, net=net)
    assert train() == 2
    assert "nothing feeds the Input layers 'in'" in capfd.readouterr().err


def test_mixed_precision_is_close(tmp_path: Path) -> None:
    write_training(tmp_path, "random_seed: 1 snapshot: 8")
    assert train() == 0
    exact = blobs("snap_iter_8.caffemodel")[0]
    assert train("--amp") == 0
    mixed = blobs("snap_iter_8.caffemodel")[0]
    assert not np.array_equal(exact, mixed)
    assert np.abs(exact - mixed).max() < 0.02 * np.abs(exact).max()


def test_the_library_function(tmp_path: Path, device: torch.device) -> None:
    write_training(tmp_path, "random_seed: 1 snapshot: 4")
    solver = train_with(read_solver("solver.prototxt"), device=device, workers=1)
    assert solver.iteration == 8
    state = read_snapshot("snap_iter_4.solverstate")
    assert state.resume is not None
    assert state.resume.seed == 1
    again = train_with(read_solver("solver.prototxt"), device=device, workers=2, snapshot="snap_iter_4.solverstate")
    for one, other in zip(solver.learnable, again.learnable, strict=True):
        if device.type == "cpu":
            assert torch.equal(one.tensor, other.tensor)
    with pytest.raises(UsageError, match="one of them was expected"):
        train_with(read_solver("solver.prototxt"), snapshot="a", weights=["b"])


def test_the_true_gradient_on_request(tmp_path: Path) -> None:
    pose = re.sub(r'layer \{ name: "loss".*', "", NET, flags=re.DOTALL).replace("num_output: 7", "num_output: 48")
    pose += (
        'layer { name: "loss" type: "SkelVectorLoss" bottom: "p" bottom: "q" top: "loss" skel_vector_param { dim: 3 } }'
    )
    q = 'layer { name: "q" type: "DummyData" top: "q" dummy_data_param { shape { dim: 4 dim: 48 } } }'
    write_training(
        tmp_path, "random_seed: 1 max_iter: 1", net=pose.replace('layer { name: "first"', q + '\nlayer { name: "first"')
    )
    rows = {}
    for gradients in ("caffe", "true"):
        assert train("-gradients", gradients) == 0
        history = blobs("snap_iter_1.caffemodel")
        with open_solver(read_solver("solver.prototxt"), workers=0, gradients=gradients) as solver:
            solver.step(1)
            assert np.array_equal(solver.learnable[0].tensor.detach().numpy(), history[0])
        # The last layer's biases have the gradient of a pose, and to move a whole pose changes no bone.
        rows[gradients] = history[-1].reshape(16, 3)
    assert np.abs(rows["true"].sum(0)).max() < 1e-6
    assert np.abs(rows["caffe"].sum(0)).max() > 1e-4


def test_counts_of_evaluation_layers_resume(tmp_path: Path) -> None:
    measure = (
        'layer { name: "mpjpe" type: "MPJPEEvaluation" bottom: "p" bottom: "y" top: "mpjpe" include { phase: TEST }'
        ' mpjpe_param { save_filepath: "poses.csv" sample_num: 50 scale: 1 max_min_normalize: false } }'
    )
    write_training(tmp_path, "random_seed: 1 max_iter: 6 snapshot: 3 test_iter: 2 test_interval: 2", net=NET + measure)
    assert train() == 0
    straight = [line.split(",") for line in (tmp_path / "poses.csv").read_text().splitlines()]
    assert [int(line[0]) for line in straight] == list(range(1, 25))
    assert train("-snapshot", "snap_iter_3.solverstate") == 0
    # The tests of iterations 4 and 6; those before them are in the file of the run before.
    assert [line.split(",") for line in (tmp_path / "poses.csv").read_text().splitlines()] == straight[12:]
