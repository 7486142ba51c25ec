"""How much memory a file may ask for, and how to allow more.

A header of a few bytes can declare more than any machine has, and a small compressed file can unpack to it. So what a
file declares is compared with a limit before memory is taken. An environment variable raises a limit; worker processes
inherit it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import FileError, UsageError

__all__ = ["ARRAYS", "BATCH", "LAYERS_FILE", "PICTURE", "PROTOTXT", "READER", "WHOLE_FILE", "Limit"]


@dataclass(frozen=True)
class Limit:
    """A number of bytes.

    Attributes:
        variable: the environment variable that holds another number.
    """

    variable: str
    default: int

    @property
    def bytes(self) -> int:
        """What the environment says, else the default.

        Raises:
            UsageError: the variable holds no whole number from 1.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
            raise UsageError(f"{self.variable}={text}: a number of bytes was expected")
        return int(text)

    def check(self, needed: int, what: str, path: str | None = None) -> None:
        """Refuse what needs more bytes. ``what`` begins the message: ``"a picture of 9 x 9 pixels"``.

        Raises:
            FileError: it does; the message tells how to allow it.
        """
        if needed > self.bytes:
            raise FileError(
                f"{what} takes {needed:,} bytes, more than the limit of {self.bytes:,}; to allow it set the "
                f"environment variable {self.variable}",
                path=path,
            )


# A picture while it is decoded: 178 megapixels of three bytes, more than any camera takes.
PICTURE = Limit("CAFFE_COMPAT_MAX_PICTURE_BYTES", 2**29)
# All arrays of a compressed file together, or one compressed data set.
ARRAYS = Limit("CAFFE_COMPAT_MAX_ARRAY_BYTES", 2**32)
# A batch of the data layers of a network: one of ImageNet's takes a twentieth.
BATCH = Limit("CAFFE_COMPAT_MAX_BATCH_BYTES", 2**32)
# A prototxt; the largest networks take a few megabytes.
PROTOTXT = Limit("CAFFE_COMPAT_MAX_PROTOTXT_BYTES", 2**28)
# A file that a layer names and reads whole: a matrix, a table of bounds.
LAYERS_FILE = Limit("CAFFE_COMPAT_MAX_LAYER_FILE_BYTES", 2**26)
# What a reader in a process of its own may hold beside its imports.
READER = Limit("CAFFE_COMPAT_MAX_READER_BYTES", 2**31)
# Any other file that is read whole: a list, a log, a pickle. Weights are mapped and need no limit.
WHOLE_FILE = Limit("CAFFE_COMPAT_MAX_FILE_BYTES", 2**30)
