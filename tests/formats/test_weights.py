"""Weights files as real Caffe wrote them, written back and read again; and HDF5 that means harm."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat.errors import FileError, WeightsError
from caffe_compat.formats.blob_proto import BlobView
from caffe_compat.formats.files import atomic_write, sha256_of
from caffe_compat.formats.weights import (
    read_binaryproto,
    read_solverstate,
    read_weights,
    write_binaryproto,
    write_caffemodel,
    write_solverstate,
)
from caffe_compat.formats.weights_hdf5 import write_caffemodel_hdf5
from tests.work import within

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
CAFFEMODELS = sorted(REFERENCE.glob("*/*.caffemodel"))
SOLVERSTATES = sorted(REFERENCE.glob("solvers/*.solverstate"))

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.5

# NetParameter { name: "n" layer { name: "a" type: "Scale" bias_term.. (unknown field 200): 1 } }
ONE_LAYER = b"\x0a\x01n" + b"\xa2\x06\x0d" + b"\x0a\x01a" + b"\x12\x05Scale" + b"\xc0\x0c\x01"


def record(values: np.ndarray, diff: np.ndarray | None = None) -> BlobView:
    return BlobView(values.shape, values, diff, (0, 0))


# Files that real Caffe wrote


def test_there_are_reference_files() -> None:
    assert len(CAFFEMODELS) >= 20
    assert len(SOLVERSTATES) >= 15


@pytest.mark.parametrize("path", CAFFEMODELS, ids=lambda p: p.name)
def test_caffemodel_written_back_is_the_same_bytes(path: Path, tmp_path: Path) -> None:
    with read_weights(path) as weights:
        assert weights.kind == "binary"
        assert weights.structure is not None
        write_caffemodel(tmp_path / "out", weights.structure, [layer.blobs for layer in weights.layers])
        assert (tmp_path / "out").read_bytes() == path.read_bytes()
        arrays = [[blob.data for blob in layer.blobs] for layer in weights.layers]
        write_caffemodel(tmp_path / "out", weights.structure, arrays)
        assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", SOLVERSTATES, ids=lambda p: p.name)
def test_solverstate_written_back_is_the_same_bytes(path: Path, tmp_path: Path) -> None:
    state = read_solverstate(path)
    write_solverstate(tmp_path / "out", state.iteration, state.learned_net, state.current_step, state.history)
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


def test_binaryproto_written_back_is_the_same_bytes(tmp_path: Path) -> None:
    path = REFERENCE / "formats" / "mean.binaryproto"
    mean = read_binaryproto(path)
    assert mean.shape == (1, 3, 24, 28)
    assert mean.flags.writeable
    assert mean.flags.aligned
    write_binaryproto(tmp_path / "out", mean)
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("hdf5", "binary"),
    [
        ("formats/v0net.caffemodel.h5", "formats/v0net.upgraded.caffemodel"),
        ("formats/v1net.caffemodel.h5", "formats/v1net.upgraded.caffemodel"),
        ("tiny_mask3d/tiny_mask3d.caffemodel.h5", "tiny_mask3d/tiny_mask3d.caffemodel"),
        ("solvers/adam_hdf5_iter_10.caffemodel.h5", "solvers/adam_iter_10.caffemodel"),
    ],
)
def test_hdf5_holds_what_binary_holds(hdf5: str, binary: str) -> None:
    with read_weights(REFERENCE / hdf5) as ours, read_weights(REFERENCE / binary) as theirs:
        assert ours.kind == "hdf5"
        assert ours.structure is None
        expected = {layer.name: layer.blobs for layer in theirs.layers}
        found = {layer.name: layer.blobs for layer in ours.layers}
        # Caffe inserts splits; HDF5 lists them as layers without blobs.
        assert {name for name in found if "_split" not in name} == {name for name in expected if "_split" not in name}
        count = 0
        for name, blobs in found.items():
            assert len(blobs) == len(expected.get(name, ()))
            for a, b in zip(blobs, expected.get(name, ()), strict=True):
                count += 1
                assert a.shape == b.shape
                assert a.span[1] - a.span[0] == a.data.nbytes  # a view of the file
                np.testing.assert_array_equal(a.data, b.data)
                ours.release(a)
                np.testing.assert_array_equal(a.data, b.data)
        assert count >= 4


def test_hdf5_solverstate_and_back(tmp_path: Path) -> None:
    path = REFERENCE / "solvers" / "adam_hdf5_iter_10.solverstate.h5"
    state = read_solverstate(path)
    assert (state.iteration, state.learned_net, state.current_step) == (10, "adam_hdf5_iter_10.caffemodel.h5", 0)
    binary = read_solverstate(REFERENCE / "solvers" / "adam_iter_10.solverstate")
    for a, b in zip(state.history, binary.history, strict=True):
        np.testing.assert_array_equal(a.data, b.data)

    out = tmp_path / "out.solverstate.h5"
    write_solverstate(out, state.iteration, state.learned_net, state.current_step, state.history)
    assert description(out) == description(path)
    write_solverstate(out, 3, None, 2, [])
    again = read_solverstate(out)
    assert (again.iteration, again.learned_net, again.current_step, again.history) == (3, None, 2, ())


@pytest.mark.parametrize("name", ["formats/v1net", "tiny_mask3d/tiny_mask3d", "solvers/adam_hdf5_iter_10"])
def test_hdf5_written_back_is_the_same_file_to_hdf5(name: str, tmp_path: Path) -> None:
    path = REFERENCE / (name + ".caffemodel.h5")
    with read_weights(path) as weights:
        write_caffemodel_hdf5(tmp_path / "out.h5", [(layer.name, layer.blobs) for layer in weights.layers])
    assert description(tmp_path / "out.h5") == description(path)


def description(path: Path) -> dict[str, tuple]:
    """Every object of an HDF5 file: its stored type, its layout, its values."""
    found: dict[str, tuple] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            found[name] = ()
        else:
            kind = item.id.get_type()
            text = kind.get_strpad() if kind.get_class() == h5py.h5t.STRING else None
            layout = item.id.get_create_plist().get_layout()
            found[name] = (item.shape, item.dtype.str, text, layout, np.asarray(item[()]).tobytes())

    with h5py.File(path) as file:
        file.visititems(visit)
        # The superblock's version: 0 is what the HDF5 of Caffe's time reads.
        found["superblock"] = (file.id.get_create_plist().get_version()[0],)
    return found


# Binary files of our own


def test_blobs_go_where_protobuf_writes_them(tmp_path: Path) -> None:
    write_caffemodel(tmp_path / "out", ONE_LAYER, [[VALUES[0, 0]]])
    blob = b"\x2a\x10" + VALUES[0, 0].tobytes() + b"\x3a\x03\x0a\x01\x04"
    layer = b"\x0a\x01a" + b"\x12\x05Scale" + b"\x3a\x17" + blob + b"\xc0\x0c\x01"
    assert (tmp_path / "out").read_bytes() == b"\x0a\x01n" + b"\xa2\x06\x26" + layer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_any_layout(dtype: type[np.floating], tmp_path: Path) -> None:
    values = VALUES.astype(dtype)
    variants = {
        "transposed": values.transpose(2, 0, 1),
        "strided": values[:, ::2],
        "big-endian": values.astype(values.dtype.newbyteorder(">")),
        "scalar": values[1, 2, 3, ...],
        "empty": values[:, :0],
    }
    write_caffemodel(tmp_path / "a", ONE_LAYER, [list(variants.values())])
    write_caffemodel_hdf5(tmp_path / "b.h5", [("a", list(variants.values()))])
    for name in ("a", "b.h5"):
        (layer,) = read_weights(tmp_path / name).layers
        for blob, expected in zip(layer.blobs, variants.values(), strict=True):
            assert blob.data.size == 0 or blob.data.dtype == np.dtype(dtype).newbyteorder("<")
            assert blob.shape == expected.shape
            np.testing.assert_array_equal(blob.data, expected)


def test_diffs_survive_both_formats(tmp_path: Path) -> None:
    blobs = [record(VALUES, VALUES * 2), record(VALUES.astype("f8"), VALUES.astype("f8") / 3)]
    write_caffemodel(tmp_path / "a", ONE_LAYER, [blobs])
    write_caffemodel_hdf5(tmp_path / "b.h5", [("relu", []), ("a", blobs)])
    for name in ("a", "b.h5"):
        layer = next(x for x in read_weights(tmp_path / name).layers if x.name == "a")
        for found, expected in zip(layer.blobs, blobs, strict=True):
            assert found.diff is not None
            np.testing.assert_array_equal(found.data, expected.data)
            np.testing.assert_array_equal(found.diff, expected.diff)
    with h5py.File(tmp_path / "b.h5") as file:
        assert sorted(file["diff"]) == ["a", "relu"]


def test_binaryproto_of_other_shapes(tmp_path: Path) -> None:
    for values in (VALUES, VALUES.astype("f8"), VALUES[0, 0], VALUES[None]):
        write_binaryproto(tmp_path / "out", values)
        again = read_binaryproto(tmp_path / "out")
        assert again.dtype == values.dtype
        assert again.shape == values.shape
        np.testing.assert_array_equal(again, values)


def test_negative_step(tmp_path: Path) -> None:
    for name in ("a.solverstate", "a.solverstate.h5"):
        write_solverstate(tmp_path / name, 2**31 - 1, "x", -1, [VALUES])
        state = read_solverstate(tmp_path / name)
        assert (state.iteration, state.learned_net, state.current_step) == (2**31 - 1, "x", -1)


def test_writers_refuse_what_caffe_cannot_hold(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    half, integers = VALUES.astype("f2"), VALUES.astype("i4")
    for bad, message in ((half, "array of float16"), (integers, "array of int32")):
        for write in (
            lambda: write_caffemodel(out, ONE_LAYER, [[VALUES, bad]]),  # noqa: B023
            lambda: write_caffemodel_hdf5(out, [("a", [VALUES, bad])]),  # noqa: B023
            lambda: write_solverstate(out, 1, "x", 0, [VALUES, bad]),  # noqa: B023
            lambda: write_solverstate(tmp_path / "out", 1, "x", 0, [VALUES, bad]),  # noqa: B023
        ):
            with pytest.raises(WeightsError, match=f"blob 1: an {message}"):
                write()
    with pytest.raises(WeightsError, match="1 layers, but blobs for 2"):
        write_caffemodel(out, ONE_LAYER, [[VALUES], [VALUES]])
    with pytest.raises(WeightsError, match="1 layers, but blobs for 0"):
        write_caffemodel(out, ONE_LAYER, [])
    write_caffemodel(tmp_path / "full", ONE_LAYER, [[VALUES]])
    with pytest.raises(WeightsError, match="holds blobs already"):
        write_caffemodel(out, (tmp_path / "full").read_bytes(), [[VALUES]])
    for name in ("", "/a", "a/", "a//b", "./a", "a\0b"):
        with pytest.raises(WeightsError, match="cannot hold a layer named"):
            write_caffemodel_hdf5(out, [(name, [VALUES])])
    with pytest.raises(WeightsError, match="two layers named 'a'"):
        write_caffemodel_hdf5(out, [("a", [VALUES]), ("a", [VALUES])])
    with pytest.raises(FileError, match="cannot be written"):
        write_caffemodel_hdf5(out, [("a", [VALUES]), ("a/0", [VALUES])])
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_writing_makes_no_second_copy(tmp_path: Path) -> None:
    one = np.zeros((1 << 20,), np.float32)
    for write in (
        lambda: write_caffemodel(tmp_path / "out", ONE_LAYER, [[one] * 16]),
        lambda: write_caffemodel(tmp_path / "out", ONE_LAYER, [[one.astype(">f4")] + [one] * 15]),
        lambda: write_caffemodel_hdf5(tmp_path / "out", [("a", [one] * 16)]),
    ):
        tracemalloc.start()
        write()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.1 * one.nbytes
        assert (tmp_path / "out").stat().st_size > 16 * one.nbytes


# HDF5 as others lay it out


def test_layer_names_with_slashes(tmp_path: Path) -> None:
    layers = [("conv1", [VALUES]), ("conv1/relu", []), ("res/a/b", [VALUES * 2]), ("res/a", [VALUES * 3, VALUES])]
    write_caffemodel_hdf5(tmp_path / "a.h5", layers)
    found = {layer.name: layer.blobs for layer in read_weights(tmp_path / "a.h5").layers}
    assert sorted(found) == ["conv1", "conv1/relu", "res/a", "res/a/b"]
    for name, blobs in layers:
        for a, b in zip(found[name], blobs, strict=True):
            np.testing.assert_array_equal(a.data, b)


def test_blobs_that_another_layer_owns(tmp_path: Path) -> None:
    write_caffemodel_hdf5(tmp_path / "a.h5", [("owner", [VALUES]), ("sharer", [None, VALUES[0]])])
    _, sharer = read_weights(tmp_path / "a.h5").layers
    assert [blob.is_empty for blob in sharer.blobs] == [True, False]
    np.testing.assert_array_equal(sharer.blobs[1].data, VALUES[0])


def edited(tmp_path: Path, edit: Callable[[h5py.File], object], name: str = "edited.h5") -> Path:
    path = tmp_path / name
    write_caffemodel_hdf5(path, [("conv1", [VALUES, VALUES[0, 0]]), ("ip", [VALUES[0]])])
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", ">f8"])
@pytest.mark.parametrize("options", [{}, {"chunks": (1, 3, 2)}, {"chunks": (2, 3, 4), "compression": "gzip"}])
def test_other_types_and_layouts_are_read(dtype: str, options: dict, tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        file["data/ip"].create_dataset("1", data=VALUES.astype(dtype), **options)

    blob = read_weights(edited(tmp_path, add)).layers[1].blobs[1]
    assert blob.data.dtype == np.dtype(dtype).newbyteorder("<")
    assert not blob.data.flags.writeable
    np.testing.assert_array_equal(blob.data, VALUES)


def test_compact_data_sets_scalars_and_user_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        group = file.create_group("data/ip")
        group["0"] = VALUES
        group["1"] = np.float32(2.5)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(group.id, b"2", h5py.h5t.IEEE_F32LE, space, compact).write(space, space, VALUES[1, 2].copy())
    with path.open("r+b") as raw:
        raw.write(b"anything" * 128)
    (layer,) = read_weights(path).layers
    for blob, expected in zip(layer.blobs, (VALUES, np.float32(2.5), VALUES[1, 2]), strict=True):
        np.testing.assert_array_equal(blob.data, expected)


def soft_link(file: h5py.File) -> None:
    file["data/ip/1"] = h5py.SoftLink("/data/conv1/0")


def soft_group(file: h5py.File) -> None:
    file["data/other"] = h5py.SoftLink("/data/conv1")


def dangling_link(file: h5py.File) -> None:
    file["data/ip/1"] = h5py.SoftLink("/nowhere")


def external_link(file: h5py.File) -> None:
    file["data/ip/1"] = h5py.ExternalLink("/etc/passwd", "/")


def external_root(file: h5py.File) -> None:
    del file["data"]
    file["data"] = h5py.ExternalLink("other.h5", "/data")


def cycle(file: h5py.File) -> None:
    file["data/ip/loop"] = file["data"]


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3, 4), "<f4")
    layout[...] = h5py.VirtualSource("other.h5", "x", (2, 3, 4))
    file["data/ip"].create_virtual_dataset("1", layout)


def external_storage(file: h5py.File) -> None:
    file["data/ip"].create_dataset("1", (100,), "<f4", external=[("/etc/passwd", 0, 400)])


def never_written(file: h5py.File) -> None:
    file["data/ip"].create_dataset("1", (2_500_000_000,), "<f4")


def never_written_chunks(file: h5py.File) -> None:
    file["data/ip"].create_dataset("1", (2_500_000_000,), "<f4", chunks=(1000,))


def one_chunk_written(file: h5py.File) -> None:
    file["data/ip"].create_dataset("1", (2_500_000_000,), "<f4", chunks=(1000,))[:1000] = 1


def bomb(file: h5py.File) -> None:
    file["data/ip"].create_dataset("1", data=np.zeros(1 << 22, "<f4"), chunks=(1 << 22,), compression="gzip")


def huge_chunk(file: h5py.File) -> None:
    options = {"chunks": (1 << 24,), "maxshape": (None,), "compression": "gzip"}
    file["data/ip"].create_dataset("1", (10,), "<f4", **options)[:] = 1


def integers(file: h5py.File) -> None:
    file["data/ip/1"] = np.arange(5)


def strings(file: h5py.File) -> None:
    file["data/ip/1"] = "text"


def compound(file: h5py.File) -> None:
    file["data/ip/1"] = np.zeros(3, [("a", "f4")])


def null_space(file: h5py.File) -> None:
    file["data/ip/1"] = h5py.Empty("f4")


def named_type(file: h5py.File) -> None:
    file["data/ip/1"] = np.dtype("f4")


def no_index(file: h5py.File) -> None:
    file["data/ip/weight"] = VALUES


def padded_index(file: h5py.File) -> None:
    file["data/ip/01"] = VALUES


def huge_index(file: h5py.File) -> None:
    file["data/ip/4096"] = VALUES


def loose_array(file: h5py.File) -> None:
    file["data/5"] = VALUES


def no_data(file: h5py.File) -> None:
    del file["data"]
    file["model_weights/dense/kernel"] = VALUES


def empty_data(file: h5py.File) -> None:
    del file["data"]
    file.create_group("data")


def data_is_array(file: h5py.File) -> None:
    del file["data"]
    file["data"] = VALUES


def wrong_diff(file: h5py.File) -> None:
    file["diff/ip/0"] = VALUES


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (soft_link, "/data/ip/1 is a link to another place"),
        (soft_group, "/data/other is a link to another place"),
        (dangling_link, "/data/ip/1 is a link to another place"),
        (external_link, "/data/ip/1 is a link to another place"),
        (external_root, "/data is a link to another place"),
        (cycle, "group data/ip/loop: linked twice"),
        (virtual, "/data/ip/1 stores its values in other files"),
        (external_storage, "/data/ip/1 stores its values in other files"),
        (never_written, "/data/ip/1 .* declares more bytes than the file holds"),
        (never_written_chunks, "/data/ip/1 .* declares 10000000000 bytes but stores 0"),
        (one_chunk_written, "/data/ip/1 .* declares 10000000000 bytes but stores 4000"),
        (bomb, "/data/ip/1 .* declares 16777216 bytes .*h5repack"),
        (huge_chunk, "/data/ip/1 .* declares 67108864 bytes .*h5repack"),
        (integers, "/data/ip/1 holds int64"),
        (strings, "/data/ip/1 holds object"),
        (compound, "/data/ip/1 holds"),
        (null_space, "/data/ip/1 has no shape"),
        (named_type, "/data/ip/1 is a datatype"),
        (no_index, "/data/ip/weight is no blob"),
        (padded_index, "/data/ip/01 is no blob"),
        (huge_index, "/data/ip/4096: no layer has so many blobs"),
        (loose_array, "/data/5 is no blob"),
        (no_data, r"no group 'data'.*found: model_weights"),
        (empty_data, "no layers in group 'data'"),
        (data_is_array, "/data is a dataset"),
        (wrong_diff, r"layer 'ip', blob 0: data of shape \(3, 4\) but diff of shape \(2, 3, 4\)"),
    ],
)
def test_hdf5_that_caffe_does_not_write(edit: Callable, message: str, tmp_path: Path) -> None:
    path = edited(tmp_path, edit)
    tracemalloc.start()
    with pytest.raises(FileError, match=message) as caught:
        within(5_000, lambda: read_weights(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_hdf5_of_very_many_blobs(tmp_path: Path) -> None:
    """Each layer says by one name that it has 4096 blobs."""

    def flood(file: h5py.File) -> None:
        for k in range(25):
            file[f"data/l{k}/4095"] = VALUES

    with pytest.raises(FileError, match="more than 100000 blobs: not a network"):
        read_weights(edited(tmp_path, flood))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.pop("iter"), "no 'iter'"),
        (lambda f: f.pop("history"), "no 'history'"),
        (lambda f: f["history"].pop("0"), "7 blobs, but none is named 0"),
        (lambda f: f["history"].create_dataset("x", data=1.0), "9 blobs, but none is named 8"),
        (lambda f: (f.pop("iter"), f.create_dataset("iter", data=[1, 2])), "iter is not one integer"),
        (lambda f: (f.pop("iter"), f.create_dataset("iter", data=[1.5])), "iter is not one integer"),
        (lambda f: (f.pop("learned_net"), f.create_dataset("learned_net", data=[1])), "learned_net is not one string"),
        (lambda f: (f.pop("iter"), f.__setitem__("iter", h5py.SoftLink("/current_step"))), "/iter is a link"),
    ],
)
def test_hdf5_solverstate_that_caffe_does_not_write(edit: Callable, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.solverstate.h5"
    path.write_bytes((REFERENCE / "solvers" / "adam_hdf5_iter_10.solverstate.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(FileError, match=message):
        read_solverstate(path)


def test_learned_net_as_other_writers_store_it(tmp_path: Path) -> None:
    path = tmp_path / "a.solverstate.h5"
    write_solverstate(path, 1, None, 0, [VALUES])
    with h5py.File(path, "r+") as file:
        file["learned_net"] = "weights.caffemodel"  # of variable length
    assert read_solverstate(path).learned_net == "weights.caffemodel"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam_hdf5_iter_10.caffemodel.h5", "adam_hdf5_iter_10.solverstate.h5"])
def test_truncated_and_damaged_hdf5(name: str, tmp_path: Path) -> None:
    good = (REFERENCE / "solvers" / name).read_bytes()
    read = read_solverstate if "solverstate" in name else read_weights
    random = np.random.RandomState(len(good))
    path = tmp_path / "a.h5"
    refused = 0
    for i in range(300):
        data = bytearray(good[: random.randint(len(good))] if i % 2 else good)
        if i % 2 == 0:
            for position in random.randint(2500, size=3):  # where the headers are
                data[position] ^= 1 << random.randint(8)
        path.write_bytes(data)
        try:
            within(20_000, lambda: read(path))
        except FileError:
            refused += 1
    assert refused > 150


def test_the_first_bytes_tell_the_format(tmp_path: Path) -> None:
    disguised = tmp_path / "weights.caffemodel"
    write_caffemodel_hdf5(disguised, [("ip", [VALUES])])
    assert read_weights(disguised).kind == "hdf5"
    for read in (read_weights, read_solverstate, read_binaryproto):
        with pytest.raises(FileError, match="No such file"):
            read(tmp_path / "none.h5")
        with pytest.raises(FileError, match="a folder"):
            read(tmp_path)
        if hasattr(os, "mkfifo"):
            (tmp_path / "pipe").unlink(missing_ok=True)
            os.mkfifo(tmp_path / "pipe")
            with pytest.raises(FileError, match="not a regular file"):
                read(tmp_path / "pipe")


# Whole or not at all


def write_half(path: Path) -> None:
    with atomic_write(path) as handle:
        handle.write(b"half")
        raise KeyboardInterrupt


def test_atomic_write_replaces_and_keeps_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as handle:
        handle.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # as any new file's
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.bin", "plain"]


def test_atomic_write_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as handle:
        handle.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_atomic_write_errors(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none" / "a", "no folder"),
        (tmp_path, "it is a folder"),
        (Path(os.devnull), "device"),
    ):
        with pytest.raises(FileError, match=message) as caught, atomic_write(path):
            pass
        assert str(path) in str(caught.value)
    full = OSError(28, "No space left on device")
    with pytest.raises(FileError, match="the disk is full"), atomic_write(tmp_path / "a"):
        raise full
    assert not list(tmp_path.iterdir())


def test_sha256(tmp_path: Path) -> None:
    data = np.random.RandomState(0).bytes(3_000_001)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    with pytest.raises(FileError, match="No such file"):
        sha256_of(tmp_path / "none")


def test_layers_of_both_generations_are_refused(tmp_path: Path) -> None:
    """As in Caffe, of weights as of definitions."""
    old, current = b"\x12\x03\x22\x01a", b"\xa2\x06\x03\x0a\x01b"
    path = tmp_path / "w.caffemodel"
    path.write_bytes(old + current + old)
    said = (
        r"w.caffemodel: holds 2 layers of the old form \(`layers`\) and 1 of the current one \(`layer`\); Caffe refuses"
    )
    with pytest.raises(FileError, match=said):
        read_weights(path)
    for generation in (old, current):
        path.write_bytes(2 * generation)
        assert len(read_weights(path).layers) == 2
