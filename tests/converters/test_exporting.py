"""What formats have in common: options that mean the same in each, and verification before a file takes its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caffe_compat
import converters
from caffe_compat import LayerError, ParityError, UsageError
from caffe_compat.inference.preprocess import Preprocess
from converters.dynamic import dynamic_axes, other_shapes, rebuilt
from converters.pixels import pixels_of
from converters.pt2 import program_of
from converters.registry import _TARGETS
from converters.samples import sample_inputs
from converters.state import AFTER, states_of
from tests.networks import filled, input_layer, ip, layer

CONV = 'convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "gaussian" std: 1 } }'
PICTURE = input_layer("data", 1, 3, 8, 6) + layer("conv", "Convolution", "data", "conv", CONV)
LSTM = (
    input_layer("x", 3, 2, 4)
    + input_layer("cont", 3, 2)
    + layer("lstm", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
)


@pytest.fixture
def format_of() -> Iterator[Callable[[Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]], None]]:
    """Registers format "toy", whose files are run by the function that is given."""

    def register(run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> None:
        def note(path: str, key: str, text: str) -> None:
            with open(path, "a") as file:
                file.write(f"{key}={text}")

        @converters.target(
            "toy",
            suffix=".toy",
            title="a toy",
            run=lambda _, runs: [run(inputs) for inputs in runs],
            runtime=lambda: "a toy 1.0",
            annotate=note,
        )
        def write(
            net: caffe_compat.CaffeNet, path: str, *, dynamic_batch: bool = False, state: str = "carry"
        ) -> list[str]:
            Path(path).write_text("toy ")
            Path(path).with_suffix(".more").write_text("more")
            return ["a line"]

    yield register
    _TARGETS.pop("toy", None)


def test_a_file_that_agrees_takes_its_place_with_the_record(format_of: Any, tmp_path: Path) -> None:
    net = filled(PICTURE)
    seen: list[tuple[int, ...]] = []

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["data"].shape)
        return {"conv": net.run(inputs)["conv"].numpy()}

    format_of(run)
    exported = converters.export(net, tmp_path / "a.toy", dynamic_batch=True)
    assert seen == [(1, 3, 8, 6), (3, 3, 8, 6)]
    assert exported.files == (str(tmp_path / "a.toy"), str(tmp_path / "a.more"))
    assert exported.notes == ("a line",)
    assert exported.verification is not None
    assert (exported.verification.runtime, exported.verification.runs) == ("a toy 1.0", 2)
    assert (tmp_path / "a.toy").read_text().startswith('toy verification={"runtime": "a toy 1.0", "inputs": "seeded')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.more", "a.toy"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y: {"conv": y * 1.001}, r"not written: in a toy 1.0, conv departs from the net: off by 1\.0e-03"),
        (lambda y: {"conv": y[:, :1]}, r"conv departs from the net: shape \[1, 1, 6, 4\]"),
        (lambda y: {"con": y}, "conv departs from the net: we have no such blob"),
        (lambda y: 1 / 0, "a toy 1.0 cannot run what was written: division by zero"),
    ],
)
def test_a_file_that_departs_is_not_written(wrong: Any, message: str, format_of: Any, tmp_path: Path) -> None:
    net = filled(PICTURE)
    (tmp_path / "a.toy").write_text("old")
    format_of(lambda inputs: wrong(net.run(inputs)["conv"].numpy()))
    with pytest.raises(ParityError, match=message):
        converters.export(net, tmp_path / "a.toy")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.toy": "old"}


def test_a_reference_gives_the_inputs(format_of: Any, tmp_path: Path) -> None:
    formats = Path(__file__).parents[2] / "reference_outputs"
    conversion = caffe_compat.convert(
        formats / "formats" / "v1net.prototxt",
        formats / "formats" / "v1net.caffemodel",
        reference=f"{formats / 'formats.h5'}:v1net",
    )
    format_of(lambda inputs: {name: x.numpy() for name, x in conversion.net.run(inputs).items()})
    exported = converters.export(conversion, tmp_path / "a.toy")
    assert exported.verification is not None
    assert exported.verification.inputs == "the inputs of formats.h5"


def test_an_export_stops_at_outputs(tmp_path: Path, format_of: Any) -> None:
    net = filled(PICTURE + layer("r", "ReLU", "conv", "r") + ip("fc", "r", "fc", 3))
    asked: list[list[str]] = []

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: x.numpy() for name, x in net.run(inputs, blobs=["r"]).items()}

    format_of(run)
    exported = converters.export(net, tmp_path / "a.toy", outputs=["r"])
    assert exported.verification is not None
    assert exported.verification.worst_blob == "r"
    with pytest.raises(UsageError, match="no blob 'q'"):
        converters.export(net, tmp_path / "a.toy", outputs=["q"])
    assert asked == []


# Sizes


def test_the_batch_is_one_size_and_the_streams_of_sequences() -> None:
    assert dynamic_axes(filled(PICTURE), dynamic_batch=True) == {"data": {0: "batch"}}
    assert dynamic_axes(filled(PICTURE)) == {}
    assert dynamic_axes(filled(LSTM), dynamic_batch=True) == {"x": {1: "batch"}, "cont": {1: "batch"}}
    net = filled(PICTURE)
    axes = dynamic_axes(net, dynamic_batch=True, dynamic_size=["data"])
    assert axes == {"data": {0: "batch", 2: "data_height", 3: "data_width"}}
    assert other_shapes(net, axes, 2) == {"data": (3, 3, 72, 70)}


@pytest.mark.parametrize(
    ("name", "message"), [("dat", "no input 'dat' to be of any size; the net's inputs are x"), ("x", "no height")]
)
def test_sizes_that_make_no_sense(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dynamic_axes(filled(input_layer("x", 2, 3) + ip("fc", "x", "y", 4)), dynamic_size=[name])


def test_the_layer_that_ties_a_size_down_is_named() -> None:
    net = filled(PICTURE + layer("flat", "Reshape", "conv", "flat", "reshape_param { shape { dim: 1 dim: 48 } }"))
    with pytest.raises(LayerError, match=r"layer 'flat' \(Reshape\): allows no other size, .*data \[2, 3, 8, 6\]: "):
        rebuilt(net, {"data": (2, 3, 8, 6)})
    net = filled(PICTURE + ip("fc", "conv", "fc", 3))
    assert rebuilt(net, {"data": (2, 3, 8, 6)}).shapes[-1] == (2, 3)
    with pytest.raises(LayerError, match=r"'fc' .*its weight is \[3, 48\].* would have to be \[3, 64\]"):
        rebuilt(net, {"data": (1, 3, 10, 6)})


# State


@pytest.mark.slow
@pytest.mark.parametrize("state", ["carry", "inputs", "reset"])
def test_state_of_a_program(state: str, tmp_path: Path) -> None:
    net = filled(LSTM)
    assert list(states_of(net)) == ["lstm.hidden", "lstm.cell"]
    exported = converters.export(net, tmp_path / "m.pt2", state=state)
    assert len(exported.notes) == 1
    assert "lstm.hidden, lstm.cell" in exported.notes[0]
    program = torch.export.load(tmp_path / "m.pt2").module()
    x, cont = torch.linspace(-1, 1, 24).reshape(3, 2, 4), torch.ones(3, 2)
    first, second = net.run({"x": x, "cont": cont})["h"], net.run({"x": x, "cont": cont})["h"]
    assert not torch.allclose(first, second, rtol=1e-3)
    given = {"x": x, "cont": cont}
    if state == "inputs":
        names = {"lstm_hidden": "lstm.hidden", "lstm_cell": "lstm.cell"}
        begin = {argument: torch.zeros(2, 5) for argument in names}
        one = program(**given, **begin)
        again = program(**given, **{argument: one[name + AFTER] for argument, name in names.items()})
        repeated = program(**given, **begin)
        assert torch.allclose(repeated["h"], first)
    else:
        one, again = program(**given), program(**given)
    assert torch.allclose(one["h"], first)
    assert torch.allclose(again["h"], first if state == "reset" else second)


def test_a_state_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="state 'lost': one of carry, inputs, reset was expected"):
        converters.export(filled(LSTM), tmp_path / "m.pt2", state="lost")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_what_a_file_does_not_refuse_is_said(suffix: str, tmp_path: Path) -> None:
    net = filled(input_layer("x", 2, 3) + input_layer("label", 2) + layer("loss", "SoftmaxWithLoss", "x label", "l"))
    exported = converters.export(net, tmp_path / f"a.{suffix}")
    assert exported.notes == (
        "layer 'loss' (SoftmaxWithLoss): the file takes any label, the net refuses what is no class",
    )


# Pixels


@pytest.mark.parametrize(
    "text",
    [
        "order=bgr,mean=104:117:123,scale=0.017,resize=12x9,crop=8x6",
        "order=rgb,mean=3,resize=8x6",
        "order=rgb,scale=0.5",
    ],
)
def test_pixels_become_input_as_preprocessing_says(text: str) -> None:
    preprocess = Preprocess.from_text(text)
    pixels = pixels_of(filled(PICTURE), preprocess)
    shape = (*(pixels.size or (30, 20)), 3)
    red_first = np.random.RandomState(1).randint(0, 256, shape).astype(np.uint8)
    expected = preprocess.apply(red_first[:, :, ::-1] if text.startswith("order=bgr") else red_first)
    found = pixels.apply(torch.from_numpy(red_first[None]))[0].numpy()
    # OpenCV resizes in whole numbers, with errors of less than one.
    assert np.abs(found - expected).max() < (preprocess.scale if preprocess.resize else 1e-6)


def test_a_mean_image_is_subtracted_at_the_crop() -> None:
    image = np.random.RandomState(2).uniform(0, 255, (3, 12, 9)).astype(np.float32)
    preprocess = Preprocess("bgr", mean_image=image, scale=2.0, resize=(12, 9), crop=(8, 6))
    pixels = pixels_of(filled(PICTURE), preprocess)
    plain = np.random.RandomState(1).randint(0, 256, (12, 9, 3)).astype(np.uint8)
    found = pixels.apply(torch.from_numpy(plain[None]))[0].numpy()
    assert np.allclose(found, preprocess.apply(plain[:, :, ::-1]), atol=1e-4)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (None, "pass preprocess, too"),
        ("order=gray", "no input has 1 channels"),
        ("order=bgr,crop=8x6", "a crop needs a resize"),
        ("order=bgr,resize=9x9", r"becomes \(9, 9\), input 'data' takes \(8, 6\)"),
    ],
)
def test_pixels_that_do_not_fit(preprocess: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pixels_of(filled(PICTURE), None if preprocess is None else Preprocess.from_text(preprocess))


# Samples


def test_samples_are_such_as_their_readers_take() -> None:
    embed = "embed_param { input_dim: 3 num_output: 2 }"
    net = filled(input_layer("words", 50) + layer("e", "Embed", "words", "e", embed))
    words = sample_inputs(net)["words"]
    assert set(words.tolist()) == {0.0, 1.0, 2.0}
    given = sample_inputs(filled(LSTM))
    assert set(given["cont"].ravel().tolist()) == {0.0, 1.0}
    assert len(np.unique(given["x"])) == 24
    assert sample_inputs(filled(LSTM), {"x": (4, 1, 4), "cont": (4, 1)})["x"].shape == (4, 1, 4)


def test_a_program_of_any_batch() -> None:
    net = filled(PICTURE + ip("fc", "conv", "fc", 3))
    program = program_of(net, dynamic_axes(net, dynamic_batch=True)).module()
    for batch in (1, 5):
        x = torch.rand(batch, 3, 8, 6)
        assert torch.allclose(program(data=x)["fc"], net(data=x)["fc"])
    with pytest.raises(LayerError, match=r"'fc' \(InnerProduct\): allows no other size"):
        program_of(net, dynamic_axes(net, dynamic_size=["data"]))


OVER_THE_INPUT = {
    "a": input_layer("x", 2, 3) + layer("power", "Power", "x", "x", "power_param { scale: 3 }"),
    "twice": input_layer("x", 2, 3)
    + layer("abs", "AbsVal", "x", "y")
    + layer("one", "Power", "x", "x", "power_param { scale: -3 }")
    + layer("two", "Power", "x", "x", "power_param { shift: 1 }"),
    "nothing": input_layer("x", 2, 3) + layer("drop", "Dropout", "x", "x"),
}


@pytest.mark.parametrize("format", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("text", OVER_THE_INPUT.values(), ids=OVER_THE_INPUT.keys())
def test_an_output_that_writes_over_an_input(text: str, format: str, tmp_path: Path) -> None:
    """Names of values differ in ONNX, so the output has another name, which is said and verified."""
    net = filled(text)
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    path = tmp_path / "a.file"
    exported = converters.export(net, path, format)
    run = converters.find_target(format).run
    assert run is not None
    assert exported.verification is not None
    (found,) = run(str(path), [{"x": x}])
    name = {"onnx": "x/after", "pt2": "x"}[format]
    np.testing.assert_array_equal(found[name], net.run({"x": x})["x"].numpy())
    assert exported.verification.apart == ""
    assert exported.verification.blobs == len(net.output_names)
    said = ["output x writes over the input x; the file calls it x/after"] if format == "onnx" else []
    assert [note for note in exported.notes if "writes over" in note] == said


def test_a_missing_output_is_no_matter_of_rounding(format_of: Any, tmp_path: Path) -> None:
    """Although every layer by itself agrees: the file of all blobs has what the file that was asked for lacks."""
    net = filled(input_layer("x", 2, 3) + ip("a", "x", "a", 2) + ip("b", "x", "b", 2))
    runs = [["a"], ["a", "b"]]
    format_of(lambda inputs: {name: net.run(inputs)[name].detach().numpy() for name in runs.pop(0)})
    with pytest.raises(ParityError, match=r"b departs from the net: we have no such blob$"):
        converters.export(net, tmp_path / "a.toy")
    assert list(tmp_path.iterdir()) == []
