"""SSD-300, YOLOv2, YOLOv3, FlowNetC and CRNN end to end: narrow ones, and as they were published (slow).

What their last layers give is checked by what it means; each layer alone is compared with outputs of its fork.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.network.test_faster_rcnn import convolution, pooling, relu, vgg16
from tests.networks import input_layer, ip, layer

NARROW = [pytest.param(16, id="narrow"), pytest.param(1, id="whole", marks=pytest.mark.slow)]
YOLO = "eric612/MobileNet-YOLO"
CLASSES = 21


def built(text: str, dialect: str | None = None) -> CaffeNet:
    """The network with seeded weights; no layer of it is unproven."""
    parsed = parse_message(text, dialect=dialect)
    net = CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name).materialize(1)
    assert not [note for note in net.notes if "never compared with outputs of real Caffe" in note]
    return net


def ran(net: CaffeNet, device: torch.device, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    given = {name: torch.randn(shape, generator=generator) * scale for name, shape in net.input_shapes.items()}
    return net.to(device).run({name: x.to(device) for name, x in given.items()}, blobs="all")


def check_boxes(rows: Tensor, classes: int, least: float) -> None:
    """Rows (image, class, confidence, x1, y1, x2, y2)."""
    assert rows.shape[:2] == (1, 1)
    assert rows.shape[3] == 7
    found = rows[0, 0]
    assert len(found) > 1
    assert (found[:, 0] == 0).all()
    assert ((found[:, 1] >= 1) & (found[:, 1] <= classes)).all()
    assert ((found[:, 2] >= least) & (found[:, 2] <= 1)).all()
    assert (found[:, 5:] > found[:, 3:5]).all()


# SSD-300


def ssd300(narrow: int) -> str:
    """On VGG16 with dilated fc6; six maps with 8,732 boxes."""
    text, _ = vgg16(narrow)
    text += pool5()
    text += convolution("fc6", "pool5", 1024 // narrow, 3, pad=6, dilation=6) + relu("fc6")
    text += convolution("fc7", "fc6", 1024 // narrow, 1) + relu("fc7")
    below = "fc7"
    for i, (inner, outer, how) in enumerate(
        ((256, 512, {"stride": 2}), (128, 256, {"stride": 2}), (128, 256, {"pad": 0}), (128, 256, {"pad": 0})), 6
    ):
        text += convolution(f"conv{i}_1", below, inner // narrow, 1) + relu(f"conv{i}_1")
        text += convolution(f"conv{i}_2", f"conv{i}_1", outer // narrow, 3, **how) + relu(f"conv{i}_2")
        below = f"conv{i}_2"
    text += layer(
        "norm",
        "Normalize",
        "conv4_3",
        "norm",
        'norm_param { across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false }',
    )
    sizes = (30, 60, 111, 162, 213, 264, 315)
    maps = ("norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2")
    steps = (8, 16, 32, 64, 100, 300)
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    for name, least, most, step, ratio in zip(maps, sizes, sizes[1:], steps, ratios, strict=False):
        boxes = 2 + 2 * len(ratio)
        for kind, count in (("loc", 4), ("conf", CLASSES)):
            text += convolution(f"{name}_{kind}", name, boxes * count, 3, std=0.001 if kind == "loc" else 0.02)
            order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
            text += layer(f"{name}_{kind}_perm", "Permute", f"{name}_{kind}", f"{name}_{kind}_perm", order)
            text += layer(f"{name}_{kind}_flat", "Flatten", f"{name}_{kind}_perm", f"{name}_{kind}_flat")
        told = " ".join(f"aspect_ratio: {value}" for value in ratio)
        told += f" min_size: {least} max_size: {most} step: {step} flip: true clip: false"
        told += " variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5"
        text += layer(f"{name}_prior", "PriorBox", f"{name} data", f"{name}_prior", f"prior_box_param {{ {told} }}")
    for kind, axis in (("loc_flat", 1), ("conf_flat", 1), ("prior", 2)):
        bottoms = " ".join(f"{name}_{kind}" for name in maps)
        text += layer(kind, "Concat", bottoms, kind, f"concat_param {{ axis: {axis} }}")
    shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {CLASSES} }} }}"
    text += layer("scores", "Reshape", "conf_flat", "scores", shape)
    text += layer("prob", "Softmax", "scores", "prob", "softmax_param { axis: 2 }") + layer(
        "flat", "Flatten", "prob", "flat", "flatten_param { axis: 1 }"
    )
    told = f"""num_classes: {CLASSES} share_location: true background_label_id: 0 code_type: CENTER_SIZE keep_top_k: 50
      nms_param {{ nms_threshold: 0.45 top_k: 100 }} confidence_threshold: 0.05"""
    found = layer("found", "DetectionOutput", "loc_flat flat prior", "found", f"detection_output_param {{ {told} }}")
    return input_layer("data", 1, 3, 300, 300) + text + found


def pool5() -> str:
    return """layer { name: "pool5" type: "Pooling" bottom: "conv5_3" top: "pool5"
      pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 } }\n"""


@pytest.mark.parametrize("narrow", NARROW)
def test_ssd300(narrow: int, device: torch.device) -> None:
    values = ran(built(ssd300(narrow), "weiliu89/caffe@ssd"), device, scale=50)
    assert [values[name].shape[2] for name in ("norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2")] == [
        *(38, 19, 10, 5, 3, 1)
    ]
    assert values["prior"].shape == (1, 2, 8732 * 4)
    assert values["prob"].shape == (1, 8732, CLASSES)
    check_boxes(values["found"], CLASSES - 1, 0.05)
    # Every box that was found is one that its prior box and its offsets make.
    prior, variance = values["prior"][0].reshape(2, -1, 4)
    centre, size = (prior[:, :2] + prior[:, 2:]) / 2, prior[:, 2:] - prior[:, :2]
    moved = values["loc_flat"].reshape(-1, 4) * variance
    middle, half = centre + moved[:, :2] * size, size * moved[:, 2:].exp() / 2
    boxes = torch.cat([middle - half, middle + half], 1)
    for row in values["found"][0, 0][:10]:
        near = (boxes - row[3:]).abs().amax(1)
        assert near.min() < 1e-4
        candidates = values["prob"][0, near < 1e-4, int(row[1])]
        assert (candidates - row[2]).abs().min() < 1e-5


# YOLO


def normed(name: str, bottom: str, outputs: int, size: int, stride: int = 1) -> str:
    """A convolution with normalisation and a leaky ReLU, as Darknet has them."""
    text = convolution(name, bottom, outputs, size, stride=stride)
    text += layer(f"bn_{name}", "BatchNorm", name, name, "batch_norm_param { use_global_stats: false }")
    text += layer(f"scale_{name}", "Scale", name, name, "scale_param { bias_term: true filler { value: 1 } }")
    return text + layer(f"act_{name}", "ReLU", name, name, "relu_param { negative_slope: 0.1 }")


def numbers(name: str, values: Sequence[float]) -> str:
    return " ".join(f"{name}: {value}" for value in values)


def yolov2(narrow: int) -> str:
    """Darknet-19, the map before the last pooling beside the last one."""
    blocks = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
    text, below, early = "", "data", ""
    for b, block in enumerate(blocks):
        for i, outputs in enumerate(block):
            text += normed(f"conv{b}_{i}", below, outputs // narrow, 1 if i % 2 else 3)
            below = f"conv{b}_{i}"
        early = below if b == 4 else early
        if b < 5:
            text += pooling(f"pool{b}", below, 2)
            below = f"pool{b}"
    text += normed("six", below, 1024 // narrow, 3) + normed("seven", "six", 1024 // narrow, 3)
    text += normed("thin", early, 64 // narrow, 1)
    text += layer("reorg", "Reorg", "thin", "reorg", "reorg_param { stride: 2 }")
    text += layer("both", "Concat", "reorg seven", "both") + normed("eight", "both", 1024 // narrow, 3)
    text += convolution("region", "eight", 125, 1)
    biases = (1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071)
    told = f"num_classes: 20 coords: 4 confidence_threshold: 0.05 nms_threshold: 0.4 {numbers('biases', biases)}"
    found = layer("found", "YoloDetectionOutput", "region", "found", f"yolo_detection_output_param {{ {told} }}")
    return input_layer("data", 1, 3, 416, 416) + text + found


def yolov3(narrow: int) -> str:
    """Darknet-53, and boxes from maps of 13, 26 and 52 cells a side."""
    text = normed("first", "data", 32 // narrow, 3)
    below, kept = "first", []
    for b, (outputs, count) in enumerate(((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))):
        text += normed(f"down{b}", below, outputs // narrow, 3, stride=2)
        below = f"down{b}"
        for i in range(count if narrow == 1 else 1):
            text += normed(f"in{b}_{i}", below, outputs // 2 // narrow, 1)
            text += normed(f"out{b}_{i}", f"in{b}_{i}", outputs // narrow, 3)
            text += layer(f"sum{b}_{i}", "Eltwise", f"{below} out{b}_{i}", f"sum{b}_{i}")
            below = f"sum{b}_{i}"
        kept.append(below)
    heads = []
    for b, outputs in zip((4, 3, 2), (512, 256, 128), strict=True):
        for i in range(3):
            text += normed(f"head{b}_{i}a", below, outputs // narrow, 1)
            below = f"head{b}_{i}a"
            if i < 2:
                text += normed(f"head{b}_{i}b", below, 2 * outputs // narrow, 3)
                below = f"head{b}_{i}b"
        text += normed(f"last{b}", below, 2 * outputs // narrow, 3) + convolution(f"map{b}", f"last{b}", 75, 1)
        heads.append(f"map{b}")
        if b > 2:
            text += normed(f"thin{b}", below, outputs // 2 // narrow, 1)
            text += layer(f"up{b}", "Upsample", f"thin{b}", f"up{b}", "upsample_param { scale: 2 }")
            text += layer(f"join{b}", "Concat", f"up{b} {kept[b - 1]}", f"join{b}")
            below = f"join{b}"
    told = "num_classes: 20 num_box: 3 mask_group_num: 3 confidence_threshold: 0.7 nms_threshold: 0.4"
    biases = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
    told += f" {numbers('biases', biases)} {numbers('mask', (6, 7, 8, 3, 4, 5, 0, 1, 2))}"
    told += f" {numbers('anchors_scale', (32, 16, 8))}"
    found = layer("found", "Yolov3DetectionOutput", " ".join(heads), "found", f"yolov3_detection_output_param {{ {told} }}")  # fmt: skip  # noqa: E501
    return input_layer("data", 1, 3, 416, 416) + text + found


@pytest.mark.parametrize("narrow", NARROW)
def test_yolov2(narrow: int, device: torch.device) -> None:
    values = ran(built(yolov2(narrow), YOLO), device)
    assert values["region"].shape == (1, 125, 13, 13)
    check_boxes(values["found"], 20, 0.05)
    scores = values["region"].reshape(5, 25, -1)
    best = (scores[:, 5:].softmax(1).amax(1) * scores[:, 4].sigmoid()).max()
    assert float(values["found"][0, 0, 0, 2]) == pytest.approx(float(best), rel=1e-5)


@pytest.mark.parametrize("narrow", NARROW)
def test_yolov3(narrow: int, device: torch.device) -> None:
    values = ran(built(yolov3(narrow), YOLO), device)
    assert [values[f"map{b}"].shape for b in (4, 3, 2)] == [(1, 75, side, side) for side in (13, 26, 52)]
    check_boxes(values["found"], 20, 0.7)
    maps = [values[f"map{b}"].reshape(3, 25, -1) for b in (4, 3, 2)]
    best = max(float((x[:, 5:].sigmoid() * x[:, 4:5].sigmoid()).max()) for x in maps)
    assert float(values["found"][0, 0, 0, 2]) == pytest.approx(best, rel=1e-5)


# FlowNetC


def leaky(blob: str) -> str:
    return layer(f"relu_{blob}", "ReLU", blob, blob, "relu_param { negative_slope: 0.1 }")


def flownet_c(narrow: int, height: int, width: int) -> str:
    """Two towers, their correlation, and flow refined from map to map."""
    text = input_layer("img0", 1, 3, height, width) + input_layer("img1", 1, 3, height, width)
    for tower in "ab":
        below = f"img{'ab'.index(tower)}"
        for name, outputs, size in (("conv1", 64, 7), ("conv2", 128, 5), ("conv3", 256, 5)):
            shared = f'param {{ name: "{name}_w" }} param {{ name: "{name}_b" }}'
            made = convolution(f"{name}{tower}", below, outputs // narrow, size, stride=2)
            text += made.replace("convolution_param", f"{shared} convolution_param") + leaky(f"{name}{tower}")
            below = f"{name}{tower}"
    told = "pad: 20 kernel_size: 1 max_displacement: 20 stride_1: 1 stride_2: 2"
    text += layer("corr", "Correlation", "conv3a conv3b", "corr", f"correlation_param {{ {told} }}") + leaky("corr")
    text += convolution("redir", "conv3a", 32 // narrow, 1) + leaky("redir")
    text += layer("both", "Concat", "redir corr", "both")
    below = "both"
    for name, outputs, stride in (
        *(("conv3_1", 256, 1), ("conv4", 512, 2), ("conv4_1", 512, 1), ("conv5", 512, 2), ("conv5_1", 512, 1)),
        *(("conv6", 1024, 2), ("conv6_1", 1024, 1)),
    ):
        text += convolution(name, below, outputs // narrow, 3, stride=stride) + leaky(name)
        below = name
    text += convolution("flow6", below, 2, 3)
    flow = "flow6"
    for level, outputs, skip in ((5, 512, "conv5_1"), (4, 256, "conv4_1"), (3, 128, "conv3_1"), (2, 64, "conv2a")):
        for name, bottom, count in ((f"deconv{level}", below, outputs // narrow), (f"up{level}", flow, 2)):
            made = convolution(name, bottom, count, 4, stride=2, pad=1)
            text += made.replace('"Convolution"', '"Deconvolution"')
        text += leaky(f"deconv{level}")
        text += layer(f"join{level}", "Concat", f"{skip} deconv{level} up{level}", f"join{level}")
        below, flow = f"join{level}", f"flow{level}"
        text += convolution(flow, below, 2, 3)
    told = f"height: {height} width: {width} type: LINEAR antialias: false"
    text += layer("scaled", "Eltwise", flow, "scaled", "eltwise_param { operation: SUM coeff: 20 }")
    return text + layer("flow", "Resample", "scaled", "flow", f"resample_param {{ {told} }}")


@pytest.mark.parametrize("narrow", NARROW)
def test_flownet_c(narrow: int, device: torch.device) -> None:
    net = built(flownet_c(narrow, 64, 128), "lmb-freiburg/flownet2")
    values = ran(net, device)
    assert values["corr"].shape == (1, 441, 8, 16)
    assert [values[f"flow{level}"].shape[2:] for level in (6, 5, 4, 3, 2)] == [(64 >> n, 128 >> n) for n in range(6, 1, -1)]  # fmt: skip  # noqa: E501
    assert values["flow"].shape == (1, 2, 64, 128)
    assert torch.isfinite(values["flow"]).all()
    # The middle channel compares each place with itself.
    a, b = values["conv3a"], values["conv3b"]
    same = torch.nn.functional.leaky_relu((a * b).mean(1), 0.1)
    torch.testing.assert_close(values["corr"][:, 220], same, rtol=1e-4, atol=1e-5)


# CRNN


def crnn(narrow: int) -> str:
    """Convolutions down to a row, two LSTMs one after the other, and a class for each step."""
    text, below = "", "data"
    for i, (outputs, pool) in enumerate(
        ((64, (2, 2)), (128, (2, 2)), (256, ()), (256, (2, 1)), (512, ()), (512, (2, 1)))
    ):
        text += convolution(f"conv{i}", below, outputs // narrow, 3) + relu(f"conv{i}")
        below = f"conv{i}"
        if pool:
            told = f"pool: MAX kernel_h: 2 kernel_w: {pool[1]} stride_h: 2 stride_w: {pool[1]}"
            text += layer(f"pool{i}", "Pooling", below, f"pool{i}", f"pooling_param {{ {told} }}")
            below = f"pool{i}"
    text += convolution("last", below, 512 // narrow, 2, pad=0) + relu("last")
    order = "permute_param { order: 3 order: 0 order: 1 order: 2 }"
    text += layer("steps", "Permute", "last", "steps", order)
    text += layer("rows", "Flatten", "steps", "rows", "flatten_param { axis: 2 }")
    below = "rows"
    for name in ("lstm1", "lstm2"):
        told = (
            f'recurrent_param {{ num_output: {256 // narrow} weight_filler {{ type: "uniform" min: -0.2 max: 0.2 }} }}'
        )
        text += layer(name, "LSTM", f"{below} cont", name, told)
        below = name
    text += ip("scores", below, "scores", 37, "").replace("num_output", "axis: 2 weight_filler { type: 'xavier' } num_output")  # fmt: skip  # noqa: E501
    text += layer("prob", "Softmax", "scores", "prob", "softmax_param { axis: 2 }")
    told = "ctc_decoder_param { blank_index: 36 }"
    return input_layer("data", 2, 1, 32, 100) + input_layer("cont", 24, 2) + text + layer("found", "CTCGreedyDecoder", "prob", "found", told)  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("narrow", NARROW)
def test_crnn(narrow: int, device: torch.device) -> None:
    net = built(crnn(narrow), "yuqj1991/caffe_train").to(device)
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(2, 1, 32, 100, generator=generator).to(device)
    cont = torch.ones(24, 2, device=device)
    cont[0] = 0
    values = net.run({"data": data, "cont": cont}, blobs="all")
    assert values["prob"].shape == (24, 2, 37)
    for stream in range(2):
        best = values["prob"][:, stream].argmax(1).tolist()
        expected = [c for i, c in enumerate(best) if c != 36 and (i == 0 or c != best[i - 1])]
        found = values["found"].reshape(2, -1)[stream].tolist()
        assert found[: len(expected)] == expected
        assert set(found[len(expected) :]) <= {-1, 36}
