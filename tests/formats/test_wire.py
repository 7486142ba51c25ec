"""Caffe's binary formats byte by byte, and bytes that mean harm."""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import FileError, WireError
from caffe_compat.formats.blob_proto import BlobView, read_blob
from caffe_compat.formats.caffemodel import read_net
from caffe_compat.formats.solverstate import read_solver_state
from caffe_compat.formats.varint import varint
from tests.work import counted, within

REFERENCE = Path(__file__).parents[2] / "reference_outputs"


def key(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def field(number: int, payload: bytes) -> bytes:
    return key(number, 2) + varint(len(payload)) + payload


def integer(number: int, value: int) -> bytes:
    return key(number, 0) + varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def shape(*dims: int) -> bytes:
    return field(7, field(1, b"".join(varint(d & 0xFFFF_FFFF_FFFF_FFFF) for d in dims)))


def floats(number: int, values: np.ndarray) -> bytes:
    return field(number, values.astype(values.dtype.newbyteorder("<")).tobytes())


def layer(*blobs: bytes, name: str = "conv1", extra: bytes = b"") -> bytes:
    payload = field(1, name.encode()) + field(2, b"Convolution") + b"".join(field(7, b) for b in blobs) + extra
    return field(100, payload)


def only_blob(blob: bytes) -> BlobView:
    (view,) = read_net(layer(blob)).layers[0].blobs
    return view


VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.5


# What the fields mean


def test_net_of_three_generations_in_file_order() -> None:
    v0 = field(
        1, field(1, b"old") + field(2, b"conv") + integer(4, 6) + field(50, shape(2) + floats(5, VALUES[0, 0, :2]))
    )
    v1 = field(2, b"in") + field(4, b"middle") + integer(5, 14) + field(6, shape(3) + floats(5, VALUES[0, 1, :3]))
    data = field(1, b"net") + field(2, v0) + field(2, v1) + layer(shape(4) + floats(5, VALUES[1, 0]), name="new")
    net = read_net(data)
    assert net.name == "net"
    assert [(x.index, x.name, x.type, x.generation) for x in net.layers] == [
        (0, "old", "conv", 0),
        (1, "middle", 14, 1),
        (2, "new", "Convolution", 2),
    ]
    assert [x.fields for x in net.layers] == [(1,), (2, 4, 5, 6), (1, 2, 7)]
    for record, expected in zip(net.layers, (VALUES[0, 0, :2], VALUES[0, 1, :3], VALUES[1, 0]), strict=True):
        np.testing.assert_array_equal(record.blobs[0].data, expected)
        start, end = record.blobs[0].span
        assert data[start:end].endswith(expected.tobytes())
    start, end = net.layers[1].span
    assert data[start:end] == v1


def test_structure_is_everything_but_the_blobs() -> None:
    unknown = integer(77, 5) + key(78, 3) + integer(1, 2) + key(78, 4) + key(79, 5) + b"abcd" + key(80, 1) + b"abcdefgh"
    blob = shape(3) + floats(5, VALUES[0, 0, :3])
    padding = field(300, b"x" * 200)  # so that the lengths with and without blobs differ in their number of bytes

    def build(v0: bytes, v1: bytes, v2: bytes) -> bytes:
        old = field(2, field(1, field(1, b"a") + v0 + integer(60, 1)) + field(2, b"bottom"))
        middle = field(2, field(4, b"b") + v1 + integer(30, 1))
        new = field(100, field(1, b"c") + v2 + field(8, b"d") + unknown + padding)
        return field(1, b"net") + old + unknown + middle + field(6, b"\x08\x01") + new + field(3, b"in")

    data = build(field(50, blob), field(6, blob) * 2, field(7, blob) * 50)
    net = read_net(data)
    assert net.structure == build(b"", b"", b"")
    assert [len(x.blobs) for x in net.layers] == [1, 2, 50]
    assert read_net(net.structure).structure == net.structure


def test_fields_of_a_layer_in_any_order() -> None:
    data = field(100, field(7, shape(2) + floats(5, VALUES[0, 0, :2])) + field(2, b"Scale") + field(1, b"late"))
    record = read_net(data).layers[0]
    assert (record.name, record.type, record.fields) == ("late", "Scale", (7, 2, 1))


def test_nameless_and_non_utf8_names() -> None:
    first, second = read_net(field(100, b"") + layer(name="caf\xe9") + b"").layers
    assert (first.name, first.type, first.blobs) == ("", None, ())
    assert second.name == "café"
    assert read_net(field(100, field(1, b"caf\xe9"))).layers[0].name == "caf\\xe9"


# How numbers are stored


@pytest.mark.parametrize(("number", "dtype"), [(5, np.float32), (8, np.float64)])
def test_packed_values_are_views(number: int, dtype: type[np.floating], tmp_path: Path) -> None:
    values = VALUES.astype(dtype)
    path = tmp_path / "a.caffemodel"
    for padding in range(8):  # any alignment
        path.write_bytes(field(1, b"n" * padding) + layer(shape(2, 3, 4) + floats(number, values)))
        view = read_net(path).layers[0].blobs[0]
        assert view.shape == view.data.shape == (2, 3, 4)
        assert view.data.dtype == dtype
        assert not view.data.flags.writeable
        assert not view.data.flags.owndata
        base: Any = view.data
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
        np.testing.assert_array_equal(view.data, values)
        assert view.diff is None


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 1000, 100_000])
@pytest.mark.parametrize(("number", "wire", "dtype"), [(5, 5, "<f4"), (8, 1, "<f8")])
def test_unpacked_values(number: int, wire: int, dtype: str, count: int) -> None:
    values = np.random.RandomState(count).standard_normal(count).astype(dtype)
    stored = b"".join(key(number, wire) + v.tobytes() for v in values)
    for before, after in ((shape(count), b""), (b"", shape(count))):
        view = within(1_000, partial(only_blob, before + stored + after))  # however many values there are
        assert view.data.dtype == dtype
        np.testing.assert_array_equal(view.data, values)
        assert not view.data.flags.writeable


