"""What inspect tells of every kind of file, with numbers worked out by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import CaffeCompatError, FileError, PrototxtError, UsageError
from caffe_compat.formats.weights import write_binaryproto, write_caffemodel, write_solverstate
from caffe_compat.formats.weights_hdf5 import write_caffemodel_hdf5
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.checkpoint import save_checkpoint
from caffe_compat.network.loading import load
from caffe_compat.parity.record import ParityRecord
from caffe_compat.reports.inspection import Inspection, inspect_file, inspect_pair
from caffe_compat.reports.network import NetworkInspection
from tests.networks import input_layer, layer

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 11 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 kernel_size: 5 group: 2 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up"
        convolution_param { num_output: 3 kernel_size: 2 stride: 2 bias_term: false } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 7 } }
"""

# conv: (9 - 3) // 2 + 1 = 4 by (11 - 5) // 2 + 1 = 4
CONV_MACS = 2 * 4 * 4 * (6 * 2 * 3 * 5)
UP_MACS = 2 * 4 * 4 * (6 * 3 * 2 * 2)
FC_MACS = 2 * (6 * 4 * 4) * 7


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def network(inspection: Inspection) -> NetworkInspection:
    assert inspection.network is not None
    json.dumps(inspection.to_json())
    return inspection.network


def test_network(tmp_path: Path) -> None:
    inspection = inspect_file(write(tmp_path / "net.prototxt", NET))
    found = network(inspection)
    assert (inspection.kind, inspection.format, inspection.size) == ("network", "text", len(NET))
    assert (found.name, found.dialect, found.problem, found.complete) == ("small", "bvlc", "", True)
    assert found.inputs == {"data": (2, 4, 9, 11)}
    assert found.outputs == {"up": (2, 3, 8, 8), "fc": (2, 7)}
    assert [(row.name, row.type, row.bottoms, row.tops, row.shapes) for row in found.layers] == [
        ("data", "Input", (), ("data",), ((2, 4, 9, 11),)),
        ("conv", "Convolution", ("data",), ("conv",), ((2, 6, 4, 4),)),
        ("relu", "ReLU", ("conv",), ("conv",), ((2, 6, 4, 4),)),
        ("up", "Deconvolution", ("conv",), ("up",), ((2, 3, 8, 8),)),
        ("fc", "InnerProduct", ("conv",), ("fc",), ((2, 7),)),
    ]
    assert [row.parameters for row in found.layers] == [0, 6 * 2 * 15 + 6, 0, 6 * 3 * 4, 96 * 7 + 7]
    assert [row.macs for row in found.layers] == [0, CONV_MACS, 0, UP_MACS, FC_MACS]
    assert found.macs == CONV_MACS + UP_MACS + FC_MACS
    assert found.parameters == 186 + 72 + 679
    # The relu works in place.
    assert found.activation_bytes == 4 * (2 * 4 * 99 + 2 * 6 * 16 + 2 * 3 * 64 + 2 * 7)


@pytest.mark.parametrize(("type_", "gates", "more"), [("LSTM", 4, 0), ("RNN", 1, 5 * 5)])
def test_recurrent_macs(tmp_path: Path, type_: str, gates: int, more: int) -> None:
    text = f"""
    input: "x" input_shape {{ dim: 7 dim: 2 dim: 3 }} input: "cont" input_shape {{ dim: 7 dim: 2 }}
    input: "static" input_shape {{ dim: 2 dim: 11 }}
    layer {{ name: "r" type: "{type_}" bottom: "x" bottom: "cont" bottom: "static" top: "r"
             recurrent_param {{ num_output: 5 }} }}
    """
    found = network(inspect_file(write(tmp_path / "net.prototxt", text)))
    # Every step uses the matrices of the input and of the state (and, in an RNN, of the output), the static one is used
    # once per stream.
    assert found.macs == 7 * 2 * (gates * 5 * (3 + 5) + more) + 2 * gates * 5 * 11


