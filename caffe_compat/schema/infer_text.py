"""Which forks of Caffe fit a network in text? Names decide: those of fields, of enum values and of layer types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..display import brief
from ..formats.textformat import Field
from . import BVLC, dialect_names, dialects_mentioning, merged_file, read_dialect
from .protofile import FieldDef, ProtoFile
from .uses import Use
from .v1_types import V1_TYPES, string_type
from .which_meaning import meaning_of

__all__ = [
    "Missing",
    "covering",
    "fewest_misfits",
    "is_bvlcs",
    "knowing",
    "listed",
    "reading",
    "taking_several",
    "together",
]


def listed(words: Sequence[str], most: int = 5) -> str:
    """``a, b and 3 more``"""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(brief(word) for word in words[:most]) + more


class Missing(NamedTuple):
    """What a text names and the BVLC schema lacks: a field, an enum value or a layer type.

    ``where`` is the message or enum that lacks it, or "type"; ``inner`` the dotted names inside an unknown message.
    """

    where: str
    name: str
    inner: frozenset[str] = frozenset()


def covering(missing: Sequence[Missing]) -> list[str]:
    """The dialects that supply all of ``missing``, best known first."""
    candidates = dialects_mentioning(item.name for item in missing)
    found = [name for name in candidates if all(_supplies(name, item, True) for item in missing)]
    return [name for name in found if all(_has_layer(name, item) for item in missing)] or found


def together(missing: Sequence[Missing]) -> tuple[list[str], str]:
    """The fewest well-known dialects that together supply ``missing``, and the reason in words."""
    candidates = dialects_mentioning(item.name for item in missing)
    chosen: list[str] = []
    reasons: list[str] = []
    left = set(missing)
    # A dialect whose message of that name has other fields inside is better than none, but only than none.
    for with_inner in (True, False):
        supplies = {name: {item for item in left if _supplies(name, item, with_inner)} for name in candidates}
        while left:
            best = max(candidates, key=lambda name: len(supplies[name] & left), default=None)  # the first of equals
            if best is None or not supplies[best] & left:
                break
            found = supplies[best] & left
            others = [n for n in candidates if n != best and supplies[n] >= found]
            reasons.append(knowing(best, found, len(others)))
            if best not in chosen:
                chosen.append(best)
            left -= found
    if left and chosen:
        reasons.append(f"no dialect knows {listed(sorted({item.name for item in left}))}")
    return chosen, "; ".join(reasons)


def knowing(dialect: str, items: Iterable[Missing], others: int) -> str:
    """Why a dialect was chosen, in words."""
    also = f" (as do {others} other dialects)" if others else ""
    return f"{dialect} knows {listed(sorted({item.name for item in items}))}{also}"


def _supplies(dialect: str, item: Missing, with_inner: bool) -> bool:
    file, layer_types = read_dialect(dialect)
    if item.where == "type":
        return item.name in layer_types
    if item.where in file.enums:
        return item.name in file.enums[item.where].values
    field = file.messages.get(item.where, {}).get(item.name)
    if field is None or not with_inner or not item.inner:
        return field is not None
    messages = merged_file(dialect)[0].messages
    return all(_has_path(messages, field.type, path.split(".")) for path in item.inner)


def _has_layer(dialect: str, item: Missing) -> bool:
    """Whether there is code for what may be a V1 type: later forks list types in their schema that they dropped."""
    types = read_dialect(dialect)[1]
    return item.where != V1_TYPES or not types or string_type(item.name, tuple(types)) in types


def _has_path(messages: dict[str, dict[str, FieldDef]], message: str, path: Sequence[str]) -> bool:
    for name in path:
        field = messages.get(message, {}).get(name)
        if field is None:
            return False
        message = field.type
    return True


def reading(use: Use) -> list[str]:
    """Every dialect that has the layer's type and knows all the fields that it sets, best known first."""
    return [name for name in dialect_names()[1:] if _reads(name, use)]


def is_bvlcs(use: Use) -> bool:
    """Whether BVLC has the layer's type and knows all the fields that it sets."""
    return _reads(BVLC, use)


def _reads(dialect: str, use: Use) -> bool:
    file, types = merged_file(dialect)
    layer_type = use.type if use.generation == "LayerParameter" else string_type(use.type, tuple(types))
    known = all(_has_path(file.messages, use.generation, path.split(".")) for path in use.set)
    return known and meaning_of(layer_type, dialect) is not None


# Values


@lru_cache(maxsize=256)
def taking_several(message: str, name: str) -> tuple[str, ...]:
    """The dialects in which field ``name`` of ``message`` takes several values, best known first."""
    own = {dialect: read_dialect(dialect)[0].messages.get(message, {}) for dialect in dialects_mentioning([name])}
    return tuple(dialect for dialect, fields in own.items() if name in fields and fields[name].label == "repeated")


def fewest_misfits(candidates: Sequence[str], message: str, fields: Sequence[Field]) -> list[str]:
    """Those dialects under which the fewest values of a text do not fit their fields.

    They are of another kind, or one too many, or missing where there must be one.
    """
    counts = {name: _misfits(merged_file(name)[0], _required(name), message, fields) for name in candidates}
    return [name for name in candidates if counts[name] == min(counts.values())]


@lru_cache(maxsize=4096)
def _required(dialect: str) -> dict[str, frozenset[str]]:
    """By message, the fields that must be given."""
    messages = merged_file(dialect)[0].messages
    found = {name: {f.name for f in fields.values() if f.label == "required"} for name, fields in messages.items()}
    return {name: frozenset(required) for name, required in found.items() if required}


def _misfits(file: ProtoFile, required: dict[str, frozenset[str]], message: str, fields: Sequence[Field]) -> int:
    known, seen, count = file.messages.get(message, {}), set(), 0
    for f in fields:
        field = known.get(f.name)
        if field is None:
            continue
        count += field.label != "repeated" and f.name in seen
        seen.add(f.name)
        if (field.type in file.messages) != (f.value.kind == "message"):
            count += 1
        elif f.value.kind == "message":
            count += _misfits(file, required, field.type, f.value.fields)
        elif field.type in file.enums:
            count += f.value.kind == "name" and f.value.text not in file.enums[field.type].values
        elif field.type == "bool":
            count += f.value.text not in ("true", "false", "True", "False", "t", "f", "0", "1")
        elif field.type in ("string", "bytes"):
            count += f.value.kind != "string"
        else:
            count += f.value.kind != "number" and f.value.text.lstrip("-").lower() not in ("inf", "nan")
    return count + len(required.get(message, frozenset()) - seen)
