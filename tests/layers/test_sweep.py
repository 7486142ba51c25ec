"""No parameter is read and not honoured: each that a builder reads is changed, and something must come of it."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pytest

from caffe_compat import layers as _layers  # noqa: F401  registers what ships
from caffe_compat.network.registry import LayerType, find_layer, registered_types
from tests.layers.sweep import Base, Outcome, changes, differ, outcome, read_paths, stored_bases, under
from tests.layers.sweep_networks import own_bases

Place = tuple[Base, int]

# Tests register types of their own, which this one need not know.
SHIPPED = tuple(entry for entry in registered_types() if entry.build.__module__.startswith("caffe_compat."))


@cache
def _bases() -> tuple[Base, ...]:
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
def _places() -> dict[tuple[LayerType, str], list[Place]]:
    """By meaning of a layer type and parameter: the networks that read it, and which of their layers does."""
    places: dict[tuple[LayerType, str], list[Place]] = defaultdict(list)
    for base in _bases():
        for i, paths in base.paths.items():
            entry = find_layer(base.message.layer[i].type, base.dialect)
            for path in paths:
                places[entry, path].append((base, i))
    return places


_OUTCOMES: dict[int, Outcome] = {}


def _is_honoured(base: Base, layer: int, path: str) -> bool:
    if id(base) not in _OUTCOMES:
        _OUTCOMES[id(base)] = outcome(base, base.message)
    return any(differ(_OUTCOMES[id(base)], outcome(base, message)) for message in changes(base, layer, path))


def _label(entry: LayerType) -> str:
    return entry.name + (f" of {entry.dialects[0]}" if entry.dialects else "")


# Those with the most parameters, or the most expensive ones.
LONG = {"ANGLE_LOSS", "DenseBlock", "GaussianYolov3", "MultiBoxLoss", "Yolov3"}
NAMES = sorted({entry.name for entry in SHIPPED})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES]
)
def test_every_parameter_that_is_read_counts(name: str) -> None:
    dead = [
        f"{_label(entry)}: {path}"
        for (entry, path), places in _places().items()
        if entry.name == name and not any(_is_honoured(base, i, path) for base, i in places)
    ]
    assert dead == []


def test_every_meaning_of_every_type_is_swept() -> None:
    built = {id(find_layer(base.message.layer[i].type, base.dialect)) for base in _bases() for i in base.paths}
    assert {_label(entry) for entry in SHIPPED if id(entry) not in built} == set()
