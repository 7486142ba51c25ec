"""What Faster R-CNN's data layer reads, where a network does not fit what the defaults of its program tell.

The sizes of its pictures and what boxes learn are in the configuration of the program that trains the network, so what
the layer tells is the project's default. Some networks only fit another one, or what another project's layer brings.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import Graph
from ..registry import Shape

__all__ = ["other_settings"]

# Height and width are cut down to multiples of it where what networks take together was halved so often: PVANet's. It
# has two scales, each of them twice. (sanghoon/pva-faster-rcnn, SCALE_MULTIPLE_OF in ``models/pvanet/cfgs/train.yml``)
_MULTIPLE = 32
_SIZE, _SIZE_OF_PVANET = 3, 6
# Corners, a class, and then sixteen attributes. (peteanderson80/bottom-up-attention, ``lib/roi_data_layer``)
_OBJECT, _OBJECT_WITH_ATTRIBUTES = 5, 21
# Classes, and offsets of boxes that are something or nothing, have four axes. (YuwenXiong/py-R-FCN, AGNOSTIC)
_OFFSETS_OF_ONE_CLASS = (8, 1, 1)

Told = Mapping[int, tuple[Shape, str]]


def other_settings(graph: Graph) -> tuple[Told, ...]:
    """Shapes that other configurations tell, by value id, and why they are taken. They do not exclude each other."""
    whys = (
        f"sides that are multiples of {_MULTIPLE} fit, others do not",
        "the network reads attributes of objects",
        "the boxes of the network know no class",
    )
    changes: tuple[dict[int, tuple[Shape, str]], ...] = ({}, {}, {})
    for node in graph.sources:
        if node.type != "Python" or node.message.python_param.layer != "RoIDataLayer":
            continue
        for place, (value, shape) in enumerate(zip(node.tops, graph.source_shapes(node), strict=True)):
            if shape is None or graph.blobs[value] in graph.given:
                continue
            for change, why, new in zip(changes, whys, _changed(place, shape), strict=True):
                if new is not None:
                    change[value] = new, why
    return tuple(change for change in changes if change)


def _changed(place: int, shape: Shape) -> tuple[Shape | None, Shape | None, Shape | None]:
    """What each of the three changes makes of the shape of a top; None where it leaves it as it is."""
    picture = objects = offsets = None
    if place == 0 and len(shape) == 4 and min(shape[2:]) >= _MULTIPLE:
        picture = (*shape[:2], *(side // _MULTIPLE * _MULTIPLE for side in shape[2:]))
    if place == 1 and shape == (1, _SIZE):
        picture = (1, _SIZE_OF_PVANET)
    if place == 2 and shape == (1, _OBJECT):
        objects = (1, _OBJECT_WITH_ATTRIBUTES)
    if place == 2 and len(shape) == 1:
        offsets = (*shape, 1, 1, 1)
    if place > 2 and len(shape) == 2:
        offsets = (shape[0], *_OFFSETS_OF_ONE_CLASS)
    return picture, objects, offsets
