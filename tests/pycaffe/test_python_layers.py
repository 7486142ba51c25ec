"""Python layers in nets of pycaffe: written by the script, or in modules that it imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import LayerError
from caffe_compat.pycaffe import Layer, blob
from caffe_compat.pycaffe.runtime import runtime
from tests.pycaffe.pycaffe_models import write


class Affine(Layer):
    """x * factor + offset; the factor comes with param_str, the offset is learned."""

    def setup(self, bottom: Any, top: Any) -> None:
        if len(bottom) != 1:
            raise ValueError("one bottom, please")
        self.factor = float(self.param_str)
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 4
        self.reshapes = 0

    def reshape(self, bottom: Any, top: Any) -> None:
        self.reshapes += 1
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.factor * bottom[0].data + self.blobs[0].data[0]

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.blobs[0].diff[0] = top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.factor * top[0].diff


class Batches(Layer):
    """A data layer: counts."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.count, self.step_size = 0, 1

    def set_step(self, size: int) -> None:
        self.step_size = size

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(2, 3)

    def forward(self, bottom: Any, top: Any) -> None:
        self.count += self.step_size
        top[0].data[...] = self.count


class Failing(Layer):
    def setup(self, bottom: Any, top: Any) -> None:
        if self.param_str:
            raise KeyError("setup said no")

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        raise ZeroDivisionError("forward said no")


class Masking(Layer):
    """In place: what is negative becomes -1, and gets no gradient. Also counts what it met, where it is learned."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.blobs.add_blob(2)
        self.counts = self.blobs[0]

    def reshape(self, bottom: Any, top: Any) -> None:
        pass

    def forward(self, bottom: Any, top: Any) -> None:
        self.mask = top[0].data < 0
        top[0].data[self.mask] = -1
        self.counts.data[0] += self.mask.sum()

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        assert propagate_down == [True]
        bottom[0].diff[self.mask] = 0
        self.blobs[0].diff[1] += top[0].diff.sum()


class Scrubbing(Layer):
    """Writes to its bottom."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.fill = eval(self.param_str_)["fill"]

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        bottom[0].data[np.isnan(bottom[0].data)] = self.fill
        top[0].data[...] = bottom[0].data.sum()


AFFINE = f"""
force_backward: true
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 5 }} }} }}
layer {{ name: "affine" type: "Python" bottom: "data" top: "out"
  python_param {{ module: "{__name__}" layer: "Affine" param_str: "3" }} }}
"""


def one_layer(cls: str, param_str: str = "", module: str = __name__) -> str:
    return AFFINE.replace('"Affine"', f'"{cls}"').replace('"3"', f'"{param_str}"').replace(__name__, module)


def test_forward_and_backward(caffe: Any) -> None:
    net = caffe.Net(write(AFFINE), caffe.TRAIN)
    net.blobs["data"].data[...] = np.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(net.forward()["out"], 3 * np.arange(10).reshape(2, 5) + 4)
    net.blobs["out"].diff[...] = 2
    np.testing.assert_array_equal(net.backward()["data"], np.full((2, 5), 6))
    assert net.params["affine"][0].diff[0] == 20
    net.backward()
    assert net.params["affine"][0].diff[0] == 20  # the layer sets it; what adds up is the layer's business


def test_the_layer_is_the_scripts_own_object(caffe: Any) -> None:
    net = caffe.Net(write(AFFINE), caffe.TRAIN)
    layer = net.layers[1]
    assert type(layer) is Affine
    assert layer.type == "Python"
    assert layer is net.layer_dict["affine"]
    if blob.is_host(net.params["affine"][0].tensor()):
        layer.blobs[0].data[0] = 1
        assert net.params["affine"][0].data[0] == 1
    net.params["affine"][0].data[0] = -2
    assert (net.forward()["out"] == -2).all()
    assert layer.blobs[0].data[0] == -2
    net.save("w.caffemodel")
    net.params["affine"][0].data[0] = 0
    net.copy_from("w.caffemodel")
    assert net.params["affine"][0].data[0] == -2
    other = caffe.Net("net.prototxt", caffe.TEST)
    other.share_with(net)
    assert (other.forward(data=np.ones((2, 5)))["out"] == 1).all()


def test_reshape(caffe: Any) -> None:
    net = caffe.Net(write(AFFINE), caffe.TEST)
    net.blobs["data"].reshape(4, 7)
    net.reshape()
    assert net.blobs["out"].shape == (4, 7)
    net.blobs["data"].reshape(1, 2, 3)
    assert net.forward()["out"].shape == (1, 2, 3)


