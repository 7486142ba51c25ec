"""Layers of the 3Dpose_ssl fork that draw heat maps from coordinates, read them back, compare them and write them out.

A joint at (x, y), fractions of the image's width and height, becomes a disc of values around the map's nearest cell.
None of the drawing and reading layers sends a gradient to its bottoms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...formats.cxx_numbers import cxx_rows
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..compiling import outside_graphs
from .pose import FORK, pose_rows, refuse, required_params, stated_gradient

__all__ = [
    "CoordsFromHeatMaps",
    "Emphasis",
    "Gen3DHeatMap",
    "Gen3DHeatMap2",
    "Gen3DXYZHeatMap",
    "HeatMap3DLoss",
    "HeatMapGrid",
    "HeatMapsFromCoords",
    "PoseHeatMapLoss",
    "VisualizedHeatMaps",
]


def _round(x: Tensor) -> Tensor:
    """To the nearest whole number, halves up (torch.round takes halves to even)."""
    floor = torch.floor(x)
    return floor + (x - floor >= 0.5).to(x.dtype)


def _single(x: Tensor) -> Tensor:
    """``x`` without gradient in single precision at least: half precision cannot count the cells of a large map."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class HeatMapGrid:
    """The cells of a heat map and the radius, in cells, of what is drawn around a joint."""

    width: int
    height: int
    radius: int

    def offsets(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances of columns from cell ``x`` (..., 1, W) and of rows from cell ``y`` (..., H, 1)."""
        columns = torch.arange(self.width, device=x.device, dtype=x.dtype) - x.unsqueeze(-1)
        rows = torch.arange(self.height, device=y.device, dtype=y.dtype) - y.unsqueeze(-1)
        return columns.square().unsqueeze(-2), rows.square().unsqueeze(-1)

    def disc(self, x: Tensor, y: Tensor, binary: bool = False) -> Tensor:
        """(..., H, W): exp(-2 d^2 / radius^2) at distance d <= radius of cell (x, y), 1 if ``binary``; 0 elsewhere."""
        horizontal, vertical = self.offsets(x, y)
        square = horizontal + vertical
        if self.radius < 0 or (self.radius == 0 and not binary):
            return torch.zeros_like(square)  # for radius 0 the formula is 0 / 0, which the fork's maximum with 0 drops
        value = torch.ones_like(square) if binary else torch.exp(-2 * square / self.radius**2)
        return torch.where(square <= self.radius**2, value, 0)


def _grid(spec: LayerSpec, params: Params) -> HeatMapGrid:
    """The grid that a layer's parameters describe: image size rounded up to whole cells of ``heat_map_a`` pixels."""
    cell, shift = params.heat_map_a, params.heat_map_b
    if cell < 1:
        spec.fail(f"heat_map_a is {cell}; the size of a cell in pixels was expected")
    sizes = []
    for name in ("img_width", "img_height"):
        pixels = getattr(params, name)
        size = int((math.ceil(pixels / cell) * cell - shift) / cell)
        if pixels < 1 or size < 1:
            spec.fail(f"{name} {pixels} with heat_map_a {cell} and heat_map_b {shift} leaves no cell of heat map")
        sizes.append(size)
    # In single precision, as the fork multiplies, so that halves fall the same way.
    radius = math.floor(float(np.float32(cell) * np.float32(params.valid_dist_factor)) + 0.5)
    return HeatMapGrid(sizes[0], sizes[1], radius)


def _joints(x: Tensor, dim: int, layer: Layer, what: str = "its bottom") -> Tensor:
    """``x`` as (frames, joints, dim)."""
    rows = pose_rows(x, layer, what)
    if rows.shape[1] % dim != 0:
        raise refuse(layer, f"{what} has {rows.shape[1]} values per frame, no whole number of joints of {dim} each")
    return rows.reshape(rows.shape[0], rows.shape[1] // dim, dim)


class HeatMapsFromCoords(Layer):
    """(frames, 2 joints) -> (frames, joints, H, W): one map per joint."""

    def __init__(self, grid: HeatMapGrid, binary: bool) -> None:
        super().__init__()
        self.grid = grid
        self.binary = binary

    def forward(self, coordinates: Tensor) -> Tensor:
        x, y = _joints(_single(coordinates), 2, self).unbind(2)
        maps = self.grid.disc(_round(x * self.grid.width), _round(y * self.grid.height), self.binary)
        return maps.to(coordinates.dtype)


@layer("HeatMapsFromCoords", bottoms=1, tops=1, dialects=(FORK,))
def heat_maps_from_coords(spec: LayerSpec) -> Layer:
    needed = ("is_binary", "heat_map_a", "heat_map_b", "img_width", "img_height")
    params = required_params(spec, "heat_maps_from_coords_param", *needed)
    return HeatMapsFromCoords(_grid(spec, params), params.is_binary)


class Gen3DHeatMap(Layer):
    """(frames, 3 joints) -> (frames, depth joints, H, W): one volume of ``depth`` maps per joint.

    What is drawn is where three cylinders around the joint, one along each axis, meet; its values are exp(-d^2 / 8),
    whatever the radius.
    """

    def __init__(self, grid: HeatMapGrid, depth: int, binary: bool) -> None:
        super().__init__()
        self.grid = grid
        self.depth = depth
        self.binary = binary

    def forward(self, coordinates: Tensor) -> Tensor:
        grid = self.grid
        x, y, z = _joints(_single(coordinates), 3, self).unbind(2)
        horizontal, vertical = (d.unsqueeze(2) for d in grid.offsets(_round(x * grid.width), _round(y * grid.height)))
        layers = torch.arange(self.depth, device=z.device, dtype=z.dtype)
        deep = (layers - _round(z * self.depth).unsqueeze(-1)).square()[..., None, None]
        reach = grid.radius**2 if grid.radius >= 0 else -1
        inside = (horizontal + vertical <= reach) & (horizontal + deep <= reach) & (vertical + deep <= reach)
        square = horizontal + vertical + deep
        value = torch.ones_like(square) if self.binary else torch.exp(-square / 8)
        return torch.where(inside, value, 0).flatten(1, 2).to(coordinates.dtype)


@layer("Gen3DHeatMap", bottoms=1, tops=1)
def gen_3d_heat_map(spec: LayerSpec) -> Layer:
    needed = ("is_binary", "heat_map_a", "heat_map_b", "img_width", "img_height")
    params = required_params(spec, "gen_3dheatmap_param", *needed)
    if params.img_channel < 1:
        spec.fail(f"img_channel is {params.img_channel}; the number of maps that depth is spread over was expected")
    return Gen3DHeatMap(_grid(spec, params), params.img_channel, params.is_binary)


class Gen3DHeatMap2(Layer):
    """2D poses and 3D poses -> (frames, joints, H, W) maps of the 2D joints, and (frames, 3 joints, H, W) of each map
    times the joint's three 3D coordinates.

    The fork finds a frame's 3D pose at the offset of its 2D pose, so only the first frame gets its own coordinates;
    frame n reads from value 2 n joints of the whole batch on. This is kept.
    """

    def __init__(self, grid: HeatMapGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, coordinates: Tensor, coordinates_3d: Tensor) -> tuple[Tensor, Tensor]:
        x, y = _joints(_single(coordinates), 2, self).unbind(2)
        solid = _joints(_single(coordinates_3d), 3, self, "its second bottom")
        if solid.shape[:2] != x.shape:
            raise refuse(self, f"{list(x.shape)} frames and joints in 2D do not fit {list(solid.shape[:2])} in 3D")
        frames, joints = x.shape
        start = 2 * joints * torch.arange(frames, device=x.device)
        read = start.unsqueeze(1) + torch.arange(3 * joints, device=x.device)
        weights = solid.flatten().index_select(0, read.flatten()).reshape(frames, joints, 3, 1, 1)
        maps = self.grid.disc(_round(x * self.grid.width), _round(y * self.grid.height))
        weighted = torch.where(maps.unsqueeze(2) > 0, weights * maps.unsqueeze(2), 0).flatten(1, 2)
        return maps.to(coordinates.dtype), weighted.to(coordinates_3d.dtype)


@layer("Gen3DHeatMap2", bottoms=2, tops=2)
def gen_3d_heat_map_2(spec: LayerSpec) -> Layer:
    params = required_params(spec, "gen_3dheatmap2_param", "heat_map_a", "heat_map_b", "img_width", "img_height")
    return Gen3DHeatMap2(_grid(spec, params))


class Gen3DXYZHeatMap(Layer):
    """(frames, 3 joints) -> (frames, 3 joints, H, W): per joint its projections on the planes xy, xz and yz.

    Both coordinates of a plane are scaled by the map's width, as in the fork.
    """

    def __init__(self, grid: HeatMapGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, coordinates: Tensor) -> Tensor:
        x, y, z = _round(_joints(_single(coordinates), 3, self) * self.grid.width).unbind(2)
        across, down = torch.stack((x, x, y), 2), torch.stack((y, z, z), 2)
        return self.grid.disc(across, down).flatten(1, 2).to(coordinates.dtype)


@layer("Gen3DXYZHeatMap", bottoms=1, tops=1)
def gen_3d_xyz_heat_map(spec: LayerSpec) -> Layer:
    params = required_params(spec, "gen_3dxyz_heatmap_param", "heat_map_a", "heat_map_b", "img_width", "img_height")
    return Gen3DXYZHeatMap(_grid(spec, params))


class CoordsFromHeatMaps(Layer):
    """(frames, joints * channels, H, W) -> coordinates (frames, 2 or 3 per joint, 1, 1) and, as second top, the largest
    value of each joint (frames, joints, 1, 1).

    The fork divides whole numbers (the cell of the maximum by the map's size), so every coordinate comes out as 0. This
    is kept; the second top is what can be used.
    """

    def __init__(self, channels: int, with_scores: bool) -> None:
        super().__init__()
        self.channels = channels
        self.with_scores = with_scores

    def forward(self, maps: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if maps.dim() != 4 or maps.shape[1] % self.channels != 0 or 0 in maps.shape[1:]:
            raise refuse(self, f"takes (frames, joints * {self.channels}, height, width); found {list(maps.shape)}")
        joints = maps.shape[1] // self.channels
        coordinates = maps.new_zeros(maps.shape[0], joints * (2 if self.channels == 1 else 3), 1, 1)
        if not self.with_scores:
            return coordinates
        # The fork's search starts at -FLT_MAX and no comparison with a NaN holds.
        lowest = max(torch.finfo(maps.dtype).min, -torch.finfo(torch.float32).max)
        values = maps.detach().reshape(maps.shape[0], joints, -1)
        scores = torch.where(values.isnan(), lowest, values).amax(2).clamp(min=lowest)
        return coordinates, scores[..., None, None]


@layer("CoordsFromHeatMaps", bottoms=1, tops=(1, 2), dialects=(FORK,))
def coords_from_heat_maps(spec: LayerSpec) -> Layer:
    params = required_params(spec, "pose_coords_from_heat_maps_param", "heat_map_a", "heat_map_b")
    if params.per_heatmap_ch < 1:
        spec.fail(f"per_heatmap_ch is {params.per_heatmap_ch}; the number of maps per joint, at least 1, was expected")
    return CoordsFromHeatMaps(params.per_heatmap_ch, len(spec.tops) == 2)


class HeatMap3DLoss(Layer):
    """Half the squared difference of two (frames, 3 joints, H, W) stacks, the three maps of each joint weighted by its
    map in the third bottom (frames, joints, H, W), summed, per frame. No gradient flows to the weights."""

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        expected = (weights.shape[0], 3 * weights.shape[1], *weights.shape[2:]) if weights.dim() == 4 else None
        if not prediction.shape == target.shape == expected:
            shapes = ", ".join(str(list(x.shape)) for x in (prediction, target, weights))
            raise refuse(
                self,
                "takes two stacks (frames, 3 joints, height, width) and weights (frames, joints, height, width); "
                f"found {shapes}",
            )
        weights = weights.detach().repeat_interleave(3, 1)
        difference = torch.where(weights == 0, 0, (prediction - target) * weights)
        return difference.square().sum() / prediction.shape[0] / 2


@layer("HeatMap3DLoss", bottoms=3, tops=1, loss=True, unforced=())
def heat_map_3d_loss(spec: LayerSpec) -> Layer:
    return HeatMap3DLoss()


@dataclass(frozen=True)
class Emphasis:
    """How PoseHeatMapLoss weighs differences in its backward pass, by whether the target is 0 there (background).

    Attributes:
        kind: 0 all alike; 1 foreground only; 2 foreground times ``foreground``; 3 and 4 each background value with
            probability ``ratio``, times ``background``, and in 4 the foreground times ``foreground``.
    """

    kind: int
    foreground: float
    background: float
    ratio: float


class PoseHeatMapLoss(Layer):
    """The squared difference of two stacks of heat maps, summed, per frame.

    The fork's backward pass leaves out the factor 2 and weighs the differences (:class:`Emphasis`), which the loss
    itself does not show; with ``true_gradient`` it is the derivative of the loss.
    """

    def __init__(self, emphasis: Emphasis, true_gradient: bool) -> None:
        super().__init__()
        self.emphasis = emphasis
        self.true_gradient = true_gradient

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape != target.shape:
            raise refuse(self, f"compares stacks of one shape; found {list(prediction.shape)} and {list(target.shape)}")
        difference = prediction - target
        loss = difference.square().sum() / prediction.shape[0]
        if self.true_gradient:
            return loss
        return stated_gradient(prediction, target, loss, self._weighted(difference, target) / prediction.shape[0])

    def _weighted(self, difference: Tensor, target: Tensor) -> Tensor:
        how = self.emphasis
        if how.kind == 0:
            return difference
        background = target == 0
        if how.kind == 1:
            return torch.where(background, 0, difference)
        if how.kind == 2:
            return torch.where(background, difference, difference * how.foreground)
        generator = None if target.is_meta else self.randomness.generator(self.layer_name, target.device)
        draws = torch.empty_like(target, dtype=torch.float32).uniform_(generator=generator)
        kept = torch.where(draws < how.ratio, difference * how.background, 0)
        return torch.where(background, kept, difference * how.foreground if how.kind == 4 else difference)


@layer("PoseHeatMapLoss", bottoms=2, tops=1, loss=True, unforced=(), dialects=(FORK,))
def pose_heat_map_loss(spec: LayerSpec) -> Layer:
    params = required_params(spec, "pose_heat_map_loss_param", "fg_eof", "bg_eof", "ratio", "loss_emphase_type")
    if not 0 < params.ratio < 1:
        spec.fail(f"ratio is {params.ratio:g}; the fraction of background to keep, between 0 and 1, was expected")
    if params.loss_emphase_type not in range(5):
        spec.fail(f"loss_emphase_type is {params.loss_emphase_type}; 0 to 4 exist")
    emphasis = Emphasis(params.loss_emphase_type, params.fg_eof, params.bg_eof, params.ratio)
    return PoseHeatMapLoss(emphasis, spec.gradients == "true")


class VisualizedHeatMaps(Layer):
    """Writes each map of each frame to a text file of its own, ``<prefix><frame>_<joint><suffix>``, anew at every pass.

    A second bottom (the truth beside the prediction) follows below the first in the same files.
    """

    def __init__(self, prefix: str, suffix: str) -> None:
        super().__init__()
        self.prefix = prefix
        self.suffix = suffix

    def forward(self, *stacks: Tensor) -> tuple[()]:
        if stacks[0].dim() != 4 or any(stack.shape != stacks[0].shape for stack in stacks):
            shapes = ", ".join(str(list(stack.shape)) for stack in stacks)
            raise refuse(self, f"takes stacks (frames, joints, height, width) of one shape; found {shapes}")
        if not stacks[0].is_meta:
            self._write(stacks)
        return ()

    @outside_graphs
    def _write(self, stacks: tuple[Tensor, ...]) -> None:
        if torch.compiler.is_compiling():
            return  # torch.export is tracing: a graph of tensor operations writes no files
        frames, joints, height, width = stacks[0].shape
        printed = [cxx_rows(_single(stack).cpu().reshape(-1, width).numpy(), " ") for stack in stacks]
        for n in range(frames * joints):
            blocks = ["".join(f"{row} \n" for row in rows[n * height : (n + 1) * height]) for rows in printed]
            path = f"{self.prefix}{n // joints}_{n % joints}{self.suffix}"
            self.files.write(path, "\n\n".join(blocks) + "\n", self.layer_name, append=False)


@layer("VisualizedHeatMaps", bottoms=(1, 2), tops=0, dialects=(FORK,))
def visualized_heat_maps(spec: LayerSpec) -> Layer:
    needed = ("heat_map_path", "heat_map_files_name", "heat_map_images_name", "visual_type", "threshold", "phase_name")
    params = required_params(spec, "visual_heat_maps_param", *needed)
    if params.visual_type != 0:
        spec.fail(f"visual_type {params.visual_type} is not supported; visual_type 0 writes the same maps as text")
    if not 0 <= params.threshold <= 1:
        spec.fail(f"threshold is {params.threshold:g}; between 0 and 1 was expected")
    params.ignore("img_ext")  # the name of pictures, which visual_type 0 does not draw
    return VisualizedHeatMaps(params.heat_map_path + params.heat_map_files_name + params.phase_name, params.file_ext)
