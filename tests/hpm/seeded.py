"""Weights and images that the recorded networks were given, from seeds."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from caffe_compat import CaffeNet
from caffe_compat.access import FileAccess
from caffe_compat.network.definition import Definition
from caffe_compat.network.graph import NetState
from caffe_compat.network.loading import build_net


def param_value(layer: str, i: int, shape: tuple[int, ...]) -> np.ndarray:
    """Blob ``i`` of ``layer``; see reference_outputs/README.md."""
    draw = np.random.RandomState(zlib.crc32(f"{layer}:{i}".encode()))
    if len(shape) == 1:
        return draw.uniform(-0.1, 0.1, shape).astype(np.float32)
    return (draw.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32)


def frame(k: int, size: int) -> np.ndarray:
    """Image ``k``, (3, size, size), as the data layer gives it: (v - 128) / 256."""
    return ((np.random.RandomState(k).uniform(0, 255, (3, size, size)) - 128) * 0.00390625).astype(np.float32)


def seeded_net(definition: Definition, phase: str = "TEST", files: FileAccess | None = None) -> CaffeNet:
    """The network of ``definition`` with seeded weights."""
    net, _ = build_net(definition, None, state=NetState(phase), files=files, seed=0)
    for node in net.nodes_with_blobs():
        for i, (name, blob) in enumerate(net.blobs_of(node.module_name).items()):
            net.assign_blob(node.module_name, name, torch.from_numpy(param_value(node.name, i, tuple(blob.shape))))
    return net
