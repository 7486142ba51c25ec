"""What a layer type means in which fork, and which fork a file is read as: all that fit it must mean the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import DialectError, LayerError, UnknownLayerError
from caffe_compat.formats.weights import read_weights, write_caffemodel
from caffe_compat.network import registry
from caffe_compat.network.graph import NetState
from caffe_compat.network.loading import load
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import find_layer, layer_types
from caffe_compat.schema import BVLC, dialect_names, load_schema, merged_file, read_dialect
from caffe_compat.schema.doubt import Doubt, doubt_of, keep_doubt
from caffe_compat.schema.infer import infer_binary
from caffe_compat.schema.meanings import MEANINGS
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import ParsedText, parse_message
from caffe_compat.schema.unknown import DOUBT_FIELD, keep_bytes, unknown_fields_of
from caffe_compat.schema.upgrade import upgrade_net
from caffe_compat.schema.uses import Use
from caffe_compat.schema.which_meaning import meaning_of
from tests.networks import input_layer, layer

SSD, RFCN = "weiliu89/caffe@ssd", "daijifeng001/caffe-rfcn"
SEGNET, PSPNET = "alexgkendall/caffe-segnet", "hszhao/PSPNet"
POSE, POSE_ACTION = "chanyn/3Dpose_ssl", "zimenglan-sysu-512/pose_action_caffe"


COMPARED: dict[str, list[str]] = json.loads(Path(__file__).with_name("forks_of_types.json").read_text(encoding="utf-8"))

# The table


def has_type(fork: str, layer_type: str) -> bool:
    """Whether the fork's code registers the type; forks that only have a schema may mean it, too."""
    return not read_dialect(fork)[1] or layer_type in merged_file(fork)[1]


@pytest.mark.parametrize("layer_type", MEANINGS)
def test_the_table_of_meanings_is_sound(layer_type: str) -> None:
    meanings = MEANINGS[layer_type]
    named = [fork for meaning in meanings for fork in (meaning.fork, *(meaning.also or ()))]
    assert len(set(named)) == len(named)
    assert set(named) <= set(dialect_names())
    assert all(fork == BVLC or has_type(fork, layer_type) for fork in named)
    assert not meanings[0].quiet, "the best known meaning"
    rest = Counter(meaning.reads for meaning in meanings if meaning.also is None)
    assert max(rest.values(), default=0) <= 1, "one meaning for all other forks"
    forks = {meaning.fork for meaning in meanings}
    for meaning in meanings:
        assert {meaning.same or meaning.fork, meaning.same_tops or meaning.fork} <= forks
        assert (meaning.when is None) == (meaning.same == "")


@pytest.mark.parametrize("layer_type", layer_types())
def test_a_type_that_forks_define_differently_is_registered_with_its_forks(layer_type: str) -> None:
    own = layer_type in merged_file(BVLC)[1]
    entries = {id(entry): entry for (name, _), entry in registry._TYPES.items() if name == layer_type}
    if len(MEANINGS.get(layer_type, ())) > 1:
        plain = [entry for entry in entries.values() if not entry.dialects]
        assert len(plain) == own, "only BVLC's meaning of its own types needs no fork"
    for entry in entries.values():
        assert all(has_type(fork, layer_type) for fork in entry.dialects)


@pytest.mark.parametrize("layer_type", [name for name in layer_types() if name not in merged_file(BVLC)[1]])
def test_a_type_whose_parameters_differ_from_fork_to_fork_is_in_the_table(layer_type: str) -> None:
    """What two forks declare differently somebody has to have looked at."""
    declared = {declaration(fork, layer_type) for fork in dialect_names()[1:] if layer_type in read_dialect(fork)[1]}
    assert len(declared) <= 1 or layer_type in MEANINGS


@pytest.mark.parametrize("layer_type", [name for name in layer_types() if name not in merged_file(BVLC)[1]])
def test_whoever_registers_a_type_has_been_compared_with_the_others(layer_type: str) -> None:
    """Names and fields may agree where code does not, so ``forks_of_types.json`` lists whose code was read.

    For a fork that is new there, compare its ``.cpp`` and ``.cu``, and tell ``schema/meanings.py`` what it means.
    """
    forks = [fork for fork in dialect_names()[1:] if layer_type in read_dialect(fork)[1]]
    assert sorted(forks, key=str.lower) == COMPARED.get(layer_type, forks[:1])