def test_in_place(caffe: Any) -> None:
    text = f"""
    force_backward: true
    layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
    layer {{ name: "scale" type: "Power" bottom: "data" top: "x" power_param {{ scale: 5 }} }}
    layer {{ name: "mask" type: "Python" bottom: "x" top: "x"
      python_param {{ module: "{__name__}" layer: "Masking" }} }}
    layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
      inner_product_param {{ num_output: 4 weight_filler {{ type: "constant" value: 1 }} }} }}
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    assert net.params["ip"][0].shape == (4, 3)
    for batch in (2, 1):
        values = np.array([[1, -2, 3], [-4, 5, -6]])[:batch]
        net.blobs["data"].reshape(batch, 3)
        out = net.forward(data=values)["ip"]
        masked = np.where(values < 0, -1, 5 * values)
        np.testing.assert_array_equal(net.blobs["x"].data, masked)
        np.testing.assert_array_equal(out[:, 0], masked.sum(1))
        net.blobs["ip"].diff[...] = 1
        net.clear_param_diffs()
        np.testing.assert_array_equal(net.backward()["data"], np.where(values < 0, 0, 20))
        assert net.params["mask"][0].diff[1] == np.where(values < 0, 0, 4).sum()
    if blob.is_host(net.params["mask"][0].tensor()):
        assert net.params["mask"][0].data[0] == 4  # by way of the blob kept since setup


def test_a_layer_that_writes_to_its_bottom(caffe: Any) -> None:
    text = AFFINE.replace('"Affine"', '"Scrubbing"').replace('"3"', "\"{'fill': 7}\"")
    net = caffe.Net(write(text), caffe.TEST)
    net.blobs["data"].data[...] = 1
    net.blobs["data"].data[1, 2:4] = np.nan
    assert net.forward()["out"] == 8 + 2 * 7
    np.testing.assert_array_equal(net.blobs["data"].data[1], [1, 1, 7, 7, 1])


def test_solvers_update_what_a_layer_learns(caffe: Any) -> None:
    text = (
        AFFINE
        + """
    layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "data" top: "loss" }
    """
    )
    write(text)
    write('net: "net.prototxt" base_lr: 0.25 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "s"', "solver.prototxt")
    solver = caffe.SGDSolver("solver.prototxt")
    solver.step(1)
    assert solver.net.params["affine"][0].data[0] == 4 - 0.25 * 4 * 5
    solver.step(1)
    assert solver.net.params["affine"][0].data[0] == -1 + 0.25 * 5
    assert solver.net.layer_dict["affine"].blobs[0].data[0] == 0.25


def test_a_data_layer_that_the_script_steers(caffe: Any) -> None:
    text = f"""
    layer {{ name: "batches" type: "Python" top: "data" python_param {{ module: "{__name__}" layer: "Batches" }} }}
    layer {{ name: "twice" type: "Power" bottom: "data" top: "twice" power_param {{ scale: 2 }} }}
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    assert net.inputs == []
    assert (net.forward()["twice"] == 2).all()
    net.layers[0].set_step(10)
    assert (net.forward()["twice"] == 22).all()
    assert net.layers[0].count == 11


def test_what_a_layer_raises_comes_through(caffe: Any) -> None:
    with pytest.raises(KeyError, match="setup said no"):
        caffe.Net(write(one_layer("Failing", "x")), caffe.TEST)
    with pytest.raises(ValueError, match="could not convert string to float"):
        caffe.Net(write(one_layer("Affine", "many")), caffe.TEST)
    net = caffe.Net(write(one_layer("Failing")), caffe.TEST)
    with pytest.raises(ZeroDivisionError, match="forward said no"):
        net.forward()


def test_only_what_is_imported_already(caffe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    Path("unseen_layers.py").write_text(
        "import caffe_compat.pycaffe as caffe\n"
        "class Same(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data\n"
    )
    write(one_layer("Same", module="unseen_layers"))
    with pytest.raises(LayerError, match="allow-python-layers"):
        caffe.Net("net.prototxt", caffe.TEST)
    assert "unseen_layers" not in sys.modules
    runtime.allow_python = True
    net = caffe.Net("net.prototxt", caffe.TEST)
    assert (net.forward(data=np.ones((2, 5)))["out"] == 1).all()
    runtime.allow_python = False
    caffe.Net("net.prototxt", caffe.TEST)
    del sys.modules["unseen_layers"]
    write(one_layer("getcwd", module="os"))
    with pytest.raises(LayerError, match=r"os\.getcwd is not a class"):
        caffe.Net("net.prototxt", caffe.TEST)
