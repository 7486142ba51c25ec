"""Every exception this library raises on purpose.

    CaffeCompatError
    ├── FileError               a file cannot be read or written; carries .path
    │   ├── PrototxtError       text that is no prototxt; carries .line and .column
    │   └── WireError           bytes that are no protobuf message; carries .offset
    ├── FileAccessError         a network names a file that nobody allowed it to touch
    ├── NetworkError            a network that cannot be built
    │   ├── GraphError          blobs that nobody produces, or that two layers produce
    │   ├── UnknownLayerError   a layer type that is not registered; carries .type
    │   └── LayerError          one layer's parameters, bottoms or shapes; carries .layer
    ├── DialectError            a file that fits several forks of Caffe, or none
    ├── WeightsError            blobs that do not fit the network
    ├── ParityError             outputs that differ from the reference
    ├── MissingExtraError       an optional package that is not installed
    └── UsageError              a request that makes no sense

The command line prints the message of any of these as one line and exits with 2; a traceback means a defect.
"""

from __future__ import annotations

__all__ = [
    "CaffeCompatError",
    "CaffeCompatWarning",
    "DialectError",
    "FileAccessError",
    "FileError",
    "GraphError",
    "LayerError",
    "MissingExtraError",
    "NetworkError",
    "ParityError",
    "PrototxtError",
    "UnknownLayerError",
    "UsageError",
    "WeightsError",
    "WireError",
]


class CaffeCompatError(Exception):
    """Base of all errors that this library raises on purpose."""


class CaffeCompatWarning(UserWarning):
    """Something that Caffe itself lets pass but that a user should see."""


class FileError(CaffeCompatError):
    """A file cannot be read or written. ``path`` names it."""

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class PrototxtError(FileError):
    """Text that is no prototxt. ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, *, path: str | None = None, line: int = 0, column: int = 0) -> None:
        place = f"line {line}, column {column}: " if line else ""
        super().__init__(place + message, path=path)
        self.line = line
        self.column = column


class WireError(FileError):
    """Bytes that are no protobuf message. ``offset`` is the byte where reading stopped."""

    def __init__(self, message: str, *, path: str | None = None, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})", path=path)
        self.offset = offset


class FileAccessError(CaffeCompatError):
    """A network names a file that nobody allowed it to touch."""


class NetworkError(CaffeCompatError):
    """A network that cannot be built."""


class GraphError(NetworkError):
    """Blobs that nobody produces, or that two layers produce."""


class UnknownLayerError(NetworkError):
    """A layer type that is not registered."""

    def __init__(self, message: str, *, type: str) -> None:
        super().__init__(message)
        self.type = type


class LayerError(NetworkError):
    """One layer's parameters, bottoms or shapes."""

    def __init__(self, message: str, *, layer: str) -> None:
        super().__init__(message)
        self.layer = layer


class DialectError(CaffeCompatError):
    """A file that fits several forks of Caffe, or none."""


class WeightsError(CaffeCompatError):
    """Blobs that do not fit the network."""


class ParityError(CaffeCompatError):
    """Outputs that differ from the reference."""


class MissingExtraError(CaffeCompatError):
    """An optional package that is not installed."""


class UsageError(CaffeCompatError):
    """A request that makes no sense."""
