"""What labels may look like, by the layer that reads them and by the result that it compares them with."""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Node
from ..registry import Shape

__all__ = ["possible_labels"]

# Words in the names of types whose labels are classes, one for each position, and not values of the result's own shape.
_OF_CLASSES = (
    *("Accuracy", "Angle", "Center", "Contrastive", "Cosine", "Focal", "Hinge", "Infogain", "InnerDistance"),
    *("LabelSpecific", "Margin", "Multinomial", "Rank", "Softmax", "Triplet"),
)
# Words in the names of types that read boxes of objects, eight numbers each, as SSD's data layer gives them.
_OF_BOXES = ("MultiBox", "DetectionEvaluate", "RefineDet", "EvalDetection", "RegionLoss", "Yolo")
# Layers with memory read, as their second bottom, whether a sequence goes on: one number for each step and stream.
_OF_SEQUENCES = ("LSTM", "RNN", "Recurrent")


def possible_labels(node: Node, result: Shape) -> Iterator[Shape]:
    """Shapes to try for bottoms of ``node`` that nobody tells, best first; ``result`` is that of another bottom."""
    yield from dict.fromkeys(_possible(node, result))


def _possible(node: Node, result: Shape) -> Iterator[Shape]:
    many = result[:1] or (1,)
    if any(word in node.type for word in _OF_BOXES):
        yield 1, 1, 1, 8
        yield (*many, 1, 1, 8)
        # YOLO's: 30 or 300 boxes of five numbers.
        yield *many, 150
        yield *many, 1500
    if any(word in node.type for word in _OF_SEQUENCES):
        yield result[:2]
    if not any(word in node.type for word in _OF_CLASSES):
        yield result
    axis = _class_axis(node)
    if len(result) == 4 and axis == 1:
        yield (*many, 1, *result[2:])
    yield (*result[:axis], *result[axis + 1 :])
    yield many
    yield (*many, 1)
    yield (*many, 1, 1, 1)
    yield (*many, 1, *result[2:])
    yield result
    # Sizes of pictures and boxes of regions, as Faster R-CNN has them.
    yield 1, 3
    yield 1, 5
    yield (*many, 5)
    yield 1, 4


def _class_axis(node: Node) -> int:
    for field in ("softmax_param", "accuracy_param"):
        if node.message.HasField(field):
            axis: int = getattr(node.message, field).axis
            return max(axis, 0)
    return 1