def test_a_value_that_looks_like_a_tag_and_runs_that_stop() -> None:
    tag = key(5, 5)
    values = np.frombuffer(tag * 4 * 3, "<f4")
    stored = b"".join(tag + v.tobytes() for v in values)
    other = key(20, 5) + b"abcd"
    np.testing.assert_array_equal(only_blob(shape(6) + stored + other + stored).data, np.tile(values, 2))


def test_values_in_several_chunks_packed_and_not() -> None:
    flat = VALUES.reshape(-1)
    stored = floats(5, flat[:5]) + floats(5, flat[:0]) + key(5, 5) + flat[5].tobytes() + floats(5, flat[6:])
    view = only_blob(stored + shape(2, 3, 4))
    np.testing.assert_array_equal(view.data, VALUES)


def test_tag_of_more_bytes_than_needed() -> None:
    flat = VALUES.reshape(-1)[:3]
    stored = b"".join(b"\xad\x00" + v.tobytes() for v in flat)
    np.testing.assert_array_equal(only_blob(shape(3) + stored).data, flat)


def test_diffs() -> None:
    view = only_blob(floats(5, VALUES) + floats(6, VALUES * 2) + shape(2, 3, 4))
    np.testing.assert_array_equal(view.diff, VALUES * 2)
    view = only_blob(shape(2, 3, 4) + floats(8, VALUES.astype("f8")) + floats(9, VALUES.astype("f8") * 3))
    assert view.diff is not None
    assert view.diff.dtype == np.float64
    np.testing.assert_array_equal(view.diff, VALUES * 3)
    view = only_blob(shape(2, 3, 4) + floats(6, VALUES))
    assert view.is_empty
    np.testing.assert_array_equal(view.diff, VALUES)


def test_doubles_win_over_floats_as_in_caffe() -> None:
    view = only_blob(shape(2, 3, 4) + floats(5, VALUES) + floats(8, VALUES.astype("f8") + 0.25))
    np.testing.assert_array_equal(view.data, VALUES.astype("f8") + 0.25)


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_raw_data_of_the_nvidia_fork(kind: int, dtype: str) -> None:
    raw = integer(10, kind) + integer(11, kind) + floats(12, VALUES.astype(dtype)) + floats(13, -VALUES.astype(dtype))
    view = only_blob(shape(2, 3, 4) + raw)
    assert view.data.dtype == dtype
    assert not view.data.flags.owndata
    np.testing.assert_array_equal(view.data, VALUES)
    np.testing.assert_array_equal(view.diff, -VALUES)


