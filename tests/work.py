"""How much work something is, counted so that it is the same on every machine: lines of Python that it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def counted(do: Callable[[], T]) -> tuple[T, int]:
    """What ``do`` returns, and how many lines of Python ran. What it raises comes through."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = do()
    finally:
        sys.settrace(before)
    return result, lines


def within(most: int, do: Callable[[], T]) -> T:
    """What ``do`` returns or raises. Beyond ``most`` lines of Python it is stopped: AssertionError."""
    left = most

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise AssertionError(f"more than {most} lines ran")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return do()
    finally:
        sys.settrace(before)
