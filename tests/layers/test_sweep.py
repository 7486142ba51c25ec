"""No parameter is read and not honoured: each that a builder reads is changed, and something must come of it."""

from __future__ import annotations

import pytest

from caffe_compat.network.registry import find_layer
from tests.layers.sweep import Base, Outcome, changes, differ, outcome
from tests.layers.sweep_walk import NAMES, SHIPPED, all_bases, label_of, places

_OUTCOMES: dict[int, Outcome] = {}


def _is_honoured(base: Base, layer: int, path: str) -> bool:
    if id(base) not in _OUTCOMES:
        _OUTCOMES[id(base)] = outcome(base, base.message)
    return any(differ(_OUTCOMES[id(base)], outcome(base, message)) for message in changes(base, layer, path))


# Those with the most parameters, or the most expensive ones.
LONG = {"ANGLE_LOSS", "ConvolutionDepthwise", "DenseBlock", "GaussianYolov3", "MultiBoxLoss", "Yolov3"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES]
)
def test_every_parameter_that_is_read_counts(name: str) -> None:
    dead = [
        f"{label_of(entry)}: {path}"
        for (entry, path), found in places().items()
        if entry.name == name and not any(_is_honoured(base, i, path) for base, i in found)
    ]
    assert dead == []


def test_every_meaning_of_every_type_is_swept() -> None:
    built = {id(find_layer(base.message.layer[i].type, base.dialect)) for base in all_bases() for i in base.paths}
    assert {label_of(entry) for entry in SHIPPED if id(entry) not in built} == set()
