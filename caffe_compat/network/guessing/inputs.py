"""Guessing the shapes of a network's inputs: pictures first, then the labels that their results are compared with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import DialectError, UnknownLayerError, is_misfit
from ..graph import Graph, Node
from ..guess import BlobShapes, Guess
from ..registry import Shape
from .detectors import other_settings
from .flow import is_picture
from .pictures import picture_of, side_by_weights, usual_sides
from .reading import batch_of
from .walk import Walk, walk

__all__ = ["guess_inputs"]

# After so many sizes, large ones and small ones, that end in the same error, others will too.
_ENOUGH = 6


def guess_inputs(graph: Graph, blobs: BlobShapes | None = None) -> tuple[Guess, ...]:
    """The inputs of ``graph`` whose shape neither the file nor the user tells, with the shape that each probably has.

    Args:
        blobs: what the weights at hand hold.

    Raises:
        UsageError, LayerError: a source contradicts itself.
    """
    inputs = _Inputs.of(graph)
    others = other_settings(graph)
    if not inputs.untold and not others:
        return ()
    found = _best(graph, inputs, blobs or {})
    if not found.walk.whole:
        doubted = inputs.doubting_labels()
        again = _best(graph, doubted, blobs or {}) if doubted != inputs else found
        if again.walk.reached > found.walk.reached:
            inputs, found = doubted, again
    guesses: list[Guess] = []
    for other in others:
        if found.walk.error is None or not is_misfit(found.walk.error):
            break
        changed = inputs.with_told({value: shape for value, (shape, _) in other.items()})
        again = _best(graph, changed, blobs or {})
        if again.walk.reached > found.walk.reached:
            inputs, found = changed, again
            guesses += [Guess(graph.blobs[value], shape, why) for value, (shape, why) in other.items()]
    for value, node in inputs.untold.items():
        shape = found.walk.shapes.get(value)
        if value in found.pictures:
            why = found.pictures[value]
        elif value in found.walk.told_by:
            reader = found.walk.told_by[value]
            why = f"what layer {reader.name!r} ({reader.type}) takes"
        else:
            shape, why = (batch_of(node.message),), "no layer tells; one number for each item"
        assert shape is not None
        guesses.append(Guess(graph.blobs[value], shape, why))
    return tuple(guesses)


@dataclass(frozen=True)
class _Inputs:
    """What is known of a graph's inputs, by value id; of the others, the layer that brings them."""

    told: Mapping[int, Shape]
    untold: Mapping[int, Node]
    sources: tuple[Node, ...]

    @classmethod
    def of(cls, graph: Graph) -> _Inputs:
        told: dict[int, Shape] = {}
        untold: dict[int, Node] = {}
        for node in graph.sources:
            for value, shape in zip(node.tops, graph.source_shapes(node), strict=True):
                if shape is None:
                    untold[value] = node
                else:
                    told[value] = shape
        return cls(told, untold, graph.sources)

    def with_told(self, told: Mapping[int, Shape]) -> _Inputs:
        """As if these shapes were told."""
        return _Inputs({**self.told, **told}, self.untold, self.sources)

    def doubting_labels(self) -> _Inputs:
        """As if labels that are one number for each item in BVLC's data layers were not told: some forks have more."""
        told, untold = dict(self.told), dict(self.untold)
        for node in self.sources:
            for value in node.tops[1:] if node.type != "Input" else ():
                if len(told.get(value, ())) == 1:
                    del told[value]
                    untold[value] = node
        return _Inputs(told, untold, self.sources)


@dataclass(frozen=True)
class _Found:
    """A walk, and why its pictures have their shapes."""

    walk: Walk
    pictures: Mapping[int, str]


def _best(graph: Graph, inputs: _Inputs, blobs: BlobShapes) -> _Found:
    """The first sides of pictures with which the whole network can be built; else those that get furthest."""
    pictures = {
        value: picture_of(graph, node, value, blobs)
        for value, node in inputs.untold.items()
        if is_picture(graph, value)
    }
    unsized = [picture for picture in pictures.values() if not picture.is_told]

    def attempt(side: int, why: str = "", last: Node | None = None) -> _Found:
        known = {**inputs.told, **{value: picture.shape(side) for value, picture in pictures.items()}}
        whys = {value: picture.why or why for value, picture in pictures.items()}
        return _Found(walk(graph, known, blobs, last), whys)

    if not unsized:
        return attempt(0)
    judge = next((node for node in graph.computed if node.type == "InnerProduct" and blobs.get(node.name)), None)
    if judge is not None:
        expected = blobs[judge.name][0][-1]
        side = side_by_weights(graph, judge, expected, lambda side: attempt(side, last=judge).walk)
        if side is not None:
            return attempt(side, f"{judge.name} has {expected} inputs")
    best: _Found | None = None
    failures: Counter[str] = Counter()
    for side in usual_sides(unsized[0]):
        found = attempt(side, "nothing tells its size; this is a usual one that fits")
        if best is None or found.walk.reached > best.walk.reached:
            best = found
        error = found.walk.error
        kind = re.sub(r"[0-9]+", "N", str(error))
        failures[kind] += 1
        if found.walk.whole or isinstance(error, UnknownLayerError | DialectError) or failures[kind] == _ENOUGH:
            break  # as good as it gets: no size changes such an error
    assert best is not None
    return best
