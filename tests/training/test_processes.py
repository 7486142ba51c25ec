"""The command in processes of its own: killed, signalled, called by a script, and several that train together."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat.errors import UsageError
from caffe_compat.training.parallel import Rank, is_restart, launch, restart_point, this_rank
from caffe_compat.training.solver import latest_snapshot
from tests.training.tiny_training import NET, assert_same, blobs, caffe_compat, start, train, write_training


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def script(folder: Path) -> Path:
    """A recipe as people have them: it calls Caffe two folders up, and keeps its log."""
    path = folder / "examples" / "tiny" / "train.sh"
    path.parent.mkdir(parents=True)
    path.write_text(
        "#!/usr/bin/env sh\n"
        "set -e\n"
        'cd "$(dirname "$0")"\n'
        "GLOG_logtostderr=1 ../../build/tools/caffe train --solver=solver.prototxt $@ 2>&1 | tee train.log\n"
    )
    return path


@pytest.mark.slow
def test_a_script_that_calls_caffe(tmp_path: Path) -> None:
    assert caffe_compat("shim", "build/tools") == 0
    assert os.access("build/tools/caffe", os.X_OK)
    path = script(tmp_path)
    write_training(path.parent, "random_seed: 1")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(["sh", str(path), "-sighup_effect=stop"], env=environment, stdout=subprocess.PIPE, text=True)
    assert "Optimization Done." in done.stdout
    assert (path.parent / "train.log").read_text() == done.stdout
    assert len(blobs(path.parent / "snap_iter_8.caffemodel")) > 4
    wrong = subprocess.run(["build/tools/caffe", "trane"], env=environment, stderr=subprocess.PIPE, text=True)
    assert wrong.returncode == 2
    assert "unknown action 'trane'" in wrong.stderr


def test_the_shim_replaces_itself_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert caffe_compat("shim", "tools") == 0
    first = (tmp_path / "tools" / "caffe").read_bytes()
    assert caffe_compat("shim", "tools") == 0
    assert (tmp_path / "tools" / "caffe").read_bytes() == first
    (tmp_path / "tools" / "caffe").write_bytes(b"\x7fELF the real thing")
    assert caffe_compat("shim", "tools") == 2
    assert "is another program" in capfd.readouterr().err


# Interrupted from outside


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if list(folder.glob(pattern)) or process.poll() is not None:
            return
        time.sleep(0.01)
    raise TimeoutError(pattern)


SLOW_DOWN = """
import time
from caffe_compat.network.registry import Layer, layer

class Slow(Layer):
    def forward(self, x):
        if not x.is_meta:
            time.sleep(0.05)
        return x * 1

@layer("SlowDown", bottoms=1, tops=1)
def slow(spec):
    return Slow()
