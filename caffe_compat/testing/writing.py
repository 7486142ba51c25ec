"""A first ``parity.toml``, of a model that was just compared."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..formats.files import atomic_write
from ..parity.tolerance import NET_TOLERANCE
from .suite import ParityTest

__all__ = ["write_suite"]


def write_suite(path: str | os.PathLike[str], test: ParityTest) -> None:
    """Write ``test`` down as a suite that :func:`~caffe_compat.testing.suite.read_suite` reads; paths become relative.

    Raises:
        UsageError: there is such a file; it may hold more than this one would. FileError: it cannot be written.
    """
    if os.path.exists(path):
        raise UsageError("is there already; add a [[models]] table to it by hand", path=os.fspath(path))
    folder = Path(path).resolve().parent
    here = {"name": test.name, "model" if test.weights is None else "prototxt": _relative(test.model, folder)}
    if test.weights is not None:
        here["weights"] = _relative(test.weights, folder)
    here["reference"] = _relative(test.reference, folder)
    entry: dict[str, Any] = dict(here)
    if test.inputs:
        entry["inputs"] = {blob: _relative(file, folder) for blob, file in test.inputs.items()}
    if test.tolerance != NET_TOLERANCE:
        entry["tolerance"] = {test.precision: test.tolerance.relative}
    if not test.is_file:
        entry |= {"formats": [test.form], "devices": [test.device], "precisions": [test.precision]}
        entry |= {"optimize": [test.optimized], **_loading(test.options, folder)}
    lines = ["[[models]]", *(f"{key} = {_toml(value)}" for key, value in entry.items())]
    with atomic_write(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _loading(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What load() was told, without what it takes for granted."""
    if options.get("allow_python"):
        raise UsageError("a parity.toml cannot allow Python layers: whoever runs its tests would run their code")
    told = {key: value for key, value in options.items() if value and (key, value) != ("phase", "test")}
    if "root" in told:
        told["root"] = _relative(told["root"], folder)
    return told


def _relative(name: str, folder: Path) -> str:
    return Path(os.path.relpath(name, folder)).as_posix()


def _toml(value: Any) -> str:
    """A value in TOML; JSON's strings, numbers and lists are TOML's, too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
