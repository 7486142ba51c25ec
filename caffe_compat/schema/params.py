"""A layer's parameters as its builder sees them: typed, with the schema's defaults, and remembering what was read.

What a file sets and the builder never reads would be a parameter not honoured; :func:`check_all_read` turns it into an
error. So a builder reads every field it honours, and only those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from . import is_repeated
from .messages import Message
from .unknown import Unknown, unknown_fields_of

__all__ = ["HOW_NOT_WHAT", "NoSuchFieldError", "Params", "Unread", "unread_fields"]

# Fields that choose how Caffe computes (which library, how much scratch memory), never what it computes.
HOW_NOT_WHAT = frozenset(
    {"engine", "cudnn_convolution_algo_seeker", "cudnn_flavor", "conv_algorithm", "conv_algos_override", "math_mode"}
)


class NoSuchFieldError(AttributeError):
    """A builder reads field ``name`` of message ``where`` (``pooling_param``), which the schema in force has not."""

    def __init__(self, where: str, name: str) -> None:
        super().__init__(f"the dialect's {where} has no field {name!r}, which this layer type needs", name=name)
        self.where = where


class Params:
    """One parameter message, e.g. ``spec.params("pooling_param")``.

    ``params.kernel_h`` is the value or the schema's default; a repeated field is a tuple, a message another ``Params``,
    an enum its name. ``params.has("kernel_h")`` tells whether the file sets it.
    """

    def __init__(self, message: Message, path: str) -> None:
        self._message = message
        self._path = path
        self._read: set[str] = set()
        self._children: dict[str, list[Params]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        descriptor = self._message.DESCRIPTOR.fields_by_name.get(name)
        if descriptor is None:
            raise NoSuchFieldError(self._path, name)
        self._read.add(name)
        value = getattr(self._message, name)
        if descriptor.message_type is not None:
            if name not in self._children:
                items = value if is_repeated(descriptor) else [value]
                self._children[name] = [Params(item, f"{self._path}.{name}") for item in items]
            children = self._children[name]
            return tuple(children) if is_repeated(descriptor) else children[0]
        if descriptor.enum_type is not None:
            names = descriptor.enum_type.values_by_number
            return tuple(names[v].name for v in value) if is_repeated(descriptor) else names[value].name
        return tuple(value) if is_repeated(descriptor) else value

    def has(self, name: str) -> bool:
        """Whether the file sets field ``name`` (a repeated one: at least once). False for one the dialect lacks."""
        descriptor = self._message.DESCRIPTOR.fields_by_name.get(name)
        if descriptor is None:
            return False
        self._read.add(name)
        return len(getattr(self._message, name)) > 0 if is_repeated(descriptor) else self._message.HasField(name)

    def knows(self, name: str) -> bool:
        """Whether the dialect's schema has field ``name`` at all."""
        return name in self._message.DESCRIPTOR.fields_by_name

    def get(self, name: str, default: Any) -> Any:
        """Field ``name`` if the file sets it, else ``default``; for fields that only some dialects know."""
        return getattr(self, name) if self.has(name) else default

    def ignore(self, *names: str) -> None:
        """Say that fields have no bearing on what is computed here (say why beside the call)."""
        self._read.update(names)

    @property
    def message(self) -> Message:
        """The protobuf message itself; reading it does not count as honouring it."""
        return self._message


class Unread(NamedTuple):
    """A field inside a parameter message that nobody read.

    ``path`` names it with dots, or the message that does not know it: then ``unknown`` is the field.
    """

    path: str
    message: Message
    unknown: Unknown | None = None

    @property
    def name(self) -> str:
        """Of the field alone; its number if it has none."""
        if self.unknown is not None:
            return self.unknown.name or str(self.unknown.number)
        return self.path.rpartition(".")[2]

    def __str__(self) -> str:
        return self.path if self.unknown is None else f"{self.path}: {self.unknown}"


def unread_fields(params: Params) -> Iterator[Unread]:
    """Fields that are set, or unknown, in ``params`` and below, and that nobody read."""
    message, path, read, children = params._message, params._path, params._read, params._children
    for descriptor, _ in message.ListFields():
        name = descriptor.name
        if name not in read:
            if name not in HOW_NOT_WHAT:
                yield Unread(f"{path}.{name}", message)
        else:
            for child in children.get(name, ()):
                yield from unread_fields(child)
    for unknown in unknown_fields_of(message):
        if unknown.name not in HOW_NOT_WHAT:
            yield Unread(path, message, unknown)
