"""Imports that the collector of garbage does not interrupt.

A module's functions and classes stay, so there is nothing to collect while modules are imported. Yet they count: after
``import torch`` with its 150,000 objects they are what makes a run over all of these due, which takes longer than the
imports themselves.
"""

from __future__ import annotations

import gc
import importlib
from types import ModuleType

__all__ = ["import_quietly"]


def import_quietly(name: str) -> ModuleType:
    """Import the module ``name`` with the collector paused; whoever had paused it finds it so.

    Raises:
        ImportError: as :func:`importlib.import_module`.
    """
    if not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()
