"""What a 2D detector is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..joint_orders import Skeleton
from ..people import Person

__all__ = ["Detector"]


class Detector(Protocol):
    """Finds people in pictures, one picture at a time.

    Example:
        >>> class Nobody:
        ...     joints = COCO17
        ...
        ...     def people(self, picture, before=()):
        ...         return []
        >>> detect([np.zeros((48, 64, 3), np.uint8)], Nobody()).frames
        [[]]
    """

    @property
    def joints(self) -> Skeleton:
        """The order and the names of the joints of all people; one that converts to H36M16."""

    def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
        """Everybody in a picture (height, width, 3), uint8, blue first.

        Points and boxes are in pixels of the picture, and may lie beyond it.

        Args:
            before: who was there in the frame before. A detector that looks at single pictures may leave them alone;
                another looks first where they were.
        """
