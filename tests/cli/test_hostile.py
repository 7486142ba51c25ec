"""Files that mean harm, or make no sense: one clear line, exit status 2, quickly, little memory, nothing left behind.

The commands run in a process of their own (``hostile_worker.py``) with limited memory, a few hundred files per process.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caffe_compat.formats.varint import varint
from caffe_compat.schema.prototxt import parse_message
from tests.networks import field, input_layer, ip, layer, write_weights

HERE = Path(__file__).parent
REFERENCE = HERE.parents[1] / "reference_outputs"
SECONDS = 10.0

# A caffemodel with a network of one Input and one InnerProduct.
NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4)


class Farm:
    """Collects jobs, runs them in one worker, and checks what is true of every job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []

    def path(self, name: str, content: bytes | str) -> Path:
        path = self.folder / f"{len(self.jobs)}-{name}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def add(self, name: str, *arguments: object) -> None:
        """A command; ``OUT`` among its arguments stands for a file in a folder of its own."""
        own = self.folder / f"out{len(self.jobs)}"
        own.mkdir()
        words = [str(own / "result") if a == "OUT" else str(a) for a in arguments]
        self.jobs.append({"name": name, "arguments": words, "folder": str(own)})

    def convert(self, name: str, text: bytes | str, weights: bytes | None = None) -> None:
        """Convert a network that is never so far as to read weights, unless they are given."""
        net = self.path("net.prototxt", text)
        self.add(
            name,
            "convert",
            net,
            self.path("w", b"\x0a\x01n\x12\x00" if weights is None else weights),
            "-o",
            "OUT",
            "--run",
            *(["--fill-missing"] if weights is None else []),
        )

    def run(self) -> list[dict[str, Any]]:
        results = list(self._run())
        assert [r["name"] for r in results] == [job["name"] for job in self.jobs]
        for result in results:
            self._check(result)
        return results

    def _run(self) -> Iterator[dict[str, Any]]:
        worker = subprocess.run(
            [sys.executable, str(HERE / "hostile_worker.py"), str(SECONDS)],
            input=json.dumps(self.jobs), capture_output=True, text=True, check=False,
            timeout=SECONDS * len(self.jobs) + 120, cwd=self.folder,
        )  # fmt: skip
        lines = worker.stdout.splitlines()
        done = len(lines)
        assert worker.returncode == 0, (
            f"the worker died of {self.jobs[min(done, len(self.jobs) - 1)]}:\n{worker.stderr[-3000:]}"
        )
        yield from map(json.loads, lines)

    def _check(self, result: dict[str, Any]) -> None:
        assert result["status"] in (0, 1, 2), result
        if result["status"] == 2:
            assert len(errors_of(result)) == 1, result
            assert result["appeared"] == [], result
        # Besides Python's own modules, only the files of the command.
        own = (
            str(self.folder),
            sys.prefix,
            sys.base_prefix,
            *(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))),
            str(HERE.parents[1]),
            "/proc/",
            "/sys/",
            "/usr/",
            "/etc/localtime",
            "/dev/null",
        )
        assert [path for path in result["opened"] if path.startswith("/") and not path.startswith(own)] == [], result


def errors_of(result: dict[str, Any]) -> list[str]:
    return [line for line in result["stderr"].splitlines() if not line.startswith("warning: ")]


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


# Networks

BIG = 2147483647


def one(type_: str, params: str = "", *shape: int) -> str:
    return input_layer("x", *(shape or (1, 3, 8, 8))) + layer("l", type_, "x", "y", params)


def two(
    type_: str, params: str = "", first: tuple[int, ...] = (1, 3, 8, 8), second: tuple[int, ...] = (1, 3, 4, 4)
) -> str:
    return input_layer("x", *first) + input_layer("z", *second) + layer("l", type_, "x z", "y", params)


def conv(params: str) -> str:
    return one("Convolution", f"convolution_param {{ {params} }}")


def recurrent(type_: str, size: int, *shape: int) -> str:
    return two(type_, f"recurrent_param {{ num_output: {size} }}", shape, shape[:2])


