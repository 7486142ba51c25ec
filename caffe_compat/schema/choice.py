"""Choosing among the forks that fit a file: they must mean the same by every layer, with the same defaults.

Where they do, the best known is taken. Where they do not, the layer is in doubt (:mod:`.doubt`), and who wants to build
it has to say which fork wrote the file. Three things narrow the choice before: what a fork's code would refuse, such as
a number of bottoms; a quiet change of one fork, which nobody could tell from the file; and, among the layer types and
fields of BVLC, what a fork made of them: a file that marks nothing means BVLC's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeGuard

from . import BVLC, is_repeated, merged_file, split_dialect
from .doubt import Doubt, keep_doubt
from .enums import enum_name
from .meanings import MEANINGS
from .messages import LayerParameter, Message, NetParameter, V1LayerParameter
from .params import HOW_NOT_WHAT
from .protofile import FieldDef, ProtoFile
from .unknown import unknown_fields_of
from .uses import Meaning, Use
from .v1_types import plain, string_type
from .which_meaning import meaning_of

__all__ = [
    "NETS_IN_SOLVER",
    "BlobCounts",
    "doubt_under",
    "is_misread",
    "is_read_by",
    "mark_doubts",
    "may_come_from",
    "remaining_doubt",
    "settle",
    "uses_of",
]

# By layer name, how many blobs the weights at hand hold for it; called only if that can settle something.
BlobCounts = Callable[[], Mapping[str, int]]

NETS_IN_SOLVER = ("net_param", "train_net_param", "test_net_param")
_GENERATIONS = (("layer", "LayerParameter"), ("layers", "V1LayerParameter"))
# Parameters that many layer types read, whatever their names are.
_COMMON = ("param", "include", "exclude", "layer", "transform_param", "loss_param")


# What the layers of a file tell


def uses_of(message: Message, blobs: BlobCounts | None = None) -> list[Use]:
    """The layers of a network or of the networks in a solver whose types have several meanings."""
    return [use for where, net in _nets(message) for use in _uses_of_net(net, where, blobs)]


def _nets(message: Message) -> Iterator[tuple[tuple[str | int, ...], NetParameter]]:
    if _is_net(message):
        yield (), message
    known = message.DESCRIPTOR.fields_by_name
    for name in NETS_IN_SOLVER:
        if name not in known:
            continue
        if is_repeated(known[name]):
            yield from (((name, i), net) for i, net in enumerate(getattr(message, name)))
        elif message.HasField(name):
            yield (name,), getattr(message, name)


def _is_net(message: Message) -> TypeGuard[NetParameter]:
    return "layer" in message.DESCRIPTOR.fields_by_name


def _uses_of_net(net: NetParameter, where: tuple[str | int, ...], blobs: BlobCounts | None) -> Iterator[Use]:
    inputs = dict(_declared_inputs(net))
    for field, generation in _GENERATIONS:
        for i, layer in enumerate(getattr(net, field)):
            kind = _type_of(layer)
            if plain(kind) not in _SEVERAL:
                continue
            counts = blobs() if blobs is not None and plain(kind) in _TOLD_BY_BLOBS else {}
            yield Use(
                (*where, field, i),
                kind,
                generation,
                len(layer.bottom),
                len(layer.top),
                tuple(inputs.get(name) for name in layer.bottom),
                counts.get(layer.name),
                frozenset(name for name, _ in _set_in(layer, "")),
                frozenset(name for name, value in _set_in(layer, "") if value is True),
            )


_SEVERAL = frozenset(map(plain, MEANINGS))
_TOLD_BY_BLOBS = frozenset(plain(name) for name, meanings in MEANINGS.items() if any(m.blobs for m in meanings))


def _type_of(layer: LayerParameter | V1LayerParameter) -> str:
    """The layer's type as written: a string, or the name of V1's enum value."""
    descriptor = layer.DESCRIPTOR.fields_by_name["type"]
    if descriptor.enum_type is None:
        return str(layer.type)
    if layer.HasField("type"):
        return enum_name(layer, "type")
    return next((u.text.strip("\"'") for u in unknown_fields_of(layer) if u.name == "type"), "")


def _declared_inputs(net: NetParameter) -> Iterator[tuple[str, tuple[int, ...]]]:
    for i, name in enumerate(net.input):
        if i < len(net.input_shape):
            yield name, tuple(net.input_shape[i].dim)
        elif len(net.input_dim) >= 4 * i + 4:
            yield name, tuple(net.input_dim[4 * i : 4 * i + 4])
    for layer in net.layer:
        if layer.type == "Input":
            shapes = layer.input_param.shape
            for i, name in enumerate(layer.top):
                if shapes:
                    yield name, tuple(shapes[min(i, len(shapes) - 1)].dim)


def _set_in(message: Message, prefix: str) -> Iterator[tuple[str, object]]:
    """Dotted names and values of the fields that are set in a message and in those inside it."""
    for descriptor, value in message.ListFields():
        yield prefix + descriptor.name, value
        if descriptor.message_type is not None:
            for item in value if is_repeated(descriptor) else (value,):
                yield from _set_in(item, f"{prefix}{descriptor.name}.")
    yield from ((prefix + unknown.name, unknown.text) for unknown in unknown_fields_of(message))


def mark_doubts(message: Message, doubts: Mapping[tuple[str | int, ...], Doubt]) -> None:
    """Keep each doubt in the layer that it is about."""
    for where, doubt in doubts.items():
        layer: Any = message
        for step in where:
            layer = layer[step] if isinstance(step, int) else getattr(layer, step)
        keep_doubt(layer, doubt)


# Which forks remain, and what they disagree on


def settle(uses: Sequence[Use], candidates: Sequence[str]) -> tuple[list[str], dict[tuple[str | int, ...], Doubt]]:
    """Those of ``candidates`` (dialects, best known first) that are left, and the layers they disagree on."""
    left = list(candidates)
    for keep in (_has_type, _reads_all, _is_expected, _fits):
        for use in uses:
            left = [dialect for dialect in left if keep(use, dialect)] or left
    # Whose layers make no difference here, but might refuse more, comes after those whose layers they equal.
    left.sort(key=lambda dialect: sum(_meaning(use, dialect) != _own_meaning(use, dialect) for use in uses))
    doubts = {}
    for use in uses:
        doubt = _doubt(use, left)
        if doubt is not None:
            doubts[use.where] = doubt
    return left, doubts


def remaining_doubt(doubt: Doubt, shapes: Sequence[tuple[int, ...]], dialect: str) -> Doubt | None:
    """What is left of a doubt once the shapes of the layer's bottoms are known; None if ``dialect`` is right then."""
    return doubt_under(split_dialect(dialect), replace(doubt.use, shapes=tuple(shapes)), doubt.dialects)


