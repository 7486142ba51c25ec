"""Layers of pose_action_caffe that read poses from heat maps and rate them; others than 3Dpose_ssl's of the same names.

A pose is a row of x and y of each joint, in the network's picture. What a picture was is a row (N, 5): its index, its
width and height in the file, the factor that made the network's picture of it, and whether that is mirrored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, Shape, layer
from ..gradients import without_gradient

__all__ = ["FORK", "ArgMaxC", "CoordsFromHeatMaps", "ImagePoseCoords", "PoseDifference", "check_info", "check_poses"]

FORK = "zimenglan-sysu-512/pose_action_caffe"
# What a place outside its image becomes.
_OUTSIDE = -1.0


def check_poses(spec: LayerSpec, place: int = 0) -> Shape:
    """The shape of a bottom that must be (images, 2 joints, and axes of 1)."""
    shape = spec.shaped(place, "images", "coordinates > 0", ..., ones=True)
    if shape[1] % 2 or any(n != 1 for n in shape[2:]):
        spec.misfit(place, "(images, pairs of coordinates)")
    return shape


def check_info(spec: LayerSpec, place: int) -> None:
    """Refuse a bottom that does not say of every image of the first bottom what it was."""
    images = spec.bottom_shapes[0][0]
    spec.shaped(place, f"images = {images}", "index width height scale flipped = 5", ones=True)


class ImagePoseCoords(Layer):
    """Coordinates (N, 2 points) in the image itself: divided by its scale, mirrored back, and -1 where off the image.

    A row of the second bottom (N, 5) is: index, width and height of the image, scale, whether it was flipped. A
    coordinate from the width or height on becomes -1; negative ones stay; of a flipped image, x becomes width - 1 - x.

    The fork's gradient is 0; ``gradients="true"`` gives that of the coordinates.
    """

    def __init__(self, gradients: str) -> None:
        super().__init__()
        self.gradients = gradients

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(*x.shape[:2], 1, 1)

    def forward(self, coordinates: Tensor, info: Tensor) -> Tensor:
        if self.gradients != "true":
            coordinates = coordinates.detach()
        _, width, height, scale, flipped = info.detach().reshape(-1, 5, 1).unbind(1)
        x, y = (coordinates.flatten(1) / scale).unflatten(1, (-1, 2)).unbind(2)
        x = torch.where(x >= width, _OUTSIDE, torch.where(flipped != 0, width - 1 - x, x))
        y = torch.where(y >= height, _OUTSIDE, y)
        return torch.stack([x, y], 2).flatten(1)[..., None, None]


@layer("RescaledPoseCoords", bottoms=2, tops=1, dialects=(FORK,))
def rescaled_pose_coords(spec: LayerSpec) -> Layer:
    check_poses(spec)
    check_info(spec, 1)
    return ImagePoseCoords(spec.gradients)


class CoordsFromHeatMaps(Layer):
    """The places (N, 2 joints, 1, 1) of the largest values of maps (N, joints, H, W); as second top the values.

    With ``best`` above 0 a place is the mean of the places of the ``best`` largest values, in whole cells, cut off, and
    the value their mean; of equal values the later cells count first. A cell becomes factor * cell + shift. The
    gradient is 0. Source: the fork's ``coords_from_heat_map_layer.cpp``.
    """

    def __init__(self, factor: int, shift: int, best: int, *, with_values: bool) -> None:
        super().__init__()
        self.factor = factor
        self.shift = shift
        self.best = best
        self.with_values = with_values

    def forward(self, maps: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        values, cells = self._largest(maps.detach().flatten(2))
        width = maps.shape[3]
        count = cells.shape[2]
        # Whole numbers, of which C++'s division cuts off what is left; none is negative.
        columns, rows = ((part.sum(2) // count) * self.factor + self.shift for part in (cells % width, cells // width))
        places = torch.stack([columns, rows], 2).flatten(1).to(maps.dtype)[..., None, None]
        places = without_gradient(places, maps)
        if not self.with_values:
            return places
        return places, without_gradient(values.mean(2)[..., None, None], maps)

    def _largest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The largest values (N, joints, count) and their cells."""
        if self.best == 0:
            cells = values.argmax(2, keepdim=True)
            return values.gather(2, cells), cells
        count = min(self.best, values.shape[2])
        found, order = values.flip(2).sort(dim=2, descending=True, stable=True)
        return found[..., :count], values.shape[2] - 1 - order[..., :count]


