"""The layers that ship, one family a file; ``network/shipped.py`` imports a file when a net has a type of it."""

from __future__ import annotations

from ..network.registry import layer

__all__ = ["layer"]
