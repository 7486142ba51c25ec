"""Why a network got no further, grouped: equal causes in different files read the same."""

from __future__ import annotations

import re

from ..display import shown
from ..errors import (
    CaffeCompatError,
    FileError,
    GraphError,
    InputShapeError,
    LayerError,
    NetworkError,
    PrototxtError,
    UnknownLayerError,
    UsageError,
)

__all__ = ["reason_of"]


def reason_of(error: CaffeCompatError) -> str:
    """An error without what is special about its file, so that equal ones fall together."""
    if isinstance(error, InputShapeError):
        return "the shape of an input is not in the file"
    if isinstance(error, UnknownLayerError):
        return f"unknown layer type {error.type}"
    kind = "file"
    if isinstance(error, PrototxtError):
        kind = "text"
    elif isinstance(error, GraphError):
        kind = "graph"
    elif isinstance(error, LayerError):
        kind = "layer"
    elif isinstance(error, (NetworkError, UsageError)):
        kind = "network"
    elif not isinstance(error, FileError):
        kind = type(error).__name__
    if kind == "layer" and error.type:
        kind = f"layer {error.type}"
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", shown(error.detail))
    text = re.sub(r"[\[(][-\d, ]*[\])]", "[...]", text)
    text = re.sub(r"(?<![\w])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?\b", "N", text)
    text = re.sub(r"\S+ \[\.\.\.\](?:, \S+ \[\.\.\.\])*", "[...]", text)
    return f"{kind}: {text[:140]}"
