"""Which fork wrote a network, where the file does not tell: the only one with whose layers the network can be built.

Forks that all know the types and fields of a file may mean different layers by them (``schema/choice.py``). If the
shapes of the network fit one meaning alone, that one was meant. Nothing else decides: where two fit, or where one of
them cannot be tried, because its layer or an option of it is not known here, the question stays open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...errors import CaffeCompatError, DialectError, UnknownLayerError, is_misfit
from ...schema import BVLC, dialect_names, ships, told_layer_types
from ...schema.messages import NetParameter
from ...schema.printing import format_message
from ...schema.prototxt import parse_message
from ..net import CaffeNet
from ..registry import LayerType, find_layer, registered_types

__all__ = ["only_fit"]

# Builds a message under a dialect, or raises CaffeCompatError.
Build = Callable[[NetParameter, str], CaffeNet]


def only_fit(message: NetParameter, dialect: str, error: CaffeCompatError, build: Build) -> CaffeNet | None:
    """The network under the one fork that it fits, which it says in a warning; None where none or several do.

    Args:
        dialect: what ``message`` is bound to, and what nobody asked for. error: why it cannot be built under it.
    """
    if not ships(dialect):
        return None
    if isinstance(error, DialectError) and not error.gradient_only:
        tries = [[name, f"{name}+{dialect}"] for name in error.choices]
    elif is_misfit(error) and dialect != BVLC:
        tries = [[name] for name in _who_means_otherwise(message, dialect)]
    else:
        return None
    found: list[CaffeNet] = []
    for dialects in tries:
        outcome = _under(message, dialects, build)
        if isinstance(outcome, CaffeNet):
            found.append(outcome)
        elif outcome is not None and not is_misfit(outcome):
            return None
    if len(found) != 1:
        return None
    (net,) = found
    net.warnings.append(
        f"read as {net.graph.dialect} means it: of the forks that know its layers, the shapes fit this one alone"
    )
    return net


def _under(message: NetParameter, dialects: list[str], build: Build) -> CaffeNet | CaffeCompatError | None:
    """The network under the first of ``dialects`` that builds it; else what is wrong under the last that has all of its
    fields, and None if none has."""
    wrong: CaffeCompatError | None = None
    for dialect in dialects:
        try:
            parsed = parse_message(format_message(message), dialect=dialect)
            if not parsed.unknown:
                return build(parsed.message, parsed.schema.name)
        except CaffeCompatError as error:
            wrong = error
    return wrong


def _who_means_otherwise(message: NetParameter, dialect: str) -> Iterator[str]:
    """Forks that have all layer types of a network and mean another layer by one of BVLC's; of those that mean the
    same, the best known."""
    types = sorted({layer.type for layer in message.layer})
    changed = {fork for entry in registered_types() if entry.name in types for fork in entry.dialects}
    seen = {_meanings(types, dialect)}
    for fork in dialect_names():
        if fork not in changed or not told_layer_types(fork).keys() | told_layer_types(BVLC).keys() >= {
            *types,
            "Input",
        }:
            continue
        meanings = _meanings(types, fork)
        if meanings not in seen:
            seen.add(meanings)
            yield fork


def _meanings(types: list[str], dialect: str) -> tuple[LayerType | None, ...]:
    """What a dialect means by each type; None where it is not known here."""
    found: list[LayerType | None] = []
    for name in types:
        try:
            found.append(find_layer(name, dialect))
        except UnknownLayerError:
            found.append(None)
    return tuple(found)