# Names that have another meaning from fork to fork, in files that people have.
@pytest.mark.parametrize(
    "layer_type",
    [
        *("BN", "BatchNorm", "CenterLoss", "DetectionOutput", "Interp", "Lstm", "Normalize", "PriorBox", "Proposal"),
        *("ROIAlign", "ROIPooling", "RescaledPoseCoords", "SmoothL1Loss", "Upsample"),
    ],
)
def test_what_is_known_to_differ_is_told_apart(layer_type: str) -> None:
    assert len(MEANINGS[layer_type]) > 1


def declaration(fork: str, layer_type: str) -> tuple[object, ...]:
    """The parameters that a fork's layer reads: names, numbers, types and defaults."""
    file, types = merged_file(fork)
    fields = (file.messages["LayerParameter"].get(name) for name in types[layer_type])
    messages = (file.messages.get(field.type, {}) for field in fields if field is not None)
    return (types[layer_type], *(tuple(sorted(map(str, message.values()))) for message in messages))


def test_forks_that_share_a_meaning_have_one_builder() -> None:
    assert find_layer("SmoothL1Loss", "imistyrain/ssd") is find_layer("SmoothL1Loss", SSD)
    assert find_layer("SmoothL1Loss", "ShaoqingRen/caffe") is find_layer("SmoothL1Loss", "aharley/segaware")
    assert find_layer("SmoothL1Loss", SSD) is not find_layer("SmoothL1Loss", RFCN)
    assert find_layer("ChannelNorm", "lmb-freiburg/flownet2") is find_layer("ChannelNorm", "twhui/LiteFlowNet")
    assert find_layer("BatchNorm", SSD) is find_layer("BatchNorm", BVLC) is not find_layer("BatchNorm", "NVIDIA/caffe")


def test_the_first_of_several_dialects_that_has_the_type_says_what_it_means() -> None:
    assert find_layer("SmoothL1Loss", f"{SEGNET}+{RFCN}+{SSD}") is find_layer("SmoothL1Loss", RFCN)


@pytest.mark.parametrize("fork", ["yjxiong/caffe", "pulkitag/caffe", BVLC, SEGNET])
def test_another_forks_meaning_is_not_taken(fork: str) -> None:
    with pytest.raises(UnknownLayerError, match=r"'Normalize' is known as .* not under dialect"):
        find_layer("Normalize", fork)


def test_one_meaning_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TYPES", dict(registry._TYPES))
    with pytest.raises(LayerError, match="'SmoothL1Loss' is registered twice for dialect lzx1413/CAFFE_SSD"):
        registry.layer("SmoothL1Loss", dialects=("lzx1413/CAFFE_SSD",))(lambda spec: None)  # type: ignore[arg-type,return-value]


# A user's own caffe.proto tells no layer types


@pytest.mark.parametrize(
    ("field", "layer_type", "fork"),
    [
        ("optional NormalizeParameter norm_param = 999;", "Normalize", SSD),
        ("optional ROIPoolingParameter roi_pooling_param = 999;", "ROIPooling", "rbgirshick/caffe-fast-rcnn@fast-rcnn"),
        ("", "SmoothL1Loss", "rbgirshick/caffe-fast-rcnn@fast-rcnn"),
    ],
)
def test_an_own_schema_means_what_forks_with_its_parameters_mean(
    field: str, layer_type: str, fork: str, tmp_path: Path
) -> None:
    path = tmp_path / "caffe.proto"
    path.write_text(
        "package caffe;"
        "message NormalizeParameter { optional bool across_spatial = 1 [default = true]; "
        "optional FillerParameter scale_filler = 2; optional bool channel_shared = 3 [default = true]; "
        "optional float eps = 4 [default = 1e-10]; }"
        "message ROIPoolingParameter { optional uint32 pooled_h = 1 [default = 0]; "
        "optional uint32 pooled_w = 2 [default = 0]; optional float spatial_scale = 3 [default = 1]; }"
        f"message LayerParameter {{ {field} }}"
    )
    meaning = meaning_of(layer_type, str(path))
    assert meaning is not None
    assert meaning == meaning_of(layer_type, fork)
    assert find_layer(layer_type, str(path)) is find_layer(layer_type, fork)


