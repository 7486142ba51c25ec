"""What a file of recorded outputs holds, without running anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..formats.hdf5 import Group, attribute, is_dataset, is_group, members, shape_and_type
from ..network.registry import Shape
from ..parity.reference_files import VERSION, blobs_below, name_of, open_recorded, params_below, stored_shape

__all__ = ["Recorded", "RecordedFile", "describe_recorded"]


@dataclass(frozen=True)
class Recorded:
    """One group: a whole network, or a case.

    Attributes:
        name: what ``FILE:GROUP`` and ``--case`` call it; empty where the file itself is the only one.
        kind: ``network`` (for ``--reference``) or ``case`` (for ``--cases``).
        type, phase, dialect, source, note: its attributes; empty where it has none.
        passes: how many forward passes. inputs, outputs: shapes by blob name, of the first pass.
        whole, sampled: how many blobs are stored whole, and as fingerprints. weights: how many weight blobs.
        gradients: whether a backward pass was recorded.
    """

    name: str
    kind: str
    type: str
    phase: str
    dialect: str
    source: str
    note: str
    passes: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    whole: int
    sampled: int
    weights: int
    gradients: bool


@dataclass(frozen=True)
class RecordedFile:
    """A file of recorded outputs.

    Attributes:
        version: of its layout. source: the program that it was recorded with, where the file says so for all groups.
        size: bytes.
    """

    path: str
    version: int
    source: str
    size: int
    groups: tuple[Recorded, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, under the names of the attributes."""
        return asdict(self)


def describe_recorded(path: str | os.PathLike[str]) -> RecordedFile:
    """What is in the file at ``path``; arrays are not read.

    Raises:
        FileError: it cannot be read, or a later release wrote it.
    """
    with open_recorded(path) as file:
        source = _text(file, "source")
        groups = tuple(_groups(file, source))
        version = int(attribute(file, "version", VERSION))
    return RecordedFile(os.fspath(path), version, source, os.stat(path).st_size, groups)


def _groups(file: Group, source: str) -> Iterator[Recorded]:
    entries = members(file)
    if "blob" in entries or any(name.startswith("batch_") for name in entries):
        yield _recorded("", file, source)
        return
    for name, entry in entries.items():
        if is_group(entry):
            yield _recorded(name_of(entry, name), entry, source)


def _recorded(name: str, group: Group, source: str) -> Recorded:
    entries = members(group)
    passes = sorted(key for key, entry in entries.items() if key.startswith("batch_") and is_group(entry))
    first = entries[passes[0]] if passes else group
    of_network = bool(passes) or "blob" in entries
    blobs = {**blobs_below(first, "top"), **blobs_below(first, "blob")}
    # Arrays beside the groups are inputs; where nothing else is stored, of a data layer, they are all there is.
    beside = {key: entry for key, entry in members(first).items() if is_dataset(entry)}
    inputs = {**(beside if blobs else {}), **blobs_below(first, "bottom")}
    blobs = blobs or beside
    return Recorded(
        name=name,
        kind="network" if of_network else "case",
        type=_text(group, "type") or ("Net" if of_network else name.partition(".")[0]),
        phase=_text(group, "phase"),
        dialect=_text(group, "dialect"),
        source=_text(group, "source") or source,
        note=_text(group, "note"),
        passes=len(passes) or 1,
        inputs={blob: _shape(entry) for blob, entry in inputs.items()},
        outputs={blob: _shape(entry) for blob, entry in blobs_below(first, "top").items()},
        whole=sum(not is_group(entry) for entry in blobs.values()),
        sampled=sum(is_group(entry) for entry in blobs.values()),
        weights=len(params_below(group, "param")),
        gradients=any(key in members(first) for key in ("bottom_diff", "param_diff")),
    )


def _shape(entry: Any) -> Shape:
    return stored_shape(entry) if is_group(entry) else shape_and_type(entry)[0] or ()


def _text(group: Group, name: str) -> str:
    value = attribute(group, name, "")
    return value if isinstance(value, str) else str(value)
