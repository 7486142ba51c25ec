"""The definitions that the benchmarks run are the networks that they are named after."""

from __future__ import annotations

import pytest
import torch
from classics import CLASSICS, count_parameters, net_of
from classifiers import squeezenet
from definition import Definition
from networks import draw_weights

from tests.networks import net_of as net_of_text


@pytest.mark.parametrize("name", CLASSICS)
def test_its_weights_are_as_many_as_published(name: str) -> None:
    classic = CLASSICS[name]
    net = net_of(classic, weights=False)
    assert count_parameters(net) == classic.parameters
    shapes = {blob: tuple(net.shapes[value]) for blob, value in zip(net.output_names, net.program.outputs, strict=True)}
    assert shapes == classic.outputs
    assert not net.warnings


def test_the_boxes_of_ssd300_are_as_many_as_published() -> None:
    net = net_of(CLASSICS["ssd300"], weights=False)
    shapes = {blob: net.shapes[value] for value, blob in enumerate(net.graph.blobs)}
    assert tuple(shapes["priors"]) == (1, 2, 8732 * 4)


def test_batch_and_size_are_arguments() -> None:
    net = net_of_text(squeezenet(3, 67))
    assert net.input_shapes["data"] == (3, 3, 67, 67)


def test_drawn_weights_keep_activations_in_range() -> None:
    net = net_of_text(squeezenet(1, 67))
    x = torch.randn(1, 3, 67, 67, generator=torch.Generator().manual_seed(1))
    deep = draw_weights(net).run({"data": x}, blobs=["conv10"])["conv10"]
    assert 1e-2 < float(deep.std()) < 1e2
    again = draw_weights(net_of_text(squeezenet(1, 67))).run({"data": x}, blobs=["conv10"])["conv10"]
    assert torch.equal(again, deep)


def test_normalisation_of_drawn_statistics_changes_little() -> None:
    net = Definition(data=(1, 2, 3, 3))
    net.normalised("data", top="normal")
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    found = draw_weights(net_of_text(net.text))(data=x)["normal"]
    torch.testing.assert_close(found, x + 0.01, rtol=1e-4, atol=1e-4)
