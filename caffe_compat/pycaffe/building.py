"""A prototxt -> the network under ``caffe.Net``, and what its data layers read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..errors import CaffeCompatError, CaffeCompatWarning, LayerError, NetworkError, UsageError
from ..network.definition import Definition
from ..network.graph import NetState, phase_graph
from ..network.net import CaffeNet
from ..network.registry import Shape
from ..training.data import READERS, MemoryData, Source, make_source
from ..training.session import TrainingFiles
from .runtime import draw_seed, log, runtime

__all__ = ["Feed", "SteppedNet", "build", "warn"]


class SteppedNet(CaffeNet):
    """A network whose passes for a solver run through the interface, so that its blobs show what the solver did.

    Attributes:
        run_steps: runs a whole forward pass; returns every value of the graph.
    """

    run_steps: Callable[[], list[Tensor | None]] | None = None

    def values(self, inputs: Mapping[str, Tensor], *, keep: bool = True) -> list[Tensor | None]:
        return super().values(inputs, keep=keep) if self.run_steps is None else self.run_steps()


class Feed:
    """The batches of one data layer, in order."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0
        self.lacks_arrays = isinstance(source, MemoryData)

    def read(self) -> dict[str, Tensor]:
        if self.lacks_arrays:
            raise UsageError(
                "has no data yet; give it some with set_input_arrays", layer=self.source.name, type="MemoryData"
            )
        batch = self.source.batch(self.position)
        self.position += 1
        return {name: tensor.to(runtime.device) for name, tensor in batch.items()}


def build(definition: Definition, state: NetState) -> tuple[SteppedNet, dict[int, Feed]]:
    """The network of ``definition``, without memory yet, and what its data layers read, by their place in it.

    Raises:
        CaffeCompatError: it cannot be built, or a file that a data layer reads is missing. What the setup of a script's
            own layer raises comes through as it is.
    """
    message = definition.message
    graph = phase_graph(message, state, definition.schema.name, allow_python=runtime.allow_python)
    feeds: dict[int, Feed] = {}
    shapes: dict[str, Shape] = {}
    for node in graph.sources:
        if node.type in READERS:
            source = make_source(node, state.phase, seed=draw_seed())
            for text in source.notes:
                log(text, 1)
            feeds[node.index] = Feed(source)
            shapes.update(source.shapes())
    try:
        core = SteppedNet(
            message,
            state,
            dialect=definition.schema.name,
            input_shapes=shapes,
            files=TrainingFiles(),
            allow_python=runtime.allow_python,
            path=definition.path,
        )
    except NetworkError as error:
        own = error.__cause__ or error.__context__
        scripts = {node.name for node in graph.nodes if node.type == "Python"}
        if isinstance(error, LayerError) and error.layer in scripts and own and not isinstance(own, CaffeCompatError):
            raise own from None
        raise
    warn((*definition.warnings, *core.warnings))
    return core, feeds


def warn(texts: Sequence[str]) -> None:
    """Warn whoever called the interface's constructor or method."""
    for text in texts:
        warnings.warn(text, CaffeCompatWarning, stacklevel=4)
