"""``caffe-compat test``, ``time`` and ``device_query``, and what networks write when they run."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_compat import load
from caffe_compat.errors import UsageError
from caffe_compat.reports.timing import time
from caffe_compat.training.session import score
from tests.training.tiny_training import NET, caffe_compat, train, write_training


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def messages(text: str) -> list[str]:
    return [line.partition("] ")[2] for line in text.splitlines()]


def expected_losses(folder: Path, count: int) -> list[float]:
    """The losses of the first batches, computed apart from the code under test."""
    net = load("net.prototxt", "snap_iter_8.caffemodel", input_shapes={"x": (3, 3, 5), "y": (3, 7)})
    with h5py.File(folder / "rows.h5") as file:
        x, y = (torch.from_numpy(file[name][()]) for name in ("x", "y"))
    rows = [torch.arange(3 * i, 3 * i + 3) % len(x) for i in range(count)]
    return [float(net(x=x[r], y=y[r])["loss"].detach()) for r in rows]


def test_scores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1")
    assert train() == 0
    capfd.readouterr()
    assert caffe_compat("test", "-model=net.prototxt", "-weights=snap_iter_8.caffemodel", "-iterations", "9") == 0
    found = messages(capfd.readouterr().err)
    losses = expected_losses(tmp_path, 9)
    batches = [float(m[1]) for text in found if (m := re.fullmatch(r"Batch \d, loss = (.*)", text))]
    assert np.allclose(batches, losses, rtol=1e-5)
    mean = float(np.mean(losses))
    assert found[:2] == ["Use CPU.", "Running for 9 iterations."]
    assert np.isclose(float(found[-2].removeprefix("Loss: ")), mean, rtol=1e-5)
    assert re.fullmatch(rf"loss = {mean:g} \(\* 1 = {mean:g} loss\)", found[-1])
    assert np.isclose(score("net.prototxt", ["snap_iter_8.caffemodel"], 9).loss, mean, rtol=1e-6)


def test_scores_need_weights_and_iterations(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path)
    assert caffe_compat("test", "-model", "net.prototxt") == 2
    assert "test needs --model FILE and --weights FILE" in capfd.readouterr().err
    with pytest.raises(UsageError, match="0 iterations"):
        score("net.prototxt", ["x.caffemodel"], 0)
    with pytest.raises(UsageError, match="needs the weights"):
        score("net.prototxt", [])


OUTPUT = 'layer { name: "out" type: "HDF5Output" bottom: "p" bottom: "y" hdf5_output_param { file_name: "%s" } }'


def test_hdf5_output_goes_below_the_folder_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    os.chdir(work)
    write_training(work, "max_iter: 8", NET)
    assert train() == 0
    command = ("test", "-model=net.prototxt", "-weights=snap_iter_8.caffemodel", "-iterations=2")
    (work / "net.prototxt").write_text(NET + OUTPUT % "out.h5")
    assert caffe_compat(*command) == 0
    with h5py.File("out.h5") as file, h5py.File("rows.h5") as rows:
        assert file["data"].shape == (6, 7, 1, 1)
        assert np.array_equal(file["label"][..., 0, 0], rows["y"][:6])
    (work / "net.prototxt").write_text(NET + OUTPUT % "../elsewhere/out.h5")
    assert caffe_compat(*command) == 2
    assert "layer 'out': writes '../elsewhere/out.h5', outside" in capfd.readouterr().err
    assert not list(elsewhere.iterdir())
    assert caffe_compat(*command, "--write-root", str(elsewhere)) == 0
    assert (elsewhere / "out.h5").exists()


def test_a_loaded_net_writes_nothing(tmp_path: Path) -> None:
    write_training(tmp_path, net=NET + OUTPUT % "out.h5")
    net = load("net.prototxt", input_shapes={"x": (3, 3, 5), "y": (3, 7)}, seed=0)
    for _ in range(2):
        net(x=torch.zeros(3, 3, 5), y=torch.zeros(3, 7))
    assert not (tmp_path / "out.h5").exists()
    assert net.files.written == {"out.h5": "6 rows"}


def test_times(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path)
    assert caffe_compat("time", "--model", "net.prototxt", "-iterations=2", "--phase", "TEST") == 0
    found = messages(capfd.readouterr().err)
    assert found[0] == "Use CPU."
    number = r"[-+.\de]+"
    for name in ("first", "norm", "relu", "drop", "second", "loss"):
        for way in ("forward", "backward"):
            assert any(re.fullmatch(rf" *{name}\t{way}: {number} ms\.", text) for text in found), (name, way)
    for pattern in (r"Initial loss: ", r"Iteration: 2 forward-backward time: ", r"Average Forward-Backward: "):
        assert any(re.fullmatch(f"{pattern}{number}(?: ms\\.)?", text) for text in found), pattern
    assert found[-1] == "*** Benchmark ends ***"


def test_times_of_a_network_with_inputs(tmp_path: Path) -> None:
    (tmp_path / "deploy.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "p" inner_product_param { num_output: 5 } }'
    )
    timing = time("deploy.prototxt", 3)
    (layer,) = timing.layers
    assert layer.name == "ip"
    assert layer.forward > 0
    assert layer.backward > 0
    assert timing.total >= timing.forward + timing.backward - 1e-6
    with pytest.raises(UsageError, match="0 iterations"):
        time("deploy.prototxt", 0)


def test_wrong_phases(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path)
    assert caffe_compat("time", "--model=net.prototxt", "-phase=DEPLOY") == 2
    assert "TRAIN or TEST was expected" in capfd.readouterr().err
    assert caffe_compat("time") == 2


def test_device_query(capfd: pytest.CaptureFixture[str]) -> None:
    assert caffe_compat("device_query", "-gpu", "all") == 0
    found = messages(capfd.readouterr().err)
    assert found[0] == "Querying GPUs all"
    if torch.cuda.is_available():
        assert any(text.startswith("Name:                          ") for text in found)
    else:
        assert found[1:] == ["No cuda device present."]