def test_what_an_own_schema_cannot_tell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "caffe.proto"
    path.write_text("package caffe; message LayerParameter { optional float own = 999; }")
    assert meaning_of("RescaledPoseCoords", str(path)) is None
    with pytest.raises(UnknownLayerError, match="RescaledPoseCoords"):
        find_layer("RescaledPoseCoords", str(path))


# Choosing by a text


def parsed(text: str, blobs: Mapping[str, int] | None = None, dialect: str | None = None) -> ParsedText:
    return parse_message(text, dialect=dialect, blobs=None if blobs is None else lambda: blobs)


def doubts(found: ParsedText) -> list[str]:
    layers = (*found.message.layer, *found.message.layers)
    return [layer.name for layer in layers if doubt_of(layer) is not None]


def net_of(found: ParsedText, phase: str = "TEST", gradients: str = "caffe") -> CaffeNet:
    message = upgrade_net(found.message, found.schema).message
    return CaffeNet(message, NetState(phase), dialect=found.schema.name, gradients=gradients, path="net.prototxt")  # type: ignore[arg-type]


MAPS = (2, 3, 4, 5)


EMPHASIS = "fg_eof: 1 bg_eof: 1 loss_emphase_type: 0 ratio: 0.5"
HARD = "prob_num: 2 heat_score_thres: 0.2 parts_err_num_thres: 2"


def two_maps(more: str = "", *, shape: tuple[int, ...] = MAPS) -> str:
    return input_layer("a", *shape) + input_layer("b", *shape) + more


def test_forks_that_mean_the_same_are_no_matter() -> None:
    found = parsed(input_layer("x", *MAPS) + layer("l", "Permute", "x", "y", "permute_param { order: 1 }"))
    assert (found.schema.name, doubts(found)) == (SSD, [])
    assert found.dialect_reason.startswith(f"{SSD} knows Permute, permute_param (as do ")


def test_a_layer_that_forks_define_differently_is_refused_with_the_candidates() -> None:
    found = parsed(two_maps(layer("loss", "SmoothL1Loss", "a b", "loss")))
    assert doubts(found) == ["loss"]
    with pytest.raises(DialectError) as caught:
        net_of(found)
    assert str(caught.value).startswith(
        "net.prototxt: layer 'loss' (SmoothL1Loss): several forks of Caffe fit the file"
    )
    assert "divided by the examples (weiliu89/caffe@ssd and " in str(caught.value)
    assert "divided by examples and positions, or as loss_param says (daijifeng001/caffe-rfcn)" in str(caught.value)
    assert str(caught.value).endswith("Say which one wrote it, for example `--dialect weiliu89/caffe@ssd`")
    for dialect in (SSD, RFCN):
        asked_for = parsed(two_maps(layer("loss", "SmoothL1Loss", "a b", "loss")), dialect=dialect)
        assert (doubts(asked_for), net_of(asked_for).dialect) == ([], dialect)


def test_only_the_phase_that_has_the_layer_is_refused() -> None:
    loss = layer("loss", "SmoothL1Loss", "a b", "loss", "include { phase: TRAIN }")
    found = parsed(two_maps(layer("r", "ReLU", "a", "c") + loss))
    assert net_of(found).dialect == SSD
    with pytest.raises(DialectError, match="'loss'"):
        net_of(found, "TRAIN")


@pytest.mark.parametrize(
    ("layer_type", "bottoms", "more", "dialect"),
    [
        ("Normalize", "a", "norm_param { across_spatial: false }", SSD),
        ("Normalize", "a", 'normalize_param { normalize_type: "L1" }', "happynear/caffe-windows"),
        ("SmoothL1Loss", "a b a", "loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }", RFCN),
        ("SmoothL1Loss", "a b", "smooth_l1_loss_param { sigma: 3 }", "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup"),
        ("BN", "a", "bn_param { bn_mode: INFERENCE }", SEGNET),
        ("BN", "a", "bn_param { slope_filler { value: 2 } }", "yjxiong/caffe"),
        ("BN", "a", "", None),
        ("BatchNorm", "a", "batch_norm_param { scale_filler { value: 2 } }", None),
        ("Resize", "a", "resize_param { height: 8 width: 9 }", None),
        ("Resize", "a", "resize_param { height_fac: 2 width_fac: 3 }", POSE_ACTION),
        ("RescaledPoseCoords", "a b", "", None),
        ("PoseHeatMapLoss", "a b", f"pose_heat_map_loss_param {{ {EMPHASIS} }}", POSE),
        ("PoseHeatMapLoss", "a b", f"pose_heat_map_loss_param {{ {EMPHASIS} {HARD} }}", POSE_ACTION),
        ("CTCGreedyDecoder", "a", "ctc_decoder_param { blank_index: 3 }", "senlinuc/caffe_ocr"),
        ("CTCGreedyDecoder", "a b", "ctc_decoder_param { blank_index: 3 }", None),
    ],
)
def test_fields_tell(layer_type: str, bottoms: str, more: str, dialect: str | None) -> None:
    found = parsed(two_maps(layer("l", layer_type, bottoms, "y", more)))
    assert doubts(found) == ([] if dialect else ["l"])
    assert dialect in (None, found.schema.name)


