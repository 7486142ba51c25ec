"""What a guess is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .registry import Shape

__all__ = ["BlobShapes", "Guess"]

# By layer name, the shapes of the blobs that a weights file holds for it.
BlobShapes: TypeAlias = Mapping[str, Sequence[Shape]]


@dataclass(frozen=True)
class Guess:
    """A shape that no file tells.

    >>> print(Guess("data", (1, 3, 227, 227), "fc6 has 9216 inputs"))
    data is 1x3x227x227 (fc6 has 9216 inputs)

    Attributes:
        blob: name of the input. shape: what it probably is. why: what tells it, in words.
    """

    blob: str
    shape: Shape
    why: str

    def __str__(self) -> str:
        return f"{self.blob} is {'x'.join(map(str, self.shape)) or 'scalar'} ({self.why})"
