"""What the refinement moves: weights that every frame starts anew with, and Adam's moments, which need not start anew.

Gradients are outer products of vectors and are kept as such; see :mod:`.refine`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .projector import POSE_3D, Affine, ProjectionLoss

__all__ = ["BETA1", "BETA2", "EPSILON", "Gradients", "Moving", "Shared", "Trained", "project_back"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

# Frames between two looks for moments that have decayed to nothing.
_TIDY_EVERY = 64


@dataclass(frozen=True)
class Gradients:
    """The gradients of one step of n frames, as the vectors whose outer products they are."""

    by_hidden: Tensor
    """(n, hidden): by change_tmp's output before the ReLU. With the coarse pose: change_tmp's gradient."""
    hidden: Tensor
    """(n, hidden): change_tmp's output after the ReLU."""
    by_pose: Tensor
    """(n, 48): by change's output. With ``hidden``: change's gradient."""
    projector: list[tuple[Tensor, Tensor]]
    """Per layer of the projector: gradient by its output, its input."""

    def rows(self, start: int, stop: int) -> Gradients:
        part = slice(start, stop)
        pairs = [(a[part], b[part]) for a, b in self.projector]
        return Gradients(self.by_hidden[part], self.hidden[part], self.by_pose[part], pairs)


class Shared:
    """A layer with the trained weights, the same for every frame, times ``scale``."""

    def __init__(self, layer: Affine, scale: float, dtype: torch.dtype) -> None:
        self.weight, self.bias = ((scale * part).to(dtype) for part in layer)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.T)

    def backward(self, gradient: Tensor) -> Tensor:
        return gradient @ self.weight


