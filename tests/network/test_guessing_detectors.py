"""Guessed shapes of data that is described elsewhere: pieces of videos, and what Faster R-CNN's data layer brings."""

from __future__ import annotations

import pytest

from caffe_compat.errors import LayerError
from caffe_compat.network.graph import NetState
from caffe_compat.network.guessing import guess_shapes_of, net_of
from caffe_compat.schema.prototxt import parse_message
from tests.networks import input_layer, layer

TSN, BANNY = "yjxiong/caffe", "BannyStone/Caffe"
ROI = "python_param { module: 'roi_data_layer.layer' layer: 'RoIDataLayer' param_str: \"%s\" }"


def guessed(text: str, dialect: str = "bvlc") -> dict[str, tuple[int, ...]]:
    """What is guessed, and that the network can be built with it."""
    parsed = parse_message(text, dialect=dialect)
    net = net_of(parsed.message, NetState("TRAIN"), dialect=parsed.schema.name, guess_shapes=True)
    assert net.guessed == guess_shapes_of(parsed.message, NetState("TRAIN"), parsed.schema.name)
    return {guess.blob: guess.shape for guess in net.guessed}


@pytest.mark.parametrize(
    ("told", "channels", "dialect"),
    [
        ("modality: RGB num_segments: 3", 9, TSN),
        ("modality: RGB new_length: 4", 12, TSN),
        ("modality: FLOW new_length: 5 num_segments: 3", 30, TSN),
        ("num_segments: 2", 4, TSN),  # FLOW is the default
        ("modality: RGB new_length: 16 num_segments: 3 length_first: true", 144, BANNY),
        ("modality: RGB new_length: 16 num_segments: 3 length_first: true step: 2", 72, BANNY),
        ("modality: RGB new_length: 16 num_segments: 3 step: 2", 144, BANNY),
        ("modality: FLOW new_length: 16 length_first: true step: 2", 32, BANNY),
    ],
)
def test_frames_of_pieces_of_videos_lie_among_the_channels(told: str, channels: int, dialect: str) -> None:
    text = layer("d", "VideoData", "", "data label", f"video_data_param {{ batch_size: 2 {told} }}")
    text = text.replace("video_data_param", "transform_param { crop_size: 20 mean_value: 104 } video_data_param")
    text += layer("r", "Reshape", "data", "r", f"reshape_param {{ shape {{ dim: 2 dim: {channels} dim: 400 }} }}")
    assert guessed(text, dialect) == {"data": (2, channels, 20, 20), "label": (2,)}


def roi_data(tops: str, told: str) -> str:
    return layer("d", "Python", "", tops, ROI % told)


def halved(times: int) -> str:
    """A network that halves a picture's sides, rounding up, and takes together what was halved in one step."""
    text, blob = "", "data"
    for i in range(times):
        text += layer(
            f"h{i}", "Convolution", blob, f"h{i}", "convolution_param { num_output: 1 kernel_size: 1 stride: 2 }"
        )
        blob = f"h{i}"
    pooled = f"pooling_param {{ pool: MAX kernel_size: {2**times} stride: {2**times} }}"
    text += layer("down", "Pooling", "data", "down", pooled.replace("kernel_size", "round_mode: FLOOR kernel_size"))
    return text + layer("c", "Concat", f"{blob} down", "c")


def test_pictures_whose_sides_must_be_multiples() -> None:
    text = roi_data("data im_info gt_boxes", "{num_classes: 3, cfg: {TRAIN.HAS_RPN: True}}") + halved(5)
    assert guessed(text) == {"data": (1, 3, 576, 992), "im_info": (1, 6)}
    smaller = "{num_classes: 3, cfg: {TRAIN: {HAS_RPN: True, SCALES: [333], MAX_SIZE: 400}}}"
    assert guessed(roi_data("data im_info gt_boxes", smaller) + halved(5))["data"] == (1, 3, 320, 384)
    even = "{num_classes: 3, cfg: {TRAIN: {HAS_RPN: True, SCALES: [640], MAX_SIZE: 1024}}}"
    assert guessed(roi_data("data im_info gt_boxes", even) + halved(5)) == {}


def test_a_picture_that_the_user_gives_is_left_alone() -> None:
    parsed = parse_message(
        roi_data("data im_info gt_boxes", "{num_classes: 3, cfg: {TRAIN.HAS_RPN: True}}") + halved(5)
    )
    with pytest.raises(LayerError, match=r"layer 'c' \(Concat\)"):
        net_of(parsed.message, NetState("TRAIN"), input_shapes={"data": (1, 3, 600, 1000)}, guess_shapes=True)


def test_objects_with_attributes() -> None:
    text = roi_data("data im_info gt_boxes", "{num_classes: 3, cfg: {TRAIN.HAS_RPN: True}}")
    told = "{num_classes: 3, num_attr_classes: 4}"
    target = f"python_param {{ module: 'rpn.proposal_target_layer' layer: 'ProposalTargetLayer' param_str: '{told}' }}"
    text += input_layer("rois", 7, 5)
    text += layer("t", "Python", "rois gt_boxes", "r labels targets inside outside attributes", target)
    assert guessed(text) == {"gt_boxes": (1, 21)}


def test_boxes_that_know_no_class() -> None:
    text = roi_data("data rois labels targets inside outside", "num_classes: 21")
    shape = "reshape_param { shape { dim: 128 dim: 8 dim: 1 dim: 1 } }"
    text += layer("p", "InnerProduct", "rois", "p", "inner_product_param { num_output: 8 }")
    text += layer("r", "Reshape", "p", "pred", shape) + layer("l", "EuclideanLoss", "pred targets", "l")
    text += layer("e", "Eltwise", "pred targets", "e")
    offsets = dict.fromkeys(("targets", "inside", "outside"), (128, 8, 1, 1))
    assert guessed(text) == {"labels": (128, 1, 1, 1), **offsets}
