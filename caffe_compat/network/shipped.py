"""The modules of the layers that ship, imported when a net has their types.

There are a hundred of them and a net needs ten; importing them all takes longer than loading a large net. Which module
registers which type stands in :mod:`.shipped_types`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from ..collector import import_quietly
from .shipped_types import PYTHON_CLASSES, SHIPPED_TYPES

__all__ = ["LAYERS", "bring_all", "bring_python_classes", "bring_type"]

# The package that holds them.
LAYERS = f"{__package__.rpartition('.')[0]}.layers"


@functools.cache
def bring_type(name: str) -> None:
    """Have every meaning of layer type ``name`` that ships registered; nothing happens where none does."""
    for module in _homes().get(name, ()):
        import_quietly(f"{LAYERS}.{module}")


@functools.cache
def bring_python_classes() -> None:
    """Have every class of a ``Python`` layer that is built in registered."""
    for module in PYTHON_CLASSES:
        import_quietly(f"{LAYERS}.{module}")


@functools.cache
def bring_all() -> None:
    """Have every type and class registered: whoever lists them needs them all."""
    for found in pkgutil.walk_packages(importlib.import_module(LAYERS).__path__, f"{LAYERS}."):
        import_quietly(found.name)


@functools.cache
def _homes() -> dict[str, list[str]]:
    """By type, the modules that register it."""
    homes: dict[str, list[str]] = {}
    for module, types in SHIPPED_TYPES.items():
        for name in types:
            homes.setdefault(name, []).append(module)
    return homes
