"""What plots of several commands share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..display import shown

__all__ = ["drawable", "write_plainly"]


_LARGEST = 3.5e38  # of Caffe's numbers, which are float32; of larger ones, matplotlib's arithmetic overflows


def drawable(values: Iterable[float]) -> list[float]:
    """``values`` with gaps where one is too large to be drawn, or infinite."""
    return [value if abs(value) <= _LARGEST else math.nan for value in values]


def write_plainly(text: Any, name: str) -> None:
    """Let a text of matplotlib's be a blob's or file's name, letter by letter: it takes some for formulas."""
    text.set_parse_math(False)
    text.set_text(shown(name))
