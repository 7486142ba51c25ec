"""``caffe-compat images-to-db`` and ``mean``: databases of images, and their mean."""

from __future__ import annotations

import click

from ..formats.databases import Backend
from ..formats.weights import write_binaryproto
from ..tools.imageset import BadImage, ImageForm, images_to_database
from ..tools.mean import image_mean
from .options import note, say

__all__ = ["images_to_db", "mean"]

_backend = click.option(
    "--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb", show_default=True, help="The kind of database."
)


@click.command("images-to-db")
@click.argument("root")
@click.argument("image_list", metavar="LIST", type=click.Path())
@click.argument("database", metavar="DB", type=click.Path())
@_backend
@click.option("--gray", is_flag=True, help="One channel.")
@click.option("--shuffle", is_flag=True, help="In a random order.")
@click.option("--seed", type=click.IntRange(0), help="Of that order.")
@click.option("--resize", nargs=2, type=click.IntRange(1), metavar="HEIGHT WIDTH", help="Resize the images.")
@click.option("--check-size", is_flag=True, help="Refuse images of different sizes.")
@click.option("--encoded", is_flag=True, help="Store image files, not pixels.")
@click.option(
    "--encode-type", default="", help="The format to encode in (png, jpg ...); that of the file if not given."
)
def images_to_db(
    root: str,
    image_list: str,
    database: str,
    backend: str,
    gray: bool,
    shuffle: bool,
    seed: int | None,
    resize: tuple[int, int] | None,
    check_size: bool,
    encoded: bool,
    encode_type: str,
) -> None:
    """Put the images of LIST, lines of a file name and a label, into a new database DB, as convert_imageset does.

    ROOT is put before every name and ends in a slash.
    """
    height, width = resize or (0, 0)
    form = ImageForm(gray, width, height, encoded, encode_type, check_size)

    def left_out(bad: BadImage) -> None:
        note(f"left out: {bad.path} {bad.reason}")

    stored = images_to_database(
        root, image_list, database, form, backend=_named(backend), shuffle=shuffle, seed=seed, on_bad=left_out
    )
    left = f"; {len(stored.bad)} were left out" if stored.bad else ""
    say(f"wrote {database}: {stored.count} images{left}")


@click.command()
@click.argument("database", metavar="DB", type=click.Path())
@click.argument("output", type=click.Path(), required=False)
@_backend
def mean(database: str, output: str | None, backend: str) -> None:
    """Compute the mean image of DB, and write it to OUTPUT, a .binaryproto, as compute_image_mean does."""
    found = image_mean(database, _named(backend))
    values = ":".join(f"{value:g}" for value in found.channels)
    say(f"the mean of {found.count} images, by channel: {values}")
    if output is not None:
        write_binaryproto(output, found.image)
        say(f"wrote {output}")


def _named(backend: str) -> Backend:
    return "LMDB" if backend == "lmdb" else "LEVELDB"