"""
SLOW = NET.replace('type: "Dropout" bottom: "h" top: "h"', 'type: "SlowDown" bottom: "h" top: "h"')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "goes_on"), [("SIGINT", False), pytest.param("SIGHUP", True, marks=pytest.mark.slow)]
)
def test_signals_from_outside(number: str, goes_on: bool, tmp_path: Path) -> None:
    write_training(tmp_path, "max_iter: 40 snapshot: 0 random_seed: 5", SLOW)
    (tmp_path / "slow.py").write_text(SLOW_DOWN)
    command = ("train", "-solver=solver.prototxt", "--plugin=slow.py", "--workers=1")
    process = start(tmp_path, *command)
    assert process.stderr is not None
    for line in process.stderr:
        if "Iteration 2 " in line:
            break
    process.send_signal(getattr(signal, number))
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert ("Optimization stopped early." in rest) is not goes_on
    iterations = sorted(int(re.findall(r"\d+", p.name)[0]) for p in tmp_path.glob("*.solverstate"))
    assert 2 <= iterations[0] < 40
    assert iterations[1:] == ([40] if goes_on else [])


@pytest.mark.slow
def test_a_terminal_shows_rate_and_time_left(tmp_path: Path) -> None:
    write_training(tmp_path, "max_iter: 40 random_seed: 5", SLOW)
    (tmp_path / "slow.py").write_text(SLOW_DOWN)
    # script(1) gives the command a terminal and copies what appears there.
    command = f"{sys.executable} -m caffe_compat train -solver=solver.prototxt --plugin=slow.py --workers=0"
    done = subprocess.run(
        ["script", "-qec", command, "typescript"],
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert re.search(r"iteration \d+/40 .* iter/s .*\d:\d\d:\d\d.* left", done.stdout)
    assert "iteration 40/40" in done.stdout
    assert "solver.cpp:239] Iteration 38 (" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_killed_at_random_moments(form: str, tmp_path: Path) -> None:
    """Whatever moment a training dies at, the last snapshot is whole, and going on from it ends as if nothing was."""
    write_training(tmp_path, f"max_iter: 30 snapshot: 3 random_seed: 5 stepsize: 20 snapshot_format: {form}")
    command = ("train", "-solver=solver.prototxt", "--workers=1")
    undisturbed = start(tmp_path, *command)
    _, error = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, error
    for path in tmp_path.glob("snap_iter_*"):
        if "_30." in path.name:
            path.rename(path.with_name(path.name.replace("snap", "straight")))
        else:
            path.unlink()
    rng = random.Random(7)
    kills = 0
    for _ in range(30):
        state = latest_snapshot("snap", tmp_path)
        resume = ["-snapshot", state.name] if state else []
        process = start(tmp_path, *command, *resume)
        done = int(re.findall(r"\d+", state.name)[0]) if state else 0
        wait_for(tmp_path, f"snap_iter_{done + 3}.solverstate*", process)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        _, error = process.communicate()
        assert "error" not in error, error
        if process.returncode == 0:
            break
        kills += 1
    assert kills >= 3
    end = ".caffemodel" + (".h5" if form == "HDF5" else "")
    assert_same(f"snap_iter_30{end}", f"straight_iter_30{end}")
    assert not list(tmp_path.glob(".*"))


# Several processes


PARALLEL = """
name: "parallel"
layer { name: "data" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "rows.txt" batch_size: 3 } }
layer { name: "first" type: "InnerProduct" bottom: "x" top: "h"
  inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "second" type: "InnerProduct" bottom: "h" top: "p"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "unused" type: "InnerProduct" bottom: "h" top: "u"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "quiet" type: "Silence" bottom: "u" }
layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "y" top: "loss" }
"""
SETTINGS = 'max_iter: 6 type: "Adam" momentum2: 0.99 random_seed: 2 test_iter: 1 test_interval: 3 snapshot: 3 '


# Whether the interpreter was taken apart: the exit handler comes before that, the module's objects go in it.
WATCH_THE_END = """
import atexit, os
class Last:
    def __del__(self, write=os.write):
        write(2, b"taken apart ")
last = Last()
atexit.register(os.write, 2, b"exit handler ")
"""


@pytest.mark.slow
def test_a_rank_ends_before_torchs_threads_can_meet_a_dying_interpreter(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path, SETTINGS, PARALLEL)
    (tmp_path / "watch.py").write_text(WATCH_THE_END)
    command = ["train", "-solver=solver.prototxt", "--plugin=watch.py", "--workers=0"]
    assert launch(command, 1) == 0
    error = capfd.readouterr().err
    assert error.count("exit handler") == error.count("taken apart") == 1
    assert launch(command, 2) == 0
    error = capfd.readouterr().err
    assert error.count("exit handler") == 2
    assert "taken apart" not in error


@pytest.mark.slow
def test_two_processes_train_like_one_with_iter_size_2(tmp_path: Path) -> None:
    write_training(tmp_path, SETTINGS + "iter_size: 2", PARALLEL)
    assert train() == 0
    one = [np.array(blob) for blob in blobs("snap_iter_6.caffemodel")]
    for path in tmp_path.glob("snap*"):
        path.unlink()
    write_training(tmp_path, SETTINGS, PARALLEL)
    assert launch(["train", "-solver=solver.prototxt", "--workers=0"], 2) == 0
    assert sorted(path.name for path in tmp_path.glob("snap*.solverstate")) == [
        "snap_iter_3.solverstate",
        "snap_iter_6.solverstate",
    ]
    two = blobs("snap_iter_6.caffemodel")
    for a, b in zip(one, two, strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


SEQUENCES = """
layer { name: "data" type: "HDF5Data" top: "x" top: "clip" top: "y"
  hdf5_data_param { source: "sequences.txt" batch_size: 4 } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "clip" top: "h"
  recurrent_param { num_output: 5 weight_filler { type: "uniform" min: -0.5 max: 0.5 } } }
