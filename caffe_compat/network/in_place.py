"""Layers that write over their bottom: which of them Caffe refuses, and which it computes wrongly.

Every write makes a new value here, so a layer in place computes what it would compute elsewhere. In Caffe it reads and
writes the same memory: a few types abort (``CHECK_NE(top[0], bottom[0])`` in their sources), element by element types
give the same numbers, and the rest reads what it has already overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["REFUSED", "SAFE", "unsafe_in_place"]

# BVLC Caffe 1.0.0: absval_layer.cpp, flatten_layer.cpp, reshape_layer.cpp, split_layer.cpp.
REFUSED = frozenset({"AbsVal", "Flatten", "Reshape", "Split"})

# Forward passes that read each value before they write it, of BVLC Caffe and of the forks that have the type.
SAFE = frozenset(
    {
        *("BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Exp", "Log", "PReLU", "Power", "ReLU", "Scale"),
        *("Sigmoid", "Silence", "Softmax", "Swish", "TanH", "Threshold"),
        *("BN", "BNData", "BatchNormScale", "MKLReLU", "Mish", "RReLU", "ReLU6", "RescaledPoseCoords", "SeLu"),
        *("SeLuDropout", "Sparsify", "SpatialDropout"),
        *("Python",),  # its own affair
    }
)


def unsafe_in_place(type: str, bottoms: Sequence[str], tops: Sequence[str]) -> str:
    """The blob that a layer of ``type`` writes over in a way that Caffe does not compute right; empty if there is none.

    >>> unsafe_in_place("Pooling", ["conv1"], ["conv1"])
    'conv1'
    >>> unsafe_in_place("ReLU", ["conv1"], ["conv1"])
    ''
    """
    return "" if type in SAFE else next((top for top in tops if top in bottoms), "")
