"""Building a network of which not every input has a shape: guessed if the user says so, else suggested in the error."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress

from ...access import FileAccess
from ...errors import CaffeCompatError, InputShapeError, located
from ...formats.weights import read_weights
from ...schema.messages import NetParameter
from ..building import Gradients
from ..graph import phase_graph, undeclared, with_inputs
from ..guess import BlobShapes, Guess
from ..net import CaffeNet
from ..registry import Shape
from ..rules import NetState
from .fitting import only_fit

__all__ = ["guess_shapes_of", "net_of"]


def net_of(
    message: NetParameter,
    state: NetState | None = None,
    *,
    dialect: str = "bvlc",
    input_shapes: Mapping[str, Shape] | None = None,
    guess_shapes: bool = False,
    weights: str | os.PathLike[str] | None = None,
    ignore_fields: Collection[str] = (),
    files: FileAccess | None = None,
    gradients: Gradients = "caffe",
    allow_python: bool = False,
    path: str | None = None,
    dialect_is_open: bool = False,
    twins: bool = True,
) -> CaffeNet:
    """A :class:`..net.CaffeNet` without values, whose inputs may have guessed shapes.

    Args:
        dialect_is_open: whether nobody asked for ``dialect``: another one may be taken if the network fits no other.
        guess_shapes: whether shapes that nothing tells may be guessed.
        weights: those that will fill the net; nothing but the shapes of their blobs is read.
        Others: as for ``CaffeNet``.

    Raises:
        InputShapeError: an input has no shape, and none may be guessed; it says what it probably is.
        CaffeCompatError: as for ``CaffeNet``.
    """

    def guessed() -> tuple[Guess, ...]:
        return guess_shapes_of(message, state, dialect, input_shapes, weights, allow_python=allow_python)

    def elsewhere(message: NetParameter, dialect: str) -> CaffeNet:
        return net_of(
            message,
            state,
            dialect=dialect,
            input_shapes=input_shapes,
            guess_shapes=guess_shapes,
            weights=weights,
            ignore_fields=ignore_fields,
            files=files,
            gradients=gradients,
            allow_python=allow_python,
            twins=twins,
        )

    with located(path=path):
        guesses = guessed() if guess_shapes else ()
    shapes = {**{guess.blob: guess.shape for guess in guesses}, **(input_shapes or {})}
    try:
        net = CaffeNet(
            message,
            state,
            dialect=dialect,
            input_shapes=shapes,
            ignore_fields=ignore_fields,
            files=files,
            gradients=gradients,
            allow_python=allow_python,
            path=path,
            twins=twins,
        )
    except InputShapeError as error:  # the same under every dialect
        with suppress(CaffeCompatError):  # what is wrong besides is said once the shapes are there
            error.guesses = guessed()
        raise
    except CaffeCompatError as error:
        fitting = only_fit(message, dialect, error, elsewhere) if dialect_is_open else None
        if fitting is not None:
            return fitting
        if guesses:
            error.within(place=f"with guesses ({'; '.join(map(str, guesses))})")
        raise
    net.guessed = guesses
    net.warnings += [f"guessed: {guess}" for guess in guesses]
    return net


def guess_shapes_of(
    message: NetParameter,
    state: NetState | None,
    dialect: str,
    input_shapes: Mapping[str, Shape] | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    allow_python: bool = False,
) -> tuple[Guess, ...]:
    """The inputs whose shape neither the definition nor the user tells, and what it probably is.

    Blobs that are read and that no layer makes in any phase are inputs, too.

    Raises:
        GraphError, UsageError, LayerError: the network cannot be wired, or a source contradicts itself.
        FileError: the weights cannot be read.
    """
    given = dict(input_shapes or {})
    unknown = [name for name in undeclared(message) if name not in given]
    declared = with_inputs(with_inputs(message, given), dict.fromkeys(unknown))
    graph = phase_graph(declared, state, dialect, given, allow_python=allow_python)
    # What a Python class that reads data tells may be the default of a configuration.
    if all(None not in graph.source_shapes(node) and node.type != "Python" for node in graph.sources):
        return ()
    from .inputs import guess_inputs  # most files tell all shapes

    return guess_inputs(graph, _blob_shapes(weights))


def _blob_shapes(weights: str | os.PathLike[str] | None) -> BlobShapes:
    if weights is None:
        return {}
    with read_weights(weights) as opened:
        found: dict[str, tuple[Shape, ...]] = {}
        for layer in opened.layers:
            found.setdefault(layer.name, tuple(blob.shape for blob in layer.blobs))
        return found
