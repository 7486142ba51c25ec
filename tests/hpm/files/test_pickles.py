"""Pickles of plain arrays are read, everything else is refused, and nothing in a pickle runs."""

from __future__ import annotations

import datetime
import io
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.errors import FileError, WeightsError
from hpm.files.npz import read_npz
from hpm.files.pickles import safe_load
from hpm.files.projector_pickle import is_pickle, read_projector_pickle, write_projector_pickle
from hpm.projector import LAYERS, Affine, Projector


def _values() -> list[object]:
    random = np.random.RandomState(0)
    return [
        random.rand(3, 4).astype(np.float32),
        random.rand(5),
        np.asfortranarray(random.rand(2, 3, 4)),
        np.arange(4, dtype=">i4"),
        np.zeros((0, 3)),
        np.ones(3, bool),
        np.array(["ab", "c"]),
        np.float32(3),
        b"",
        b"ab\xff\n",
        "x\u1234",
        None,
        True,
        10**12,
        -3,
        1.5,
        (1, ("two", 2)),
        {"S1": {"Walk 1": [random.rand(2, 17, 2).astype(np.float32)]}, 7: []},
    ]


def _assert_equal(ours: object, expected: object) -> None:
    assert type(ours) is type(expected)
    if isinstance(expected, np.ndarray):
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
    elif isinstance(expected, (list, tuple)):
        assert isinstance(ours, (list, tuple))
        for a, b in zip(ours, expected, strict=True):
            _assert_equal(a, b)
    elif isinstance(expected, dict):
        assert isinstance(ours, dict)
        assert list(ours) == list(expected)
        _assert_equal(list(ours.values()), list(expected.values()))
    else:
        assert ours == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol(protocol: int) -> None:
    values = _values()
    _assert_equal(safe_load(pickle.dumps(values, protocol)), values)


def test_repeated_values_stay_the_same_objects() -> None:
    array = np.arange(6.0)
    first, second = safe_load(pickle.dumps([array, array]))
    assert first is second


def test_pickle_of_python_2() -> None:
    """As cPickle of Python 2.7 with numpy 1.16 writes ``[np.array([[1, 2.5]], 'f4')]``, protocols 0 and 2."""
    text = (
        b"(lp1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntS'b'\ntRp4\n(I1\n(I1\nI2\ntcnumpy\n"
        b"dtype\np5\n(S'f4'\nI0\nI1\ntRp6\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00 @'\ntba."
    )
    binary = (
        b"\x80\x02]q\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04(K\x01"
        b"K\x01K\x02\x86cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x08\x00\x00\x80?\x00\x00 @tba."
    )
    for data in (text, binary):
        _assert_equal(safe_load(data), [np.array([[1, 2.5]], np.float32)])
        _assert_equal(pickle.loads(data, encoding="latin1"), [np.array([[1, 2.5]], np.float32)])


class _Runs:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], tuple(self.call[1:])


def _hostile() -> dict[str, bytes]:
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
    announced = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return {
        "system": pickle.dumps(_Runs(os.system, "echo ran")),
        "system, text": pickle.dumps([_Runs(os.system, "echo ran")], 0),
        "eval": pickle.dumps(_Runs(eval, "1 + 1")),
        "inside an array": pickle.dumps(np.array([_Runs(os.system, "echo ran")], object)),
        "numpy's own file reader": pickle.dumps(_Runs(np.load, "x.npy")),
        "class instance": pickle.dumps(_Runs(datetime.date, 2020, 1, 1)),
        "inst": b"(S'echo ran'\nios\nsystem\n.",
        "persistent": b"P1\n.",
        "extension": b"\x82\x01.",
        "a bare name": b"cnumpy\nndarray\n.",
        "array without content": announced + b".",
        "too few bytes": announced + b"(K\x01K\x03\x85" + dtype + b"\x89U\x01xtb.",
        "negative shape": announced + b"(K\x01J\xff\xff\xff\xff\x85" + dtype + b"\x89U\x00tb.",
        "structured type": pickle.dumps(np.zeros(2, [("a", "f4")])),
        "dates": pickle.dumps(np.zeros(3, "datetime64[s]")),
        "huge length": b"\x8e" + b"\xff" * 8 + b".",
        "huge bytearray": b"\x96" + struct.pack("<Q", 1 << 40) + b".",
        "huge memo": b"Nr\xff\xff\xff\xff" + b"0.",
        "memo of nothing": b"h\x07.",
        "empty": b"",
        "cut": pickle.dumps(_values())[:-20],
        "nothing left": b".",
        "marks": b"(" * 100_000 + b".",
        "long number": b"I" + b"9" * 100_000 + b"\n.",
        "odd dictionary": b"(K\x01d.",
        "key that is a list": b"}]K\x01s.",
        "text used over and over": b"X"
        + struct.pack("<I", 10_000)
        + b"a" * 10_000
        + b"q\x000"
        + (announced + b"(K\x01M\xc4\x09\x85" + dtype + b"\x89h\x00tb0") * 50
        + b"N.",
        "list used over and over": b"("
        + b"N" * 10_000
        + b"lq\x000"
        + (announced + b"(K\x01M\x10\x27\x85" + dtype.replace(b"f4", b"O8") + b"\x89h\x00tb0") * 50
        + b"N.",
    }


