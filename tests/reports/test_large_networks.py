"""Networks of very many layers, inputs or axes: inspected in time linear in their size, and told in short."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from caffe_compat import cli
from caffe_compat.reports.inspection import inspect_file
from tests.networks import input_layer, layer
from tests.work import counted

INPUT = input_layer("x", 2, 3)
# name -> the network of a size
LARGE: dict[str, Callable[[int], str]] = {
    "in place": lambda n: INPUT + "".join(layer(f"l{i}", "ReLU", "x", "x") for i in range(n)),
    "a chain": lambda n: INPUT + "".join(layer(f"l{i}", "ReLU", f"y{i - 1}" if i else "x", f"y{i}") for i in range(n)),
    "one blob read by all": lambda n: INPUT + "".join(layer(f"l{i}", "ReLU", "x", f"y{i}") for i in range(n)),
    "one name": lambda n: INPUT + layer("l", "ReLU", "x", "x") * n,
    "inputs": lambda n: "".join(input_layer(f"x{i}", 2, 3) for i in range(n)) + layer("l", "ReLU", "x0", "y"),
    "tops": lambda n: INPUT + layer("l", "Split", "x", " ".join(f"y{i}" for i in range(n))),
    "one that cannot be built": lambda n: (
        INPUT + layer("odd", "Odd", "x", "odd") + "".join(layer(f"l{i}", "ReLU", "x", f"y{i}") for i in range(n))
    ),
    "nobody's blobs": lambda n: INPUT + "".join(layer(f"l{i}", "ReLU", f"n{i}", f"y{i}") for i in range(n)),
}


@pytest.mark.parametrize("name", LARGE)
def test_work_grows_as_the_network_does(name: str, tmp_path: Path) -> None:
    work = {}
    for size in (10, 30, 90):
        path = tmp_path / f"{size}.prototxt"
        path.write_text(LARGE[name](size))
        inspect_file(path)  # what is done once
        _, work[size] = counted(partial(inspect_file, path))
    assert work[90] - work[30] < 3.6 * (work[30] - work[10])  # three times as many layers more


@pytest.mark.parametrize("text", ["input_dim: 1 " * 5000, "input_shape {" + "dim: 1 " * 5000 + "}"])
def test_an_input_of_very_many_axes(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text(f"input: 'x' {text}")
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(tmp_path / "net.prototxt")])
    said = "".join(capsys.readouterr())
    assert "5000" in said
    assert len(said) < 1500