def test_fields_that_other_forks_put_at_the_numbers_of_raw_data_are_left_alone() -> None:
    mask = floats(10, VALUES) + floats(11, VALUES.astype("f8")) + integer(12, 0)  # Vitis-AI
    kinds = integer(10, 1) + integer(11, 1) + integer(12, 0) + key(13, 5) + b"\0\0\0\0"  # Cambricon
    for other in (mask, kinds, integer(10, 16)):
        np.testing.assert_array_equal(only_blob(floats(5, VALUES) + shape(2, 3, 4) + other).data, VALUES)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (integer(10, 3) + field(12, b"\0" * 96), "raw data of type 3"),
        (integer(10, 2) + field(12, b"\0" * 47), "47 bytes of raw data"),
        (field(11, b"\0" * 96) + integer(13, 1), "bytes in field 11"),
        (field(12, b"\0" * 96), "bytes in field 12"),
        (integer(5, 4) + floats(6, VALUES), "C3D"),
    ],
)
def test_values_that_cannot_be_decoded_are_named(blob: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message) as caught:
        only_blob(shape(2, 3, 4) + blob)
    assert "layer 'conv1', blob 0" in str(caught.value)


# Shapes


def test_two_shapes_that_disagree() -> None:
    legacy = integer(1, 1) + integer(2, 2) + integer(3, 3) + integer(4, 4)
    with pytest.raises(WireError, match=r"its shape is \[2, 12\], .* say \[1, 2, 3, 4\]"):
        only_blob(legacy + floats(5, VALUES) + shape(2, 12))


def test_legacy_shape() -> None:
    legacy = integer(1, 1) + integer(2, 2) + integer(3, 3) + integer(4, 4)
    assert only_blob(legacy + floats(5, VALUES)).shape == (1, 2, 3, 4)
    ones = integer(1, 1) + integer(2, 1) + integer(3, 2) + integer(4, 12)
    assert only_blob(ones + floats(5, VALUES) + shape(2, 12)).shape == (2, 12)
    assert only_blob(legacy + floats(5, VALUES) + field(7, b"")).shape == (1, 2, 3, 4)
    with pytest.raises(WireError, match=r"shape \(0, 0, 0, 24\) needs 0 values, but 24"):
        only_blob(integer(4, 24) + floats(5, VALUES))


def test_unpacked_and_repeated_dims() -> None:
    assert only_blob(field(7, integer(1, 2) + integer(1, 12)) + floats(5, VALUES)).shape == (2, 12)
    assert only_blob(shape(2) + shape(12) + floats(5, VALUES)).shape == (2, 12)


def test_scalar_and_empty_blobs() -> None:
    one = only_blob(floats(5, VALUES.reshape(-1)[:1]))
    assert (one.shape, one.data.shape, one.is_empty) == ((), (), False)
    none = only_blob(shape(3, 4))
    assert (none.shape, none.data.size, none.is_empty) == ((3, 4), 0, True)
    zero = only_blob(shape(3, 0, 4))
    assert (zero.shape, zero.data.shape, zero.is_empty) == ((3, 0, 4), (3, 0, 4), False)
    assert only_blob(b"").is_empty


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((2, 3, 5), r"layer 'conv1', blob 0: shape \(2, 3, 5\) needs 30 values, but 24 are stored"),
        ((2, 3, 3), "needs 18 values, but 24"),
        ((0,), "needs 0 values, but 24"),
        ((-2, -12), r"impossible shape \(-2, -12\)"),
        ((-24,), "impossible shape"),
        ((50_000, 50_000), "impossible shape"),
        ((1 << 62, 1 << 62, 1 << 62), "impossible shape"),
        ((1,) * 33, "more than 32 axes"),
    ],
)
def test_shapes_that_lie(dims: tuple[int, ...], message: str) -> None:
    for blob in (shape(*dims) + floats(5, VALUES), floats(5, VALUES) + shape(*dims)):
        with pytest.raises(WireError, match=message):
            only_blob(blob)


def test_values_without_a_shape() -> None:
    with pytest.raises(WireError, match="names no shape"):
        only_blob(floats(5, VALUES))