@pytest.mark.parametrize(
    ("layer_type", "bottoms", "more", "dialect"),
    [
        ("Upsample", "a b", "upsample_param { scale: 2 }", SEGNET),
        ("Upsample", "a", "upsample_param { scale: 2 }", "eric612/MobileNet-YOLO"),
        ("SmoothL1Loss", "a b a b", "", "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup"),
        ("CTCGreedyDecoder", "a", "ctc_decoder_param { ctc_merge_repeated: false }", "senlinuc/caffe_ocr"),
        ("Resize", "a b", "", POSE_ACTION),
    ],
)
def test_the_number_of_bottoms_tells(layer_type: str, bottoms: str, more: str, dialect: str) -> None:
    found = parsed(two_maps(layer("l", layer_type, bottoms, "y", more)))
    assert (found.schema.name, doubts(found)) == (dialect, [])


def test_the_other_layers_of_the_file_tell() -> None:
    coordinates = two_maps(layer("l", "RescaledPoseCoords", "a b", "y"))
    found = parsed(coordinates + layer("i", "InvertedOrder", "y", "z"))
    assert (found.schema.name, doubts(found)) == (POSE, [])


PVANET = "sanghoon/caffe@dev_pvanet"


@pytest.mark.parametrize(("numbers", "dialect"), [(3, None), (4, PVANET), (5, None), (6, PVANET)])
def test_the_shape_of_an_input_tells(numbers: int, dialect: str | None) -> None:
    inputs = input_layer("s", 1, 18, 4, 5) + input_layer("d", 1, 36, 4, 5) + input_layer("i", 1, numbers)
    found = parsed(inputs + layer("l", "Proposal", "s d i", "rois", "proposal_param { ratio: 1 scale: 2 }"))
    assert doubts(found) == ([] if dialect else ["l"])
    assert dialect in (None, found.schema.name)


@pytest.mark.parametrize(
    ("stride", "dialect"), [("", "choasup/caffe-yolo9000"), ("reorg_param { stride: 2 }", "intel/caffe")]
)
def test_a_stride_that_is_left_out_tells(stride: str, dialect: str) -> None:
    """One fork's is 2 by default, and the others' 0, which they refuse."""
    found = parsed(input_layer("x", 1, 8, 4, 6) + layer("l", "Reorg", "x", "y", stride))
    assert (found.schema.name, doubts(found)) == (dialect, [])


def test_the_axes_of_an_input_tell() -> None:
    for axes, expected in (((), []), ((1, 1), ["l"])):
        inputs = input_layer("c", 2, 8, *axes) + input_layer("i", 2, 5)
        found = parsed(inputs + layer("l", "RescaledPoseCoords", "c i", "y"))
        assert (found.schema.name, doubts(found)) == (POSE, expected)


@pytest.mark.parametrize(
    ("shape", "says"),
    [((6, 4), None), ((6, 1, 4), "steps and streams are two axes"), ((6, 2, 4), "each stream has marks of its own")],
)
def test_the_streams_of_a_marked_sequence_tell(shape: tuple[int, ...], says: str | None) -> None:
    """Rows, as the first fork has them, may be of any shape."""
    lstm = layer("l", "Lstm", "x m", "y", "lstm_param { num_output: 3 }")
    found = parsed(input_layer("x", *shape) + input_layer("m", *shape[:-1]) + lstm)
    texts = [d.text.split(": ", 1)[1] for d in map(doubt_of, found.message.layer) if d is not None]
    first = "rows of steps and streams, with batch_size streams (junhyukoh/caffe-lstm); "
    assert [text.split(" (")[1].split("); ")[1] for text in texts] == ([says] if says else [])
    assert all(text.startswith(first) for text in texts)