MEMORY = "".join(f"{n}: 4294967295 " for n in ("batch_size", "channels", "height", "width"))
PASSWD = "source: '/etc/passwd' batch_size: 2"
DATA = {"Data": "data_param", "ImageData": "image_data_param", "HDF5Data": "hdf5_data_param"}

# name -> (prototxt, what the error says)
NETWORKS: dict[str, tuple[str, str]] = {
    "empty": ("", "holds no fields"),
    "blank": ("\n", "holds no fields"),
    "no layers": ('name: "n"', "no layer is left"),
    "nothing in this phase": (
        layer("l", "ReLU", "", "", "include { phase: TRAIN }"),
        "no layer is left for phase TEST",
    ),
    "cycle": (layer("a", "ReLU", "b", "a") + layer("b", "ReLU", "a", "b"), "layer 'b' produces it further down"),
    "self": (layer("a", "ReLU", "a", "a"), "bottom 'a' is produced by no layer above it"),
    "dangling": (one("ReLU") + layer("m", "ReLU", "nope", "w"), "layer 'm' .* bottom 'nope' is produced by no layer"),
    "two producers": (one("ReLU") + layer("m", "TanH", "x", "y"), "top 'y' is already produced by layer 'l'"),
    "unknown type": (one("Nope"), "layer 'l': no layer type 'Nope'"),
    "no type": (input_layer("x", 1) + 'layer { name: "l" bottom: "x" top: "y" }', "layer 'l': has no type"),
    "unknown V1 type": ("layers { name: 'a' type: NONE }", "layer 'a': has no type"),
    "both generations": ("layers { name: 'a' type: RELU } " + one("ReLU"), "mixture"),
    "both rules": (one("ReLU", "include { phase: TEST } exclude { phase: TRAIN }"), "include and exclude rules"),
    "three dims": ('input: "x" input_dim: 1 input_dim: 2 input_dim: 3', "need 4 input_dim"),
    "dims of the net": ('input: "x" ' + f"input_dim: {BIG} " * 4 + layer("l", "ReLU", "x", "y"), "Caffe's limit"),
    "negative dim": (one("ReLU", "", 1, -1), "negative dimension"),
    "very negative dim": (one("ReLU", "", -(2**63)), "negative dimension"),
    "huge dim": (one("ReLU", "", 10**12), "Caffe's limit is 2147483647 values"),
    "huge dims": (one("ReLU", "", 2**62, 2**62, 2**62), "Caffe's limit"),
    "huge dims behind a zero": (one("ReLU", "", 0, 2**62, 2**62), "Caffe's limit"),
    "dim beyond 64 bits": (one("ReLU", "", 2**64), "dim takes a number from"),
    "5000 axes": (one("ReLU", "", *[1] * 5000), "has 5000 axes; Caffe's limit is 32"),
    "conv out": (conv(f"num_output: {BIG} kernel_size: 3"), "'l' .*: Caffe's limit"),
    "conv no out": (conv("kernel_size: 3"), "num_output is 0"),
    "conv negative out": (conv("num_output: -4 kernel_size: 3"), "num_output takes a number from 0"),
    "conv group 0": (conv("num_output: 4 kernel_size: 3 group: 0"), "group 0"),
    "conv group": (conv(f"num_output: 4 kernel_size: 3 group: {BIG}"), f"group {BIG}"),
    "conv kernel 0": (conv("num_output: 4 kernel_size: 0"), "kernel_size"),
    "conv kernel": (conv(f"num_output: 4 kernel_size: {BIG}"), "layer 'l' "),
    "conv kernels": (conv("num_output: 4 " + "kernel_size: 3 " * 50), "kernel_size is given 50 times"),
    "conv stride 0": (conv("num_output: 4 kernel_size: 3 stride: 0"), "stride"),
    "conv pad": (conv("num_output: 4 kernel_size: 3 pad: 4294967295"), "layer 'l' "),
    "conv dilation 0": (conv("num_output: 4 kernel_size: 3 dilation: 0"), "dilation"),
    "conv dilation": (conv("num_output: 4 kernel_size: 3 dilation: 4294967295"), "does not fit"),
    "conv axis": (conv("num_output: 4 kernel_size: 3 axis: -9"), "axis -9 is out of range"),
    "conv of 10 axes": (
        one("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }", *[2] * 12),
        "at most 3",
    ),
    "deconv stride": (
        one("Deconvolution", f"convolution_param {{ num_output: 4 kernel_size: 3 stride: {BIG} }}"),
        "'l' ",
    ),
    "im2col": (one("Im2col", "convolution_param { kernel_size: 999 pad: 999 }", 9, 99, 999, 999), "Caffe's limit"),
    "ip out": (one("InnerProduct", f"inner_product_param {{ num_output: {BIG} }}"), "Caffe's limit"),
    "ip of 3 GB": (
        one("InnerProduct", "inner_product_param { num_output: 4000000 }"),
        "layer 'l' .*no memory for 2.9 GiB",
    ),
    "ip axis": (one("InnerProduct", "inner_product_param { num_output: 3 axis: 7 }"), "axis 7"),
    "embed": (one("Embed", f"embed_param {{ num_output: {BIG} input_dim: {BIG} }}"), "layer 'l' "),
    "lstm out": (recurrent("LSTM", BIG, 5, 2, 3), "layer 'l' "),
    "rnn out": (recurrent("RNN", BIG, 5, 2, 3), "layer 'l' "),
    "lstm out 0": (recurrent("LSTM", 0, 5, 2, 3), "num_output must be positive"),
    "lstm no steps": (recurrent("LSTM", 4, 0, 2, 3), "steps > 0"),
    "lstm without cont": (one("LSTM", "recurrent_param { num_output: 4 }", 5, 2, 3), "takes 2 to 5 bottoms, found 1"),
    "tile": (one("Tile", "tile_param { tiles: 1000000000 }"), "Caffe's limit"),
    "tile -1": (one("Tile", "tile_param { tiles: -1 }"), "tiles is -1"),
    "tile axis": (one("Tile", "tile_param { axis: 10 tiles: 2 }"), "axis 10"),
    "reshape two -1": (one("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"), "at most one -1"),
    "reshape -2": (one("Reshape", "reshape_param { shape { dim: -2 } }"), "shape .-2"),
    "reshape overflow": (
        one("Reshape", f"reshape_param {{ shape {{ {'dim: 9223372036854775807 ' * 2} }} }}"),
        "do not fit",
    ),
    "reshape zeros": (one("Reshape", "reshape_param { shape { " + "dim: 0 " * 5 + "} }"), "copies"),
    "reshape 5000": (one("Reshape", "reshape_param { shape { " + "dim: 1 " * 5000 + "} }"), "do not fit"),
    "reshape of nothing": (one("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", 0, 3), "do not fit"),
    "reshape axes": (one("Reshape", "reshape_param { shape { dim: 2 } axis: 1 num_axes: 9 }"), "num_axes 9"),
    "flatten": (one("Flatten", "flatten_param { axis: 3 end_axis: 1 }"), "end_axis 1 lies before axis 3"),
    "slice points": (one("Slice", "top: 'w' slice_param { slice_point: 4294967295 }"), "slice points"),
    "slice falling": (one("Slice", "top: 'v' top: 'w' slice_param { slice_point: 2 slice_point: 1 }"), "slice points"),
    "slice uneven": (one("Slice", "top: 'w'"), "evenly"),
    "dummy": (
        layer("l", "DummyData", "", "y", f"dummy_data_param {{ shape {{ dim: {BIG} dim: {BIG} }} }}"),
        "layer 'l' ",
    ),
    "dummy negative": (layer("l", "DummyData", "", "y", "dummy_data_param { shape { dim: -1 } }"), "negative"),
    "dummy of 8 GB": (
        layer("l", "DummyData", "", "y", "dummy_data_param { shape { dim: 2000000000 } }"),
        "layer 'l' .*memory",
    ),
    "parameter": (
        layer("l", "Parameter", "", "y", "parameter_param { shape { dim: 1000000000000 } }"),
        "Caffe's limit",
    ),
    "concat nothing": (layer("l", "Concat", "", "y"), "takes at least 1 bottoms, found 0"),
    "concat axis": (two("Concat", "concat_param { axis: -9 }"), "axis -9"),
    "concat shapes": (two("Concat"), r"bottom 'z' has shape \[1, 3, 4, 4\]; \(1, any, 8, 8\) was expected"),
    "eltwise shapes": (two("Eltwise"), r"\[1, 3, 8, 8\], as 'x' has, was expected"),
    "crop offset": (two("Crop", "crop_param { offset: 4294967295 }"), "offset 4294967295"),
    "crop negative": (two("Crop", "crop_param { offset: -1 }"), "offset takes a number from 0"),
    "crop larger": (two("Crop", "", (1, 3, 4, 4), (1, 3, 8, 8)), "leaves axis"),
    "spp": (one("SPP", "spp_param { pyramid_height: 100 }"), "too small"),
    "spp 0": (one("SPP", "spp_param { pyramid_height: 0 }"), "pyramid_height is 0"),
    "lrn even": (one("LRN", "lrn_param { local_size: 4 }"), "must be odd"),
    "lrn 0": (one("LRN", "lrn_param { local_size: 0 }"), "must be odd"),
    "lrn within": (one("LRN", "lrn_param { local_size: 4294967295 norm_region: WITHIN_CHANNEL }"), "layer 'l' "),
    "pool kernel": (one("Pooling", "pooling_param { kernel_size: 9 }"), "does not fit"),
    "pool kernel 0": (one("Pooling", "pooling_param { kernel_size: 0 }"), "kernel_size is 0"),
    "pool stride 0": (one("Pooling", "pooling_param { kernel_size: 3 stride: 0 }"), "stride is 0"),
    "pool stride": (one("Pooling", "pooling_param { kernel_size: 3 stride: 4294967295 }"), "layer 'l' "),
    "pool pad": (one("Pooling", f"pooling_param {{ kernel_size: {BIG} pad: {BIG - 1} }}"), "layer 'l' "),
    "pool 7": (one("Pooling", "pooling_param { pool: 7 kernel_size: 2 }"), "none of PoolingParameter.PoolMethod"),
    "pool nothing": (one("Pooling", "pooling_param { global_pooling: true }", 2, 3, 0, 0), "layer 'l' "),
    "softmax axis": (two("SoftmaxWithLoss", "softmax_param { axis: 9 }"), "axis 9"),
    "accuracy top_k": (two("Accuracy", "accuracy_param { top_k: 4294967295 }", (2, 3), (2,)), "top_k 4294967295"),
    "argmax top_k": (one("ArgMax", "argmax_param { top_k: 1000000000 }"), "top_k is 1000000000"),
    "scale num_axes": (one("Scale", "scale_param { num_axes: 9 }"), "num_axes 9"),
    "dropout": (one("Dropout", "dropout_param { dropout_ratio: nan }"), "dropout_ratio is nan"),
    "loss weights": (one("ReLU", "loss_weight: 1 loss_weight: 2"), "has 2 loss weights for 1 tops"),
    "params": (one("ReLU", "param { lr_mult: 1 }"), "has 1 param entries for 0 blobs"),
    "filler": (
        one("InnerProduct", "inner_product_param { num_output: 2 weight_filler { type: '../x' } }"),
        "layer 'l' .*no filler type",
    ),
    "python": (one("Python", "python_param { module: 'this' layer: 'x' }"), "code that comes with the model"),
    "python, imported": (one("Python", "python_param { module: 'os' layer: 'system' }"), "not a class derived from"),
    "python by path": (
        one("Python", "python_param { module: '/etc/passwd' layer: 'x' }"),
        "code that comes with the model",
    ),
    "infogain": (
        two("InfogainLoss", "infogain_loss_param { source: '/etc/passwd' }", (2, 3), (2,)),
        "layer 'l': reads '/etc/passwd'",
    ),
    **{
        f"{type_} of /etc/passwd": (layer("l", type_, "", "x", f"{params} {{ {PASSWD} }}"), "shape of input x")
        for type_, params in DATA.items()
    },
    "memory data": (layer("l", "MemoryData", "", "x", f"memory_data_param {{ {MEMORY} }}"), "Caffe's limit"),
    "nested 10,000 deep": ("layer { " * 10_000, "nested deeper"),
    "nested 10,000 deep in brackets": ("layer < " * 10_000, "nested deeper"),
    "lists in lists": ("layer { bottom: " + "[" * 10_000, "line 1"),
    "unknown fields nested": ("a { " * 10_000 + "} " * 10_000, "nested deeper"),
    "NUL": ('layer { name: "a\0b" }', ""),
    "unfinished": ('layer { name: "', "line 1"),
    "names": (one("ReLU") + layer(r"../../\n\r\033[2J\000", r"Nope\n\033", "y", "w"), "no layer type"),
}


@pytest.mark.slow
def test_networks(farm: Farm) -> None:
    for name, (text, _) in NETWORKS.items():
        farm.convert(name, text)
    for result in farm.run():
        assert result["status"] == 2, result
        assert re.search(NETWORKS[result["name"]][1], errors_of(result)[0]), result
        assert errors_of(result)[0].isprintable()


@pytest.mark.slow
def test_odd_networks_that_caffe_would_run(farm: Farm) -> None:
    odd: dict[str, str | bytes] = {
        "lrn": one("LRN", "lrn_param { local_size: 2147483647 }"),
        "stride": conv("num_output: 2 kernel_size: 3 stride: 4294967295"),
        "concat of 5000": one("ReLU") + layer("c", "Concat", "x " * 5000, "c"),
        "2000 layers": one("ReLU") + "".join(layer(f"l{i}", "ReLU", "y", "y") for i in range(2000)),
        "2000 inputs": "".join(input_layer(f"x{i}", 1) for i in range(2000)),
        "no channels": one("Pooling", "pooling_param { kernel_size: 2 }", 1, 0, 8, 8),
        "a million steps": recurrent("LSTM", 2, 1_000_000, 1, 1),
        "names": one("ReLU") + layer("../../etc/x", "ReLU", "y", "../../w"),
        "byte-order mark": "\ufeff" + one("ReLU"),
        "UTF-16": one("ReLU").encode("utf-16"),
        "file output": one("ReLU")
        + layer("h", "HDF5Output", "y x", "", "hdf5_output_param { file_name: '/nowhere/x' }"),
    }
    for name, text in odd.items():
        net = farm.path("net.prototxt", text)
        farm.add(name, "inspect", net)
        if name != "a million steps":  # which take as long as they take
            farm.add(name, "convert", net, farm.path("w", b"\x0a\x01n\x12\x00"), "-o", "OUT", "--fill-missing")
    for result in farm.run():
        assert result["status"] == 0, result


