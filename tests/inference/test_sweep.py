"""scripts/sweep_optimize.py: what it says of a network, and that it finds one that is off."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from sweep_optimize import drawn, swept

from caffe_compat import CaffeNet
from caffe_compat.inference import engines

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
"""


@pytest.fixture
def net(tmp_path: Path) -> CaffeNet:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    assert drawn(path, largest=10) is None
    found = drawn(path, largest=1000)
    assert found is not None
    assert found.conv.weight.std() > 0.1
    return found


def test_every_engine_is_compared(net: CaffeNet) -> None:
    rows = {engine: (kind, told) for engine, kind, told in swept(net, 0.0)}
    assert list(rows) == ["torch", "onnxruntime", "openvino", "auto"]
    assert rows["torch"][1].endswith("times as fast")
    assert " times as fast in " in rows["auto"][1]
    assert rows["auto"][0] in ("equal", "slower")  # which of the two, a busy machine may decide
    assert [rows[engine][0] for engine in engines.engines()] == ["equal", "equal"]


def test_one_that_is_off_is_found(net: CaffeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    right = engines.engines()["openvino"]

    def wrong(net: CaffeNet, shapes: Mapping[str, tuple[int, ...]], threads: int) -> engines.Session:
        session = right.open(net, shapes, threads)
        return lambda inputs: {name: x * 1.001 for name, x in session(inputs).items()}

    monkeypatch.setitem(engines.engines(), "openvino", dataclasses.replace(right, open=wrong))
    kind, told = next(row[1:] for row in swept(net, 0.0) if row[0] == "openvino")
    assert kind == "off"
    assert "conv departs from the net: off by 1.0e-03 of" in told
