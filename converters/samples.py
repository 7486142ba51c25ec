"""Numbers to try a net on where nothing recorded is at hand: drawn from a seed, and such as its layers can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from torch import nn

from caffe_compat.layers.python.proposal import ProposalLayer
from caffe_compat.network.graph import Node
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Shape

__all__ = ["sample_inputs"]

# Layers that only hand their bottom on, perhaps in another shape.
_HANDING_ON = ("Reshape", "Flatten", "Split", "Permute", "Transpose", "Dropout")


def sample_inputs(net: CaffeNet, shapes: Mapping[str, Shape] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """For every input that a layer reads an array, float32: evenly drawn from -1 to 1, unless its reader needs more.

    Args:
        shapes: of the inputs; by default those the net was built for.
    """
    rng = np.random.RandomState(seed)
    shapes = shapes or net.input_shapes
    needed = net.program.needed_inputs
    found = {}
    for value, name in zip(net.program.inputs, net.program.input_names, strict=True):
        if name in needed:
            readers = list(_readers(net, value))
            draw = next((d for d in (_drawer(net, *reader, shapes) for reader in readers) if d is not None), _even)
            found[name] = np.asarray(draw(rng, tuple(shapes[name])), np.float32)
    return found


Draw = Callable[[np.random.RandomState, Shape], np.ndarray]


def _even(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    return rng.uniform(-1, 1, shape)


def _readers(net: CaffeNet, value: int) -> Iterator[tuple[Node, int]]:
    """The layers that read ``value``, and as which bottom; through layers that only hand it on, too."""
    for node in net.program.nodes():
        for place, bottom in enumerate(node.bottoms):
            if bottom == value:
                yield node, place
                if node.type in _HANDING_ON:
                    for top in node.tops:
                        yield from _readers(net, top)


def _drawer(net: CaffeNet, node: Node, place: int, shapes: Mapping[str, Shape]) -> Draw | None:
    """What draws for a bottom that is no picture, map or vector; None for any other."""
    module = net.get_submodule(node.module_name)
    if node.type in ("LSTM", "RNN", "Lstm") and place == 1:
        return lambda rng, shape: (rng.rand(*shape) > 0.3).astype(np.float32)
    if node.type == "Embed":
        return _whole(module.get_parameter("weight").shape[0])
    if node.type == "BatchReindex" and place == 1:
        return _whole(net.shapes[node.bottoms[0]][0])
    if node.type == "Filter" and place == len(node.bottoms) - 1:
        return _whole(2)
    if node.type in ("Accuracy", "SoftmaxWithLoss", "MultinomialLogisticLoss", "InfogainLoss", "HingeLoss"):
        return _whole(net.shapes[node.bottoms[0]][getattr(module, "axis", 1)]) if place == 1 else None
    if ("ROI" in node.type or node.type == "DecodeBBox") and place == len(node.bottoms) - 1 and place:
        return _regions(net, module)
    if node.type in ("DetectionOutput", "DetectionOutputExtended") and place == 2:
        return _priors
    proposes = node.type in ("Proposal", "BoxOutput", "FrcnnOutput") or isinstance(module, ProposalLayer)
    if proposes and place == 2:
        return lambda rng, shape: np.resize([*_picture(net), 1.0], shape)
    return None


def _whole(below: int) -> Draw:
    return lambda rng, shape: rng.randint(0, below, shape)


def _priors(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    """Prior boxes within an image of side 1, and their variances: (..., 2, 4 x boxes)."""
    low, high = np.sort(rng.uniform(0, 1, (2, *shape[:-2], shape[-1] // 4, 2)), 0)
    boxes = np.concatenate([low, high + 0.01], -1).reshape(*shape[:-2], 1, shape[-1])
    variances = np.resize((0.1, 0.1, 0.2, 0.2), boxes.shape)
    return np.concatenate([boxes, variances], -2)


def _picture(net: CaffeNet) -> tuple[int, int]:
    """(height, width) of the first input that is a picture."""
    return next(((shape[2], shape[3]) for shape in net.input_shapes.values() if len(shape) == 4), (100, 100))


def _regions(net: CaffeNet, module: nn.Module) -> Draw:
    """Rows (image, x1, y1, x2, y2) in pixels of the picture."""

    def draw(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
        height, width = _picture(net)
        count, images = shape[0], next(iter(net.input_shapes.values()))[0]
        x, y = np.sort(rng.uniform(0, width - 1, (2, count)), 0), np.sort(rng.uniform(0, height - 1, (2, count)), 0)
        rows = np.stack([rng.randint(0, images, count), x[0], y[0], x[1], y[1]], 1)
        return rows.reshape(shape) if rows.size == np.prod(shape) else rng.uniform(-1, 1, shape)

    return draw