@pytest.mark.slow
def test_text_that_is_none(farm: Farm) -> None:
    good = one("ReLU")
    for name, content in {
        "UTF-16 without a mark": good.encode("utf-16-le"),
        "damaged UTF-16": good.encode("utf-16")[:-1],
        "UTF-32": good.encode("utf-32"),
        "zeros": bytes(5000),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "JPEG": b"\xff\xd8\xff\xe0" + bytes(range(256)),
        "gzip": b"\x1f\x8b\x08" + bytes(range(255)),
        "zip": b"PK\x03\x04" + bytes(range(255)),
        "ELF": b"\x7fELF" + bytes(60),
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "JSON": b'{"layers": [1, 2]}',
        "noise": random.Random(1).randbytes(3000),
    }.items():
        for command in (["convert"], ["inspect"], ["upgrade"]):
            path = farm.path("file", content)
            farm.add(
                f"{name} {command[0]}",
                *command,
                path,
                *(["-o", "OUT"] if command == ["convert"] else ["OUT"] * (command == ["upgrade"])),
            )
        farm.convert(f"{name} as net", content)
        farm.convert(f"{name} as weights", NET, content)
    for result in farm.run():
        if result["name"] in ("UTF-16 inspect", "UTF-16 upgrade", "UTF-16 as net"):
            assert result["status"] == 0, result
            continue
        assert result["status"] == 2, result
        assert str(farm.folder) in errors_of(result)[0], result


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_text(count: int, farm: Farm) -> None:
    rng = random.Random(count)
    good = (REFERENCE / "tiny_mask3d" / "deploy.prototxt").read_bytes()
    for i in range(count):
        bad = bytearray(good)
        kind = rng.choice(("cut", "flip", "swap", "drop"))
        if kind == "cut":
            del bad[rng.randrange(len(bad)) :]
        for _ in range(rng.choice((1, 3))):
            at = rng.randrange(max(len(bad), 1))
            if kind == "flip" and bad:
                bad[at] ^= 1 << rng.randrange(8)
            elif kind == "drop":
                del bad[at : at + rng.choice((1, 30))]
            elif kind == "swap":
                bad[at : at + 5] = rng.choice((b'"', b"}", b"{", b"999999999999", b"-1", b": 0", b"layer {", b"e400"))
        farm.convert(f"{i} {kind}", bytes(bad))
    farm.run()