@pytest.mark.parametrize(
    ("blobs", "dialect"), [({"l": 2}, SEGNET), ({"l": 4}, "yjxiong/caffe"), ({"l": 3}, None), ({}, None), (None, None)]
)
def test_the_number_of_blobs_tells(blobs: dict[str, int] | None, dialect: str | None) -> None:
    found = parsed(input_layer("x", *MAPS) + layer("l", "BN", "x", "y"), blobs)
    assert doubts(found) == ([] if dialect else ["l"])
    assert dialect in (None, found.schema.name)


def test_weights_at_hand_tell(tmp_path: Path) -> None:
    text = input_layer("x", *MAPS) + layer("l", "BN", "x", "y")
    (tmp_path / "net.prototxt").write_text(text)
    for dialect, names in ((SEGNET, ("scale", "shift")), (PSPNET, ("slope", "bias", "mean", "variance"))):
        message = parsed(text, dialect=dialect).message
        blobs = [(), [np.full((1, 3, 1, 1), i + 1, np.float32) for i in range(len(names))]]
        write_caffemodel(tmp_path / "net.caffemodel", message.SerializePartialToString(), blobs)
        net = load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
        assert [name for name, _ in net.l.named_parameters()] + [n for n, _ in net.l.named_buffers()] == list(names)
        with read_weights(tmp_path / "net.caffemodel") as weights:
            assert weights.structure is not None
            inferred = infer_binary(weights.structure, blobs=lambda: {"l": len(names)})  # noqa: B023
        assert meaning_of("BN", inferred.schema.name) == meaning_of("BN", dialect)
        assert inferred.doubts == {}
    with pytest.raises(DialectError, match="by BN they do not mean the same layer"):
        load(tmp_path / "net.prototxt", seed=0)


def test_shapes_that_are_known_only_when_the_net_is_built_tell_too() -> None:
    """Without positions, R-FCN's loss is Fast R-CNN's."""
    flat = layer("f", "Flatten", "a", "fa") + layer("g", "Flatten", "b", "fb")
    found = parsed(two_maps(flat + layer("loss", "SmoothL1Loss", "fa fb", "loss")))
    assert doubts(found) == ["loss"]
    assert net_of(found).dialect == SSD


def test_what_the_built_shapes_tell_of_another_fork_is_refused() -> None:
    """A fourth bottom of two axes is no image."""
    inputs = input_layer("l", 1, 8) + input_layer("c", 1, 6) + input_layer("p", 1, 2, 8) + input_layer("a", 1, 2, 2)
    flat = layer("f", "Flatten", "a", "fa")
    found = parsed(inputs + flat + layer("d", "DetectionOutput", "l c p fa", "y", "detection_output_param { }"))
    assert (found.schema.name, doubts(found)) == (SSD, ["d"])
    with pytest.raises(
        DialectError, match=r"the file means what jolibrain/caffe does\. Read it so: `--dialect jolibrain"
    ):
        net_of(found)


# Gradients and defaults


CENTERS = (
    input_layer("x", 5, 3)
    + input_layer("t", 5)
    + layer("l", "CenterLoss", "x t", "loss", "center_loss_param { num_output: 4 }")
)


def test_forks_that_differ_in_the_gradient_alone_are_refused_for_training() -> None:
    found = parsed(CENTERS)
    (doubt,) = [d for d in map(doubt_of, found.message.layer) if d is not None]
    assert doubt.gradient_only
    net = net_of(found)
    assert [note for note in net.notes if "by CenterLoss they do not mean the same gradient" in note] != []
    with pytest.raises(DialectError, match="the same gradient"):
        net_of(found, "TRAIN")
    with pytest.raises(DialectError, match="the same gradient"):
        net_of(parsed("force_backward: true " + CENTERS))
    assert net_of(found, "TRAIN", "true").dialect == found.schema.name


