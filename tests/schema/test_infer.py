"""Which fork wrote a binary network, from nothing but numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_compat.errors import DialectError, WireError
from caffe_compat.formats.caffemodel import read_net
from caffe_compat.schema import load_schema
from caffe_compat.schema.binary import decode_net
from caffe_compat.schema.infer import infer_binary
from caffe_compat.schema.infer_text import Missing, covering, together
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import parse_message

FOLDER = Path(__file__).parents[2] / "reference_outputs"


def layers(*texts: str) -> str:
    return "\n".join(f'layer {{ name: "l{i}" bottom: "x" top: "x" {text} }}' for i, text in enumerate(texts))


def binary(dialect: str, text: str) -> bytes:
    parsed = parse_message(text, dialect=dialect)
    assert not parsed.unknown
    return parsed.message.SerializeToString()


CONVOLUTION = 'type: "Convolution" convolution_param { num_output: 3 kernel_size: 5 weight_filler { std: 0.25 } }'


# What real Caffe wrote


def test_the_fork_of_the_pose_networks_is_found_by_its_fields() -> None:
    inferred = infer_binary(read_net(FOLDER / "tiny_mask3d/tiny_mask3d_train.caffemodel").structure)
    assert inferred.schema.name == "chanyn/3Dpose_ssl"
    assert inferred.alternatives == []
    for number, kind in ((147, "MPJPEEvaluation"), (148, "SavePath"), (149, "ImageDataLstm"), (160, "Mask")):
        assert f"field {number} of {kind} layers" in inferred.reason


def test_the_fork_of_the_pose_networks_is_found_by_its_types() -> None:
    inferred = infer_binary(read_net(FOLDER / "tiny_mask3d/tiny_mask3d.caffemodel").structure)
    assert (inferred.schema.name, inferred.reason) == ("chanyn/3Dpose_ssl", "knows layer type InvertedOrder")


@pytest.mark.parametrize("name", ["v0net", "v0net.upgraded", "v1net", "v1net.upgraded"])
def test_every_generation_of_bvlc_is_bvlc(name: str) -> None:
    inferred = infer_binary(read_net(FOLDER / f"formats/{name}.caffemodel").structure)
    assert inferred.schema.name == "bvlc"
    assert inferred.reason == "every layer type and field is BVLC's"


# Networks written under many forks

NETWORKS = {
    "weiliu89/caffe@ssd": layers(
        CONVOLUTION,
        'type: "Normalize" norm_param { across_spatial: false scale_filler { value: 20 } channel_shared: false }',
        'type: "Permute" permute_param { order: [0, 2, 3, 1] }',
        'type: "PriorBox" prior_box_param { min_size: 30 aspect_ratio: 2 flip: true variance: [0.1, 0.2] offset: 0.5 }',
        'type: "DetectionOutput" detection_output_param { num_classes: 21 nms_param { top_k: 4 } code_type: CORNER }',
    ),
    "rbgirshick/caffe-fast-rcnn@fast-rcnn": layers(
        CONVOLUTION, 'type: "ROIPooling" roi_pooling_param { pooled_h: 7 pooled_w: 6 spatial_scale: 0.0625 }'
    ),
    "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445": layers(
        CONVOLUTION,
        'type: "ROIPooling" roi_pooling_param { pooled_h: 7 pooled_w: 6 spatial_scale: 0.0625 }',
        'type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }',
    ),
    "alexgkendall/caffe-segnet": layers(
        CONVOLUTION,
        'type: "BN" bn_param { scale_filler { value: 1 } shift_filler { value: 0.001 } bn_mode: INFERENCE }',
        'type: "Upsample" upsample_param { scale: 2 upsample_w: 45 }',
    ),
    "hszhao/PSPNet": layers(
        CONVOLUTION,
        'type: "BN" bn_param { frozen: true momentum: 0.95 }',
        'type: "Interp" interp_param { height: 59 width: 61 }',
    ),
    "NVIDIA/caffe": layers(
        CONVOLUTION, 'type: "BatchNorm" forward_type: FLOAT16 batch_norm_param { scale_bias: true }'
    ),
    "intel/caffe": layers(
        'type: "Convolution" convolution_param { num_output: 3 engine: MKLDNN }', 'type: "BatchNorm" engine: "MKLDNN"'
    ),
    "junhyukoh/caffe-lstm": layers('type: "Lstm" lstm_param { num_output: 13 clipping_threshold: 0.1 }'),
    "daijifeng001/caffe-rfcn": layers(
        CONVOLUTION,
        'type: "PSROIPooling" psroi_pooling_param { spatial_scale: 0.0625 output_dim: 21 group_size: 7 }',
        'type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 128 ignore_label: -1 }',
    ),
    "happynear/caffe-windows": layers(CONVOLUTION, 'type: "LabelSpecificAdd" label_specific_add_param { bias: 0.35 }'),
    "CMU-Perceptual-Computing-Lab/caffe_rtpose": layers(
        CONVOLUTION,
        'type: "ImResize" imresize_param { factor: 8 }',
        'type: "Nms" nms_param { threshold: 0.05 max_peaks: 64 }',
    ),
    "torrvision/caffe@crfrnn": layers(
        CONVOLUTION,
        'type: "MultiStageMeanfield" multi_stage_meanfield_param { num_iterations: 10 theta_alpha: 160 theta_beta: 3 '
        "theta_gamma: 3 }",
    ),
    "chanyn/3Dpose_ssl": layers(
        CONVOLUTION,
        'type: "Mask" mask_param { dim: 2 prob: 0.5 }',
        'type: "SkelVectorLoss" skel_vector_param { dim: 3 }',
    ),
    "twhui/LiteFlowNet": layers(
        CONVOLUTION, 'type: "Correlation" correlation_param { pad: 3 kernel_size: 1 max_displacement: 3 stride_1: 1 }'
    ),
    "ydwen/caffe-face": layers(CONVOLUTION, 'type: "CenterLoss" center_loss_param { num_output: 10572 }'),
    "wy1iu/sphereface": layers(
        CONVOLUTION,
        'type: "MarginInnerProduct" margin_inner_product_param { num_output: 10574 type: QUADRUPLE lambda_min: 5 }',
    ),
    "sfzhang15/RefineDet": layers(CONVOLUTION, 'type: "Permute" permute_param { order: [0, 2, 3, 1] }'),
    "weiliu89/caffe@fcn": layers(
        CONVOLUTION, 'type: "ParseOutput"', 'type: "ParseEvaluate" parse_evaluate_param { num_labels: 7 }'
    ),
    "BVLC/caffe@opencl": layers(CONVOLUTION, 'type: "MergeCrop" mergecrop_param { operation: STACK }'),
    "jolibrain/caffe": layers(
        CONVOLUTION, 'type: "ContinuationIndicator" continuation_indicator_param { time_step: 9 }'
    ),
    "s9xie/hed": layers(CONVOLUTION, 'type: "ImageLabelmapData" image_data_param { source: "list" }'),
    "eldar/deepcut-cnn": layers(CONVOLUTION, 'type: "Crop"'),
    "tianzhi0549/CTPN": layers(
        CONVOLUTION, 'type: "Transpose" transpose_param { dim: [2, 1, 0] }', 'type: "Reverse" reverse_param { axis: 0 }'
    ),
    "ChWick/caffe@warp-ctc": layers(CONVOLUTION, 'type: "CTCLoss" ctc_loss_param { blank_index: 3 }'),
    "aharley/segaware": layers(CONVOLUTION, 'type: "Im2dist" im2dist_param { norm: L1 remove_center: true }'),
}


@pytest.mark.parametrize("dialect", NETWORKS)
def test_a_network_reads_the_same_under_the_dialect_inferred(dialect: str) -> None:
    structure = binary(dialect, NETWORKS[dialect])
    inferred = infer_binary(structure)
    found = decode_net(structure, inferred.schema)
    assert format_message(found) == format_message(load_schema(dialect).message("NetParameter").FromString(structure))
    assert dialect in (inferred.schema.name, *inferred.alternatives) or inferred.schema.name == "bvlc"
    assert "not known" not in inferred.reason


def test_what_is_bvlcs_stays_bvlcs_though_forks_use_the_number() -> None:
    text = layers('type: "Swish" swish_param { beta: 2 }', 'type: "Clip" clip_param { min: 0 max: 6 }')
    assert infer_binary(binary("bvlc", text)).schema.name == "bvlc"


def test_one_number_means_what_the_layer_type_says() -> None:
    swish = infer_binary(binary("bvlc", layers('type: "Swish" swish_param { beta: 2 }'))).schema.name
    mpjpe = infer_binary(
        binary("chanyn/3Dpose_ssl", layers('type: "MPJPEEvaluation" mpjpe_param { sample_num: 3 scale: 2 }'))
    ).schema.name
    assert (swish, mpjpe) == ("bvlc", "chanyn/3Dpose_ssl")


def test_a_v1_fork_is_found_by_its_type_numbers_and_fields() -> None:
    text = """
        layers { name: "a" type: BN bn_param { bn_mode: INFERENCE } }
        layers { name: "b" type: UNPOOLING unpooling_param { unpool: MAX kernel_size: 2 stride: 2 unpool_size: 14 } }
    """
    structure = binary("HyeonwooNoh/caffe", text)
    inferred = infer_binary(structure)
    expected = load_schema("HyeonwooNoh/caffe").message("NetParameter").FromString(structure)
    assert format_message(decode_net(structure, inferred.schema)) == format_message(expected)
    assert "V1 type" in inferred.reason


# Doubt


def test_forks_that_disagree_are_named() -> None:
    structure = binary("weiliu89/caffe@fcn", 'layers { name: "a" type: CROP }')
    with pytest.raises(DialectError) as caught:
        infer_binary(structure, "net.caffemodel")
    message = str(caught.value)
    assert message.startswith("net.caffemodel: V1 type 40 fits several forks of Caffe, which disagree: ")
    assert "weiliu89/caffe@fcn reads CROP" in message
    assert "reads SELU" in message
    assert message.endswith("`--dialect weiliu89/caffe@fcn`")


def test_what_nobody_knows_is_left_and_said() -> None:
    net = load_schema().message("NetParameter")()
    net.layer.add(name="a", type="NobodysLayer")
    net.layer.add(name="b", type="ReLU").relu_param.negative_slope = 0.5
    inferred = infer_binary(net.SerializeToString())
    assert (inferred.schema.name, inferred.alternatives) == ("bvlc", [])
    assert inferred.reason == "no dialect knows more than BVLC's schema; not known: layer type NobodysLayer"


def test_the_dialect_that_knows_most_is_taken_and_the_rest_said() -> None:
    text = layers('type: "Mask" mask_param { prob: 0.5 }', 'type: "MPJPEEvaluation" mpjpe_param { scale: 2 }')
    net = load_schema("chanyn/3Dpose_ssl").message("NetParameter").FromString(binary("chanyn/3Dpose_ssl", text))
    net.layer.add(name="n", type="NobodysLayer")
    inferred = infer_binary(net.SerializeToString())
    assert inferred.schema.name == "chanyn/3Dpose_ssl"
    assert inferred.reason.startswith("knows field 147 of MPJPEEvaluation layers")
    assert inferred.reason.endswith("not known: layer type NobodysLayer")


def test_a_field_whose_bytes_do_not_fit_its_message_is_not_explained_by_it() -> None:
    # Field 147 with a string inside: no SwishParameter.
    layer = b"\x0a\x01a\x12\x05Swish" + b"\x9a\x09\x05\x0a\x03abc"
    inferred = infer_binary(b"\xa2\x06" + bytes([len(layer)]) + layer)
    assert "field 147 of Swish layers" in inferred.reason


def test_bytes_that_are_no_network_are_refused() -> None:
    with pytest.raises(WireError):
        infer_binary(b"\xa2\x06\x7f")


def test_a_field_that_must_be_given_has_to_be_there() -> None:
    # clip_param with its max alone: under BVLC's schema both must be given, under some forks' neither.
    layer = b"\x0a\x01c\x12\x04Clip" + b"\xa2\x09\x05\x15\x00\x00\x80\x3f"
    structure = b"\xa2\x06" + bytes([len(layer)]) + layer
    with pytest.raises(WireError, match=r"leaves out layer\[0\].clip_param.min, without which dialect bvlc refuses"):
        decode_net(structure, load_schema())
    inferred = infer_binary(structure)
    assert inferred.schema.name == "CMU-Perceptual-Computing-Lab/caffe"
    assert decode_net(structure, inferred.schema).layer[0].clip_param.max == 1


def test_names_that_are_not_utf8_are_read() -> None:
    layer = b"\x0a\x02\xc4\xe3\x12\x04ReLU\x1a\x02\xc4\xe3\x22\x01b"
    structure = b"\xa2\x06" + bytes([len(layer)]) + layer
    net = decode_net(structure, infer_binary(structure).schema)
    assert (net.layer[0].name, net.layer[0].bottom[0], net.layer[0].top[0]) == ("\\xc4\\xe3", "\\xc4\\xe3", "b")


# Text


def test_a_message_is_supplied_by_who_knows_what_is_inside() -> None:
    # Another, better matching fork has a mask_param too, with other fields.
    item = Missing("LayerParameter", "mask_param", frozenset({"dim", "prob"}))
    assert covering([item])[0] == "chanyn/3Dpose_ssl"
    chosen, reason = together([item])
    assert chosen == ["chanyn/3Dpose_ssl"]
    assert reason.startswith("chanyn/3Dpose_ssl knows mask_param")


def test_a_message_with_other_fields_inside_is_better_than_none() -> None:
    item = Missing("LayerParameter", "mask_param", frozenset({"nobodys_field"}))
    assert covering([item]) == []
    assert len(together([item])[0]) == 1


def test_nothing_is_chosen_where_nobody_knows() -> None:
    item = Missing("LayerParameter", "nobodys_param")
    assert covering([item]) == []
    assert together([item]) == ([], "")
