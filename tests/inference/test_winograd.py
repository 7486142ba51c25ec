"""The pass winograd, and the minimal filtering itself against sums in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from caffe_compat.inference.fused import Fused, has_fused_kernels
from caffe_compat.inference.optimization import optimize
from caffe_compat.inference.passes import PASSES
from caffe_compat.inference.passes.winograd import WINOGRAD
from caffe_compat.inference.plan import Plan
from caffe_compat.inference.winograd import Winograd
from tests.inference.patterns import build, conv, same_outputs
from tests.networks import input_layer

needs_kernels = pytest.mark.skipif(not has_fused_kernels(), reason="this torch has no fused kernels")
LARGE = input_layer("data", 1, 128, 50, 45)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (conv("c", "data", outputs=256), 1),
        (conv("c", "data", outputs=256, pad=0), 1),
        (conv("c", "data", outputs=255), 0),
        (conv("c", "data", "group: 2", outputs=256), 0),
        (conv("c", "data", "stride: 2", outputs=256), 0),
        (conv("c", "data", "dilation: 2", outputs=256), 0),
        (conv("c", "data", outputs=256, kernel=5), 0),
        (conv("c", "data", outputs=256).replace('"Convolution"', '"Deconvolution"'), 0),
    ],
)
def test_what_is_chosen(layers: str, chosen: int) -> None:
    plan = Plan(build(layers, data=LARGE))
    assert WINOGRAD.run(plan) == chosen
    assert [group.winograd for group in plan.groups] == [chosen == 1]


@needs_kernels
def test_it_can_be_left_out() -> None:
    net = build(conv("c", "data", outputs=256), data=LARGE)

    def used(passes: list[str] | None) -> bool:
        return any(m.winograd is not None for m in net.optimize(passes).modules() if isinstance(m, Fused))

    assert used(None)
    assert used(["winograd"])
    assert not used([each.name for each in PASSES if each is not WINOGRAD])
    same_outputs(net, optimize(net, [WINOGRAD]), 2e-5)


@needs_kernels
@pytest.mark.parametrize("pad", [(0, 0), (1, 2)])
@pytest.mark.parametrize("size", [(3, 4), (7, 6), (13, 22)])
def test_the_sums(size: tuple[int, int], pad: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 5, 3, 3, generator=generator)
    bias, x = torch.randn(6, generator=generator), torch.randn(2, 5, *size, generator=generator)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=pad)
    found = Winograd(weight, bias, pad)(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
