"""Layers that slide a kernel or multiply by a matrix, and pooling."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from caffe_compat.layers.bvlc.convolution import Convolution, Deconvolution
from caffe_compat.layers.bvlc.inner_product import Embed, InnerProduct
from caffe_compat.layers.bvlc.pooling import Pooling, Windows, average_pool, max_pool, stochastic_pool

from ..classes import literal
from ..code import Call, collection
from ..layers import Place, Written, written

__all__: list[str] = []

_CEIL = "Caffe rounds the size of the top up: a last window may hang over the edge"
_CEIL_MEAN = f"{_CEIL}. Windows are divided by what of them lies in the padded image"


def _each(numbers: tuple[int, ...]) -> str:
    """One number for all axes if it is the same."""
    return str(numbers[0]) if len(set(numbers)) == 1 else repr(numbers)


def _unless(name: str, numbers: tuple[int, ...], usual: int) -> list[str]:
    return [] if set(numbers) == {usual} else [f"{name}={_each(numbers)}"]


def _weights(module: nn.Module) -> Mapping[str, Tensor]:
    return dict(module.named_parameters(recurse=False))


def _slid(at: Place, module: Convolution, name: str, channels: int) -> Written | None:
    geometry = module.geometry
    if not module.direct or not 1 <= len(geometry.kernel) <= 3:
        return None  # channels elsewhere than torch expects them, or a kernel larger than the image
    member = Call(
        f"nn.{name}{len(geometry.kernel)}d",
        [
            str(channels),
            str(module.outputs),
            _each(geometry.kernel),
            *_unless("stride", geometry.stride, 1),
            *_unless("padding", geometry.pad, 0),
            *_unless("dilation", geometry.dilation, 1),
            *([f"groups={module.group}"] if module.group != 1 else []),
            *(["bias=False"] if module.bias is None else []),
        ],
    )
    calls = [f"{at.me}({bottom})" for bottom in at.bottoms]
    return Written(calls[0] if len(calls) == 1 else collection(calls), member, _weights(module))


@written(Convolution)
def convolution(at: Place, module: Convolution) -> Written | None:
    return _slid(at, module, "Conv", module.weight.shape[1] * module.group)


@written(Deconvolution)
def deconvolution(at: Place, module: Deconvolution) -> Written | None:
    return _slid(at, module, "ConvTranspose", module.weight.shape[0])


@written(InnerProduct)
def inner_product(at: Place, module: InnerProduct) -> Written | None:
    if module.transpose:
        return None
    outputs, inputs = module.weight.shape
    member = Call("nn.Linear", [str(inputs), str(outputs), *(["bias=False"] if module.bias is None else [])])
    flat = at.x if len(at.shapes[0]) == module.axis + 1 else f"{at.x}.flatten({module.axis})"
    return Written(f"{at.me}({flat})", member, _weights(module))


@written(Embed)
def embed(at: Place, module: Embed) -> Written | None:
    if module.bias is not None:
        return None
    rows, size = module.weight.shape
    return Written(f"{at.me}({at.x}.long())", Call("nn.Embedding", [str(rows), str(size)]), _weights(module))


@written(Pooling)
def pooling(at: Place, module: Pooling) -> Written | None:
    windows = module.windows
    if module.with_mask:
        return None
    if windows is None:
        if module.method == "AVE":
            return Written(f"{at.x}.mean((2, 3), keepdim=True)")
        if module.method == "MAX":
            return Written(f"F.max_pool2d({at.x}, {at.x}.shape[2:])")
        return None
    if module.method == "STOCHASTIC":
        return Written(Call(at.function(stochastic_pool), [at.x, literal(windows, at.carried), "None", "False"]))
    if not _as_torch_has_them(windows):
        pool = at.function(max_pool if module.method == "MAX" else average_pool)
        return Written(Call(pool, [at.x, literal(windows, at.carried)]))
    member = Call(
        f"nn.{'Max' if module.method == 'MAX' else 'Avg'}Pool2d",
        [
            _each(windows.kernel),
            # torch's own default is the size of the kernel.
            *([] if windows.stride == windows.kernel else [f"stride={_each(windows.stride)}"]),
            *_unless("padding", windows.pad, 0),
            *(["ceil_mode=True"] if windows.ceil else []),
        ],
    )
    note = (_CEIL if module.method == "MAX" else _CEIL_MEAN) if windows.ceil else ""
    return Written(at.call(), member, note=note)


def _as_torch_has_them(windows: Windows) -> bool:
    """Whether torch takes the same windows of images of every size.

    It refuses padding beyond half a kernel. It drops a last window that begins behind the image; Caffe only where there
    is padding, and without it there is such a window only if the stride exceeds the kernel.
    """
    if any(2 * pad > kernel for pad, kernel in zip(windows.pad, windows.kernel, strict=True)):
        return False
    within = all(stride <= kernel for stride, kernel in zip(windows.stride, windows.kernel, strict=True))
    return not windows.ceil or any(windows.pad) or within
