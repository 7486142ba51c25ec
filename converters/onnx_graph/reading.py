"""A file without its weights: the graph as bytes, in which each weight is a reference to its place in the file.

A runtime that is given these maps the weights into memory, where one that reads the file itself has them twice while it
loads: as messages of protobuf and as tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_compat.formats.varint import varint
from caffe_compat.formats.wire import BYTES, Source

from .writing import GRAPH, INITIALIZER, RAW_DATA, field_key

__all__ = ["graph_of_file", "held_already", "metadata_of_file"]

# Smaller ones stay where they are: constants that a runtime looks at.
_LARGE = 1 << 16
# Bytes that are compared at a time.
_PIECE = 1 << 20


def graph_of_file(path: str) -> bytes:
    """The model in the file at ``path``, with references to ``os.path.basename(path)``.

    Raises:
        FileError: it cannot be read, or is no message of protobuf.
    """
    source = Source(path)
    return _without_weights(source, 0, source.size, (GRAPH, INITIALIZER))


def metadata_of_file(path: str) -> dict[str, str]:
    """What the file at ``path`` says of itself, as text by key.

    Raises:
        FileError: it cannot be read, or is no message of protobuf.
    """
    from onnx import ModelProto

    return {entry.key: entry.value for entry in ModelProto.FromString(graph_of_file(path)).metadata_props}


def held_already(graph: bytes, folder: str, held: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Of the weights that ``graph`` refers to in files of ``folder`` those that memory holds, byte by byte, by name.

    Args:
        held: what is in memory, by the names that the graph may have for it.
    """
    from onnx import ModelProto, TensorProto

    found = {}
    for entry in ModelProto.FromString(graph).graph.initializer:
        tensor = held.get(entry.name)
        plain = tensor is not None and (tensor.device.type, tensor.dtype) == ("cpu", torch.float32)
        if tensor is None or not (plain and tensor.is_contiguous() and entry.data_type == TensorProto.FLOAT):
            continue
        if tuple(entry.dims) == tuple(tensor.shape) and entry.data_location == TensorProto.EXTERNAL:
            array: np.ndarray = tensor.detach().numpy()
            if _stands_at({place.key: place.value for place in entry.external_data}, folder, array):
                found[entry.name] = array
    return found


def _stands_at(place: Mapping[str, str], folder: str, array: np.ndarray) -> bool:
    """Whether the bytes of ``array`` are those at a place in a file."""
    values: Any = array.reshape(-1)
    own = memoryview(values).cast("B")
    with open(os.path.join(folder, place["location"]), "rb") as file:
        file.seek(int(place["offset"]))
        pieces = (own[at : at + _PIECE] for at in range(0, len(own), _PIECE))
        return int(place["length"]) == len(own) and all(file.read(len(piece)) == piece for piece in pieces)


def _without_weights(source: Source, position: int, end: int, within: tuple[int, ...]) -> bytes:
    """The message from ``position`` to ``end``; ``within`` it lie tensors, as fields of fields of these numbers."""
    if not within:
        return _tensor(source, position, end)
    pieces = []
    while position < end:
        begin = position
        number, wire, start, position = source.field(position, end)
        if number == within[0] and wire == BYTES:
            inner = _without_weights(source, start, position, within[1:])
            pieces += [field_key(number), varint(len(inner)), inner]
        else:
            pieces.append(source.bytes(begin, position))
    return b"".join(pieces)


def _tensor(source: Source, position: int, end: int) -> bytes:
    """A TensorProto, whose values are elsewhere if they are many."""
    from onnx import TensorProto

    pieces = []
    while position < end:
        begin = position
        number, wire, start, position = source.field(position, end)
        if number == RAW_DATA and wire == BYTES and position - start >= _LARGE:
            there = TensorProto(data_location=TensorProto.EXTERNAL)
            place = {"location": os.path.basename(source.path), "offset": start, "length": position - start}
            for key, value in place.items():
                there.external_data.add(key=key, value=str(value))
            pieces.append(there.SerializeToString())
        else:
            pieces.append(source.bytes(begin, position))
    return b"".join(pieces)
