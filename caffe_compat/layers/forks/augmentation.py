"""FlowNet 2's augmentation, which its networks for use have too: they cut pictures and subtract the mean with it.

Source: lmb-freiburg/flownet2 (commit b92e198b5), ``data_augmentation_layer``, ``flow_augmentation_layer`` and
``generate_augmentation_parameters_layer``, which twhui/LiteFlowNet and Synopsys have, too. Draws are this library's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema.params import Params
from .augmentation_coefficients import (
    COEFFICIENTS,
    NEUTRAL,
    Augmentation,
    Chance,
    Schedule,
    Space,
    augmentation_of,
    read,
    written,
)
from .augmentation_colours import axes_of, changed_along_axes, changed_colours, shadowed
from .augmentation_cut import BEYOND, CutLessMean, Mean
from .flow import FLOWNETS_2, interpolated

__all__ = ["DataAugmentation", "FlowAugmentation", "GenerateAugmentationParameters"]

_PLACED, _COLOURED = COEFFICIENTS[:6], COEFFICIENTS[6:12]
_ALONG_AXES, _EFFECTS = COEFFICIENTS[12:34], COEFFICIENTS[34:]
# Coefficients that differ by less from what does nothing do nothing.
_SAME = 1e-3


def _drawn(
    augmentation: Augmentation, before: Tensor, chance: Chance, discount: float, space: Space | None, mode: str
) -> Tensor:
    """Coefficients of each picture as blobs have them, (N, 42), on top of those ``before``.

    Args:
        space: of the pictures; None draws nothing of where they are cut.
        mode: ``"add"`` puts colours and effects on top, others replace those that they draw.
    """
    rows = []
    for row in read(before).tolist():
        values = dict(zip(COEFFICIENTS, row, strict=True))
        if space is not None and augmentation.spatial:
            start = {**values, **_neutral(_PLACED)} if mode == "replace" else values
            values = start | augmentation.placed(start, chance, discount, space)
        for more in augmentation.others(chance, discount):
            if mode != "add":
                values |= more
                continue
            for name, value in more.items():
                values[name] = values[name] * value if _neutral((name,))[name] else values[name] + value
        rows.append([values[name] for name in COEFFICIENTS])
    return written(before.new_tensor(rows).reshape(-1, len(COEFFICIENTS)))


def _neutral(names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(NEUTRAL[COEFFICIENTS.index(name)]) for name in names}


def _matrix(values: Mapping[str, Tensor], space: Space) -> Tensor:
    """(N, 6): for each picture a, b, c, d, e, f, with which (a x + c y + e, b x + d y + f) is where x, y comes from."""
    (width, height), (across, down) = space.whole, space.cut
    sign = 1 - 2 * (values["mirror"] != 0).to(values["dx"].dtype)
    cos, sin = values["angle"].cos(), values["angle"].sin()
    right, below = -0.5 * across * sign, -0.5 * down
    x = cos * right - sin * below + values["dx"] * across
    y = sin * right + cos * below + values["dy"] * down
    along, up = values["zoom_x"], values["zoom_y"]
    parts = (
        *(cos * sign / along, sin * sign / up, -sin / along, cos / up),
        *(x / along + 0.5 * width, y / up + 0.5 * height),
    )
    return torch.stack(parts, 1)


def _inverse(matrix: Tensor) -> Tensor:
    a, b, c, d, e, f = matrix.unbind(1)
    parts = (d, -b, -c, a, c * f - d * e, b * e - a * f)
    return torch.stack(parts, 1) / (a * d - b * c)[:, None]


def _moved(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where places come from, (N, H, W) each."""
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    return a * x + c * y + e, b * x + d * y + f


