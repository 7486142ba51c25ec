"""Layers of BVLC Caffe to which one fork gave another meaning, against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

FCN = "weiliu89/caffe@fcn"
OPENVINO = "openvinotoolkit/training_toolbox_caffe"
PETER = "peteanderson80/caffe"
RFCN = "daijifeng001/caffe-rfcn"
SEGNET = "alexgkendall/caffe-segnet"


@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_eps_beside_the_variance(gradients: str, device: torch.device) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=precise(device), device=device, requires_grad=True)
    module = build('type: "MVN" mvn_param { eps: 0.5 }', x.shape, dialect=FCN, gradients=gradients)
    expected = functional.instance_norm(x, eps=0.5)
    assert_equals(module(x), expected.detach().cpu())
    slope = torch.randn_like(expected)
    (found,) = torch.autograd.grad(module(x), x, slope)
    assert_equals(found, torch.autograd.grad(expected, x, slope)[0].cpu())
    assert not torch.allclose(build('type: "MVN" mvn_param { eps: 0.5 }', x.shape)(x), expected)


def test_embedding_takes_the_place_of_an_axis() -> None:
    text = 'type: "Embed" embed_param { num_output: 3 input_dim: 4 }'
    x = torch.tensor([[1.0], [3]])
    module = give_values(build(text, (2, 1), dialect=PETER))
    assert_equals(module(x), module.weight[[1, 3]].detach() + module.bias.detach())
    assert module(x.flatten()).shape == (2, 3)
    assert module.infer(x).shape == (2, 3)
    assert give_values(build(text, (2, 1)))(x).shape == (2, 1, 3)


def test_only_positive_losses_count() -> None:
    """The second image is right beyond doubt: its loss is 0."""
    x = torch.tensor([[1.0, 2, 3], [0, 200, 0], [2, 1, 0]], requires_grad=True)
    labels = torch.tensor([1.0, 1, 1])
    module = build('type: "SoftmaxWithLoss"', (3, 3), (3,), dialect=OPENVINO)
    expected = functional.cross_entropy(x[::2], torch.tensor([1, 1]))
    loss = module(x, labels)
    assert_equals(loss, expected.detach())
    (found,) = torch.autograd.grad(loss, x)
    assert_equals(found, torch.autograd.grad(expected, x)[0])
    ignoring = build('type: "SoftmaxWithLoss" loss_param { ignore_label: 0 }', (3, 3), (3,), dialect=OPENVINO)
    assert_equals(ignoring(x, torch.tensor([1.0, 1, 0])), functional.cross_entropy(x[:1], torch.tensor([1])).detach())
    assert_equals(build('type: "SoftmaxWithLoss"', (3, 3), (3,))(x, labels), expected.detach() * 2 / 3)
    with pytest.raises(LayerError, match="must be 1"):
        build('type: "SoftmaxWithLoss" softmax_param { axis: 2 }', (3, 1, 3), (3, 1), dialect=OPENVINO)


def test_accuracy_of_absent_classes() -> None:
    x, labels = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([2.0, 1])
    for dialect, absent in ((SEGNET, 1.0), ("bvlc", 0.0)):
        overall, each = build('type: "Accuracy"', (2, 3), (2,), tops=2, dialect=dialect)(x, labels)
        assert_equals(overall, np.float32(0.5))
        assert_equals(each, [absent, 0, 1])


def test_the_loss_of_each_as_third_top() -> None:
    """Where SoftmaxWithLossOHEM is called SoftmaxWithLoss."""
    x, labels = torch.randn(4, 3), torch.tensor([0.0, 2, 1, 2])
    text = 'type: "SoftmaxWithLoss" loss_param { ignore_label: 1 }'
    loss, prob, each = build(text, (4, 3), (4,), tops=3, dialect=RFCN)(x, labels)
    expected = functional.cross_entropy(x, labels.long(), reduction="none")
    expected[2] = 0
    assert_equals(each, expected)
    assert_equals(prob, x.softmax(1))
    assert_equals(loss, expected.sum() / 3)
    assert_equals(build(text, (4, 3), (4,), dialect=RFCN)(x, labels), expected.sum() / 3)
    with pytest.raises(LayerError, match="PRE_FIXED is not supported"):
        build('type: "SoftmaxWithLoss" loss_param { normalization: PRE_FIXED }', (4, 3), (4,), dialect=RFCN)


BOTTOM_UP = "peteanderson80/bottom-up-attention"


@pytest.mark.parametrize("gradients", ["caffe", "true"])
@pytest.mark.parametrize(
    ("told", "divisor"),
    [
        ("ignore_label: -1", 3.0),  # the positions with a label
        ("ignore_label: -1 normalization: FULL", 4.0),
        ("ignore_label: -1 normalization: BATCH_SIZE", 2.0),
        ("ignore_label: -1 normalize: false", 2.0),
        ("ignore_label: -1 normalization: NONE", 1.0),
    ],
)
def test_losses_of_several_labels_are_means(told: str, divisor: float, gradients: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 5, 2, generator=generator).to(device, precise(device)).requires_grad_()
    labels = torch.tensor([[[1, 3, -1], [4, -1, -1]], [[-1, -1, -1], [0, 1, 1]]], device=device).to(x.dtype)
    text = f'type: "SoftmaxWithLoss" loss_param {{ {told} }}'
    module = build(text, x.shape, (2, 6), dialect=BOTTOM_UP, gradients=gradients)
    logs = x.log_softmax(1)
    expected = (
        -((logs[0, 1, 0] + logs[0, 3, 0]) / 2 + logs[0, 4, 1] + (logs[1, 0, 1] + 2 * logs[1, 1, 1]) / 3) / divisor
    )
    loss = module(x, labels.reshape(2, 6))
    assert_equals(loss, expected.detach().cpu())
    assert_equals(torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, x)[0].cpu())


def test_several_labels_along_another_axis_and_none_ignored() -> None:
    x, labels = torch.randn(2, 3, 4, dtype=torch.double), torch.tensor([[[0, 1], [2, 3], [3, 3]]] * 2).double()
    text = 'type: "SoftmaxWithLoss" softmax_param { axis: 2 }'
    module = build(text, x.shape, labels.shape, dialect=BOTTOM_UP, tops=2)
    loss, prob = module(x, labels)
    logs = x.log_softmax(2)
    each = logs.gather(2, labels.long()).mean(2)
    assert_equals(loss, -each.mean())
    assert_equals(prob, logs.exp())
    one = build('type: "SoftmaxWithLoss"', (3, 4), (3,), dialect=BOTTOM_UP)(x[0], labels[0, :, 0])
    assert_equals(one, build('type: "SoftmaxWithLoss"', (3, 4), (3,))(x[0], labels[0, :, 0]))


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ([(4, 3), (4, 0)], "labels for each of 4 positions"),
        ([(4, 3, 2), (4, 3)], "labels for each of 8 positions"),
        ([(4, 3), (2, 4)], "examples = 4"),
        ([(4, 3, 0), (4, 1)], "labels for each of 0 positions"),
    ],
)
def test_labels_that_do_not_go_around(shapes: list[tuple[int, ...]], problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        build('type: "SoftmaxWithLoss"', *shapes, dialect=BOTTOM_UP)
