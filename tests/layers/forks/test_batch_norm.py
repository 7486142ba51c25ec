"""BatchNorm under forks that depart from BVLC's in one phase only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from caffe_compat import layers as _layers  # noqa: F401  importing registers every layer
from caffe_compat.network.registry import LayerSpec, find_layer
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, give_values

SYNOPSYS = "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"


def _spec(dialect: str, phase: str, text: str = "") -> LayerSpec:
    message = parse_message(f'layer {{ name: "l" type: "BatchNorm" {text} }}', dialect=dialect).message.layer[0]
    return LayerSpec("l", "BatchNorm", phase, ("x",), ("y",), ((4, 3, 2, 2),), dialect, message)


def _result(dialect: str, phase: str, text: str) -> Tensor:
    module = give_values(find_layer("BatchNorm", dialect).build(_spec(dialect, phase, text))).train(phase == "TRAIN")
    result: Tensor = module(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    return result


@pytest.mark.parametrize(
    ("dialect", "phase", "option", "warns"),
    [
        ("hszhao/PSPNet", "TRAIN", "", True),
        ("hszhao/PSPNet", "TRAIN", "use_global_stats: true", False),
        ("hszhao/PSPNet", "TEST", "", False),
        ("aharley/segaware", "TRAIN", "use_global_stats: false", True),
        (SYNOPSYS, "TRAIN", "", False),
        (SYNOPSYS, "TEST", "", False),
        (SYNOPSYS, "TEST", "use_global_stats: false", True),
    ],
)
def test_leftovers_are_said(dialect: str, phase: str, option: str, warns: bool) -> None:
    """Where these forks divide by what is left of earlier passes, we do not, and say so."""
    text = f"batch_norm_param {{ {option} }}"
    spec = _spec(dialect, phase, text)
    find_layer("BatchNorm", dialect).build(spec)
    assert [f"{dialect} subtracts the mean" in warning for warning in spec.warnings] == [True] * warns
    assert_equals(_result(dialect, phase, text), _result("bvlc", phase, text))


def test_stored_statistics_whatever_the_file_says() -> None:
    text, stored = "batch_norm_param { use_global_stats: false }", "batch_norm_param { use_global_stats: true }"
    assert_equals(_result("BannyStone/Caffe", "TEST", text), _result("bvlc", "TEST", stored))
    assert_equals(_result("BannyStone/Caffe", "TRAIN", text), _result("bvlc", "TRAIN", text))