def test_input_shape_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "net.prototxt", NET)
    found = network(inspect_file(path, input_shapes={"data": (1, 4, 9, 11)}))
    assert found.macs == (CONV_MACS + UP_MACS + FC_MACS) // 2
    with pytest.raises(UsageError, match="no input"):
        inspect_file(path, input_shapes={"dat": (1, 4, 9, 11)})


def test_phase(tmp_path: Path) -> None:
    text = NET + 'layer { name: "extra" type: "ReLU" bottom: "fc" top: "extra" include { phase: TRAIN } }'
    path = write(tmp_path / "net.prototxt", text)
    assert [row.name for row in network(inspect_file(path)).layers][-1] == "fc"
    assert [row.name for row in network(inspect_file(path, phase="train")).layers][-1] == "extra"
    with pytest.raises(UsageError, match="phase"):
        inspect_file(path, phase="deploy")


def test_shared_blobs_count_once(tmp_path: Path) -> None:
    text = """
    input: "x" input_shape { dim: 2 dim: 5 }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }
            inner_product_param { num_output: 3 } }
    layer { name: "b" type: "InnerProduct" bottom: "x" top: "b" param { name: "w" }
            inner_product_param { num_output: 3 } }
    """
    found = network(inspect_file(write(tmp_path / "net.prototxt", text)))
    assert [row.parameters for row in found.layers] == [0, 18, 18]
    assert found.parameters == 15 + 3 + 3


# Networks that cannot be built


def test_unknown_layer_type_leaves_the_rest(tmp_path: Path) -> None:
    text = NET + (
        'layer { name: "odd" type: "NoSuchType" bottom: "fc" top: "odd" }\n'
        'layer { name: "after" type: "ReLU" bottom: "odd" top: "after" }\n'
        'layer { name: "beside" type: "ReLU" bottom: "up" top: "beside" }\n'
    )
    found = network(inspect_file(write(tmp_path / "net.prototxt", text)))
    assert not found.complete
    assert "NoSuchType" in found.problem
    rows = {row.name: row for row in found.layers}
    assert rows["fc"].shapes == ((2, 7),)
    assert rows["fc"].macs == FC_MACS
    assert (rows["odd"].shapes, rows["odd"].blobs, rows["odd"].macs) == ((None,), None, None)
    assert rows["odd"].problem == "layer type 'NoSuchType' is not known"
    assert rows["after"].problem == "the shape of its bottom 'odd' is not known"
    assert (rows["beside"].shapes, rows["beside"].problem) == (((2, 3, 8, 8),), "")
    assert found.outputs == {"after": None, "beside": (2, 3, 8, 8)}
    assert found.macs == CONV_MACS + UP_MACS + FC_MACS
    assert found.parameters == 186 + 72 + 679


def test_a_rule_that_is_not_understood_hides_no_layer(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "y" include { fase: TEST } }'
        'layer { name: "s" type: "ReLU" bottom: "x" top: "z" include { phase: TRAIN } }'
    )
    found = inspect_file(path).network
    assert found is not None
    assert [row.name for row in found.layers] == ["x", "r"]
    assert "fase (no such field in NetStateRule)" in found.problem


def test_missing_input_shape(tmp_path: Path) -> None:
    text = """
    layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "lmdb" batch_size: 3 } }
    layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 7 } }
    layer { name: "relu" type: "ReLU" bottom: "label" top: "relu" }
    """
    found = network(inspect_file(write(tmp_path / "net.prototxt", text)))
    assert "--input-shape data=" in found.problem
    assert found.inputs == {"data": None, "label": (3,)}
    data, fc, relu = found.layers
    assert data.problem == "the file does not tell its shape; pass --input-shape data=N,C,H,W"
    assert fc.problem == "the shape of its bottom 'data' is not known"
    assert relu.shapes == ((3,),)
    whole = network(inspect_file(tmp_path / "net.prototxt", input_shapes={"data": (3, 5)}))
    assert whole.complete
    assert whole.layers[1].macs == 3 * 5 * 7


