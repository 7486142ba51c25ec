"""Definitions that the benchmarks run, as prototxt text, and weights for them.

The sizes of the trunk are those of the pose network of "3D Human Pose Machines with Self-supervised Learning" (Wang et
al., TPAMI 2019), whose first half is that of "Convolutional Pose Machines" (Wei et al., CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from caffe_compat.formats.weights import write_caffemodel
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message

# Convolutions of 3x3 by name and output channels; "pool" halves the image.
TRUNK: tuple[tuple[str, int] | str, ...] = (
    *(("conv1_1", 64), ("conv1_2", 64), "pool"),
    *(("conv2_1", 128), ("conv2_2", 128), "pool"),
    *(("conv3_1", 256), ("conv3_2", 256), ("conv3_3", 256), ("conv3_4", 256), "pool"),
    *(("conv4_1", 512), ("conv4_2", 512)),
    *((f"conv4_{i}_CPM", 256) for i in range(3, 7)),
    *(("conv4_7_CPM", 128), ("special_conv_1", 128), ("special_conv_2", 128)),
)


def _layer(name: str, kind: str, bottoms: str, tops: str, more: str = "") -> str:
    wires = "".join(f'  bottom: "{b}"\n' for b in bottoms.split()) + "".join(f'  top: "{t}"\n' for t in tops.split())
    return f'layer {{\n  name: "{name}"\n  type: "{kind}"\n{wires}  {more}\n}}\n'


def _input(name: str, *shape: int) -> str:
    return _layer(name, "Input", "", name, f"input_param {{ shape {{ {' '.join(f'dim: {n}' for n in shape)} }} }}")


def _rectified(blob: str) -> str:
    return _layer(f"relu_{blob}", "ReLU", blob, blob)


def _dense(name: str, bottom: str, outputs: int) -> str:
    return _layer(name, "InnerProduct", bottom, name, f"inner_product_param {{ num_output: {outputs} }}")


def trunk(batch: int = 1, size: int = 368) -> str:
    """``conv1_1`` to ``fa_conv_2``: (batch, 3, 368, 368) gives (batch, 128, 10, 10)."""
    return _input("data", batch, 3, size, size) + "".join(_trunk_layers())


def _trunk_layers() -> Iterator[str]:
    bottom = "data"
    for i, entry in enumerate(TRUNK):
        if isinstance(entry, str):
            name = f"pool_{i}"
            yield _layer(name, "Pooling", bottom, name, "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
        else:
            name, outputs = entry
            sizes = f"num_output: {outputs} pad: 1 kernel_size: 3"
            yield _layer(name, "Convolution", bottom, name, f"convolution_param {{ {sizes} }}") + _rectified(name)
        bottom = name
    for name in ("fa_conv_1", "fa_conv_2"):
        sizes = "num_output: 128 pad: 1 kernel_size: 5 stride: 2"
        yield _layer(name, "Convolution", bottom, name, f"convolution_param {{ {sizes} }}") + _rectified(name)
        bottom = name


def pose_network(frames: int = 5, size: int = 368) -> str:
    """The trunk with its two LSTMs and its layers of refinement: 42 million weights, 170 MB, in full size."""
    text = _input("data", frames, 3, size, size) + _input("clip", frames, 1) + "".join(_trunk_layers())
    text += _dense("fc", "fa_conv_2", 1024)
    bottom = "fc"
    for name in ("lstm1", "lstm2"):
        steps = f"{name}_steps"
        text += _layer(steps, "Reshape", bottom, steps, "reshape_param { shape { dim: -1 dim: 1 dim: 1024 } }")
        text += _layer(name, "LSTM", f"{steps} clip", name, "recurrent_param { num_output: 1024 }")
        bottom = name
    text += _dense("fc-final_16", bottom, 48)
    text += _layer("pose", "Reshape", "fc-final_16", "pose", "reshape_param { shape { dim: -1 dim: 48 } }")
    text += _dense("change_tmp", "pose", 1024) + _rectified("change_tmp") + _dense("change", "change_tmp", 48)
    bottom = "change"
    for name in ("project_1", "project_2", "project_3"):
        text += _dense(name, bottom, 1024) + _rectified(name)
        bottom = name
    text += _layer("residual", "Eltwise", "project_1 project_3", "residual", "eltwise_param { operation: SUM }")
    return text + _dense("project_2d", "residual", 32)


def chain(layers: int) -> str:
    """``layers`` layers in a row, convolutions and ReLUs by turns, with what prototxts usually say of a convolution."""
    more = """param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 }
  convolution_param {
    num_output: 8 pad: 1 kernel_size: 3
    weight_filler { type: "gaussian" std: 0.01 }
    bias_filler { type: "constant" }
  }"""
    text, bottom = _input("data", 1, 8, 16, 16), "data"
    for i in range(layers // 2):
        text += _layer(f"conv{i}", "Convolution", bottom, f"conv{i}", more) + _rectified(f"conv{i}")
        bottom = f"conv{i}"
    return text


def write_weights(text: str, path: Path, seed: int = 0) -> None:
    """Write a caffemodel for the net that ``text`` defines; values keep activations of about the same size."""
    parsed = parse_message(text)
    net = CaffeNet(parsed.message, dialect=parsed.schema.name)
    rng = np.random.default_rng(seed)
    modules = {node.name: node.module_name for node in net.nodes_with_blobs()}
    blobs = []
    for layer in parsed.message.layer:
        shapes = [tuple(b.shape) for b in net.blobs_of(modules[layer.name]).values()] if layer.name in modules else []
        blobs.append([_drawn(rng, shape) for shape in shapes])
    write_caffemodel(path, parsed.message.SerializeToString(), blobs)


def draw_weights(net: CaffeNet, seed: int = 0) -> CaffeNet:
    """``net`` itself, with values that keep activations of about the same size. Statistics are those of noise."""
    rng = np.random.default_rng(seed)
    for node in net.nodes_with_blobs():
        for i, (blob, tensor) in enumerate(net.blobs_of(node.module_name).items()):
            shape = tuple(tensor.shape)
            if node.type == "BatchNorm":  # mean, variance, and what both are divided by
                values = np.full(shape, 0 if i == 0 else 1, np.float32)
            elif node.type in ("Scale", "Normalize") and i == 0:
                values = np.full(shape, 1 if node.type == "Scale" else 20, np.float32)
            else:
                values = _drawn(rng, shape)
            net.assign_blob(node.module_name, blob, torch.from_numpy(values))
    return net.materialize(seed)  # what is no blob, such as the state of an LSTM


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < 2:
        return np.full(shape, 0.01, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
