"""Logs of training: parsed, and drawn."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path

import pytest

from caffe_compat.cli.plotting import drawable
from caffe_compat.cli.programs.plot_training_log import main as plot_training_log
from caffe_compat.errors import FileError
from caffe_compat.formats.logs import parse_log, read_log
from tests.training.tiny_training import caffe_compat, train, write_training

# In the words of several versions of Caffe; from the end of one year into the next.
CAFFE = """\
Log file created at: 2016/12/31 23:59:00
I1231 23:59:50.000000  4242 caffe.cpp:217] Using GPUs 0
I1231 23:59:58.250000  4242 solver.cpp:289] Solving net
I1231 23:59:58.500000  4242 solver.cpp:347] Iteration 0, Testing net (#0)
I1231 23:59:59.000000  4242 solver.cpp:414]     Test net output #0: accuracy = 0.1
I1231 23:59:59.000000  4242 solver.cpp:414]     Test net output #1: loss = 2.5 (* 1 = 2.5 loss)
I1231 23:59:59.500000  4242 solver.cpp:347] Iteration 0, Testing net (#1)
I1231 23:59:59.500000  4242 solver.cpp:414]     Test net output #0: score = 1
I1231 23:59:59.500000  4242 solver.cpp:414]     Test net output #1: score = 2
I0101 00:00:00.250000  4242 solver.cpp:239] Iteration 0 (-4.5e-32 iter/s, 2.1s/20 iters), loss = 2.75
I0101 00:00:00.250000  4242 solver.cpp:258]     Train net output #0: loss = 2.5 (* 0.5 = 1.25 loss)
I0101 00:00:00.250000  4242 solver.cpp:258]     Train net output #1: aux loss = 1e-05 (* 1 = 1e-05 loss)
I0101 00:00:00.500000  4242 sgd_solver.cpp:112] Iteration 0, lr = 0.01
Ignoring source layer fc8
I0101 00:01:00.250000  4242 solver.cpp:228] Iteration 20, loss = -nan
I0101 00:01:00.250000  4242 solver.cpp:244]     Train net output #0: loss = inf (* 0.5 = inf loss)
I0101 00:01:00.250000  4242 sgd_solver.cpp:106] Iteration 20, lr = 1e-05
"""


def test_logs_of_caffe() -> None:
    log = parse_log(CAFFE.splitlines())
    first, second = log.train
    assert (first.iteration, first.loss, first.rate, first.seconds) == (0, 2.75, 0.01, 10.25)
    assert first.outputs == {"loss": 2.5, "aux loss": 1e-5}
    assert (second.iteration, second.rate, second.seconds) == (20, 1e-5, 70.25)
    assert second.loss is not None
    assert math.isnan(second.loss)
    assert second.outputs == {"loss": math.inf}
    assert [row.outputs for row in log.tests[0]] == [{"accuracy": 0.1, "loss": 2.5}]
    assert [row.outputs for row in log.tests[1]] == [{"score#0": 1.0, "score#1": 2.0}]
    assert log.losses == {"loss", "aux loss"}


def test_logs_without_times() -> None:
    log = parse_log(line.partition("] ")[2] for line in CAFFE.splitlines())
    assert [(row.iteration, row.seconds, row.rate) for row in log.train] == [(0, None, 0.01), (20, None, 1e-5)]


def test_logs_whose_times_have_a_year() -> None:
    """As newer versions of glog write them."""
    text = re.sub(r"^I1231", "I20161231", CAFFE, flags=re.MULTILINE)
    text = re.sub(r"^I0101", "I20170101", text, flags=re.MULTILINE)
    assert repr(parse_log(text.splitlines())) == repr(parse_log(CAFFE.splitlines()))  # a NaN equals nothing


# In the words of Caffe before September 2014: one test network, outputs without names, the rate before the loss.
OLD = """\
I0828 09:15:00.000000 777 solver.cpp:42] Solving net
I0828 09:15:01.000000 777 solver.cpp:106] Iteration 0, Testing net
I0828 09:15:02.000000 777 solver.cpp:177] Test score #0: 0.0625
I0828 09:15:02.000000 777 solver.cpp:177] Test score #1: 2.75
I0828 09:15:03.000000 777 solver.cpp:208] Iteration 10, lr = 0.01
I0828 09:15:03.500000 777 solver.cpp:65] Iteration 10, loss = 2.5
I0828 09:15:04.000000 777 solver.cpp:208] Iteration 20, lr = 0.005
I0828 09:15:04.500000 777 solver.cpp:65] Iteration 20, loss = 1.5
I0828 09:15:05.000000 777 solver.cpp:106] Iteration 20, Testing net
I0828 09:15:06.000000 777 solver.cpp:177] Test score #0: 0.75
"""


def test_logs_of_2014() -> None:
    log = parse_log(OLD.splitlines())
    assert [(row.iteration, row.loss, row.rate) for row in log.train] == [(10, 2.5, 0.01), (20, 1.5, 0.005)]
    assert list(log.tests) == [0]
    assert [row.outputs for row in log.tests[0]] == [{"score#0": 0.0625, "score#1": 2.75}, {"score": 0.75}]
    assert [row.iteration for row in log.tests[0]] == [0, 20]


def test_a_number_that_counts_nothing_is_passed_over() -> None:
    log = parse_log(
        [f"Iteration 1{300 * '0'}, loss = 1", f"Iteration 1{5000 * '0'}, loss = 1", "Iteration 7, loss = 2"]
    )
    assert [row.iteration for row in log.train] == [7]


def test_our_own_log(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_training(tmp_path, "random_seed: 1 test_iter: 2 test_interval: 4")
    assert train() == 0
    (tmp_path / "train.log").write_text(capfd.readouterr().err)
    log = read_log("train.log")
    assert [row.iteration for row in log.train] == [0, 2, 4, 6, 8]
    assert [row.rate for row in log.train] == [0.001, 0.001, 0.0005, 0.00025, None]
    assert [row.iteration for row in log.tests[0]] == [0, 4, 8]
    assert all(row.loss is not None for row in log.train)
    assert all(set(row.outputs) == {"loss"} for row in [*log.train[:4], *log.tests[0]])


def test_files_that_are_no_log(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"\xff\xfe nothing here\n")
    with pytest.raises(FileError, match=r"x\.log: no line of a Caffe training"):
        read_log(path)
    with pytest.raises(FileError, match=r"missing\.log"):
        read_log(tmp_path / "missing.log")


def test_plots(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text(CAFFE.replace("aux loss", "$x^"))  # half a formula to matplotlib
    assert caffe_compat("plot-log", "train.log", "-o", "loss.png") == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote loss.png: 2 iterations and 2 tests" in capfd.readouterr().out
    assert caffe_compat("plot-log", "train.log", "-o", "loss.doc") == 2
    assert "can be written" in capfd.readouterr().err


def test_losses_too_large_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of numbers that no training has, a library's arithmetic overflows."""
    monkeypatch.chdir(tmp_path)
    losses = ("1e308", "-1e308", "nan", "inf", "1e400", "3e38", "-3e38", "0.5")
    (tmp_path / "train.log").write_text(
        "".join(
            f"I0101 00:00:0{i}.000000 1 solver.cpp:239] Iteration {i}, loss = {loss}\n" for i, loss in enumerate(losses)
        )
    )
    assert caffe_compat("plot-log", "train.log", "-o", "loss.png") == 0
    assert plot_training_log(["6", "6.png", "train.log"]) == 0
    assert drawable([1e308, -1e39, 3e38]) == pytest.approx([math.nan, math.nan, 3e38], nan_ok=True)


def test_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    write_training(tmp_path, "random_seed: 1 test_iter: 2 test_interval: 4 test_compute_loss: true")
    assert train("--log-dir", "charts") == 0
    found = events.EventAccumulator("charts")
    found.Reload()
    assert [point.step for point in found.Scalars("train/loss")] == [0, 2, 4, 6, 8]
    assert [point.step for point in found.Scalars("test0/loss")] == [0, 4, 8]
    rates = [point.value for point in found.Scalars("train/learning_rate")]
    assert rates == pytest.approx([0.001, 0.001, 0.0005, 0.00025])
    assert len(found.Scalars("test0/outputs/loss")) == 3


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("matplotlib.backends.backend_agg", "plots", ["plot-log", "train.log", "-o", "loss.png"]),
        ("tensorboard", "tensorboard", ["train", "-solver=solver.prototxt", "--workers=0", "--log-dir=charts"]),
    ],
)
def test_missing_packages(
    package: str,
    extra: str,
    arguments: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text(CAFFE)
    write_training(tmp_path)
    assert caffe_compat(*arguments) == 2
    assert f'pip install "caffe-compat[{extra}]"' in capfd.readouterr().err
