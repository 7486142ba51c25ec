"""What a data layer says of its data in passing, whatever its type: settings by name, and the names of its files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...schema import is_repeated
from ...schema.messages import LayerParameter, Message
from ...schema.params import Params
from ...schema.unknown import unknown_fields_of
from ..graph import Node

__all__ = ["Cuts", "batch_of", "cuts_of", "known_pictures", "setting"]

# Names that data sets go by in paths, what their pictures are, and what they are called.
_KNOWN = (
    ("mnist", (1, 28, 28), "MNIST"),
    ("cifar", (3, 32, 32), "CIFAR"),
    ("svhn", (3, 32, 32), "SVHN"),
    ("ilsvrc", (3, 256, 256), "ImageNet as Caffe's examples store it"),
    ("imagenet", (3, 256, 256), "ImageNet as Caffe's examples store it"),
)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


def setting(layer: LayerParameter, *names: str) -> int:
    """The first whole number above 0 that ``layer`` sets under one of ``names``, in any of its parameters; else 0.

    Parameters of a fork whose schema is not known are looked at as text.
    """
    for name in names:
        for value in _values(layer, name):
            if value > 0:
                return value
    return 0


def _values(message: Message, name: str) -> Iterator[int]:
    for descriptor, value in message.ListFields():
        items = list(value) if is_repeated(descriptor) else [value]
        if descriptor.message_type is not None:
            for item in items:
                yield from _values(item, name)
        elif descriptor.name == name and isinstance(items[0], int):
            yield items[0]
    for unknown in unknown_fields_of(message):
        if unknown.name == name and _NUMBER.fullmatch(unknown.text):
            yield int(unknown.text)
        elif unknown.text.startswith(("{", "<")):
            for found in re.finditer(rf"\b{name}\s*:\s*([0-9]{{1,9}})\b", unknown.text):
                yield int(found[1])


def batch_of(layer: LayerParameter) -> int:
    """How many items a data layer gives at a time; 1 where it does not say."""
    return setting(layer, "batch_size", "batchsize", "ims_per_batch") or 1


def known_pictures(layer: LayerParameter) -> tuple[tuple[int, int, int], str] | None:
    """Channels, height and width of the pictures of a well-known data set that ``layer`` names, and what it names."""
    for path in _paths(layer):
        for word, shape, title in _KNOWN:
            if word in path.lower():
                return shape, f"{path} is {title}"
    return None


@dataclass(frozen=True)
class Cuts:
    """Where a Slice layer cuts: along ``axis``, at ``points``, into ``count`` pieces."""

    axis: int
    points: tuple[int, ...]
    count: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the pieces; of the last one, which no point tells, the length of the one before it. Without points 1."""
        starts = (0, *self.points)
        told = [end - start for start, end in zip(starts, self.points, strict=False)] or [1]
        return (*told, *[told[-1]] * self.count)[: self.count]


def cuts_of(node: Node) -> Cuts:
    """What the parameters of a Slice layer say."""
    params = Params(node.message.slice_param, "slice_param")
    axis = params.slice_dim if params.has("slice_dim") else params.axis
    return Cuts(int(axis), tuple(params.slice_point), len(node.tops))


def _paths(message: Message) -> Iterator[str]:
    """Names of files that a layer reads."""
    for descriptor, value in message.ListFields():
        for item in list(value) if is_repeated(descriptor) else [value]:
            if descriptor.message_type is not None:
                yield from _paths(item)
            elif descriptor.name in ("source", "mean_file") and isinstance(item, str):
                yield item
