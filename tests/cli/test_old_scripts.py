"""Scripts as people wrote them for Caffe run as they are, on the programs that the shim puts where Caffe's were."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.formats.databases import open_database
from caffe_compat.formats.weights import read_binaryproto
from tests.training.tiny_training import caffe_compat

SCRIPTS = Path(__file__).parent / "old_scripts"
NET = """
name: "shapes"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mean_file: "examples/shapes/mean.binaryproto" mirror: true }
  data_param { source: "examples/shapes/shapes_train_lmdb" batch_size: 8 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { mean_file: "examples/shapes/mean.binaryproto" }
  data_param { source: "examples/shapes/shapes_val_lmdb" batch_size: 6 backend: LMDB } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 8 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc2" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""
OLD_DEPLOY = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 16 input_dim: 16
layers { name: "fc1" type: INNER_PRODUCT bottom: "data" top: "fc1" inner_product_param { num_output: 8 } }
layers { name: "relu1" type: RELU bottom: "fc1" top: "fc1" }
layers { name: "fc2" type: INNER_PRODUCT bottom: "fc1" top: "fc2" inner_product_param { num_output: 2 } }
layers { name: "prob" type: SOFTMAX bottom: "fc2" top: "prob" }
"""
SOLVER = """
net: "examples/shapes/train_val.prototxt"
test_iter: 2 test_interval: 15 base_lr: 0.0005 momentum: 0.9 lr_policy: "fixed" display: 10 max_iter: 30
snapshot_prefix: "examples/shapes/shapes" solver_mode: CPU random_seed: 3
"""


@pytest.fixture
def caffe_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of Caffe as it looks to a script: data, an example, and the programs."""
    monkeypatch.chdir(tmp_path)
    data, example = tmp_path / "data" / "shapes", tmp_path / "examples" / "shapes"
    data.mkdir(parents=True)
    example.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for i in range(36):  # a bright square above, or below: it stays there when a picture is mirrored
        image = rng.randint(0, 90, (20, 24, 3)).astype(np.uint8)
        image[2 + 9 * (i % 2) : 9 + 9 * (i % 2), 8:16] += 150
        cv2.imwrite(str(data / f"{i}.png"), image)
    lines = [f"{i}.png {i % 2}\n" for i in range(36)]
    (data / "train.txt").write_text("".join(lines[:24]))
    (data / "val.txt").write_text("".join(lines[24:]))
    (data / "names.txt").write_text("above\nbelow\n")
    (example / "train_val.prototxt").write_text(NET)
    (example / "old_deploy.prototxt").write_text(OLD_DEPLOY)
    (example / "solver.prototxt").write_text(SOLVER)
    for script in SCRIPTS.iterdir():
        shutil.copy(script, example)
    for folder in ("build/tools", "build/examples/cpp_classification", "tools/extra"):
        assert caffe_compat("shim", folder) == 0
    return tmp_path


@pytest.mark.slow
def test_from_pictures_to_a_plot(caffe_root: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for script in ("create_db.sh", "train.sh", "extract_and_plot.sh"):
        done = subprocess.run(
            ["sh", f"examples/shapes/{script}"], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        if script == "train.sh":
            assert float(done.stdout.rpartition("accuracy = ")[2].split()[0]) == 1
    example = caffe_root / "examples" / "shapes"
    assert read_binaryproto(example / "mean.binaryproto").shape == (1, 3, 16, 16)
    assert len(open_database(str(example / "features"), "LEVELDB").keys) == 12
    assert len(open_database(str(example / "scores"), "LEVELDB").keys) == 12
    first, second, third = (example / "classes.txt").read_text().splitlines()
    assert first == "---------- Prediction for data/shapes/0.png ----------"
    assert second.endswith(' - "above"')
    assert float(second.split()[0]) > 0.5 > float(third.split()[0])
    assert (example / "train.log.train").read_text().splitlines()[0] == "NumIters,Seconds,LearningRate,loss"
    assert [line.split(",")[0] for line in (example / "train.log.test").read_text().splitlines()] == [
        *("NumIters", "0.0", "15.0", "30.0"),
    ]
    assert (example / "loss.png").read_bytes().startswith(b"\x89PNG")
