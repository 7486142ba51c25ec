"""What stays in a blob's memory when it shrinks and grows again, and what fills the tops of DummyData then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import LayerError
from tests.pycaffe.pycaffe_models import write

TWO_BRANCHES = """
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }
layer { name: "base" type: "Convolution" bottom: "data" top: "base"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "constant" value: 0.5 } } }
layer { name: "one" type: "Convolution" bottom: "base" top: "one"
  convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: "constant" value: 1 } } }
layer { name: "ten" type: "Convolution" bottom: "base" top: "ten"
  convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: "constant" value: 10 } } }
layer { name: "both" type: "Concat" bottom: "one" bottom: "ten" top: "both" }
"""
DUMMY = """
layer { name: "dummy" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 2 dim: 3 } shape { dim: 2 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_diffs_of_an_earlier_pass_stay_while_there_is_room(caffe: Any) -> None:
    """Real Caffe gives 11 and 1: ``one`` has the diff of the full pass, though the blobs were smaller in between."""
    net = caffe.Net(write(TWO_BRANCHES), caffe.TEST)
    data = net.blobs["data"]

    def back_from_ten() -> tuple[float, float]:
        net.blobs["ten"].diff[...] = 1
        net.backward(start="ten")
        return float(data.diff.flat[0]), float(net.blobs["one"].diff.min())

    data.data[...] = 1
    net.forward()
    assert back_from_ten() == (10, 0)
    net.blobs["both"].diff[...] = 1
    net.backward()
    assert back_from_ten() == (11, 1)
    for size in (2, 3):
        data.reshape(1, 2, size, size)
        data.data[...] = 1
        net.forward(end="ten")
        assert back_from_ten() == (11, 1), size
    data.reshape(1, 2, 4, 4)  # more than there ever was room for: new memory, which is zero
    data.data[...] = 1
    net.forward(end="ten")
    assert back_from_ten() == (10, 0)


def test_values_come_back_with_the_shape(caffe: Any) -> None:
    net = caffe.Net(write(TWO_BRANCHES), caffe.TEST)
    blob = net.blobs["data"]
    values = np.arange(18, dtype=np.float32)
    blob.data.flat = values
    blob.diff.flat = -values
    blob.reshape(1, 1, 2, 2)
    blob.data[...] += 100
    blob.reshape(1, 2, 3, 3)
    values[:4] += 100
    assert (blob.data.reshape(-1) == values).all()
    assert (blob.diff.reshape(-1) == -np.arange(18)).all()
    blob.reshape(1, 2, 3, 4)
    assert not blob.data.any()
    assert not blob.diff.any()


def test_dummy_data_fills_what_its_tops_have(caffe: Any) -> None:
    net = caffe.Net(write(DUMMY), caffe.TRAIN)
    net.forward()
    for name in ("data", "label"):
        net.blobs[name].reshape(7, *net.blobs[name].shape[1:])
    net.reshape()
    assert net.blobs["ip"].shape == (7, 3)
    drawn = []
    for _ in range(2):
        net.forward()
        assert net.blobs["data"].shape == (7, 3)
        assert np.unique(net.blobs["data"].data).size == 21
        drawn.append(net.blobs["data"].data.copy())
    assert (drawn[0] != drawn[1]).any()
    # A constant filler fills once, when the layer is set up; more room than that is zero.
    assert net.blobs["label"].data.tolist() == [0] * 7


def test_dummy_data_of_which_one_top_was_reshaped_is_refused(caffe: Any) -> None:
    net = caffe.Net(write(DUMMY), caffe.TRAIN)
    net.blobs["data"].reshape(7, 3)
    with pytest.raises(LayerError, match=r"'loss'.*bottom 'label' has shape \[2\]; \(examples = 7, "):
        net.forward()