@layer("CoordsFromHeatMaps", bottoms=(1, 2), tops=(1, 2), dialects=(FORK,))
def coords_from_heat_maps(spec: LayerSpec) -> Layer:
    if len(spec.bottoms) == 2:
        spec.fail("takes 1 bottom here: with a second one, how many places count is undefined in the fork")
    spec.shaped(0, "images", "joints > 0", "height > 0", "width > 0")
    params = spec.params("pose_coords_from_heat_maps_param")
    given = [params.has(name) for name in ("heat_map_a", "heat_map_b")]
    if spec.message.HasField("pose_coords_from_heat_maps_param") and not all(given):
        spec.fail("needs heat_map_a and heat_map_b in pose_coords_from_heat_maps_param; the fork has no default for it")
    if params.top_k < 0:
        spec.fail(f"top_k is {params.top_k}; 0 for the largest value alone, or more, was expected")
    return CoordsFromHeatMaps(params.heat_map_a, params.heat_map_b, params.top_k, with_values=len(spec.tops) == 2)


class ArgMaxC(Layer):
    """The channel of the largest value at each place of (N, C, H, W), (N, 1, H, W), and behind it the value itself if
    ``with_values``. The gradient is 0, that of the value, too. Source: the fork's ``argmaxc_layer.cpp``."""

    def __init__(self, *, with_values: bool) -> None:
        super().__init__()
        self.with_values = with_values

    def forward(self, x: Tensor) -> Tensor:
        value, channel = x.detach().max(1, keepdim=True)
        top = channel.to(x.dtype)
        return without_gradient(torch.cat([top, value], 1) if self.with_values else top, x)


@layer("ArgMaxC", bottoms=1, tops=1, verified=False)
def arg_max_c(spec: LayerSpec) -> Layer:
    spec.shaped(0, "images", "channels > 0", "height", "width")
    return ArgMaxC(with_values=spec.params("arg_max_c_param").out_max_val)


class PoseDifference(Layer):
    """The squared difference of two poses (N, 2 joints), summed, per image: (1, 1, 1, 1). It has no gradient."""

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 1)

    @torch.no_grad()
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target.reshape(prediction.shape)).square().sum() / len(prediction)).reshape(1, 1, 1, 1)


# Settings of what the fork appends to files once images_num images have passed.
_LOGGED = ("acc_factor", "acc_factor_num", "images_num", "acc_path", "acc_name", "log_name", "zero_iter_test")


def _measure(spec: LayerSpec, field: str, *joints: str) -> Layer:
    a, b = check_poses(spec), check_poses(spec, 1)
    if a[:2] != b[:2]:
        spec.fail(f"compares poses of one shape; found {list(a)} and {list(b)}")
    params = spec.params(field)
    needed = [name for name in (*_LOGGED[:-1], *joints) if not params.has(name)]
    if needed:
        spec.fail(f"needs {', '.join(needed)} in {field}; the fork has no default for it")
    for name in joints:
        if not 0 <= getattr(params, name) < a[1] // 2:
            spec.fail(f"{name} is {getattr(params, name)}; a joint of 0 to {a[1] // 2 - 1} was expected")
    params.ignore(*_LOGGED)  # the top does not depend on them
    spec.note(f"the rates that the fork appends to {params.acc_path}{params.acc_name} are not written")
    return PoseDifference()


@layer("PosePDJAccuracy", bottoms=2, tops=1, dialects=(FORK,), verified=False, unforced=(0, 1))
def pose_pdj_accuracy(spec: LayerSpec) -> Layer:
    return _measure(spec, "pose_pdj_accuracy_param", "shoulder_id", "hip_id")


@layer("PoseEuDistAccuracy", bottoms=2, tops=1, verified=False, unforced=(0, 1))
def pose_eu_dist_accuracy(spec: LayerSpec) -> Layer:
    return _measure(spec, "pose_eudist_accuracy_param")


class NothingDrawn(Layer):
    """Takes bottoms and makes nothing of them: of the fork's pictures of poses and maps none is drawn."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()


def _undrawn(spec: LayerSpec, field: str) -> Layer:
    check_info(spec, len(spec.bottoms) - 1)
    params = spec.params(field)
    params.ignore(*(descriptor.name for descriptor, _ in params.message.ListFields()))
    spec.note("the pictures and files that the fork writes for people to look at are not written")
    return NothingDrawn()


@layer("VisualizedHeatMaps2", bottoms=(2, 3), tops=0, verified=False)
def visualized_heat_maps_2(spec: LayerSpec) -> Layer:
    return _undrawn(spec, "visual_heat_maps_param")


@layer("VisualizedPoseCoords", bottoms=(2, 3), tops=0, verified=False)
def visualized_pose_coords(spec: LayerSpec) -> Layer:
    return _undrawn(spec, "visual_pose_coords_param")
