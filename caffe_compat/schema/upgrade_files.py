"""Files of old generations written in the current form."""

from __future__ import annotations

import os
from dataclasses import replace

from ..errors import NetworkError
from ..formats.files import atomic_write
from . import load_schema, split_dialect
from .messages import Message, NetParameter
from .printing import format_message
from .prototxt import read_message
from .upgrade import Upgraded, upgrade_net, upgrade_solver

__all__ = ["upgrade_caffemodel", "upgrade_prototxt", "upgrade_solver_prototxt"]


def upgrade_prototxt(
    in_path: str | os.PathLike[str], out_path: str | os.PathLike[str], dialect: str | None = None
) -> Upgraded[Message]:
    """Write the network or solver in text ``in_path`` to ``out_path`` in the current form, unknown fields included.

    Raises:
        FileError, PrototxtError, NetworkError: nothing is written.
    """
    path = os.fspath(in_path)
    parsed = read_message(path, dialect=dialect)
    net = parsed.message
    solver_fields = parsed.schema.message("SolverParameter").DESCRIPTOR.fields_by_name
    if not (net.layer or net.layers) and any(u.name in solver_fields for u in parsed.unknown):
        return upgrade_solver_prototxt(in_path, out_path, dialect)
    return _written(out_path, upgrade_net(net, parsed.schema, path), parsed.warnings)


def upgrade_solver_prototxt(
    in_path: str | os.PathLike[str], out_path: str | os.PathLike[str], dialect: str | None = None
) -> Upgraded[Message]:
    """Write the solver in text ``in_path`` to ``out_path`` in the current form. Errors as :func:`upgrade_prototxt`."""
    path = os.fspath(in_path)
    solver = read_message(path, "SolverParameter", dialect)
    return _written(out_path, upgrade_solver(solver.message, solver.schema, path), solver.warnings)


def _written(out_path: str | os.PathLike[str], upgraded: Upgraded[Message], warnings: list[str]) -> Upgraded[Message]:
    with atomic_write(out_path) as handle:
        handle.write(format_message(upgraded.message).encode())
    return replace(upgraded, notes=[*warnings, *upgraded.notes])


def upgrade_caffemodel(
    in_path: str | os.PathLike[str], out_path: str | os.PathLike[str], dialect: str | None = None
) -> Upgraded[NetParameter]:
    """Write the binary network in ``in_path`` to ``out_path`` in the current form, its blobs unchanged.

    Raises:
        FileError, WireError, NetworkError, DialectError: nothing is written.
    """
    # Text, which needs none of them, is upgraded in a third of the time that numpy alone takes to import.
    from ..formats.weights import read_weights, write_caffemodel
    from .binary import decode_net
    from .infer import infer_binary

    path = os.fspath(in_path)
    with read_weights(path) as weights:
        if weights.structure is None:
            raise NetworkError("HDF5 weights carry no network, and so nothing to upgrade", path=path)
        if dialect is None:
            inferred = infer_binary(weights.structure, path)
            schema, reason = inferred.schema, inferred.reason
        else:
            schema, reason = load_schema(*split_dialect(dialect)), "asked for"
        upgraded = upgrade_net(decode_net(weights.structure, schema, path), schema, path)
        blobs = [() if origin is None else weights.layers[origin].blobs for origin in upgraded.origins]
        old = any(record.generation < 2 for record in weights.layers)
        write_caffemodel(out_path, upgraded.message.SerializePartialToString(), blobs, legacy_shapes=old)
    return replace(upgraded, notes=[f"dialect {schema.name}: {reason}", *upgraded.notes])