@pytest.mark.parametrize("name", _hostile())
def test_hostile_pickles_are_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileError, match=r"^x\.pkl: (refused|damaged) at byte \d+ of the pickle: ") as caught:
        safe_load(_hostile()[name], path="x.pkl")
    assert len(str(caught.value)) < 300
    assert "ran" not in capfd.readouterr().out


def test_tuples_of_tuples_do_not_grow() -> None:
    """40 levels of pairs of one tuple: 2^40 leaves if anything copied them."""
    value = safe_load(b")" + b"q\x00h\x00\x86" * 40 + b".")
    for _ in range(40):
        assert value[0] is value[1]
        value = value[0]
    assert value == ()


def test_npz_of_dictionaries(tmp_path: Path) -> None:
    positions = {"S1": {"Walking 1": np.arange(24, dtype=np.float32).reshape(2, 4, 3)}, "S9": {}}
    metadata = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [[4, 5], [1, 2]]}
    np.savez_compressed(tmp_path / "d.npz", positions_3d=positions, metadata=metadata, plain=np.eye(3))  # type: ignore[arg-type]
    read = read_npz(tmp_path / "d.npz")
    _assert_equal(read["positions_3d"], positions)
    assert read["metadata"] == metadata
    np.testing.assert_array_equal(read["plain"], np.eye(3))


def test_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.array([_Runs(os.system, "echo ran")], object))
    with pytest.raises(FileError, match=r"d\.npz: x\.npy: refused at byte \d+ of the pickle: it names \w+\.system"):
        read_npz(path)
    path.write_bytes(b"no zip")
    with pytest.raises(FileError, match="no npz file"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x09\x00" + b"\x00" * 20)
    with pytest.raises(FileError, match="no npy array: npy format version"):
        read_npz(path)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6.0))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue()[:-1])
    with pytest.raises(FileError, match="47 bytes for an array of shape"):
        read_npz(path)


def _projector(hidden: int = 5, wide: int = 7) -> Projector:
    draw = torch.Generator().manual_seed(0)
    shapes = (hidden, 48), (48, hidden), (wide, 48), (wide, wide), (wide, wide), (32, wide)
    return Projector(*(Affine(torch.randn(s, generator=draw), torch.randn(s[0], generator=draw)) for s in shapes))


def test_projector_pickle_round_trip(tmp_path: Path) -> None:
    projector, path = _projector(), tmp_path / "model.pkl"
    write_projector_pickle(path, projector)
    again = read_projector_pickle(path)
    for name in LAYERS:
        for ours, theirs in zip(getattr(again, name), getattr(projector, name), strict=True):
            assert torch.equal(ours, theirs)
    # The original's reader: a list, weights transposed, biases between them. Python 3 needs no option for it.
    arrays = pickle.loads(path.read_bytes())
    np.testing.assert_array_equal(arrays[0], pickle.loads(path.read_bytes(), encoding="bytes")[0])
    assert [a.shape for a in arrays[:4]] == [(48, 5), (5,), (5, 48), (48,)]
    np.testing.assert_array_equal(arrays[0], projector.change_tmp.weight.numpy().T)
    assert b"numpy._core" not in path.read_bytes()
    # Nothing in it that Python 2 does not know: protocol 2, and names that it and its numpy had.
    steps = [(code.name, value) for code, value, _ in pickletools.genops(path.read_bytes())]
    assert max(code.proto for code, _, _ in pickletools.genops(path.read_bytes())) == 2
    names = {value for name, value in steps if name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_are_known_by_their_beginning(protocol: int, reference: Path, tmp_path: Path) -> None:
    array = np.zeros(3, np.float32)
    for value in ([array], (array, array, array, array)):
        (tmp_path / "arrays").write_bytes(pickle.dumps(value, protocol))
        assert is_pickle(tmp_path / "arrays")
    folder = reference / "tiny_mask3d"
    for name in ("deploy.prototxt", "tiny_mask3d.caffemodel", "tiny_mask3d.caffemodel.h5"):
        assert not is_pickle(folder / name)


def test_bad_projector_pickles(tmp_path: Path) -> None:
    path, arrays = tmp_path / "model.pkl", _projector().arrays()
    path.write_bytes(pickle.dumps(arrays[:11]))
    with pytest.raises(FileError, match=r"model\.pkl: holds 11 values; 12 arrays were expected"):
        read_projector_pickle(path)
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(FileError, match="holds a dict; 12 arrays"):
        read_projector_pickle(path)
    path.write_bytes(pickle.dumps([*arrays[:3], arrays[3].astype(int), *arrays[4:]]))
    with pytest.raises(FileError, match=r"value 4 \(change bias\) is a ndarray; an array of floats"):
        read_projector_pickle(path)
    path.write_bytes(pickle.dumps([arrays[0] * np.nan, *arrays[1:]]))
    with pytest.raises(FileError, match=r"value 1 \(change_tmp weight\) has values that are not finite"):
        read_projector_pickle(path)
    path.write_bytes(pickle.dumps([arrays[0].T.copy(), *arrays[1:]]))
    with pytest.raises(WeightsError, match="layer 'change_tmp': a weight of"):
        read_projector_pickle(path)
