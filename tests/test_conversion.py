"""convert, save and verify as calls: what they give, what they record, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat import ParityError, Report, UsageError
from caffe_compat.network.checkpoint import read_checkpoint
from caffe_compat.parity.compare import BlobResult, CaseResult
from tests.networks import filled, input_layer, ip, layer, write_weights

NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4) + layer("r", "ReLU", "y", "z")
X = np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32)
WEIGHT = np.random.RandomState(2).uniform(-1, 1, (4, 3)).astype(np.float32)
BIAS = np.random.RandomState(3).uniform(-1, 1, 4).astype(np.float32)
Y = X @ WEIGHT.T + BIAS


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a definition, its weights and what they compute."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    write_weights(tmp_path / "net.caffemodel", [("fc", [WEIGHT, BIAS])])
    write_reference("ref.h5", Y)
    return tmp_path


def write_reference(path: str, y: np.ndarray, *, with_input: bool = True) -> None:
    with h5py.File(path, "w") as file:
        if with_input:
            file["g/bottom/x"] = X
        file["g/blob/y"], file["g/blob/z"] = y, np.maximum(y, 0)


def test_a_conversion_tells_what_it_did(model: Path) -> None:
    conversion = caffe_compat.convert("net.prototxt", "net.caffemodel", reference="ref.h5")
    assert conversion.filled.filled == ["fc"]
    assert conversion.warnings == conversion.notes == ()
    assert conversion.definition.schema.name == "bvlc"
    assert [(source.path, len(source.hexdigest())) for source in conversion.sources] == [
        ("net.prototxt", 64),
        ("net.caffemodel", 64),
    ]
    assert conversion.report is not None
    assert conversion.report.ok
    assert [blob.name for blob in conversion.report.blobs] == ["y", "z"]
    assert conversion.parity is not None
    assert (conversion.parity.reference, conversion.parity.group, conversion.parity.blobs) == ("ref.h5", "", 2)
    np.testing.assert_allclose(conversion.net(x=torch.from_numpy(X))["z"].detach(), np.maximum(Y, 0), rtol=1e-5)


def test_without_a_reference_nothing_is_claimed(model: Path) -> None:
    conversion = caffe_compat.convert("net.prototxt", "net.caffemodel")
    assert conversion.report is None
    assert conversion.parity is None
    caffe_compat.save(conversion, "m.pt")
    assert read_checkpoint("m.pt").parity is None


def test_what_departs_is_an_error_that_names_the_blob(model: Path) -> None:
    write_reference("wrong.h5", Y + 1)
    with pytest.raises(ParityError, match=r"the model does not reproduce wrong\.h5: y: off by ") as caught:
        caffe_compat.convert("net.prototxt", "net.caffemodel", reference="wrong.h5:g")
    report = caught.value.report
    assert not report.ok
    assert report.first_departing.name == "y"
    assert report.group == "g"


def test_the_file_keeps_what_is_known(model: Path) -> None:
    conversion = caffe_compat.convert(
        "net.prototxt", "net.caffemodel", reference="ref.h5", preprocess="order=rgb,scale=0.5"
    )
    caffe_compat.save(conversion, "m.pt")
    stored = read_checkpoint("m.pt")
    assert stored.parity == conversion.parity
    assert [source["name"] for source in stored.sources] == ["net.prototxt", "net.caffemodel"]
    assert stored.preprocess is not None
    assert (stored.preprocess["channel_order"], stored.preprocess["scale"]) == ("rgb", 0.5)
    assert torch.equal(caffe_compat.load("m.pt").fc.weight, conversion.net.fc.weight)


def test_the_preprocessing_of_a_data_layer_is_kept(model: Path) -> None:
    data = layer("d", "Data", "", "x", "transform_param { scale: 0.5 mean_value: 3 } include { phase: TEST }")
    Path("data.prototxt").write_text(data + ip("fc", "x", "y", 4))
    conversion = caffe_compat.convert("data.prototxt", "net.caffemodel", input_shapes={"x": (2, 3)})
    assert conversion.preprocess is not None
    assert conversion.preprocess.mean == (3.0,)
    assert conversion.notes


def test_changed_weights_lose_the_record(model: Path) -> None:
    conversion = caffe_compat.convert("net.prototxt", "net.caffemodel", reference="ref.h5")
    conversion.net.fc.weight.data[1, 2] += 1e-6
    assert conversion.parity is None
    caffe_compat.save(conversion, "m.pt")
    assert read_checkpoint("m.pt").parity is None
    assert caffe_compat.verify("m.pt", "ref.h5").ok  # within tolerance still, but that is for somebody to see


def test_warnings_are_data(model: Path) -> None:
    Path("more.prototxt").write_text(NET + ip("more", "z", "w", 2))
    conversion = caffe_compat.convert("more.prototxt", "net.caffemodel", fill_missing=True)
    assert conversion.filled.initial == ["more"]
    assert ["'more'" in text for text in conversion.warnings] == [True]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("net.prototxt",), {}, "net.prototxt is a prototxt; pass its weights"),
        (("net.prototxt", "net.caffemodel"), {"inputs": {"x": X}}, "the input x is for a reference"),
        (("net.prototxt", "net.caffemodel"), {"reference": "ref.h5:other"}, "has no group 'other'"),
        (("net.prototxt", "net.caffemodel"), {"preprocess": "order=cmyk"}, "order=cmyk"),
    ],
)
def test_what_makes_no_sense(arguments: tuple[str, ...], options: dict, message: str, model: Path) -> None:
    with pytest.raises(caffe_compat.CaffeCompatError, match=message):
        caffe_compat.convert(*arguments, **options)


def test_inputs_that_the_reference_lacks(model: Path) -> None:
    write_reference("part.h5", Y, with_input=False)
    with pytest.raises(UsageError, match="does not hold input 'x' whole"):
        caffe_compat.convert("net.prototxt", "net.caffemodel", reference="part.h5")
    assert caffe_compat.convert("net.prototxt", "net.caffemodel", reference="part.h5", inputs={"x": X}).parity


def test_saving_a_net_of_ones_own(tmp_path: Path, device: torch.device) -> None:
    net = filled(NET).to(device)
    caffe_compat.save(net, tmp_path / "m.pt")
    assert net.fc.weight.device.type == device.type
    loaded = caffe_compat.load(tmp_path / "m.pt")
    assert torch.equal(loaded.fc.weight, net.fc.weight.cpu())
    assert read_checkpoint(tmp_path / "m.pt").sources == ()
    with pytest.raises(UsageError, match="inference form"):
        caffe_compat.save(net.optimize(), tmp_path / "m.pt")  # type: ignore[arg-type]


def test_a_net_without_values_is_not_saved(model: Path) -> None:
    net = caffe_compat.load("net.prototxt", "net.caffemodel").to("meta")
    with pytest.raises(UsageError, match=r"no values for fc\.weight yet"):
        caffe_compat.save(net, "m.pt")
    assert not Path("m.pt").exists()


# Reports


def test_verify_takes_a_net_or_a_file(model: Path) -> None:
    net = caffe_compat.load("net.prototxt", "net.caffemodel")
    caffe_compat.save(net, "m.pt")
    for subject in (net, "m.pt", Path("m.pt")):
        report = caffe_compat.verify(subject, Path("ref.h5"))
        assert report.ok
        assert (report.reference, report.group, report.device) == ("ref.h5", "", "cpu")
    with pytest.raises(UsageError, match=r"net\.prototxt: a prototxt has no weights"):
        caffe_compat.verify("net.prototxt", "ref.h5")


def test_the_record_says_in_which_precision(model: Path) -> None:
    net = caffe_compat.load("net.prototxt", "net.caffemodel")
    assert caffe_compat.verify(net, "ref.h5").record().precision == "float32 (IEEE)"
    half = net.to(torch.float16)
    rounded = half.run({"x": X.astype(np.float16)}, blobs="all")["y"].float().numpy()
    write_reference("half.h5", rounded)
    assert caffe_compat.verify(half, "half.h5").record().precision == "float16"


BAD = BlobResult("conv\x1b[2J", 24, (2, 3, 4), float("inf"), float("inf"), False, "not a number")
GOOD = BlobResult("data", 6, (), 0.0, 0.0, True)
FINE = BlobResult("fc", 1024, (2, 512), 2e-6, 4e-6, True)


def test_a_report_as_a_table() -> None:
    report = Report((CaseResult("batch_0", [GOOD, FINE]), CaseResult("batch_1", [FINE, BAD])))
    assert report.table().splitlines() == [
        "case     blob         count  shape    max abs   max rel  result",
        "batch_0  data             6  scalar  0.00e+00  0.00e+00  pass",
        "batch_0  fc           1,024  2x512   2.00e-06  4.00e-06  pass",
        "batch_1  fc           1,024  2x512   2.00e-06  4.00e-06  pass",
        r"batch_1  conv\x1b[2J     24  2x3x4        inf       inf  FAIL: not a number",
        r"1 of 2 passed, 4 blobs compared, worst relative error inf (conv\x1b[2J)",
    ]
    assert [row[1] for row in report.rows(every_blob=False)] == ["fc", BAD.name]
    assert [row[1] for row in report.rows(only_failures=True)] == [BAD.name]


def test_a_report_as_json_and_as_a_verdict() -> None:
    refused = CaseResult("c", unsupported="no layer type 'X'")
    report = Report((CaseResult("a", [GOOD]), CaseResult("b", [FINE, BAD]), refused))
    assert not report.ok
    assert report.first_departing is BAD
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == {
        "cases": 3,
        "passed": 1,
        "failed": [{"case": "b", "blob": BAD.name, "max_abs": None, "max_rel": None, "problem": "not a number"}],
        "unsupported": [{"case": "c", "reason": "no layer type 'X'"}],
    }
    with pytest.raises(ParityError) as caught:
        report.record()
    assert caught.value.report is report


@pytest.mark.parametrize("results", [(), (CaseResult("a"),), (CaseResult("a", [GOOD], unsupported="no"),)])
def test_nothing_compared_is_not_ok(results: tuple[CaseResult, ...]) -> None:
    report = Report(results)
    assert not report.ok
    assert report.first_departing is None
    with pytest.raises(ParityError):
        report.record()
