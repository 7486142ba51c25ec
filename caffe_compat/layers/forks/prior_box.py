"""PriorBox of the single-shot detector (SSD), and PriorBoxClustered of OpenVINO's fork."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..precision import HALF_PRECISION
from .families import CAMBRICON, SSD

__all__ = ["PriorBox"]

# BestSonny/SSTD stretches boxes by the ratio, not its root; MhLiao/TextBoxes has each box twice, the second half a cell
# lower; dreadlord1984/SSD_windows_caffe is compiled without the boxes of max_size; yuqj1991/caffe_train has kinds of
# boxes of its own. None of these is built here.
_FORKS = (
    *(fork for fork in SSD if fork != "BestSonny/SSTD"),
    *CAMBRICON,
    "BOBrown/caffe-ssd-microsoft",
    "luoyetx/mini-caffe",
)
_FIRST = ("MVIG-SJTU/RMPE", "choasup/caffe-yolo9000")

Offsets = tuple[tuple[float, float], ...]


class PriorBox(Layer):
    """Boxes of several sizes around every cell of the map, as parts of the image; below them, their variances.

    The top is (1, 2, 4 x boxes). It depends on shapes only.

    Args:
        sizes: (width, height) of the boxes of a cell in pixels.
        image, step: (width, height) of the image and of a cell in pixels; None takes the second bottom's size, and the
            size of the image divided by that of the map.
        offsets: (across, down) in cells of the boxes' centres; with several, a cell has each size at each of them.
    """

    def __init__(
        self,
        sizes: tuple[tuple[float, float], ...],
        variances: tuple[float, ...],
        image: tuple[float, float] | None,
        step: tuple[float, float] | None,
        offsets: Offsets,
        *,
        clip: bool,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.variances = variances
        self.image = image
        self.step = step
        self.offsets = offsets
        self.clip = clip

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        height, width = features.shape[2:]
        full = self.image or (image.shape[3], image.shape[2])
        step = self.step or (full[0] / width, full[1] / height)
        dtype = torch.float32 if features.dtype in HALF_PRECISION else features.dtype
        across, down = torch.tensor(self.offsets, device=features.device, dtype=dtype).unbind(1)
        x = (torch.arange(width, device=features.device, dtype=dtype)[:, None] + across) * step[0]
        y = (torch.arange(height, device=features.device, dtype=dtype)[:, None, None] + down) * step[1]
        # (height, width, sizes, offsets, 2)
        centres = torch.stack(torch.broadcast_tensors(x, y), -1)[:, :, None]
        sizes = torch.tensor(self.sizes, device=features.device, dtype=dtype)[:, None]
        corners = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
        boxes = corners / torch.tensor([*full, *full], device=features.device, dtype=dtype)
        if self.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(self.variances, device=features.device, dtype=dtype).expand_as(boxes)
        return torch.stack([boxes.reshape(-1), variances.reshape(-1)])[None].to(features.dtype)


@layer("PriorBox", bottoms=2, tops=1, dialects=_FORKS)
def prior_box(spec: LayerSpec) -> Layer:
    """Sizes are cut off to whole pixels."""
    params = spec.params("prior_box_param")
    offsets = _several_offsets(spec, params) if params.knows("offset_h") else _offsets(params)
    return _prior_box(spec, params, params.min_size, params.max_size, int, offsets)


@layer("PriorBox", bottoms=2, tops=1, dialects=("MhLiao/TextBoxes_plusplus",), verified=False)
def prior_box_denser(spec: LayerSpec) -> Layer:
    """With denser_prior_boxes, each size a second time at the lower edge of the cell."""
    params = spec.params("prior_box_param")
    offsets = _offsets(params)
    if params.denser_prior_boxes:
        offsets += ((params.offset, 1.0),)
    return _prior_box(spec, params, params.min_size, params.max_size, int, offsets)


@layer("PriorBox", bottoms=2, tops=1, dialects=_FIRST)
def prior_box_first(spec: LayerSpec) -> Layer:
    """One size each, in fractions of a pixel."""
    params = spec.params("prior_box_param")
    least, most = ((getattr(params, name),) if params.has(name) else () for name in ("min_size", "max_size"))
    return _prior_box(spec, params, least, most, float, _offsets(params))


def _offsets(params: Params) -> Offsets:
    return ((params.get("offset", 0.5),) * 2,)


def _several_offsets(spec: LayerSpec, params: Params) -> Offsets:
    """What OpenCV adds to SSD's fields. Source: ``prior_box_layer.cpp`` of its ``dnn``."""
    across, down = params.offset_w, params.offset_h
    if not across and not down:
        return _offsets(params)
    if len(down) != len(across) or params.has("offset"):
        spec.fail(f"offset_h {list(down)} and offset_w {list(across)} must be equally many, without offset beside them")
    if len(down) > 2:
        spec.fail(f"has {len(down)} offset_h; OpenCV makes room for one or two")
    fractions = [size for size in (*params.min_size, *params.max_size) if size != int(size)]
    if fractions:
        spec.fail(f"sizes {fractions} are not whole; OpenCV, which knows offset_h, does not cut them off as SSD does")
    return tuple(zip(across, down, strict=True))


