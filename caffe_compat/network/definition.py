"""A network's definition, from a prototxt or from inside a caffemodel, in the current generation of the schema."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from ..errors import UsageError
from ..formats.sniff import is_text
from ..formats.textformat import TextTree, parse_text
from ..formats.weights import WeightsFile, read_weights
from ..schema import Schema, load_schema, split_dialect
from ..schema.binary import decode_net
from ..schema.choice import BlobCounts, mark_doubts
from ..schema.messages import NetParameter
from ..schema.prototxt import bind_tree, read_text
from ..schema.upgrade import upgrade_net
from .python_config import PythonConfig, configured

__all__ = ["Definition", "read_definition"]


@dataclass(frozen=True)
class Definition:
    """A network as its file defines it.

    Attributes:
        message: a current-generation ``NetParameter`` bound to ``schema``.
        dialect_reason: why that schema was chosen, in words. dialect_was_told: whether the user said which.
        notes: what was upgraded. warnings: what Caffe's own reader would refuse.
    """

    path: str
    message: NetParameter
    schema: Schema
    dialect_reason: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    dialect_was_told: bool = False


def read_definition(
    path: str | Path,
    dialect: str | None = None,
    weights: WeightsFile | None = None,
    *,
    filled_from: str | os.PathLike[str] | None = None,
    python_config: PythonConfig | None = None,
    tree: TextTree | None = None,
) -> Definition:
    """Read the network in ``path``: a prototxt, or a caffemodel that carries its own network.

    Args:
        dialect: a dialect's name or the path of a ``.proto`` file; None chooses one by what the file holds.
        weights: ``path`` already opened, if it is a caffemodel.
        filled_from: the weights that a prototxt will be filled from; some forks differ in how many blobs a layer has.
        python_config: what Python layers that are built in have instead of their project's defaults.
        tree: ``path`` already parsed, if it is a text.

    Raises:
        FileError, PrototxtError: the file cannot be read. DialectError: several dialects fit and differ. UsageError:
            the configuration is for no layer of the network.
    """
    found = _read(path, dialect, weights, filled_from, tree)
    told = dialect not in (None, "auto")
    return replace(found, message=configured(found.message, python_config), dialect_was_told=told)


def _read(
    path: str | Path,
    dialect: str | None,
    weights: WeightsFile | None,
    filled_from: str | os.PathLike[str] | None,
    tree: TextTree | None,
) -> Definition:
    dialect = None if dialect in (None, "auto") else dialect
    if tree is not None or (weights is None and is_text(path)):
        tree = tree or parse_text(read_text(path), str(path))
        parsed = bind_tree(tree, dialect=dialect, blobs=None if filled_from is None else _counter(filled_from))
        upgraded = upgrade_net(parsed.message, parsed.schema, str(path))
        return Definition(
            str(path),
            upgraded.message,
            parsed.schema,
            parsed.dialect_reason,
            tuple(upgraded.notes),
            tuple(parsed.warnings),
        )
    if weights is not None:
        return _from_binary(str(path), weights, dialect)
    with read_weights(path) as opened:
        return _from_binary(str(path), opened, dialect)


def _counter(path: str | os.PathLike[str]) -> BlobCounts:
    """How many blobs a weights file holds for each layer, once somebody asks."""

    @cache
    def count() -> dict[str, int]:
        with read_weights(Path(path)) as weights:
            return _blob_counts(weights)

    return count


def _blob_counts(weights: WeightsFile) -> dict[str, int]:
    return {layer.name: len(layer.blobs) for layer in weights.layers}


def _from_binary(path: str, weights: WeightsFile, dialect: str | None) -> Definition:
    if weights.structure is None:
        raise UsageError("its weights come without a network; pass the prototxt too", path=path)
    if dialect is not None:
        schema, reason = load_schema(*split_dialect(dialect)), "asked for"
        message = decode_net(weights.structure, schema, path)
    else:
        from ..schema.infer import infer_binary  # most definitions are texts

        inferred = infer_binary(weights.structure, path, blobs=lambda: _blob_counts(weights))
        schema, reason = inferred.schema, inferred.reason
        if inferred.alternatives:
            reason += f" (also fits: {', '.join(inferred.alternatives[:5])})"
        message = decode_net(weights.structure, schema, path)
        mark_doubts(message, inferred.doubts)
    upgraded = upgrade_net(message, schema, path)
    return Definition(path, upgraded.message, schema, reason, tuple(upgraded.notes))
