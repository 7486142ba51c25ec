"""Two arrays against each other: what counts as equal, and what is said of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .tolerance import Tolerance

__all__ = ["BlobResult", "CaseResult", "Fingerprint", "compare"]


@dataclass(frozen=True)
class BlobResult:
    """One array compared.

    Attributes:
        name: the blob, or ``param/<layer>/<i>``, ``bottom_diff/<blob>`` and so on.
        count, shape: of our array.
        max_abs: the largest |ours - reference|. max_rel: the same over the largest |reference|.
        passed: whether it is within tolerance. problem: what else is wrong (shape, missing, not a number).
    """

    name: str
    count: int
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    passed: bool
    problem: str = ""


@dataclass
class CaseResult:
    """All arrays of one case or of one batch of a reference, in execution order.

    ``skipped`` names what was not compared and why; ``unsupported`` is set where the network could not be built.
    """

    name: str
    blobs: list[BlobResult] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unsupported: str = ""

    @property
    def passed(self) -> bool:
        return not self.unsupported and bool(self.blobs) and all(blob.passed for blob in self.blobs)

    @property
    def first_failure(self) -> BlobResult | None:
        """The first array in execution order that departs."""
        return next((blob for blob in self.blobs if not blob.passed), None)

    @property
    def worst(self) -> BlobResult | None:
        """The array with the largest relative error."""
        return max(self.blobs, key=lambda blob: blob.max_rel, default=None)


@dataclass(frozen=True)
class Fingerprint:
    """What is stored of an array that was too large to be stored whole.

    Attributes:
        shape: of the array.
        positions: (k,) int64, places in the flattened array. values: (k,) what is there.
        statistics: (4,) mean, standard deviation (of the population), least and greatest value; (0,) if not stored.
    """

    shape: tuple[int, ...]
    positions: np.ndarray
    values: np.ndarray
    statistics: np.ndarray


def compare(
    name: str, ours: Tensor | np.ndarray | None, reference: np.ndarray | Fingerprint, tolerance: Tolerance
) -> BlobResult:
    """Compare two arrays: shape, then values in float64. NaN agrees only with NaN, infinity with itself.

    Args:
        reference: all values, or a fingerprint: then those at its positions are compared, and the statistics.

    Raises:
        UsageError: a fingerprint that makes no sense.
    """
    if ours is None:
        return BlobResult(name, 0, (), float("inf"), float("inf"), False, "we have no such blob")
    mine = _on_cpu(ours)
    if tuple(mine.shape) != reference.shape:
        problem = f"shape {list(mine.shape)}, the reference has {list(reference.shape)}"
        return BlobResult(name, mine.numel(), tuple(mine.shape), float("inf"), float("inf"), False, problem)
    if isinstance(reference, Fingerprint):
        return _compared_in_places(name, mine, reference, tolerance)
    return _compared(name, tuple(mine.shape), mine.numel(), mine, _on_cpu(reference), tolerance)


# Large blobs are compared in pieces of this many values: in float64 they stay in a core's cache, and torch starts no
# threads for them.
_PIECE = 2**15


def _on_cpu(x: Tensor | np.ndarray) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    values = np.asarray(x, np.float32 if x.dtype == np.float32 else np.float64, order="C")
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The values of ``x`` in float64, flat, in pieces that are only to be read."""
    for piece in x.reshape(-1).split(_PIECE):
        yield piece.double()


def _compared(
    name: str, shape: tuple[int, ...], count: int, mine: Tensor, theirs: Tensor, tolerance: Tolerance
) -> BlobResult:
    max_abs, scale = 0.0, 0.0
    for a, b in zip(_pieces(mine), _pieces(theirs), strict=True):
        if not a.numel():
            continue
        difference, size = (a - b).abs().max().item(), b.abs().max().item()
        if not math.isfinite(difference) or not math.isfinite(size):
            same = (a == b) | (a.isnan() & b.isnan())
            difference = (a - b).abs().masked_fill(same, 0.0).max().item()
            size = b.abs().masked_fill(~b.isfinite(), 0.0).max().item()
        if not math.isfinite(difference):
            problem = "not a number where the reference has one"
            return BlobResult(name, count, shape, float("inf"), float("inf"), False, problem)
        max_abs, scale = max(max_abs, difference), max(scale, size)
    max_rel = max_abs / scale if scale else (0.0 if max_abs == 0 else float("inf"))
    return BlobResult(name, count, shape, max_abs, max_rel, max_abs <= tolerance.absolute + tolerance.relative * scale)


def _compared_in_places(name: str, mine: Tensor, stored: Fingerprint, tolerance: Tolerance) -> BlobResult:
    """The values at the positions of a fingerprint, and the statistics, as one array."""
    flat, count = mine.reshape(-1), mine.numel()
    positions, theirs = stored.positions, _on_cpu(stored.values).double()
    if positions.size and (positions.min() < 0 or positions.max() >= count):
        raise UsageError(f"reference of {name}: a position lies outside its {count} values")
    ours = flat[torch.from_numpy(positions)].double()
    if stored.statistics.size and count:
        ours = torch.cat([ours, _statistics(flat)])
        theirs = torch.cat([theirs, torch.from_numpy(stored.statistics)])
    if len(ours) != len(theirs):
        raise UsageError(f"reference of {name}: {len(theirs)} values are stored for {len(ours)} places")
    if not len(ours):
        return BlobResult(name, count, stored.shape, 0.0, 0.0, count == 0, "" if count == 0 else "an empty fingerprint")
    return _compared(name, stored.shape, count, ours, theirs, tolerance)


def _statistics(x: Tensor) -> Tensor:
    """Mean, standard deviation (of the population), least and greatest value of a flat tensor, in float64.

    Piece by piece, each around its own mean, put together by the formula of Chan, Golub and LeVeque (1979).
    """
    counts, means, squares = [], [], []
    buffer = torch.empty(min(_PIECE, x.numel()), dtype=torch.float64)
    for piece in x.split(_PIECE):
        values = buffer[: piece.numel()].copy_(piece)
        mean = values.mean()
        values.sub_(mean)
        counts.append(piece.numel())
        means.append(mean)
        squares.append(values.dot(values))
    count, piece_means = torch.tensor(counts, dtype=torch.float64), torch.stack(means)
    mean = (count * piece_means).sum() / x.numel()
    square = (torch.stack(squares).sum() + (count * (piece_means - mean).square()).sum()) / x.numel()
    least, greatest = x.aminmax()
    return torch.stack([mean, square.sqrt(), least.double(), greatest.double()])
