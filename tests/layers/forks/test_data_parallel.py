"""Types that gather what several processes have, as one process has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values

ACTION, MPI = "Lyp100208/Caffe_action", "lxx1991/caffe_mpi"


def test_gathering_from_one_process_changes_nothing() -> None:
    x, y = torch.rand(2, 3), torch.rand(4, 5)
    assert build('type: "Gather"', (2, 3), dialect=ACTION)(x) is x
    assert build('type: "Gather"', (2, 3), (4, 5), tops=2, dialect=ACTION)(x, y) == (x, y)
    with pytest.raises(LayerError, match="a top of each bottom, 2; found 1"):
        build('type: "Gather"', (2, 3), (4, 5), dialect=ACTION)


def test_a_convolution_with_the_images_of_all_processes() -> None:
    more = "convolution_param { num_output: 2 kernel_size: 3 stride: 2 pad: 1 }"
    own, other = (
        give_values(build(f'type: "{name}" {more}', (2, 3, 7, 5), dialect=ACTION))
        for name in ("ConvolutionData", "Convolution")
    )
    x = torch.rand(2, 3, 7, 5)
    assert_equals(own(x), other(x).detach())


NORM = 'type: "BNData" bn_param { var_eps: 0.1 decay: 0.2 %s }'
X = np.random.RandomState(1).uniform(-1, 1, (4, 3, 2, 5))


def normalised(x: np.ndarray, module: Any, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    scale, shift = (getattr(module, name).detach().numpy() for name in ("scale", "shift"))
    result: np.ndarray = scale * (x - mean) / np.sqrt(variance + 0.1) + shift
    return result


def test_statistics_of_the_batch_and_of_those_before() -> None:
    module = give_values(build(NORM % "moving_average: true", X.shape, phase="TRAIN", dialect=ACTION)).double()
    assert module.blob_names == ("scale", "shift", "mean", "variance")
    mean, variance = module.mean.numpy().copy(), module.variance.numpy().copy()
    own, spread = X.mean((0, 2, 3), keepdims=True), X.var((0, 2, 3), keepdims=True)
    x = torch.tensor(X)
    assert_equals(module(x), normalised(X, module, own, spread))
    assert_equals(module.mean, 0.8 * mean + 0.2 * own)
    part = 0.2 * 4 / 3
    assert_equals(module.variance, (1 - part) * variance + part * spread)
    mean, variance = module.mean.numpy().copy(), module.variance.numpy().copy()
    module.eval()
    assert_equals(module(x), normalised(X, module, mean, variance))
    assert_equals(module.mean, mean)
    plain = give_values(build(NORM % "", X.shape, dialect=ACTION)).double()
    assert_equals(plain(x), normalised(X, plain, own, spread))


def test_gradient_in_testing() -> None:
    """As in training, with the blobs in place of the batch's statistics."""
    module = give_values(build(NORM % "moving_average: true", X.shape, dialect=ACTION)).double()
    x = torch.tensor(X, requires_grad=True)
    weights = np.random.RandomState(2).uniform(-1, 1, X.shape)
    (module(x) * torch.tensor(weights)).sum().backward()
    deviation = np.sqrt(module.variance.numpy() + 0.1)
    normal = (X - module.mean.numpy()) / deviation
    axes = (0, 2, 3)
    both = normal * (weights * normal).sum(axes, keepdims=True) + weights.sum(axes, keepdims=True)
    assert_equals(x.grad, module.scale.detach().numpy() * (weights - both / 40) / deviation)
    true = give_values(build(NORM % "moving_average: true", X.shape, dialect=ACTION, gradients="true")).double()
    assert torch.autograd.gradcheck(true, (x,))
    with pytest.raises(LayerError, match="at least 2 images"):
        build(NORM % "", (1, 3, 2, 5), phase="TRAIN", dialect=ACTION)


AVERAGES = 'type: "BNData" bn_param { eps: 0.1 momentum: 0.8 moving_average: true engine: CUDNN %s }'


def test_averages_of_caffe_mpi() -> None:
    module = give_values(build(AVERAGES % "", X.shape, phase="TRAIN", dialect=MPI)).double()
    assert module.blob_names == ("slope", "bias", "mean", "variance")
    mean, variance = module.mean.numpy().copy(), module.variance.numpy().copy()
    own, spread = X.mean((0, 2, 3), keepdims=True), X.var((0, 2, 3), keepdims=True)
    slope, bias = module.slope.detach().numpy(), module.bias.detach().numpy()
    x = torch.tensor(X)
    assert_equals(module(x), slope * (X - own) / np.sqrt(spread + 0.1) + bias)
    assert_equals(module.mean, 0.8 * mean + 0.2 * own)
    part = 0.2 * 40 / 39
    assert_equals(module.variance, (1 - part) * variance + part * spread)
    mean, variance = module.mean.numpy().copy(), module.variance.numpy().copy()
    module.eval()
    assert_equals(module(x), slope * (X - mean) / np.sqrt(variance + 0.1) + bias)
    assert_equals(module.mean, mean)


def test_errors_of_caffe_mpi() -> None:
    for more in ("frozen: true", "rebn: true"):
        with pytest.raises(LayerError, match=f"{more} is not supported"):
            build(AVERAGES % more, X.shape, dialect=MPI)
    with pytest.raises(LayerError, match="does not learn"):
        build(f"{AVERAGES % ''} param {{ lr_mult: 0 }}", X.shape, phase="TRAIN", dialect=MPI)
