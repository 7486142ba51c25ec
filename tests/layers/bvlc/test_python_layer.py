from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.bvlc import python_layer
from caffe_compat.layers.bvlc.python_layer import Blob, PythonLayer, register_python_layer
from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message

INPUT = 'force_backward: true layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_layer, "_ADMITTED", {})


def net(
    layer: str, *, tops: str = 'top: "y"', bottoms: str = 'bottom: "x"', params: str = "", **options: Any
) -> CaffeNet:
    params = f'python_param {{ module: "brought" layer: "{layer}" {params} }}'
    text = f'layer {{ name: "p" type: "Python" {bottoms} {tops} {params} }}'
    return CaffeNet(parse_message(INPUT + text).message, **options).materialize()


class TimesTen(PythonLayer):
    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].data[...] = 10 * bottom[0].data
        bottom[0].data[...] = 0

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        assert propagate_down == [True]
        bottom[0].diff[...] += 10 * top[0].diff


def test_forward_and_backward(device: torch.device) -> None:
    register_python_layer("TimesTen")(TimesTen)
    model = net("TimesTen").to(device)
    assert model.shapes[1] == (2, 3)
    for batch in (2, 5):
        x = torch.randn(batch, 3, device=device, requires_grad=True)
        before = x.detach().clone()
        y = model(x=x)["y"]
        y.backward(torch.full_like(y, 0.5))
        assert y.device == x.device
        torch.testing.assert_close(y, 10 * x)
        torch.testing.assert_close(x.grad, torch.full_like(x, 5))
        assert torch.equal(x, before)


def test_in_place(device: torch.device) -> None:
    @register_python_layer("Rectify")
    class Rectify(PythonLayer):
        def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
            pass

        def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
            top[0].data[top[0].data < 0] = 0

        def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
            bottom[0].diff[top[0].data == 0] = 0

    model = net("Rectify", tops='top: "x"').to(device)
    assert model.shapes[-1] == (2, 3)
    x = torch.tensor([[1.0, -2, 3], [-4, 5, -6], [7, 8, -9]], device=device, requires_grad=True)
    y = model(x=x)["x"]
    y.backward(torch.full_like(y, 0.5))
    torch.testing.assert_close(y, x.relu())
    torch.testing.assert_close(x.grad, 0.5 * (x > 0))


def test_half_precision_passes_through() -> None:
    register_python_layer("TimesTen")(TimesTen)
    x = torch.randn(2, 3).half()
    y = net("TimesTen").half()(x=x)["y"]
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, 10 * x)


def test_phase_and_param_str_are_set_before_setup() -> None:
    @register_python_layer("Constant")
    class Constant(PythonLayer):
        def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
            self.value = float(self.param_str) + self.phase
            assert bottom[0].shape == (2, 3)
            assert (bottom[0].num, bottom[0].channels, bottom[0].height, bottom[0].count) == (2, 3, 1, 6)

        def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
            top[0].reshape()
            top[1].reshape(4)

        def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
            top[0].data[()] = self.value
            top[1].data[...] = bottom[0].data.sum()

    params = 'param_str: "7" share_in_parallel: true'
    for phase, expected in (("TRAIN", 7), ("TEST", 8)):
        model = net("Constant", tops='top: "y" top: "z"', params=params, state=NetState(phase))
        out = model(x=torch.ones(2, 3))
        assert out["y"] == expected
        assert out["y"].shape == ()
        assert out["z"].tolist() == [6, 6, 6, 6]


def test_parameters() -> None:
    @register_python_layer("Affine")
    class Affine(PythonLayer):
        def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
            self.blobs.add_blob(3)
            self.blobs.add_blob(1)
            self.blobs[0].data[...] = 2

        def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
            top[0].reshape(*bottom[0].shape)

        def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
            top[0].data[...] = bottom[0].data * self.blobs[0].data + self.blobs[1].data
            if self.phase == 1:
                self.blobs[1].data[0] += 1  # Caffe's layers may change their own blobs

        def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
            self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum(0)
            self.blobs[1].diff[0] += top[0].diff.sum()
            if propagate_down[0]:
                bottom[0].diff[...] = top[0].diff * self.blobs[0].data

    model = net("Affine", state=NetState("TRAIN"))
    assert dict(model.named_parameters()).keys() == {"p.blob_0", "p.blob_1"}
    assert model.p.blob_0.tolist() == [2, 2, 2]
    model.assign_blob("p", "blob_1", torch.tensor([0.5]))
    x = torch.arange(6.0).reshape(2, 3)
    y = model(x=x)["y"]
    torch.testing.assert_close(y.detach(), 2 * x + 0.5)
    y.sum().backward()
    assert model.p.blob_0.grad.tolist() == [3, 5, 7]
    assert model.p.blob_1.grad.tolist() == [6]

    model = net("Affine")
    for _ in range(2):
        model(x=x)
    assert model.p.blob_1.tolist() == [2]