def test_layer_that_does_not_fit(tmp_path: Path) -> None:
    text = NET.replace("kernel_size: 3 kernel_size: 5", "kernel_size: 30")
    found = network(inspect_file(write(tmp_path / "net.prototxt", text)))
    conv, relu = found.layers[1:3]
    assert "does not fit" in conv.problem
    assert relu.problem == "the shape of its bottom 'conv' is not known"


def test_a_loss_without_a_top_beside_an_unknown_layer(tmp_path: Path) -> None:
    text = """
    layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "data" bottom: "label" }
    ODD
    """
    odd = 'layer { name: "odd" type: "NoSuchType" bottom: "data" top: "odd" }'
    for more in (odd, ""):
        found = network(inspect_file(write(tmp_path / "net.prototxt", text.replace("ODD", more))))
        loss = found.layers[1]
        assert (loss.tops, loss.shapes, loss.blobs, loss.problem) == (("(automatic)",), ((),), (), "")
        assert found.activation_bytes == 4 * (3 + 3 + 1)
        assert [row.problem for row in found.layers[2:]] == ["layer type 'NoSuchType' is not known"] * bool(more)
        assert found.outputs == ({"odd": None} if more else {})
        assert found.complete == (not more)


def test_alike_layers_beside_an_unknown_one_are_told_as_if_each_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = input_layer("x", 2, 4, 6, 7) + layer("odd", "NoSuchType", "x", "odd")
    conv = "convolution_param { num_output: 4 kernel_size: 3 }"
    text += layer("one", "Convolution", "x", "a", conv) + layer("two", "Convolution", "x", "b", conv)
    text += layer("three", "Convolution", "a", "c", conv) + layer("four", "Convolution", "odd", "d", conv)
    text += layer("five", "Pooling", "a", "p", "pooling_param { kernel_size: 9 }")
    text += layer("six", "Pooling", "b", "q", "pooling_param { kernel_size: 9 }")
    path = write(tmp_path / "net.prototxt", text)
    quick = network(inspect_file(path))
    monkeypatch.setattr("caffe_compat.reports.network.likeness_of", lambda *asked: None)
    assert quick == network(inspect_file(path))
    assert [row.shapes for row in quick.layers[2:5]] == [((2, 4, 4, 5),), ((2, 4, 4, 5),), ((2, 4, 2, 3),)]
    assert all(row.problem for row in quick.layers[5:])


def test_stages_of_the_network_itself_count(tmp_path: Path) -> None:
    text = """
    state { stage: "deploy" }
    layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 9 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" include { stage: "deploy" }
            convolution_param { num_output: 2 kernel_size: 3 } }
    layer { name: "odd" type: "NoSuchType" bottom: "conv" top: "odd" include { stage: "deploy" } }
    layer { name: "other" type: "ReLU" bottom: "data" top: "other" include { stage: "fit" } }
    """
    path = write(tmp_path / "net.prototxt", text)
    found = network(inspect_file(path))
    assert [(row.name, row.shapes) for row in found.layers] == [
        ("in", ((1, 3, 8, 9),)),
        ("conv", ((1, 2, 6, 7),)),
        ("odd", (None,)),
    ]
    assert found.stages == ("deploy",)
    both = network(inspect_file(path, stages=["fit"]))
    assert ([row.name for row in both.layers], both.stages) == (["in", "conv", "odd", "other"], ("fit", "deploy"))
    broken = write(path, text.replace('bottom: "conv"', 'bottom: "nothing"'))
    assert [row.name for row in network(inspect_file(broken)).layers] == ["in", "conv", "odd"]


