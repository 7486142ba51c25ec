"""The correction module and the 3D-to-2D projector: their weights, forward passes, and the loss that links them.

    coarse 3D (48) -> change_tmp + ReLU -> change -> corrected 3D (48)
    corrected 3D -> project_1 + ReLU -> project_2 + ReLU -> project_3 + ReLU -> sum with project_1's -> project_2d (32)

3D poses are normalised and flat, (frames, 48); 2D poses are fractions of the crop's side, (frames, 32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from caffe_compat.errors import WeightsError

from .skeleton import H36M16

__all__ = ["LAYERS", "RELU_SCALE", "Affine", "ProjectionLoss", "Projector", "correct", "project"]

LAYERS = ("change_tmp", "change", "project_1", "project_2", "project_3", "project_2d")

# The refinement's graph has batch normalisation before each ReLU of the projector, with the mean 0, variance 1 and
# epsilon 0.001 of fresh statistics. The network it came from has none: there the scale is 1.
RELU_SCALE = 1 / math.sqrt(1.001)

POSE_3D, POSE_2D = 3 * len(H36M16), 2 * len(H36M16)


class Affine(NamedTuple):
    """A fully connected layer: weight (outputs, inputs), bias (outputs,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Projector:
    """The weights of the six layers. Their widths fit each other; the two hidden widths are free."""

    change_tmp: Affine
    change: Affine
    project_1: Affine
    project_2: Affine
    project_3: Affine
    project_2d: Affine

    def __post_init__(self) -> None:
        hidden, wide = len(self.change_tmp.bias), len(self.project_1.bias)
        shapes = (hidden, POSE_3D), (POSE_3D, hidden), (wide, POSE_3D), (wide, wide), (wide, wide), (POSE_2D, wide)
        for name, shape in zip(LAYERS, shapes, strict=True):
            weight, bias = getattr(self, name)
            if tuple(weight.shape) != shape or tuple(bias.shape) != shape[:1]:
                raise WeightsError(
                    f"a weight of {shape} and a bias of {shape[:1]} were expected, found "
                    f"{tuple(weight.shape)} and {tuple(bias.shape)}",
                    layer=name,
                )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Projector:
        """From the state of a network with these layers, such as ``CaffeNet.state_dict()``; its other entries are left.

        Raises:
            WeightsError: a layer is missing or has another shape.
        """
        missing = [f"{name}.{part}" for name in LAYERS for part in ("weight", "bias") if f"{name}.{part}" not in state]
        if missing:
            raise WeightsError(f"the network lacks {', '.join(missing)}: it has no correction module and projector")
        return cls(**{name: Affine(state[f"{name}.weight"], state[f"{name}.bias"]) for name in LAYERS})

    @classmethod
    def from_arrays(cls, arrays: Sequence[np.ndarray]) -> Projector:
        """From 12 arrays: weight transposed (inputs, outputs) and bias of each layer, as ``arrays`` gives them.

        Raises:
            WeightsError: another number of arrays, or shapes that do not fit.
        """
        if len(arrays) != 2 * len(LAYERS):
            raise WeightsError(
                f"{len(arrays)} arrays; a weight and a bias for each of {', '.join(LAYERS)} were expected"
            )
        tensors = [torch.from_numpy(np.array(array)) for array in arrays]
        pairs = zip(LAYERS, tensors[::2], tensors[1::2], strict=True)
        return cls(**{name: Affine(weight.T.contiguous(), bias) for name, weight, bias in pairs})

    def arrays(self) -> list[np.ndarray]:
        """The 12 arrays of the original's pickle: weight transposed (inputs, outputs) and bias of each layer."""
        parts = [part for name in LAYERS for part in (getattr(self, name).weight.T, getattr(self, name).bias)]
        return [np.ascontiguousarray(part.detach().cpu().numpy()) for part in parts]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Projector:
        """The same weights elsewhere or in another precision, detached from any graph."""
        moved = {
            name: Affine(*(part.detach().to(device=device, dtype=dtype) for part in getattr(self, name)))
            for name in (field.name for field in fields(self))
        }
        return replace(self, **moved)


def correct(projector: Projector, coarse: Tensor) -> Tensor:
    """The corrected 3D pose (frames, 48) of a coarse one (frames, 48), both normalised: the blob ``change``."""
    return linear(linear(coarse, *projector.change_tmp).relu(), *projector.change)


def project(projector: Projector, pose: Tensor, relu_scale: float = 1.0) -> Tensor:
    """The 2D pose (frames, 32) of a normalised 3D pose (frames, 48): the blob ``project_2d``.

    Args:
        relu_scale: 1 for the network itself, ``RELU_SCALE`` for the projector as the refinement runs it.
    """
    first = (relu_scale * linear(pose, *projector.project_1)).relu()
    second = (relu_scale * linear(first, *projector.project_2)).relu()
    third = (relu_scale * linear(second, *projector.project_3)).relu()
    return linear(first + third, *projector.project_2d)


class ProjectionLoss:
    """What the refinement lowers: mean squared differences of 2D points and of 2D bones, over 32 values each.

    A bone is the absolute difference, per coordinate, of a joint and its parent. Joint 7 (the spine, which MPII and
    Human3.6M place differently) counts as (0, 0) in both poses, also as the parent of joint 8.
    """

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> None:
        mask = torch.ones(POSE_2D, dtype=dtype, device=device)
        mask[14:16] = 0
        bones = torch.zeros(POSE_2D, POSE_2D, dtype=dtype, device=device)
        for joint, parent in enumerate(H36M16.parents):
            for axis in (0, 1):
                bones[2 * joint + axis, 2 * parent + axis] += 1
                bones[2 * joint + axis, 2 * joint + axis] -= 1
        self._mask = mask
        self._bones = bones * mask
        self._bones_t = self._bones.T.contiguous()

    def target(self, pose2d: Tensor) -> tuple[Tensor, Tensor]:
        """What of a target (frames, 32) the loss compares with: its masked points and its bones."""
        return pose2d * self._mask, (pose2d @ self._bones_t).abs()

    def __call__(self, projected: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of each frame, (frames,), of a projected pose (frames, 32)."""
        points, bones = target
        point_term = (projected * self._mask - points).square().mean(-1)
        return point_term + ((projected @ self._bones_t).abs() - bones).square().mean(-1)

    def gradient(self, projected: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """The loss's gradient with respect to ``projected``, (frames, 32)."""
        points, bones = target
        ours = projected @ self._bones_t
        slope = (ours.abs() - bones).mul_(ours.sign())
        return torch.addmm(projected * self._mask - points, slope, self._bones).mul_(2 / POSE_2D)
