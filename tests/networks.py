"""Small networks as text, for tests of everything that is not one layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat import CaffeNet
from caffe_compat.formats.varint import varint
from caffe_compat.formats.weights import write_caffemodel
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net


def parse(text: str) -> Any:
    """The current-generation ``NetParameter`` of ``text``."""
    parsed = parse_message(text)
    return upgrade_net(parsed.message, parsed.schema).message


def net_of(text: str, **options: Any) -> CaffeNet:
    """A net without weights: blobs without memory."""
    return CaffeNet(parse(text), **options)


def filled(text: str, **options: Any) -> CaffeNet:
    """A net whose every blob is drawn from (0.2, 1.2), seeded: none is zero, so none can go missing."""
    net = net_of(text, **options).materialize(0)
    rng = np.random.RandomState(5)
    for tensor in {id(t): t for t in net.state_dict().values()}.values():
        tensor.numpy()[...] = rng.uniform(0.2, 1.2, tuple(tensor.shape))
    return net


def input_layer(name: str, *shape: int) -> str:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(name: str, type_: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    """``layer("c", "Concat", "a b", "c")``: names in ``bottoms`` and ``tops`` are separated by blanks."""
    wires = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{type_}"{wires} {more} }}\n'


def ip(name: str, bottom: str, top: str, size: int, more: str = "") -> str:
    return layer(name, "InnerProduct", bottom, top, f"inner_product_param {{ num_output: {size} }} {more}")


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def write_weights(path: Path, layers: Sequence[tuple[str, Sequence[np.ndarray]]], *, legacy: bool = False) -> Path:
    """A caffemodel with these layers, names and blobs only."""
    structure = b"".join(field(100, field(1, name.encode())) for name, _ in layers)
    write_caffemodel(
        path, structure, [[np.asarray(b, np.float32) for b in blobs] for _, blobs in layers], legacy_shapes=legacy
    )
    return path
