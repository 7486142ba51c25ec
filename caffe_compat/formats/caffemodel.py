"""Caffe's binary networks, ``.caffemodel``, read where they lie.

Only what holds weights is decoded here (layer names, types and blobs); everything else of a network is handed on as
bytes, :attr:`NetFile.structure`, for protobuf to parse without the weights. Blobs are numpy views of the mapped file:
reading a network costs its headers, not its size, and no length is limited to 2 GB.

Field numbers are those of BVLC Caffe 1.0.0's ``caffe.proto``.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_compat.errors import located
from caffe_compat.formats.blob_proto import BlobView, blob_at
from caffe_compat.formats.sizes import MAX_BLOBS, MAX_LAYER_BLOBS, MAX_LAYERS
from caffe_compat.formats.varint import signed, varint
from caffe_compat.formats.wire import BYTES, VARINT, Field, PathOrBuffer, Source

__all__ = ["BLOBS_FIELD", "NET_LAYER", "NET_V1_LAYERS", "V1_V0_LAYER", "LayerRecord", "NetFile", "read_net"]

NET_NAME, NET_V1_LAYERS, NET_LAYER = 1, 2, 100
_NET_WIRE_TYPES = {1: BYTES, 2: BYTES, 3: BYTES, 5: VARINT, 6: BYTES, 7: VARINT, 8: BYTES, 100: BYTES}

# The blobs field of each generation's layer message: V0LayerParameter, V1LayerParameter, LayerParameter.
BLOBS_FIELD = (50, 6, 7)
V1_V0_LAYER = 1


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What a weights file says of one layer.

    ``type`` is a string, or the number of the V1 enum, or None where the file does not say. ``fields`` are the distinct
    field numbers of the layer's message in order of appearance, ``span`` its byte range, ``generation`` 0, 1 or 2 for
    V0LayerParameter, V1LayerParameter and LayerParameter. Bytes of a name that are not UTF-8 read as ``\\xNN``.
    """

    index: int
    name: str
    type: str | int | None
    blobs: tuple[BlobView, ...]
    fields: tuple[int, ...]
    span: tuple[int, int]
    generation: int


class NetFile:
    """A binary network: its layers with their blobs, and everything else as ``structure``.

    ``structure`` is the NetParameter without any blob, unknown fields included. The views in ``layers`` keep the file
    mapped, also after :meth:`close`, for as long as one of them lives.
    """

    __slots__ = ("_layers", "_source", "name", "path", "structure")

    def __init__(self, source: Source, name: str, layers: tuple[LayerRecord, ...], structure: bytes) -> None:
        self._source: Source | None = source
        self._layers: tuple[LayerRecord, ...] | None = layers
        self.path = source.path
        self.name = name
        self.structure = structure

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        if self._layers is None:
            raise ValueError(f"{self.path}: the file was closed")
        return self._layers

    def release(self, blob: BlobView) -> None:
        """Give the memory of a blob's mapped pages back. Its views stay valid: reading them maps the pages again."""
        if self._source is not None:
            self._source.release(*blob.span)

    def close(self) -> None:
        """Forget the file. Views that somebody still holds stay valid."""
        self._source = None
        self._layers = None

    def __enter__(self) -> NetFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_net(file: PathOrBuffer) -> NetFile:
    """Read a ``.caffemodel``. No data page of the file is touched.

    Raises FileError if the file cannot be opened, WireError (with the byte offset) if it is no network.
    """
    source = Source(file)
    source.refuse_foreign_formats("a .caffemodel")
    name = ""
    layers: list[LayerRecord] = []
    structure: list[bytes] = []
    blob_count = 0
    position, end = 0, source.size
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        expected = _NET_WIRE_TYPES.get(number)
        if expected is not None and wire != expected:
            hint = "; a .solverstate or a .binaryproto begins like this" if number == 1 and at == 0 else ""
            raise source.error(f"field {number} of NetParameter has wire type {wire}, not {expected}{hint}", at)
        if number in (NET_LAYER, NET_V1_LAYERS):
            layer, layer_structure = _read_layer(source, len(layers), value, position, 2 if number == NET_LAYER else 1)
            layers.append(layer)
            structure += (varint(number << 3 | BYTES), varint(len(layer_structure)), layer_structure)
            blob_count += len(layer.blobs)
            if len(layers) > MAX_LAYERS or blob_count > MAX_BLOBS:
                raise source.error(f"more than {MAX_LAYERS} layers or {MAX_BLOBS} blobs: not a network", at)
        else:
            if number == NET_NAME:
                name = source.text(value, position)
            structure.append(source.bytes(at, position))
    if not layers:
        raise source.error("no layers: the bytes parse, but they are not the NetParameter of a .caffemodel", 0)
    return NetFile(source, name, tuple(layers), b"".join(structure))


