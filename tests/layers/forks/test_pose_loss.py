"""PoseHeatMapLoss of pose_action_caffe; the recorded cases have the two kinds that draw nothing and scale nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build

FORK = "zimenglan-sysu-512/pose_action_caffe"
SHAPE = (2, 3, 40, 50)
MASK = torch.tensor([[1, 0.5, 0], [2, 1, 1]])


def loss(
    kind: int, *, share: str = "ratio: 0.25", spared: int = 4, mask: tuple[int, ...] = (), more: str = "", **how: Any
) -> Any:
    text = f"""type: "PoseHeatMapLoss" pose_heat_map_loss_param {{ loss_emphase_type: {kind} fg_eof: 3 bg_eof: 0.5
        {share} prob_num: {spared} heat_score_thres: 0.2 parts_err_num_thres: 2 {more} }}"""
    module = build(text, SHAPE, SHAPE, *([mask] if mask else []), dialect=FORK, **how)
    module.randomness = Randomness(seed=2)
    return module


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    target = torch.rand(SHAPE, dtype=torch.float64)
    target = torch.where(target < 0.7, target.gt(0.35) * 1e-5, target)  # below 1e-4 is background
    return torch.randn(SHAPE, dtype=torch.float64, requires_grad=True), target


def factors(module: Any, *mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By what each difference was multiplied, the prediction, and the target."""
    x, target = maps()
    target.requires_grad_(True)
    found = module(x, target, *mask)
    (3 * found).backward()
    assert x.grad is not None
    assert target.grad is not None
    assert torch.equal(target.grad, -x.grad)
    counted = x.grad / (x - target).detach() * 2 / 3
    if not mask:
        torch.testing.assert_close(found.detach(), ((x - target).detach() * counted).square().sum())
    return counted, x.detach(), target.detach()


@pytest.mark.parametrize(("kind", "front", "behind"), [(-1, 1, 1), (0, 1, 1), (1, 1, 0), (2, 3, 1)])
def test_kinds_that_draw_nothing(kind: int, front: float, behind: float) -> None:
    found, _, target = factors(loss(kind))
    torch.testing.assert_close(found, torch.where(target > 1e-4, front, behind).double())


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("share", ["ratio: 0.25", "bg_num: 500"])
def test_some_background_and_hard_negatives_are_kept(kind: int, share: str) -> None:
    found, x, target = factors(loss(kind, share=share))
    front, hard = target > 1e-4, x >= 0.2
    assert set(found[front].round(decimals=6).tolist()) == {3.0 if kind == 4 else 1.0}
    easy = found[~front & ~hard].round(decimals=6)
    assert set(easy.tolist()) == {0, 0.5}
    assert (easy > 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
    negative = found[~front & hard].round(decimals=6)
    assert set(negative.tolist()) == {0, 0.5, 1}
    assert (negative == 0.5).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (negative == 1).double().mean().item() == pytest.approx(0.75 / 4, abs=0.03)


def test_the_hardest_negatives_of_each_map_are_kept_surely() -> None:
    found, x, target = factors(loss(5, share="ratio: 0.1", spared=1000000))
    front, hard = target > 1e-4, x >= 0.2
    drawn = (found - 0.5).abs() < 1e-6
    left = hard & ~front & ~drawn
    values = torch.where(left, x - target, -torch.inf).flatten(2)
    least = values.topk(200, dim=2).values[..., -1:]  # a tenth of 40 x 50
    expected = (values >= least).reshape(SHAPE)
    torch.testing.assert_close(found[left], expected[left].double())
    torch.testing.assert_close(found[front], torch.ones_like(found[front]))


def test_a_mask_counts_for_the_gradient_alone() -> None:
    found, _, target = factors(loss(2, mask=(2, 3, 1, 1)), MASK.double()[..., None, None])
    torch.testing.assert_close(found, torch.where(target > 1e-4, 3.0, 1.0).double() * MASK.double()[..., None, None])
    x, target = maps()
    masked, plain = loss(2, mask=(2, 3)), loss(2)
    torch.testing.assert_close(masked(x, target, MASK.double()), plain(x, target))


def test_the_true_gradient() -> None:
    x, target = maps()
    loss(2, gradients="true")(x, target).backward()
    factor = torch.where(target > 1e-4, 9.0, 1.0).double()
    torch.testing.assert_close(x.grad, 2 * (x.detach() - target) * factor)


def test_errors() -> None:
    for how, message in (
        ({"kind": 6}, "loss_emphase_type is 6; 0 to 5 exist"),
        ({"kind": 3, "share": "ratio: 0"}, "a share 0 of the background"),
        ({"kind": 3, "share": "bg_num: 2001"}, "a share 1.0005 of the background"),
        ({"kind": 3, "share": "ratio: 0.5 bg_num: 3"}, "not both"),
        ({"kind": 3, "share": ""}, "needs ratio"),
        ({"kind": 3, "spared": 0}, "prob_num is 0"),
        ({"kind": 3, "mask": (2, 4)}, "joints = 3"),
    ):
        with pytest.raises(LayerError, match=message):
            loss(**how)
    with pytest.raises(LayerError, match="needs fg_eof, bg_eof"):
        build('type: "PoseHeatMapLoss" pose_heat_map_loss_param { ratio: 1 }', SHAPE, SHAPE, dialect=FORK)
    with pytest.raises(LayerError, match="b1"):
        build('type: "PoseHeatMapLoss"', SHAPE, (2, 3, 40, 49), dialect=FORK)
