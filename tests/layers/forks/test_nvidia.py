"""BatchNorm of NVIDIA's forks: what is computed, and which blob of a file is which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, WeightsError
from caffe_compat.formats.weights import write_caffemodel
from caffe_compat.inference.optimization import optimize
from caffe_compat.network.fillers import fill
from caffe_compat.network.loading import load
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import assert_equals, build, give_values, precise

NEW, OLD, JACINTO = "NVIDIA/caffe", "NVIDIA/caffe@caffe-0.15", "tidsp/caffe-jacinto@caffe-0.17"
SHAPE = (2, 3, 5, 4)
X = np.random.RandomState(0).uniform(-3, 5, SHAPE)
# By name: what the tests put into the blobs of a net with this many channels.
SIZES = {"weight": 3.0, "bias": -1.0, "mean": 0.5, "variance": 4.0}


def _along(v: np.ndarray) -> np.ndarray:
    return v.reshape(1, -1, 1, 1)


def _blob(module: torch.nn.Module, name: str) -> np.ndarray:
    return _along(getattr(module, name).detach().cpu().numpy())


@pytest.mark.parametrize("text", ["scale_bias: true", "scale_filler { value: 3 }", "bias_filler { value: 7 }"])
@pytest.mark.parametrize("extra", ["", "use_global_stats: false", "use_global_stats: true"])
def test_stored_statistics_scale_and_shift(text: str, extra: str, device: torch.device) -> None:
    layer = f'type: "BatchNorm" batch_norm_param {{ {text} {extra} eps: 1e-7 }}'
    module = give_values(build(layer, SHAPE, dialect=NEW), device).to(precise(device))
    assert module.blob_names == ("mean", "variance", "scale_factor", "weight", "bias")
    expected = (X - _blob(module, "mean")) / np.sqrt(_blob(module, "variance") + 1e-5)
    expected = expected * _blob(module, "weight") + _blob(module, "bias")
    for training in (False, True):
        assert_equals(module.train(training)(torch.tensor(X, device=device, dtype=precise(device))), expected)
    filled = [fill(torch.full((3,), 9.0), module.fillers[n]).tolist() for n in ("weight", "bias")]
    assert filled == [[3.0 if "scale_filler" in text else 1.0] * 3, [7.0 if "bias_filler" in text else 0.0] * 3]


@pytest.mark.parametrize(("dialect", "divided"), [(NEW, True), (JACINTO, False)])
def test_three_blobs(dialect: str, divided: bool) -> None:
    module = give_values(build('type: "BatchNorm" batch_norm_param { eps: 0.5 }', SHAPE, dialect=dialect)).double()
    assert module.blob_names == ("mean", "variance", "scale_factor")
    for factor in (8.0, 0.0):
        module.scale_factor.fill_(factor)
        share = (1 / factor if factor else 0.0) if divided else 1.0
        expected = (X - _blob(module, "mean") * share) / np.sqrt(_blob(module, "variance") * share + 0.5)
        assert_equals(module(torch.tensor(X)), expected)


def test_training(device: torch.device) -> None:
    layer = (
        'type: "BatchNorm" batch_norm_param { scale_bias: true moving_average_fraction: 0.75 use_global_stats: true }'
    )
    module = give_values(build(layer, SHAPE, phase="TRAIN", dialect=NEW), device).to(precise(device))
    mean, variance = 0.0, 0.0
    for passes in range(3):
        x = X * (passes + 1)
        own, spread = x.mean((0, 2, 3)), x.var((0, 2, 3))
        unbiased = spread * 40 / 39
        mean, variance = (
            (own, unbiased) if passes == 0 else (0.75 * mean + 0.25 * own, 0.75 * variance + 0.25 * unbiased)
        )
        top = module(torch.tensor(x, device=device, dtype=precise(device)))
        expected = (x - _along(own)) / np.sqrt(_along(spread) + 1e-5)
        assert_equals(top, expected * _blob(module, "weight") + _blob(module, "bias"))
        assert_equals(module.mean, mean)
        assert_equals(module.variance, variance)
    assert module.scale_factor.item() == 1
    corner = torch.tensor(X[:, :, :2, :2], requires_grad=True)
    cpu = give_values(build(layer, SHAPE, phase="TRAIN", dialect=NEW)).double()
    assert torch.autograd.gradcheck(cpu, corner)


def test_what_training_refuses() -> None:
    scale = 'type: "BatchNorm" batch_norm_param { scale_bias: true }'
    statistics = "param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 1 }"
    build(f"{scale} {statistics} param {{ decay_mult: 1 }}", SHAPE, phase="TRAIN", dialect=NEW)
    with pytest.raises(LayerError, match="overwrite with 1"):
        build(f"{scale} {statistics} param {{ decay_mult: 0 }}", SHAPE, phase="TRAIN", dialect=NEW)
    with pytest.raises(LayerError, match="TEST phase only"):
        build('type: "BatchNorm"', SHAPE, phase="TRAIN", dialect=OLD)


# Files


def _net(tmp_path: Path, channels: int, text: str) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(
        f"""input: "data" input_shape {{ dim: 1 dim: {channels} dim: 3 dim: 3 }}
        layer {{ name: "bn1" type: "BatchNorm" bottom: "data" top: "bn1" batch_norm_param {{ {text} }} }}""",
        encoding="utf-8",
    )
    return path


def _file(tmp_path: Path, channels: int, names: str, shape: tuple[int, ...] | None = None, factor: float = 0.0) -> Path:
    """A caffemodel with the blobs ``names``, each (C,) or of ``shape``, the factor with a single value."""
    blobs = []
    for name in names.split():
        values = np.full(channels, SIZES[name]) if name in SIZES else np.full(1, factor)
        axes = shape if shape is None or name in SIZES else (1,) * len(shape)
        blobs.append(values.astype(np.float32).reshape(values.shape if axes is None else axes))
    structure = parse_message('layer { name: "bn1" type: "BatchNorm" }').message.SerializeToString()
    path = tmp_path / "w.caffemodel"
    write_caffemodel(path, structure, [blobs])
    return path


OLD_ORDER, NEW_ORDER = "weight bias mean variance factor", "mean variance factor weight bias"
BOTH = "scale_filler { type: 'constant' value: 1 } bias_filler { type: 'constant' value: 0 }"


@pytest.mark.parametrize(
    ("dialect", "channels", "text", "names", "shape"),
    [
        (OLD, 1, BOTH, OLD_ORDER, None),
        (OLD, 4, BOTH, OLD_ORDER, None),
        (OLD, 4, BOTH, OLD_ORDER, (1, 4, 1, 1)),
        (OLD, 4, "", OLD_ORDER, None),
        (OLD, 4, "", NEW_ORDER, None),
        (NEW, 1, "scale_bias: true", OLD_ORDER, None),
        (NEW, 4, "scale_bias: true", OLD_ORDER, (1, 4, 1, 1)),
        (NEW, 4, "scale_bias: true use_global_stats: false", NEW_ORDER, None),
        (NEW, 4, BOTH, NEW_ORDER, (1, 4, 1, 1)),
        (JACINTO, 4, "bias_filler { value: 2 }", OLD_ORDER, None),
    ],
)
def test_five_blobs_of_a_file(
    dialect: str, channels: int, text: str, names: str, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    weights = _file(tmp_path, channels, names, shape)
    net = load(_net(tmp_path, channels, text), weights, dialect=dialect)
    x = torch.full((1, channels, 3, 3), 2.5)
    # (2.5 - 0.5) / sqrt(4 + 1e-5) * 3 - 1
    torch.testing.assert_close(net(data=x)["bn1"], torch.full_like(x, 2.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(optimize(net)(data=x)["bn1"], torch.full_like(x, 2.0), rtol=0, atol=1e-5)


def test_a_file_of_three_blobs(tmp_path: Path) -> None:
    weights = _file(tmp_path, 4, "mean variance factor", factor=2)
    net = load(_net(tmp_path, 4, ""), weights, dialect=NEW)
    x = torch.full((1, 4, 3, 3), 2.25)
    torch.testing.assert_close(net(data=x)["bn1"], torch.full_like(x, 2**0.5), rtol=0, atol=1e-5)
    with pytest.raises(WeightsError, match="has 3 blobs, the net needs 5"):
        load(_net(tmp_path, 4, "scale_bias: true"), weights, dialect=NEW)


def test_a_scale_that_nobody_asked_for(tmp_path: Path) -> None:
    weights = _file(tmp_path, 4, OLD_ORDER)
    with pytest.raises(LayerError, match="set scale_bias: true"):
        load(_net(tmp_path, 4, ""), weights, dialect=NEW)
    with pytest.raises(LayerError, match=r"--dialect NVIDIA/caffe@caffe-0\.15"):
        load(_net(tmp_path, 4, ""), weights)
    with pytest.raises(WeightsError, match=r"shape \[2, 2\], the net needs \[4\]"):
        load(_net(tmp_path, 4, ""), _file(tmp_path, 4, OLD_ORDER, (2, 2)), dialect=OLD)


def test_eps_has_a_floor_and_stored_statistics_are_used(tmp_path: Path) -> None:
    text = """input: "data" input_shape { dim: 2 dim: 1 dim: 1 dim: 2 }
    layer { name: "bn1" type: "BatchNorm" bottom: "data" top: "bn1"
      batch_norm_param { use_global_stats: false eps: 1e-7 } }"""
    path = tmp_path / "net.prototxt"
    path.write_text(text, encoding="utf-8")
    net = load(path, _file(tmp_path, 1, "mean variance factor", factor=1), dialect=NEW)
    x = torch.tensor([[[[1.0, 2.5]]], [[[0.5, -1.5]]]])
    torch.testing.assert_close(net(data=x)["bn1"], (x - 0.5) / (4 + 1e-5) ** 0.5)
