"""Networks and their weights: what is accepted is surveyed, run, written and read again."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch

import caffe_compat
import converters
from caffe_compat.formats.settings import read_settings
from caffe_compat.formats.weights import read_binaryproto, read_weights, write_binaryproto
from caffe_compat.network.checkpoint import read_checkpoint
from caffe_compat.parity.cases import run_cases
from caffe_compat.reports.inspection import inspect_file
from caffe_compat.reports.recorded import describe_recorded
from caffe_compat.reports.survey import survey_file
from caffe_compat.schema import load_schema
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import parse_message, read_message
from caffe_compat.testing.suite import read_suite
from tests.fuzz import mutators
from tests.fuzz.target import FORMATS, HOSTILE, REFERENCE, Target, contents, small_net

__all__ = ["models"]


def models() -> list[Target]:
    """Definitions, weights, checkpoints, recordings."""
    return [*_definitions(), *_weights(), *_recordings()]


def _definitions() -> list[Target]:
    texts = [FORMATS / "v0net.prototxt", FORMATS / "v1net.prototxt", *sorted(HOSTILE.glob("*.prototxt"))]
    texts.append(REFERENCE / "tiny_mask3d" / "deploy.prototxt")
    proto = b"""syntax = "proto2"; package caffe;
message LayerParameter { optional WarpParameter warp_param = 9001; }
message WarpParameter { enum Mode { A = 0; B = 7; } optional Mode mode = 1 [default = B]; repeated float x = 2; }"""
    suite = b"""[[models]]
prototxt = "a.prototxt"
weights = "a.caffemodel"
reference = "a.h5"
tolerance = 1e-5
devices = ["cpu"]
"""
    return [
        Target("prototxt", "a.prototxt", _network, mutators.of_text, contents(*texts)),
        Target("printing", "a.prototxt", _printed, mutators.of_text, contents(*texts)),
        Target("proto", "a.proto", lambda path: load_schema(str(path)), mutators.of_text, [proto]),
        Target("parity-suite", "parity.toml", read_suite, mutators.of_text, [suite]),
        Target(
            "settings", "a.yml", lambda path: read_settings(path.read_text("utf-8", "replace"), str(path)),
            mutators.of_text, [b"TRAIN:\n  HAS_RPN: True\n  SCALES: [600, 800]\n  BBOX_STDS: (0.1, 0.2)\nEPS: 1e-14\n"],
        ),
    ]  # fmt: skip


def _network(path: Path) -> None:
    survey_file(path.parent, path.name, run=True)
    inspect_file(path)


def _printed(path: Path) -> None:
    """A definition printed is the same definition."""
    read = read_message(path, "NetParameter")
    text = format_message(read.message)
    again = parse_message(text, dialect=read.schema.name)
    assert format_message(again.message) == text


def _weights() -> list[Target]:
    binary = contents(*(FORMATS / f"v{k}net{kind}.caffemodel" for k in (0, 1) for kind in ("", ".upgraded")))
    binary += contents(*sorted(HOSTILE.glob("*.caffemodel")))
    hdf5 = contents(FORMATS / "v0net.caffemodel.h5", FORMATS / "v1net.caffemodel.h5")
    return [
        Target("caffemodel", "a.caffemodel", _filled, mutators.of_wire, binary),
        Target("caffemodel.h5", "a.caffemodel.h5", _filled, mutators.of_hdf5, hdf5),
        Target("safetensors", "a.safetensors", _filled, mutators.of_safetensors, [_exported(".safetensors")]),
        Target("pt", "a.pt", _checkpoint, mutators.of_zip, [_exported(".pt")]),
        Target("mean", "a.binaryproto", _mean, mutators.of_wire, contents(FORMATS / "mean.binaryproto")),
    ]


def _filled(path: Path) -> None:
    """Weights are read, fill a net that runs, and are still what they were."""
    inspect_file(path)
    with read_weights(path) as file:
        before = [[np.asarray(blob.data).tobytes() for blob in layer.blobs] for layer in file.layers]
    net = caffe_compat.load(FORMATS / "v1net.prototxt", path, fill_missing=True)
    net(data=torch.zeros(net.input_shapes["data"]))
    with read_weights(path) as file:
        assert [[np.asarray(blob.data).tobytes() for blob in layer.blobs] for layer in file.layers] == before


def _checkpoint(path: Path) -> None:
    read_checkpoint(path)
    net = caffe_compat.load(path)
    net.run({name: np.zeros(shape, np.float32) for name, shape in net.input_shapes.items()})


def _mean(path: Path) -> None:
    array = read_binaryproto(path)
    write_binaryproto(path.with_name("b"), array)
    np.testing.assert_array_equal(read_binaryproto(path.with_name("b")), array)


@cache
def _exported(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        if suffix == ".pt":
            caffe_compat.save(small_net(), path)
        else:
            converters.export(small_net(), path)
        return path.read_bytes()


def _recordings() -> list[Target]:
    cases, endless = io.BytesIO(), sorted(HOSTILE.glob("reference*.h5"))
    with h5py.File(REFERENCE / "bvlc_layers.h5") as file, h5py.File(cases, "w") as few:
        for name in [*file][:: max(1, len(file) // 3)]:
            file.copy(name, few)
    return [
        Target("reference", "a.h5", _recorded, mutators.of_hdf5, [_reference()]),
        # Of which the HDF5 library itself makes no copy: one keeps it busy for ever.
        Target("reference-bytes", "a.h5", _recorded, mutators.of_bytes, contents(*endless)),
        Target("cases", "a.h5", lambda path: list(run_cases(path)), mutators.of_hdf5, [cases.getvalue()]),
    ]


def _recorded(path: Path) -> None:
    describe_recorded(path)
    caffe_compat.verify(small_net(), path)


def _reference() -> bytes:
    packed = io.BytesIO()
    net = small_net()
    given = {name: np.ones(shape, np.float32) for name, shape in net.input_shapes.items()}
    with h5py.File(packed, "w") as file:
        for name, value in given.items():
            file[f"one/blob/{name}"] = value
        for name, tensor in net.run(given).items():
            file[f"one/blob/{name}"] = tensor.numpy()
    return packed.getvalue()