def test_a_named_input_whose_shape_is_given(tmp_path: Path) -> None:
    text = """
    input: "data"
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            convolution_param { num_output: 2 kernel_size: 3 } }
    ODD
    """
    odd = 'layer { name: "odd" type: "NoSuchType" bottom: "conv" top: "odd" }'
    for more in (odd, ""):
        path = write(tmp_path / "net.prototxt", text.replace("ODD", more))
        asked = network(inspect_file(path))
        assert asked.problem.endswith("shape guessed (--guess-shapes) or give it: --input-shape 'data=N,C,H,W'")
        found = network(inspect_file(path, input_shapes={"data": (1, 3, 8, 9)}))
        assert found.inputs == {"data": (1, 3, 8, 9)}
        assert [row.name for row in found.layers] == ["input", "conv"] + ["odd"] * bool(more)
        assert found.layers[1].shapes == ((1, 2, 6, 7),)
        assert "--input-shape" not in found.problem
        with pytest.raises(UsageError, match="names 'label', which is no input of the net"):
            inspect_file(path, input_shapes={"data": (1, 3, 8, 9), "label": (1,)})


def test_broken_graph(tmp_path: Path) -> None:
    text = NET + 'layer { name: "lost" type: "ReLU" bottom: "nowhere" top: "lost" }'
    found = network(inspect_file(write(tmp_path / "net.prototxt", text)))
    assert "'nowhere' is produced by no layer" in found.problem
    assert [row.name for row in found.layers] == ["data", "conv", "relu", "up", "fc", "lost"]
    assert all(row.shapes == (None,) and row.problem for row in found.layers)


def test_unknown_fields_and_strings_that_caffe_refuses(tmp_path: Path) -> None:
    text = NET.replace("stride: 2 }", "stride: 2 nonsense_xyz: 4 }", 1).replace('name: "small"', r'name: "s\mall"')
    inspection = inspect_file(write(tmp_path / "net.prototxt", text))
    found = network(inspection)
    assert len(found.unknown) == 1
    assert "layer 'conv': line 5" in found.unknown[0]
    assert "nonsense_xyz" in found.unknown[0]
    assert any("line 2" in warning for warning in inspection.warnings)


# Weights


def arrays() -> list[tuple[str, list[np.ndarray]]]:
    random = np.random.RandomState(0)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "conv": [(6, 2, 3, 5), (6,)],
        "up": [(6, 3, 2, 2)],
        "fc": [(7, 96), (7,)],
    }
    return [(name, [random.standard_normal(s).astype(np.float32) for s in blobs]) for name, blobs in shapes.items()]


def write_weights(path: Path, layers: list[tuple[str, list[np.ndarray]]]) -> Path:
    """A binary file that holds only names and blobs."""
    structure = b"".join(
        b"\xa2\x06" + bytes([len(name) + 2]) + b"\x0a" + bytes([len(name)]) + name.encode() for name, _ in layers
    )
    write_caffemodel(path, structure, [blobs for _, blobs in layers])
    return path


@pytest.mark.parametrize("form", ["binary", "hdf5"])
def test_weights(tmp_path: Path, form: str) -> None:
    layers = arrays()
    layers[0][1][1][2] = np.nan
    layers[2][1][0][3, 4] = np.inf
    if form == "binary":
        path = write_weights(tmp_path / "w.caffemodel", layers)
    else:
        path = tmp_path / "w.caffemodel.h5"
        write_caffemodel_hdf5(path, layers)
    inspection = inspect_file(path)
    json.dumps(inspection.to_json())
    assert (inspection.kind, inspection.format) == ("weights", form)
    assert inspection.weights is not None
    assert inspection.weights.parameters == 186 + 72 + 679
    assert inspection.weights.bytes == 4 * (186 + 72 + 679)
    rows = {row.name: row for row in inspection.weights.layers}
    assert [blob.shape for blob in rows["conv"].blobs] == [(6, 2, 3, 5), (6,)]
    up = rows["up"].blobs[0]
    assert (up.dtype, up.count, up.minimum, up.maximum) == ("float32", 72, layers[1][1][0].min(), layers[1][1][0].max())
    assert rows["conv"].blobs[1].not_finite == 1
    assert rows["conv"].blobs[1].maximum == np.nanmax(layers[0][1][1])
    assert sorted(inspection.warnings)[:2] == [
        "layer 'conv', blob 1: 1 of 6 values are not finite (NaN or infinity)",
        "layer 'fc', blob 0: 1 of 672 values are not finite (NaN or infinity)",
    ]


