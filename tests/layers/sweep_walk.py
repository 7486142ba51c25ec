"""Every meaning of every layer type, with the networks that have it and the parameters that its builder reads."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from caffe_compat import layers as _layers  # noqa: F401  registers what ships
from caffe_compat.network.registry import LayerType, find_layer, registered_types
from tests.layers.sweep import Base, read_paths, stored_bases, under
from tests.layers.sweep_networks import own_bases

Place = tuple[Base, int]

# Tests register types of their own, which this one need not know.
SHIPPED = tuple(entry for entry in registered_types() if entry.build.__module__.startswith("caffe_compat."))
NAMES = sorted({entry.name for entry in SHIPPED})


@cache
def all_bases() -> tuple[Base, ...]:
    """Stored cases, and our own networks, which must build; for a meaning that none has, another fork's text."""
    bases = list(stored_bases())
    built = {id(find_layer(layer.type, base.dialect)) for base in bases for layer in base.message.layer if layer.bottom}
    by_type: dict[str, list[Base]] = defaultdict(list)
    for base in bases:
        for i in base.paths:
            by_type[base.message.layer[i].type].append(base)
    for entry in SHIPPED:
        if id(entry) not in built:
            read = [other for base in by_type[entry.name] for fork in entry.dialects if (other := under(base, fork))]
            bases += read
    for base in own_bases():
        read_paths(base)
        bases.append(base)
    return tuple(bases)


@cache
def places() -> dict[tuple[LayerType, str], list[Place]]:
    """By meaning of a layer type and parameter: the networks that read it, and which of their layers does."""
    found: dict[tuple[LayerType, str], list[Place]] = defaultdict(list)
    for base in all_bases():
        for i, paths in base.paths.items():
            entry = find_layer(base.message.layer[i].type, base.dialect)
            for path in paths:
                found[entry, path].append((base, i))
    return found


def label_of(entry: LayerType) -> str:
    """The type, and of which fork it is."""
    return entry.name + (f" of {entry.dialects[0]}" if entry.dialects else "")
