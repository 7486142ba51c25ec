"""What convert_imageset puts into a database: keys, bytes, and what it leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats import database_writing
from caffe_compat.formats.databases import Backend, open_database
from caffe_compat.schema import load_schema
from caffe_compat.tools.imageset import BadImage, ImageForm, images_to_database

FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of 4 x 6 pixels, and a list with labels of theirs."""
    tmp_path.joinpath("a b").mkdir()
    for i, name in enumerate(("a b/0.png", "1.PNG", "2.jpeg")):
        image = np.random.RandomState(i).randint(0, 256, (4, 6, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "list.txt").write_text("a b/0.png 7\r\n\n1.PNG 0\n2.jpeg 300\n")
    return tmp_path


def stored(folder: Path, form: ImageForm | None = None, backend: Backend = "LMDB") -> dict[bytes, bytes]:
    """The records that the list becomes."""
    shutil.rmtree(folder / "db", ignore_errors=True)
    images_to_database(f"{folder}/", folder / "list.txt", folder / "db", form, backend=backend)
    return records(folder / "db", backend)


def records(path: Path, backend: Backend = "LMDB") -> dict[bytes, bytes]:
    database = open_database(str(path), backend)
    return {key: database.get(i) for i, key in enumerate(database.keys)}


def pixels(path: str, mode: int = cv2.IMREAD_COLOR) -> np.ndarray:
    image = cv2.imread(path, mode)
    assert image is not None
    return image


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def raw(image: np.ndarray, label: int) -> bytes:
    """A Datum as protobuf writes it: channels, height, width, data, label, encoded, all of them set."""
    height, width, channels = image.shape
    data = image.transpose(2, 0, 1).tobytes()
    sizes = b"\x08" + varint(channels) + b"\x10" + varint(height) + b"\x18" + varint(width)
    return sizes + b"\x22" + varint(len(data)) + data + b"\x28" + varint(label) + b"\x38\x00"


def encoded(data: bytes, label: int) -> bytes:
    return b"\x22" + varint(len(data)) + data + b"\x28" + varint(label) + b"\x38\x01"


@pytest.mark.parametrize("backend", ["LMDB", "LEVELDB"])
def test_pixels(folder: Path, backend: Backend) -> None:
    found = stored(folder, backend=backend)
    # A blank line counts, as every line does in Caffe.
    assert list(found) == [b"00000000_a b/0.png", b"00000002_1.PNG", b"00000003_2.jpeg"]
    for value, name, label in zip(found.values(), ("a b/0.png", "1.PNG", "2.jpeg"), (7, 0, 300), strict=True):
        assert value == raw(pixels(str(folder / name)), label)


def test_the_pixels_that_real_caffe_read(tmp_path: Path) -> None:
    images_to_database(f"{FORMATS}/", FORMATS / "list.txt", tmp_path / "db")
    ours, recorded = records(tmp_path / "db"), records(FORMATS / "datum_lmdb")
    message = load_schema().message("Datum")
    for i, (a, b) in enumerate(zip(ours.values(), recorded.values(), strict=True)):
        one, other = message.FromString(a), message.FromString(b)
        assert (one.channels, one.height, one.width, one.label) == (3, 24, 28, other.label)
        if i < 3:  # decoders of JPEG differ
            assert one.data == other.data


def test_grey_and_resized(folder: Path) -> None:
    found = list(stored(folder, ImageForm(gray=True, width=5, height=3)).values())
    grey = pixels(str(folder / "1.PNG"), cv2.IMREAD_GRAYSCALE)
    assert found[1] == raw(cv2.resize(grey, (5, 3))[:, :, np.newaxis], 0)


def test_encoded_as_the_files_are(folder: Path) -> None:
    found = stored(folder, ImageForm(encoded=True))
    for value, name, label in zip(found.values(), ("a b/0.png", "1.PNG", "2.jpeg"), (7, 0, 300), strict=True):
        assert value == encoded((folder / name).read_bytes(), label)


def test_encoded_in_another_format(folder: Path) -> None:
    found = list(stored(folder, ImageForm(encode_type="png")).values())
    assert found[0] == encoded((folder / "a b/0.png").read_bytes(), 7)
    assert found[2] == encoded(cv2.imencode(".png", pixels(str(folder / "2.jpeg")))[1].tobytes(), 300)
    # A .jpeg is a jpg.
    assert list(stored(folder, ImageForm(encode_type="jpg")).values())[2] == encoded(
        (folder / "2.jpeg").read_bytes(), 300
    )
    resized = next(iter(stored(folder, ImageForm(encoded=True, width=3, height=2)).values()))
    image = cv2.resize(pixels(str(folder / "a b/0.png")), (3, 2))
    assert resized == encoded(cv2.imencode(".png", image)[1].tobytes(), 7)


def test_a_random_order(folder: Path) -> None:
    (folder / "list.txt").write_text("".join(f"1.PNG {i}\n" for i in range(20)))
    labels = []
    for seed in (1, 1, 2):
        shutil.rmtree(folder / "db", ignore_errors=True)
        images_to_database(f"{folder}/", folder / "list.txt", folder / "db", shuffle=True, seed=seed)
        found = records(folder / "db")
        assert list(found) == [b"%08d_1.PNG" % i for i in range(20)]
        labels.append([load_schema().message("Datum").FromString(value).label for value in found.values()])
    assert labels[0] == labels[1] != labels[2]
    assert sorted(labels[0]) == sorted(labels[2]) == list(range(20))
    assert labels[0] != list(range(20))


def test_what_cannot_be_read_is_left_out_by_name(folder: Path) -> None:
    (folder / "1.PNG").write_bytes((folder / "1.PNG").read_bytes()[:40])
    (folder / "a b/0.png").unlink()
    told: list[BadImage] = []
    done = images_to_database(f"{folder}/", folder / "list.txt", folder / "db", on_bad=told.append)
    assert done.count == 1
    assert list(done.bad) == told
    assert [bad.path for bad in told] == [f"{folder}/a b/0.png", f"{folder}/1.PNG"]
    assert "No such file" in told[0].reason
    assert "truncated PNG" in told[1].reason
    assert list(records(folder / "db")) == [b"00000003_2.jpeg"]


def test_sizes_are_checked_where_that_is_asked_for(folder: Path) -> None:
    cv2.imwrite(str(folder / "2.jpeg"), np.zeros((4, 7, 3), np.uint8))
    stored(folder)
    with pytest.raises(FileError, match=r"2\.jpeg.*\[4, 7, 3\].*\[4, 6, 3\]"):
        stored(folder, ImageForm(check_size=True))
    assert not (folder / "db").exists()
    stored(folder, ImageForm(check_size=True, width=3, height=3))


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="neither alone"):
        ImageForm(width=3)
    with pytest.raises(UsageError, match="cannot be checked"):
        ImageForm(encoded=True, check_size=True)
    (folder / "db").mkdir()
    with pytest.raises(FileError, match="is there already"):
        images_to_database(f"{folder}/", folder / "list.txt", folder / "db")
    with pytest.raises(FileError, match="none of its 3 images can be read; the first: nowhere/"):
        images_to_database("nowhere/", folder / "list.txt", folder / "new")
    with pytest.raises(FileError, match="no picture can be encoded as 'xyz'"):
        images_to_database(f"{folder}/", folder / "list.txt", folder / "new", ImageForm(encode_type="xyz"))
    assert sorted(path.name for path in folder.iterdir() if "new" in path.name) == []


def test_a_database_grows_as_it_must(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_writing, "_FIRST_MAP", 1 << 15)
    with database_writing.new_database(str(folder / "db"), "LMDB") as writer:
        for i in range(2500):
            writer.put(b"%06d" % i, bytes(100))
    assert len(records(folder / "db")) == 2500
    with pytest.raises(FileError, match="511"), database_writing.new_database(str(folder / "x"), "LMDB") as writer:
        writer.put(bytes(512), b"")
    assert not (folder / "x").exists()