def test_forks_with_other_defaults_are_refused() -> None:
    def prior_box(more: str) -> ParsedText:
        return parsed(two_maps(layer("l", "PriorBox", "a b", "y", f"prior_box_param {{ min_size: 3 {more} }}")))

    with pytest.raises(DialectError) as caught:
        net_of(prior_box(""))
    assert "prior_box_param.clip, which it leaves out, has different defaults: false (" in str(caught.value)
    assert "true (Cambricon/caffe)" in str(caught.value)
    assert doubts(prior_box("clip: false")) == []


def test_a_default_without_bearing_is_no_doubt() -> None:
    """Where given statistics are used, those of the batch are not kept, whatever the default."""

    def normalised(told: str) -> ParsedText:
        norm = layer("l", "BatchNorm", "x", "y", f"batch_norm_param {{ use_global_stats: {told} }}")
        resized = layer("i", "Interp", "y", "z", "interp_param { height: 4 width: 4 }")
        return parsed(input_layer("x", *MAPS) + norm + resized + layer("a", "SegAccuracy", "z x", "rate"))

    assert doubts(normalised("true")) == []
    assert doubts(normalised("false")) == ["l"]


def test_a_number_has_one_spelling() -> None:
    """eps = 1e-05 in one fork's schema and 0.00001 in another's is one default."""
    found = parsed(input_layer("x", *MAPS) + layer("l", "BN", "x", "y", "bn_param { slope_filler { value: 2 } }"))
    assert doubts(found) == []


# What nobody could tell from a file


def test_a_quiet_change_of_one_fork_is_not_expected() -> None:
    text = input_layer("x", *MAPS) + layer("l", "Interp", "x", "y", "interp_param { zoom_factor: 2 }")
    assert (parsed(text).schema.name, doubts(parsed(text))) == ("jolibrain/caffe", [])
    assert net_of(parsed(text)).shapes[-1] == (2, 3, 7, 9)
    assert net_of(parsed(text, dialect="dlunion/CC4.0")).shapes[-1] == (2, 3, 8, 10)


def test_a_quiet_change_is_taken_where_no_other_fork_fits() -> None:
    found = parsed(two_maps(layer("l", "SmoothL1Loss", "a b a", "y") + layer("i", "Im2dist", "a", "z")))
    assert (found.schema.name, doubts(found)) == ("aharley/segaware", [])


def test_types_of_bvlc_mean_bvlcs_unless_the_file_says_otherwise() -> None:
    for field, dialect in (("eps: 0.5", SSD), ("scale_bias: true", "NVIDIA/caffe")):
        norm = layer("n", "BatchNorm", "x", "y", f"batch_norm_param {{ {field} }}")
        permute = layer("p", "Permute", "y", "z", "permute_param { order: 1 }")
        found = parsed(input_layer("x", *MAPS) + norm + permute)
        assert (found.schema.name, doubts(found)) == (dialect, [])


def test_a_v1_type_that_a_later_fork_only_lists_is_not_that_forks() -> None:
    found = parsed('input: "x" input_dim: [2, 3, 4, 5] layers { name: "l" type: NORM bottom: "x" top: "y" }')
    assert found.schema.name == "xiaolonw/caffe-3dnormal_joint_pose"


def test_values_that_do_not_fit_tell() -> None:
    """min_size may be given twice since SSD's second state."""
    boxes = layer("l", "PriorBox", "a b", "y", "prior_box_param { min_size: 3 min_size: 4 clip: true }")
    assert (parsed(two_maps(boxes)).schema.name, parsed(two_maps(boxes)).warnings) == (SSD, [])


def test_layers_of_two_forks_are_each_read_as_their_own() -> None:
    narrow = layer("d", "ConvolutionDepthwise", "x", "y", "convolution_param { kernel_size: 3 pad: 1 }")
    wide = layer("u", "Upsample", "y", "z", "upsample_param { scale: 2 }")
    found = parsed(input_layer("x", *MAPS) + narrow + wide)
    assert found.schema.name == "eric612/MobileNet-YOLO+jolibrain/caffe"
    assert found.dialect_reason.startswith("eric612/MobileNet-YOLO has Upsample as used here; jolibrain/caffe knows")
    assert doubts(found) == []
    assert net_of(found).shapes[-1] == (2, 3, 8, 10)


