"""Normalised 3D poses in millimetres, by the bounds of whatever gives them."""

from __future__ import annotations

import warnings
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from caffe_compat.errors import CaffeCompatWarning, UsageError

from .projector import POSE_3D
from .scaling import REFINEMENT_BOUNDS, Bounds, denormalise, denormalise_as_layers, or_built_in
from .skeleton import H36M16

__all__ = ["Measured", "Unit"]

Array = TypeVar("Array", np.ndarray, Tensor)
Unit = Literal["normalised", "mm"]


class Measured:
    """What gives normalised 3D poses and knows what they refer to, or does not.

    Args:
        name: of it, for messages.
        bounds: what its poses refer to; None if that is not known.
    """

    def __init__(self, name: str, bounds: Bounds | None) -> None:
        self.name = name
        self.bounds = bounds

    @property
    def bounds(self) -> Bounds:
        """What normalised 3D values refer to; set it to tell, or to None for unknown."""
        return REFINEMENT_BOUNDS if self._bounds is None else self._bounds

    @bounds.setter
    def bounds(self, bounds: Bounds | None) -> None:
        if bounds is not None and len(bounds.maximum) != POSE_3D:
            raise UsageError(f"bounds of {len(bounds.maximum)} values; {POSE_3D} were expected", path=bounds.source)
        self._bounds = None if bounds is None else or_built_in(bounds)
        self._told = False

    @property
    def known_bounds(self) -> Bounds | None:
        """:attr:`bounds` if they came with the model or were given; None if the published ones are assumed."""
        return self._bounds

    def in_unit(self, pose: Any, unit: Unit) -> Any:
        """Normalised poses as (n, 16, 3), in a unit. Raises UsageError of another one."""
        shaped = pose.reshape(-1, len(H36M16), 3)
        if unit == "normalised":
            return shaped
        if unit != "mm":
            raise UsageError(f"unit {unit!r}: 'normalised' or 'mm' was expected")
        return self.millimetres(shaped)

    def millimetres(self, pose: Array) -> Array:
        """Normalised 3D poses in hip-centred millimetres, the same shape; numpy in double precision.

        Warns:
            CaffeCompatWarning: once, if the bounds are not known and those of the published data are assumed.
        """
        self._tell_of_bounds()
        if isinstance(pose, Tensor):
            return denormalise(pose, self.bounds)
        return denormalise(np.asarray(pose, np.float64), self.bounds)

    def millimetres_as_layers(self, pose: np.ndarray) -> np.ndarray:
        """(n, 48) as the original's layers write them; see :func:`.scaling.denormalise_as_layers`. Warns likewise."""
        self._tell_of_bounds()
        return denormalise_as_layers(pose, self.bounds)

    def _tell_of_bounds(self) -> None:
        if self._bounds is None and not self._told:
            self._told = True
            warnings.warn(
                f"{self.name} does not hold the bounds that its normalised poses refer to; millimetres are by those "
                "of the released model (maximum and minimum of 3Dpose_ssl's training data), wrong for a network that "
                "was trained on other data: give its max-min CSV as --bounds (bounds=...)",
                CaffeCompatWarning,
                stacklevel=4,
            )