# Weights


def blob(shape: Iterable[int], data: bytes) -> bytes:
    """A BlobProto: shape { dim } and packed data."""
    return field(7, field(1, b"".join(varint(d & (1 << 64) - 1) for d in shape))) + field(5, data)


def caffemodel(*blobs: bytes, name: bytes = b"fc") -> bytes:
    return field(1, b"n") + field(
        100, field(1, name) + field(2, b"InnerProduct") + b"".join(field(7, b) for b in blobs)
    )


WEIGHT, BIAS = struct.pack("<12f", *range(12)), struct.pack("<4f", *range(4))
# name -> (bytes, what the error says)
WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "10 GB in 1 KB": (
        caffemodel(blob((50_000, 50_000), bytes(1000)), blob((4,), BIAS)),
        r"\(50000, 50000\)|2500000000",
    ),
    "10 GB, right for nothing": (caffemodel(blob((2**40,), b"")), "."),
    "negative": (caffemodel(blob((-4, -3), WEIGHT), blob((4,), BIAS)), r"impossible shape \(-4, -3\)"),
    "overflow": (caffemodel(blob((2**32, 2**32), WEIGHT), blob((4,), BIAS)), "."),
    "zeros": (caffemodel(blob((0, 3), b""), blob((4,), BIAS)), r"\[0, 3\]"),
    "fewer values": (caffemodel(blob((4, 3), WEIGHT[:-4]), blob((4,), BIAS)), "."),
    "more values": (caffemodel(blob((4, 3), WEIGHT + BIAS), blob((4,), BIAS)), "."),
    "no values": (caffemodel(blob((4, 3), b""), blob((4,), BIAS)), "."),
    "half a value": (caffemodel(blob((4, 3), WEIGHT[:-2]), blob((4,), BIAS)), "."),
    "other shape": (
        caffemodel(blob((3, 4), WEIGHT), blob((4,), BIAS)),
        r"the file has shape \[3, 4\], the net needs \[4, 3\]",
    ),
    "one blob": (caffemodel(blob((4, 3), WEIGHT)), "has 1 blobs, the net needs 2"),
    "three blobs": (caffemodel(*[blob((4, 3), WEIGHT)] * 3), "has 3 blobs, the net needs 2"),
    "100,000 blobs": (caffemodel(*[blob((), b"")] * 4000) * 25, "."),
    "4097 blobs in a layer": (caffemodel(*[blob((), b"")] * 4097), "more than 4096 blobs in a layer"),
    "a million layers": (field(100, b"") * 1_000_000, "."),
    "a length that lies": (b"\xa2\x06" + varint(10**12) + b"abc", "."),
    "a length of 2^64": (b"\xa2\x06" + varint(2**64 - 1) + b"abc", "."),
    "an endless varint": (b"\xa2\x06" + b"\xff" * 100, "."),
    "groups in groups": (b"\x0b" * 100_000, "."),
}