def _grid(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (W,) and rows (H, 1) of a picture of ``size`` (width, height)."""
    columns, rows = (torch.arange(n, dtype=like.dtype, device=like.device) for n in size)
    return columns, rows[:, None]


def _named(coefficients: Tensor) -> dict[str, Tensor]:
    """(N, 42) by name, (N,) each."""
    return dict(zip(COEFFICIENTS, coefficients.unbind(1), strict=True))


class DataAugmentation(CutLessMean):
    """A part of each picture (N, C, H, W), moved, turned, zoomed and coloured by 42 coefficients, less a mean.

    Coefficients come from the second bottom, (N, 42, ...), or are drawn; a second top gives them. A place between
    pixels is bilinear; places beyond the edge are at 0 or at the size less :data:`BEYOND`. Without ``cut`` pictures
    stay as they are. The mean is that of :class:`CutLessMean`; passes are counted for good.

    Args:
        augmentation: what is drawn; None for nothing.
        axes: of colours, (3, 3). largest: of the values of a picture.
    """

    def __init__(
        self,
        shape: Shape,
        cut: tuple[int, int] | None,
        mean: Mean,
        augmentation: Augmentation | None,
        schedule: Schedule,
        *,
        axes: Tensor | None,
        largest: float,
        tops: int,
    ) -> None:
        super().__init__(shape, cut, mean)
        self.augmentation, self.schedule = augmentation, schedule
        self.axes, self.largest, self.with_coefficients = axes, largest, tops > 1

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        top = super().infer(bottoms[0])
        assert isinstance(top, Tensor)
        return (top, self._blank(*bottoms)) if self.with_coefficients else top

    @staticmethod
    def _blank(x: Tensor, *given: Tensor) -> Tensor:
        return x.new_empty(given[0].shape if given else (len(x), len(COEFFICIENTS), 1, 1))

    def forward(self, x: Tensor, *given: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        with torch.no_grad():
            x = x.detach()
            compiling = torch.compiler.is_compiling()
            if not compiling:
                self.passes += 1
            blob = given[0].detach() if given else self._coefficients(x)
            y = x
            if self.cut is not None:
                c = self._read(blob.to(x.dtype))
                y = self._coloured(x, self._placed(x, c), c)
            if self.learn and not compiling and int(self.passes) <= self.learn:
                self.learn_from(y)
            y = self.less_mean(y)
            return (y, blob.reshape(self._blank(x, *given).shape)) if self.with_coefficients else y

    def _coefficients(self, x: Tensor) -> Tensor:
        """Those that are drawn, or that do nothing."""
        nothing = x.new_zeros(len(x), len(COEFFICIENTS))
        if self.augmentation is None or self.cut is None:
            return nothing
        chance = Chance(self.randomness.generator(self.layer_name, "cpu"))
        space = Space((x.shape[3], x.shape[2]), self.cut)
        discount = self.schedule.discount(float(self.passes))
        return _drawn(self.augmentation, nothing, chance, discount, space, "regenerate")

    @staticmethod
    def _read(blob: Tensor) -> dict[str, Tensor]:
        """Coefficients by name, (N,) each."""
        values, neutral = read(blob), NEUTRAL.to(blob)
        return _named(torch.where((values - neutral).abs() < _SAME, neutral, values))

    def _placed(self, x: Tensor, c: Mapping[str, Tensor]) -> Tensor:
        assert self.cut is not None
        height, width = x.shape[2:]
        places = _moved(_matrix(c, Space((width, height), self.cut)), *_grid(self.cut, x))
        column, row = (
            at.clamp(max=size - BEYOND).clamp_min(0) for at, size in zip(places, (width, height), strict=True)
        )
        return interpolated(x, column, row, hold=True)

    def _coloured(self, x: Tensor, y: Tensor, c: Mapping[str, Tensor]) -> Tensor:
        """``y``, the part of pictures ``x`` that is left, with other colours."""
        by_picture = {name: value[:, None, None] for name, value in c.items()}
        if self._any(c, _ALONG_AXES):
            self._check_colours(x, "along axes")
            if self.axes is None:
                raise LayerError("colours along axes need the nine numbers of chromatic_eigvec", layer=self.layer_name)
            y = changed_along_axes(y, by_picture, axes_of(x, self.axes.to(x)), self.largest)
        if self._any(c, _COLOURED):
            self._check_colours(x, "in gamma, brightness, contrast or colour")
            y = changed_colours(y, by_picture, self.largest)
        shadows = bool(((c["fog_amount"] != 0) & (c["fog_size"] != 0)).any()) or any(
            bool((c[name] > 0).any()) for name in ("motion_blur_size", "shadow_strength", "noise")
        )
        if shadows:
            self._check_colours(x, "by shadows or noise")
            y = self._noisy(shadowed(y, by_picture, self.largest), c["noise"])
        return y

    @staticmethod
    def _any(c: Mapping[str, Tensor], names: tuple[str, ...]) -> bool:
        return any(bool((c[name] != NEUTRAL[COEFFICIENTS.index(name)]).any()) for name in names)

    def _check_colours(self, x: Tensor, how: str) -> None:
        if x.shape[1] != 3:
            raise LayerError(f"pictures change {how}; they have {x.shape[1]} channels, not 3", layer=self.layer_name)

    def _noisy(self, x: Tensor, deviations: Tensor) -> Tensor:
        # Draws of their own, whether or not the coefficients were drawn here.
        chance = Chance(self.randomness.generator(f"{self.layer_name} noise", "cpu"))
        return torch.stack(
            [y + chance.noise(y, s) if s > 0 else y for y, s in zip(x, deviations.tolist(), strict=True)]
        )


@layer("DataAugmentation", bottoms=(1, 2), tops=(1, 2), dialects=FLOWNETS_2, verified=False)
def data_augmentation(spec: LayerSpec) -> Layer:
    params, shape = spec.params("augmentation_param"), spec.images()
    _check_fork(spec, params)
    has = params.has("crop_width"), params.has("crop_height")
    cut = _cut(spec, params) if all(has) else None  # one alone cuts nothing, as in the fork
    if cut is not None and (cut[0] > shape[3] or cut[1] > shape[2]):
        spec.fail(f"cuts {cut[0]} x {cut[1]} (width x height) out of pictures of {shape[3]} x {shape[2]}")
    given = len(spec.bottoms) > 1
    if given:
        _coefficients_of(spec, 1, shape[0])
    augmentation, in_test = augmentation_of(spec, params), params.augment_during_test
    draws = cut is not None and not given and bool(augmentation.draws) and (spec.phase == "TRAIN" or in_test)
    per_pixel, fixed = params.mean_per_pixel, params.mean
    if params.recompute_mean or per_pixel or len(fixed) != 3:
        fixed = ()  # the fork subtracts a mean that is given only as three numbers, one for each channel
    elif shape[1] != 3:
        spec.fail(f"subtracts a mean of 3 channels from pictures of {shape[1]}")
    vectors = params.chromatic_eigvec
    if len(vectors) not in (0, 9):
        spec.fail(f"chromatic_eigvec has {len(vectors)} numbers; 9 were expected")
    _ignore(params)
    if draws and augmentation.spatial:
        _check_cut(spec, cut)
    mean, schedule = Mean(params.recompute_mean, per_pixel, fixed), _schedule(spec)
    if not draws and not given and len(spec.tops) == 1:
        params.ignore("max_multiplier")  # of colours, which stay what they are
        return CutLessMean(shape, cut, mean)
    return DataAugmentation(
        shape,
        cut,
        mean,
        augmentation if draws else None,
        schedule,
        axes=torch.tensor(vectors).reshape(3, 3) if vectors else None,
        largest=params.max_multiplier,
        tops=len(spec.tops),
    )


def _check_fork(spec: LayerSpec, params: Params) -> None:
    if not params.knows("crop_width"):
        spec.fail(
            f"under dialect {spec.dialect} it cuts squares of crop_size; known is that of {FLOWNETS_2[0]}, with "
            f"crop_width and crop_height (--dialect {FLOWNETS_2[0]}, if the file is its)"
        )


def _ignore(params: Params) -> None:
    # Where the fork logs or would write; and what only GenerateAugmentationParameters reads.
    params.ignore("write_augmented", "write_mean", "mode", "bottomwidth", "bottomheight", "num")


def _cut(spec: LayerSpec, params: Params) -> tuple[int, int]:
    cut = params.crop_width, params.crop_height
    if min(cut) < 1:
        spec.fail(f"crop_width is {cut[0]} and crop_height {cut[1]}; both must be at least 1")
    return cut


def _check_cut(spec: LayerSpec, cut: tuple[int, int] | None) -> None:
    if cut is not None and min(cut) < 2:
        spec.fail(f"looks where the corners of {cut[0]} x {cut[1]} pixels come from; both sides must be at least 2")


def _coefficients_of(spec: LayerSpec, bottom: int, images: int) -> None:
    spec.shaped(bottom, f"images = {images}", f"coefficients = {len(COEFFICIENTS)}", ones=True)


def _schedule(spec: LayerSpec) -> Schedule:
    params = spec.params("coeff_schedule_param")
    if params.half_life <= 0:
        spec.fail(f"half_life is {params.half_life:g}; it must be above 0")
    return Schedule(params.initial_coeff, params.final_coeff, params.half_life)


class GenerateAugmentationParameters(Layer):
    """Coefficients (N, 42, 1, 1) for DataAugmentation, drawn on top of others or anew.

    Bottoms: pictures, of which there are to be as many; or coefficients; or coefficients, the pictures before and those
    after. ``"add"`` puts what is drawn on top, ``"replace"`` puts it in place of what is there, ``"regenerate"`` begins
    with coefficients that do nothing.
    """

    counts = ("passes",)

    def __init__(self, augmentation: Augmentation | None, schedule: Schedule, space: Space | None, mode: str) -> None:
        super().__init__()
        self.augmentation, self.schedule, self.space, self.mode = augmentation, schedule, space, mode
        self.passes = 0

    def reset_state(self) -> None:
        self.passes = 0

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(len(bottoms[0]), len(COEFFICIENTS), 1, 1)

    def forward(self, x: Tensor, *pictures: Tensor) -> Tensor:
        self.passes += 1
        with torch.no_grad():
            if self.mode == "regenerate":
                before = x.new_zeros(len(x), len(COEFFICIENTS))
            else:
                before = x.detach().flatten(1)
            if self.augmentation is not None:
                chance = Chance(self.randomness.generator(self.layer_name, "cpu"))
                discount = self.schedule.discount(self.passes)
                before = _drawn(self.augmentation, before, chance, discount, self.space, self.mode)
            return before[:, :, None, None]


@layer("GenerateAugmentationParameters", bottoms=(1, 3), tops=1, dialects=FLOWNETS_2, verified=False)
def generate_augmentation_parameters(spec: LayerSpec) -> Layer:
    params = spec.params("augmentation_param")
    _check_fork(spec, params)
    if len(spec.bottoms) == 2:
        spec.fail("has 2 bottoms; 1 or 3 were expected")
    if params.mode not in ("add", "replace", "regenerate"):
        spec.fail(f"mode is {params.mode!r}; add, replace or regenerate was expected")
    shape = spec.four_axes(0)
    own = max(shape[2:]) > 1
    mode = "regenerate" if len(spec.bottoms) == 1 and own else params.mode
    if mode != "regenerate":
        _coefficients_of(spec, 0, shape[0])
    if len(spec.bottoms) == 3:
        (*_, height, width), (*_, down, across) = spec.four_axes(1), spec.four_axes(2)
        whole, cut = (width, height), (across, down)
    else:
        if not (params.has("crop_width") and params.has("crop_height")):
            spec.fail("needs crop_width and crop_height, for no bottom has what is cut out")
        cut = _cut(spec, params)
        whole = (shape[3], shape[2]) if own else (params.bottomwidth, params.bottomheight)
        if min(whole) < 1:
            spec.fail("needs bottomwidth and bottomheight, for no bottom is a picture")
    augmentation, in_test = augmentation_of(spec, params), params.augment_during_test
    draws = spec.phase == "TRAIN" or in_test
    if draws and augmentation.spatial:
        _check_cut(spec, cut)
    # Of DataAugmentation, which applies the coefficients; sizes and number come from bottoms where there are some.
    params.ignore("max_multiplier", "recompute_mean", "mean_per_pixel", "mean", "chromatic_eigvec")
    params.ignore("crop_width", "crop_height")
    _ignore(params)
    return GenerateAugmentationParameters(augmentation if draws else None, _schedule(spec), Space(whole, cut), mode)


class FlowAugmentation(Layer):
    """A flow (N, 2, H, W) for pictures that were changed: from where the first one's pixels came to where they went.

    Bottoms: the flow, x and y in pixels, and the coefficients of both pictures, (N, 42, ...). The flow is taken at the
    nearest pixel, counted through the whole blob where that lies beyond an edge, as in the fork.
    """

    def __init__(self, cut: tuple[int, int]) -> None:
        super().__init__()
        self.cut = cut

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(*bottoms[0].shape[:2], *self.cut[::-1])

    def forward(self, flow: Tensor, first: Tensor, second: Tensor) -> Tensor:
        flow = flow.detach()
        count, _, height, width = flow.shape
        space = Space((width, height), self.cut)
        one, other = (_matrix(_named(read(blob.detach())), space) for blob in (first, second))
        grid = _grid(self.cut, flow)
        column, row = _moved(one, *grid)
        place = width * (row + 0.5).long() + (column + 0.5).long()
        place = place[:, None] + height * width * torch.arange(2 * count, device=flow.device).reshape(count, 2, 1, 1)
        right, below = flow.flatten()[place.clamp(0, flow.numel() - 1)].unbind(1)
        there = _moved(_inverse(other), column + right, row + below)
        return torch.stack([now - before for now, before in zip(there, grid, strict=True)], 1)


@layer("FlowAugmentation", bottoms=3, tops=1, dialects=FLOWNETS_2, verified=False)
def flow_augmentation(spec: LayerSpec) -> Layer:
    params = spec.params("augmentation_param")
    images, *_ = spec.shaped(0, "images", 2, "height > 0", "width > 0")
    for bottom in (1, 2):
        _coefficients_of(spec, bottom, images)
    return FlowAugmentation(_cut(spec, params))
