"""A training that takes a moment: data, network, solver file, and the command run over them."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat.cli import main
from caffe_compat.formats.weights import read_solverstate, read_weights

ROWS = 24
# Everything whose randomness or state must survive a restart: shuffled rows, dropout, statistics.
NET = """
name: "tiny"
layer { name: "data" type: "HDF5Data" top: "x" top: "y" include { phase: TRAIN }
  hdf5_data_param { source: "rows.txt" batch_size: 4 shuffle: true } }
layer { name: "data" type: "HDF5Data" top: "x" top: "y" include { phase: TEST }
  hdf5_data_param { source: "rows.txt" batch_size: 3 } }
layer { name: "first" type: "InnerProduct" bottom: "x" top: "h"
  inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "h" top: "h" }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "drop" type: "Dropout" bottom: "h" top: "h" }
layer { name: "second" type: "InnerProduct" bottom: "h" top: "p"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "y" top: "loss" }
"""
SOLVER = """net: "net.prototxt"
base_lr: 0.001
momentum: 0.9
weight_decay: 0.01
lr_policy: "step"
gamma: 0.5
stepsize: 3
max_iter: 8
display: 2
average_loss: 3
snapshot_prefix: "snap"
"""


def write_training(folder: Path, solver: str = "", net: str = NET) -> None:
    """``rows.txt``, ``net.prototxt`` and ``solver.prototxt`` in ``folder``; the settings in ``solver`` win."""
    rng = np.random.RandomState(0)
    x = rng.standard_normal((ROWS, 3, 5)).astype(np.float32)
    with h5py.File(folder / "rows.h5", "w") as file:
        file["x"], file["y"] = x, (x.reshape(ROWS, 15) @ rng.standard_normal((15, 7))).astype(np.float32)
    (folder / "rows.txt").write_text("rows.h5\n")
    (folder / "net.prototxt").write_text(net)
    kept = [line for line in SOLVER.splitlines() if line.partition(":")[0] + ":" not in solver.split()]
    (folder / "solver.prototxt").write_text("\n".join([*kept, solver]) + "\n")


def caffe_compat(*arguments: str) -> int:
    """Run the command in this process and this working directory; its exit status."""
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return int(exit.value.code or 0)


def train(*arguments: str) -> int:
    return caffe_compat("train", "--solver", "solver.prototxt", "--workers", "0", *arguments)


def blobs(path: Path | str) -> list[np.ndarray]:
    """All blobs of a caffemodel, and the history of the solverstate beside it."""
    with read_weights(path) as weights:
        found = [np.array(blob.data) for layer in weights.layers for blob in layer.blobs]
    state = read_solverstate(str(path).replace(".caffemodel", ".solverstate"))
    return found + [np.array(blob.data) for blob in state.history]


def assert_same(one: Path | str, other: Path | str) -> None:
    a, b = blobs(one), blobs(other)
    assert len(a) == len(b) > 4
    for x, y in zip(a, b, strict=True):
        assert np.array_equal(x, y)


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which one may send signals; its log comes from ``stderr``."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-m", "caffe_compat", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def recorded_value(layer: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The weights that recorded runs of whole networks began with."""
    state = np.random.RandomState(zlib.crc32(f"{layer}:{index}".encode()))
    if len(shape) == 1:
        return state.uniform(-0.1, 0.1, shape).astype(np.float32)
    return (state.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32)
