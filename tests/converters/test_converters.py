"""The registry of output formats, and what is common to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import caffe_compat
import converters
from caffe_compat import MissingExtraError, UsageError
from converters.registry import _TARGETS
from tests.networks import filled, input_layer, ip, layer

NET = input_layer("x", 2, 3) + ip("fc", "x", "y", 4) + layer("r", "ReLU", "y", "z")
X = torch.linspace(-1, 1, 6).reshape(2, 3)


@pytest.fixture
def text_format() -> Iterator[list[dict[str, Any]]]:
    """A format that writes the names of the weights; the list gets what it was asked for."""
    asked: list[dict[str, Any]] = []

    @converters.target("names", suffix=".names.txt", title="a list of names")
    def write(net: caffe_compat.CaffeNet, path: str, *, sources: Any = (), sorted_: bool = False) -> None:
        asked.append({"sources": sources, "sorted_": sorted_})
        Path(path).write_text("\n".join(net.state_dict()))

    yield asked
    del _TARGETS["names"]


def test_every_format_says_what_it_is() -> None:
    for target in converters.targets():
        assert target.suffix.startswith(".")
        assert target.title.startswith(("a ", "an "))
        assert target.cannot
        assert target.write.__doc__


def test_a_format_is_chosen_by_name_or_by_suffix(text_format: list, tmp_path: Path) -> None:
    net = filled(NET)
    converters.export(net, tmp_path / "a.names.TXT")
    converters.export(net, tmp_path / "b", "names", sorted_=True)
    assert (tmp_path / "a.names.TXT").read_text() == (tmp_path / "b").read_text() == "fc.weight\nfc.bias"
    assert text_format == [{"sources": (), "sorted_": False}, {"sources": (), "sorted_": True}]


def test_what_a_conversion_knows_goes_where_there_is_a_place(text_format: list, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    caffe_compat.save(filled(NET), tmp_path / "m.pt")
    formats = Path(__file__).parents[2] / "reference_outputs" / "formats"
    conversion = caffe_compat.convert(formats / "v1net.prototxt", formats / "v1net.caffemodel", preprocess="order=bgr")
    converters.export(conversion, tmp_path / "a", "names")
    converters.export(conversion, tmp_path / "a", "names", sources=("of my own",))
    assert [call["sources"] for call in text_format] == [conversion.sources, ("of my own",)]


@pytest.mark.parametrize(
    ("path", "format_", "options", "message"),
    [
        ("m.onyx", None, {}, r"the name of .*m\.onyx tells no format; known are .*pt2 \(\.pt2\).*save writes a \.pt"),
        ("m.pt", None, {}, r"save writes a \.pt"),
        ("m.pt2", "onyx", {}, r"no format 'onyx'; known are "),
        ("m.pt2", None, {"mean": 3}, "mean has no place in a torch.export program, which takes dtype"),
        ("m.pt2", None, {"dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_what_is_refused(path: str, format_: str | None, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        converters.export(filled(NET), tmp_path / path, format_, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_inference_form_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="export the net it was made of"):
        converters.export(filled(NET).optimize(), tmp_path / "m.pt2")  # type: ignore[arg-type]


def test_a_missing_package_is_named() -> None:
    @converters.target("odd", suffix=".odd", title="an oddity", needs={"no_such_package": "odd"})
    def write(net: caffe_compat.CaffeNet, path: str) -> None: ...

    try:
        with pytest.raises(MissingExtraError, match=r"'no_such_package'.*caffe-compat\[odd\]"):
            converters.export(filled(NET), "m.odd")
    finally:
        del _TARGETS["odd"]


@pytest.mark.parametrize(
    ("package", "format_", "extra"),
    [
        ("onnx", "onnx", "onnx"),
        ("onnxruntime", "onnx", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("safetensors", "python", "safetensors"),
    ],
)
def test_a_format_says_what_to_install(
    package: str, format_: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package}.*\"caffe-compat\[{extra}\]\""):
        converters.export(filled(NET), tmp_path / "m.file", format_)
    assert list(tmp_path.iterdir()) == []


def test_a_format_may_hand_its_options_on(tmp_path: Path) -> None:
    def inner(net: caffe_compat.CaffeNet, path: str, *, size: int = 3, sources: Any = ()) -> None:
        Path(path).write_text(f"{size} {sources}")

    @converters.target("outer", suffix=".outer", title="a wrapped file", options_of=inner)
    def write(net: caffe_compat.CaffeNet, path: str, **options: Any) -> None:
        inner(net, path, **options)

    try:
        outer = converters.find_target("outer")
        assert (outer.options, outer.keeps) == (("size", "sources"), ("sources",))
        assert outer.settings({"size": 4}) == {"size": 4, "sources": ()}
        converters.export(filled(NET), tmp_path / "m.outer", size=5)
        assert (tmp_path / "m.outer").read_text() == "5 ()"
        with pytest.raises(UsageError, match="options has no place in a wrapped file, which takes size, sources"):
            converters.export(filled(NET), tmp_path / "m.outer", options=1)
    finally:
        del _TARGETS["outer"]


@pytest.mark.parametrize(("name", "suffix"), [("pt2", ".x"), ("x", ".pt2"), ("pt", ".x"), ("x", ".pt")])
def test_no_format_takes_the_place_of_another(name: str, suffix: str) -> None:
    with pytest.raises(ValueError, match="is registered twice"):
        converters.target(name, suffix=suffix, title="a copy")(print)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_program_leaves_the_net_as_it_was(dtype: str, tmp_path: Path) -> None:
    net = filled(NET)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    converters.export(net, tmp_path / "m.pt2", dtype=dtype)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    program = torch.export.load(tmp_path / "m.pt2").module()
    kind = getattr(torch, dtype)
    result = program(x=X.to(kind))["z"]
    assert result.dtype == kind
    assert torch.allclose(result.float(), net(x=X)["z"], rtol=2e-2 if dtype == "bfloat16" else 1e-6)