def doubt_under(dialects: Sequence[str], use: Use, candidates: Sequence[str]) -> Doubt | None:
    """The doubt about a layer that is read by the first of ``dialects`` that has its type; candidates fit the file."""
    left, doubts = settle([use], candidates)
    if use.where in doubts:
        return doubts[use.where]
    taken = next((meaning for one in dialects if (meaning := _meaning(use, one)) is not None), None)
    if taken == _meaning(use, left[0]):
        return None
    text = f"by {use.type}, the file means what {left[0]} does. Read it so: `--dialect {left[0]}`"
    return Doubt(text, False, use, tuple(candidates), (left[0],))


def is_misread(use: Use, dialect: str) -> bool:
    """Whether a layer cannot be the dialect's: it has no such type, or would refuse the layer."""
    return not (_has_type(use, dialect) and _fits(use, dialect))


def may_come_from(use: Use, dialect: str) -> bool:
    """Whether a layer may be the dialect's, and nothing in it would have to be guessed."""
    return not is_misread(use, dialect) and _is_expected(use, dialect)


def _has_type(use: Use, dialect: str) -> bool:
    return _meaning(use, dialect) is not None


def _fits(use: Use, dialect: str) -> bool:
    meaning = _meaning(use, dialect)
    if meaning is None:
        return True
    return (meaning.fits is None or meaning.fits(use)) and (
        None in (meaning.blobs, use.blobs) or meaning.blobs == use.blobs
    )


def _reads_all(use: Use, dialect: str) -> bool:
    """Whether the dialect's layer is known to read every parameter that the file sets."""
    file, types = merged_file(dialect)
    fields = file.messages[use.generation]
    read = (*types.get(_string_type(use, dialect), ()), *_COMMON)
    return all(name in read for name in use.set if name in fields and fields[name].type in file.messages)


def _is_expected(use: Use, dialect: str) -> bool:
    """Whether a file without a mark may be the dialect's: no quiet change, BVLC's types with BVLC's defaults."""
    meaning = _meaning(use, dialect)
    if meaning is not None and meaning.quiet:
        return False
    layer_type = _string_type(use, dialect)
    if layer_type not in merged_file(BVLC)[1]:
        return True
    own = _defaults(layer_type, dialect)
    return all(own.get(path, value) == value or path in use.set for path, value in _defaults(layer_type, BVLC).items())


