"""What a layer may ask about the net that it stands in: a few layers of forks look beyond their bottoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import LayerError
from ..schema.messages import LayerParameter
from ..schema.params import Params
from .graph import Graph, Node
from .shapes import Line, Lines, Shape

__all__ = ["Surroundings"]

# Layers whose tops lie on the grid of their first bottom.
_SAME_GRID = frozenset(("Concat", "Eltwise", "LRN", "MVN", "Slice", "Softmax", "Split"))
_WINDOWS = {"Convolution": "convolution_param", "Deconvolution": "convolution_param", "Pooling": "pooling_param"}


@dataclass
class Surroundings:
    """The layers of ``graph``, with the shapes of those values that are known, by value id.

    Attributes:
        asked: whether anybody has asked anything since it was last set to False.
    """

    graph: Graph
    shapes: Mapping[int, Shape]
    asked: bool = field(default=False, init=False)

    def picture(self) -> tuple[int, int] | None:
        """Height and width of the net's first input with four axes; None if there is none."""
        self.asked = True
        shapes = (self.shapes.get(value, ()) for value in self.graph.inputs)
        return next(((shape[2], shape[3]) for shape in shapes if len(shape) == 4), None)

    def lines(self, start: str, end: str) -> Lines:
        """Where a cell of blob ``start`` lies in blob ``end``: a factor and a shift for rows, and for columns.

        Both are followed upwards by first bottoms until they meet, as in zimenglan-sysu-512/pose_action_caffe,
        ``GetMapBetweenFeatureMap``.

        Raises:
            LayerError: they do not meet, or a layer between them keeps no grid.
        """
        self.asked = True
        above = self._above(start)
        names = [start, *(node.message.bottom[0] for node in above)]
        other = self._above(end)
        meeting = next((name for name in [end, *(node.message.bottom[0] for node in other)] if name in names), None)
        if meeting is None:
            raise LayerError(f"the blobs {start!r} and {end!r} have no common blob above them")
        return _composed(self._down_to(other, end, meeting), _inverse(self._down_to(above, start, meeting)))

    def _above(self, blob: str) -> list[Node]:
        """The layers from ``blob`` upwards, each the first that makes the first bottom of the one before."""
        found: list[Node] = []
        while True:
            # A layer that writes over its bottom comes later than the one that first makes the blob.
            node = next((node for node in self.graph.nodes if blob in node.message.top), None)
            if node is None or not node.message.bottom:
                return found
            found.append(node)
            blob = node.message.bottom[0]

    def _down_to(self, above: Sequence[Node], blob: str, meeting: str) -> Lines:
        lines: Lines = ((1.0, 0.0), (1.0, 0.0))
        for node in above:
            if blob == meeting:
                break
            lines = _composed(lines, self._lines_of(node))
            blob = node.message.bottom[0]
        return lines

    def _lines_of(self, node: Node) -> Lines:
        """What one layer does to places."""
        if node.type in _SAME_GRID:
            return ((1.0, 0.0), (1.0, 0.0))
        if node.type in _WINDOWS:
            lines = self._window(node.message, self.shapes[node.bottoms[0]])
            return lines if node.type == "Deconvolution" else _inverse(lines)
        if node.type == "Resize":
            before, after = self.shapes[node.bottoms[0]], self.shapes[node.tops[0]]
            return ((after[2] / before[2], 0.0), (after[3] / before[3], 0.0))
        raise LayerError(
            "lies between two blobs whose cells are compared; only layers that keep a grid can: "
            f"{', '.join(sorted((*_SAME_GRID, *_WINDOWS, 'Resize')))}",
            layer=node.name,
            type=node.type,
        )

    @staticmethod
    def _window(message: LayerParameter, shape: Shape) -> Lines:
        params = Params(getattr(message, _WINDOWS[message.type]), _WINDOWS[message.type])
        whole = message.type == "Pooling" and params.global_pooling

        def of(name: str, axis: int, default: int) -> int:
            single = f"{name.removesuffix('_size')}_{'hw'[axis]}"
            if params.has(single):
                return int(getattr(params, single))
            value = getattr(params, name)
            if isinstance(value, int):
                return value
            return int(value[min(axis, len(value) - 1)]) if len(value) else default

        def line(axis: int) -> Line:
            kernel = shape[2 + axis] if whole else of("kernel_size", axis, 1)
            return (float(of("stride", axis, 1)), (kernel - 1) / 2 - of("pad", axis, 0))

        return line(0), line(1)


def _composed(left: Lines, right: Lines) -> Lines:
    """``right`` and then ``left``."""
    (a, b), (c, d) = (
        (scale * other, scale * shift + own) for (scale, own), (other, shift) in zip(left, right, strict=True)
    )
    return (a, b), (c, d)


def _inverse(lines: Lines) -> Lines:
    (a, b), (c, d) = lines
    return (1 / a, -b / a), (1 / c, -d / c)
