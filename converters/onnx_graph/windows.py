"""Operations of torch on matrices, and on windows and grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .operations import Operation, Traced, translates
from .sizes import Size

__all__: list[str] = []


@translates("mm", "bmm", "matmul", "mv", "dot")
def matmul(o: Operation, a: Traced, b: Traced) -> str:
    return o.op("MatMul", a.name, b.name)


@translates("addmm")
def addmm(o: Operation, bias: Traced, a: Traced, b: Traced, beta: float = 1, alpha: float = 1) -> str:
    return o.op("Gemm", a.name, b.name, bias.name, alpha=float(alpha), beta=float(beta))


@translates("convolution")
def convolution(
    o: Operation,
    x: Traced,
    weight: Traced,
    bias: Traced | None,
    stride: list[int],
    pad: list[int],
    dilation: list[int],
    transposed: bool,
    output_pad: list[int],
    group: int,
) -> str:
    return o.op(
        "ConvTranspose" if transposed else "Conv",
        x.name,
        weight.name,
        bias.name if bias is not None else "",
        strides=stride,
        pads=[*pad, *pad],
        dilations=dilation,
        group=group,
        output_padding=output_pad if transposed and any(output_pad) else None,
    )


@translates("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def native_batch_norm(
    o: Operation,
    x: Traced,
    weight: Traced | None,
    bias: Traced | None,
    mean: Traced | bool,
    variance: Traced | float,
    training: bool | float,
    momentum: float,
    eps: float = 1e-5,
) -> list[str]:
    if isinstance(mean, bool):
        # With the statistics of the batch: (x, weight, bias, training, momentum, eps).
        training, eps = mean, training
    along = [1, -1, *[1] * (x.rank - 2)]
    if training:
        axes = o.ints([axis for axis in range(x.rank) if axis != 1])
        centre = o.op("ReduceMean", x.name, axes, keepdims=1)
        centred = o.op("Sub", x.name, centre)
        spread = o.op("ReduceMean", o.op("Mul", centred, centred), axes, keepdims=1)
    else:
        assert isinstance(mean, Traced)
        assert isinstance(variance, Traced)
        centred = o.op("Sub", x.name, o.op("Reshape", mean.name, o.ints(along)))
        spread = o.op("Reshape", variance.name, o.ints(along))
    y = o.op("Div", centred, o.op("Sqrt", o.op("Add", spread, o.constant(eps, x.kind))))
    if weight is not None:
        y = o.op("Mul", y, o.op("Reshape", weight.name, o.ints(along)))
    if bias is not None:
        y = o.op("Add", y, o.op("Reshape", bias.name, o.ints(along)))
    return [y, "", ""][: len(o.made)]


def _pooled(
    o: Operation, x: Traced, kernel: list[int], stride: Sequence[int], pad: Sequence[int], rest: dict[str, Any]
) -> dict[str, Any]:
    count = len(kernel)
    pads = list(pad) * (count // len(pad)) if pad else [0] * count
    return {"kernel_shape": kernel, "strides": list(stride) or kernel, "pads": [*pads, *pads], **rest}


@translates("max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(
    o: Operation,
    x: Traced,
    kernel: list[int],
    stride: Sequence[int] = (),
    pad: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> list[str]:
    settings = _pooled(o, x, kernel, stride, pad, {"ceil_mode": int(ceil)})
    values, places = o.site.ops("MaxPool", x.name, outputs=2, **settings)
    plane = o.site.shape(x.sizes[2:])
    return [values, o.op("Mod", places, o.op("ReduceProd", plane, keepdims=0))]


@translates("avg_pool2d", "avg_pool3d")
def avg_pool(
    o: Operation,
    x: Traced,
    kernel: list[int],
    stride: Sequence[int] = (),
    pad: Sequence[int] = (0,),
    ceil: bool = False,
    with_pad: bool = True,
    divisor: int | None = None,
) -> str:
    rest = {"ceil_mode": int(ceil), "count_include_pad": int(with_pad)}
    y = o.op("AveragePool", x.name, **_pooled(o, x, kernel, stride, pad, rest))
    if divisor is None:
        return y
    return o.op("Mul", y, o.constant(float(np.prod(kernel)) / divisor, x.kind))


@translates("upsample_bilinear2d")
def upsample_bilinear2d(o: Operation, x: Traced, size: list[int | Size], align: bool, *_: object) -> str:
    mode = "align_corners" if align else "half_pixel"
    sizes = o.site.shape([*x.sizes[:2], *size])
    return o.op("Resize", x.name, "", "", sizes, mode="linear", coordinate_transformation_mode=mode)


@translates("upsample_nearest2d")
def upsample_nearest2d(o: Operation, x: Traced, size: list[int | Size], *_: object) -> str:
    sizes = o.site.shape([*x.sizes[:2], *size])
    return o.op(
        "Resize",
        x.name,
        "",
        "",
        sizes,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@translates("grid_sampler_2d")
def grid_sampler_2d(o: Operation, x: Traced, grid: Traced, mode: int, padding: int, align: bool) -> str:
    modes, paddings = ("linear", "nearest", "cubic"), ("zeros", "border", "reflection")
    mode_name = "bilinear" if modes[mode] == "linear" else modes[mode]
    return o.op(
        "GridSample", x.name, grid.name, mode=mode_name, padding_mode=paddings[padding], align_corners=int(align)
    )