def test_a_layer_without_bottoms_gives_its_own_data(device: torch.device) -> None:
    @register_python_layer("Source")
    class Source(PythonLayer):
        def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
            assert bottom == []
            top[0].reshape(2)

        def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
            top[0].data[...] = [1, 2]

    model = net("Source", bottoms="").to(device)
    y = model(x=torch.zeros(2, 3, device=device))["y"]
    assert y.device.type == device.type
    assert y.tolist() == [1, 2]


def test_a_layer_without_tops_runs() -> None:
    seen = []

    @register_python_layer("Watch")
    class Watch(PythonLayer):
        def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
            pass

        def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
            seen.append(bottom[0].data.copy())

    net("Watch", tops="")(x=torch.full((2, 3), 4.0))
    np.testing.assert_array_equal(seen, np.full((1, 2, 3), 4))


def test_backward_after_another_forward_is_refused() -> None:
    register_python_layer("TimesTen")(TimesTen)
    model = net("TimesTen")
    x = torch.ones(2, 3, requires_grad=True)
    first = model(x=x)["y"]
    model(x=x)
    with pytest.raises(LayerError, match="'p': ran forward again"):
        first.sum().backward()


def test_a_missing_method_is_named() -> None:
    @register_python_layer("Forward")
    class Forward(TimesTen):
        backward = PythonLayer.backward

    y = net("Forward")(x=torch.ones(2, 3, requires_grad=True))["y"]
    with pytest.raises(NotImplementedError, match="Forward has no method backward"):
        y.sum().backward()


@pytest.mark.slow
def test_it_compiles_around_and_does_not_export() -> None:
    register_python_layer("TimesTen")(TimesTen)
    model = net("TimesTen")
    x = torch.randn(2, 3)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x=x)["y"], 10 * x)
    with pytest.raises(Exception, match=r"cannot be exported|disable"):
        torch.export.export(model, (), {"x": x})


# Which code runs


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``brought`` that leaves a trace when it is imported."""
    path = tmp_path / "brought.py"
    path.write_text(
        "from pathlib import Path\n"
        "from caffe_compat.layers.bvlc.python_layer import PythonLayer\n"
        "Path(__file__).with_name('trace').touch()\n"
        "class Same(PythonLayer):\n"
        "    def reshape(self, bottom, top):\n"
        "        top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top):\n"
        "        top[0].data[...] = bottom[0].data\n"
        "class Foreign:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("brought", None)


def test_nothing_is_imported_unless_allowed(brought: Path) -> None:
    with pytest.raises(LayerError, match=r"'p' \(Python\).*module 'brought'.*class 'Same'.*--allow-python-layers"):
        net("Same")
    assert "brought" not in sys.modules
    assert not brought.with_name("trace").exists()
    y = net("Same", allow_python=True)(x=torch.ones(2, 3))["y"]
    assert torch.equal(y, torch.ones(2, 3))
    assert brought.with_name("trace").exists()


def test_an_admitted_class_is_used_without_importing(brought: Path) -> None:
    register_python_layer("Same")(TimesTen)
    for allow in (False, True):
        y = net("Same", allow_python=allow)(x=torch.ones(2, 3))["y"]
        assert torch.equal(y, torch.full((2, 3), 10.0))
    assert not brought.with_name("trace").exists()


def test_imports_that_fail(brought: Path) -> None:
    with pytest.raises(LayerError, match="has no class 'Absent'"):
        net("Absent", allow_python=True)
    with pytest.raises(LayerError, match="Foreign is not a class derived from"):
        net("Foreign", allow_python=True)
    brought.write_text("import no_such_module")
    sys.modules.pop("brought")
    with pytest.raises(LayerError, match=r"importing module 'brought' failed: ModuleNotFoundError: .*no_such_module"):
        net("Same", allow_python=True)


def test_registering() -> None:
    register_python_layer("A")(TimesTen)
    register_python_layer("A")(TimesTen)
    with pytest.raises(LayerError, match="'A' is registered twice"):
        register_python_layer("A")(type("Other", (TimesTen,), {}))
    with pytest.raises(LayerError, match="int must derive from PythonLayer"):
        register_python_layer("B")(int)  # type: ignore[type-var]


# Blobs


def test_blob_memory_behaves_as_caffes() -> None:
    blob = Blob((2, 3))
    blob.data[...] = np.arange(6).reshape(2, 3)
    assert blob.data.dtype == np.float32
    blob.reshape(4)
    assert blob.data.tolist() == [0, 1, 2, 3]
    blob.reshape(3, np.int64(2))
    assert blob.data.tolist() == [[0, 1], [2, 3], [4, 5]]
    blob.reshape(7)
    assert blob.data.tolist() == [0] * 7
    blob.reshape()
    assert blob.data.ndim == 0
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 1, 1, 1)
    blob.reshape(2, 0)
    assert blob.data.shape == (2, 0)
    with pytest.raises(ValueError, match="cannot have shape"):
        blob.reshape(-1)
    blob.reshape(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="use shape"):
        _ = blob.num
