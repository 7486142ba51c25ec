"""Where libraries write that do not survive a full disk.

The HDF5 library crashes, or complains on stderr, when it lets go of a file that it could not finish; torch ends the
process when it writes a program, and tells of byte counts when it writes tensors.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

__all__ = ["Sink"]


class Sink(io.RawIOBase):
    """What a library writes a new file to: another file, whose failures it keeps to itself until someone asks.

    After a failure nothing is written any more, zeros are read, and the library finds that all is well.

    Args:
        file: empty, open for reading and writing. It is left open.

    Attributes:
        error: the first failure, or None.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file: Any = file
        self._at = self._end = 0
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the first failure, if there was one. Raises OSError."""
        if self.error is not None:
            raise self.error

    def writable(self) -> bool:
        """As of any file."""
        return True

    def seekable(self) -> bool:
        """As of any file."""
        return True

    def tell(self) -> int:
        """As of any file."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def write(self, data: Any) -> int:
        """As of any file."""
        size = memoryview(data).nbytes
        self._try(lambda: self._file.write(data))
        self._at += size
        self._end = max(self._end, self._at)
        return size

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(view.nbytes)
        self._try(lambda: self._file.readinto(view))
        self._at += view.nbytes
        return view.nbytes

    def truncate(self, size: int | None = None, /) -> int:
        """As of any file."""
        size = self._at if size is None else size
        self._try(lambda: self._file.truncate(size))
        self._end = size
        return size

    def flush(self) -> None:
        """As of any file."""
        self._try(lambda: self._file.flush())

    def _try(self, do: Callable[[], object]) -> None:
        """Do something where this stands, unless something failed before."""
        if self.error is not None:
            return
        try:
            self._file.seek(self._at)
            do()
        except OSError as error:
            self.error = error
        except ValueError as error:  # closed: the library lets go of its file when it is collected, in any order
            self.error = OSError(str(error))
