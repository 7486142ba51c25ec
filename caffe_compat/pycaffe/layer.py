"""``caffe.Layer``, the base of layers that scripts write, and the types of layers that there are."""

from __future__ import annotations

from ..layers.bvlc.python_layer import PythonLayer
from ..network.registry import layer_types
from ..training.data import READERS

__all__ = ["Layer", "layer_type_list"]


class Layer(PythonLayer):
    """Has ``setup``, ``reshape``, ``forward`` and ``backward`` overridden by a script; see :class:`PythonLayer`."""


def layer_type_list() -> list[str]:
    """Every layer type that a net may have."""
    return sorted({*layer_types(), *READERS, "Input", "Split"})
