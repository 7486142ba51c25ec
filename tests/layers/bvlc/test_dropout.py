from __future__ import annotations

from typing import Any

import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build

SHAPE = (40, 50)


def test_testing_leaves_everything_as_it_is(device: torch.device) -> None:
    x = torch.randn(SHAPE, device=device)
    assert torch.equal(build('type: "Dropout"', SHAPE)(x), x)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_training_drops_and_scales(ratio: float, device: torch.device) -> None:
    module = build(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', SHAPE, phase="TRAIN")
    module.randomness = Randomness(seed=1)
    x = (torch.rand(SHAPE, device=device) + 1).requires_grad_(True)
    y = module(x)
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - ratio))
    torch.testing.assert_close(x.grad, kept / (1 - ratio))
    # Six standard deviations of a binomial share of 2000 values.
    assert abs(1 - kept.float().mean().item() - ratio) < 6 * (ratio * (1 - ratio) / 2000) ** 0.5


def test_mask_depends_on_seed_iteration_rank_and_layer_only() -> None:
    module = build('type: "Dropout"', SHAPE, phase="TRAIN")

    def mask(layer: str = "l", **randomness: Any) -> torch.Tensor:
        module.layer_name = layer
        module.randomness = Randomness(**{"seed": 1, **randomness})
        torch.manual_seed(int(torch.randint(100, ())))
        return module(torch.ones(SHAPE))

    assert torch.equal(mask(), mask())
    changes: tuple[dict[str, Any], ...] = ({"seed": 2}, {"iteration": 1}, {"rank": 1})
    for changed in changes:
        assert not torch.equal(mask(), mask(**changed))
    assert not torch.equal(mask(), mask(layer="m"))


def test_without_a_seed_torchs_own_generator_decides() -> None:
    module = build('type: "Dropout"', SHAPE, phase="TRAIN")
    torch.manual_seed(5)
    first = module(torch.ones(SHAPE))
    assert not torch.equal(module(torch.ones(SHAPE)), first)
    torch.manual_seed(5)
    assert torch.equal(module(torch.ones(SHAPE)), first)


def test_mode_can_change_after_building() -> None:
    module = build('type: "Dropout"', SHAPE, phase="TRAIN")
    assert (module(torch.ones(SHAPE)) == 0).any()
    assert torch.equal(module.eval()(torch.ones(SHAPE)), torch.ones(SHAPE))


def test_ratio_zero_keeps_everything() -> None:
    module = build('type: "Dropout" dropout_param { dropout_ratio: 0 }', SHAPE, phase="TRAIN")
    assert torch.equal(module(torch.ones(SHAPE)), torch.ones(SHAPE))


@pytest.mark.parametrize("ratio", ["1", "1.5", "-0.1", "nan"])
def test_refuses_a_ratio_that_makes_no_sense(ratio: str) -> None:
    with pytest.raises(LayerError, match=r"layer 'l' \(Dropout\): dropout_ratio is .*less than 1"):
        build(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', SHAPE)


def test_forks_may_scale_at_testing_instead() -> None:
    text = 'type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_train: false }'
    x = torch.full(SHAPE, 2.0)
    assert torch.equal(build(text, SHAPE)(x), torch.full(SHAPE, 1.5))
    assert set(build(text, SHAPE, phase="TRAIN")(x).unique().tolist()) == {0.0, 2.0}


def test_half_precision_meta_and_nothing() -> None:
    module = build('type: "Dropout"', SHAPE, phase="TRAIN")
    module.randomness = Randomness(seed=1)
    assert set(module(torch.ones(SHAPE, dtype=torch.float16)).unique().tolist()) == {0.0, 2.0}
    assert module(torch.ones(SHAPE, device="meta")).shape == SHAPE
    assert module(torch.ones(0, 3)).shape == (0, 3)
