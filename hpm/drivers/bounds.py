"""Which bounds normalised poses refer to: those given, else the model's own, else the data folder's, else the released.

A network's poses are by the bounds that it was trained with, the labels of a folder by those that they were made with.
The two are the same in a folder that its network was trained on, and may differ anywhere else.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from caffe_compat.errors import CaffeCompatWarning

from ..files.folders import DataFolder
from ..scaling import (
    REFINEMENT_BOUNDS,
    Bounds,
    bounds_difference,
    check_agreement,
    or_built_in,
    order_suspicion,
    read_bounds,
)
from ..skeleton import H36M16

__all__ = ["PUBLISHED", "BoundsChoice", "GivenBounds", "Tell", "choose_bounds", "given_bounds", "label_bounds", "warn"]

PUBLISHED = "published"
"""Names the bounds of the released model, where there is no file of this name."""

GivenBounds = Bounds | str | os.PathLike[str] | None
"""Bounds, their file, or :data:`PUBLISHED`; None if nobody gave any."""

Tell = Callable[[str], None]
"""Is told what was assumed, in a sentence."""


def warn(text: str) -> None:
    """What is told, as a CaffeCompatWarning."""
    warnings.warn(text, CaffeCompatWarning, stacklevel=4)


def given_bounds(given: GivenBounds) -> Bounds | None:
    """The bounds that someone gave.

    Raises:
        FileError: see :func:`hpm.scaling.read_bounds`.

    Warns:
        CaffeCompatWarning: they seem to be of another joint order.
    """
    if given is None or isinstance(given, Bounds):
        return given
    if os.fspath(given) == PUBLISHED and not os.path.exists(given):
        return REFINEMENT_BOUNDS
    return _checked(given)


def label_bounds(given: GivenBounds, data: DataFolder, tell: Tell = warn) -> Bounds:
    """What the labels of a data folder are normalised by. Raises and warns as :func:`given_bounds`."""
    return _labels(given_bounds(given), data, None, tell)


@dataclass(frozen=True)
class BoundsChoice:
    """What the normalised poses of a model refer to, and the labels of a folder."""

    poses: Bounds | None
    """None if nothing tells."""
    labels: Bounds


def choose_bounds(
    given: GivenBounds, data: DataFolder, model: str, own: Bounds | None, tell: Tell = warn
) -> BoundsChoice:
    """What a model's poses and a data folder's labels refer to.

    Args:
        model: names it. own: the bounds that it holds, if any.

    Raises:
        UsageError: ``given`` ones differ from the model's own. FileError: see :func:`given_bounds`.

    Warns:
        CaffeCompatWarning: the model's and the folder's bounds differ; or as :func:`given_bounds`.
    """
    chosen = given_bounds(given)
    check_agreement(model, own, chosen)
    labels = _labels(chosen, data, own, tell)
    if own is None:
        if chosen is None and data.bounds.exists():
            tell(f"bounds: {model} holds none, so its poses are taken by {labels.source}")
        return BoundsChoice(chosen or (labels if data.bounds.exists() else None), labels)
    if (apart := bounds_difference(own, labels)) is not None:
        warnings.warn(
            f"{model}'s poses are by its own bounds ({own.source}), the labels by {labels.source}: {apart}",
            CaffeCompatWarning,
            stacklevel=2,
        )
    return BoundsChoice(own, labels)


def _labels(chosen: Bounds | None, data: DataFolder, own: Bounds | None, tell: Tell) -> Bounds:
    if chosen is not None:
        return chosen
    if data.bounds.exists():
        return _checked(data.bounds)
    if own is None:
        tell(f"bounds: no --bounds and no {data.bounds}, so values are taken by {REFINEMENT_BOUNDS.source}")
    return own or REFINEMENT_BOUNDS


def _checked(path: str | os.PathLike[str]) -> Bounds:
    """The bounds in a file, with a warning if their joints seem to be in another order."""
    found = or_built_in(read_bounds(path))
    if (reason := order_suspicion(found)) is not None:
        warnings.warn(
            f"{os.fspath(path)}: bounds of another skeleton or joint order? {reason}; {H36M16.name} is "
            f"{' '.join(H36M16.joints)}",
            CaffeCompatWarning,
            stacklevel=2,
        )
    return found
