"""Caffe's data layers: sources of batches for a network whose data layers are inputs.

sources = make_sources(graph, root=folder, seed=1)
with Loader(sources) as loader:
    outputs = net(**next(loader))
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ...errors import UsageError
from ...network.graph import Graph, Node
from .database import Data
from .hdf5 import HDF5Data
from .image_data import ImageData, ImageDataLstm, ImageDataSelf
from .loader import Loader
from .memory import MemoryData
from .source import Folder, Setup, Source
from .transformer import DataTransformer
from .window_data import WindowData

__all__ = ["READERS", "DataTransformer", "Loader", "MemoryData", "Source", "make_source", "make_sources"]

_TYPES: dict[str, type[Source]] = {
    "Data": Data,
    "HDF5Data": HDF5Data,
    "ImageData": ImageData,
    "ImageDataLstm": ImageDataLstm,
    "ImageDataSelf": ImageDataSelf,
    "MemoryData": MemoryData,
    "WindowData": WindowData,
}
# The types of data layers that make_source takes.
READERS = tuple(_TYPES)


def make_sources(
    graph: Graph,
    *,
    root: str | Path = ".",
    confined: bool = False,
    seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Source, ...]:
    """A source for every data layer of ``graph``; ``Input`` layers are left to the caller. See :func:`make_source`."""
    return tuple(
        make_source(node, graph.state.phase, root=root, confined=confined, seed=seed, rank=rank, world_size=world_size)
        for node in graph.sources
        if node.type != "Input"
    )


def make_source(
    node: Node,
    phase: str,
    *,
    root: str | Path = ".",
    confined: bool = False,
    seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Source:
    """What the data layer ``node`` reads.

    Args:
        phase: ``"TRAIN"`` or ``"TEST"``.
        root: where relative paths of the network start. confined: refuse paths that leave it.
        seed: of shuffles, crops and mirrors; None draws one, which a note of the source tells.
        rank, world_size: this process among those that train together. In phase TEST everyone reads everything.

    Raises:
        LayerError: a parameter that makes no sense or is not supported. FileError: a list, database or mean file that
        is missing or damaged, or batches that are too large. FileAccessError: a path outside the root.
        MissingExtraError: an optional package is missing. UsageError: nobody knows how to read this type of layer.
    """
    if node.type not in _TYPES:
        raise UsageError(
            f"there is no reader for this type of data layer; known are "
            f"{', '.join(_TYPES)}; feed the blobs {', '.join(node.message.top)} yourself",
            layer=node.name,
            type=node.type,
        )
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of {world_size}: ranks count from 0")
    if phase != "TRAIN":
        rank, world_size = 0, 1
    drawn = secrets.randbelow(2**31) if seed is None else seed
    setup = Setup(
        name=node.name,
        key=node.module_name,
        type=node.type,
        tops=tuple(node.message.top),
        message=node.message,
        phase=phase,
        folder=Folder(Path(root).resolve(), confined),
        seed=drawn,
        rank=rank,
        world_size=world_size,
    )
    source = _TYPES[node.type](setup)
    setup.check_all_read()
    source.check_batch()
    if seed is None and setup.random:
        if world_size > 1:
            raise UsageError(
                "reads at random: processes that train together need one seed", layer=node.name, type=node.type
            )
        setup.note(f"seed {drawn} was drawn; pass it to repeat this run")
    return source
