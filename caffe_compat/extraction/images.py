"""What features are extracted of: images in a folder, in a list, or in a database, each with a row and an id."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from ..errors import FileError
from ..formats.databases import open_database
from ..inference.preprocess import decode_image
from ..schema import load_schema
from ..training.data.datum import image_of
from ..training.data.lists import read_lines

__all__ = ["ImageRows", "find_images"]

_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".gif"))


class ImageRows(ABC):
    """Images in an order that stays: row ``i`` is the same image in every run.

    Attributes:
        ids: of each row, its name within the folder, the list or the database. bytes: whether all pixels are bytes.
            max_readers: how many processes may read at the same time; None for any number.
    """

    ids: Sequence[str]
    bytes = True
    max_readers: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def pixels(self, i: int, order: str) -> np.ndarray:
        """Row ``i``: (H, W, C), uint8 or float32, channels in ``order`` (``"bgr"``, ``"rgb"``, ``"gray"``).

        Raises:
            FileError: it cannot be read.
        """


def find_images(source: str | os.PathLike[str]) -> ImageRows:
    """The images of a folder (with all folders in it, in the order of their paths), a list, or a database.

    A list has a file name a line, which is relative to the list's folder, and may have a label, a whole number, after
    the last space. A folder with a ``data.mdb`` is an LMDB, one with a ``CURRENT`` a LevelDB.

    Raises:
        FileError: it cannot be read, or holds no images. MissingExtraError.
    """
    path = os.fspath(source)
    if not os.path.isdir(path):
        return _listed(path)
    if os.path.isfile(os.path.join(path, "data.mdb")):
        return _Stored(path, "LMDB")
    if os.path.isfile(os.path.join(path, "CURRENT")):
        return _Stored(path, "LEVELDB")
    names = sorted(
        Path(folder, name).relative_to(path).as_posix()
        for folder, _, files in os.walk(path)
        for name in files
        if os.path.splitext(name)[1].lower() in _ENDINGS
    )
    if not names:
        raise FileError(f"no images are in it ({', '.join(sorted(_ENDINGS))})", path=path)
    return _Files(path, names)


class _Files(ImageRows):
    """Files below a folder; an id is the path from there."""

    def __init__(self, folder: str, ids: Sequence[str]) -> None:
        self.folder, self.ids = os.path.abspath(folder), ids

    def pixels(self, i: int, order: str) -> np.ndarray:
        return decode_image(os.path.join(self.folder, self.ids[i]), order)


def _listed(path: str) -> _Files:
    ids = []
    for _, line in read_lines(path):
        name, _, label = line.rpartition(b" ")
        ids.append(os.fsdecode(name.rstrip() if name.strip() and label.lstrip(b"+-").isdigit() else line))
    return _Files(os.path.dirname(path) or ".", ids)


class _Stored(ImageRows):
    """Records of a database; an id is the key."""

    def __init__(self, path: str, backend: str) -> None:
        self._database = open_database(os.path.abspath(path), "LMDB" if backend == "LMDB" else "LEVELDB")
        self.ids = [key.decode("utf-8", "backslashreplace") for key in self._database.keys]
        self.max_readers = self._database.max_readers
        self._message = load_schema().message("Datum")
        self.bytes = self._read(0, "color").dtype == np.uint8
        self._database.close()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_message"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._message = load_schema().message("Datum")

    def pixels(self, i: int, order: str) -> np.ndarray:
        image = self._read(i, "gray" if order == "gray" else "color")
        wanted = 1 if order == "gray" else 3
        if image.shape[2] != wanted:
            raise FileError(f"has {image.shape[2]} channels; order={order} takes {wanted}")
        if (image.dtype == np.uint8) != self.bytes:
            raise FileError(f"has {image.dtype} pixels, the first record has others")
        return image[:, :, ::-1] if order == "rgb" else image

    def _read(self, i: int, mode: str) -> np.ndarray:
        try:
            datum = self._message.FromString(self._database.get(i))
        except DecodeError as error:
            raise FileError(f"is no Datum: {error}") from error
        return image_of(datum, "gray" if mode == "gray" else "color")