@pytest.mark.slow
def test_weights(farm: Farm) -> None:
    for name, (content, _) in WEIGHTS.items():
        farm.convert(name, NET, content)
    for result in farm.run():
        assert result["status"] == 2, result
        assert re.search(WEIGHTS[result["name"]][1], errors_of(result)[0]), result


@pytest.mark.slow
def test_weights_that_lie_about_nothing(farm: Farm) -> None:
    """The files above, done right: what is refused there is what was changed."""
    farm.convert("good", NET, caffemodel(blob((4, 3), WEIGHT), blob((4,), BIAS)))
    farm.convert("nan", NET, caffemodel(blob((4, 3), struct.pack("<12f", *[float("nan")] * 12)), blob((4,), BIAS)))
    good, nan = farm.run()
    assert good["status"] == nan["status"] == 0
    assert "warning" not in good["stderr"]
    assert "blob 0 (weight) holds values that are not finite (NaN or infinity)" in nan["stderr"]


def damaged(good: bytes, rng: random.Random) -> bytes:
    bad = bytearray(good)
    if rng.random() < 0.3:
        del bad[rng.randrange(len(bad)) :]
        return bytes(bad)
    # Most of the file are numbers; what matters stands near its beginning.
    for _ in range(rng.choice((1, 1, 2, 8))):
        bad[rng.randrange(min(len(bad), rng.choice((60, 600, len(bad)))))] ^= 1 << rng.randrange(8)
    return bytes(bad)