def test_diff_of_another_size() -> None:
    with pytest.raises(WireError, match="needs 24 diff values, but 4"):
        only_blob(shape(2, 3, 4) + floats(5, VALUES) + floats(6, VALUES[0, 0]))


# Damaged and hostile bytes


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (layer() + b"\x00\x00", "field number 0", 0),
        (layer() + b"\xff" * 10 + b"\x01", "more than 10 bytes", 0),
        (layer() + key(20, 0) + b"\xff" * 10, "more than 10 bytes", 2),
        (layer() + varint(1 << 34), "field number 2147483648", 0),
        (layer() + key(3, 6), "wire type 6", 0),
        (layer() + key(3, 7), "wire type 7", 0),
        (layer() + key(3, 4), "wire type 4", 0),
        (layer() + key(30, 5) + b"abc", "ends inside field 30", 0),
        (layer() + key(30, 1) + b"abcdefg", "ends inside field 30", 0),
        (layer() + key(30, 0), "ends inside a varint", 2),
        (layer() + key(30, 2), "ends inside a varint", 2),
        (layer() + key(30, 0) + b"\x80", "ends inside a varint", 2),
        (layer() + key(30, 3), "never ends", 0),
        (layer() + key(30, 3) + key(31, 4), "did not begin with", 2),
        (layer() + key(30, 3) + key(31, 3) + key(30, 4) + key(31, 4), "did not begin with", 4),
        (layer() + key(30, 3) + key(0, 3), "field number 0", 2),
        (layer() + key(30, 3) * 101 + key(30, 4) * 101, "deeper than 100", 200),
        (layer() + key(100, 2) + varint(10**10) + b"x" * 900, "declares 10000000000 bytes, but 900 remain", 0),
        (layer() + key(100, 2) + varint((1 << 64) - 1), "declares 18446744073709551615 bytes", 0),
        (layer() + integer(100, 1), "field 100 of NetParameter has wire type 0", 0),
        (layer() + integer(2, 1), "field 2 of NetParameter has wire type 0", 0),
        (layer() + key(7, 5) + b"abcd", "field 7 of NetParameter has wire type 5", 0),
    ],
)
def test_bad_bytes_name_their_place(data: bytes, message: str, offset: int) -> None:
    with pytest.raises(WireError, match=message) as caught:
        read_net(data)
    assert caught.value.offset == len(layer()) + offset
    assert "<bytes>: " in str(caught.value)


