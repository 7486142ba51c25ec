"""Where a pose network begins and ends: its images and clip values, and the blob with the pose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffe_compat import CaffeNet
from caffe_compat.errors import UsageError
from caffe_compat.network.graph import Node
from caffe_compat.network.registry import Shape

from ..projector import POSE_2D, POSE_3D

__all__ = ["image_and_clip", "pose_blob", "pose_values"]


def pose_blob(net: CaffeNet) -> str:
    """The blob with the pose: what the last InvertedOrder layer gives. Raises UsageError if there is none."""
    inverted = [node for node in net.graph.nodes if node.type == "InvertedOrder"]
    if not inverted:
        raise UsageError(
            "the net has no InvertedOrder layer to tell its pose by; name the pose's blob (--pose-blob, pose_blob=...)"
        )
    return str(net.graph.blobs[inverted[-1].tops[0]])


def pose_values(net: CaffeNet, blob: str) -> int:
    """Values a frame in the blob with the pose: 48 or 32. Raises UsageError of another blob."""
    value = max(v for v, name in enumerate(net.graph.blobs) if name == blob)
    shape = net.shapes[value]
    values = int(np.prod(shape[1:]))
    if values not in (POSE_3D, POSE_2D):
        raise UsageError(
            f"blob {blob!r} has shape {list(shape)}; {POSE_3D} values a frame (3D) or {POSE_2D} (2D) were expected"
        )
    return values


def image_and_clip(net: CaffeNet, nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> tuple[str, str | None]:
    """The inputs with the images and with the clip values; None if the pose needs no clip.

    Args:
        nodes: the layers that the pose depends on. shapes: of the inputs that they begin with.

    Raises:
        UsageError: other inputs than these.
    """
    images = [name for name, shape in shapes.items() if len(shape) == 4 and shape[1] == 3]
    others = [name for name in shapes if name not in images]
    labels = [name for name in others if len(shapes[name]) == 2 and name in _with_clip(net, nodes)]
    if len(images) != 1 or others != labels or len(labels) > 1:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise UsageError(
            f"the net's inputs are {found}; images (n, 3, height, width) and the clip values (n, 1) of its recurrent "
            "layers, or a label (n, values) that ends in them, were expected"
        )
    return images[0], labels[0] if labels else None


def _with_clip(net: CaffeNet, nodes: Sequence[Node]) -> set[str]:
    """Inputs, whatever their names, that recurrent layers take their clip values from: the whole, or its last slice."""
    makers = {top: node for node in nodes for top in node.tops}
    found = set()
    for node in nodes:
        if node.type not in ("LSTM", "RNN"):
            continue
        value = node.bottoms[1]
        while (maker := makers[value]).type in ("Flatten", "Reshape", "Slice") and maker.tops[-1] == value:
            value = maker.bottoms[0]
        if value in net.graph.inputs:
            found.add(net.graph.blobs[value])
    return found
