"""Values that half precision holds, through layers whose squares and sums it does not hold."""

from __future__ import annotations

import pytest
import torch

from caffe_compat.layers.precision import widened
from tests.layers.building import build, give_values, precise

SSD = "weiliu89/caffe@ssd"
SHAPE = (2, 16, 9, 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('type: "LRN"', None),
        ('type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL }', None),
        ('type: "MVN"', None),
        ('type: "MVN" mvn_param { normalize_variance: false across_channels: true }', None),
        ('type: "Power" power_param { power: 0.5 scale: 500 }', None),
        ('type: "Reduction" reduction_param { axis: 1 operation: SUM coeff: 0.001 }', None),
        ('type: "Reduction" reduction_param { axis: 2 operation: SUMSQ coeff: 0.0001 }', None),
        ('type: "Pooling" pooling_param { pool: AVE kernel_size: 9 stride: 11 }', None),
        # A window beyond the image, for which torch's own pooling is not used.
        ('type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 5 }', None),
        ('type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 3 }', None),
        ('type: "Normalize" norm_param { across_spatial: false }', SSD),
        ('type: "Normalize"', SSD),
        ('type: "BN"', "hszhao/PSPNet"),
        ('type: "BN"', "alexgkendall/caffe-segnet"),
    ],
)
def test_half_precision_does_not_overflow(
    text: str, dialect: str | None, dtype: torch.dtype, device: torch.device
) -> None:
    module = give_values(build(text, SHAPE, dialect=dialect), device)
    x = (400 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))).to(device, dtype)
    with torch.no_grad():
        expected = module(x.float())
        found = module.to(dtype)(x)
    assert found.dtype == dtype
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_batch_norm_keeps_its_sums(phase: str, dtype: torch.dtype, device: torch.device) -> None:
    def batch_norm() -> torch.nn.Module:
        module = give_values(build('type: "BatchNorm"', SHAPE, phase=phase), device)
        # What Caffe's sums come to, at a moving average fraction of 0.999.
        for name, average in (("mean", 200.0), ("variance", 1e5), ("scale_factor", 1.0)):
            getattr(module, name).fill_(999.98 * average)
        return module

    x = (400 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))).to(device, dtype)
    exact, module = batch_norm(), batch_norm().to(dtype)
    expected, found = exact(x.float()), module(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    for name in ("mean", "variance", "scale_factor"):
        assert getattr(module, name).dtype == torch.float32
        torch.testing.assert_close(getattr(module, name), getattr(exact, name), rtol=1e-6, atol=0)
    for wide in (precise(device), torch.float32):
        assert module.to(wide).mean.dtype == wide


def test_widened() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert widened(torch.ones(1, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(1, dtype=dtype)
        assert widened(x) is x
