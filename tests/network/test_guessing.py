"""Shapes that no file tells: what is guessed, by what, and that a guess is never taken for more."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import caffe_compat
from caffe_compat.errors import CaffeCompatWarning, GraphError, InputShapeError, LayerError, UsageError
from caffe_compat.network.checkpoint import read_checkpoint
from caffe_compat.network.graph import NetState
from caffe_compat.network.guess import Guess
from caffe_compat.network.guessing import guess_shapes_of, net_of
from caffe_compat.network.sources import told_shapes
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.networks import input_layer, ip, layer, parse, write_weights

# AlexNet's strides with few channels: 227 is the side that leaves no remainder, and gives fc6 4 x 6 x 6 inputs.
NARROW_ALEXNET = (
    layer("conv1", "Convolution", "data", "conv1", "convolution_param { num_output: 5 kernel_size: 11 stride: 4 }")
    + layer("pool1", "Pooling", "conv1", "pool1", "pooling_param { kernel_size: 3 stride: 2 }")
    + layer("pool2", "Pooling", "pool1", "pool2", "pooling_param { kernel_size: 3 stride: 2 }")
    + layer("conv5", "Convolution", "pool2", "conv5", "convolution_param { num_output: 4 kernel_size: 1 }")
    + layer("pool5", "Pooling", "conv5", "pool5", "pooling_param { kernel_size: 3 stride: 2 }")
    + ip("fc6", "pool5", "fc6", 7)
)
LOSS = layer("loss", "SoftmaxWithLoss", "fc6 label", "loss")


def data(more: str = "source: 'x_lmdb'", phase: str = "", transform: str = "") -> str:
    rule = f"include {{ phase: {phase} }}" if phase else ""
    rest = f"transform_param {{ {transform} }} {rule}"
    return layer("data", "Data", "", "data label", f"data_param {{ batch_size: 6 {more} }} {rest}")


def guessed(text: str, phase: str = "TEST", weights: Path | None = None) -> dict[str, tuple[int, ...]]:
    """What is guessed, and that the network can be built with it."""
    message = parse(text)
    guesses = guess_shapes_of(message, NetState(phase), "bvlc", None, weights)
    net = net_of(message, NetState(phase), guess_shapes=True, weights=weights)
    net.graph.check()
    assert net.guessed == guesses
    assert [f"guessed: {guess}" for guess in guesses] == net.warnings
    return {guess.blob: guess.shape for guess in guesses}


def alexnet_weights(tmp_path: Path, inputs: int) -> Path:
    rng = np.random.RandomState(3)
    shapes: list[tuple[str, Sequence[tuple[int, ...]]]] = [
        ("conv1", [(5, 1, 11, 11), (5,)]),
        ("conv5", [(4, 5, 1, 1), (4,)]),
        ("fc6", [(7, inputs), (7,)]),
    ]
    layers = [(name, [rng.rand(*shape).astype(np.float32) for shape in blobs]) for name, blobs in shapes]
    return write_weights(tmp_path / "w.caffemodel", layers)


def test_the_weights_tell_the_picture(tmp_path: Path) -> None:
    weights = alexnet_weights(tmp_path, 4 * 6 * 6)
    assert guessed(data() + NARROW_ALEXNET + LOSS, weights=weights) == {"data": (6, 1, 227, 227)}
    (guess,) = guess_shapes_of(parse(data() + NARROW_ALEXNET), None, "bvlc", None, weights)
    assert guess.why == "fc6 has 144 inputs"
    assert str(guess) == "data is 6x1x227x227 (fc6 has 144 inputs)"


def test_weights_of_another_size_tell_another_picture(tmp_path: Path) -> None:
    assert guessed(data() + NARROW_ALEXNET, weights=alexnet_weights(tmp_path, 4 * 3 * 3))["data"][2:] == (131, 131)


def test_weights_that_no_picture_fits_tell_nothing(tmp_path: Path) -> None:
    (guess,) = guess_shapes_of(
        parse(data() + NARROW_ALEXNET), None, "bvlc", None, alexnet_weights(tmp_path, 4 * 6 * 6 + 1)
    )
    assert "nothing tells its size" in guess.why


@pytest.mark.parametrize(
    ("layer_text", "shape"),
    [
        (data(transform="mean_value: 1"), (6, 1, 224, 224)),
        (data(transform="mean_value: 1 mean_value: 2 mean_value: 3"), (6, 3, 224, 224)),
        (data(transform="force_gray: true"), (6, 1, 224, 224)),
        (data("source: 'examples/cifar10/cifar10_train_lmdb'"), (6, 3, 32, 32)),
        (data(transform="mean_file: 'data/ilsvrc12/imagenet_mean.binaryproto'"), (6, 3, 256, 256)),
    ],
)
def test_the_data_layer_tells_in_passing(layer_text: str, shape: tuple[int, ...]) -> None:
    conv = layer("c", "Convolution", "data", "fc6", "convolution_param { num_output: 2 kernel_size: 5 }")
    assert guessed(layer_text + conv) == {"data": shape}


def test_another_phase_tells() -> None:
    text = data(phase="TEST") + data(phase="TRAIN", transform="crop_size: 30") + NARROW_ALEXNET.split("\n")[0]
    (guess,) = guess_shapes_of(parse(text), NetState("TEST"), "bvlc")
    assert (guess.shape, guess.why) == ((6, 3, 30, 30), "crop_size of its layer in another phase")


def test_a_picture_that_is_too_large_for_the_layers_is_tried_smaller() -> None:
    text = data() + layer("f", "Reshape", "data", "f", "reshape_param { shape { dim: 6 dim: 3 dim: 32 dim: 32 } }")
    text += layer("c", "Convolution", "f", "c", "convolution_param { num_output: 2 kernel_size: 5 }")
    assert guessed(text) == {"data": (6, 3, 32, 32)}


# Labels


def sources(*tops: str) -> str:
    return layer("data", "HDF5Data", "", " ".join(tops), "hdf5_data_param { source: 'x' batch_size: 6 }")


CONV = layer("c", "Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 8 stride: 8 }")


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (layer("l", "SoftmaxWithLoss", "c t", "l"), (6, 1, 28, 28)),
        (layer("l", "Accuracy", "c t", "l"), (6, 1, 28, 28)),
        (layer("l", "EuclideanLoss", "c t", "l"), (6, 4, 28, 28)),
        (layer("l", "SigmoidCrossEntropyLoss", "c t", "l"), (6, 4, 28, 28)),
        (layer("l", "Eltwise", "c t", "l"), (6, 4, 28, 28)),
        (ip("f", "c", "f", 9) + layer("l", "SoftmaxWithLoss", "f t", "l"), (6,)),
        (ip("f", "c", "f", 9) + layer("l", "HingeLoss", "f t", "l"), (6,)),
        (layer("p", "Power", "t", "p") + layer("l", "EuclideanLoss", "c p", "l"), (6, 4, 28, 28)),
        (layer("s", "Silence", "t"), (6,)),
    ],
)
def test_the_layer_that_reads_a_label_tells_its_shape(loss: str, shape: tuple[int, ...]) -> None:
    assert guessed(sources("data", "t") + CONV + loss) == {"data": (6, 3, 224, 224), "t": shape}


def test_a_label_in_pieces_is_as_long_as_they_are() -> None:
    cut = layer("s", "Slice", "t", "a b", "slice_param { axis: 1 slice_point: 1 }")
    scores = ip("f", "c", "f", 1) + ip("g", "c", "g", 3)
    both = layer("l", "EuclideanLoss", "f a", "l") + layer("m", "EuclideanLoss", "g b", "m")
    assert guessed(sources("data", "t") + cut + CONV + scores + both)["t"] == (6, 4)


def test_a_piece_that_nobody_reads_is_as_long_as_the_points_say() -> None:
    cut = layer("s", "Slice", "t", "a b", "slice_param { axis: 1 slice_point: 2 }") + layer("q", "Silence", "a")
    loss = ip("f", "c", "f", 3) + layer("l", "EuclideanLoss", "f b", "l")
    assert guessed(sources("data", "t") + cut + CONV + loss)["t"] == (6, 5)


def test_two_pictures_of_one_blob() -> None:
    cut = layer("s", "Slice", "data", "a b", "slice_param { slice_dim: 1 slice_point: 1 }")
    convs = [
        layer(n, "Convolution", n, f"{n}1", "convolution_param { num_output: 2 kernel_size: 5 }") for n in ("a", "b")
    ]
    loss = layer("l", "ContrastiveLoss", "f g label", "l")
    text = data("source: 'mnist_siamese'") + cut + "".join(convs) + ip("f", "a1", "f", 2) + ip("g", "b1", "g", 2) + loss
    assert guessed(text) == {"data": (6, 2, 28, 28)}


def test_labels_of_a_fork_that_are_more_than_one_number() -> None:
    text = data() + CONV + layer("l", "EuclideanLoss", "c label", "l")
    assert guessed(text) == {"data": (6, 3, 224, 224), "label": (6, 4, 28, 28)}


def test_a_sequence_says_whether_it_goes_on() -> None:
    text = sources("words", "cont") + layer("e", "Embed", "words", "e", "embed_param { input_dim: 9 num_output: 4 }")
    text += layer("l", "LSTM", "e cont", "l", "recurrent_param { num_output: 3 }")
    assert guessed(text) == {"words": (6, 1), "cont": (6, 1)}


def test_what_stays_the_same_tells_how_many_streams_there_are() -> None:
    """As in LRCN: a sentence for each picture."""
    text = sources("words", "cont") + layer("e", "Embed", "words", "e", "embed_param { input_dim: 9 num_output: 4 }")
    pictures = 'image_data_param { source: "list" batch_size: 4 new_height: 8 new_width: 8 }'
    text += layer("p", "ImageData", "", "picture label", pictures)
    text += layer("f", "InnerProduct", "picture", "f", "inner_product_param { num_output: 5 }")
    text += layer("l", "LSTM", "e cont f", "l", "recurrent_param { num_output: 3 }")
    assert guessed(text) == {"words": (6, 4), "cont": (6, 4)}


def test_coordinates_and_facts_of_a_pose() -> None:
    text = layer(
        "data",
        "RandomImageData2",
        "",
        "data coords facts",
        "random_image_data2_param { batch_size: 6 label_num: 8 max_size: 64 }",
    )
    text += layer("m", "CoordsToBboxesMasks", "coords facts", "m", "coord_to_bbox_masks_param { top_id: 0 bottom_id: 1 "
                  "top_id2: 2 bottom_id2: 3 value: 1 }") + CONV  # fmt: skip
    parsed = parse_message(text, dialect="zimenglan-sysu-512/pose_action_caffe")
    message = upgrade_net(parsed.message, parsed.schema).message
    net = net_of(message, dialect=parsed.schema.name, guess_shapes=True)
    assert {guess.blob: guess.shape for guess in net.guessed} == {
        "data": (6, 3, 64, 64),
        "coords": (6, 8),
        "facts": (6, 5),
    }


# What is made of guesses


def test_nothing_is_guessed_where_all_is_told() -> None:
    text = input_layer("data", 2, 3, 9, 9) + CONV
    assert guess_shapes_of(parse(text), None, "bvlc") == ()
    assert net_of(parse(text), guess_shapes=True).guessed == ()


def test_what_the_user_gives_is_no_guess() -> None:
    net = net_of(parse(sources("data", "t") + CONV + LOSS.replace("fc6 label", "c t").replace('"fc6"', '"c"').replace(
        '"label"', '"t"')), input_shapes={"data": (2, 3, 16, 24)}, guess_shapes=True)  # fmt: skip
    assert net.input_shapes == {"data": (2, 3, 16, 24), "t": (2, 1, 2, 3)}
    assert [guess.blob for guess in net.guessed] == ["t"]


def test_an_input_that_no_layer_brings() -> None:
    conv = layer("c", "Convolution", "image", "c", "convolution_param { num_output: 2 kernel_size: 5 }")
    with pytest.raises(GraphError, match=r"have its shape guessed \(--guess-shapes\)"):
        net_of(parse(conv))
    assert guessed(conv) == {"image": (1, 3, 224, 224)}


def test_without_being_asked_nothing_is_guessed_but_suggested(tmp_path: Path) -> None:
    weights = alexnet_weights(tmp_path, 4 * 6 * 6)
    with pytest.raises(InputShapeError) as caught:
        net_of(parse(data() + NARROW_ALEXNET + LOSS), weights=weights)
    assert list(caught.value.guesses) == [Guess("data", (6, 1, 227, 227), "fc6 has 144 inputs")]
    assert str(caught.value).endswith(
        "; probably data is 6x1x227x227 (fc6 has 144 inputs): --guess-shapes (guess_shapes=True) accepts that, as does "
        "--input-shape data=6,1,227,227"
    )


def test_an_error_behind_guesses_says_what_was_guessed() -> None:
    text = sources("data") + CONV + layer("r", "Reshape", "c", "r", "reshape_param { shape { dim: 7 } }")
    with pytest.raises(LayerError, match=r"with guesses \(data is 6x3x224x224 .*\): layer 'r' \(Reshape\)"):
        net_of(parse(text), guess_shapes=True)


def test_a_training_network_says_its_phase() -> None:
    with pytest.raises(GraphError, match=r"not part of phase TEST level 0; the network is there for phase TRAIN: --ph"):
        net_of(parse(data(phase="TRAIN") + NARROW_ALEXNET), NetState("TEST"))


def test_guesses_are_kept_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(data() + NARROW_ALEXNET + LOSS)
    weights = alexnet_weights(tmp_path, 4 * 6 * 6)
    conversion = caffe_compat.convert(tmp_path / "net.prototxt", weights, guess_shapes=True)
    expected = (Guess("data", (6, 1, 227, 227), "fc6 has 144 inputs"),)
    assert conversion.net.guessed == expected
    assert f"guessed: {expected[0]}" in conversion.warnings
    caffe_compat.save(conversion, tmp_path / "net.pt")
    assert read_checkpoint(tmp_path / "net.pt").guessed == expected
    loaded = caffe_compat.load(tmp_path / "net.pt")
    assert loaded.guessed == expected
    assert pickle.loads(pickle.dumps(loaded)).guessed == copy.deepcopy(loaded).guessed == expected
    assert loaded.part(["pool1"]).guessed == expected
    assert loaded.part(["fc6"], ["pool5"]).guessed == ()
    with pytest.raises(UsageError, match="was converted with its own guess_shapes"):
        caffe_compat.load(tmp_path / "net.pt", guess_shapes=True)
    with pytest.warns(CaffeCompatWarning, match="guessed: data is 6x1x227x227"):
        caffe_compat.load(tmp_path / "net.prototxt", weights, guess_shapes=True)


# Shapes of pictures without their batch


@pytest.mark.parametrize("type_", ["Data", "ImageData"])
def test_the_batch_is_the_layers(type_: str) -> None:
    params = {"Data": "data_param", "ImageData": "image_data_param"}[type_]
    text = layer("data", type_, "", "data label", f"{params} {{ batch_size: 6 }}") + CONV
    assert net_of(parse(text), input_shapes={"data": (3, 16, 24)}).input_shapes["data"] == (6, 3, 16, 24)
    assert net_of(parse(text), input_shapes={"data": (2, 3, 16, 24)}).input_shapes["data"] == (2, 3, 16, 24)


def test_the_batch_is_that_of_a_declared_input() -> None:
    net = net_of(parse(input_layer("data", 5, 3, 16, 16) + CONV), input_shapes={"data": (3, 24, 32)})
    assert net.input_shapes == {"data": (5, 3, 24, 32)}


def test_three_axes_of_a_table_are_three_axes() -> None:
    text = sources("data") + layer("p", "Power", "data", "p")
    assert net_of(parse(text), input_shapes={"data": (3, 16, 24)}).input_shapes == {"data": (3, 16, 24)}


@pytest.mark.parametrize(
    ("text", "dialect", "shapes"),
    [
        (
            'type: "ImageGtData" image_gt_data_param { batch_size: 2 resize_width: 640 resize_height: 200 '
            "crop_width: 300 crop_height: 180 downsample_rate: 8 downsample_rate: 16 }",
            "zhaoweicai/mscnn",
            [(2, 3, 180, 300), (2, 6, 22, 37), (2, 6, 11, 18), (1, 7, 1, 1)],
        ),
        (
            'type: "DetectionData" detection_data_param { batch_size: 2 short_size: 600 long_size: 1000 stride: 16 '
            "stride: 32 }",
            "zhaoweicai/cascade-rcnn",
            [(2, 3, 1000, 600), (2, 6, 63, 38), (2, 6, 31, 19), (1, 8, 1, 1)],
        ),
        (
            'type: "DetectionData" detection_data_param { batch_size: 2 resize_ratio: 0.5 stride: 16 }',
            "zhaoweicai/cascade-rcnn",
            [None] * 4,
        ),
    ],
)
def test_data_layers_of_fields_tell_their_shapes(text: str, dialect: str, shapes: list[tuple[int, ...] | None]) -> None:
    tops = " ".join(f'top: "t{i}"' for i in range(4))
    parsed = parse_message(f'layer {{ name: "data" {text} {tops} }}', dialect=dialect)
    assert told_shapes(parsed.message.layer[0]) == shapes
