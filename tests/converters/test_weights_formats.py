"""Weights written as ``.safetensors``, ``.caffemodel`` and ``.caffemodel.h5``, and read back."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import caffe_compat
import converters
from caffe_compat import CaffeNet, FileError, NetworkError, ParityError, UsageError, WeightsError
from caffe_compat.errors import CaffeCompatWarning
from caffe_compat.formats.sniff import FileKind, kind_of
from caffe_compat.formats.weights import read_weights
from caffe_compat.schema.printing import format_message
from tests.network import small_networks
from tests.networks import filled, input_layer, ip, layer

FORMATS = (".safetensors", ".caffemodel", ".caffemodel.h5")
NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4) + layer("r", "ReLU", "y", "z")


def _text(net: CaffeNet, folder: Path) -> Path:
    path = folder / "net.prototxt"
    path.write_text(format_message(net.message), encoding="utf-8")
    return path


def _equal(net: CaffeNet, other: CaffeNet) -> None:
    ours, theirs = net.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor.float(), theirs[name]), name


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["RESNET", "RECURRENT", "SSD"])
def test_weights_come_back_bit_by_bit(suffix: str, name: str, tmp_path: Path) -> None:
    dialect = "weiliu89/caffe@ssd" if name == "SSD" else None
    net = small_networks.drawn(getattr(small_networks, name), dialect)
    converters.export(net, tmp_path / f"w{suffix}")
    _equal(net, caffe_compat.load(_text(net, tmp_path), tmp_path / f"w{suffix}", dialect=dialect))
    if suffix == ".caffemodel":
        _equal(net, caffe_compat.load(tmp_path / f"w{suffix}", dialect=dialect))


@pytest.mark.parametrize("net_name", ["v0net", "v1net"])
@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_files_have_the_structure_of_real_ones(net_name: str, suffix: str, reference: Path, tmp_path: Path) -> None:
    """What real Caffe upgraded and stored, loaded and written, is laid out as it was."""
    folder = reference / "formats"
    stored = folder / f"{net_name}{'.upgraded' if suffix == '.caffemodel' else ''}{suffix}"
    net = caffe_compat.load(folder / f"{net_name}.prototxt", stored)
    converters.export(net, tmp_path / f"w{suffix}")
    with read_weights(stored) as real, read_weights(tmp_path / f"w{suffix}") as ours:
        assert [layer.name for layer in ours.layers if layer.blobs] == [
            layer.name for layer in real.layers if layer.blobs
        ]
        for mine, theirs in zip(ours.layers, real.layers, strict=True):
            for a, b in zip(mine.blobs, theirs.blobs, strict=True):
                assert a.shape == b.shape
                assert (a.data == b.data).all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_fine_tuned_and_cast_nets(suffix: str, tmp_path: Path) -> None:
    net = filled(NET)
    with torch.no_grad():
        net.fc.weight.mul_(-3)
    half = filled(NET)
    half.load_state_dict(net.state_dict())
    converters.export(half.half(), tmp_path / f"w{suffix}")
    loaded = caffe_compat.load(_text(net, tmp_path), tmp_path / f"w{suffix}")
    assert torch.equal(loaded.fc.weight, net.fc.weight.half().float())


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_an_edited_net_must_fit_its_definition(suffix: str, tmp_path: Path) -> None:
    net = filled(NET)
    net.fc = nn.Linear(3, 4)
    converters.export(net, tmp_path / f"w{suffix}")
    loaded = caffe_compat.load(_text(net, tmp_path), tmp_path / f"w{suffix}")
    assert torch.equal(loaded.fc.weight, net.fc.weight)
    net.fc = nn.Linear(3, 9)
    expected = r"'fc' \(InnerProduct\): has blobs weight \[9, 3\], bias \[9\], and by the definition .*weight \[4, 3\]"
    with pytest.raises(NetworkError, match=expected):
        converters.export(net, tmp_path / f"other{suffix}")
    assert not (tmp_path / f"other{suffix}").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_are_read_by_their_own_library(dtype: str, tmp_path: Path) -> None:
    net = small_networks.drawn(small_networks.RESNET)
    converters.export(net, tmp_path / "w.safetensors", dtype=dtype)
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(net.state_dict())
        for name, tensor in net.state_dict().items():
            kind = torch.float32 if name.endswith(("mean", "variance", "scale_factor")) else getattr(torch, dtype)
            assert torch.equal(file.get_tensor(name), tensor.to(kind))
        assert file.metadata()["network"] == "ResNet-8"
        assert ["bn1", ["bn1.mean", "bn1.variance", "bn1.scale_factor"]] in json.loads(file.metadata()["layers"])
    loaded = caffe_compat.load(_text(net, tmp_path), tmp_path / "w.safetensors")
    assert torch.equal(loaded.res1.weight, net.res1.weight.to(getattr(torch, dtype)).float())


def test_files_of_other_programs(tmp_path: Path) -> None:
    """Weights and biases alone have an order that everybody knows; anything else is not guessed."""
    net = filled(NET)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    assert kind_of(tmp_path / "w.safetensors") is FileKind.SAFETENSORS
    _equal(net, caffe_compat.load(_text(net, tmp_path), tmp_path / "w.safetensors"))
    safetensors.torch.save_file({"bn.running_mean": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match=r"'bn.running_mean' and does not say in which order"):
        read_weights(tmp_path / "w.safetensors")
    converters.export(net, tmp_path / "v.safetensors")
    with pytest.raises(UsageError, match="pass the prototxt too"):
        caffe_compat.load(tmp_path / "v.safetensors")


def _file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 99) + b"{}", "a header that does not fit"),
        (struct.pack("<Q", 2**31) + b"{" + b"x" * 99, "a header that does not fit"),
        (_file(b"{nonsense"), "no JSON"),
        (_file(b'{"a.weight": 1, "a.weight": 2}'), "stands in it twice"),
        (_file(b"{" + b'"a":' + b"[" * 100000), "no JSON"),
        (_file({"a.weight": F32}, b"\0" * 7), "is damaged|cut short"),
        (_file({"a.weight": F32}, b"\0" * 9), "its arrays end at"),
        (_file({"a.weight": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12), "lies at 4 to 12"),
        (_file({"a.weight": F32, "b.weight": F32}, b"\0" * 8), "'b.weight' of shape"),
        (_file({"a.weight": {**F32, "shape": [-2]}}, b"\0" * 8), r"shape \[-2\]"),
        (_file({"a.weight": {**F32, "shape": [2.0]}}, b"\0" * 8), "has shape"),
        (_file({"a.weight": {**F32, "shape": [True, 2]}}, b"\0" * 8), "has shape"),
        (_file({"a.weight": {**F32, "dtype": "I64"}}, b"\0" * 8), "of type 'I64'"),
        (_file({"a.weight": {"dtype": "F32"}}, b"\0" * 8), "is damaged"),
        (_file({"a.weight": F32, "__metadata__": {"layers": "[[1]]"}}, b"\0" * 8), "metadata that is damaged"),
        (
            _file({"a.weight": F32, "__metadata__": {"layers": '[["a", ["b"]]]'}}, b"\0" * 8),
            "'b', which it does not hold",
        ),
    ],
)
def test_damaged_and_hostile_safetensors(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=message):
        read_weights(tmp_path / "w.safetensors")


def test_two_layers_of_one_name_cannot_be_told_apart(tmp_path: Path) -> None:
    net = filled(input_layer("x", 2, 3) + ip("fc", "x", "y", 3) + ip("fc", "y", "z", 3))
    with pytest.raises(NetworkError, match=r"'fc'.*two layers with weights have this name"):
        converters.export(net, tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_reads_back_otherwise_is_not_kept(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "converters.safetensors" if suffix == ".safetensors" else "converters.caffemodel"
    writer = "write_safetensors" if suffix == ".safetensors" else "write_model"
    original = getattr(sys.modules[module], writer)

    def wrong(*arguments: Any, **options: Any) -> None:
        changed = filled(NET)
        if suffix == ".safetensors":
            arrays = {name: replace(stored, data=stored.data + 1) for name, stored in arguments[1].items()}
            original(arguments[0], arrays, *arguments[2:])
        else:
            changed.fc.weight.data[0, 0] += 1
            original(arguments[0], changed, **options)

    monkeypatch.setattr(sys.modules[module], writer, wrong)
    with pytest.raises(ParityError, match="blob 0 of layer 'fc' reads back otherwise"):
        converters.export(filled(NET), tmp_path / f"w{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_caffemodel_that_caffe_could_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["converters.caffemodel"], "LARGEST", 63)  # 4 * (3 * 4 + 4) bytes are needed
    with pytest.raises(NetworkError, match=r"take 64 bytes, and of a \.caffemodel Caffe reads 63.*write a .*\.h5"):
        converters.export(filled(NET), tmp_path / "w.caffemodel")
    converters.export(filled(NET), tmp_path / "w.caffemodel.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["w.caffemodel.h5"]


def test_blobs_of_safetensors_that_are_wrong_missing_or_left_over_are_named(tmp_path: Path) -> None:
    net = filled(NET)
    path = tmp_path / "w.safetensors"
    converters.export(filled(NET.replace("num_output: 4", "num_output: 5")), path)
    with pytest.raises(WeightsError, match=r"w\.safetensors: layer 'fc'.* \[5, 3\], the net needs \[4, 3\]"):
        caffe_compat.load(_text(net, tmp_path), path)
    converters.export(filled(NET.replace('"fc"', '"other"')), path)
    with pytest.raises(WeightsError, match=r"w\.safetensors: has no weights for layer 'fc'"):
        caffe_compat.load(_text(net, tmp_path), path)
    with pytest.warns(CaffeCompatWarning) as told:
        caffe_compat.load(_text(net, tmp_path), path, fill_missing=True)
    assert [str(one.message).partition("w.safetensors ")[2] for one in told] == [
        "has no weights for layer 'fc': they keep their initial values, as in Caffe",
        "has weights for layer 'other', which the net does not use",
    ]
    safetensors.torch.save_file({"fc.weight": torch.ones(4, 3)}, path)
    with pytest.raises(WeightsError, match=r"layer 'fc'.*has 1 blobs, the net needs 2 \(weight, bias\)"):
        caffe_compat.load(_text(net, tmp_path), path)
