"""The pass drop-idle: Split and Dropout vanish where they do nothing, and only there."""

from __future__ import annotations

import torch

from caffe_compat.inference.passes import rewrite
from caffe_compat.inference.passes.drop_idle import DROP_IDLE
from caffe_compat.inference.plan import Plan
from caffe_compat.layers.bvlc.dropout import Dropout
from tests.inference.patterns import build, conv, in_place, same_outputs, steps
from tests.networks import layer

NAME = [DROP_IDLE.name]


def test_split_and_dropout_are_left_out() -> None:
    net = build(
        *(conv("c", "data"), layer("p", "Split", "c", "x y"), layer("d", "Dropout", "x", "d")),
        *(layer("e", "Dropout", "d", "e"), layer("t", "TanH", "e", "t"), layer("u", "ELU", "y", "u")),
    )
    optimized = net.optimize(NAME)
    assert steps(optimized) == ["c", "t", "u"]
    assert optimized.passes[0].places == 3
    same_outputs(net, optimized)


def test_what_was_left_out_can_be_asked_for() -> None:
    net = build(conv("c", "data"), layer("d", "Dropout", "c", "d"), layer("e", "Dropout", "d", "e"))
    found = net.optimize(NAME).run(inputs := {"data": torch.rand(2, 6, 9, 7)}, ["c", "d", "e"])
    expected = net.run(inputs, ["c"])["c"]
    assert all(torch.equal(found[name], expected) for name in ("c", "d", "e"))


def test_the_net_may_be_nothing_else() -> None:
    plan = Plan(build(in_place("Dropout", "data")))
    rewrite(plan, [DROP_IDLE])
    assert plan.groups == []
    assert plan.outputs == set(plan.net.graph.inputs)


def test_dropout_that_scales_in_testing_stays() -> None:
    net = build(conv("c", "data"), in_place("Dropout", "c"))
    net.c_dropout = Dropout(0.25, scale_train=False).eval()
    optimized = net.optimize(NAME)
    assert steps(optimized) == ["c", "c_dropout"]
    same_outputs(net, optimized)


def test_a_derived_class_may_do_something() -> None:
    class Doubling(Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    net = build(conv("c", "data"), in_place("Dropout", "c"))
    net.c_dropout = Doubling(0.5).eval()
    optimized = net.optimize()
    assert steps(optimized) == ["c", "c_dropout"]
    same_outputs(net, optimized)
