"""Images and their labels in a database, as Caffe's ``convert_imageset`` puts them there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import FileError, UsageError
from ..formats.database_writing import COMMIT_EVERY, new_database
from ..formats.databases import Backend
from ..formats.files import read_file
from ..formats.images import encode_picture
from ..formats.limits import PICTURE
from ..training.data.datum import encoded_datum, raw_datum
from ..training.data.images import read_image
from ..training.data.lists import read_image_list

__all__ = ["BadImage", "ImageForm", "StoredImages", "images_to_database"]


@dataclass(frozen=True)
class ImageForm:
    """How images are stored.

    Attributes:
        gray: one channel. width, height: what they are resized to; 0 for both leaves them as they are.
        encoded: as a file in the database, in the format that the file name ends in, or in ``encode_type`` (``"png"``,
            ``"jpg"``), which asks for it too. A file that is in that format already is stored as it is.
        check_size: refuse images of different sizes.

    Raises:
        UsageError: of width and height only one is given, or sizes of encoded images are to be checked.
    """

    gray: bool = False
    width: int = 0
    height: int = 0
    encoded: bool = False
    encode_type: str = ""
    check_size: bool = False

    def __post_init__(self) -> None:
        if (self.width > 0) != (self.height > 0):
            raise UsageError("a width and a height to resize to, or neither, were expected; Caffe heeds neither alone")
        if self.check_size and (self.encoded or self.encode_type):
            raise UsageError("sizes of encoded images cannot be checked: Caffe stops at the second image")


@dataclass(frozen=True)
class BadImage:
    """An image that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class StoredImages:
    """How many images were stored, and which were not."""

    count: int
    bad: tuple[BadImage, ...]


def images_to_database(
    root: str,
    image_list: str | os.PathLike[str],
    database: str | os.PathLike[str],
    form: ImageForm | None = None,
    *,
    backend: Backend = "LMDB",
    shuffle: bool = False,
    seed: int | None = None,
    on_listed: Callable[[int], None] = lambda count: None,
    on_stored: Callable[[int], None] = lambda count: None,
    on_bad: Callable[[BadImage], None] = lambda bad: None,
) -> StoredImages:
    """Write the images of a list, lines of a file name and a label, to a new database.

    The key of a record is the place in the list, eight digits, and the file name: ``00000042_cat/1.jpg``. Images that
    cannot be read are left out, and their places stay empty.

    Args:
        root: what is put before every name as it is; it ends in ``/``, in Caffe too.
        shuffle: store them in a random order. seed: of that order; None draws one.
        on_listed: told how many images there are. on_stored: told every thousandth, and the last, count of stored ones.
        on_bad: told of every image that is left out.

    Raises:
        FileError: the list cannot be read, the database is there already or cannot be written, no image can be read,
            or their sizes differ where that is checked. UsageError: as :class:`ImageForm`. MissingExtraError.
    """
    form = form or ImageForm()
    images = read_image_list(os.fspath(image_list), label_dim=None)
    places = [number - 1 for number, _, _ in images.lines]  # blank lines count
    order: Sequence[int] = range(len(images))
    if shuffle:
        order = np.random.default_rng(seed).permutation(len(images)).tolist()
        places = list(range(len(images)))
    on_listed(len(images))
    bad: list[BadImage] = []
    first: tuple[int, ...] | None = None
    with new_database(os.fspath(database), backend) as writer:
        for place, i in zip(places, order, strict=True):
            name, label = images.name(i), images.labels(i)
            assert isinstance(label, int)
            try:
                value, shape = _value(root + name, name, label, form)
            except FileError as error:
                bad.append(BadImage(root + name, error.detail))
                on_bad(bad[-1])
                continue
            if form.check_size and first not in (None, shape):
                raise FileError(
                    f"has height, width and channels {list(shape)}, those before it {list(first or ())}",
                    path=root + name,
                )
            first = shape
            writer.put(f"{place:08d}_".encode() + os.fsencode(name), value)
            if writer.count % COMMIT_EVERY == 0:
                on_stored(writer.count)
        if not writer.count:
            raise FileError(
                f"none of its {len(images)} images can be read; the first: {bad[0].path} {bad[0].reason}",
                path=os.fspath(image_list),
            )
        if writer.count % COMMIT_EVERY:
            on_stored(writer.count)
        return StoredImages(writer.count, tuple(bad))


def _value(path: str, name: str, label: int, form: ImageForm) -> tuple[bytes, tuple[int, ...]]:
    """The Datum of an image, and the shape of its pixels."""
    image = read_image(path, color=not form.gray, height=form.height, width=form.width)
    if not form.encoded and not form.encode_type:
        return raw_datum(image, label), image.shape
    kind = form.encode_type or name.rpartition(".")[2].lower()
    if form.width == 0 and _is_of(path, kind):
        return encoded_datum(read_file(path, PICTURE), label), image.shape
    return encoded_datum(encode_picture(image, kind), label), image.shape


def _is_of(path: str, kind: str) -> bool:
    """Whether a file's name says that it is of this kind; as in Caffe, a .jpeg is a jpg, but no .jpg a jpeg."""
    ending = path.rpartition(".")[2].lower()
    return ending == kind.lower() or (kind.lower() == "jpg" and ending == "jpeg")
