"""Every exception this library raises on purpose.

    CaffeCompatError
    ├── FileError               a file cannot be read or written
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
        └── InputShapeError     an input whose shape neither the file nor the request tells

An error is data: what is wrong (``detail``) and where (``path``, ``layer``, ``blob`` ...). It makes its text when it is
asked for it. Whoever lets an error pass and knows more about the place says so, with :func:`located` or
:meth:`CaffeCompatError.within`; no text is glued to another or cut apart. The command line prints the text of any of
these as one line and exits with 2; a traceback means a defect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from .display import short_words, shown

__all__ = [
    "CaffeCompatError",
    "CaffeCompatWarning",
    "DialectError",
    "FileAccessError",
    "FileError",
    "GraphError",
    "InputShapeError",
    "LayerError",
    "MissingExtraError",
    "NetworkError",
    "ParityError",
    "PrototxtError",
    "UnknownLayerError",
    "UsageError",
    "WeightsError",
    "WireError",
    "first_line",
    "is_misfit",
    "located",
]

_E = TypeVar("_E", bound="CaffeCompatError")


class CaffeCompatError(Exception):
    """Base of all errors that this library raises on purpose.

    >>> error = LayerError("takes 2 bottoms, found 1", layer="add", type="Eltwise")
    >>> print(error.within(path="net.prototxt"))
    net.prototxt: layer 'add' (Eltwise): takes 2 bottoms, found 1
    >>> error.layer, error.detail
    ('add', 'takes 2 bottoms, found 1')

    Attributes:
        detail: what is wrong, without the place.
        path: the file, or what stands for one.
        line, column: in a text, from 1. offset: in bytes, where reading stopped.
        place: a place inside the file in words, where there are no lines: ``record 3``, ``frame 12``.
        layer, type: of the layer. blob: one of its blobs, or a blob of the net. index: the blob's number in the layer.
        found, expected: the two things that differ, where they are more than words: two shapes, two counts.
    """

    def __init__(
        self,
        detail: str,
        *,
        path: str | None = None,
        line: int | None = None,
        column: int | None = None,
        offset: int | None = None,
        place: str | None = None,
        layer: str | None = None,
        type: str | None = None,
        blob: str | None = None,
        index: int | None = None,
        found: Any = None,
        expected: Any = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.path, self.line, self.column, self.offset, self.place = path, line, column, offset, place
        self.layer, self.type, self.blob, self.index = layer, type, blob, index
        self.found, self.expected = found, expected

    def within(self: _E, **context: Any) -> _E:
        """This error, knowing where it happened: each of the attributes above that it does not have yet.

        >>> print(UsageError("3 values for 2 channels").within(path="mean.npy").within(path="elsewhere"))
        mean.npy: 3 values for 2 channels
        """
        for name, value in context.items():
            if name not in _CONTEXT:
                raise TypeError(f"{type(self).__name__} has no context {name!r}")
            if getattr(self, name) is None:
                setattr(self, name, value)
        return self

    def __str__(self) -> str:
        where = [part for part in (self._lines(), self.place, self._layer(), self.detail) if part]
        after = "" if self.offset is None else f" (at byte {self.offset})"
        # A path is shown whole, however long: it is there to be copied.
        return shown((f"{self.path}: " if self.path else "") + short_words(": ".join(where)) + after)

    def _lines(self) -> str | None:
        if self.line is None:
            return None
        return f"line {self.line}" if self.column is None else f"line {self.line}, column {self.column}"

    def _layer(self) -> str | None:
        parts = []
        if self.layer is not None:
            parts.append(f"layer {self.layer!r}" + (f" ({self.type})" if self.type else ""))
        if self.index is not None:
            parts.append(f"blob {self.index}" + (f" ({self.blob})" if self.blob else ""))
        elif self.blob is not None:
            parts.append(f"blob {self.blob}")
        return ", ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (type(self), self.detail, dict(self.__dict__))


_CONTEXT = frozenset(CaffeCompatError("").__dict__) - {"detail"}


def _restored(kind: type[_E], detail: str, state: dict[str, Any]) -> _E:
    """A pickled or copied error with all that it knew."""
    error = kind(detail)
    error.__dict__.update(state)
    return error


class CaffeCompatWarning(UserWarning):
    """Something that Caffe itself lets pass but that a user should see."""

    def __str__(self) -> str:
        return shown(short_words(super().__str__()))


class FileError(CaffeCompatError):
    """A file cannot be read or written. ``path`` names it."""


class PrototxtError(FileError):
    """Text that is no prototxt. ``line`` and ``column`` count from 1."""


class WireError(FileError):
    """Bytes that are no protobuf message. ``offset`` is the byte where reading stopped."""


class FileAccessError(CaffeCompatError):
    """A network names a file that nobody allowed it to touch."""


class NetworkError(CaffeCompatError):
    """A network that cannot be built."""


class GraphError(NetworkError):
    """Blobs that nobody produces, or that two layers produce."""


class UnknownLayerError(NetworkError):
    """A layer type that is not registered: ``type``."""

    def _layer(self) -> str | None:
        return None if self.layer is None else f"layer {self.layer!r}"  # the type is what the detail is about


class LayerError(NetworkError):
    """One layer's parameters, bottoms or shapes. ``layer`` names it."""


def is_misfit(error: CaffeCompatError) -> bool:
    """Whether shapes, or numbers of bottoms and tops, are what is wrong with a layer.

    >>> is_misfit(LayerError("takes 2 bottoms, found 1", found=1, expected=2)), is_misfit(LayerError("no such axis"))
    (True, False)
    """
    return isinstance(error, LayerError) and error.found is not None


class DialectError(CaffeCompatError):
    """A file that fits several forks of Caffe, or none. Each of ``choices``, dialects, settles it in its way.

    ``gradient_only`` tells that they compute the same tops.
    """

    choices: Sequence[str] = ()
    gradient_only: bool = False


class WeightsError(CaffeCompatError):
    """Blobs that do not fit the network."""


class ParityError(CaffeCompatError):
    """Outputs that differ from the reference. ``report`` is the :class:`caffe_compat.Report`, where there is one."""

    report: Any = None


class MissingExtraError(CaffeCompatError):
    """An optional package that is not installed."""


class UsageError(CaffeCompatError):
    """A request that makes no sense."""


class InputShapeError(UsageError):
    """An input whose shape neither the file nor the request tells.

    ``guesses`` are what its shape probably is (:class:`caffe_compat.network.guessing.Guess`), where anything tells.
    """

    guesses: Sequence[Any] = ()

    def __str__(self) -> str:
        if not self.guesses:
            return super().__str__()
        probably = "; ".join(f"probably {guess}" for guess in self.guesses)
        options = " ".join(f"--input-shape {g.blob}={','.join(map(str, g.shape))}" for g in self.guesses)
        return f"{super().__str__()}; {probably}: --guess-shapes (guess_shapes=True) accepts that, as does {options}"


@contextmanager
def located(**context: Any) -> Iterator[None]:
    """The errors that leave the block know ``context``: see :meth:`CaffeCompatError.within`.

    >>> with located(layer="conv1", type="Convolution"):
    ...     raise LayerError("stride 0")
    Traceback (most recent call last):
    caffe_compat.errors.LayerError: layer 'conv1' (Convolution): stride 0
    """
    try:
        yield
    except CaffeCompatError as error:
        error.within(**context)
        raise


def first_line(error: BaseException) -> str:
    """What another library's exception says, in short: its first line that is not blank, or else its type.

    >>> first_line(ValueError("bad\\nmuch more")), first_line(KeyError())
    ('bad', 'KeyError')
    """
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
