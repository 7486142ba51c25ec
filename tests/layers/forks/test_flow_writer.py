"""FLOWriter's files, byte for byte as its C++ writes them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.access import FileAccess
from caffe_compat.errors import CaffeCompatError, LayerError
from tests.layers.building import build

FORK = "lmb-freiburg/flownet2"
X = np.random.RandomState(1).randn(2, 2, 3, 4).astype(np.float32)


def writer(params: str, root: Path | None, shape: tuple[int, ...] = X.shape) -> Any:
    module = build(f'type: "FLOWriter" writer_param {{ {params} }}', shape, tops=0, dialect=FORK)
    module.files = FileAccess(root, root)
    return module


def content(flow: np.ndarray) -> bytes:
    pixels = [flow[c, y, x] for y in range(3) for x in range(4) for c in range(2)]
    return b"PIEH" + struct.pack("<2i24f", 4, 3, *pixels)


def test_a_file_for_each_image_of_each_pass(tmp_path: Path) -> None:
    module = writer('folder: "./new/out" prefix: "flow-" suffix: "_x" scale: 3 normalize: true', tmp_path)
    assert module(torch.tensor(X)) == ()
    module.randomness.iteration = 12
    module(torch.tensor(X[:1]))
    module.randomness.training = 345, 1000
    module(torch.tensor(X[1:]))
    found = {path.name: path.read_bytes() for path in (tmp_path / "new" / "out").iterdir()}
    assert found == {
        "flow-0000000(000)_x.flo": content(X[0]),
        "flow-0000000(001)_x.flo": content(X[1]),
        "flow-0000012_x.flo": content(X[0]),
        "flow-0000345_x.flo": content(X[1]),
    }


def test_one_file_holds_the_last_image(tmp_path: Path) -> None:
    writer('file: "flow.flo" folder: "none" prefix: "a"', tmp_path)(torch.tensor(X))
    assert [path.name for path in tmp_path.iterdir()] == ["flow.flo"]
    assert (tmp_path / "flow.flo").read_bytes() == content(X[1])


def test_what_the_layer_did_not_write_stays(tmp_path: Path) -> None:
    (tmp_path / "flow.flo").write_text("mine")
    with pytest.raises(CaffeCompatError, match=r"flow\.flo: layer 'l': exists and was not written by this layer"):
        writer('file: "flow.flo"', tmp_path)(torch.tensor(X))
    assert [path.name for path in tmp_path.iterdir()] == ["flow.flo"]
    assert (tmp_path / "flow.flo").read_text() == "mine"


def test_nothing_is_written_where_that_is_not_allowed(tmp_path: Path) -> None:
    module = writer('folder: "out"', None)
    module(torch.tensor(X[:1]))
    assert module.files.written == {"out/0000000.flo": "108 bytes"}
    with pytest.raises(CaffeCompatError, match=r"\.\./flow"):
        writer('file: "../flow.flo"', tmp_path)(torch.tensor(X))


def test_errors() -> None:
    for params, message in (("", "needs a folder"), ('file: ""', "file is empty")):
        with pytest.raises(LayerError, match=message):
            writer(params, None)
    with pytest.raises(CaffeCompatError, match=r"has shape \[2, 3, 4, 5\]; \(images, 2, height, width\)"):
        writer('folder: "out"', None, (2, 3, 4, 5))
