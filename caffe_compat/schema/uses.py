"""What one layer of a file tells of the fork that wrote it, and what the table (:mod:`.meanings`) is made of.

A question is a function of a :class:`Use`; the functions here make the questions that the table asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "Meaning",
    "Question",
    "Use",
    "always",
    "axes",
    "bottoms",
    "every",
    "flat",
    "is_one_stream",
    "leaves",
    "may_be_one_stream",
    "numbers",
    "sets",
    "tops",
    "values",
]


@dataclass(frozen=True)
class Use:
    """What one layer of a file tells of the fork that wrote it.

    Attributes:
        where: its place in the file's message: ``("layer", 3)``, or in a solver ``("train_net_param", "layer", 3)``.
        type: as written; of V1 the name of the enum's value.
        generation: the message it is: ``LayerParameter`` or ``V1LayerParameter``.
        bottoms, tops: how many it has. shapes: of its bottoms, where the file declares them as inputs.
        blobs: how many the weights hold for it; None where no weights are at hand.
        set: dotted names of the fields that it sets (``bn_param.frozen``). on: those of them that it sets to true.
    """

    where: tuple[str | int, ...]
    type: str
    generation: str = "LayerParameter"
    bottoms: int = 0
    tops: int = 0
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    blobs: int | None = None
    set: frozenset[str] = frozenset()
    on: frozenset[str] = frozenset()


Question = Callable[[Use], bool]


@dataclass(frozen=True)
class Meaning:
    """What some forks mean by a layer type.

    Attributes:
        fork: the fork that it is named after.
        says: what tells it from the others, in words.
        also: forks that share it; None means every fork that has the type and that no other meaning names, or, if
            ``reads`` is given, those of them whose layer reads that parameter.
        fits: False for a layer that these forks would refuse, can make no sense of, or never had in a network.
        blobs: how many it has, where that tells.
        quiet: a change that leaves no mark in a file, in a fork that few files come from: a layer is only read so if
            this fork is asked for, or if no other fits the file.
        same_tops: the gradient alone is another than that of the meaning named (by its fork).
        same, when: for a layer that ``when`` is true of, there is no difference to the meaning named.
    """

    fork: str
    says: str = ""
    also: tuple[str, ...] | None = ()
    fits: Question | None = None
    blobs: int | None = None
    quiet: bool = False
    same_tops: str = ""
    same: str = ""
    when: Question | None = None
    reads: str = ""


def always(use: Use) -> bool:
    """Of every layer."""
    return True


def bottoms(*counts: int) -> Question:
    """It has one of these numbers of bottoms."""
    return lambda use: use.bottoms in counts


def tops(*counts: int) -> Question:
    """It has one of these numbers of tops."""
    return lambda use: use.tops in counts


def numbers(bottom: int, *counts: int) -> Question:
    """A bottom holds one of these counts of numbers per example, as far as the file tells."""

    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is None or shape[-1] in counts

    return test


def values(bottom: int, count: int) -> Question:
    """A bottom holds ``count`` values per example, over all its axes, as far as the file tells."""

    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is None or math.prod(shape[1:]) == count

    return test


def axes(bottom: int, *counts: int) -> Question:
    """A bottom has one of these numbers of axes, as far as the file tells."""

    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is None or len(shape) in counts

    return test


def flat(bottom: int) -> Question:
    """A bottom is known to have no positions: its third axis and those that follow are 1."""

    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is not None and all(n == 1 for n in shape[2:])

    return test


def is_one_stream(use: Use) -> bool:
    """Its sequences need no marks of where they begin, or are known to be of one stream."""
    return use.bottoms == 1 or (bool(use.shapes) and use.shapes[0] is not None and use.shapes[0][1:2] == (1,))


def may_be_one_stream(use: Use) -> bool:
    """:func:`is_one_stream`, as far as the file tells."""
    return is_one_stream(use) or not use.shapes or use.shapes[0] is None


def sets(*names: str) -> Question:
    """It sets one of these fields."""
    return lambda use: any(name in use.set for name in names)


def leaves(*names: str) -> Question:
    """It sets none of these fields."""
    return lambda use: not any(name in use.set for name in names)


def every(*tests: Question) -> Question:
    """All of it is so."""
    return lambda use: all(test(use) for test in tests)
