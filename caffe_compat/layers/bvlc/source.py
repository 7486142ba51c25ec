"""Layers without bottoms that bring values of their own: Parameter and DummyData."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UsageError
from ...formats.limits import BATCH
from ...network.fillers import check_filler, fill
from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema.params import Params

__all__ = ["DummyData", "Parameter"]


class Parameter(Layer):
    """A learnable blob as a top. Without a filler it starts with 0."""

    value: Tensor

    def __init__(self, shape: Sequence[int], filler: Params | None = None) -> None:
        super().__init__()
        self.blob("value", shape, filler)

    def forward(self) -> Tensor:
        # A parameter, and each view of it, asks for gradients even where there are none to be had.
        return self.value if torch.is_grad_enabled() else self.value.detach()


@layer("Parameter", bottoms=0, tops=1)
def parameter(spec: LayerSpec) -> Layer:
    return Parameter(_sizes(spec, spec.params("parameter_param").shape.dim))


@layer("Parameter", bottoms=0, tops=1, dialects=("openvinotoolkit/training_toolbox_caffe",))
def parameter_with_filler(spec: LayerSpec) -> Layer:
    """The same with a filler, and a norm_axis that the fork's layer does not read."""
    params = spec.params("parameter_param")
    params.ignore("norm_axis")
    return Parameter(_sizes(spec, params.shape.dim), params.filler)


@layer("Parameter", bottoms=0, tops=1, dialects=("happynear/caffe-windows", "GuohongWu/caffe-windows"), verified=False)
def parameter_with_blob_filler(spec: LayerSpec) -> Layer:
    """The same with a filler by another name."""
    params = spec.params("parameter_param")
    return Parameter(_sizes(spec, params.shape.dim), params.blob_filler)


class DummyData(Layer):
    """Tops of fixed shapes. Random ones are drawn anew in every forward pass; without a filler they are 0."""

    like: Tensor

    def __init__(self, shapes: Sequence[Shape], tops_fillers: Sequence[Params | None]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.tops_fillers = tuple(tops_fillers)
        # With neither bottoms nor blobs, this tells the device and the precision of the tops.
        self.register_buffer("like", torch.empty(0, device="meta"), persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        return self.filled(self.shapes)

    def filled(self, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """A pass with tops of other shapes than the definition's: Caffe fills whatever size they were given.

        Raises:
            FileError: they take more memory than a batch may.
        """
        if not torch.compiler.is_compiling():
            needed = self.like.element_size() * sum(map(math.prod, shapes))
            BATCH.check(needed, f"what layer {self.layer_name!r} (DummyData) makes")
        generator = self.randomness.generator(self.layer_name, self.like.device)
        tops = [self.like.new_zeros(shape) for shape in shapes]
        for top, filler in zip(tops, self.tops_fillers, strict=True):
            if filler is not None:
                fill(top, filler, generator)
        return tuple(tops)

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(shape, device="meta") for shape in self.shapes)


@layer("DummyData", bottoms=0, tops=(1, None))
def dummy_data(spec: LayerSpec) -> Layer:
    p = spec.params("dummy_data_param")
    count = len(spec.tops)
    if p.data_filler and len(p.data_filler) not in (1, count):
        spec.fail(f"has {len(p.data_filler)} data fillers for {count} tops; none, one, or one each was expected")
    for filler in p.data_filler:
        try:
            check_filler(filler)
        except UsageError as error:
            spec.fail(error.detail)
    if any(p.has(name) for name in ("num", "channels", "height", "width")):
        if p.shape:
            spec.fail("has both shape and num, channels, height, width; keep shape")
        sizes = [_one_each(spec, name, getattr(p, name)) for name in ("num", "channels", "height", "width")]
        shapes = [tuple(shape) for shape in zip(*sizes, strict=True)]
    else:
        shapes = [_sizes(spec, shape.dim) for shape in _one_each(spec, "shape", p.shape)]
    fillers = _one_each(spec, "data_filler", p.data_filler or (None,))
    return DummyData(shapes, fillers)


def _one_each(spec: LayerSpec, name: str, values: Sequence) -> list:
    """``values``, one for each top; a single value holds for all."""
    count = len(spec.tops)
    if len(values) not in (1, count):
        spec.fail(f"{name} is given {len(values)} times for {count} tops; once, or once each, was expected")
    return list(values) * count if len(values) == 1 else list(values)


def _sizes(spec: LayerSpec, dims: Sequence[int]) -> Shape:
    if any(dim < 0 for dim in dims):
        spec.fail(f"shape {list(dims)} has a negative size")
    return tuple(dims)
