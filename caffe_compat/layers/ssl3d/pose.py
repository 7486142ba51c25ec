"""Layers of the 3Dpose_ssl fork that work on poses: one row of joint coordinates per frame.

The fork addresses a pose by frame and channel only, so a bottom is (frames, values), further axes being 1. Joints are
in the order Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Head LShoulder LElbow LWrist RShoulder RElbow RWrist.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..autograd import Context

__all__ = [
    "FORK",
    "DummyForward",
    "InvertedOrder",
    "Mask",
    "Mask2D3D",
    "RescaledPoseCoords",
    "SkelVectorLoss",
    "pose_rows",
    "refuse",
    "required_params",
    "stated_gradient",
]

# The fork's name, for layer types that another fork registers with another meaning.
FORK = "chanyn/3Dpose_ssl"

# The joint that each of the 16 joints hangs on; the hip hangs on itself.
_PARENTS = (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14)

# Spine and head are masked twice as often as the other joints.
_OFTEN_MASKED = (7, 9)


def refuse(layer: Layer, message: str) -> LayerError:
    """The error that ``layer`` raises when it runs on bottoms that it cannot take."""
    return LayerError(message, layer=layer.layer_name, type=type(layer).__name__)


def pose_rows(x: Tensor, layer: Layer, what: str = "its bottom") -> Tensor:
    """``x`` as (frames, values).

    Raises:
        LayerError: ``x`` has another axis larger than 1.
    """
    if not 1 <= x.dim() <= 4 or any(size != 1 for size in x.shape[2:]):
        raise refuse(layer, f"takes poses, (frames, values) with further axes of 1; {what} has shape {list(x.shape)}")
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def required_params(spec: LayerSpec, field: str, *names: str) -> Params:
    """Parameter message ``field``, which the file must have and which must set ``names``."""
    params = spec.params(field)
    if not spec.message.HasField(field):
        spec.fail(f"needs {field}{' with ' + ', '.join(names) if names else ''}; the definition has none")
    missing = [name for name in names if not params.has(name)]
    if missing:
        spec.fail(f"needs {', '.join(missing)} in {field}; the fork has no default for it")
    return params


class _Context(Context, Protocol):
    shapes: tuple[torch.Size, torch.Size]


class _StatedGradient(torch.autograd.Function):
    """The identity on ``loss`` whose backward pass hands out ``slope`` instead of deriving anything."""

    @staticmethod
    def forward(ctx: _Context, prediction: Tensor, target: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.shapes = prediction.shape, target.shape
        return loss.clone()

    @staticmethod
    def backward(ctx: _Context, weight: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        diff = slope * weight
        return diff.reshape(ctx.shapes[0]), -diff.reshape(ctx.shapes[1]), None, None


def stated_gradient(prediction: Tensor, target: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
    """``loss``, with ``slope`` as its gradient for ``prediction`` and the negative of that for ``target``.

    For losses whose backward pass in the original is not the derivative of the forward pass.
    """
    result: Tensor = _StatedGradient.apply(prediction, target, loss.detach(), slope.detach())
    return result


class InvertedOrder(Layer):
    """The frames (axis 0) last to first."""

    def infer(self, *bottoms: Tensor) -> Tensor:
        pose_rows(bottoms[0], self)
        return bottoms[0]

    def forward(self, x: Tensor) -> Tensor:
        pose_rows(x, self)
        return x.flip(0)


@layer("InvertedOrder", bottoms=1, tops=1, unforced=(0,))
def inverted_order(spec: LayerSpec) -> Layer:
    if spec.bottoms[0] == spec.tops[0]:
        spec.fail("the fork overwrites its own input when the top has the bottom's name; give the top another name")
    return InvertedOrder()


class DummyForward(Layer):
    """The identity. It owns one number that nothing uses: in the fork that makes gradients flow this far down."""

    def __init__(self) -> None:
        super().__init__()
        self.blob("dummy", (1,))

    def forward(self, x: Tensor) -> Tensor:
        return x


@layer("DummyForward", bottoms=1, tops=1)
def dummy_forward(spec: LayerSpec) -> Layer:
    return DummyForward()


def _joint_mask(layer: Layer, x: Tensor, joints: int, probability: float) -> Tensor:
    """(frames, joints): 0 for a joint to hide, else 1, in the precision of ``x``.

    A joint is hidden with ``probability``, joints 7 and 9 with twice that. Values outside [0, 1] hide none or all.
    """
    generator = None if x.is_meta else layer.randomness.generator(layer.layer_name, x.device)
    draws = x.new_empty(x.shape[0], joints, dtype=torch.float32).uniform_(generator=generator)
    index = torch.arange(joints, device=x.device)
    often = (index == _OFTEN_MASKED[0]) | (index == _OFTEN_MASKED[1])
    return (draws > torch.where(often, 2 * probability, probability)).to(x.dtype)


def _per_value(mask: Tensor, dim: int) -> Tensor:
    """A (frames, joints) mask repeated for the ``dim`` coordinates of each joint."""
    return mask.unsqueeze(2).expand(-1, -1, dim).flatten(1)


class Mask(Layer):
    """A random mask of the bottom's shape that hides whole joints; in either phase, and without scaling what is kept.

    The layer gives the mask alone (an Eltwise layer multiplies), so nothing flows back to the bottom.
    """

    def __init__(self, dim: int, probability: float) -> None:
        super().__init__()
        self.dim = dim
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        values = pose_rows(x, self).shape[1]
        if values % self.dim != 0:
            raise refuse(self, f"{values} values are no whole number of joints of {self.dim} coordinates")
        mask = _joint_mask(self, x, values // self.dim, self.probability)
        return _per_value(mask, self.dim).reshape(x.shape)


@layer("Mask", bottoms=1, tops=1, unforced=(0,), dialects=(FORK,))
def mask(spec: LayerSpec) -> Layer:
    params = required_params(spec, "mask_param")
    if params.dim < 1:
        spec.fail(f"mask_param.dim is {params.dim}; the number of coordinates of a joint, 2 or 3, was expected")
    return Mask(params.dim, params.prob)


class Mask2D3D(Layer):
    """Two random masks that hide the same joints: of 2D poses (frames, 2 joints, 1, 1) and of the bottom's 3D poses.

    A joint is hidden with probability 0.2, joints 7 and 9 with 0.4.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = pose_rows(x, self).shape[1]
        if values % 3 != 0:
            raise refuse(self, f"{values} values are no whole number of joints of 3 coordinates")
        mask = _joint_mask(self, x, values // 3, 0.2)
        return _per_value(mask, 2)[..., None, None], _per_value(mask, 3).reshape(x.shape)


@layer("Mask2D3D", bottoms=1, tops=2)
def mask_2d_3d(spec: LayerSpec) -> Layer:
    return Mask2D3D()


class SkelVectorLoss(Layer):
    """Half the squared difference of bone vectors (parent - child) of two poses, summed, per frame.

    The fork's backward pass gives a bone's derivative to its child joint and nothing to its parent; with
    ``true_gradient`` both get theirs.
    """

    def __init__(self, dim: int, true_gradient: bool) -> None:
        super().__init__()
        self.dim = dim
        self.true_gradient = true_gradient

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        a, b = pose_rows(prediction, self), pose_rows(target, self, "its second bottom")
        if a.shape != b.shape:
            raise refuse(self, f"compares poses of one shape; found {list(prediction.shape)} and {list(target.shape)}")
        joints, rest = divmod(a.shape[1], self.dim)
        if rest or joints > len(_PARENTS):
            raise refuse(
                self, f"{a.shape[1]} values are no {len(_PARENTS)} joints (or the first few) of {self.dim} coordinates"
            )
        if not self.true_gradient:
            a, b = a.detach(), b.detach()
        difference = self._bones(a, joints) - self._bones(b, joints)
        loss = difference.square().sum() / a.shape[0] / 2
        if self.true_gradient:
            return loss
        return stated_gradient(prediction, target, loss, -difference / a.shape[0])

    def _bones(self, pose: Tensor, joints: int) -> Tensor:
        """(frames, joints, dim): where the parent lies, seen from the joint."""
        points = pose.reshape(pose.shape[0], joints, self.dim)
        parents = torch.tensor(_PARENTS[:joints], device=pose.device)
        return points.index_select(1, parents) - points


@layer("SkelVectorLoss", bottoms=2, tops=1, loss=True, unforced=())
def skel_vector_loss(spec: LayerSpec) -> Layer:
    dim = required_params(spec, "skel_vector_param").dim
    if dim < 1:
        spec.fail(f"skel_vector_param.dim is {dim}; the number of coordinates of a joint, 2 or 3, was expected")
    return SkelVectorLoss(dim, spec.gradients == "true")


class RescaledPoseCoords(Layer):
    """Coordinates divided by each frame's image scale, which is value 3 of the 5 in the second bottom.

    The fork sends no gradient through it; with ``true_gradient`` the coordinates get theirs.
    """

    def __init__(self, true_gradient: bool) -> None:
        super().__init__()
        self.true_gradient = true_gradient

    def forward(self, coordinates: Tensor, info: Tensor) -> Tensor:
        rows, aux = pose_rows(coordinates, self), pose_rows(info, self, "its second bottom")
        if rows.shape[1] % 2 != 0:
            raise refuse(self, f"takes pairs of coordinates; found {rows.shape[1]} values per frame")
        if aux.shape[0] != rows.shape[0] or aux.shape[1] != 5:
            raise refuse(
                self,
                f"its second bottom has shape {list(info.shape)}; 5 values (index, width, height, scale, flippable) "
                f"for each of the {rows.shape[0]} frames were expected",
            )
        if not self.true_gradient:
            rows = rows.detach()
        return (rows / aux[:, 3:4].detach())[..., None, None]


@layer("RescaledPoseCoords", bottoms=2, tops=1, dialects=(FORK,))
def rescaled_pose_coords(spec: LayerSpec) -> Layer:
    return RescaledPoseCoords(spec.gradients == "true")
