"""Run any Caffe model in PyTorch, with proof that the numbers are the same.

import caffe_compat
conversion = caffe_compat.convert("deploy.prototxt", "weights.caffemodel", reference="recorded.h5")
caffe_compat.save(conversion, "model.pt")
net = caffe_compat.load("model.pt")
outputs = net(data=x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .collector import import_quietly as _import_quietly
from .errors import (
    CaffeCompatError,
    CaffeCompatWarning,
    DialectError,
    FileAccessError,
    FileError,
    GraphError,
    InputShapeError,
    LayerError,
    MissingExtraError,
    NetworkError,
    ParityError,
    PrototxtError,
    UnknownLayerError,
    UsageError,
    WeightsError,
    WireError,
)

if TYPE_CHECKING:
    from .access import FileAccess
    from .conversion import Conversion, convert, save
    from .network.loading import load
    from .network.net import CaffeNet
    from .network.registry import Layer, LayerSpec, layer
    from .network.rules import NetState
    from .parity.report import Report
    from .parity.verification import verify

__all__ = [
    "CaffeCompatError",
    "CaffeCompatWarning",
    "CaffeNet",
    "Conversion",
    "DialectError",
    "FileAccess",
    "FileAccessError",
    "FileError",
    "GraphError",
    "InputShapeError",
    "Layer",
    "LayerError",
    "LayerSpec",
    "MissingExtraError",
    "NetState",
    "NetworkError",
    "ParityError",
    "PrototxtError",
    "Report",
    "UnknownLayerError",
    "UsageError",
    "WeightsError",
    "WireError",
    "convert",
    "layer",
    "load",
    "save",
    "verify",
]

# Public name -> the module that has it. Torch takes a second to import, and not everything here needs it.
_HOMES = {
    "CaffeNet": "network.net",
    "Conversion": "conversion",
    "FileAccess": "access",
    "Layer": "network.registry",
    "LayerSpec": "network.registry",
    "NetState": "network.rules",
    "Report": "parity.report",
    "convert": "conversion",
    "layer": "layers",
    "load": "network.loading",
    "save": "conversion",
    "verify": "parity.verification",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_quietly(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
