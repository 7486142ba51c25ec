"""A binary network's bytes decoded under a schema."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from ..errors import WireError
from . import Schema
from .infer_text import listed
from .messages import NetParameter

__all__ = ["decode_net", "network_message"]


def network_message(schema: Schema, structure: bytes, path: str | None = None) -> NetParameter:
    """The ``NetParameter`` in ``structure``, read under ``schema``.

    Raises:
        WireError: it does not decode, or lacks a field that must be given: then Caffe refuses it, too.
    """
    try:
        message = schema.message("NetParameter").FromString(structure)
    except DecodeError as error:
        raise WireError(f"does not decode under dialect {schema.name}: {error}", path=path) from error
    if not message.IsInitialized():
        left_out = listed(message.FindInitializationErrors())
        raise WireError(f"leaves out {left_out}, without which dialect {schema.name} refuses the file", path=path)
    return message


def decode_net(structure: bytes, schema: Schema, path: str | None = None) -> NetParameter:
    """The NetParameter in ``structure``, a binary network without its blobs.

    Names that are not UTF-8 (some networks have GBK ones) read with ``\\xNN`` in their place, as in LayerRecord.

    Raises:
        WireError: the bytes do not decode under ``schema``, or lack what must be given.
    """
    net = network_message(schema, structure, path)
    for message in (net, *net.layer, *net.layers, *(layer.layer for layer in net.layers if layer.HasField("layer"))):
        for name in ("name", "type"):
            value = getattr(message, name, None)
            if isinstance(value, bytes):
                setattr(message, name, value.decode("utf-8", "backslashreplace"))
        for name in ("bottom", "top", "input"):
            values: Any = getattr(message, name, ())
            for i, value in enumerate(values):
                if isinstance(value, bytes):
                    values[i] = value.decode("utf-8", "backslashreplace")
    return net