def _prior_box(
    spec: LayerSpec,
    params: Params,
    least: Sequence[float],
    most: Sequence[float],
    kept: Callable[[float], float],
    offsets: Offsets,
) -> Layer:
    spec.images(0)
    spec.images(1)
    return PriorBox(
        _prior_sizes(spec, params, least, most, kept),
        _prior_variances(spec, params),
        _pair(spec, params, "img_w", "img_h", "img_size"),
        _pair(spec, params, "step_w", "step_h", "step"),
        offsets,
        clip=params.clip,
    )


@layer("PriorBoxClustered", bottoms=2, tops=1)
def prior_box_clustered(spec: LayerSpec) -> Layer:
    """The type of OpenVINO's fork: boxes of given widths and heights instead of sizes and ratios."""
    params = spec.params("prior_box_param")
    if not params.knows("width"):
        spec.fail(f"under the dialect {spec.dialect}, prior_box_param has no width and height; pass another --dialect")
    spec.images(0)
    spec.images(1)
    # Read by the fork's other type alone.
    params.ignore("flip")
    widths, heights = params.width, params.height
    if not widths or len(widths) != len(heights) or min((*widths, *heights)) <= 0:
        spec.fail(f"width {list(widths)} and height {list(heights)} must be positive numbers, equally many of both")
    return PriorBox(
        tuple(zip(widths, heights, strict=True)),
        _prior_variances(spec, params),
        _pair(spec, params, "img_w", "img_h", "img_size"),
        _pair(spec, params, "step_w", "step_h", "step"),
        _offsets(params),
        clip=params.clip,
    )


def _prior_sizes(
    spec: LayerSpec, params: Params, least: Sequence[float], most: Sequence[float], kept: Callable[[float], float]
) -> tuple[tuple[float, float], ...]:
    """(width, height) of the boxes of a cell: for each size, itself, the mean with the larger one, and the ratios."""
    if not least or min(least) <= 0:
        spec.fail(f"min_size {list(least)} must be given and positive")
    if most and len(most) != len(least):
        spec.fail(f"{len(most)} max_size for {len(least)} min_size; none, or one for each, was expected")
    for small, large in zip(least, most, strict=False):
        if large <= small:
            spec.fail(f"max_size {large:g} must be greater than min_size {small:g}")
    # Without ratios it has no bearing.
    params.ignore("flip")
    ratios = [1.0]
    for ratio in params.aspect_ratio:
        if ratio <= 0:
            spec.fail(f"aspect_ratio {ratio:g} must be positive")
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if params.flip else [ratio]
    sizes = []
    for i, small in enumerate(map(kept, least)):
        if small <= 0:
            spec.fail(f"min_size {least[i]:g} is less than a pixel; the fork cuts it off to 0")
        sizes.append((float(small), float(small)))
        if most:
            sizes.append((math.sqrt(small * kept(most[i])),) * 2)
        sizes += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return tuple(sizes)


def _prior_variances(spec: LayerSpec, params: Params) -> tuple[float, ...]:
    variances: tuple[float, ...] = params.variance or (0.1,)
    if len(variances) not in (1, 4) or min(variances) <= 0:
        spec.fail(f"variance {list(variances)} must be one or four positive numbers")
    return variances


def _pair(spec: LayerSpec, params: Params, wide: str, high: str, both: str) -> tuple[float, float] | None:
    """(width, height) from two fields or from the one that stands for both, each of which must be positive."""
    if params.has(wide) or params.has(high):
        if params.has(both):
            spec.fail(f"{both} and {high} / {wide} exclude each other")
        pair = (getattr(params, wide), getattr(params, high))
    elif params.has(both):
        pair = (getattr(params, both),) * 2
    else:
        return None
    if min(pair) <= 0:
        spec.fail(f"{wide} {pair[0]:g} and {high} {pair[1]:g} must be positive")
    return pair
