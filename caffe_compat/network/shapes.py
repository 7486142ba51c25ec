"""What a builder may ask of a bottom's axes, and the words for it in errors.

An axis is asked for by a number (its size), by a name (any size), or by a name with a bound or a size
(``"height > 0"``, ``"classes >= 2"``, ``"images = 4"``); ``...`` at the end stands for any more axes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from types import EllipsisType

__all__ = ["FILLED", "IMAGES", "PIXELS", "VOLUMES", "Axis", "Line", "Lines", "Shape", "described", "fits", "four_axes"]

Shape = tuple[int, ...]
Axis = int | str | EllipsisType
# How places of one blob lie in another, a factor and a shift; for rows, and for columns.
Line = tuple[float, float]
Lines = tuple[Line, Line]

IMAGES = ("images", "channels", "height", "width")
PIXELS = ("images", "channels", "height > 0", "width > 0")
FILLED = ("images > 0", "channels > 0", "height > 0", "width > 0")
VOLUMES = ("images", "channels", "length", "height", "width")

_COMPARED = {">": operator.gt, ">=": operator.ge, "=": operator.eq}
_NAMED = re.compile(r"\w[\w ]*?(?: (?P<sign>>|>=|=) (?P<bound>\d+))?")


def fits(shape: Shape, axes: Sequence[Axis], *, ones: bool = False) -> bool:
    """Whether a shape has these axes; with ``ones``, also if more of length 1 follow, as Caffe's first blobs had.

    >>> fits((2, 3, 8, 6), IMAGES), fits((2, 3, 0, 6), PIXELS), fits((2, 3), ("images", "channels", ...))
    (True, False, True)
    >>> fits((7, 5, 1, 1), ("boxes", 5)), fits((7, 5, 1, 1), ("boxes", 5), ones=True)
    (False, True)
    """
    asked = [axis for axis in axes if not isinstance(axis, EllipsisType)]
    rest = shape[len(asked) :]
    return (
        len(shape) >= len(asked)
        and all(map(_allows, asked, shape))
        and (not rest or ... in axes or (ones and set(rest) == {1}))
    )


def _allows(axis: int | str, size: int) -> bool:
    if isinstance(axis, int):
        return size == axis
    match = _NAMED.fullmatch(axis)
    if match is None:
        raise ValueError(f"axis {axis!r} is neither a name nor a name with a bound or a size, as 'height > 0'")
    return match["sign"] is None or bool(_COMPARED[match["sign"]](size, int(match["bound"])))


def four_axes(shape: Shape) -> Shape:
    """A shape as Caffe's old accessors (``num``, ``channels``, ``height``, ``width``) see it: missing axes are 1.

    >>> four_axes((7, 5)), four_axes(())
    ((7, 5, 1, 1), (1, 1, 1, 1))
    """
    return (*shape, *(1,) * (4 - len(shape)))


def described(axes: Sequence[Axis]) -> str:
    """The axes as an error names them.

    >>> described(IMAGES), described(("steps > 0", 5, ...)), described(("boxes",))
    ('(images, channels, height, width)', '(steps > 0, 5, ...)', '(boxes,)')
    """
    words = ["..." if isinstance(axis, EllipsisType) else str(axis) for axis in axes]
    return f"({words[0]},)" if len(words) == 1 else f"({', '.join(words)})"
