"""Which files a network may touch.

Building a network opens nothing. A layer that reads or writes a file asks here when it runs, and whoever runs the
network decides: nothing (the default), or paths below one folder.
"""

from __future__ import annotations

from pathlib import Path

from .errors import FileAccessError, FileError, located
from .formats.files import read_file, reason_of
from .formats.limits import LAYERS_FILE

__all__ = ["FileAccess"]


class FileAccess:
    """Permission to read below ``root`` and to write below ``write_root``; None forbids.

    Without a ``write_root``, what layers would write is kept as text in ``written`` (path as the network names it ->
    text); with one it goes to disk instead.

    >>> files = FileAccess("reference_outputs")
    >>> len(files.read("max_min.csv", layer="bounds")) > 0
    True
    >>> files.read("../setup.py", layer="bounds")
    Traceback (most recent call last):
    caffe_compat.errors.FileAccessError: ...
    >>> files.write("log.txt", "1 2", layer="saver", append=True)
    >>> files.written
    {'log.txt': '1 2'}
    """

    def __init__(self, root: str | Path | None = None, write_root: str | Path | None = None) -> None:
        self.root = Path(root).resolve() if root is not None else None
        self.write_root = Path(write_root).resolve() if write_root is not None else None
        self.written: dict[str, str] = {}

    def place_to_read(self, path: str, layer: str) -> Path:
        """Where the file lies that ``layer`` calls ``path``.

        Raises:
            FileAccessError: reading is not allowed there.
        """
        if self.root is None:
            raise FileAccessError(
                f"reads {path!r}, and reading files that a network names is off; allow it with --root DIR", layer=layer
            )
        full = (self.root / path).resolve()
        if not full.is_relative_to(self.root):
            raise FileAccessError(f"reads {path!r}, which lies outside the allowed folder {self.root}", layer=layer)
        return full

    def place_to_write(self, path: str, layer: str) -> Path | None:
        """Where ``layer`` may write what it calls ``path``; None where nothing goes to disk.

        Raises:
            FileAccessError: the path leaves the allowed folder.
        """
        if self.write_root is None:
            return None
        full = (self.write_root / path).resolve()
        if not full.is_relative_to(self.write_root):
            raise FileAccessError(f"writes {path!r}, outside the allowed folder {self.write_root}", layer=layer)
        return full

    def read(self, path: str, layer: str) -> bytes:
        """The bytes of ``path``, which ``layer`` names, taken relative to the root.

        Raises:
            FileAccessError: reading is not allowed there. FileError: the file cannot be read.
        """
        full = self.place_to_read(path, layer)
        with located(layer=layer):
            return read_file(full, LAYERS_FILE)

    def write(self, path: str, text: str, layer: str, *, append: bool) -> None:
        """Write ``text`` to ``path`` where that is allowed, else keep it.

        Raises:
            FileAccessError: the path leaves the allowed folder. FileError: it cannot be written.
        """
        full = self.place_to_write(path, layer)
        if full is None:
            self.written[path] = (self.written.get(path, "") if append else "") + text
            return
        try:
            with full.open("a" if append else "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise FileError(f"cannot be written: {reason_of(error)}", path=str(full), layer=layer) from error
