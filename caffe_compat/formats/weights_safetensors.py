"""Weights in a ``.safetensors``: a header in JSON, then the arrays, one after the other, which are read where they lie.

The format is described at https://github.com/huggingface/safetensors. Which arrays are a layer's blobs, and in which
order, stands in the metadata, under ``layers``: ``[["conv1", ["conv1.weight", "conv1.bias"]], ...]``. A file without
that, of another program, is taken if no layer has more than a ``weight`` and a ``bias``, whose order is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..errors import FileError
from .blob_proto import BlobView
from .caffemodel import LayerRecord, NetFile
from .sizes import MAX_BLOB_AXES, MAX_LAYERS
from .wire import Source

__all__ = ["Stored", "read_safetensors_net", "write_safetensors"]

# What the format's own reader takes at most.
_MAX_HEADER = 100_000_000
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LAYERS = "layers"


@dataclass(frozen=True)
class Stored:
    """One array as it is written.

    Attributes:
        kind: ``"F32"``, ``"F64"``, ``"F16"`` or ``"BF16"``. data: little-endian, of ``shape``; of ``BF16``, its bits as
            uint16.
    """

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray


def write_safetensors(
    file: BinaryIO,
    arrays: Mapping[str, Stored],
    facts: Mapping[str, str],
    layers: Sequence[tuple[str, Sequence[str]]] | None = None,
) -> None:
    """Write ``arrays`` to an open file.

    Args:
        facts: entries of the metadata. layers: each layer's name, and the names of its blobs in Caffe's order; None for
            arrays that are no blobs.
    """
    told = {} if layers is None else {_LAYERS: json.dumps([list(layer) for layer in layers])}
    header: dict[str, object] = {"__metadata__": {"format": "pt", **facts, **told}}
    at = 0
    for name, stored in arrays.items():
        end = at + stored.data.nbytes
        header[name] = {"dtype": stored.kind, "shape": list(stored.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for stored in arrays.values():
        file.write(np.ascontiguousarray(stored.data).reshape(-1).view(np.uint8).data)


def read_safetensors_net(path: str) -> NetFile:
    """Read the weights in a ``.safetensors``.

    Raises:
        FileError: it is damaged, or does not tell which arrays are the blobs of which layer.
    """
    source = Source(path)
    header, start = _header(source)
    facts = header.pop("__metadata__", {})
    blobs = _blobs(source, header, start)
    records = []
    for index, (layer, names) in enumerate(_layers(facts, blobs, path)):
        if lacking := [name for name in names if name not in blobs]:
            raise FileError(f"its metadata names {lacking[0]!r}, which it does not hold", path=path)
        found = tuple(blobs[name] for name in names)
        records.append(LayerRecord(index, layer, None, found, (), (0, 0), 2))
    return NetFile(source, "", tuple(records), b"")


def _header(source: Source) -> tuple[dict[str, object], int]:
    """The entries of the header, and where the arrays start."""
    size = int.from_bytes(source.bytes(0, 8), "little")
    if source.size < 8 or not 0 < size <= min(_MAX_HEADER, source.size - 8):
        raise FileError("declares a header that does not fit into the file: cut short or damaged", path=source.path)
    try:
        header = json.loads(source.bytes(8, 8 + size), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise FileError(f"has a header that is no JSON of arrays: {error}", path=source.path) from error
    if not isinstance(header, dict):
        raise FileError("has a header that is no table of arrays", path=source.path)
    return header, 8 + size


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _blobs(source: Source, header: Mapping[str, object], start: int) -> dict[str, BlobView]:
    """The arrays, which must fill the file without gaps or overlaps, as the format demands."""
    blobs: dict[str, BlobView] = {}
    at = 0
    try:
        tables = {name: entry for name, entry in header.items() if isinstance(entry, dict)}
        if other := header.keys() - tables.keys():
            raise ValueError(f"{min(other)!r} is no table")
        entries = sorted((e["data_offsets"], name, e["dtype"], e["shape"]) for name, e in tables.items())
        for (begin, end), name, kind, shape in entries:
            if kind not in _WIDTHS:
                raise FileError(f"array {name!r} is of type {kind!r}; {', '.join(_WIDTHS)} are read", path=source.path)
            sizes = tuple(shape)
            if len(sizes) > MAX_BLOB_AXES or any(type(n) is not int or n < 0 for n in (begin, end, *sizes)):
                raise ValueError(f"array {name!r} has shape {shape}")
            if begin != at or end - begin != math.prod(sizes) * _WIDTHS[kind]:
                raise ValueError(f"array {name!r} of shape {list(sizes)} lies at {begin} to {end}")
            blobs[name] = BlobView(
                sizes, _array(source, start + begin, sizes, kind), None, (start + begin, start + end)
            )
            at = end
        if start + at != source.size:
            raise ValueError(f"its arrays end at byte {start + at}, the file at {source.size}")
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"is damaged: {error}", path=source.path) from error
    return blobs


def _array(source: Source, start: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if math.prod(shape) == 0:
        return np.empty(shape, np.float32)
    if start + math.prod(shape) * _WIDTHS[kind] > source.size:
        raise ValueError("an array lies beyond the end: cut short")
    width = _WIDTHS[kind]
    dtype = "<u2" if kind == "BF16" else f"<f{width}"
    values = source.array((start, math.prod(shape), width), dtype)
    if kind == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
        values.flags.writeable = False
    return values.reshape(shape)


def _layers(facts: object, blobs: Mapping[str, BlobView], path: str) -> list[tuple[str, list[str]]]:
    """Each layer with the names of its blobs in Caffe's order."""
    told = facts.get(_LAYERS) if isinstance(facts, dict) else None
    if told is not None:
        try:
            found = [(str(layer), [str(name) for name in names]) for layer, names in json.loads(told)]
        except (TypeError, ValueError, RecursionError) as error:
            raise FileError(f"has metadata that is damaged: {error}", path=path) from error
        if len(found) > MAX_LAYERS:
            raise FileError(f"names {len(found)} layers, more than {MAX_LAYERS}", path=path)
        return found
    layers: dict[str, list[str]] = {}
    for name in blobs:
        layer, _, blob = name.rpartition(".")
        if not layer or blob not in ("weight", "bias"):
            raise FileError(
                f"holds {name!r} and does not say in which order Caffe has the blobs of a layer; files that "
                "caffe-compat convert --format safetensors wrote do",
                path=path,
            )
        layers.setdefault(layer, []).append(name)
    return [(layer, sorted(names, reverse=True)) for layer, names in layers.items()]  # weight before bias
