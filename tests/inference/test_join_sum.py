"""The pass join-sum: a sum is part of a layer that makes one of its terms, in memory that nobody else has."""

from __future__ import annotations

import pytest
import torch

from caffe_compat.inference.optimization import optimize
from caffe_compat.inference.passes.fold_affine import FOLD_AFFINE
from caffe_compat.inference.passes.join_sum import JOIN_SUM
from tests.inference.patterns import batch_norm, build, conv, example, in_place, same_outputs, steps
from tests.networks import layer

SUM = layer("s", "Eltwise", "data c", "s")


def test_the_first_that_can_takes_the_sum() -> None:
    net = build(conv("a", "data"), conv("b", "data"), layer("s", "Eltwise", "b a", "s"), conv("c", "s"))
    optimized = optimize(net, [JOIN_SUM])
    assert steps(optimized) == ["b", "a", "c"]  # a runs where the sum was, when b is there
    assert optimized.passes[0].places == 1
    same_outputs(net, optimized)


def test_a_chain_of_sums() -> None:
    net = build(
        *(conv("a", "data"), conv("b", "data"), conv("c", "data"), layer("s", "Eltwise", "a b", "s")),
        *(layer("t", "Eltwise", "s c", "t"), layer("u", "TanH", "t", "u")),
    )
    optimized = optimize(net, [JOIN_SUM])
    assert steps(optimized) == ["b", "a", "c", "u"]
    same_outputs(net, optimized)


def test_a_term_that_is_no_layers_own_is_not_written_to() -> None:
    net = build(conv("c", "data", outputs=6), layer("d", "Split", "data", "x y"), layer("s", "Eltwise", "x y", "s"))
    optimized = optimize(net, [JOIN_SUM])
    assert "s" in steps(optimized)
    x = example(net)["data"]
    before = x.clone()
    optimized(data=x)
    assert torch.equal(x, before)


def test_a_scaling_takes_one_along_once_it_was_seen() -> None:
    net = build(layer("n", "BatchNorm", "data", "n"), layer("s", "Eltwise", "n data", "s"))
    assert steps(optimize(net, [JOIN_SUM])) == ["n", "s"]
    optimized = optimize(net, [FOLD_AFFINE, JOIN_SUM])
    assert steps(optimized) == ["n"]
    same_outputs(net, optimized)


@pytest.mark.parametrize(
    "more",
    [
        layer("s", "Eltwise", "c data", "s", "eltwise_param { coeff: 1 coeff: 2 }"),
        layer("s", "Eltwise", "c data", "s", "eltwise_param { operation: PROD }"),
        layer("s", "Eltwise", "c data data", "s"),
        layer("s", "Eltwise", "c c", "s"),
        SUM + layer("t", "TanH", "c", "t"),
        in_place("ReLU", "c") + SUM,
    ],
    ids=["coefficients", "product", "three", "twice", "seen elsewhere", "behind a relu"],
)
def test_what_is_no_such_sum_stays(more: str) -> None:
    net = build(conv("c", "data", outputs=6), more)
    optimized = optimize(net, [JOIN_SUM])
    assert steps(optimized) == steps(net)
    same_outputs(net, optimized)


def test_nothing_is_folded_behind_a_sum() -> None:
    net = build(conv("c", "data", outputs=6), SUM, batch_norm("s"))
    optimized = optimize(net, [JOIN_SUM, FOLD_AFFINE])
    assert steps(optimized) == ["c", "s_batchnorm"]
    same_outputs(net, optimized)
