"""Refinement: each frame's correction module takes a few Adam steps until its pose projects onto the 2D input.

For every frame the weights start from the trained ones. A step computes the corrected pose, its projection, the loss
against the 2D input and the gradients, and updates ``change_tmp`` and ``change``; the pose of the last step's forward
pass is the refined one, so two steps mean one effective update.

``faithful`` does what the original did: only the weights are restored between frames, so Adam's moments and step count
run on through an action and the order of frames matters. ``independent`` starts Adam anew for every frame.

No gradient of a fully connected layer needs autograd or a matrix of its own: it is an outer product of two vectors.
Those of the first step, taken at the trained weights, are computed for many frames at once; those of a frame's last
step change no pose of that frame, so they wait and enter the moments together with the next frame's first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from caffe_compat.errors import UsageError

from .moments import BETA2, EPSILON, Gradients, Shared, Trained, project_back
from .projector import LAYERS, POSE_2D, POSE_3D, RELU_SCALE, ProjectionLoss, Projector, correct
from .scaling import REFINEMENT_BOUNDS, Bounds
from .skeleton import H36M16

__all__ = ["ORIGINAL", "PAPER", "RefineSettings", "Refined", "Refiner"]

Array = TypeVar("Array", np.ndarray, Tensor)

# The joints whose movement the paper's thresholds measure.
_TORSO = [H36M16.index(name) for name in ("Hip", "LShoulder", "RShoulder", "LHip", "RHip")]

# Values that half of the frames reach where a unit was mistaken. In the right ones bodies lie about 0 to 1.
_FARTHEST = {POSE_3D: 100.0, POSE_2D: 20.0}

# Frames whose first steps are computed together: enough to keep matrix products busy, few enough to stay in the cache.
_BLOCK = 256


@dataclass(frozen=True)
class RefineSettings:
    """How to refine. The defaults are the original's.

    Example:
        >>> RefineSettings() == ORIGINAL, ORIGINAL.steps
        (True, 2)
        >>> RefineSettings(mode="independent", stop_mm=5).mode
        'independent'
    """

    mode: Literal["faithful", "independent"] = "faithful"
    steps: int = 2
    """Forward passes per frame, at most; the pose of the last one counts."""
    learning_rate: float = 0.00015
    update_projector: bool = False
    """Let the steps update the projector too. It is restored between frames as the correction module is."""
    stop_mm: float | None = None
    """Stop at a step that moved each of the pelvis, shoulders and hips by less than this."""
    discard_mm: float | None = None
    """Keep the first step's pose if one of those joints ended up farther from it than this."""

    def __post_init__(self) -> None:
        if self.mode not in ("faithful", "independent"):
            raise UsageError(f"refinement mode {self.mode!r}; there are faithful and independent")
        if self.steps < 1:
            raise UsageError(f"{self.steps} refinement steps; at least 1 is needed")
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise UsageError(f"refinement learning rate {self.learning_rate}")
        for name in ("stop_mm", "discard_mm"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UsageError(f"refinement threshold {name} = {value}; it is a distance in mm")


ORIGINAL = RefineSettings()
"""What the original's code does."""

PAPER = RefineSettings(steps=20, update_projector=True, stop_mm=5.0, discard_mm=20.0)
"""The variant that the paper describes and the original's code does not have. The paper names no limit of steps."""


@dataclass(frozen=True)
class Refined(Generic[Array]):
    """What came out for n frames."""

    pose: Array
    """(n, 48) normalised: the refined pose."""
    change: Array
    """(n, 48) normalised: the correction module's pose before any update."""
    steps: Array
    """(n,) integers: the forward pass that ``pose`` came from, or would have come from if ``discarded``."""
    discarded: Array
    """(n,) booleans: moved farther than ``discard_mm``, so ``pose`` is ``change``."""


class Refiner:
    """Refines one sequence after another; ``reset`` starts the next action.

    Args:
        projector: the trained weights. They are not changed.
        bounds: what millimetres of the thresholds mean.
        dtype: torch.float32, the original's, or torch.float64.
    """

    def __init__(
        self,
        projector: Projector,
        settings: RefineSettings = ORIGINAL,
        *,
        bounds: Bounds = REFINEMENT_BOUNDS,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise UsageError(f"refinement in {dtype}; torch.float32 and torch.float64 are supported")
        self.settings, self.bounds, self.dtype = settings, bounds, dtype
        self._device, self._dtype = torch.device(device), dtype
        # Scaled in double precision, so that folding the scale into the weights rounds once.
        exact = projector.to(self._device, torch.float64)
        self._loss = ProjectionLoss(self._device, dtype)
        self._range_mm = torch.tensor(bounds.range, device=self._device, dtype=dtype)
        self.projector = self._correction = exact.to(dtype=dtype)
        self._layers = [
            Shared(getattr(exact, name), scale, dtype)
            for name, scale in zip(LAYERS[2:], (RELU_SCALE, RELU_SCALE, RELU_SCALE, 1.0), strict=True)
        ]
        self._hidden = len(projector.change_tmp.bias)
        self._sequence = self._trained(1) if settings.mode == "faithful" else None

    def reset(self) -> None:
        """Forget Adam's moments and step count, as at the start of an action; independent mode keeps none."""
        if self._sequence is not None:
            self._sequence.reset()

    def memory(self) -> dict[str, Tensor]:
        """What of the frames so far the next ones depend on: a copy, for :meth:`recall`; empty in independent mode."""
        return {} if self._sequence is None else self._sequence.memory()

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from where :meth:`memory` was asked for, in this refiner or another one with its settings."""
        if self._sequence is not None:
            self._sequence.recall(memory)

    def refine(self, coarse: Array, pose2d: Array) -> Refined[Array]:
        """Refine consecutive frames.

        Args:
            coarse: (n, 48) or (n, 16, 3), normalised.
            pose2d: (n, 32) or (n, 16, 2), fractions of the crop's side.

        Returns:
            arrays of the kind of ``coarse``; tensors are on the refiner's device.

        Raises:
            UsageError: shapes that do not fit each other, values that are not finite, or clearly of another unit.
        """
        x, y = self._input(coarse, POSE_3D, "coarse 3D"), self._input(pose2d, POSE_2D, "2D")
        if len(x) != len(y):
            raise UsageError(f"{len(x)} coarse 3D poses and {len(y)} 2D poses; there must be one of each per frame")
        with torch.inference_mode():
            parts = [self._block(x[k : k + _BLOCK], y[k : k + _BLOCK]) for k in range(0, max(len(x), 1), _BLOCK)]
            columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        if isinstance(coarse, torch.Tensor):
            return Refined(*(column.clone() for column in columns))
        return Refined(*(column.cpu().numpy() for column in columns))

    def stream(self, blocks: Iterable[tuple[Array, Array]]) -> Iterator[Refined[Array]]:
        """Refine one action that comes in blocks of (coarse, pose2d); memory does not grow with its length."""
        self.reset()
        for coarse, pose2d in blocks:
            yield self.refine(coarse, pose2d)

    def _input(self, values: np.ndarray | Tensor, width: int, what: str) -> Tensor:
        tensor = torch.as_tensor(values if isinstance(values, Tensor) else np.ascontiguousarray(values))
        joints = len(H36M16)
        if tuple(tensor.shape[1:]) not in ((width,), (joints, width // joints)):
            shapes = f"(frames, {width}) or (frames, {joints}, {width // joints})"
            raise UsageError(f"{what} poses of shape {shapes} were expected, found {tuple(tensor.shape)}")
        flat = tensor.detach().to(self._device, self._dtype).reshape(-1, width)
        bad = (~flat.isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise UsageError(f"{what} poses that are not finite, {len(bad)} in all, the first at index {bad[0]}")
        if len(flat) and (reach := float(flat.abs().amax(1).median())) > _FARTHEST[width]:
            other = {POSE_3D: "normalised ones were expected", POSE_2D: "fractions of the crop's side were expected"}
            raise UsageError(f"{what} poses that reach {reach:.0f}: millimetres or pixels? {other[width]}")
        return flat

    def _block(self, x: Tensor, pose2d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Refine up to _BLOCK frames: pose, change, steps, discarded."""
        settings, target = self.settings, self._loss.target(pose2d)
        change = correct(self._correction, x)
        if settings.steps == 1:
            return self._judged(change, change, torch.ones(len(x), dtype=torch.int64, device=self._device))
        first = self._first(x, change, target)
        if self._sequence is not None:
            outcomes = [
                self._frame(
                    self._sequence, x[k : k + 1], change[k : k + 1], _rows(target, k, k + 1), first.rows(k, k + 1)
                )
                for k in range(len(x))
            ]
            if outcomes:
                pose, steps = (torch.cat(column) for column in zip(*outcomes, strict=True))
                return self._judged(change, pose, steps)
            return self._judged(change, change, torch.ones(0, dtype=torch.int64, device=self._device))
        if settings.steps == 2:
            pose = self._one_fresh_update(x, first)
            return self._judged(change, pose, torch.full((len(x),), 2, device=self._device))
        lanes = self._lanes_within_memory()
        pose, taken = torch.empty_like(change), torch.empty(len(x), dtype=torch.int64, device=self._device)
        for k in range(0, len(x), lanes):
            end = min(k + lanes, len(x))
            pose[k:end], taken[k:end] = self._frame(
                self._trained(end - k), x[k:end], change[k:end], _rows(target, k, end), first.rows(k, end)
            )
        return self._judged(change, pose, taken)

    def _first(self, x: Tensor, change: Tensor, target: tuple[Tensor, Tensor]) -> Gradients:
        """The gradients of every frame's first step, at the trained weights."""
        hidden = torch.addmm(self._correction.change_tmp.bias, x, self._correction.change_tmp.weight.T).relu_()
        by_pose, projector = project_back(self._layers, change, target, self._loss)
        by_hidden = (by_pose @ self._correction.change.weight).mul_(hidden.sign())
        return Gradients(by_hidden, hidden, by_pose, projector)

    def _frame(
        self, trained: Trained, x: Tensor, change: Tensor, target: tuple[Tensor, Tensor], first: Gradients
    ) -> tuple[Tensor, Tensor]:
        """Pose (lanes, 48) and step taken (lanes,) of one frame in each lane."""
        settings = self.settings
        trained.start(x)
        trained.hold(first)
        pose, previous = change, change
        taken = torch.ones(len(x), dtype=torch.int64, device=self._device)
        going = torch.ones(len(x), dtype=torch.bool, device=self._device) if settings.stop_mm is not None else None
        for step in range(2, settings.steps + 1):
            trained.update(settings.learning_rate)
            hidden, current = trained.correct()
            # A lane that starts anew with the next frame has no use for its last gradients.
            if self._sequence is not None or step < settings.steps:
                by_pose, projector = project_back(trained.layers(self._layers), current, target, self._loss)
                trained.hold(Gradients(trained.by_hidden(by_pose, hidden), hidden, by_pose, projector))
            if going is None:
                pose = current
                continue
            pose = torch.where(going[:, None], current, pose)
            taken += going
            assert settings.stop_mm is not None
            going &= self._moved_mm(current, previous) >= settings.stop_mm
            previous = current
            if not going.any():
                break
        if going is None:
            taken.fill_(settings.steps)
        return pose, taken

    def _one_fresh_update(self, x: Tensor, first: Gradients) -> Tensor:
        """The poses (n, 48) after one update by a fresh Adam, without any frame's own weights.

        From zero moments, Adam's first update of a weight with gradient g is rate * g / (|g| + e), e = epsilon /
        sqrt(1 - beta2). With g = d_j x_i it moves output j by rate * d_j * sum_i |x_i| / (|d_j| + e / |x_i|): a sum
        over inputs for every output, which needs neither weights nor gradients as matrices.
        """
        epsilon = EPSILON / math.sqrt(1 - BETA2)
        rate = self.settings.learning_rate
        weights = self._correction
        pose = torch.empty_like(x)
        before = torch.addmm(weights.change_tmp.bias, x, weights.change_tmp.weight.T)
        size = self._frames_within_cache()
        ones = x.new_ones(len(x), 1)
        inputs = torch.cat([x, ones], 1).abs()
        for k in range(0, len(x), size):
            part = slice(k, k + size)
            d, q, h = first.by_hidden[part], first.by_pose[part], first.hidden[part]
            # 1 / 0 is infinite, and 1 / infinity the 0 that an input of 0 contributes.
            terms = (d.abs()[:, None, :] + (epsilon / inputs[part])[:, :, None]).reciprocal_()
            moved = torch.bmm(inputs[part][:, None, :], terms)[:, 0]
            hidden = (before[part] - rate * d * moved).relu_()
            terms = (q.abs()[:, :, None] + (epsilon / h)[:, None, :]).reciprocal_()
            # This way round: as terms @ column it takes ten times as long.
            moved = torch.bmm(hidden[:, None, :], terms.mT)[:, 0] + (q.abs() + epsilon).reciprocal_()
            pose[part] = torch.addmm(weights.change.bias, hidden, weights.change.weight.T) - rate * q * moved
        return pose

    def _judged(self, change: Tensor, pose: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """With what went too far discarded."""
        limit = self.settings.discard_mm
        discarded = torch.zeros(len(pose), dtype=torch.bool, device=self._device)
        if limit is not None:
            discarded = self._moved_mm(pose, change) > limit
            pose = torch.where(discarded[:, None], change, pose)
        return pose, change, steps, discarded

    def _moved_mm(self, pose: Tensor, other: Tensor) -> Tensor:
        """(n,): the farthest that one of the pelvis, shoulders and hips moved."""
        moved = ((pose - other) * self._range_mm).reshape(-1, len(H36M16), 3)[:, _TORSO]
        return moved.norm(dim=-1).amax(-1)

    def _trained(self, lanes: int) -> Trained:
        correction = self._correction
        projector = self._layers if self.settings.update_projector else []
        return Trained(correction.change_tmp, correction.change, projector, lanes)

    def _lanes_within_memory(self) -> int:
        """Frames that may have weights and moments of their own at once."""
        values = self._hidden * 2 * POSE_3D
        if self.settings.update_projector:
            values += sum(layer.weight.numel() for layer in self._layers)
        budget = 1 << (32 if self._device.type == "cuda" else 24)
        return max(1, min(_BLOCK, budget // (4 * values * self._dtype.itemsize)))

    def _frames_within_cache(self) -> int:
        """Frames whose terms of ``_one_fresh_update`` are computed at once."""
        budget = 1 << (30 if self._device.type == "cuda" else 21)
        return max(1, budget // (self._hidden * (POSE_3D + 1) * self._dtype.itemsize))


def _rows(target: tuple[Tensor, Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
    return target[0][start:stop], target[1][start:stop]
