"""Pooling over windows of an image, and SPP, which pools over a pyramid of grids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import widened

__all__ = ["SPP", "Pooling", "Windows", "average_pool", "max_pool", "stochastic_pool"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Where the windows lie; each pair is (vertical, horizontal)."""

    kernel: Pair
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    ceil: bool = True

    def counts(self, height: int, width: int) -> Pair:
        """How many windows there are down and across.

        The last one may hang over the padding (``ceil``), and without padding may even lie beyond the image. With
        padding, one that would start beyond the image and its padding is dropped.
        """
        found = []
        for size, kernel, stride, pad in zip((height, width), self.kernel, self.stride, self.pad, strict=True):
            room = size + 2 * pad - kernel
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            if any(self.pad) and (count - 1) * stride >= size + pad:
                count -= 1
            found.append(count)
        return found[0], found[1]

    def torch_ceil_mode(self, height: int, width: int) -> bool | None:
        """The ``ceil_mode`` with which torch's pooling takes exactly these windows; None if neither does."""
        if any(2 * p > k for p, k in zip(self.pad, self.kernel, strict=True)):
            return None
        counts = self.counts(height, width)
        for ceil in (False, True):
            # What torch does: like Caffe, except that it drops a last window also where there is no padding.
            for size, kernel, stride, pad, count in zip(
                (height, width), self.kernel, self.stride, self.pad, counts, strict=True
            ):
                room = size + 2 * pad - kernel
                found = (-(-room // stride) if ceil else room // stride) + 1
                if ceil and (found - 1) * stride >= size + pad:
                    found -= 1
                if found != count:
                    break
            else:
                return ceil
        return None

    def padded(self, x: Tensor, value: float) -> Tensor:
        """``x`` with ``value`` all around, so that every window lies inside."""
        amounts = []
        for size, count, k, s, p in zip(
            x.shape[2:], self.counts(x.shape[2], x.shape[3]), self.kernel, self.stride, self.pad, strict=True
        ):
            amounts.append((p, max(0, (count - 1) * s + k - size - p)))
        return F.pad(x, (*amounts[1], *amounts[0]), value=value)


def max_pool(x: Tensor, windows: Windows, with_mask: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The largest value of each window of (N, C, H, W), padding left out; of equal ones, the first counts.

    A window without a single pixel gives the lowest finite number. Unlike in Caffe, NaN wins over numbers, and a window
    of nothing but -inf may give -inf.

    Returns:
        The values (N, C, H', W'); ``with_mask`` also where each lies in its plane (row * W + column, -1 for nowhere).
    """
    height, width = x.shape[2:]
    ceil_mode = windows.torch_ceil_mode(height, width)
    if ceil_mode is not None:
        if not with_mask:
            return F.max_pool2d(x, windows.kernel, windows.stride, windows.pad, 1, ceil_mode)
        values, indices = F.max_pool2d_with_indices(x, windows.kernel, windows.stride, windows.pad, (1, 1), ceil_mode)
    else:
        padded = windows.padded(x, torch.finfo(x.dtype).min)
        values, indices = F.max_pool2d_with_indices(padded, windows.kernel, windows.stride)
        rows = indices // padded.shape[3] - windows.pad[0]
        columns = indices % padded.shape[3] - windows.pad[1]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        indices = torch.where(inside, rows * width + columns, -1)
    # Half precision cannot count the pixels of an image.
    return (values, indices.to(torch.promote_types(x.dtype, torch.float32))) if with_mask else values


def average_pool(x: Tensor, windows: Windows) -> Tensor:
    """The sum of each window of (N, C, H, W), divided by how much of it lies in the padded image."""
    height, width = x.shape[2:]
    ceil_mode = windows.torch_ceil_mode(height, width)
    if ceil_mode is not None:
        return F.avg_pool2d(x, windows.kernel, windows.stride, windows.pad, ceil_mode, count_include_pad=True)
    total = F.avg_pool2d(windows.padded(widened(x), 0.0), windows.kernel, windows.stride, divisor_override=1)
    sides = []
    for size, count, k, s, p in zip(
        (height, width), windows.counts(height, width), windows.kernel, windows.stride, windows.pad, strict=True
    ):
        start = torch.arange(count, device=x.device) * s - p
        sides.append((start + k).clamp(max=size + p) - start)
    return (total / (sides[0][:, None] * sides[1]).to(total.dtype)).to(x.dtype)


def stochastic_pool(x: Tensor, windows: Windows, generator: torch.Generator | None, training: bool) -> Tensor:
    """In training, a value of each window drawn with probability proportional to it; else the expected value of that.

    (N, C, H, W) gives (N, C, H', W'). Values are taken to be >= 0, as behind a ReLU; where a window's sum is not
    positive, the expected value is 0.
    """
    dtype = x.dtype
    x = windows.padded(widened(x), 0.0)
    if not training:
        total = F.avg_pool2d(x, windows.kernel, windows.stride, divisor_override=1)
        squares = F.avg_pool2d(x * x, windows.kernel, windows.stride, divisor_override=1)
        positive = total > 0
        return torch.where(positive, squares / torch.where(positive, total, 1), 0).to(dtype)
    cells = x.unfold(2, windows.kernel[0], windows.stride[0]).unfold(3, windows.kernel[1], windows.stride[1]).flatten(4)
    sums = cells.detach().cumsum(-1)
    # Caffe draws from (0, 1], so that a leading zero is never taken.
    draw = 1 - torch.rand(sums.shape[:-1], generator=generator, device=x.device, dtype=x.dtype)
    # argmax gives the first of equal ones: where the running sum first reaches the threshold.
    chosen = (sums >= (draw * sums[..., -1]).unsqueeze(-1)).to(torch.uint8).argmax(-1, keepdim=True)
    return cells.gather(-1, chosen).squeeze(-1).to(dtype)


def _pool(x: Tensor, method: str, windows: Windows, layer: Layer) -> Tensor:
    if method == "MAX":
        values = max_pool(x, windows)
        assert isinstance(values, Tensor)
        return values
    if method == "AVE":
        return average_pool(x, windows)
    generator = None
    if layer.training and not x.is_meta:
        generator = layer.randomness.generator(layer.layer_name, x.device)
    return stochastic_pool(x, windows, generator, layer.training)


class Pooling(Layer):
    """(N, C, H, W) gives (N, C, H', W'), and for MAX a second top with the places of the maxima if asked for.

    Args:
        method: ``"MAX"``, ``"AVE"`` or ``"STOCHASTIC"``.
        windows: where the windows lie; None for one window over the whole image, whatever its size.
    """

    def __init__(self, method: str, windows: Windows | None, with_mask: bool) -> None:
        super().__init__()
        self.method = method
        self.windows = windows
        self.with_mask = with_mask

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        (x,) = bottoms
        counts = (1, 1) if self.windows is None else self.windows.counts(x.shape[2], x.shape[3])
        top = x.new_empty((*x.shape[:2], *counts))
        return (top, top) if self.with_mask else top

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        windows = self.windows
        if windows is None:
            if self.method == "AVE":
                return x.mean((2, 3), keepdim=True)
            windows = Windows((x.shape[2], x.shape[3]))
        if self.with_mask:
            return max_pool(x, windows, with_mask=True)
        return _pool(x, self.method, windows, self)


@layer("Pooling", bottoms=1, tops=(1, 2))
def pooling(spec: LayerSpec) -> Layer:
    params = spec.params("pooling_param")
    shape = spec.images()
    with_mask = len(spec.tops) == 2
    if with_mask and params.pool != "MAX":
        spec.fail(f"pool is {params.pool} and there are 2 tops; only MAX has a second top, the mask")
    windows = _windows(spec, params)
    if windows is not None:
        if any(windows.pad) and params.pool == "STOCHASTIC":
            spec.fail(f"pad is {windows.pad}; STOCHASTIC pooling has no padding")
        if any(windows.pad) and any(p >= k for p, k in zip(windows.pad, windows.kernel, strict=True)):
            spec.fail(f"pad {windows.pad} must be smaller than the kernel {windows.kernel}")
        if min(windows.counts(*shape[2:])) < 1:
            spec.fail(
                f"a kernel of {windows.kernel} with pad {windows.pad} does not fit into a bottom of shape {shape}"
            )
    return Pooling(params.pool, windows, with_mask)


def _windows(spec: LayerSpec, params: Params) -> Windows | None:
    """Kernel, stride, pad and rounding; None for global pooling."""
    stride, pad = _pair(spec, params, "stride", 1, 1), _pair(spec, params, "pad", 0, 0)
    ceil = params.get("round_mode", "CEIL") == "CEIL"
    if params.has("ceil_mode"):
        # What several forks have in place of round_mode, and older than it.
        if params.has("round_mode"):
            spec.fail("round_mode and ceil_mode exclude each other")
        ceil = params.ceil_mode
    given = [name for name in ("kernel_size", "kernel_h", "kernel_w") if params.has(name)]
    if params.get("global_pooling", False):
        if given:
            spec.fail(f"global_pooling pools over the whole image, so {given[0]} must not be set")
        if pad != (0, 0) or stride != (1, 1):
            spec.fail(f"global_pooling needs pad 0 and stride 1, found pad {pad} and stride {stride}")
        return None
    if "kernel_size" in given:
        if len(given) == 3:
            spec.fail("kernel_size and kernel_h with kernel_w exclude each other")
        return Windows(_numbers(spec, params, "kernel_size", 1), stride, pad, ceil)
    if len(given) != 2:
        spec.fail(f"it needs kernel_size, or both kernel_h and kernel_w; found {given[0] if given else 'none of them'}")
    kernel = (params.kernel_h, params.kernel_w)
    if min(kernel) < 1:
        spec.fail(f"kernel_h and kernel_w are {kernel}; each must be at least 1")
    return Windows(kernel, stride, pad, ceil)


def _pair(spec: LayerSpec, params: Params, name: str, default: int, least: int) -> Pair:
    """``name``, or ``name_h`` and ``name_w``."""
    given = [n for n in (f"{name}_h", f"{name}_w") if params.has(n)]
    if not given:
        return _numbers(spec, params, name, least) if params.has(name) else (default, default)
    if params.has(name) or len(given) == 1:
        spec.fail(f"{given[0]} is set; it needs {name}_h and {name}_w together, and no {name} beside them")
    pair = (getattr(params, f"{name}_h"), getattr(params, f"{name}_w"))
    if min(pair) < least:
        spec.fail(f"{name}_h and {name}_w are {pair}; each must be at least {least}")
    return pair


def _numbers(spec: LayerSpec, params: Params, name: str, least: int) -> Pair:
    """``name`` as (vertical, horizontal); some forks let it be given once for each."""
    value = getattr(params, name)
    found = value if isinstance(value, tuple) else (value,)
    if len(found) > 2:
        spec.fail(f"{name} is given {len(found)} times; images have 2 axes")
    if min(found) < least:
        spec.fail(f"{name} is {min(found)}; it must be at least {least}")
    return found[0], found[-1]


class SPP(Layer):
    """Pooling over grids of 1 x 1, 2 x 2, 4 x 4 ... windows, one after the other.

    (N, C, H, W) gives (N, C * (1 + 4 + 16 + ...)); a pyramid of one level gives (N, C, 1, 1).
    """

    def __init__(self, method: str, levels: int) -> None:
        super().__init__()
        self.method = method
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        pooled = [_pool(x, self.method, self._windows(x, level), self) for level in range(self.levels)]
        return pooled[0] if self.levels == 1 else torch.cat([p.flatten(1) for p in pooled], 1)

    def _windows(self, x: Tensor, level: int) -> Windows:
        """The windows of a level, 2^level each way, padded so that they cover the image."""
        bins = 2**level
        height, width = x.shape[2:]
        kernel = (-(-height // bins), -(-width // bins))
        pad = ((kernel[0] * bins - height + 1) // 2, (kernel[1] * bins - width + 1) // 2)
        problem = None
        if any(pad) and any(p >= k for p, k in zip(pad, kernel, strict=True)):
            problem = f"is too small for {bins} windows each way"
        elif any(pad) and self.method == "STOCHASTIC":
            problem = f"needs padding for {bins} windows each way, which STOCHASTIC pooling does not have"
        if problem:
            raise LayerError(
                f"a bottom of {height} x {width} pixels {problem}",
                layer=self.layer_name,
                type="SPP",
            )
        return Windows(kernel, kernel, pad)


@layer("SPP", bottoms=1, tops=1)
def spp(spec: LayerSpec) -> Layer:
    params = spec.params("spp_param")
    spec.images(pixels=True)
    if params.pyramid_height < 1:
        spec.fail(f"pyramid_height is {params.pyramid_height}; it must be at least 1")
    return SPP(params.pool, params.pyramid_height)
