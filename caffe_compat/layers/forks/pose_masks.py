"""Maps that pose_action_caffe makes of coordinates, as large as the network's pictures.

How large that is the second bottom says when the net runs (:mod:`.pose_action`): the largest width and height times
scale of the batch, cut off. While it is built, the net's first input of four axes stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..compiling import outside_graphs
from ..gradients import without_gradient
from .pose_action import check_info, check_poses

__all__ = ["BoxMask", "Corners", "Jitter", "JointDiscs", "JointRings"]

Size = tuple[int, int]


class _PictureSized(Layer):
    """What both kinds of maps share: their size."""

    def __init__(self, picture: Size) -> None:
        super().__init__()
        self.picture = picture

    @outside_graphs
    def size_of(self, info: Tensor) -> tuple[Tensor, Size]:
        """Width and height (N, 2) of each picture, and height and width of the maps of all."""
        rows = info.detach().reshape(-1, 5)
        sizes = rows[:, 1:3] * rows[:, 3:4]
        width, height = (int(n.item()) for n in sizes.amax(0))
        return sizes, (height, width)


def _picture(spec: LayerSpec) -> Size:
    check_poses(spec)
    check_info(spec, 1)
    size = spec.around.picture() if spec.around is not None else None
    if size is None:
        spec.fail("makes maps as large as the net's pictures, but no input of the net has four axes")
    return size


# Masks of boxes


@dataclass(frozen=True)
class Corners:
    """The joints that a box is spanned by: by chance the first pair or the second; of ``whole``, all joints."""

    first: tuple[int, int]
    second: tuple[int, int]
    whole: bool


@dataclass(frozen=True)
class Jitter:
    """How far corners are moved at most, in pixels; 0 is not at all. ``always``: each coordinate by itself, always;
    else, in 14 of 20 cases, a few of them."""

    most: int
    always: bool


# Which of four draws moves x1, y1, x2, y2, by the case of 20 that is drawn; other cases move nothing.
_CASES: dict[int, tuple[int | None, int | None, int | None, int | None]] = {
    **dict.fromkeys((1, 2), (0, None, None, None)),
    **dict.fromkeys((3, 4), (None, 0, None, None)),
    **dict.fromkeys((5, 6), (None, None, 0, None)),
    **dict.fromkeys((7, 8), (None, None, None, 0)),
    **dict.fromkeys((11, 12), (0, 0, None, None)),
    **dict.fromkeys((13, 14), (None, None, 0, 0)),
    **dict.fromkeys((15, 16), (0, 0, 1, 1)),
    **dict.fromkeys((17, 18), (0, 1, 2, 3)),
}


class BoxMask(_PictureSized):
    """Poses (N, 2 joints) and what their pictures were -> (N, 1, H, W): ``value`` inside the box between two joints, 0
    elsewhere, and everywhere where a corner of the box lies outside the map.

    ``falls_back``: where the pictures have no size, the maps have that of the net's, rows and columns exchanged, as in
    the fork; it has ``early`` passes on boxes outside, too, before corners are moved. Draws are of this library, not
    the fork's. Sources: the fork's ``coords_to_bboxes_masks_layer.cpp``, ``torso_mask_from_coords.cpp``.
    """

    def __init__(self, corners: Corners, jitter: Jitter, value: float, picture: Size, *, torso: bool) -> None:
        super().__init__(picture)
        self.corners = corners
        self.jitter = jitter
        self.value = value
        self.torso = torso

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(x.shape[0], 1, *self.picture)

    def forward(self, poses: Tensor, info: Tensor) -> Tensor:
        _, size = self.size_of(info)
        boxes, drawn = self._boxes(poses.detach().reshape(len(poses), -1, 2), size)
        x1, y1, x2, y2 = boxes.unbind(1)
        shape = size
        if min(size) <= 0:
            if self.torso:
                raise LayerError(
                    f"the pictures are {size[0]} x {size[1]}", layer=self.layer_name, type="TorsoMaskFromCoords"
                )
            shape = (self.picture[1], self.picture[0])
        rows, columns = (torch.arange(n, device=poses.device) for n in shape)

        def inside(places: Tensor, low: Tensor, high: Tensor) -> Tensor:
            return (places >= low[:, None].trunc()) & (places <= high[:, None])

        mask = inside(rows, y1, y2)[:, :, None] & inside(columns, x1, x2)[:, None, :] & drawn[:, None, None]
        return without_gradient(mask[:, None].to(poses.dtype) * self.value, poses)

    def _boxes(self, joints: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """x1, y1, x2, y2 of each box (N, 4), the lesser first, and whether it is drawn."""
        height, width = size
        generator = self.randomness.generator(self.layer_name, "cpu")
        if self.corners.whole:
            boxes = torch.cat([joints.amin(1), joints.amax(1)], 1)
        else:
            first = torch.randint(2, (len(joints), 1), generator=generator).to(joints.device) == 1
            pairs = (joints[:, list(pair)].flatten(1) for pair in (self.corners.first, self.corners.second))
            one, other = pairs
            boxes = torch.where(first, one, other)
        drawn = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        limits = boxes.new_tensor([width, height, width, height])
        if not self.torso:
            drawn = ~((boxes <= 0).all(1) | (boxes >= limits).all(1))
        if self.jitter.most:
            boxes = boxes + self._moves(len(boxes), generator).to(boxes)
        boxes = torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], 1)
        return boxes, drawn & ((boxes >= 0) & (boxes < limits)).all(1)

    def _moves(self, count: int, generator: torch.Generator | None) -> Tensor:
        """How far each coordinate of each box is moved: (count, 4)."""
        most = self.jitter.most
        draws = torch.randint(-most, most + 1, (count, 4), generator=generator)
        if self.jitter.always:
            return draws
        moves = torch.zeros_like(draws)
        for n, case in enumerate(torch.randint(20, (count,), generator=generator).tolist()):
            for coordinate, draw in enumerate(_CASES.get(case, ())):
                if draw is not None:
                    moves[n, coordinate] = draws[n, draw]
        return moves


def _corners(spec: LayerSpec, params: Params) -> Corners:
    names = ("top_id", "bottom_id", "top_id2", "bottom_id2", "value")
    missing = [name for name in names if not params.has(name)]
    if missing:
        spec.fail(f"needs {', '.join(missing)}; the fork has no default for it")
    first, second = (params.top_id, params.bottom_id), (params.top_id2, params.bottom_id2)
    whole = min(*first, *second) < 0 or first[0] == first[1] or second[0] == second[1]
    joints = spec.bottom_shapes[0][1] // 2
    if not whole and max(*first, *second) >= joints:
        spec.fail(f"joints {first} and {second} were asked for; there are 0 to {joints - 1}")
    if params.has("visual_path"):
        spec.note(f"the pictures of the masks in {params.visual_path} are not written")
    params.ignore("visual_path", "img_ext")
    return Corners(first, second, whole)


@layer("CoordsToBboxesMasks", bottoms=2, tops=1, verified=False)
def coords_to_bboxes_masks(spec: LayerSpec) -> Layer:
    picture, params = _picture(spec), spec.params("coord_to_bbox_masks_param")
    jitter = Jitter(max(params.perturb_num, 0), always=False)
    return BoxMask(_corners(spec, params), jitter, params.value, picture, torso=False)


@layer("TorsoMaskFromCoords", bottoms=2, tops=1, verified=False)
def torso_mask_from_coords(spec: LayerSpec) -> Layer:
    picture, params = _picture(spec), spec.params("torso_mask_from_coords_param")
    most = params.perb_num if params.has("perb_num") and params.perb_num > 1 else 0
    params.ignore("input_path")  # which the fork's code reads and never uses
    return BoxMask(_corners(spec, params), Jitter(most, always=True), params.value, picture, torso=True)


# Heat maps


class JointDiscs(_PictureSized):
    """Poses (N, 2 joints) and what their pictures were -> maps (N, joints, H, W) with a disc about each joint, which
    joints have one (N, joints, 1, 1), and, as third top, W, H, 1 and 0.

    A disc holds 1, or, if ``spread``, exp(d / 2 spread^2) of a cell whose offset (x, y) from the joint's has
    d = (x - mean)^2 + (y - mean)^2: it grows outwards, as the fork's sign has it. Cells behind the last column or row
    of the map are left out; the fork writes them into the next row. A joint outside its picture has no disc. The
    gradient is 0. Source: the fork's ``heat_maps_from_coords_origin_layer.cpp``.
    """

    def __init__(self, radii: tuple[int, ...], mean: float, spread: float | None, picture: Size, *, tops: int) -> None:
        super().__init__(picture)
        self.radii = radii
        self.mean = mean
        self.spread = spread
        self.tops = tops

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0]
        joints = (x.shape[0], len(self.radii))
        shapes = ((*joints, *self.picture), (*joints, 1, 1), (4, 1, 1, 1))
        return tuple(x.new_empty(shape) for shape in shapes[: self.tops])

    def forward(self, poses: Tensor, info: Tensor) -> tuple[Tensor, ...]:
        sizes, (height, width) = self.size_of(info)
        joints = poses.detach().reshape(len(poses), -1, 2)
        seen = ((joints >= 0) & (joints < sizes[:, None])).all(2)
        # (N, joints, columns) and (N, joints, rows): the offset from the joint's cell, and whether the picture has it.
        (across, right), (down, low) = (
            self._offsets(joints[..., axis], sizes[:, axis], length) for axis, length in ((0, width), (1, height))
        )
        squares = across[..., None, :].square() + down[..., :, None].square()
        around = right[..., None, :] & low[..., :, None] & seen[..., None, None]
        disc = around & (squares <= self._squared(self.radii, poses))
        value = disc.new_ones(()).to(poses.dtype)
        if self.spread is not None:
            parts = ((d - self.mean).square() for d in (across[..., None, :], down[..., :, None]))
            value = (sum(parts, value.new_zeros(())) / (2 * self.spread**2)).exp()
        maps = torch.where(disc, value, 0)
        second = self.second(seen[..., None, None], around, squares).to(maps.dtype)
        tops = (maps, second, maps.new_tensor([width, height, 1, 0]).reshape(4, 1, 1, 1))
        return tuple(without_gradient(top, poses) for top in tops[: self.tops])

    def second(self, seen: Tensor, around: Tensor, squares: Tensor) -> Tensor:
        """The second top.

        Args:
            seen: which joints have a disc, (N, joints, 1, 1). around: which cells of these joints' maps their pictures
                have, (N, joints, H, W). squares: squared distances of cells from their joint.
        """
        return seen

    @staticmethod
    def _squared(radii: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_tensor(radii)[:, None, None].square()

    @staticmethod
    def _offsets(places: Tensor, sizes: Tensor, length: int) -> tuple[Tensor, Tensor]:
        cells = torch.arange(length, device=places.device, dtype=places.dtype)
        offsets = cells - places[..., None].floor()
        return offsets, places[..., None] + offsets < sizes[:, None, None]


class JointRings(JointDiscs):
    """The same maps; the second top is (N, joints, H, W): 0 between a joint's disc and its ``outer`` radius, and all
    over the map of a joint without a disc, else 1. So a loss leaves out where it is neither joint nor background.

    Source: the fork's ``heat_maps_from_coords_origin_layer2.cpp``.
    """

    def __init__(
        self,
        radii: tuple[int, ...],
        outer: tuple[int, ...],
        mean: float,
        spread: float | None,
        picture: Size,
        *,
        tops: int,
    ) -> None:
        super().__init__(radii, mean, spread, picture, tops=tops)
        self.outer = outer

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        maps, _, *size = super().infer(*bottoms)
        return (maps, torch.empty_like(maps), *size)

    def second(self, seen: Tensor, around: Tensor, squares: Tensor) -> Tensor:
        inner, outer = self._squared(self.radii, squares), self._squared(self.outer, squares)
        return seen & ~(around & (squares > inner) & (squares < outer))


@layer("HeatMapsFromCoordsOrigin", bottoms=2, tops=(2, 3))
def heat_maps_from_coords_origin(spec: LayerSpec) -> Layer:
    picture, params = _picture(spec), spec.params("heat_maps_from_coords_origin_param")
    spread = _spread(spec, params)
    return JointDiscs(_radii(spec, params, "radius"), params.gau_mean, spread, picture, tops=len(spec.tops))


@layer("HeatMapsFromCoordsOrigin2", bottoms=2, tops=(2, 3))
def heat_maps_from_coords_origin2(spec: LayerSpec) -> Layer:
    picture, params = _picture(spec), spec.params("heat_maps_from_coords_origin2_param")
    spread = _spread(spec, params)
    inner, outer = (_radii(spec, params, name) for name in ("radius", "in_radius"))
    for joint, (least, most) in enumerate(zip(inner, outer, strict=True)):
        if most <= least:
            spec.fail(f"in_radius of joint {joint} is {most}; more than its radius, {least}, was expected")
    if params.has("visual_path"):
        spec.note(f"the pictures of the maps and masks in {params.visual_path} are not written")
    params.ignore("visual_path", "img_ext")
    return JointRings(inner, outer, params.gau_mean, spread, picture, tops=len(spec.tops))


def _spread(spec: LayerSpec, params: Params) -> float | None:
    """The standard deviation of discs that are no plain 1; None for those that are."""
    missing = [name for name in ("is_binary", "gau_mean", "gau_stds") if not params.has(name)]
    if missing:
        spec.fail(f"needs {', '.join(missing)}; the fork has no default for it")
    if params.gau_stds <= 0:
        spec.fail(f"gau_stds is {params.gau_stds:g}; more than 0 was expected")
    return None if params.is_binary else float(params.gau_stds)


def _radii(spec: LayerSpec, params: Params, name: str) -> tuple[int, ...]:
    """The radius of each joint, in pixels, of the field ``name`` or of the list in ``<name>_str``."""
    joints, listed = spec.bottom_shapes[0][1] // 2, f"{name}_str"
    if params.has(name) == params.has(listed):
        spec.fail(f"needs {name}, or {listed} with one for each joint")
    if params.has(name):
        radius = int(getattr(params, name))
        if radius < 1:
            spec.fail(f"{name} is {radius}; at least 1 was expected")
        return (radius,) * joints
    text = str(getattr(params, listed))
    try:
        radii = tuple(int(part) for part in text.split(","))
    except ValueError:
        spec.fail(f"{listed} is {text!r}; whole numbers with commas between them were expected")
    if len(radii) != joints or min(radii) < 0:
        spec.fail(f"{listed} is {text!r}; {joints} radii, one for each joint, were expected")
    return radii
