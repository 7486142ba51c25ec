"""A network, layer by layer, with what is known of its inputs: how far it gets, and what its labels have to be.

A layer that compares a result with labels tells their shape. What only hands on such an input waits until then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import CaffeCompatError
from ..building import build_layer, without_memory
from ..graph import Graph, Node
from ..guess import BlobShapes
from ..registry import Shape
from ..sharing import blob_names, get_tensor
from ..surroundings import Surroundings
from .flow import PASSES_ON
from .labels import possible_labels
from .reading import cuts_of

__all__ = ["Mismatch", "Walk", "walk"]


@dataclass(frozen=True)
class Mismatch:
    """A blob of another shape than the weights hold: ``found`` for the shapes that were tried."""

    node: Node
    found: Shape
    expected: Shape


@dataclass
class Walk:
    """How far a network got.

    Attributes:
        shapes: of every value that is known, by value id.
        told_by: of those that were not known before, the layer that told.
        reached: how many layers were built. error, mismatch: what stopped the next one; both None at the end.
    """

    shapes: dict[int, Shape]
    told_by: dict[int, Node] = field(default_factory=dict)
    reached: int = 0
    error: CaffeCompatError | None = None
    mismatch: Mismatch | None = None

    @property
    def whole(self) -> bool:
        """Whether every layer was built."""
        return self.error is None and self.mismatch is None


def walk(graph: Graph, known: Mapping[int, Shape], blobs: BlobShapes, last: Node | None = None) -> Walk:
    """Build the layers of ``graph`` one after the other, as long as they can be.

    Args:
        known: shapes of inputs by value id. blobs: what the weights at hand hold, which the layers' blobs have to fit.
        last: the layer to stop behind, if not the last of all.
    """
    found = Walk(dict(known))
    waiting: list[Node] = []
    for node in graph.computed:
        missing = [value for value in node.bottoms if value not in found.shapes]
        if missing and len(missing) == len(node.bottoms):
            waiting.append(node)
            found.reached += 1
            continue
        if not _step(graph, node, dict.fromkeys(missing), found, blobs):
            return found
        found.reached += 1
        _settle(waiting, found)
        if node is last:
            break
    for node in reversed(waiting):
        _settle_rest(node, found)
    _settle(waiting, found)
    return found


def _step(graph: Graph, node: Node, missing: Mapping[int, None], found: Walk, blobs: BlobShapes) -> bool:
    """Build one layer, with the first shapes of its unknown bottoms that it takes. False if it takes none."""
    found.error = found.mismatch = None
    first = next(found.shapes[value] for value in node.bottoms if value in found.shapes) if missing else ()
    for option in possible_labels(node, first) if missing else [()]:
        trial = {**found.shapes, **dict.fromkeys(missing, option)}
        try:
            bottoms = [without_memory(trial[value], graph.blobs[value]) for value in node.bottoms]
            built = build_layer(node, graph, bottoms, around=Surroundings(graph, trial))
        except CaffeCompatError as error:
            found.error = found.error or error
            continue
        wrong = _mismatch(node, [tuple(get_tensor(built.module, n).shape) for n in blob_names(built.module)], blobs)
        if wrong is not None:
            found.mismatch = wrong
            return False
        found.error = None
        found.shapes = trial
        found.told_by.update(dict.fromkeys(missing, node))
        found.shapes.update(zip(node.tops, (tuple(top.shape) for top in built.tops), strict=True))
        return True
    return False


def _mismatch(node: Node, shapes: Sequence[Shape], blobs: BlobShapes) -> Mismatch | None:
    for needed, stored in zip(shapes, blobs.get(node.name, ()), strict=False):
        # Old files have four axes for every blob, the leading ones of length 1.
        if math.prod(needed) != math.prod(stored):
            return Mismatch(node, needed, stored)
    return None


# What waits for a layer that tells


def _settle(waiting: list[Node], found: Walk) -> None:
    """Go from tops that are known by now to the bottoms of the layers that hand them on."""
    for node in reversed(list(waiting)):
        shape = _bottom_of(node, found.shapes)
        if shape is None:
            continue
        waiting.remove(node)
        for value in node.bottoms:
            found.shapes.setdefault(value, shape)
            teller = next((found.told_by[top] for top in node.tops if top in found.told_by), node)
            found.told_by.setdefault(value, teller)


def _bottom_of(node: Node, shapes: Mapping[int, Shape]) -> Shape | None:
    tops = [shapes[top] for top in node.tops if top in shapes]
    if not tops:
        return None
    if node.type == "Slice" and len(tops) == len(node.tops):
        axis = cuts_of(node).axis
        if not 0 <= axis < len(tops[0]):
            return None
        return (*tops[0][:axis], sum(shape[axis] for shape in tops), *tops[0][axis + 1 :])
    return tops[0] if node.type in PASSES_ON or node.type == "Eltwise" else None


def _settle_rest(node: Node, found: Walk) -> None:
    """A slice of which only some pieces are read: the others are as long as its points say."""
    known = [(top, found.shapes[top]) for top in node.tops if top in found.shapes]
    if node.type != "Slice" or not known:
        return
    cuts, shape = cuts_of(node), known[0][1]
    if not 0 <= cuts.axis < len(shape):
        return
    for top, length in zip(node.tops, cuts.lengths, strict=True):
        found.shapes.setdefault(top, (*shape[: cuts.axis], length, *shape[cuts.axis + 1 :]))
        found.told_by.setdefault(top, found.told_by.get(known[0][0], node))
