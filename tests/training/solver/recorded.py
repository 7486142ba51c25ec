"""The recorded solver runs, and a solver over their network."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from caffe_compat.training.solver import Solver, SolverSettings, parse_solver

REFERENCE = Path(__file__).parents[3] / "reference_outputs"
FILES = REFERENCE / "solvers"

with h5py.File(REFERENCE / "solvers.h5") as _file:
    NET = str(_file.attrs["net"])
    INPUTS = {name: torch.from_numpy(_file[name][()]) for name in ("x", "t")}
    CASES = {name: str(_file[name].attrs["solver"]) for name in _file if "solver" in _file[name].attrs}


def recorded_value(layer: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The weights that the recorded runs began with."""
    state = np.random.RandomState(zlib.crc32(f"{layer}:{index}".encode()))
    if len(shape) == 1:
        return state.uniform(-0.1, 0.1, shape).astype(np.float32)
    return (state.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32)


def make_net(text: str = NET, **options: Any) -> CaffeNet:
    parsed = parse_message(text)
    return CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name, **options)


def set_recorded_weights(net: CaffeNet) -> None:
    for node in net.nodes_with_blobs():
        for i, (name, blob) in enumerate(net.blobs_of(node.module_name).items()):
            value = torch.from_numpy(recorded_value(node.name, i, tuple(blob.shape)))
            net.assign_blob(node.module_name, name, value)


def recorded_solver(settings: SolverSettings, folder: Path, **options: Any) -> Solver:
    """A solver over the recorded network with its first weights and inputs."""
    definition, state = settings.train.definition()
    net = CaffeNet(definition.message, state, dialect=definition.schema.name)
    net.materialize(0)
    set_recorded_weights(net)
    return Solver(settings, net, lambda k: INPUTS, base=folder, **options)


def recorded_case(name: str, folder: Path, **options: Any) -> Solver:
    (folder / "small.prototxt").write_text(NET)
    return recorded_solver(parse_solver(CASES[name], base=folder), folder, **options)
