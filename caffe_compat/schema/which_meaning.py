"""What a dialect means by a layer type."""

from __future__ import annotations

from functools import lru_cache

from . import BVLC, merged_file, told_layer_types
from .meanings import MEANINGS
from .uses import Meaning

__all__ = ["meaning_of"]


@lru_cache(maxsize=4096)
def meaning_of(layer_type: str, dialect: str) -> Meaning | None:
    """What ``dialect`` (one name, or the path of a ``.proto`` file) means by a layer type; None if that is not known.

    A dialect that tells no layer types, such as a user's own file, is taken to mean what those forks mean whose
    parameters it declares. A type that is not in the table has one meaning, named after no fork.
    """
    meanings = MEANINGS.get(layer_type, (Meaning(""),))
    if len(meanings) == 1:
        return meanings[0]
    for meaning in meanings:
        if dialect == meaning.fork or dialect in (meaning.also or ()):
            return meaning
    others = sorted((meaning for meaning in meanings if meaning.also is None), key=lambda m: not m.reads)
    types = told_layer_types(dialect)
    if types:
        read = types.get(layer_type, told_layer_types(BVLC).get(layer_type))
        return None if read is None else next((m for m in others if not m.reads or m.reads in read), None)
    alike = {meaning: _likeness(layer_type, dialect, meaning.fork) for meaning in meanings}
    most = max(alike.values())
    found = [meaning for meaning, fields in alike.items() if fields == most >= 0]
    found = [meaning for meaning in found if not meaning.quiet] or found
    return found[0] if len(found) == 1 else None


def _likeness(layer_type: str, dialect: str, fork: str) -> int:
    """How many fields ``dialect`` declares as ``fork`` does for the parameters of a type; -1 if it declares others."""
    (mine, _), (theirs, types) = merged_file(dialect), merged_file(fork)
    count = 0
    for name in types.get(layer_type, ()):
        field, expected = (file.messages["LayerParameter"].get(name) for file in (mine, theirs))
        if field is None or expected is None:
            return -1
        fields, expected_fields = (
            {f.name: (f.type, f.label, f.default) for f in file.messages[type_].values()}
            for file, type_ in ((mine, field.type), (theirs, expected.type))
        )
        if fields != expected_fields:
            return -1
        count += len(fields)
    return count