def test_caffemodel_that_carries_its_network(tmp_path: Path) -> None:
    net = load(write(tmp_path / "net.prototxt", NET), seed=0)
    blobs = dict(arrays())
    write_caffemodel(
        tmp_path / "w.caffemodel",
        net.message.SerializeToString(),
        [blobs.get(layer.name, []) for layer in net.message.layer],
    )
    inspection = inspect_file(tmp_path / "w.caffemodel")
    found = network(inspection)
    assert found.complete
    assert found.macs == CONV_MACS + UP_MACS + FC_MACS
    assert inspection.weights is not None
    assert inspection.weights.layers_in_file == 5
    assert (inspection.weights.layers[0].name, inspection.weights.layers[0].type) == ("conv", "Convolution")


def test_pair(tmp_path: Path) -> None:
    prototxt = write(tmp_path / "net.prototxt", NET)
    good = inspect_pair(prototxt, write_weights(tmp_path / "good.caffemodel", arrays()))
    assert (good.leftover, good.missing, good.mismatches, good.unchecked) == ((), (), (), ())
    conv, _up, fc = arrays()
    wrong = [(conv[0], conv[1][:1]), (fc[0], [fc[1][0].T.copy(), fc[1][1]]), ("other", fc[1])]
    found = inspect_pair(prototxt, write_weights(tmp_path / "wrong.caffemodel", wrong))
    json.dumps(found.to_json())
    assert found.leftover == ("other",)
    assert found.missing == ("up",)
    assert found.mismatches == (
        "layer 'conv' (Convolution): the file has 1 blobs, the net needs 2",
        "layer 'fc' (InnerProduct), blob 0: the file has shape [96, 7], the net needs [7, 96]",
    )
    with pytest.raises(UsageError, match="is a network"):
        inspect_pair(prototxt, prototxt)


def test_pair_with_a_layer_that_cannot_be_built(tmp_path: Path) -> None:
    text = NET + 'layer { name: "odd" type: "NoSuchType" bottom: "fc" top: "odd" }'
    bare = inspect_pair(write(tmp_path / "net.prototxt", text), write_weights(tmp_path / "bare.caffemodel", arrays()))
    assert (bare.missing, bare.unchecked) == ((), ("odd",))
    weights = write_weights(tmp_path / "w.caffemodel", [*arrays(), ("odd", [np.ones(3, np.float32)])])
    found = inspect_pair(write(tmp_path / "net.prototxt", text), weights)
    assert (found.leftover, found.missing, found.mismatches, found.unchecked) == ((), (), (), ("odd",))


def test_pair_with_shared_blobs_left_out(tmp_path: Path) -> None:
    text = """
    input: "x" input_shape { dim: 2 dim: 5 }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "b" }
            inner_product_param { num_output: 3 } }
    layer { name: "b" type: "InnerProduct" bottom: "x" top: "b" param { name: "w" } param { name: "b" }
            inner_product_param { num_output: 3 } }
    layer { name: "c" type: "InnerProduct" bottom: "x" top: "c" param { name: "w" }
            inner_product_param { num_output: 3 } }
    """
    path = tmp_path / "w.caffemodel.h5"
    write_caffemodel_hdf5(path, [("a", [np.ones((3, 5), np.float32), np.ones(3, np.float32)]), ("b", [])])
    # b owns nothing, c owns its bias.
    assert inspect_pair(write(tmp_path / "net.prototxt", text), path).missing == ("c",)


# Other kinds


