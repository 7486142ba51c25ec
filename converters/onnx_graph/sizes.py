"""Sizes of a net's values, and which of them vary with the input: shapes are inferred for two inputs and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from caffe_compat.errors import LayerError, first_line
from caffe_compat.layers.bvlc.shape import Filter
from caffe_compat.layers.forks.proposals import BoxGroupOutput, BoxOutput, FrcnnOutput, ScaleRoute
from caffe_compat.layers.forks.rpn import Proposal
from caffe_compat.layers.forks.ssd import DetectionOutput
from caffe_compat.layers.forks.ssd_extended import DetectionOutputExtended
from caffe_compat.layers.forks.yolo import YoloDetectionOutput, Yolov3DetectionOutput
from caffe_compat.layers.forks.yolo_second import RegionDetections
from caffe_compat.layers.python.frcnn import FrcnnProposal
from caffe_compat.layers.python.proposal import ProposalLayer
from caffe_compat.network.graph import Node
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Layer, Shape

from ..dynamic import Axes, other_shapes, rebuilt

__all__ = ["Size", "Sizes", "is_fixed", "sizes_of"]


@dataclass(frozen=True)
class Size:
    """A size that varies: what it is as the net was built, and what it becomes where the input is larger."""

    built: int
    larger: int


Sizes: TypeAlias = tuple[int | Size, ...]

# Layers whose tops have as many rows as their bottoms' values make them, along this axis.
_ROWS = {
    BoxGroupOutput: 0,
    BoxOutput: 0,
    DetectionOutput: 2,
    DetectionOutputExtended: 2,
    Filter: 0,
    FrcnnOutput: 0,
    FrcnnProposal: 0,
    Proposal: 0,
    ProposalLayer: 0,
    RegionDetections: 2,
    ScaleRoute: 0,
    YoloDetectionOutput: 2,
    Yolov3DetectionOutput: 2,
}
# How many more rows the larger input is taken to make: a number that sizes do not meet by chance.
_MORE_ROWS = 17


def is_fixed(sizes: Sequence[int | Size]) -> bool:
    """Whether none of the sizes varies."""
    return not any(isinstance(size, Size) for size in sizes)


def sizes_of(net: CaffeNet, axes: Axes) -> tuple[Sizes, ...]:
    """Of every value of ``net`` the sizes of its axes.

    Raises:
        LayerError: a layer is bound to the sizes that the net was built for.
    """
    varying = [node for node in net.program.nodes() if type(net.get_submodule(node.module_name)) in _ROWS]
    if not axes and not varying:
        return tuple(net.shapes)
    if axes:
        rebuilt(net, other_shapes(net, axes))  # what a definition ties down is said in its own words
    plain = rebuilt(net, net.input_shapes)
    larger = _inferred(plain, net, other_shapes(net, axes))
    return tuple(
        tuple(a if a == b else Size(a, b) for a, b in zip(first, second, strict=True))
        for first, second in zip(net.shapes, larger, strict=True)
    )


def _inferred(plain: CaffeNet, net: CaffeNet, shapes: dict[str, Shape]) -> list[Shape]:
    """The shapes of all values for inputs of ``shapes``, by the modules of ``plain``, which have no memory."""
    values: list[Shape] = list(net.shapes)
    for value, name in zip(net.program.inputs, net.program.input_names, strict=True):
        values[value] = shapes[name]
    for node in net.program.nodes():
        module = plain.get_submodule(node.module_name)
        bottoms = [torch.empty(values[v], device="meta") for v in node.bottoms]
        for value, shape in zip(node.tops, _tops(module, bottoms, node), strict=False):
            axis = _rows_axis(module, shape)
            values[value] = tuple(n + _MORE_ROWS if i == axis else n for i, n in enumerate(shape))
    return values


def _tops(module: torch.nn.Module, bottoms: Sequence[Tensor], node: Node) -> list[Shape]:
    try:
        tops = module.infer(*bottoms) if isinstance(module, Layer) else module(*bottoms)
    except Exception as error:  # a user's own layer may raise anything
        found = first_line(error)
        raise LayerError(f"allows no other size, which was asked for: {found}", layer=node.name, type=node.type) from (
            error
        )
    return [tuple(top.shape) for top in ([tops] if isinstance(tops, Tensor) else tops)]


def _rows_axis(module: torch.nn.Module, shape: Shape) -> int | None:
    axis = _ROWS.get(type(module))
    return 0 if axis == 2 and len(shape) == 2 else axis
