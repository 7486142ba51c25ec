"""Output formats beyond the ``.pt``, one file each. A format takes a built CaffeNet, never a prototxt.

import converters
converters.export(conversion, "model.pt2")

A new file in this package is found by itself; :mod:`converters.registry` says what it has to do.
"""

from __future__ import annotations

import importlib
import pkgutil

from .registry import Target, export, find_target, target, targets

__all__ = ["Target", "export", "find_target", "target", "targets"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
