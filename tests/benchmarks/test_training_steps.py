"""The loop by hand that training is measured against trains the same network in the same way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_steps import NETWORKS, by_hand, solver_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["lenet", "cifar10_full", pytest.param("mask3d", marks=pytest.mark.slow)])
def test_both_loops_take_the_same_steps(name: str) -> None:
    training = replace(NETWORKS[name], shape=(2, *NETWORKS[name].shape[1:]), rate=1e-3)
    solver = solver_of(training, CPU)
    step = by_hand(training, CPU, solver)
    seen = []
    for _ in range(3):
        solver.step(1)
        seen.append(solver.loss)
        assert step() == pytest.approx(solver.loss, rel=1e-4)
    assert len(set(seen)) == 3  # it does learn


def test_alexnet_has_the_same_blobs() -> None:
    net = solver_of(replace(NETWORKS["alexnet"], shape=(1, 3, 227, 227)), CPU)
    with torch.device("meta"):
        layers = torch.nn.Sequential(*NETWORKS["alexnet"].layers())
    assert [b.tensor.numel() for b in net.learnable] == [p.numel() for p in layers.parameters()]
