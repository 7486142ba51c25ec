"""``caffe-compat reference``: what a file of recorded outputs says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat import cli, load, verify
from caffe_compat.errors import FileError
from caffe_compat.parity.cases import run_cases
from caffe_compat.reports.recorded import describe_recorded


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A network with a fingerprint, and a case with gradients."""
    path = tmp_path / "ref.h5"
    with h5py.File(path, "w") as file:
        file.attrs["version"] = 1
        file.attrs["source"] = "Caffe 1.0"
        net = file.create_group("net")
        net.attrs["phase"], net.attrs["type"] = "TEST", "Net"
        net["bottom/data"] = np.zeros((1, 3, 4, 4), np.float32)
        net["top/prob"] = net["blob/prob"] = np.zeros((1, 5), np.float32)
        big = net.create_group("blob/conv")
        big.attrs["shape"] = [1, 9, 9, 9]
        net["param/conv/0"] = np.zeros((9, 3, 1, 1), np.float32)
        case = file.create_group("Fork.a")
        case.attrs["dialect"], case.attrs["source"] = "who/fork", "a fork"
        case.attrs["note"], case.attrs["prototxt"] = "an odd one", "x"
        case["bottom/x"] = case["top/y"] = case["bottom_diff/x"] = np.float32(1)
    return path


def test_what_it_says(recorded: Path) -> None:
    found = describe_recorded(recorded)
    assert (found.version, found.source, found.size) == (1, "Caffe 1.0", recorded.stat().st_size)
    case, net = found.groups
    assert (net.name, net.kind, net.type, net.phase, net.source, net.passes) == (
        *("net", "network", "Net", "TEST", "Caffe 1.0", 1),
    )
    assert (net.inputs, net.outputs) == ({"data": (1, 3, 4, 4)}, {"prob": (1, 5)})
    assert (net.whole, net.sampled, net.weights, net.gradients) == (1, 1, 1, False)
    assert (case.kind, case.type, case.dialect, case.source, case.note) == (
        *("case", "Fork", "who/fork", "a fork", "an odd one"),
    )
    assert (case.inputs, case.whole, case.gradients) == ({"x": ()}, 1, True)


def test_batches_are_passes_of_one_network(reference: Path) -> None:
    (net,) = describe_recorded(reference / "tiny_mask3d" / "tiny_mask3d.h5").groups
    assert (net.name, net.kind, net.passes) == ("", "network", 2)
    assert set(net.inputs) == {"data", "clip"}


def test_the_command(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([str(recorded)], [str(recorded), "--json"]):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["reference", *arguments])
        assert not leaving.value.code
    table, document = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "recorded with Caffe 1.0; a fork" in table
    assert "Fork of who/fork" in table
    assert "data:1x3x4x4" in table
    assert "Fork.a: an odd one" in table
    assert json.loads(document)["groups"][1]["sampled"] == 1


@pytest.mark.parametrize(
    "read", [describe_recorded, lambda path: list(run_cases(path)), lambda path: verify(tiny(), f"{path}:net")]
)
@pytest.mark.parametrize(("version", "message"), [(2, "is of version 2 of recorded outputs"), ("x", "no number")])
def test_a_later_version(recorded: Path, version: object, message: str, read: Callable[[Path], object]) -> None:
    with h5py.File(recorded, "a") as file:
        file.attrs["version"] = version
    with pytest.raises(FileError, match=message):
        read(recorded)


def tiny() -> Path:
    return Path(__file__).parents[2] / "reference_outputs" / "formats" / "v1net.caffemodel"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v1net.caffemodel.h5", "holds weights; recorded outputs were expected"),
        ("data.h5", "holds no recorded outputs: it has no group"),
    ],
)
def test_other_files_are_told_for_what_they_are(name: str, message: str, reference: Path) -> None:
    net = load(reference / "formats/v1net.prototxt", reference / "formats/v1net.caffemodel")
    with pytest.raises(FileError, match=f"{name}: {message}"):
        verify(net, reference / "formats" / name)
