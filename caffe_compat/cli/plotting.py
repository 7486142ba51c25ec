"""What plots of several commands share."""

from __future__ import annotations

from typing import Any

from ..display import shown

__all__ = ["write_plainly"]


def write_plainly(text: Any, name: str) -> None:
    """Let a text of matplotlib's be a blob's or file's name, letter by letter: it takes some for formulas."""
    text.set_parse_math(False)
    text.set_text(shown(name))