layer { name: "out" type: "InnerProduct" bottom: "h" top: "p"
  inner_product_param { num_output: 3 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "y" top: "loss" }
"""


@pytest.mark.slow
def test_every_process_goes_on_with_its_own_recurrent_state(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "max_iter: 6 base_lr: 0.1 random_seed: 2 snapshot: 3", SEQUENCES)
    rng = np.random.RandomState(1)
    with h5py.File(tmp_path / "sequences.h5", "w") as file:
        for name, shape in (("x", (40, 2, 3)), ("y", (40, 2, 3))):
            file[name] = rng.standard_normal(shape).astype(np.float32)
        file["clip"] = np.ones((40, 2), np.float32)
    (tmp_path / "sequences.txt").write_text("sequences.h5\n")
    command = ["train", "-solver=solver.prototxt", "--workers=0"]
    assert launch(command, 2) == 0
    for path in tmp_path.glob("snap_iter_6*"):
        path.rename(path.with_name(path.name.replace("snap", "straight")))
    with np.load(tmp_path / "snap_iter_3.resume.npz") as file:
        hidden = [file[f"buffer:{rank}/lstm.hidden"] for rank in ("train", "train:1")]
    assert np.abs(hidden[0] - hidden[1]).max() > 0.01
    assert launch([*command, "-snapshot=snap_iter_3.solverstate"], 2) == 0
    assert_same("snap_iter_6.caffemodel", "straight_iter_6.caffemodel")
    capfd.readouterr()
    assert launch([*command, "-snapshot=snap_iter_3.solverstate"], 1) == 0
    warning = (
        "was made by 2 processes that trained together, this run has 1: samples come in another order, and recurrent"
    )
    assert warning in capfd.readouterr().err


@pytest.mark.slow
def test_sighup_during_a_test_takes_the_snapshot_after_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_DOWN)
    net = PARALLEL.replace('type: "ReLU" bottom: "h" top: "h"', 'type: "SlowDown" bottom: "h" top: "h"')
    write_training(tmp_path, "random_seed: 1 max_iter: 5 test_iter: 20 test_interval: 3 display: 1", net)
    code = "import sys; from caffe_compat.training.parallel import launch; sys.exit(launch(sys.argv[1:], 2))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", "-solver=solver.prototxt", "--workers=0", "--plugin=slow.py"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Iteration 3, Testing net" in line:
            break
    process.send_signal(signal.SIGHUP)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    assert "snap_iter_5.solverstate" in rest
    # Of the signals, one to each process, the second may count after the next iteration.
    assert (tmp_path / "snap_iter_3.solverstate").exists()
    assert (tmp_path / "snap_iter_3.resume.npz").exists()


@pytest.mark.slow
def test_a_failing_process_ends_the_others(tmp_path: Path) -> None:
    began = time.monotonic()
    assert launch(["train", "-solver=missing.prototxt"], 2) == 2
    assert time.monotonic() - began < 60


CRASH = """
import os
from caffe_compat.network.registry import Layer, layer

class Crash(Layer):
    def forward(self, x):
        environment = os.environ
        if not x.is_meta and self.randomness.iteration == 4 and environment["RANK"] == "1":
            if environment["TORCHELASTIC_RESTART_COUNT"] == "0":
                os._exit(9)
        return x * 1

@layer("CrashOnce", bottoms=1, tops=1)
def crash(spec):
    return Crash()
"""


@pytest.mark.slow
def test_torchrun_goes_on_after_a_lost_process(tmp_path: Path) -> None:
    net = PARALLEL.replace('type: "ReLU" bottom: "h" top: "h"', 'type: "CrashOnce" bottom: "h" top: "h"')
    write_training(tmp_path, SETTINGS, net)
    (tmp_path / "crash.py").write_text(CRASH)
    (tmp_path / "snap_iter_5.solverstate").write_bytes(b"of an older run")
    os.utime("snap_iter_5.solverstate", (1, 1))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*torchrun, "-m", "caffe_compat", "train", "-solver=solver.prototxt", "--plugin=crash.py", "--workers=0"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Resuming from snap_iter_3.solverstate" in done.stderr
    assert not list(tmp_path.glob(".snap*"))
    one = blobs("snap_iter_6.caffemodel")
    for path in [*tmp_path.glob("snap_iter_3*"), *tmp_path.glob("snap_iter_6*")]:
        path.unlink()
    (tmp_path / "crash.py").write_text(CRASH.replace('== "0"', '== "never"'))
    assert subprocess.run(command, stderr=subprocess.PIPE, timeout=300, check=False).returncode == 0
    for a, b in zip(one, blobs("snap_iter_6.caffemodel"), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_sigint_stops_all_processes_after_one_iteration(tmp_path: Path) -> None:
    """Whether it comes during training or while rank 0 tests and the other waits."""
    (tmp_path / "slow.py").write_text(SLOW_DOWN)
    net = PARALLEL.replace('type: "ReLU" bottom: "h" top: "h"', 'type: "SlowDown" bottom: "h" top: "h"')
    for settings, sign in (
        ("max_iter: 400 test_iter: 1 test_interval: 1000", "Iteration 2 "),
        (
            "max_iter: 400 test_iter: 1000 test_interval: 3 test_initialization: false display: 1",
            "Iteration 3, Testing net",
        ),
    ):
        write_training(tmp_path, f"random_seed: 1 {settings}", net)
        code = "import sys; from caffe_compat.training.parallel import launch; sys.exit(launch(sys.argv[1:], 2))"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "train", "-solver=solver.prototxt", "--workers=0", "--plugin=slow.py"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if sign in line:
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "Optimization stopped early." in rest
        assert latest_snapshot("snap", tmp_path) is not None
        for path in tmp_path.glob("snap*"):
            path.unlink()


def test_ranks_from_the_environment() -> None:
    assert this_rank({}) == Rank(0, 1, 0, 1)
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert this_rank(told) == Rank(5, 8, 1, 4)
    with pytest.raises(UsageError, match="must be numbers"):
        this_rank({"RANK": "first", "WORLD_SIZE": "2"})


def test_restarts_overlook_what_older_runs_left(tmp_path: Path) -> None:
    first = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "0"}
    again = first | {"TORCHELASTIC_RESTART_COUNT": "1"}
    assert (is_restart({}), is_restart(first), is_restart(again)) == (False, False, True)
    (tmp_path / "s_iter_9.solverstate").write_bytes(b"")
    os.utime(tmp_path / "s_iter_9.solverstate", (1, 1))
    # Left as if the process had been killed within.
    assert restart_point("s", tmp_path, first).__enter__() is None
    assert restart_point("s", tmp_path, again).__enter__() is None
    (tmp_path / "s_iter_4.solverstate").write_bytes(b"")
    with restart_point("s", tmp_path, again) as found:
        assert found == tmp_path / "s_iter_4.solverstate"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with restart_point("s", tmp_path, {}) as found:
        assert found is None