def test_solver(tmp_path: Path) -> None:
    text = """
    net: "net.prototxt" base_lr: 0.1 lr_policy: "step" stepvalue: 3 stepvalue: 5 solver_mode: CPU solver_type: ADAM
    """
    inspection = inspect_file(write(tmp_path / "solver.prototxt", text))
    json.dumps(inspection.to_json())
    assert inspection.kind == "solver"
    assert inspection.solver is not None
    assert inspection.solver.fields == {
        "net": "net.prototxt",
        "base_lr": 0.1,
        "lr_policy": "step",
        "stepvalue": [3, 5],
        "solver_mode": "CPU",
        "type": "Adam",
    }


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5", "renamed"])
def test_solver_state(tmp_path: Path, name: str) -> None:
    history = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float32)]
    write_solverstate(tmp_path / name, 123, "net.caffemodel", 2, history)
    inspection = inspect_file(tmp_path / name)
    json.dumps(inspection.to_json())
    assert inspection.kind == "solver state"
    state = inspection.solver_state
    assert state is not None
    assert (state.iteration, state.learned_net, state.current_step) == (123, "net.caffemodel", 2)
    assert [(row.shape, row.maximum) for row in state.history] == [((2, 3), 5.0), ((4,), 1.0)]


def test_mean_image(tmp_path: Path) -> None:
    write_binaryproto(tmp_path / "mean.binaryproto", np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5))
    inspection = inspect_file(tmp_path / "mean.binaryproto")
    json.dumps(inspection.to_json())
    assert inspection.kind == "mean image"
    assert inspection.mean_image is not None
    assert (inspection.mean_image.shape, inspection.mean_image.maximum) == ((1, 3, 4, 5), 59.0)


def test_checkpoint(tmp_path: Path) -> None:
    prototxt = write(tmp_path / "net.prototxt", NET)
    net = load(prototxt, seed=0, input_shapes={"data": (1, 4, 9, 11)})
    preprocess = Preprocess(mean_image=np.ones((3, 2, 5), np.float32), scale=0.5)
    parity = ParityRecord("ref.h5", "0" * 64, "", 3, "fc", 1e-6, 1e-7, "cpu", "float32", "torch")
    path = tmp_path / "net.pt"
    save_checkpoint(net, path, sources=[prototxt], preprocess=preprocess.to_record(), parity=parity, dtype="bfloat16")
    inspection = inspect_file(path)
    found = network(inspection)
    assert (inspection.kind, inspection.format) == ("checkpoint", "pt")
    assert found.inputs == {"data": (1, 4, 9, 11)}
    assert found.macs == (CONV_MACS + UP_MACS + FC_MACS) // 2
    own = inspection.checkpoint
    assert own is not None
    assert (own.dtype, own.optimized) == ("bfloat16", False)
    assert own.sources[0]["name"] == "net.prototxt"
    assert own.parity is not None
    assert own.parity["worst_blob"] == "fc"
    assert own.preprocess is not None
    assert own.preprocess["mean_image"] == {"shape": [3, 2, 5]}
    assert own.preprocess["scale"] == 0.5
    assert inspection.weights is not None
    assert inspection.weights.parameters == 186 + 72 + 679
    assert inspection.weights.bytes == 2 * (186 + 72 + 679)
    assert {row.name for row in inspection.weights.layers} == {"conv", "up", "fc"}
    assert inspection.weights.layers[0].blobs[0].dtype == "bfloat16"


def test_a_record_of_preprocessing_that_is_none(tmp_path: Path) -> None:
    net = load(write(tmp_path / "net.prototxt", NET), seed=0, input_shapes={"data": (1, 4, 9, 11)})
    save_checkpoint(net, tmp_path / "net.pt", preprocess={**Preprocess().to_record(), "crop": [[1], "x"]})
    with pytest.raises(UsageError, match=r"net\.pt: the record of the preprocessing is damaged: "):
        inspect_file(tmp_path / "net.pt")


# Files that are none of these


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", FileError),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), FileError),
        (b"PK\x03\x04" + bytes(40), FileError),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), FileError),
        (bytes(range(1, 200)), FileError),
        (b"item { id: 3 name: 'cat' }", FileError),
        (b"layer { name: ", PrototxtError),
        (b"\xa2\x06" + struct.pack("<B", 200) + b"x", FileError),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, error: type[CaffeCompatError]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(error, match="file"):
        inspect_file(path)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileError):
            inspect_file(path)
