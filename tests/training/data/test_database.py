"""Data: LMDB and LevelDB, every kind of datum, and databases that are damaged."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError, LayerError, MissingExtraError
from caffe_compat.schema import load_schema
from tests.training.data.helpers import OUTPUTS, source_of

DATUM = load_schema().message("Datum")
IMAGES = [np.random.RandomState(i).randint(0, 256, (5, 7, 3)).astype(np.uint8) for i in range(7)]


def raw(i: int) -> bytes:
    image = IMAGES[i]
    return DATUM(
        channels=3, height=5, width=7, data=image.transpose(2, 0, 1).tobytes(), label=i * 3
    ).SerializeToString()


def write_lmdb(path: Path, values: list[bytes]) -> None:
    import lmdb

    with lmdb.open(str(path), map_size=2**22) as database, database.begin(write=True) as transaction:
        for i, value in enumerate(values):
            transaction.put(f"{i:08d}".encode(), value)


def write_leveldb(path: Path, values: list[bytes]) -> None:
    import plyvel

    database = plyvel.DB(str(path), create_if_missing=True)
    for i, value in enumerate(values):
        database.put(f"{i:08d}".encode(), value)
    database.close()


def net(
    settings: str = "batch_size: 2", transform: str = "", backend: str = "LMDB", tops: str = 'top: "data" top: "label"'
) -> str:
    return (
        f'layer {{ name: "d" type: "Data" {tops} transform_param {{ {transform} }} '
        f'data_param {{ source: "db" backend: {backend} {settings} }} }}'
    )


@pytest.mark.parametrize(("backend", "write"), [("LMDB", write_lmdb), ("LEVELDB", write_leveldb)])
def test_records_in_order_and_round_again(backend: str, write: Any, tmp_path: Path) -> None:
    write(tmp_path / "db", [raw(i) for i in range(7)])
    source = source_of(net("batch_size: 3", backend=backend), tmp_path)
    assert source.shapes() == {"data": (3, 3, 5, 7), "label": (3,)}
    for k in (4, 0, 2):
        batch = source.batch(k)
        for j in range(3):
            i = (3 * k + j) % 7
            np.testing.assert_array_equal(batch["data"][j], IMAGES[i].transpose(2, 0, 1))
            assert batch["label"][j] == i * 3


def test_ranks_take_turns_record_by_record(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(i) for i in range(7)])
    for rank in range(3):
        source = source_of(net(), tmp_path, "TRAIN", rank=rank, world_size=3)
        labels = [int(x) for k in range(4) for x in source.batch(k)["label"]]
        assert labels == [(j * 3 + rank) % 7 * 3 for j in range(8)]
        test = source_of(net(), tmp_path, "TEST", rank=rank, world_size=3)
        assert test.batch(0)["label"].tolist() == [0, 3]


def test_two_layers_share_a_database(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(i) for i in range(7)])
    first, second = source_of(net(), tmp_path), source_of(net(), tmp_path)
    assert (first.batch(0)["data"] == second.batch(0)["data"]).all()


def test_encoded_and_float_datums(tmp_path: Path) -> None:
    png = bytes(cv2.imencode(".png", IMAGES[0])[1])
    gray = bytes(cv2.imencode(".png", IMAGES[0][:, :, 0])[1])
    values = np.linspace(-3, 3, 2 * 3 * 5).astype(np.float32)
    write_lmdb(
        tmp_path / "db",
        [
            DATUM(encoded=True, data=png, label=1).SerializeToString(),
            DATUM(encoded=True, data=gray, label=2).SerializeToString(),
            DATUM(channels=2, height=3, width=5, float_data=values, label=-4).SerializeToString(),
        ],
    )
    plain = source_of(net("batch_size: 1"), tmp_path)
    np.testing.assert_array_equal(plain.batch(0)["data"][0], IMAGES[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(plain.batch(1)["data"][0, 0], IMAGES[0][:, :, 0])
    np.testing.assert_array_equal(plain.batch(2)["data"][0], values.reshape(2, 3, 5))
    assert plain.batch(2)["label"].tolist() == [-4]
    scaled = source_of(net("batch_size: 1", "mean_value: 128 scale: 0.00390625 crop_size: 3"), tmp_path)
    expected = (values.reshape(2, 3, 5)[:, :, 1:4] - np.float32(128)) * np.float32(0.00390625)
    np.testing.assert_array_equal(scaled.batch(2)["data"][0], expected)
    color = source_of(net("batch_size: 1", "force_color: true"), tmp_path).batch(1)["data"][0].numpy()
    np.testing.assert_array_equal(color, np.stack([IMAGES[0][:, :, 0]] * 3))
    as_gray = source_of(net("batch_size: 1", "force_gray: true"), tmp_path).batch(0)["data"][0, 0].numpy()
    np.testing.assert_array_equal(as_gray, cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE))


def test_pixels_and_floats_in_one_batch(tmp_path: Path) -> None:
    values = np.linspace(-3, 3, 3 * 5 * 7).astype(np.float32)
    floats = DATUM(channels=3, height=5, width=7, float_data=values, label=9).SerializeToString()
    write_lmdb(tmp_path / "db", [raw(0), floats, raw(1)])
    source = source_of(net("batch_size: 3", "mean_value: 7 scale: 0.1"), tmp_path)
    planes = [IMAGES[0].transpose(2, 0, 1), values.reshape(3, 5, 7), IMAGES[1].transpose(2, 0, 1)]
    for got, expected in zip(source.batch(0)["data"], planes, strict=True):
        exact = (expected.astype(np.float32) - np.float32(7)) * np.float32(0.1)
        np.testing.assert_array_equal(got, exact)


def test_mirrored_raw_planes(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(2)])
    batch = source_of(net("batch_size: 30", "mirror: true"), tmp_path).batch(0)["data"].numpy()
    planes = IMAGES[2].transpose(2, 0, 1)
    flips = [np.array_equal(one, planes[:, :, ::-1]) for one in batch]
    assert all(flip or np.array_equal(one, planes) for flip, one in zip(flips, batch, strict=True))
    assert 0 < sum(flips) < 30


def test_without_labels(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(0)])
    assert list(source_of(net(tops='top: "data"'), tmp_path).batch(0)) == ["data"]


def test_a_source_survives_pickling(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(i) for i in range(7)])
    source = source_of(net(transform="mirror: true"), tmp_path)
    expected = source.batch(1)["data"]
    assert (pickle.loads(pickle.dumps(source)).batch(1)["data"] == expected).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xff\xff\xff", r"record 1 \(key '00000001'\): is no Datum"),
        (
            DATUM(channels=3, height=5, width=8, data=b"x" * 105).SerializeToString(),
            r"record 1 .* 105 values for .*\[3, 5, 8\]",
        ),
        (DATUM(label=1).SerializeToString(), r"record 1 .*0 values"),
        (DATUM(channels=-1, height=-1, width=1, data=b"x").SerializeToString(), r"record 1 .*1 values"),
        (DATUM(encoded=True, data=b"no image").SerializeToString(), "record 1 .*is no image that OpenCV can decode"),
    ],
)
def test_damaged_records(value: bytes, message: str, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(0), value])
    source = source_of(net("batch_size: 1"), tmp_path)
    source.batch(0)
    with pytest.raises(FileError, match=f"db: {message}"):
        source.batch(1)


@pytest.mark.parametrize("keep", [0, 10, 4096, 8192, 12000])
def test_a_truncated_lmdb(keep: int, tmp_path: Path) -> None:
    shutil.copytree(OUTPUTS / "formats" / "datum_lmdb", tmp_path / "db")
    file = tmp_path / "db" / "data.mdb"
    file.chmod(0o644)
    assert file.stat().st_size > keep
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"db"):
        source_of(net(), tmp_path)


def test_what_is_no_lmdb(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="db: there is no such database"):
        source_of(net(), tmp_path)
    (tmp_path / "db").mkdir()
    with pytest.raises(FileError, match="db: LMDB cannot read it"):
        source_of(net(), tmp_path)
    (tmp_path / "db" / "data.mdb").write_bytes(b"\0garbage" * 2000)
    with pytest.raises(FileError, match="db: LMDB cannot read it"):
        source_of(net(), tmp_path)
    shutil.rmtree(tmp_path / "db")
    write_lmdb(tmp_path / "db", [])
    with pytest.raises(FileError, match="db: is empty"):
        source_of(net(), tmp_path)


def test_what_is_no_leveldb(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(FileError, match="db: LevelDB cannot open it"):
        source_of(net(backend="LEVELDB"), tmp_path)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "db").mkdir()
    for backend, module, extra in (("LMDB", "lmdb", "lmdb"), ("LEVELDB", "plyvel", "leveldb")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"caffe-compat\[{extra}\]"):
            source_of(net(backend=backend), tmp_path)


def test_settings(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(0)])
    with pytest.raises(LayerError, match="batch_size is 0"):
        source_of(net(""), tmp_path)
    assert any(
        "rand_skip has no effect" in note for note in source_of(net("batch_size: 1 rand_skip: 3"), tmp_path).notes
    )
    assert source_of(net("batch_size: 1 prefetch: 9"), tmp_path).prefetch == 9


def test_raw_images_keep_their_channels(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [raw(0), raw(1)])
    plain, forced = (source_of(net("batch_size: 2", text), tmp_path) for text in ("", "force_gray: true"))
    np.testing.assert_array_equal(forced.batch(0)["data"], plain.batch(0)["data"])
    assert plain.notes == []
    assert any("force_color and force_gray have no effect" in note for note in forced.notes)