DAMAGED = ["formats/v0net.caffemodel", "formats/v1net.upgraded.caffemodel", "formats/v1net.caffemodel.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [40, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_weights(name: str, count: int, farm: Farm) -> None:
    good, rng = (REFERENCE / name).read_bytes(), random.Random(name)
    net = REFERENCE / "formats" / f"{Path(name).name.split('.')[0]}.prototxt"
    for i in range(count):
        path = farm.path("w", damaged(good, rng))
        farm.add(f"{i} with prototxt", "convert", net, path, "-o", "OUT", "--quiet")
        if not name.endswith("h5"):
            farm.add(f"{i} alone", "convert", path, "-o", "OUT", "--quiet")
        farm.add(f"{i} inspect", "inspect", path)
    statuses = [result["status"] for result in farm.run()]
    assert statuses.count(2) > count // 4


@pytest.mark.slow
def test_hdf5_weights(farm: Farm) -> None:
    layers = "data/fc"
    other = farm.folder / "other.h5"
    with h5py.File(other, "w") as file:
        file["w"] = np.zeros((4, 3), np.float32)

    def plain(file: h5py.File, first: Any = None) -> None:
        file[f"{layers}/1"] = np.zeros(4, np.float32)
        if first is not None:
            file[f"{layers}/0"] = first

    def virtual(file: h5py.File) -> None:
        plain(file)
        layout = h5py.VirtualLayout((4, 3), "f4")
        layout[:] = h5py.VirtualSource(str(other), "w", (4, 3))
        file[layers].create_virtual_dataset("0", layout)

    def external(file: h5py.File) -> None:
        plain(file)
        file[layers].create_dataset("0", (4, 3), "f4", external=[("/etc/passwd", 0, 48)])

    def huge(file: h5py.File) -> None:
        plain(file)
        file[layers].create_dataset("0", (10**7, 10**6), "f4", chunks=(1000, 1000), compression="gzip")

    def circle(file: h5py.File) -> None:
        plain(file)
        file[layers]["0"] = file["data"]

    makers = {
        "external link": lambda file: plain(file, h5py.ExternalLink("other.h5", "w")),
        "external link to a layer": lambda file: file.__setitem__(layers, h5py.ExternalLink("other.h5", "/")),
        "soft link": lambda file: plain(file, h5py.SoftLink("/data/fc/1")),
        "dangling link": lambda file: plain(file, h5py.SoftLink("/nowhere")),
        "circle": circle,
        "virtual": virtual,
        "external": external,
        "huge": huge,
        "text": lambda file: plain(file, np.array([b"a", b"b"])),
        "other shape": lambda file: plain(file, np.zeros((3, 4), np.float32)),
        "no groups": lambda file: file.__setitem__("w", np.zeros(3)),
        "nothing": lambda file: None,
    }
    net = farm.path("net.prototxt", NET)
    for name, make in makers.items():
        path = farm.folder / f"{name}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        farm.add(name, "convert", net, path, "-o", "OUT")
        farm.add(name, "inspect", path)
    for result in farm.run():
        if result["stdout"].startswith(str(farm.folder)):
            continue  # inspect may show what convert refuses, and the links that it did not follow
        assert result["status"] == 2, result
        assert result["name"] in errors_of(result)[0], result


@pytest.mark.slow
def test_recordings(farm: Farm) -> None:
    """Files of recorded outputs, bit by bit."""
    x = np.ones((2, 3), np.float32)
    good = farm.folder / "good.h5"
    with h5py.File(good, "w") as file:
        case = file.create_group("c")
        case.attrs["prototxt"] = NET
        case["bottom/x"], case["top/y"], case["blob/y"] = x, np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
        case["bottom_diff/x"] = x
        mark = file.create_group("d/blob/y")
        mark.attrs["shape"], mark.attrs["mean_std_min_max"] = (2, 4), (0.0, 0.0, 0.0, 0.0)
        mark["values"], mark["positions"] = np.zeros(2, np.float32), np.array([0, 7])
        file["d/bottom/x"] = x
    with h5py.File(farm.folder / "circle.h5", "w") as file:
        file["c/top/a"] = h5py.SoftLink("/c")
        file["c/bottom/b"] = file["c"]
        file["c"].attrs["prototxt"] = NET
    net, rng = farm.path("net.prototxt", NET), random.Random(9)
    for path in [good, farm.folder / "circle.h5"]:
        farm.add(path.name, "verify", "--cases", path)
        farm.add(path.name, "verify", net, "--reference", f"{path}:c")
    for i in range(100):
        path = farm.path("r.h5", damaged(good.read_bytes(), rng))
        farm.add(f"{i} cases", "verify", "--cases", path, "--json")
        farm.add(f"{i} reference", "verify", net, "--reference", f"{path}:{rng.choice('cd')}", "--json")
    farm.run()


@pytest.mark.slow
def test_arrays(farm: Farm) -> None:
    """.npy inputs whose header lies."""
    good = b"\x93NUMPY\x01\x00"

    def npy(header: str, data: bytes = bytes(24)) -> bytes:
        return good + struct.pack("<H", len(header)) + header.encode() + data

    net = farm.path("net.prototxt", NET)
    for name, content in {
        "huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }\n"),
        "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }\n"),
        "text": npy("{'descr': '<U9', 'fortran_order': False, 'shape': (1,), }\n", bytes(36)),
        "brackets": npy("(" * 9000),
        "code": npy("__import__('os').system('touch pwned')"),
        "no header": good,
        "other shape": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n"),
        "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
        "billion pixels": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
        + bytes(4),
    }.items():
        farm.add(name, "run", net, "--input", f"x={farm.path('x.npy', content)}", "-o", "OUT")
    for result in farm.run():
        assert result["status"] == 2, result
    assert not (farm.folder / "pwned").exists()


@pytest.mark.slow
def test_a_good_network_opens_only_its_own_files(farm: Farm) -> None:
    text = NET + layer(
        "loss", "InfogainLoss", "y y", "", "infogain_loss_param { source: '/etc/passwd' } include { phase: TRAIN }"
    )
    weights = write_weights(farm.folder / "w.caffemodel", [("fc", [np.ones((4, 3)), np.ones(4)])])
    net = farm.path("net.prototxt", text)
    farm.add("convert", "convert", net, weights, "-o", "OUT", "--run")
    (result,) = farm.run()
    assert result["status"] == 0
    assert result["appeared"] == ["result"]
    assert {str(net), str(weights)} <= set(result["opened"])


def test_this_file_is_what_it_says() -> None:
    """The texts above are well-formed where they are meant to be: what is wrong with them is what the error says."""
    assert len(parse_message(NET).message.layer) == 2
    assert os.path.exists(HERE / "hostile_worker.py")
