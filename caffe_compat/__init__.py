"""Run any Caffe model in PyTorch, with proof that the numbers are the same.

import caffe_compat
net = caffe_compat.load("deploy.prototxt", "weights.caffemodel")
outputs = net(data=x)
"""

from __future__ import annotations

from .access import FileAccess
from .errors import CaffeCompatError, CaffeCompatWarning
from .network.graph import NetState
from .network.loading import load
from .network.net import CaffeNet
from .network.registry import Layer, LayerSpec, layer

__all__ = [
    "CaffeCompatError",
    "CaffeCompatWarning",
    "CaffeNet",
    "FileAccess",
    "Layer",
    "LayerSpec",
    "NetState",
    "layer",
    "load",
]
