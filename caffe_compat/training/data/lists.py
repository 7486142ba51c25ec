"""Lists of images: one file name and its labels a line."""

from __future__ import annotations

import codecs
import os
import re
from dataclasses import dataclass
from typing import NoReturn

from ...errors import FileError
from ...formats.files import read_file

__all__ = ["ImageList", "read_image_list", "read_lines"]

_WHOLE = re.compile(rb"[+-]?\d{1,10}")
_LONGEST_NAME = 4096  # bytes of a path that Linux takes, the longest of all systems
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def read_lines(path: str) -> list[tuple[int, bytes]]:
    """The lines of a text file that are not blank, each with its number (from 1), without the white space at its ends.

    Raises:
        FileError: it cannot be read, or holds nothing.
    """
    data = read_file(path).removeprefix(codecs.BOM_UTF8)  # which editors for Windows put there
    lines = [(number, line) for number, raw in enumerate(data.split(b"\n"), 1) if (line := raw.strip())]
    if not lines:
        raise FileError("is empty: a line for every sample was expected", path=path)
    return lines


@dataclass(frozen=True)
class ImageList:
    """A parsed list. The labels of a line become numbers when they are asked for: a list may have millions of lines.

    Attributes:
        label_dim: numbers a line, separated by commas; None for one whole number (BVLC's ImageData).
    """

    path: str
    lines: tuple[tuple[int, bytes, bytes], ...]
    label_dim: int | None

    def __len__(self) -> int:
        return len(self.lines)

    def name(self, i: int) -> str:
        """The file name of sample ``i``, as the list has it."""
        return os.fsdecode(self.lines[i][1])

    def labels(self, i: int) -> int | list[float]:
        """The labels of sample ``i``: one whole number, or ``label_dim`` numbers.

        Raises:
            FileError: a label is no number.
        """
        number, _, text = self.lines[i]
        if self.label_dim is None:
            return int(text)
        try:
            return [float(word) for word in text.rstrip(b",").split(b",")]
        except ValueError as error:
            raise FileError(f"a label is no number: {error}", path=self.path, line=number) from error

    def fail(self, i: int, name: str, error: FileError) -> NoReturn:
        """Raise what is wrong with the image of sample ``i``, file name ``name``, naming the line."""
        raise FileError(f"image {name} {error.detail}{_hint(name)}", path=self.path, line=self.lines[i][0]) from error


def _hint(name: str) -> str:
    if _DRIVE.search(name) or ("\\" in name and not os.path.exists(name)):
        return "; the list has Windows paths, names with / relative to root_folder are needed here"
    return ""


def read_image_list(path: str, label_dim: int | None) -> ImageList:
    """Read a list and check that every line has a name and the right number of labels.

    Windows line ends, blank lines and white space at the ends of lines do not matter; a name may contain spaces.

    Raises:
        FileError: with the file and the line.
    """
    parsed = []
    for number, line in read_lines(path):
        name, _, text = line.rpartition(b" ")
        name = name.rstrip()
        if not name:
            raise FileError(f"a file name, a space and {_wanted(label_dim)} were expected", path=path, line=number)
        if len(name) > _LONGEST_NAME:
            raise FileError(
                f"a file name of {len(name)} bytes; {_LONGEST_NAME} were expected at most", path=path, line=number
            )
        if label_dim is None:
            if not _WHOLE.fullmatch(text):
                raise FileError(f"the label must be one whole number, found {_shown(text)}", path=path, line=number)
        else:
            count = text.rstrip(b",").count(b",") + 1
            if count != label_dim:
                raise FileError(
                    f"{label_dim} labels were expected (label_dim), found {count} in {_shown(text)}",
                    path=path,
                    line=number,
                )
        parsed.append((number, name, text))
    return ImageList(path, tuple(parsed), label_dim)


def _wanted(label_dim: int | None) -> str:
    return "a whole number" if label_dim is None else f"{label_dim} labels separated by commas"


def _shown(text: bytes) -> str:
    words = text.decode("utf-8", "replace")
    return repr(words if len(words) <= 40 else words[:37] + "...")
