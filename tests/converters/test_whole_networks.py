"""Whole networks, stored ones and such as are built in tests, in ONNX and as programs, at more than one batch.

(As plain PyTorch: test_python_format.py.)
"""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe_compat
import converters
from caffe_compat import CaffeNet, LayerError
from tests.converters.test_python_format import DRAWN, STORED, _drawn

NAMES = [*STORED, *DRAWN]


def _nets(name: str, reference: Path) -> list[CaffeNet]:
    """The network as its definition has it, and for one item where that is allowed."""
    if name in DRAWN:
        return [_drawn(name)]
    path = reference / STORED[name]
    net = caffe_compat.load(path, seed=1)
    shapes = {blob: (1, *shape[1:]) for blob, shape in net.input_shapes.items()}
    try:
        return [net, caffe_compat.load(path, seed=1, input_shapes=shapes)]
    except caffe_compat.CaffeCompatError:
        return [net]


def _check(net: CaffeNet, path: Path) -> int:
    """Export with any batch, or that of the definition if it has no other; how many runs agreed."""
    try:
        exported = converters.export(net, path, dynamic_batch=True)
    except LayerError:  # one is bound to the batch
        exported = converters.export(net, path)
    assert exported.verification is not None
    assert exported.verification.worst_rel <= 1e-5
    assert not exported.verification.apart
    return exported.verification.runs


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "mask3d" in n else n for n in NAMES])
def test_onnx(name: str, reference: Path, tmp_path: Path) -> None:
    for net in _nets(name, reference):
        _check(net, tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_programs_with_torch_alone(name: str, reference: Path, tmp_path: Path) -> None:
    for net in _nets(name, reference):
        _check(net, tmp_path / "net.pt2")