def test_groups_are_skipped() -> None:
    group = (
        key(30, 3) + key(31, 3) + field(1, b"x" * 300) + integer(2, 3) + key(31, 4) + key(32, 5) + b"abcd" + key(30, 4)
    )
    deep = key(30, 3) * 100 + key(30, 4) * 100
    data = group + layer(group + shape(2, 3, 4) + deep + floats(5, VALUES), extra=group) + deep
    net = read_net(data)
    np.testing.assert_array_equal(net.layers[0].blobs[0].data, VALUES)
    assert net.structure == group + layer(extra=group) + deep


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (field(1, b"x"), "field 1 .* wire type 2"),
        (key(5, 1) + b"abcdefgh", "field 5 has wire type 1"),
        (key(8, 5) + b"abcd", "field 8 has wire type 5"),
        (key(8, 0) + b"\x01", "field 8 has wire type 0"),
        (integer(7, 3), "its shape has wire type 0"),
        (field(7, key(1, 5) + b"abcd"), "a dim has wire type 5"),
        (field(5, b"abcde"), "5 bytes are no whole number"),
        (field(8, b"abcd"), "4 bytes are no whole number"),
        (floats(5, VALUES[0, 0, :1]) * 5000, "more than 4096 pieces"),
    ],
)
def test_bad_blob_fields(blob: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        only_blob(blob)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (integer(1, 5), "name of layer 0 has wire type 0"),
        (field(1, b"a") + integer(2, 5), "type of layer 'a' has wire type 0"),
        (integer(7, 1), "blobs field with wire type 0"),
    ],
)
def test_bad_layer_fields(payload: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        read_net(field(100, payload))


def test_bad_old_layer_fields() -> None:
    with pytest.raises(WireError, match="V0 layer of a V1 layer has wire type 0"):
        read_net(field(2, integer(1, 3)))
    with pytest.raises(WireError, match="two V0 layers"):
        read_net(field(2, field(1, field(1, b"a")) * 2))
    with pytest.raises(WireError, match="type of layer 'a' has wire type 2"):
        read_net(field(2, field(4, b"a") + field(5, b"x")))


def test_ten_gigabytes_declared_in_one_kilobyte(tmp_path: Path) -> None:
    huge = 10 * 2**30
    path = tmp_path / "a.caffemodel"
    lying = {
        "data": key(5, 2) + varint(huge) + b"\0" * 900,
        "shape": shape(huge // 4) + field(5, b"\0" * 900),
        "nothing stored": shape(huge // 4),
    }
    for blob in lying.values():
        path.write_bytes(layer(blob))
        with pytest.raises(WireError, match=r"a\.caffemodel"):
            within(1_000, lambda: read_net(path))


@pytest.mark.slow
def test_floods_of_empty_messages_are_refused() -> None:
    with pytest.raises(WireError, match="more than 100000 layers"):
        read_net(field(100, b"") * 100_001)
    with pytest.raises(WireError, match="more than 100000 layers or 100000 blobs"):
        read_net(field(100, field(7, b"") * 4096) * 25)
    with pytest.raises(WireError, match="more than 4096 blobs in a layer"):
        read_net(field(100, field(7, b"") * 4097))
    with pytest.raises(WireError, match="more than 100000 history blobs"):
        read_solver_state(integer(1, 5) + field(3, b"") * 100_001)


@pytest.mark.parametrize("name", ["v0net.caffemodel", "v1net.caffemodel", "v1net.upgraded.caffemodel"])
def test_every_damage_reads_or_raises(name: str) -> None:
    good = (REFERENCE / "formats" / name).read_bytes()
    random = np.random.RandomState(zlib.crc32(name.encode()))
    damaged = [good[:n] for n in random.choice(len(good), 300, replace=False)]
    for _ in range(500):
        flipped = bytearray(good)
        for position in random.randint(len(good), size=random.randint(1, 4)):
            flipped[position] ^= 1 << random.randint(8)
        damaged.append(bytes(flipped))
    offsets = []
    for data in damaged:
        try:
            for record in within(20_000, partial(read_net, data)).layers:
                for blob in record.blobs:
                    assert blob.is_empty or blob.data.shape == blob.shape
        except WireError as error:
            offsets.append((error.offset, len(data)))
    assert len(offsets) > 250  # most truncations cannot pass
    assert all(offset is not None and 0 <= offset <= size for offset, size in offsets)


# Files that are something else


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG image"),
        (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
        (b"PK\x03\x04\x14\0", "zip archive"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x80\x02\x8a\x0al", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <html>", "web page"),
        (b'name: "net"\nlayer { name: "a" }\n', r"text; a \.prototxt"),
        (b'# caf\xc3\xa9\nname: "net"\r\n', r"text; a \.prototxt"),
        (b"\xff\xfen\0a\0", "text"),
        (b"\0" * 257 + b"ustar\0", "tar archive"),
    ],
)
def test_other_formats_are_named(head: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.caffemodel"
    path.write_bytes(head)
    for read in (read_net, read_blob, read_solver_state):
        with pytest.raises(WireError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_one_caffe_file_taken_for_another() -> None:
    model = REFERENCE / "solvers" / "adam_iter_10.caffemodel"
    state = REFERENCE / "solvers" / "adam_iter_10.solverstate"
    mean = REFERENCE / "formats" / "mean.binaryproto"
    with pytest.raises(WireError, match=r"a \.solverstate or a \.binaryproto begins like this"):
        read_net(state)
    with pytest.raises(WireError, match=r"a \.solverstate or a \.binaryproto begins like this"):
        read_net(mean)
    with pytest.raises(WireError, match=r"a \.caffemodel begins like this"):
        read_blob(model)
    with pytest.raises(WireError, match=r"a \.caffemodel begins like this"):
        read_solver_state(model)
    with pytest.raises(WireError, match="field 2 of SolverState"):
        read_solver_state(mean)


def test_no_layers_and_no_iteration() -> None:
    with pytest.raises(WireError, match="no layers"):
        read_net(field(1, b"\x01net") + field(3, b"data"))
    with pytest.raises(WireError, match="no iteration"):
        read_solver_state(integer(4, 2))
    with pytest.raises(WireError, match="without values"):
        read_blob(shape(3, 4))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_net(tmp_path / "none.caffemodel")
    with pytest.raises(FileError, match="a folder"):
        read_net(tmp_path)


# Files that real Caffe wrote


def test_mean_image() -> None:
    blob = read_blob(REFERENCE / "formats" / "mean.binaryproto")
    assert blob.shape == (1, 3, 24, 28)
    assert blob.data.dtype == np.float32
    assert blob.data.flat[0] == np.frombuffer(bytes.fromhex("76d4b442"), "<f4")[0]


def test_solver_state() -> None:
    state = read_solver_state(REFERENCE / "solvers" / "adam_iter_10.solverstate")
    assert (state.iteration, state.learned_net, state.current_step) == (10, "adam_iter_10.caffemodel", 0)
    assert [blob.shape for blob in state.history] == [(4, 3, 3, 3), (4,), (5, 64), (5,)] * 2
    assert all(np.all(blob.data >= 0) for blob in state.history[4:])  # second moments


def test_solver_state_keeps_zero_and_skips_the_fields_of_forks() -> None:
    ssd = key(5, 5) + struct.pack("<f", 0.5) + integer(6, 7)
    state = read_solver_state(integer(1, 0) + field(3, shape(2, 3, 4) + floats(5, VALUES)) + integer(4, -1) + ssd)
    assert (state.iteration, state.learned_net, state.current_step) == (0, None, -1)
    np.testing.assert_array_equal(state.history[0].data, VALUES)


# The mapped file


def mapped_kilobytes() -> int | None:
    """Resident pages of mapped files, where the system tells."""
    status = Path("/proc/self/status")
    found = re.search(r"RssFile:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else None


def test_release_and_close(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    values = np.random.RandomState(0).standard_normal((3, 70, 40_000)).astype(np.float32)
    path.write_bytes(layer(shape(3, 70, 40_000) + floats(5, values), shape(2) + floats(5, values[0, 0, :2])))
    with read_net(path) as net:
        blobs = net.layers[0].blobs
        np.testing.assert_array_equal(blobs[0].data, values)
        before = mapped_kilobytes()
        for blob in blobs:
            net.release(blob)
        if before is not None:
            assert before - (mapped_kilobytes() or 0) > 0.9 * values.nbytes / 1024
        np.testing.assert_array_equal(blobs[0].data, values)
    net.release(blobs[0])
    np.testing.assert_array_equal(blobs[0].data, values)
    with pytest.raises(ValueError, match="closed"):
        _ = net.layers


def test_any_buffer() -> None:
    data = layer(shape(2, 3, 4) + floats(5, VALUES))
    for buffer in (data, bytearray(data), memoryview(data)):
        view = read_net(buffer).layers[0].blobs[0].data
        np.testing.assert_array_equal(view, VALUES)
        assert not view.flags.writeable


def test_reading_costs_headers_only(tmp_path: Path) -> None:
    path = tmp_path / "sparse.caffemodel"
    count = 700_000_000  # 2.8 GB of holes: more than 32 bits of length count
    blob = shape(count) + key(5, 2) + varint(4 * count)
    head = field(1, b"big")
    body = field(1, b"fc") + key(7, 2) + varint(len(blob) + 4 * count) + blob
    with path.open("wb") as file:
        file.write(head + key(100, 2) + varint(len(body) + 4 * count) + body)
        file.seek(4 * count - 4, 1)
        file.write(struct.pack("<f", 2.5))
        file.write(layer(shape(2, 3, 4) + floats(5, VALUES), name="after"))
    net = within(1_000, lambda: read_net(path))
    assert net.layers[0].blobs[0].data[-1] == 2.5
    np.testing.assert_array_equal(net.layers[1].blobs[0].data, VALUES)
    assert len(net.structure) < 100


def test_two_thousand_layers() -> None:
    blobs = (
        shape(16, 8, 3, 3) + floats(5, np.zeros(1152, np.float32)),
        shape(16) + floats(5, np.zeros(16, np.float32)),
    )
    few, many = (b"".join(layer(*blobs, name=f"layer{i}") for i in range(count)) for count in (200, 2000))
    net, lines = counted(lambda: read_net(many))
    assert len(net.layers) == 2000
    assert lines < 11 * counted(lambda: read_net(few))[1]  # each layer costs the same
