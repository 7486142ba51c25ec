"""``caffe-compat convert`` into other formats: which files come of which options, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

import caffe_compat
from caffe_compat import cli
from tests.networks import input_layer, ip, layer, write_weights

NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4) + layer("r", "ReLU", "y", "z") + ip("last", "z", "w", 2)
X = np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32)
WEIGHT, BIAS = np.random.RandomState(2).uniform(-1, 1, (4, 3)), np.random.RandomState(3).uniform(-1, 1, 4)
Z = np.maximum(X @ WEIGHT.T + BIAS, 0).astype(np.float32)


@dataclass
class Result:
    status: int | str | None
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``convert net.prototxt net.caffemodel --quiet`` in a folder with ref.h5 (right) and bad.h5 (wrong in z)."""
    (tmp_path / "net.prototxt").write_text(NET)
    last = [np.ones((2, 4)), np.zeros(2)]
    write_weights(tmp_path / "net.caffemodel", [("fc", [WEIGHT, BIAS]), ("last", last)])
    for name, z in (("ref.h5", Z), ("bad.h5", Z + 1)):
        with h5py.File(tmp_path / name, "w") as file:
            file["blob/x"], file["blob/z"] = X, z
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as leaving:
            cli.main(["convert", "net.prototxt", "net.caffemodel", "--quiet", *arguments])
        captured = capsys.readouterr()
        return Result(leaving.value.code, captured.out, captured.err)

    return run


def _made() -> list[str]:
    return sorted({p.name for p in Path().iterdir()} - {"net.prototxt", "net.caffemodel", "ref.h5", "bad.h5"})


@pytest.mark.parametrize("name", ["m.tflite", "m.MLModel", "m.h5"])
def test_a_file_of_another_program_is_not_a_pt(name: str, run: Run) -> None:
    result = run("-o", name)
    suffix = name[1:].lower()
    assert (result.status, _made()) == (2, [])
    assert result.err.startswith(
        f"caffe-compat: error: nothing here writes {suffix} files as {name} is one; there are .pt, .caffem"
    )
    assert run("-o", name, "--format", "pt").status == 0
    assert _made() == [name]


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["-o", "m.safetensors"], ["m.safetensors"]),
        (["-o", "m.CAFFEMODEL.H5"], ["m.CAFFEMODEL.H5"]),
        (["-o", "m.of.mine"], ["m.of.mine"]),
        (["-o", "m.pt", "-o", "m.caffemodel"], ["m.caffemodel", "m.pt"]),
        (["-o", "m", "--format", "pt", "--format", "safetensors"], ["m.pt", "m.safetensors"]),
        (["-o", "m.pt", "--format", "caffemodel", "--format", "caffemodel.h5"], ["m.caffemodel", "m.caffemodel.h5"]),
        (["-o", "a", "-o", "b", "--format", "safetensors", "--format", "pt"], ["a", "b"]),
        (["-o", "m.bin", "--format", "safetensors"], ["m.bin"]),
        pytest.param(["-o", "m.py"], ["m.py", "m.safetensors"], marks=pytest.mark.slow),
    ],
)
def test_formats_and_names(arguments: list[str], made: list[str], run: Run) -> None:
    result = run(*arguments)
    assert (result.status, result.err) == (0, "")
    assert _made() == made
    for name in made:
        assert f"wrote {name} (" in result.out
    if "m.py" in made:
        assert "m.py runs in torch" in result.out


def test_outputs_stop_early(run: Run) -> None:
    assert run("-o", "m.pt", "-o", "m.safetensors", "--outputs", "z").status == 0
    net = caffe_compat.load("m.pt")
    assert net.output_names == ("z",)
    assert sorted(net.state_dict()) == ["fc.bias", "fc.weight"]
    np.testing.assert_allclose(net.run({"x": X})["z"], Z, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "m.pt", "--dynamic-batch"], "--dynamic-batch has no place in a .pt"),
        (["-o", "m.pt", "--dynamic-size", "x"], "--dynamic-size has no place in a .pt"),
        (["-o", "m.pt", "--embed-preprocess"], "--embed-preprocess has no place in a .pt"),
        (["-o", "m.pt", "--state", "reset"], "--state has no place in a .pt"),
        (["-o", "m.caffemodel", "--dtype", "float16"], "--dtype has no place in a caffemodel; --format pt keeps it"),
        (
            ["-o", "m.safetensors", "--optimize"],
            "--optimize has no place in a file of safetensors",
        ),
        (["-o", "m.caffemodel.h5", "--preprocess", "order=bgr"], "--preprocess has no place in a caffemodel in HDF5"),
        (["-o", "m.py", "--embed-preprocess"], "--embed-preprocess has no place in a plain PyTorch source file"),
        (["-o", "m.pt", "-o", "m.safetensors", "--dynamic-batch"], "--dynamic-batch has no place in a .pt"),
        (["-o", "m.py", "-o", "m.safetensors"], "would both be written to m.safetensors; give each its -o"),
        (["-o", "m.pt", "-o", "./m.pt"], "would both be written to"),
        (["-o", "a", "-o", "b", "--format", "pt"], "2 -o and 1 --format; give one -o, or one for each format"),
        (["-o", "m.pt", "--format", "onyx"], "no format 'onyx'; known are "),
        (["-o", "m.pt", "--outputs", "z,gone"], "no blob 'gone'"),
        (["-o", "net.caffemodel"], "-o net.caffemodel would overwrite net.caffemodel, which is read"),
        (["-o", "m.pt", "--report", "net.prototxt"], "would overwrite net.prototxt, which is read"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, run: Run) -> None:
    result = run(*arguments)
    assert result.status == 2
    (line,) = result.err.splitlines()
    assert message in line
    assert _made() == []


def test_a_report_is_written_beside_the_model(run: Run) -> None:
    result = run("-o", "m.pt", "--reference", "ref.h5", "--report", "page.html")
    assert (result.status, _made()) == (0, ["m.pt", "page.html"])
    assert "equal in 2 blobs; worst relative error" in Path("page.html").read_text()


def test_a_model_that_departs_leaves_its_report_alone(run: Run) -> None:
    result = run("-o", "m.pt", "-o", "m.safetensors", "--reference", "bad.h5", "--report", "page.html")
    assert (result.status, _made()) == (1, ["page.html"])
    assert "m.pt, m.safetensors was not written" in result.err
    assert "DEPARTS at z, the first of 2 blobs" in Path("page.html").read_text()