def _read_layer(source: Source, index: int, start: int, end: int, generation: int) -> tuple[LayerRecord, bytes]:
    """One layer message, and its bytes without the blobs."""
    fields, values, blob_ranges, structure = _scan_layer(source, start, end, generation)
    if generation == 2:
        name_at, kind_at = values.get(1), values.get(2)
    elif V1_V0_LAYER in values:
        generation = 0
        _, inner, _, _ = _scan_layer(source, *values[V1_V0_LAYER][1:], 0)
        name_at, kind_at = inner.get(1), inner.get(2)
    else:
        name_at, kind_at = values.get(4), values.get(5)

    name = "" if name_at is None else source.text(*source.expect(name_at, BYTES, f"the name of layer {index}"))
    kind: str | int | None = None
    if kind_at is not None and generation == 1:
        kind = signed(source.expect(kind_at, VARINT, f"the type of layer {name!r}")[0], 32)
    elif kind_at is not None:
        kind = source.text(*source.expect(kind_at, BYTES, f"the type of layer {name!r}"))

    blobs = []
    for i, (first, last) in enumerate(blob_ranges):
        with located(layer=name, index=i):
            blobs.append(blob_at(source, first, last))
    return LayerRecord(index, name, kind, tuple(blobs), tuple(fields), (start, end), generation), structure


def _scan_layer(
    source: Source, start: int, end: int, generation: int
) -> tuple[dict[int, None], dict[int, Field], list[tuple[int, int]], bytes]:
    """A layer message's field numbers, last values, byte ranges of its blobs, and its bytes without those blobs.

    A V1 message may hold a V0 one, whose blobs count as the layer's.
    """
    numbers: dict[int, None] = {}
    values: dict[int, Field] = {}
    blobs: list[tuple[int, int]] = []
    kept: list[bytes] = []
    kept_from = position = start
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        numbers[number] = None
        if number == BLOBS_FIELD[generation]:
            if wire != BYTES:
                raise source.error(f"a blobs field with wire type {wire}, not {BYTES}", at)
            blobs.append((value, position))
            kept.append(source.bytes(kept_from, at))
            kept_from = position
        elif number == V1_V0_LAYER and generation == 1:
            if wire != BYTES:
                raise source.error(f"the V0 layer of a V1 layer has wire type {wire}, not {BYTES}", at)
            if number in values:
                raise source.error("a V1 layer that holds two V0 layers", at)
            _, _, inner_blobs, inner = _scan_layer(source, value, position, 0)
            blobs += inner_blobs
            kept += (source.bytes(kept_from, at), varint(number << 3 | BYTES), varint(len(inner)), inner)
            kept_from = position
        values[number] = (wire, value, position)
        if len(blobs) > MAX_LAYER_BLOBS:
            raise source.error(f"more than {MAX_LAYER_BLOBS} blobs in a layer: not a network", at)
    kept.append(source.bytes(kept_from, end))
    return numbers, values, blobs, b"".join(kept)