def test_a_layer_of_bvlc_between_those_of_two_forks_is_bvlcs() -> None:
    """Some fork gives a BatchNorm that says nothing other defaults; nothing in the file speaks of that fork."""
    text = layer("d", "ConvolutionDepthwise", "a", "d", "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }")
    text += layer("n", "BatchNorm", "d", "n") + layer("u", "Upsample", "n", "u", "upsample_param { scale: 2 }")
    found = parsed(two_maps(text))
    assert (found.schema.name, doubts(found)) == ("eric612/MobileNet-YOLO+jolibrain/caffe", [])


def test_a_layer_of_two_forks_that_is_not_read_as_its_own_is_refused() -> None:
    first = layer("i", "InvertedOrder", "a", "c")
    found = parsed(
        two_maps(first + layer("t", "CoordsToBboxes", "a", "d") + layer("l", "RescaledPoseCoords", "a b", "y"))
    )
    assert found.schema.name == f"{POSE}+{POSE_ACTION}"
    assert doubts(found) == ["l"]


# Where a doubt goes


def test_a_doubt_is_kept_but_not_shown() -> None:
    text = two_maps(layer("loss", "SmoothL1Loss", "a b", "loss"))
    message = parsed(text).message
    copy = type(message).FromString(message.SerializePartialToString())
    assert doubt_of(copy.layer[2]) == doubt_of(message.layer[2]) is not None
    assert format_message(message) == format_message(parsed(text, dialect=SSD).message)
    assert unknown_fields_of(message.layer[2]) == []


def test_a_doubt_survives_the_upgrade() -> None:
    (doubt,) = [d for d in map(doubt_of, parsed(CENTERS).message.layer) if d is not None]
    message = load_schema().message("NetParameter")()
    keep_doubt(message.layers.add(name="l", type=18), doubt)
    assert doubt_of(upgrade_net(message, load_schema()).message.layer[0]) == doubt


def test_solvers_with_networks_inside_have_doubts_too() -> None:
    inside = two_maps(layer("loss", "SmoothL1Loss", "a b", "loss"))
    message = parse_message(f"train_net_param {{ {inside} }} test_net_param {{ {inside} }}", "SolverParameter").message
    assert doubt_of(message.train_net_param.layer[2]) is not None
    assert doubt_of(message.test_net_param[0].layer[2]) is not None


@pytest.mark.parametrize("payload", [b"", b"junk", b"[]", b"\xff\xfe", b'{"text": "t"}'])
def test_what_somebody_else_keeps_under_the_number_is_no_doubt(payload: bytes) -> None:
    message = load_schema().message("LayerParameter")(name="l", type="ReLU")
    keep_bytes(message, DOUBT_FIELD, payload)
    assert doubt_of(message) is None


def test_a_doubt_names_no_file() -> None:
    """A caffemodel of a stranger's says nothing of what is read here."""
    message = load_schema().message("LayerParameter")(name="l", type="ReLU")
    keep_doubt(message, Doubt("text", False, Use(("layer", 0), "ReLU"), ("/etc/hostname",)))
    assert doubt_of(message) is None


# Choosing by bytes


def test_a_binary_network_is_chosen_by_meanings_too() -> None:
    text = two_maps(layer("loss", "SmoothL1Loss", "a b", "loss") + layer("r", "ReLU", "a", "c"))
    inferred = infer_binary(parsed(text, dialect=RFCN).message.SerializeToString())
    assert (inferred.schema.name, list(inferred.doubts)) == (SSD, [("layer", 2)])
    assert RFCN in inferred.alternatives
    text = two_maps(layer("u", "Upsample", "a", "c", "upsample_param { scale: 2 }"))
    inferred = infer_binary(parsed(text, dialect="eric612/MobileNet-YOLO").message.SerializeToString())
    assert (inferred.schema.name, inferred.doubts) == ("eric612/MobileNet-YOLO", {})


def test_a_caffemodel_with_a_layer_in_doubt_is_refused(tmp_path: Path) -> None:
    message = parsed(two_maps(layer("loss", "SmoothL1Loss", "a b", "loss")), dialect=RFCN).message
    write_caffemodel(tmp_path / "net.caffemodel", message.SerializePartialToString(), [(), (), ()])
    with pytest.raises(DialectError, match="--dialect weiliu89/caffe@ssd"):
        load(tmp_path / "net.caffemodel")
    assert load(tmp_path / "net.caffemodel", dialect=RFCN).dialect == RFCN
