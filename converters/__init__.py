"""Output formats beyond the ``.pt``, one file each. A format takes a built CaffeNet, never a prototxt.

import converters
converters.export(conversion, "model.onnx")

A new file in this package is found by itself; :mod:`converters.registry` says what it has to do.
"""

from __future__ import annotations

import importlib
import pkgutil

from .exporting import Exported, export
from .registry import Target, find_target, target, target_of, targets
from .verification import Verification

__all__ = ["Exported", "Target", "Verification", "export", "find_target", "target", "target_of", "targets"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
