from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, give_values, precise

SHAPE = (2, 3, 5, 4)


def values(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.RandomState(0).uniform(-3, 5, shape)


def blobs(module: torch.nn.Module) -> list[np.ndarray]:
    return [getattr(module, name).cpu().numpy().copy() for name in ("mean", "variance", "scale_factor")]


def along_channels(v: np.ndarray, rank: int) -> np.ndarray:
    return v.reshape(1, -1, *(1,) * (rank - 2))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), SHAPE, (2, 3, 2, 4, 5)])
@pytest.mark.parametrize(("phase", "text"), [("TEST", ""), ("TRAIN", "use_global_stats: true"), ("TEST", "eps: 0.5")])
def test_stored_statistics(shape: tuple[int, ...], phase: str, text: str, device: torch.device) -> None:
    module = build(f'type: "BatchNorm" batch_norm_param {{ {text} }}', shape, phase=phase)
    give_values(module, device).to(precise(device))
    mean, variance, s = before = blobs(module)
    x = values(shape)
    eps = 0.5 if "eps" in text else 1e-5
    divisor = np.sqrt(along_channels(variance / s, len(shape)) + np.float32(eps))
    inputs = torch.tensor(x, dtype=precise(device), device=device, requires_grad=True)
    y = module(inputs)
    assert_equals(y, (x - along_channels(mean / s, len(shape))) / divisor)
    y.sum().backward()
    assert_equals(inputs.grad, np.ones(shape) / divisor)
    for old, new in zip(before, blobs(module), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_scale_factor_of_zero_means_no_statistics() -> None:
    module = give_values(build('type: "BatchNorm"', SHAPE)).double()
    module.scale_factor.zero_()
    x = values()
    assert_equals(module(torch.tensor(x)), x / np.sqrt(np.float64(np.float32(1e-5))))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), SHAPE])
@pytest.mark.parametrize(
    ("phase", "text"),
    [("TRAIN", ""), ("TEST", "use_global_stats: false"), ("TRAIN", "moving_average_fraction: 0.5 eps: 0.1")],
)
def test_batch_statistics(shape: tuple[int, ...], phase: str, text: str, device: torch.device) -> None:
    module = build(f'type: "BatchNorm" batch_norm_param {{ {text} }}', shape, phase=phase)
    give_values(module, device).to(precise(device))
    mean, variance, s = blobs(module)
    fraction, eps = (0.5, 0.1) if "0.5" in text else (0.999, 1e-5)
    x = values(shape)
    axes = (0, *range(2, len(shape)))
    count = x.size // 3
    y = module(torch.tensor(x, dtype=precise(device), device=device))
    expected = x - along_channels(x.mean(axes), len(shape))
    expected = expected / np.sqrt(along_channels(x.var(axes), len(shape)) + np.float32(eps))
    assert_equals(y, expected)
    f = np.float64(np.float32(fraction))
    assert_equals(module.scale_factor, s * f + 1)
    assert_equals(module.mean, mean * f + x.mean(axes))
    assert_equals(module.variance, variance * f + x.var(axes) * count / (count - 1))


@pytest.mark.parametrize(("phase", "text"), [("TRAIN", ""), ("TEST", "use_global_stats: true")])
def test_one_number_for_each_example_is_one_channel(phase: str, text: str) -> None:
    module = build(f'type: "BatchNorm" batch_norm_param {{ {text} }}', (5,), phase=phase)
    same = build(f'type: "BatchNorm" batch_norm_param {{ {text} }}', (5, 1), phase=phase)
    assert module.mean.shape == (1,)
    give_values(module)
    give_values(same)
    x = torch.tensor(values((5, 1)), dtype=torch.float32)
    assert torch.equal(module(x[:, 0]), same(x)[:, 0])
    assert torch.equal(module.mean, same.mean)


def test_mode_decides_at_run_time() -> None:
    module = give_values(build('type: "BatchNorm"', SHAPE))
    x = torch.tensor(values(), dtype=torch.float32)
    stored = module(x)
    batch = module.train()(x)
    assert not torch.allclose(stored, batch)
    assert torch.allclose(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-6)


def test_one_value_per_channel() -> None:
    module = give_values(build('type: "BatchNorm"', (1, 3), phase="TRAIN"))
    mean, variance, _ = blobs(module)
    x = torch.tensor([[3.0, -1.0, 2.0]])
    assert torch.equal(module(x), torch.zeros(1, 3))
    assert_equals(module.mean, mean * 0.999 + x[0].numpy())
    assert_equals(module.variance, variance * 0.999)


def test_gradient_through_batch_statistics() -> None:
    module = give_values(build('type: "BatchNorm"', (3, 2, 4), phase="TRAIN")).double()
    assert torch.autograd.gradcheck(module, torch.tensor(values((3, 2, 4)), requires_grad=True))


def test_statistics_are_not_learned() -> None:
    module = build('type: "BatchNorm"', SHAPE)
    assert list(module.parameters()) == []
    assert module.blob_names == ("mean", "variance", "scale_factor")
    assert [tuple(getattr(module, n).shape) for n in module.blob_names] == [(3,), (3,), (1,)]


def test_half_precision() -> None:
    x = torch.tensor(values(), dtype=torch.float16)
    for phase in ("TEST", "TRAIN"):
        module = give_values(build('type: "BatchNorm"', SHAPE, phase=phase))
        expected = module(x.float())
        found = give_values(module).half()(x)
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_errors() -> None:
    with pytest.raises(LayerError, match=r"\[\]; \(images, channels, ...\) was"):
        build('type: "BatchNorm"', ())
    with pytest.raises(LayerError, match="set lr_mult: 0"):
        build('type: "BatchNorm" param { lr_mult: 0 } param { lr_mult: 1 }', SHAPE, phase="TRAIN")
    build('type: "BatchNorm" param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }', SHAPE, phase="TRAIN")
    with pytest.raises(LayerError, match="disable_mean"):
        # A fork's field whose meaning is not built must not be passed over.
        build('type: "BatchNorm" batch_norm_param { disable_mean: true }', SHAPE, dialect="happynear/caffe-windows")
