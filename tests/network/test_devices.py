"""Tensors that a net cannot take: on another device, without values, of another kind. Each is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caffe_compat
import converters
from caffe_compat.errors import LayerError, UsageError
from tests.networks import filled, input_layer, ip

NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4)


def test_an_input_on_another_device() -> None:
    """``meta`` stands for any other; of its tensors no values can be had either."""
    x = torch.zeros(2, 3, device="meta")
    with pytest.raises(LayerError, match=r"layer 'fc' \(InnerProduct\): failed on bottoms x \[2, 3\]: .*device"):
        filled(NET)(x=x)
    with pytest.raises(UsageError, match=r"input 'x' cannot be taken to cpu as torch\.float32: .*meta tensor"):
        filled(NET).run({"x": x})


@pytest.mark.parametrize("x", [np.array([{}]), np.array(["a"]), "abc", None, [[1], [2, 3]]])
def test_what_is_no_array_of_numbers(x: Any) -> None:
    with pytest.raises(UsageError, match="input 'x' cannot be taken to cpu"):
        filled(NET).run({"x": x})


def test_a_net_of_which_a_part_has_no_values(tmp_path: Path) -> None:
    net = filled(NET + ip("more", "y", "z", 4))
    net.more.to("meta")
    with pytest.raises(LayerError, match=r"layer 'more' \(InnerProduct\): failed on bottoms y"):
        net(x=torch.zeros(2, 3))
    for target in converters.targets():
        with pytest.raises(UsageError, match=r"the net has no values for more\.weight yet; load weights"):
            converters.export(net, tmp_path / f"net{target.suffix}", target.name)
    with pytest.raises(UsageError, match=r"the net has no values for more\.weight yet"):
        caffe_compat.save(net, tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []
