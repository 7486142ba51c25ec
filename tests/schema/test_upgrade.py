"""Networks and solvers of every generation, upgraded as real Caffe does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import LayerError, NetworkError, PrototxtError, WireError
from caffe_compat.formats.weights import read_weights
from caffe_compat.schema import load_schema
from caffe_compat.schema.binary import decode_net
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import parse_message, read_message
from caffe_compat.schema.unknown import unknown_fields_of
from caffe_compat.schema.upgrade import (
    Upgraded,
    upgrade_net,
    upgrade_solver,
)
from caffe_compat.schema.upgrade_files import upgrade_caffemodel, upgrade_prototxt

FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"
TEST = 1


def upgraded(text: str, dialect: str | None = None) -> Upgraded:
    """Upgrade ``text``, and check what holds for every network."""
    parsed = parse_message(text, dialect=dialect)
    before = parsed.message.SerializePartialToString()
    first = upgrade_net(parsed.message, parsed.schema)
    assert parsed.message.SerializePartialToString() == before
    assert type(first.message) is type(parsed.message)
    assert len(first.origins) == len(first.message.layer)
    assert not first.message.layers
    second = upgrade_net(first.message, parsed.schema)
    assert second.message == first.message
    assert second.notes == []
    assert second.origins == tuple(range(len(first.message.layer)))
    return first


def expect(text: str, expected: str, dialect: str | None = None) -> Upgraded:
    result = upgraded(text, dialect)
    assert format_message(result.message) == format_message(parse_message(expected, dialect=dialect).message)
    return result


# Against real Caffe


def test_v0_becomes_byte_for_byte_what_caffe_made_of_it(tmp_path: Path) -> None:
    out = tmp_path / "new.caffemodel"
    result = upgrade_caffemodel(FORMATS / "v0net.caffemodel", out)
    assert result.origins == (None, 1, 2, 3, 4, 5, 6, 7)
    with read_weights(out) as ours, read_weights(FORMATS / "v0net.upgraded.caffemodel") as reference:
        assert ours.structure is not None
        net = load_schema().message("NetParameter").FromString(ours.structure)
        for layer in net.layer:
            layer.phase = TEST  # Caffe's reference was saved by a network that ran
        assert net.SerializeToString() == reference.structure
        same_blobs(ours, reference)


def test_v1_becomes_what_caffe_made_of_it(tmp_path: Path) -> None:
    out = tmp_path / "new.caffemodel"
    upgrade_caffemodel(FORMATS / "v1net.caffemodel", out)
    with read_weights(out) as ours, read_weights(FORMATS / "v1net.upgraded.caffemodel") as reference:
        assert ours.structure is not None
        assert reference.structure is not None
        schema = load_schema()
        net = schema.message("NetParameter").FromString(ours.structure)
        ran = schema.message("NetParameter").FromString(reference.structure)
        expected = {layer.name: layer for layer in ran.layer if layer.type != "Split"}
        # The network that ran had split the blob that two layers read, and left out the layer of another phase.
        expected["tanh"].bottom[0] = expected["cat"].bottom[0] = "ip"
        assert [layer.name for layer in net.layer] == [*expected, "only_train"]
        for layer in list(net.layer)[:-1]:
            layer.phase = TEST
            assert layer == expected[layer.name]
        assert net.layer[-1].include[0].phase == 0
        same_blobs(ours, reference)


def same_blobs(ours: Any, reference: Any) -> None:
    expected = {record.name: record.blobs for record in reference.layers}
    checked = 0
    for record in ours.layers:
        assert record.generation == 2
        for mine, theirs in zip(record.blobs, expected.get(record.name, ()), strict=True):
            np.testing.assert_array_equal(mine.data.reshape(theirs.shape), theirs.data)
            checked += 1
    assert checked >= 4


@pytest.mark.parametrize("name", ["v0net", "v1net"])
def test_blobs_of_old_files_keep_the_shapes_that_caffe_accepts(name: str, tmp_path: Path) -> None:
    out = tmp_path / "new.caffemodel"
    upgrade_caffemodel(FORMATS / f"{name}.caffemodel", out)
    net = load_schema().message("NetParameter").FromString(out.read_bytes())
    blobs = [blob for layer in net.layer for blob in layer.blobs]
    assert blobs
    # Caffe compares shapes (1, 1, 1, N) and (N,) as equal only for blobs with the old fields.
    assert all(blob.HasField("num") and not blob.HasField("shape") for blob in blobs)


@pytest.mark.parametrize("name", ["v0net", "v1net"])
def test_text_and_binary_become_the_same_network(name: str, tmp_path: Path) -> None:
    upgrade_prototxt(FORMATS / f"{name}.prototxt", tmp_path / "new.prototxt")
    binary = upgrade_caffemodel(FORMATS / f"{name}.caffemodel", tmp_path / "new.caffemodel")
    assert read_message(tmp_path / "new.prototxt").message == binary.message


def test_upgrading_the_upgraded_changes_nothing(tmp_path: Path) -> None:
    upgrade_caffemodel(FORMATS / "v1net.upgraded.caffemodel", tmp_path / "same.caffemodel")
    assert (tmp_path / "same.caffemodel").read_bytes() == (FORMATS / "v1net.upgraded.caffemodel").read_bytes()


# V0


def v0(*layers: str, head: str = "") -> str:
    return head + "\n".join(f"layers {{ {layer} }}" for layer in layers)


def test_v0_parameters_go_to_the_message_of_their_type() -> None:
    result = expect(
        v0(
            'layer { name: "d" type: "data" source: "db" batchsize: 5 scale: 0.5 meanfile: "m" cropsize: 7 '
            'mirror: true rand_skip: 3 } top: "data" top: "label"',
            'layer { name: "c" type: "conv" num_output: 4 biasterm: false pad: 1 kernelsize: 3 group: 2 stride: 2 '
            "weight_filler { std: 0.1 } bias_filler { value: 0 } blobs_lr: 1 blobs_lr: 2 weight_decay: 1 "
            'weight_decay: 0 } bottom: "data" top: "c"',
            'layer { name: "p" type: "pool" pool: STOCHASTIC kernelsize: 3 stride: 2 pad: 1 } bottom: "c" top: "p"',
            'layer { name: "l" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } bottom: "p" top: "l"',
            'layer { name: "o" type: "dropout" dropout_ratio: 0.2 } bottom: "l" top: "l"',
            'layer { name: "i" type: "innerproduct" num_output: 9 biasterm: true } bottom: "l" top: "i"',
            'layer { name: "t" type: "concat" concat_dim: 0 } bottom: "i" bottom: "i" top: "t"',
            'layer { name: "s" type: "softmax_loss" } bottom: "t" bottom: "label"',
            'layer { name: "g" type: "infogain_loss" source: "h" } bottom: "t" bottom: "label"',
            'layer { name: "h" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "t"',
        ),
        """
        layer { name: "d" type: "Data" top: "data" top: "label"
          data_param { source: "db" batch_size: 5 rand_skip: 3 }
          transform_param { scale: 0.5 mean_file: "m" crop_size: 7 mirror: true } }
        layer { name: "c" type: "Convolution" bottom: "data" top: "c"
          param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
          convolution_param { num_output: 4 bias_term: false pad: 1 kernel_size: 3 group: 2 stride: 2
            weight_filler { std: 0.1 } bias_filler { value: 0 } } }
        layer { name: "p" type: "Pooling" bottom: "c" top: "p"
          pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 pad: 1 } }
        layer { name: "l" type: "LRN" bottom: "p" top: "l" lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } }
        layer { name: "o" type: "Dropout" bottom: "l" top: "l" dropout_param { dropout_ratio: 0.2 } }
        layer { name: "i" type: "InnerProduct" bottom: "l" top: "i"
          inner_product_param { num_output: 9 bias_term: true } }
        layer { name: "t" type: "Concat" bottom: "i" bottom: "i" top: "t" concat_param { concat_dim: 0 } }
        layer { name: "s" type: "SoftmaxWithLoss" bottom: "t" bottom: "label" }
        layer { name: "g" type: "InfogainLoss" bottom: "t" bottom: "label" infogain_loss_param { source: "h" } }
        layer { name: "h" type: "HDF5Output" bottom: "t" hdf5_output_param { file_name: "f" } }
        """,
    )
    assert not [note for note in result.notes if "dropped" in note]


def test_v0_image_and_window_data() -> None:
    expect(
        v0(
            'layer { name: "i" type: "images" source: "l" batchsize: 2 shuffle_images: true '
            "new_height: 5 new_width: 6 }",
            'layer { name: "w" type: "window_data" source: "w" batchsize: 3 det_fg_threshold: 0.6 '
            'det_bg_threshold: 0.4 det_fg_fraction: 0.3 det_context_pad: 16 det_crop_mode: "square" mirror: false }',
            'layer { name: "h" type: "hdf5_data" source: "h" batchsize: 4 }',
        ),
        """
        layer { name: "i" type: "ImageData"
          image_data_param { source: "l" batch_size: 2 shuffle: true new_height: 5 new_width: 6 } }
        layer { name: "w" type: "WindowData" transform_param { mirror: false } window_data_param {
          source: "w" batch_size: 3 fg_threshold: 0.6 bg_threshold: 0.4 fg_fraction: 0.3 context_pad: 16
          crop_mode: "square" } }
        layer { name: "h" type: "HDF5Data" hdf5_data_param { source: "h" batch_size: 4 } }
        """,
    )


PAD = 'layer { name: "pad" type: "padding" pad: 2 } bottom: "x" top: "padded"'


def test_v0_padding_becomes_the_pad_of_all_who_read_it() -> None:
    result = expect(
        v0(
            PAD,
            'layer { name: "a" type: "conv" kernelsize: 3 pad: 1 } bottom: "padded" top: "a"',
            'layer { name: "b" type: "pool" kernelsize: 5 } bottom: "padded" top: "b"',
        ),
        """
        layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { kernel_size: 3 pad: 2 } }
        layer { name: "b" type: "Pooling" bottom: "x" top: "b" pooling_param { kernel_size: 5 pad: 2 } }
        """,
    )
    assert result.origins == (1, 2)
    assert "layer 'a': its own pad 1 gives way to its padding layer's, as in Caffe" in result.notes
    assert "padding layer 'pad' (pad 2) became the pad of 'b'" in result.notes


@pytest.mark.parametrize(
    "reader",
    [
        'layer { name: "r" type: "relu" } bottom: "padded" top: "r"',
        'layer { name: "r" type: "conv" } bottom: "padded" bottom: "x" top: "r"',
        'layer { name: "r" type: "padding" } bottom: "padded" top: "r"',
    ],
)
def test_v0_padding_that_nothing_can_absorb_is_an_error(reader: str) -> None:
    parsed = parse_message(v0(PAD, reader))
    with pytest.raises(LayerError, match=r"net: layer 'r' \(\w+\): reads V0 padding layer 'pad'") as caught:
        upgrade_net(parsed.message, parsed.schema, "net")
    assert caught.value.layer == "r"


def test_a_top_that_hides_a_padded_blob_is_not_padded() -> None:
    result = upgraded(
        v0(
            PAD,
            'layer { name: "new" type: "relu" } bottom: "x" top: "padded"',
            'layer { name: "conv" type: "conv" } bottom: "padded" top: "c"',
        )
    )
    assert not result.message.layer[1].convolution_param.pad


def test_what_caffe_drops_of_v0_is_said() -> None:
    result = upgraded(
        v0('layer { name: "r" type: "relu" stride: 2 new_num: 3 } name: "outer" loss_weight: 2 bottom: "x" top: "x"')
    )
    assert format_message(result.message.layer[0]) == 'name: "r"\ntype: "ReLU"\nbottom: "x"\ntop: "x"\n'
    assert "layer 'r': stride means nothing to a layer of type 'relu' and is dropped, as in Caffe" in result.notes
    assert "layer 'r': new_num means nothing to a layer of type 'relu' and is dropped, as in Caffe" in result.notes
    assert "layer 'r': name beside a V0 layer is ignored, as in Caffe" in result.notes
    assert "layer 'r': loss_weight beside a V0 layer is ignored, as in Caffe" in result.notes


def test_an_unknown_v0_type_keeps_its_name() -> None:
    assert upgraded(v0('layer { name: "r" type: "warp" }')).message.layer[0].type == "warp"


def test_v0_keeps_what_stands_beside_the_layers() -> None:
    result = upgraded(v0('layer { name: "r" type: "relu" }', head='name: "n" force_backward: true state { level: 3 } '))
    assert (result.message.name, result.message.force_backward, result.message.state.level) == ("n", True, 3)


# V1

BVLC_V1_TYPES = {
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DECONVOLUTION": "Deconvolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "NONE": "",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}


def test_every_v1_type_of_bvlc_has_its_string() -> None:
    assert load_schema().file.enums["V1LayerParameter.LayerType"].values.keys() == BVLC_V1_TYPES.keys()
    text = "\n".join(f"layers {{ type: {name} }}" for name in BVLC_V1_TYPES)
    assert [layer.type for layer in upgraded(text).message.layer] == list(BVLC_V1_TYPES.values())


@pytest.mark.parametrize(
    ("dialect", "v1_type", "expected"),
    [
        ("ShaoqingRen/caffe", "ROI_POOLING", "ROIPooling"),
        ("HyeonwooNoh/caffe", "RELU", "ReLU"),
        ("HyeonwooNoh/caffe", "SOFTMAX_LOSS", "SoftmaxWithLoss"),
        ("HyeonwooNoh/caffe", "UNPOOLING", "UNPOOLING"),
    ],
)
def test_v1_types_of_forks(dialect: str, v1_type: str, expected: str) -> None:
    values = load_schema(dialect).file.enums["V1LayerParameter.LayerType"].values
    if v1_type not in values:
        v1_type = v1_type.replace("_", "")
    assert upgraded(f'layers {{ name: "a" type: {v1_type} }}', dialect).message.layer[0].type == expected


def test_every_parameter_message_of_v1_moves_to_its_namesake() -> None:
    schema = load_schema()
    net = schema.message("NetParameter")()
    layer = net.layers.add(name="all", type=4)
    names = [f.name for f in layer.DESCRIPTOR.fields if f.name.endswith("_param")]
    assert len(names) == 30
    for name in names:
        getattr(layer, name).SetInParent()
    layer.lrn_param.alpha = 0.25
    new = upgrade_net(net, schema).message.layer[0]
    assert sorted(f.name for f, _ in new.ListFields() if f.name.endswith("_param")) == sorted(names)
    assert new.lrn_param.alpha == 0.25
    assert not unknown_fields_of(new)


def test_v1_fields_of_a_layer() -> None:
    expect(
        """
        layers { name: "a" type: CONVOLUTION bottom: "x" bottom: "y" top: "z" loss_weight: 0.5 loss_weight: 0
          include { phase: TRAIN min_level: 0 } exclude { stage: "s" }
          param: "w" param: "b" param: "c" blob_share_mode: PERMISSIVE blobs_lr: 0 blobs_lr: 2 weight_decay: 0
          convolution_param { num_output: 3 } }
        """,
        """
        layer { name: "a" type: "Convolution" bottom: "x" bottom: "y" top: "z" loss_weight: 0.5 loss_weight: 0
          include { phase: TRAIN min_level: 0 } exclude { stage: "s" }
          param { name: "w" share_mode: PERMISSIVE lr_mult: 0 decay_mult: 0 } param { name: "b" lr_mult: 2 }
          param { name: "c" } convolution_param { num_output: 3 } }
        """,
    )


def test_v1_blobs_are_carried_over() -> None:
    schema = load_schema()
    net = schema.message("NetParameter")()
    net.layers.add(type=4).blobs.add(num=1, channels=1, height=1, width=3).data.extend([1, 2, 3])
    assert upgrade_net(net, schema).message.layer[0].blobs == net.layers[0].blobs


def test_a_fork_field_that_current_layers_lack_is_kept_for_its_layer_to_ask_for() -> None:
    text = 'layers { name: "a" type: BN bn_param { bn_mode: INFERENCE scale_filler { type: "a  b" } } }'
    result = upgraded(text, "HyeonwooNoh/caffe")
    layer = result.message.layer[0]
    assert unknown_fields_of(layer) == []
    assert layer.bn_param.scale_filler.type == "a  b"
    assert "bn_mode: INFERENCE" in format_message(layer)
    assert [note for note in result.notes if "bn_param" in note] == []


def test_unknown_fields_of_a_v1_layer_are_kept() -> None:
    result = upgraded('layers { name: "a" type: RELU strange: 3 relu_param { odd { x: 1 } } }')
    layer = result.message.layer[0]
    assert [(u.name, u.text, u.line) for u in unknown_fields_of(layer)] == [("strange", "3", 1)]
    assert [(u.name, u.text) for u in unknown_fields_of(layer.relu_param)] == [("odd", "{ x: 1 }")]


def test_unknown_numbers_of_a_v1_layer_do_not_become_other_fields() -> None:
    # Field 106 is convolution_param in a current layer, and nothing in V1.
    layer = b"\x22\x01a\x28\x12" + b"\xd2\x06\x02\x08\x05" + b"\xe0\x06\x07"
    net = load_schema().message("NetParameter").FromString(b"\x12" + bytes([len(layer)]) + layer)
    new = upgrade_net(net, load_schema()).message.layer[0]
    assert not new.HasField("convolution_param")
    kept = [(u.name, u.text) for u in unknown_fields_of(new)]
    assert kept == [("[V1LayerParameter.106]", '"\\010\\005"'), ("[V1LayerParameter.108]", "7")]
    assert [u.name for u in parse_message(format_message(new), "LayerParameter").unknown] == [name for name, _ in kept]


@pytest.mark.parametrize(
    ("written", "read"),
    [("NOBODYS_LAYER", "NOBODYS_LAYER"), ('"Convolution"', "Convolution"), ("PRELU", "PReLU")],
)
def test_a_v1_type_that_is_none_is_read_as_well_as_can_be(written: str, read: str) -> None:
    result = upgraded(f'layers {{ name: "a" type: {written} }}', "bvlc")
    assert result.message.layer[0].type == read
    assert not unknown_fields_of(result.message.layer[0])
    said = f"type {written} is no V1 type of dialect bvlc, and Caffe refuses such a file"
    assert f"layer 'a': {said}; read as {read!r}" in result.notes


def test_a_v1_type_number_that_is_none_is_named() -> None:
    net = load_schema().message("NetParameter").FromString(b"\x12\x05\x22\x01a\x28\x63")
    result = upgrade_net(net, load_schema())
    assert result.message.layer[0].type == "V1 type 99"
    assert not unknown_fields_of(result.message.layer[0])
    assert "layer 'a': V1 type number 99 is none of dialect bvlc" in result.notes


def test_transformations_leave_the_parameters_of_v1_data_layers() -> None:
    expect(
        """
        layers { name: "a" type: DATA data_param { source: "s" scale: 0.5 mean_file: "m" crop_size: 3 mirror: true } }
        layers { name: "b" type: IMAGE_DATA image_data_param { batch_size: 2 scale: 0 } }
        layers { name: "c" type: WINDOW_DATA window_data_param { crop_size: 0 } transform_param { mirror: true } }
        """,
        """
        layer { name: "a" type: "Data" data_param { source: "s" }
          transform_param { scale: 0.5 mean_file: "m" crop_size: 3 mirror: true } }
        layer { name: "b" type: "ImageData" image_data_param { batch_size: 2 } transform_param { scale: 0 } }
        layer { name: "c" type: "WindowData" window_data_param { } transform_param { crop_size: 0 mirror: true } }
        """,
    )


def test_data_layers_that_need_nothing_get_nothing() -> None:
    expect(
        'layers { type: DATA data_param { source: "s" } } layers { type: RELU relu_param { } }',
        'layer { type: "Data" data_param { source: "s" } } layer { type: "ReLU" relu_param { } }',
    )


# Mixtures


def test_layer_and_layers_in_one_network_are_refused() -> None:
    parsed = parse_message('layer { name: "a" type: "ReLU" } layers { name: "b" type: RELU }')
    with pytest.raises(NetworkError, match=r"n\.prototxt: holds 1 layers of the old form"):
        upgrade_net(parsed.message, parsed.schema, "n.prototxt")


def test_v0_and_v1_in_one_network_are_refused() -> None:
    parsed = parse_message('layers { layer { name: "a" type: "relu" } } layers { name: "b" type: RELU }')
    with pytest.raises(NetworkError, match=r"layer 'b': number 1 has no inner `layer \{ \}`"):
        upgrade_net(parsed.message, parsed.schema)


# Inputs

RELU = 'layer { name: "r" type: "ReLU" }'


def test_input_dims_become_one_input_layer_at_the_top() -> None:
    dims = " ".join(f"input_dim: {d}" for d in (1, 3, 5, 7, 2, 4, 6, 8))
    result = expect(
        f'input: "a" input: "b" {dims} {RELU}',
        f"""
        layer {{ name: "input" type: "Input" top: "a" top: "b" input_param {{
          shape {{ dim: 1 dim: 3 dim: 5 dim: 7 }} shape {{ dim: 2 dim: 4 dim: 6 dim: 8 }} }} }} {RELU}
        """,
    )
    assert result.origins == (None, 0)


def test_input_shapes_take_any_number_of_axes_and_go_before_dims() -> None:
    shapes = "input_shape { dim: 9 } input_shape { dim: 1 dim: 2 dim: 3 dim: 4 dim: 5 }"
    result = upgraded(f'input: "a" input: "b" {shapes} input_dim: 1 {RELU}')
    assert [list(s.dim) for s in result.message.layer[0].input_param.shape] == [[9], [1, 2, 3, 4, 5]]
    assert not result.message.input_dim


def test_an_input_without_shape_is_dropped_and_said() -> None:
    result = expect(f'input: "a" {RELU}', RELU)
    assert result.notes == ["input 'a' has no shape and was dropped, as in Caffe"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('input: "a" input: "b" input_dim: 1 input_dim: 3 input_dim: 5 input_dim: 7', "2 inputs .* need 8 input_dim"),
        (
            'input: "a" input_dim: [1, 3, 5]',
            r"1 inputs \('a'\) need 4 input_dim, four for each, but 3 are given: \[1, 3, 5\]",
        ),
        ('input: "a" input_dim: [1, 3, 5, 7, 9]', "5 are given"),
        ('input: "a" input: "b" input_shape { dim: 1 }', r"2 inputs \('a', 'b'\) but 1 input_shape"),
        ('input: "a" input_shape { dim: 1 } input_shape { dim: 1 }', "1 inputs .* but 2 input_shape"),
    ],
)
def test_inputs_and_shapes_must_match(text: str, message: str) -> None:
    parsed = parse_message(text)
    with pytest.raises(NetworkError, match=message):
        upgrade_net(parsed.message, parsed.schema)


# BatchNorm


def test_the_three_params_of_a_batch_norm_are_held_still() -> None:
    result = expect(
        'layer { name: "n" type: "BatchNorm" param { lr_mult: 0 } param { name: "s" lr_mult: 2 } param { } }',
        """
        layer { name: "n" type: "BatchNorm" param { lr_mult: 0 decay_mult: 0 }
          param { name: "s" lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } }
        """,
    )
    assert result.notes == ["layer 'n': lr_mult and decay_mult of a BatchNorm's statistics became 0"]


def test_a_batch_norm_with_another_number_of_params_stays() -> None:
    text = 'layer { type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 1 } }'
    expect(text, text)


# Solvers


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("RMSPROP", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
        ("5", "Adam"),
        ("Adam", "Adam"),
        ('"AdaGrad"', "AdaGrad"),
        ("NADAM", "NADAM"),
    ],
)
def test_solver_types(old: str, new: str) -> None:
    parsed = parse_message(f"base_lr: 0.5 odd: 1 solver_type: {old}", "SolverParameter")
    before = format_message(parsed.message)
    result = upgrade_solver(parsed.message, parsed.schema)
    assert format_message(parsed.message) == before
    assert (result.message.type, result.message.base_lr, result.message.HasField("solver_type")) == (new, 0.5, False)
    assert [u.name for u in unknown_fields_of(result.message)] == ["odd"]
    assert len(result.notes) == 1
    again = upgrade_solver(result.message, parsed.schema)
    assert again.message == result.message
    assert again.notes == []


def test_a_solver_without_the_old_type_stays() -> None:
    parsed = parse_message('type: "Adam" test_iter: 3 test_iter: 4 net: "n"', "SolverParameter")
    result = upgrade_solver(parsed.message, parsed.schema)
    assert (result.message, result.notes) == (parsed.message, [])


def test_both_spellings_of_a_solvers_type_are_an_error() -> None:
    parsed = parse_message('type: "SGD" solver_type: ADAM', "SolverParameter")
    with pytest.raises(PrototxtError, match=r"s\.prototxt: type 'SGD' and solver_type ADAM are both given"):
        upgrade_solver(parsed.message, parsed.schema, "s.prototxt")


def test_networks_inside_a_solver_are_upgraded() -> None:
    named = {"net_param": "TANH", "train_net_param": "LRN", "test_net_param": "RELU"}
    text = " ".join(f"{name} {{ layers {{ type: {v1_type} }} }}" for name, v1_type in named.items())
    parsed = parse_message(text, "SolverParameter")
    solver = upgrade_solver(parsed.message, parsed.schema).message
    nets = (solver.net_param, solver.train_net_param, solver.test_net_param[0])
    assert [net.layer[0].type for net in nets] == ["TanH", "LRN", "ReLU"]


# Files


def test_a_solver_file_is_told_from_a_network(tmp_path: Path) -> None:
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text('net: "n\\m.prototxt" base_lr: 0.5 solver_type: ADAGRAD')
    result = upgrade_prototxt(old, new)
    assert new.read_text() == 'base_lr: 0.5\nnet: "n\\\\m.prototxt"\ntype: "AdaGrad"\n'
    assert len(result.notes) == 2
    assert r"Caffe refuses \m in a string" in result.notes[0]


def test_unknown_fields_of_a_file_are_written(tmp_path: Path) -> None:
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text('layers { name: "é" type: RELU nobodys_param { a: "b" } }')
    upgrade_prototxt(old, new)
    assert new.read_text(encoding="utf-8") == ('layer {\n  name: "é"\n  type: "ReLU"\n  nobodys_param { a: "b" }\n}\n')


def test_nothing_is_written_where_upgrading_fails(tmp_path: Path) -> None:
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text('layer { type: "ReLU" } layers { type: RELU }')
    with pytest.raises(NetworkError):
        upgrade_prototxt(old, new)
    with pytest.raises(NetworkError, match="HDF5 weights carry no network"):
        upgrade_caffemodel(FORMATS / "v1net.caffemodel.h5", new)
    assert not new.exists()


def test_a_binary_dialect_may_be_asked_for(tmp_path: Path) -> None:
    result = upgrade_caffemodel(FORMATS / "v1net.caffemodel", tmp_path / "new", dialect="ShaoqingRen/caffe")
    assert result.notes[0] == "dialect ShaoqingRen/caffe: asked for"
    assert [layer.type for layer in result.message.layer][:3] == ["Input", "Convolution", "ReLU"]


def test_bytes_that_do_not_decode_name_the_dialect() -> None:
    layer = b"\x9a\x09\x03\x0d\x00\x00"  # field 147: a float cut short
    with pytest.raises(WireError, match="n: does not decode under dialect bvlc"):
        decode_net(b"\xa2\x06" + bytes([len(layer)]) + layer, load_schema(), "n")
