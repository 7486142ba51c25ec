"""Layers of pose_action_caffe that find the cells of one blob in another: by the windows of the layers between them.

Both take at least three bottoms: the first two are blobs of one net, whose cells lie on lines
(:meth:`...network.surroundings.Surroundings.lines`): a row of the second blob is at factor * row + shift in the first.
From the third bottom on, each has the size of the first and gives a top. The two themselves have no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...network.shapes import Line, Lines

__all__ = ["CropPatch", "ResizeWithMap"]


def _lines(spec: LayerSpec) -> Lines:
    """Where a cell of the second bottom lies in the first."""
    images, _, height, width = spec.images(0)
    spec.shaped(1, f"images = {images}", "channels", "height", "width")
    for place in range(2, len(spec.bottoms)):
        spec.shaped(place, f"images = {images}", "channels", f"height = {height}", f"width = {width}")
    if len(spec.tops) != len(spec.bottoms) - 2:
        spec.fail(f"makes a top of each bottom from the third on, {len(spec.bottoms) - 2}; found {len(spec.tops)}")
    if spec.around is None:
        spec.fail("needs the net around it: where cells lie follows from the layers between its first two bottoms")
    try:
        return spec.around.lines(spec.bottoms[1], spec.bottoms[0])
    except LayerError as error:
        error.within(layer=spec.name, type=spec.type)
        raise


class CropPatch(Layer):
    """For each channel of the second bottom (N, C, h, w), the patch about its largest value, out of each bottom from
    the third on (N, D, H, W): (N, C * D, patch height, patch width); of a matched bottom, where D is C, only its
    channel of the same place, (N, C, ...). What of a patch lies outside is 0.

    Source: the fork's ``crop_patch_from_max_feature_position_layer.cpp``.
    """

    def __init__(self, lines: Lines, patch: tuple[int, int], matched: tuple[bool, ...]) -> None:
        super().__init__()
        self.lines = lines
        self.patch = patch
        self.matched = matched

    def forward(self, like: Tensor, peaks: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        best = peaks.detach().flatten(2).argmax(2)
        width = peaks.shape[3]
        rows, columns = (
            self._along(cells, peaks, line, size)
            for cells, line, size in zip((best // width, best % width), self.lines, self.patch, strict=True)
        )
        return tuple(self._cut(x, rows, columns, matched) for x, matched in zip(maps, self.matched, strict=True))

    @staticmethod
    def _along(cells: Tensor, peaks: Tensor, line: Line, size: int) -> Tensor:
        """The rows or columns of the patches about ``cells`` of ``peaks``: (N, C, size)."""
        middle = line[0] * cells.to(peaks.dtype) + line[1]
        return (middle - size / 2).floor().long()[..., None] + torch.arange(size, device=peaks.device)

    @staticmethod
    def _cut(x: Tensor, rows: Tensor, columns: Tensor, matched: bool) -> Tensor:
        """Patches of ``x`` at these rows and columns, each (N, C, length of the patch)."""
        height, width = x.shape[2:]
        inside = ((rows >= 0) & (rows < height))[..., None] & ((columns >= 0) & (columns < width))[..., None, :]
        places = rows.clamp(0, height - 1)[..., None] * width + columns.clamp(0, width - 1)[..., None, :]
        flat = x.flatten(2)[:, :, None] if matched else x.flatten(2)[:, None]
        images, channels = rows.shape[:2]
        of = (images, channels, 1 if matched else x.shape[1], places.shape[2] * places.shape[3])
        cut = flat.expand(images, channels, *flat.shape[2:]).gather(3, places.flatten(2)[:, :, None].expand(of))
        cut = torch.where(inside.flatten(2)[:, :, None], cut, 0)
        return cut.reshape(images, -1, *places.shape[2:])


@layer("CropPatchFromMaxFeaturePosition", bottoms=(3, None), tops=(1, None), verified=False, unforced=(0, 1))
def crop_patch_from_max_feature_position(spec: LayerSpec) -> Layer:
    lines = _lines(spec)
    params = spec.params("crop_patch_from_max_feature_position_param")
    height, width = (max(1, math.floor(n * params.crop_factor)) for n in spec.bottom_shapes[0][2:])
    matches = params.match_channel
    matched = tuple(i < len(matches) and bool(matches[i]) for i in range(len(spec.tops)))
    channels = spec.bottom_shapes[1][1]
    for name, shape, match in zip(spec.bottoms[2:], spec.bottom_shapes[2:], matched, strict=True):
        if match and shape[1] != channels:
            spec.fail(f"bottom {name!r} has {shape[1]} channels; with match_channel, {channels} were expected")
    return CropPatch(lines, (height, width), matched)


class ResizeWithMap(Layer):
    """Each bottom from the third on (N, D, H, W), as seen from the cells of the second (N, C, h, w): (N, D, h, w),
    bilinear between the four cells about each place; cells outside count as 0.

    Source: the fork's ``resize_with_map_layer.cpp``.
    """

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self.lines = lines

    def forward(self, like: Tensor, peaks: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        rows, columns = (
            self._weights(like, line, before, after)
            for line, before, after in zip(self.lines, like.shape[2:], peaks.shape[2:], strict=True)
        )
        return tuple(rows.to(x.dtype) @ x @ columns.to(x.dtype).T for x in maps)

    @staticmethod
    def _weights(x: Tensor, line: Line, before: int, after: int) -> Tensor:
        """(after, before): what each cell counts for each place."""
        places = torch.arange(after, device=x.device, dtype=x.dtype) * line[0] + line[1]
        return (1 - (places[:, None] - torch.arange(before, device=x.device)).abs()).clamp_min(0)


@layer("ResizeWithMap", bottoms=(3, None), tops=(1, None), verified=False, unforced=(0, 1))
def resize_with_map(spec: LayerSpec) -> Layer:
    return ResizeWithMap(_lines(spec))
