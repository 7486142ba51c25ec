"""The layers that ship. Importing this package registers them all; a new module in it is found by itself."""

from __future__ import annotations

import importlib
import pkgutil

from ..network.registry import layer

# Whoever registers a layer with this name for it finds those that ship registered, whatever was imported before.
__all__ = ["layer"]

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
