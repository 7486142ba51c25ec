"""ONNX files: names, metadata, options, other runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino
import pytest

import caffe_compat
import converters
from caffe_compat import CaffeNet, LayerError, NetworkError, UsageError
from caffe_compat.inference.preprocess import Preprocess
from converters.onnx import run_onnxruntime
from converters.onnx_graph.building import build_graph
from converters.onnx_graph.reading import graph_of_file, held_already
from converters.onnx_graph.writing import write_model
from converters.openvino import run_openvino
from converters.samples import sample_inputs
from converters.state import AFTER
from tests.networks import filled, input_layer, ip, layer

CONV = 'convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 1 } }'
POOL = "pooling_param { pool: %s kernel_size: 3 stride: 2 }"
NET = (
    input_layer("data", 1, 3, 9, 8)
    + layer("conv", "Convolution", "data", "conv", CONV)
    + layer("relu", "ReLU", "conv", "conv")
    + layer("most", "Pooling", "conv", "most", POOL % "MAX")
    + layer("mean", "Pooling", "conv", "mean", POOL % "AVE")
    + layer("both", "Eltwise", "most mean", "both")
    + ip("fc", "both", "fc", 5)
    + layer("prob", "Softmax", "fc", "prob")
)
MAPS = NET.partition('layer { name: "fc"')[0]
LSTM = (
    input_layer("x", 3, 2, 4)
    + input_layer("cont", 3, 2)
    + layer("lstm", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
)
FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"


def _entries(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def _sizes(values: object) -> list[list[int | str]]:
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]  # type: ignore[attr-defined]


def test_names_are_caffes(tmp_path: Path) -> None:
    net = filled(NET)
    converters.export(net, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    assert [value.name for value in (*graph.input, *graph.output)] == ["data", "prob"]
    made = {name for node in graph.node for name in node.output}
    assert {"conv", "most", "mean", "both", "fc", "prob"} <= made
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert all(np.array_equal(stored[name], blob.detach().numpy()) for name, blob in net.state_dict().items())


def test_metadata_tells_where_the_file_is_from(tmp_path: Path) -> None:
    conversion = caffe_compat.convert(
        FORMATS / "v1net.prototxt",
        FORMATS / "v1net.caffemodel",
        reference=f"{FORMATS.parent / 'formats.h5'}:v1net",
        preprocess="order=bgr,mean=104:117:123",
    )
    converters.export(conversion, tmp_path / "a.onnx")
    entries = _entries(tmp_path / "a.onnx")
    assert entries["dialect"] == "bvlc"
    assert [source["name"] for source in json.loads(entries["sources"])] == ["v1net.prototxt", "v1net.caffemodel"]
    assert json.loads(entries["preprocess"])["mean"] == [104, 117, 123]
    assert json.loads(entries["parity"])["reference"] == "formats.h5"
    verification = json.loads(entries["verification"])
    assert verification["inputs"] == "the inputs of formats.h5"
    assert verification["worst_rel"] < 1e-5


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dynamic_batch(batch: int, tmp_path: Path) -> None:
    net = filled(NET)
    converters.export(net, tmp_path / "a.onnx", dynamic_batch=True)
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert _sizes([*graph.input, *graph.output]) == [["batch", 3, 9, 8], ["batch", 5]]
    given = {"data": np.random.RandomState(1).rand(batch, 3, 9, 8).astype(np.float32)}
    (found,) = run_onnxruntime(str(tmp_path / "a.onnx"), [given])
    assert np.allclose(found["prob"], net.run(given)["prob"], atol=1e-6)


def test_a_dynamic_size(tmp_path: Path) -> None:
    net = filled(MAPS)
    converters.export(net, tmp_path / "a.onnx", dynamic_size=["data"])
    for height, width in ((9, 8), (14, 23), (11, 10)):
        given = {"data": np.random.RandomState(1).rand(1, 3, height, width).astype(np.float32)}
        (found,) = run_onnxruntime(str(tmp_path / "a.onnx"), [given])
        assert np.allclose(found["both"], net.run(given)["both"], atol=1e-5)
    with pytest.raises(LayerError, match=r"layer 'fc' \(InnerProduct\): allows no other size"):
        converters.export(filled(NET), tmp_path / "b.onnx", dynamic_size=["data"])


def test_half_precision_keeps_inputs_and_outputs(tmp_path: Path) -> None:
    converters.export(filled(NET), tmp_path / "a.onnx")
    exported = converters.export(filled(NET), tmp_path / "h.onnx", dtype="float16")
    assert (tmp_path / "h.onnx").stat().st_size < (tmp_path / "a.onnx").stat().st_size
    graph = onnx.load(tmp_path / "h.onnx").graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    kinds = {t.data_type for t in graph.initializer if t.name.startswith("conv.")}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert exported.verification is not None
    assert exported.verification.worst_rel < 1e-2
    with pytest.raises(UsageError, match="dtype 'bfloat16': one of float32, float16"):
        converters.export(filled(NET), tmp_path / "b.onnx", dtype="bfloat16")


def test_pixels_go_in(tmp_path: Path) -> None:
    net = filled(NET)
    preprocess = Preprocess.from_text("order=bgr,mean=10:20:30,scale=0.01,resize=12x10,crop=9x8")
    converters.export(net, tmp_path / "a.onnx", embed_preprocess=True, preprocess=preprocess)
    pixels = np.random.RandomState(3).randint(0, 256, (1, 12, 10, 3)).astype(np.uint8)  # no resize: no rounding
    (found,) = run_onnxruntime(str(tmp_path / "a.onnx"), [{"data": pixels}])
    expected = net.run({"data": preprocess.apply(pixels[0, :, :, ::-1])[None]})["prob"]
    assert np.allclose(found["prob"], expected, atol=1e-6)
    assert json.loads(_entries(tmp_path / "a.onnx")["preprocess"])["embedded"] is True


def test_state_goes_in_and_out(tmp_path: Path) -> None:
    net = filled(LSTM)
    exported = converters.export(net, tmp_path / "a.onnx", state="inputs")
    assert "lstm.hidden, lstm.cell are inputs" in exported.notes[0]
    given = sample_inputs(net)
    given["cont"] = np.ones_like(given["cont"])
    begin = {name: np.zeros((2, 5), np.float32) for name in ("lstm.hidden", "lstm.cell")}
    (one,) = run_onnxruntime(str(tmp_path / "a.onnx"), [{**given, **begin}])
    (two,) = run_onnxruntime(str(tmp_path / "a.onnx"), [{**given, **{name: one[name + AFTER] for name in begin}}])
    for found in (one, two):
        assert np.allclose(found["h"], net.run(given)["h"], atol=1e-6)
    exported = converters.export(net, tmp_path / "b.onnx")
    assert "begin with zeros in every run" in exported.notes[0]


def test_weights_beyond_the_limit_lie_beside_the_file(tmp_path: Path) -> None:
    net = filled(NET)
    path = str(tmp_path / "a.onnx")
    write_model(build_graph(net, axes={}), path, name="net", metadata={"dialect": "bvlc"}, external_above=1000)
    assert (tmp_path / "a.onnx.data").exists()
    onnx.checker.check_model(path)
    given = sample_inputs(net)
    (found,) = run_onnxruntime(path, [given])
    assert np.allclose(found["prob"], net.run(given)["prob"], atol=1e-6)


@pytest.mark.parametrize("external_above", [2**31, 1000])
def test_weights_that_memory_holds_are_not_loaded_again_if_the_file_has_them(
    external_above: int, tmp_path: Path
) -> None:
    net = filled(input_layer("x", 2, 300) + ip("a", "x", "a", 300) + ip("b", "a", "b", 200))
    path = str(tmp_path / "a.onnx")
    write_model(build_graph(net, axes={}), path, name="net", metadata={}, external_above=external_above)
    given = sample_inputs(net)
    expected = net.run(given)["b"].numpy().copy()
    held = {name: blob.detach().clone() for name, blob in net.state_dict().items()}
    held["b.weight"][-1, -1] += 1
    graph = graph_of_file(path)
    large = {"a.weight", "b.weight"} if external_above > 1000 else set(held)
    assert set(held_already(graph, str(tmp_path), held)) == large - {"b.weight"}
    held["a.weight"] = held["a.weight"].T
    held["b.bias"] = held["b.bias"].double()
    assert not {"a.weight", "b.bias"} & set(held_already(graph, str(tmp_path), held))
    held["a.weight"] = net.a.weight.detach()
    (found,) = run_onnxruntime(path, [given], held)
    assert np.allclose(found["b"], expected, atol=1e-5)


def test_what_cannot_go_is_named(tmp_path: Path) -> None:
    dummy = 'dummy_data_param { shape { dim: 1 dim: 4 dim: 4 dim: 4 } data_filler { type: "gaussian" std: 1 } }'
    net = filled(MAPS + layer("noise", "DummyData", "", "n", dummy) + layer("sum", "Eltwise", "both n", "sum"))
    with pytest.raises(LayerError, match=r"'noise' \(DummyData\): draws its values anew .*stop before it with outputs"):
        converters.export(net, tmp_path / "a.onnx")
    converters.export(net, tmp_path / "a.onnx", outputs=["both"])
    with pytest.raises(NetworkError, match="phase TRAIN"):
        converters.export(caffe_compat.load(FORMATS / "v1net.prototxt", seed=1, phase="train"), tmp_path / "b.onnx")


@pytest.mark.parametrize("name", ["v0net", "v1net"])
def test_other_runtimes_read_the_same_file(name: str, tmp_path: Path) -> None:
    net = caffe_compat.load(FORMATS / f"{name}.prototxt", FORMATS / f"{name}.caffemodel")
    path = str(tmp_path / "a.onnx")
    converters.export(net, path)
    given = sample_inputs(net)
    expected = net.run(given)
    (found,) = run_openvino(path, [given])
    reader = cv2.dnn.readNetFromONNX(path)
    for blob, value in given.items():
        reader.setInput(value, blob)
    for blob, x in expected.items():
        scale = float(x.abs().max())
        assert np.abs(found[blob] - x.numpy()).max() <= 1e-5 * scale
        assert np.abs(reader.forward(blob) - x.numpy()).max() <= 1e-5 * scale


def test_an_openvino_model(tmp_path: Path) -> None:
    net = filled(NET)
    exported = converters.export(net, tmp_path / "a.xml", dynamic_batch=True)
    assert exported.files == (str(tmp_path / "a.xml"), str(tmp_path / "a.bin"))
    assert exported.verification is not None
    assert exported.verification.runtime.startswith("openvino ")
    assert exported.verification.worst_rel < 1e-5


def test_an_openvino_model_has_the_options_and_the_metadata_of_the_onnx_file(tmp_path: Path) -> None:
    assert converters.find_target("openvino").options == converters.find_target("onnx").options
    conversion = caffe_compat.convert(
        FORMATS / "v1net.prototxt",
        FORMATS / "v1net.caffemodel",
        reference=f"{FORMATS.parent / 'formats.h5'}:v1net",
        preprocess="order=bgr,mean=104:117:123",
    )
    converters.export(conversion, tmp_path / "a.onnx")
    converters.export(conversion, tmp_path / "a.xml", dtype="float16")
    model = openvino.Core().read_model(tmp_path / "a.xml")
    entries = _entries(tmp_path / "a.onnx")
    assert entries.pop("verification")
    assert {key: model.get_rt_info(["caffe_compat", key]).astype(str) for key in entries} == entries
    with pytest.raises(UsageError, match="dtype 'bfloat16': one of float32, float16 was expected, which is what Open"):
        converters.export(conversion, tmp_path / "b.xml", dtype="bfloat16")
    with pytest.raises(UsageError, match="state 'carry'"):
        converters.export(conversion, tmp_path / "b.xml", state="carry")


def test_a_tiny_pose_network(reference: Path, tmp_path: Path) -> None:
    folder = reference / "tiny_mask3d"
    net: CaffeNet = caffe_compat.load(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    exported = converters.export(net, tmp_path / "a.onnx")
    assert exported.verification is not None
    assert exported.verification.worst_rel < 1e-5