class Moving:
    """A matrix (rows, columns) in every lane that Adam moves, from the same start, with moments for each lane.

    A gradient is given as rows of ``left`` and ``right`` whose outer products sum up to it. Those of one step must not
    overlap in any element of the matrix, as their squares are summed too.

    Args:
        start: where every frame starts.
        terms: outer products per gradient.
        scale: what the weights that Adam sees are multiplied by to give ``start``.
    """

    def __init__(self, start: Tensor, lanes: int, terms: int, scale: float = 1.0) -> None:
        rows, columns = start.shape
        self._start, self._scale, self._terms = start, scale, terms
        self._first = start.new_zeros(lanes, rows, columns)
        self._second = torch.zeros_like(self._first)
        self.current = torch.empty_like(self._first)
        self.left = start.new_zeros(lanes, 2 * terms, rows)
        self.right = start.new_zeros(lanes, 2 * terms, columns)
        # A gradient that waited has decayed by one step when the moments take it in with the next one.
        self._decay = start.new_ones(2, 2 * terms, 1)
        self._decay[0, :terms], self._decay[1, :terms] = BETA1, BETA2
        self.reset()

    def reset(self) -> None:
        self._first.zero_()
        self._second.zero_()
        self._held = self._updates = 0
        self._at_start = True

    def memory(self) -> dict[str, Tensor]:
        """Moments, held gradients and how many there were: copies."""
        counts = torch.tensor([self._held, self._updates])
        return {"counts": counts, **{name: part.clone() for name, part in self._parts().items()}}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`memory` gave between two frames."""
        self._held, self._updates = memory["counts"].tolist()
        for name, part in self._parts().items():
            part.copy_(memory[name])
        self._at_start = True

    def _parts(self) -> dict[str, Tensor]:
        return {"first": self._first, "second": self._second, "left": self.left, "right": self.right}

    def restore(self) -> None:
        """The weights are the start again; moments and held gradients stay."""
        self._at_start = True

    def hold(self) -> slice:
        """The rows of ``left`` and ``right`` to write the next gradient to. At most two gradients are held."""
        first = self._held * self._terms
        self._held += 1
        return slice(first, first + self._terms)

    def update(self, learning_rate: float) -> None:
        """Take the held gradients into the moments, one or two, and move the weights once."""
        held, rows = self._held, self._held * self._terms
        self._held = 0
        self._updates += held
        left, right, decay = self.left[:, :rows], self.right[:, :rows], self._decay[:, -rows:]
        self._first.baddbmm_(left.mT, right * decay[0], beta=BETA1**held, alpha=1 - BETA1)
        self._second.baddbmm_(left.square().mT, right.square().mul_(decay[1]), beta=BETA2**held, alpha=1 - BETA2)
        rate = learning_rate * math.sqrt(1 - BETA2**self._updates) / (1 - BETA1**self._updates)
        if self._at_start:
            torch.sqrt(self._second, out=self.current).add_(EPSILON)
            torch.addcdiv(self._start, self._first, self.current, value=-rate * self._scale, out=self.current)
            self._at_start = False
        else:
            self.current.addcdiv_(self._first, self._second.sqrt().add_(EPSILON), value=-rate * self._scale)

    def tidy(self) -> None:
        """Moments that can no longer move a weight become zero, before they decay to slow denormal numbers.

        A first moment of 1e-30 moves a weight by less than 1e-22 of the rate, and the root of a second moment of 1e-32
        does not change epsilon when added to it.
        """
        self._first.mul_(self._first.abs() > 1e-30)
        self._second.mul_(self._second > 1e-32)

    # As a layer whose weight is the matrix (outputs, inputs + 1) but for its last column, the bias.

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.current[:, None, :, -1], x[:, None], self.current[:, :, :-1].mT)[:, 0]

    def backward(self, gradient: Tensor) -> Tensor:
        return torch.bmm(gradient[:, None], self.current[:, :, :-1])[:, 0]


class Trained:
    """Everything that the refinement moves, for one frame in each lane.

    change_tmp (hidden x 48 and bias) and change transposed (hidden x 48, its bias a last row) stand side by side in one
    (hidden + 1) x 97 matrix: its gradient is the sum of two outer products without overlap, and one update moves both.
    """

    def __init__(self, change_tmp: Affine, change: Affine, projector: Sequence[Shared], lanes: int) -> None:
        hidden = self._n = len(change_tmp.bias)
        start = change.weight.new_zeros(hidden + 1, 2 * POSE_3D + 1)
        start[:hidden, :POSE_3D], start[:hidden, POSE_3D] = change_tmp
        start[:hidden, POSE_3D + 1 :], start[hidden, POSE_3D + 1 :] = change.weight.T, change.bias
        self._correction = Moving(start, lanes, 2)
        # The ones that multiply the biases are written once.
        self._correction.right[:, ::2, POSE_3D] = 1
        self._correction.left[:, 1::2, hidden] = 1
        self._projector = [
            Moving(torch.cat([layer.weight, layer.bias[:, None]], 1), lanes, 1, layer.scale) for layer in projector
        ]
        for matrix, layer in zip(self._projector, projector, strict=True):
            matrix.right[:, :, -1] = layer.scale
        self._scales = [layer.scale for layer in projector]
        self._input = start.new_ones(lanes, POSE_3D + 1, 1)
        self._hidden = start.new_ones(lanes, 1, hidden + 1)
        self._frames = 0

    def reset(self) -> None:
        """Forget all moments."""
        for matrix in (self._correction, *self._projector):
            matrix.reset()
        self._frames = 0

    def memory(self) -> dict[str, Tensor]:
        """What the next frames depend on, by name: a copy."""
        found = {"frames": torch.tensor(self._frames)}
        for k, matrix in enumerate((self._correction, *self._projector)):
            found |= {f"{k} {name}": part for name, part in matrix.memory().items()}
        return found

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`memory` gave between two frames."""
        self._frames = int(memory["frames"])
        for k, matrix in enumerate((self._correction, *self._projector)):
            own = f"{k} "
            matrix.recall({n.removeprefix(own): part for n, part in memory.items() if n.startswith(own)})

    def start(self, x: Tensor) -> None:
        """The next frame of each lane, with its coarse pose (lanes, 48)."""
        self._input[:, :POSE_3D, 0] = x
        self._frames += 1
        for matrix in (self._correction, *self._projector):
            matrix.restore()
            if self._frames % _TIDY_EVERY == 0:
                matrix.tidy()

    def hold(self, gradients: Gradients) -> None:
        """Keep the gradients of a step for the next update."""
        matrix, n = self._correction, self._n
        at = matrix.hold()
        left, right = matrix.left[:, at], matrix.right[:, at]
        left[:, 0, :n], right[:, 0, :POSE_3D] = gradients.by_hidden, self._input[:, :POSE_3D, 0]
        left[:, 1, :n], right[:, 1, POSE_3D + 1 :] = gradients.hidden, gradients.by_pose
        for matrix, scale, (by_output, given) in zip(
            self._projector, self._scales, gradients.projector[: len(self._projector)], strict=True
        ):
            at = matrix.hold()
            matrix.left[:, at], matrix.right[:, at, :-1] = by_output[:, None], scale * given[:, None]

    def update(self, learning_rate: float) -> None:
        """One Adam update of everything, by the held gradients."""
        for matrix in (self._correction, *self._projector):
            matrix.update(learning_rate)

    def correct(self) -> tuple[Tensor, Tensor]:
        """With the weights as they are now: change_tmp after its ReLU (lanes, hidden), and the pose (lanes, 48)."""
        current, n = self._correction.current, self._n
        hidden = self._hidden[:, 0, :n]
        hidden.copy_(torch.bmm(current[:, :n, : POSE_3D + 1], self._input)[:, :, 0]).relu_()
        return hidden, torch.bmm(self._hidden, current[:, :, POSE_3D + 1 :])[:, 0]

    def by_hidden(self, by_pose: Tensor, hidden: Tensor) -> Tensor:
        """The gradient by change_tmp's output before its ReLU, (lanes, hidden)."""
        current = self._correction.current[:, : self._n, POSE_3D + 1 :]
        return torch.bmm(current, by_pose[:, :, None])[:, :, 0].mul_(hidden.sign())

    def layers(self, shared: Sequence[Shared]) -> Sequence[Shared | Moving]:
        """The projector's layers: those that move, or the shared ones if none does."""
        return self._projector or shared


def project_back(
    layers: Sequence[Shared | Moving], pose: Tensor, target: tuple[Tensor, Tensor], loss: ProjectionLoss
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The loss's gradient by the pose (n, 48), and for each layer that by its output and what it was given."""
    one, two, three, last = layers
    first = one.forward(pose).relu_()
    second = two.forward(first).relu_()
    third = three.forward(second).relu_()
    both = first + third
    by_output = loss.gradient(last.forward(both), target)
    by_both = last.backward(by_output)
    by_third = by_both * third.sign()
    by_second = three.backward(by_third).mul_(second.sign())
    by_first = two.backward(by_second).add_(by_both).mul_(first.sign())
    gradients = [(by_first, pose), (by_second, first), (by_third, second), (by_output, both)]
    return one.backward(by_first), gradients
