"""Poses of pose_action_caffe as fractions of their picture and back, and the boxes that joints span.

Source: zimenglan-sysu-512/pose_action_caffe, ``normalized_pose_coords_layer.cpp``,
``revert_normalized_pose_coords_layer.cpp`` and ``coords_to_bboxes_layer.cpp``. Their gradients are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from .pose_action import FORK, check_info, check_poses

__all__ = ["CoordsToBboxes", "PoseScale"]


class PoseScale(Layer):
    """Poses (N, 2 joints, 1, 1) less their origin, by a size; or, with ``back``, times the size and from the origin.

    ``whole`` takes half of the picture and its size, where the fork takes the width that the second bottom tells for
    the height and the other way round. ``statistics``, a file, has as its first number how many coordinates there are,
    and then a mean and a deviation of each, in pixels of the picture in the file. Without either nothing changes.
    """

    def __init__(self, *, back: bool, whole: bool = False, statistics: str | None = None) -> None:
        super().__init__()
        self.back = back
        self.whole = whole
        self.statistics = statistics
        self._stored: Tensor | None = None

    def infer(self, *bottoms: Tensor) -> Tensor:
        return torch.empty_like(bottoms[0])

    def forward(self, poses: Tensor, *info: Tensor) -> Tensor:
        poses = poses.detach()
        if not self.whole and self.statistics is None:
            return poses.clone()
        rows, numbers = poses.flatten(1), info[0].detach().reshape(len(poses), 5)
        if self.whole:
            size = (numbers[:, 1:3].flip(1) * numbers[:, 3:4]).repeat(1, rows.shape[1] // 2)
            origin = size / 2
        else:
            origin, size = (self._read(rows.shape[1]).to(rows) * numbers[:, 3:4, None]).unbind(2)
        rows = rows * size + origin if self.back else (rows - origin) / size
        return rows.reshape(poses.shape)

    def _read(self, count: int) -> Tensor:
        """Mean and deviation of each coordinate, (count, 2)."""
        if self._stored is None:
            assert self.statistics is not None
            words = self.files.read(self.statistics, self.layer_name).decode("utf-8", "replace").split()
            try:
                numbers = [float(word) for word in words]
            except ValueError:
                numbers = []
            if len(numbers) < 1 + 2 * count or numbers[0] != count:
                raise LayerError(
                    f"{self.statistics!r} has {words[0] if words else 'no'} coordinates and {max(len(words) - 1, 0)} "
                    f"numbers; {count}, and two numbers of each, were expected",
                    layer=self.layer_name,
                )
            self._stored = torch.tensor(numbers[1 : 1 + 2 * count]).reshape(count, 2)
        return self._stored


@layer("NormalizedPoseCoords", bottoms=(1, 2), tops=1, dialects=(FORK,))
def normalized_pose_coords(spec: LayerSpec) -> Layer:
    return _pose_scale(spec, back=False)


@layer("RevertNormalizedPoseCoords", bottoms=(1, 2), tops=1, dialects=(FORK,))
def revert_normalized_pose_coords(spec: LayerSpec) -> Layer:
    return _pose_scale(spec, back=True)


def _pose_scale(spec: LayerSpec, *, back: bool) -> Layer:
    params = spec.params("norm_pose_coords_param")
    check_poses(spec)
    if not params.has("normalized_type") or params.normalized_type not in (0, 1, 2):
        spec.fail("needs a normalized_type of 0, 1 or 2")
    kind = params.normalized_type
    if kind != 2:
        params.ignore("statistic_file")
    if kind == 0:
        return PoseScale(back=back)
    if len(spec.bottoms) < 2:
        spec.fail(f"normalized_type {kind} needs a second bottom")
    check_info(spec, 1)
    if kind == 1:
        return PoseScale(back=back, whole=True)
    if not params.has("statistic_file"):
        spec.fail("normalized_type 2 needs statistic_file")
    return PoseScale(back=back, statistics=params.statistic_file)


class CoordsToBboxes(Layer):
    """The box (N, 4, 1, 1), x1, y1, x2, y2, that two joints of a pose span, or all of them without ``joints``."""

    def __init__(self, joints: tuple[int, int] | None) -> None:
        super().__init__()
        self.joints = joints

    def forward(self, poses: Tensor) -> Tensor:
        points = poses.detach().flatten(1).unflatten(1, (-1, 2))
        if self.joints is not None:
            points = points[:, list(self.joints)]
        return torch.cat([points.amin(1), points.amax(1)], 1)[..., None, None]


@layer("CoordsToBboxes", bottoms=1, tops=1, dialects=(FORK,))
def coords_to_bboxes(spec: LayerSpec) -> Layer:
    params, joints = spec.params("coord2bbox_param"), check_poses(spec)[1] // 2
    if not (params.has("bbox_id1") and params.has("bbox_id2")):
        spec.fail("needs bbox_id1 and bbox_id2")
    first, second = params.bbox_id1, params.bbox_id2
    if first == second or max(first, second) < 0:
        return CoordsToBboxes(None)
    if not 0 <= min(first, second) <= max(first, second) < joints:
        spec.fail(f"bbox_id1 {first} and bbox_id2 {second} must be two of {joints} joints, or alike for all")
    return CoordsToBboxes((first, second))
