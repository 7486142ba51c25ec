"""A graph to a file, weight by weight: memory never holds the weights a second time.

The messages are those of ``onnx.proto``. A message of protobuf may be written in pieces, whose repeated fields add up:
the graph with everything but its weights comes from ``onnx``, and each weight follows as a further ``initializer``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

from caffe_compat.formats.files import atomic_write
from caffe_compat.formats.varint import varint

from .building import Built
from .graph import OPSET

__all__ = ["EXTERNAL_ABOVE", "GRAPH", "INITIALIZER", "RAW_DATA", "add_metadata", "field_key", "write_model"]

# Protobuf ends at 2 GiB; beyond, weights are in a file beside the graph's.
EXTERNAL_ABOVE = 2**31 - 2**24
_ALIGNED = 4096

# Field numbers of onnx.proto.
GRAPH, INITIALIZER, _METADATA = 7, 5, 14
_DIMS, _TYPE, _NAME, RAW_DATA = 1, 2, 8, 9
_IR_VERSION = 10  # of ONNX 1.16, which every opset up to 21 goes with

_TYPES: dict[type, int] = {np.float32: 1, np.float16: 10}


def write_model(
    built: Built, path: str, *, name: str, metadata: Mapping[str, str], external_above: int = EXTERNAL_ABOVE
) -> None:
    """Write a graph, and beside it ``<path>.data`` if it is larger than ``external_above`` bytes.

    Raises:
        FileError: it cannot be written.
    """
    shell = _shell(built, name, metadata)
    weights = built.graph.weights
    total = sum(tensor.numel() * np.dtype(kind).itemsize for tensor, kind in weights.values())
    if total + len(shell.graph.SerializeToString()) > external_above:
        _write_external(built, path)
        for key, entry in zip(weights, _external_entries(built, os.path.basename(path) + ".data"), strict=True):
            entry.name = key
            shell.graph.initializer.append(entry)
        with atomic_write(path) as file:
            file.write(shell.SerializeToString())
        return
    heads = [_head(key, tensor, kind) for key, (tensor, kind) in weights.items()]
    sizes = [tensor.numel() * np.dtype(kind).itemsize for tensor, kind in weights.values()]
    framed = [
        field_key(INITIALIZER) + varint(len(head) + len(_raw_key(size)) + size) + head + _raw_key(size)
        for head, size in zip(heads, sizes, strict=True)
    ]
    length = sum(len(frame) + size for frame, size in zip(framed, sizes, strict=True))
    with atomic_write(path) as file:
        file.write(shell.SerializeToString())
        # A second piece of the graph.
        file.write(field_key(GRAPH) + varint(length))
        for frame, (tensor, kind) in zip(framed, weights.values(), strict=True):
            file.write(frame)
            _write_values(file, tensor, kind)


def add_metadata(path: str, key: str, text: str) -> None:
    """Add an entry to the metadata of a file, at its end."""
    from onnx import StringStringEntryProto

    entry = StringStringEntryProto(key=key, value=text).SerializeToString()
    with open(path, "ab") as file:
        file.write(field_key(_METADATA) + varint(len(entry)) + entry)
        file.flush()
        os.fsync(file.fileno())


def _shell(built: Built, name: str, metadata: Mapping[str, str]) -> Any:
    """The model without its weights."""
    from onnx import helper, numpy_helper

    def listed(named: Mapping[str, tuple[type, list[int | str]]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), dims)
            for key, (kind, dims) in named.items()
        ]

    constants = [numpy_helper.from_array(array, key) for key, array in built.graph.constants.items()]
    graph = helper.make_graph(
        built.graph.nodes, name or "net", listed(built.inputs), listed(built.outputs), initializer=constants
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="caffe-compat",
    )
    helper.set_model_props(model, dict(metadata))
    return model


def field_key(number: int) -> bytes:
    """What a field begins with that has a length."""
    return varint(number << 3 | 2)


def _raw_key(size: int) -> bytes:
    return field_key(RAW_DATA) + varint(size)


def _head(name: str, tensor: torch.Tensor, kind: type) -> bytes:
    """A TensorProto but for its values."""
    dims = b"".join(varint(n) for n in tensor.shape)
    text = name.encode()
    packed = field_key(_DIMS) + varint(len(dims)) + dims if dims else b""
    return packed + varint(_TYPE << 3) + varint(_TYPES[kind]) + field_key(_NAME) + varint(len(text)) + text


def _write_values(file: BinaryIO, tensor: torch.Tensor, kind: type) -> None:
    values: Any = np.ascontiguousarray(tensor.detach().cpu().numpy()).astype(kind, copy=False)
    if values.size:
        file.write(memoryview(values.reshape(-1)).cast("B"))


def _places(built: Built) -> Iterator[tuple[int, int]]:
    """Where each weight begins in the file beside the graph's, and how many bytes it has."""
    at = 0
    for tensor, kind in built.graph.weights.values():
        size = tensor.numel() * np.dtype(kind).itemsize
        yield at, size
        at += -(-size // _ALIGNED) * _ALIGNED


def _external_entries(built: Built, location: str) -> list[Any]:
    from onnx import TensorProto

    entries = []
    for (tensor, kind), (offset, size) in zip(built.graph.weights.values(), _places(built), strict=True):
        entry = TensorProto(dims=tensor.shape, data_type=_TYPES[kind], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(size))):
            entry.external_data.add(key=key, value=value)
        entries.append(entry)
    return entries


def _write_external(built: Built, path: str) -> None:
    with atomic_write(f"{path}.data") as file:
        for (tensor, kind), (offset, _) in zip(built.graph.weights.values(), _places(built), strict=True):
            file.seek(offset)
            _write_values(file, tensor, kind)
