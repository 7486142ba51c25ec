"""Records of finished actions: what their files were made from, so that a run that starts again keeps those that hold.

A record is a small JSON file beside an action's files, written after them: without it an action is not finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from caffe_compat.errors import CaffeCompatError
from caffe_compat.formats.files import atomic_write, open_file, sha256_of

__all__ = ["Finished", "kept", "made_otherwise", "outdated", "write_record"]


@dataclass(frozen=True)
class Finished:
    """A finished action."""

    action: int
    frames: int
    kept: bool
    """Found finished from an earlier run."""


F = TypeVar("F", bound=Finished)


def kept(record: Path, kind: type[F], made_from: Mapping[str, Any], outputs: Sequence[Path]) -> F | None:
    """What an earlier run wrote of an action, if it was made from the same and its files are as it left them."""
    if not record.exists() or not all(path.exists() for path in outputs):
        return None
    try:
        with open_file(record) as handle:
            content = json.load(handle)
        if content["made_from"] != json.loads(json.dumps(made_from)) or content["outputs"] != _sums(outputs):
            return None
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content["done"].items()}
        return replace(kind(**values), kept=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # No record of ours, or half of one: the action is done again.
        return None


def made_otherwise(record: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether ``record`` is of an action that was made from something else than ``made_from``, as far as it says."""
    try:
        with open_file(record) as handle:
            found = json.load(handle)["made_from"]
        return any(found.get(name, value) != value for name, value in json.loads(json.dumps(made_from)).items())
    except (CaffeCompatError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def outdated(record: Path, outputs: Sequence[Path] = ()) -> list[Path]:
    """Files beside ``record`` that it says an earlier run wrote, and that are none of ``outputs``.

    Only files that are as that run left them: a record is a file that anyone may have written.
    """
    try:
        with open_file(record) as handle:
            listed = json.load(handle)["outputs"].items()
        names = {path.name for path in outputs}
        found = [(record.parent / Path(name).name, total) for name, total in listed if name not in names]
        return [path for path, total in found if path.is_file() and sha256_of(path) == total]
    except (CaffeCompatError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def write_record(record: Path, done: Finished, made_from: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Say that an action is finished. Raises FileError."""
    content = {"made_from": made_from, "outputs": _sums(outputs), "done": asdict(done)}
    with atomic_write(record) as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode())


def _sums(outputs: Sequence[Path]) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in outputs}
