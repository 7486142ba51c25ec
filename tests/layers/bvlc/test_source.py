from __future__ import annotations

from typing import Any

import pytest
import torch

from caffe_compat.errors import FileError, LayerError
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build
from tests.networks import filled, layer


def dummy(parameters: str, tops: int = 1, device: torch.device | str = "cpu") -> Any:
    module = build(f'type: "DummyData" dummy_data_param {{ {parameters} }}', tops=tops)
    return module.to_empty(device=device)


def test_parameter_is_a_learnable_top(device: torch.device) -> None:
    module = build('type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }')
    assert module.blob_names == ("value",)
    assert module.infer().shape == (2, 3)
    module.to_empty(device=device)
    torch.nn.init.ones_(module.value)
    module().mul(2).sum().backward()
    assert torch.equal(module.value.grad, torch.full((2, 3), 2.0, device=device))


def test_a_parameter_asks_for_no_gradients_where_there_are_none() -> None:
    """Neither itself nor a view of it: what is run without gradients can be made an array of."""
    text = layer("p", "Parameter", "", "p", "parameter_param { shape { dim: 2 dim: 3 } }")
    net = filled(text + layer("f", "Flatten", "p", "f", "flatten_param { axis: 0 }"))
    blobs = net.run(blobs="all")
    assert {name: blob.numpy().shape for name, blob in blobs.items()} == {"p": (2, 3), "f": (6,)}
    assert blobs["p"].data_ptr() == net.p.value.data_ptr()


def test_parameter_without_axes() -> None:
    assert build('type: "Parameter" parameter_param { shape { } }').infer().shape == ()
    with pytest.raises(LayerError, match=r"shape \[2, -1\] has a negative size"):
        build('type: "Parameter" parameter_param { shape { dim: 2 dim: -1 } }')


def test_dummy_data_without_a_filler_is_zero(device: torch.device) -> None:
    (y,) = dummy("shape { dim: 2 dim: 3 }", device=device)()
    assert torch.equal(y, torch.zeros(2, 3, device=device))


def test_dummy_data_shapes_and_fillers_once_or_once_each() -> None:
    a, b = dummy("shape { dim: 2 } data_filler { value: 3 }", tops=2)()
    assert (a.tolist(), b.tolist()) == ([3, 3], [3, 3])
    fillers = "data_filler { value: 0 } data_filler { type: 'uniform' min: 5 max: 6 }"
    text = "shape { dim: 2 } shape { dim: 1 dim: 3 } " + fillers
    a, b = dummy(text, tops=2)()
    assert a.tolist() == [0, 0]
    assert b.shape == (1, 3)
    assert ((b >= 5) & (b <= 6)).all()


def test_dummy_data_old_shape_fields() -> None:
    tops = dummy("num: 2 num: 3 channels: 4 height: 5 height: 6 width: 7", tops=2)()
    assert [tuple(y.shape) for y in tops] == [(2, 4, 5, 7), (3, 4, 6, 7)]


def test_dummy_data_is_drawn_anew_from_seed_and_iteration(device: torch.device) -> None:
    module = dummy("shape { dim: 4 dim: 5 } data_filler { type: 'gaussian' }", tops=2, device=device)
    module.randomness = Randomness(seed=3)
    first = module()
    assert not torch.equal(first[0], first[1])
    assert torch.equal(module()[0], first[0])
    module.randomness.iteration = 1
    assert not torch.equal(module()[0], first[0])


def test_dummy_data_follows_the_precision_of_the_net() -> None:
    (y,) = dummy("shape { dim: 4 } data_filler { type: 'gaussian' }").half()()
    assert y.dtype == torch.float16


def test_dummy_data_shapes_are_known_without_memory() -> None:
    module = build('type: "DummyData" dummy_data_param { shape { dim: 4 dim: 0 } data_filler { type: "xavier" } }')
    assert [(tuple(y.shape), y.device.type) for y in module.infer()] == [((4, 0), "meta")]


@pytest.mark.parametrize(
    ("parameters", "tops", "message"),
    [
        ("", 1, "shape is given 0 times for 1 tops"),
        ("shape { dim: 2 } shape { dim: 3 }", 3, "shape is given 2 times for 3 tops"),
        ("num: 1 channels: 1 height: 1", 1, "width is given 0 times"),
        ("num: 1 shape { dim: 2 }", 1, "both shape and num"),
        ("shape { dim: 2 } data_filler { } data_filler { }", 3, "2 data fillers for 3 tops"),
        ("shape { dim: 2 } data_filler { type: 'normal' }", 1, "no filler type 'normal'; there are bilinear, constant"),
        ("shape { dim: -2 }", 1, r"shape \[-2\] has a negative size"),
    ],
)
def test_dummy_data_refuses(parameters: str, tops: int, message: str) -> None:
    with pytest.raises(LayerError, match=rf"layer 'l' \(DummyData\): .*{message}"):
        dummy(parameters, tops)


def test_what_dummy_data_makes_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = dummy("shape { dim: 3 dim: 4 }", tops=2)
    monkeypatch.setenv("CAFFE_COMPAT_MAX_BATCH_BYTES", "96")
    assert [top.shape for top in module()] == [(3, 4), (3, 4)]
    monkeypatch.setenv("CAFFE_COMPAT_MAX_BATCH_BYTES", "95")
    with pytest.raises(FileError, match=r"\(DummyData\) makes takes 96 bytes, .*CAFFE_COMPAT_MAX_BATCH_BYTES"):
        module()