def is_read_by(layer_type: str, field: FieldDef, layer_types: Mapping[str, tuple[str, ...]], file: ProtoFile) -> bool:
    """Whether layers of a type read a field with parameters: by the dialect's own code, or by their names."""
    if field.type not in file.messages or field.name in _COMMON or field.name in layer_types.get(layer_type, ()):
        return True
    kind, name = plain(layer_type), plain(field.name.removesuffix("_param"))
    message = plain(field.type.removesuffix("Parameter"))
    return name in kind or kind in name or message in kind or kind in message


def _string_type(use: Use, dialect: str) -> str:
    return use.type if use.generation == "LayerParameter" else string_type(use.type, tuple(merged_file(dialect)[1]))


def _meaning(use: Use, dialect: str) -> Meaning | None:
    """What a dialect means by this very layer; None if it has no such type."""
    meaning = _own_meaning(use, dialect)
    while meaning is not None and meaning.when is not None and meaning.when(use):
        meaning = next(m for m in MEANINGS[_string_type(use, dialect)] if m.fork == meaning.same)
    return meaning


def _own_meaning(use: Use, dialect: str) -> Meaning | None:
    """What a dialect means by layers of this type."""
    return meaning_of(_string_type(use, dialect), dialect)


def _doubt(use: Use, dialects: Sequence[str]) -> Doubt | None:
    groups: dict[tuple[str, str], list[str]] = {}
    meanings: dict[tuple[str, str], Meaning] = {}
    for dialect in dialects:
        meaning = _meaning(use, dialect)
        if meaning is not None:
            key = (_string_type(use, dialect), meaning.fork)
            groups.setdefault(key, []).append(dialect)
            meanings[key] = meaning
    if len(groups) > 1:
        alike = {(kind, meanings[kind, fork].same_tops or fork) for kind, fork in groups}
        what = "gradient" if len(alike) == 1 else "layer"
        found = "; ".join(_named(meanings[key].says, forks) for key, forks in groups.items())
        return Doubt(
            f"several forks of Caffe fit the file, and by {use.type} they do not mean the same {what}: {found}. "
            f"Say which one wrote it, for example `--dialect {next(iter(groups.values()))[0]}`",
            len(alike) == 1,
            use,
            tuple(dialects),
            tuple(forks[0] for forks in groups.values()),
        )
    for path, values in _differing_defaults(use, dialects).items():
        found = "; ".join(_named(value, forks) for value, forks in values.items())
        return Doubt(
            f"several forks of Caffe fit the file, and {path}, which it leaves out, has different defaults: {found}. "
            f"Say which one wrote it, for example `--dialect {dialects[0]}`",
            False,
            use,
            tuple(dialects),
            tuple(forks[0] for forks in values.values()),
        )
    return None


def _named(says: str, forks: Sequence[str]) -> str:
    named = forks[0] + (f" and {len(forks) - 1} more" if len(forks) > 1 else "")
    return f"{says} ({named})" if says else named


# Defaults


# Parameters whose default has no bearing where another one is on: statistics that are used as they are given are not
# those of the batch, which aharley/segaware and synopsys-caffe update or not. (Their ``batch_norm_layer.cpp``)
_MOOT = {"batch_norm_param.update_global_stats": "batch_norm_param.use_global_stats"}


def _differing_defaults(use: Use, dialects: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Parameters that the layer leaves to their defaults and that have several: by default, the dialects."""
    found: dict[str, dict[str, list[str]]] = {}
    for dialect in dialects:
        for path, default in _defaults(_string_type(use, dialect), dialect).items():
            if path not in use.set and _MOOT.get(path) not in use.on:
                found.setdefault(path, {}).setdefault(default, []).append(dialect)
    return {path: values for path, values in found.items() if len(values) > 1}


@lru_cache(maxsize=4096)
def _defaults(layer_type: str, dialect: str) -> dict[str, str]:
    """Dotted names of the parameters that a type reads, and the defaults that a dialect gives them."""
    file, types = merged_file(dialect)
    layer = file.messages["LayerParameter"]
    return {
        path: default
        for name in types.get(layer_type, ())
        if name in layer and name != "transform_param"  # what it does to images is no part of a layer's meaning
        for path, default in _defaults_in(file, layer[name].type, f"{name}.", ())
    }


def _defaults_in(file: ProtoFile, message: str, prefix: str, within: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    for field in file.messages.get(message, {}).values():
        if field.name in HOW_NOT_WHAT:
            continue
        if field.default is not None:
            yield prefix + field.name, _normal(field.default)
        elif field.label != "repeated" and field.type not in within:
            yield from _defaults_in(file, field.type, f"{prefix}{field.name}.", (*within, message))


def _normal(default: str) -> str:
    """A default as text, with one spelling for each number."""
    try:
        return f"{float(default):g}"
    except ValueError:
        return default
