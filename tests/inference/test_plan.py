"""Plans: what holds of each, and that passes can run in any choice and order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch

from caffe_compat.errors import UsageError
from caffe_compat.inference.optimization import optimize
from caffe_compat.inference.passes import PASSES, PORTABLE, Pass, find_passes, rewrite
from caffe_compat.inference.plan import Plan
from caffe_compat.network.net import CaffeNet
from tests.inference.patterns import FOLDED, KEPT, batch_norm, build, conv, in_place, same_outputs, steps
from tests.networks import layer

PATTERNS = {
    **{name: layers for name, (layers, _) in FOLDED.items()},
    **{name: layers for name, (layers, _) in KEPT.items()},
}
CHOICES = [
    chosen for count in range(len(PASSES)) for chosen in itertools.combinations([each.name for each in PASSES], count)
]


def residual() -> CaffeNet:
    """Two branches with everything that passes look for: Dropout, BatchNorm, Scale, a sum and a ReLU."""
    return build(
        *(conv("a", "data"), in_place("Dropout", "a"), batch_norm("a"), conv("b", "data"), batch_norm("b")),
        *(layer("s", "Eltwise", "a b", "s"), in_place("ReLU", "s"), conv("d", "s"), layer("t", "Eltwise", "s d", "t")),
    )


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "+".join(choice) or "none")
def test_every_choice_of_passes_gives_the_same_numbers(choice: tuple[str, ...]) -> None:
    net = residual()
    optimized = net.optimize(choice)
    assert [run.name for run in optimized.passes] == list(choice)
    same_outputs(net, optimized)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_order_of_passes_gives_the_same_numbers(pattern: str) -> None:
    net = build(*PATTERNS[pattern])
    order = list(PASSES)
    random.Random(pattern).shuffle(order)
    same_outputs(net, optimize(net, order))
    same_outputs(net, optimize(net, PASSES[::-1]))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pass_leaves_itself_nothing_to_do(pattern: str) -> None:
    plan = Plan(build(*PATTERNS[pattern]))
    for each in PASSES:
        rewrite(plan, [each])
        assert each.run(plan) == 0


def test_no_pass_is_every_layer_as_it_was() -> None:
    net = residual()
    plain = net.optimize([])
    assert steps(plain) == steps(net)
    expected = net.run(inputs := {"data": torch.rand(2, 6, 9, 7)}, "all")
    for name, blob in plain.run(inputs, "all").items():
        assert torch.equal(blob, expected[name])


def test_passes_are_chosen_by_name_and_run_in_their_order() -> None:
    assert find_passes(["fold-affine", "drop-idle"]) == PORTABLE
    assert len({each.name for each in PASSES}) == len(PASSES)
    with pytest.raises(UsageError, match="no pass 'fold'; there are drop-idle, fold-affine, join-sum, join-relu"):
        residual().optimize(["fold"])


def test_a_form_says_what_was_done() -> None:
    optimized = residual().optimize()
    assert [str(run) for run in optimized.passes] == [
        *("drop-idle (1)", "fold-affine (4)", "join-sum (2)", "join-relu (1)", "pack-weights (3)", "winograd (0)"),
        "record (3)",
    ]
    assert "passes: drop-idle (1), fold-affine (4), join-sum (2), join-relu (1)" in repr(optimized)


@pytest.mark.parametrize("each", PASSES, ids=lambda each: each.name)
def test_a_pass_says_what_it_is(each: Pass) -> None:
    assert all((each.changes, each.before, each.after))


def _first(plan: Plan, place: int) -> None:
    """The group of layer ``place`` takes the next one along without asking."""
    plan.take(plan.groups[place], plan.groups[place + 1])


def _lose(plan: Plan) -> None:
    plan.take(plan.groups[0], plan.groups[1])
    plan.groups[0].nodes.pop()


def _rename(plan: Plan) -> None:
    plan.aliases[plan.groups[-1].tops[0]] = plan.groups[0].tops[0]


def _swap(plan: Plan) -> None:
    first, second = plan.groups[:2]
    first.bottoms, second.bottoms = second.bottoms, first.bottoms


def _other(plan: Plan) -> None:
    plan.groups[0].other = plan.groups[-1].tops[0]


WRONG: dict[str, tuple[Callable[[Plan], None], str]] = {
    "two readers": (lambda plan: _first(plan, 0), "reads what nobody above it makes"),
    "strangers": (lambda plan: _first(plan, 2), "has two layers of which none reads the other"),
    "a lost layer": (_lose, "makes something else than its last layer"),
    "an alias of what is there": (_rename, "is another one, and there as well"),
    "the order": (_swap, "reads what nobody above it makes"),
    "the other value": (_other, "reads what nobody above it makes"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_pass_is_seen(wrong: str) -> None:
    net = build(
        conv("a", "data"), layer("t", "TanH", "a", "t"), layer("u", "ReLU", "a", "u"), layer("v", "ELU", "t", "v")
    )
    spoil, message = WRONG[wrong]

    def run(plan: Plan) -> int:
        spoil(plan)
        return 1

    with pytest.raises(AssertionError, match=message):
        optimize(net, [Pass("wrong", "", "", "", run)])
