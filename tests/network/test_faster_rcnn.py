"""Faster R-CNN (VGG16 and ZF) and R-FCN end to end, for testing and for training, with narrow layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.python_config import configured
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net

CLASSES = 21
# Others that fit the networks for training have other gradients of ROIPooling.
DIALECT = "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445"
SIZE = (224, 288)
# What the projects' own experiments set, and fewer boxes.
END_TO_END: dict[str, dict[str, float]] = {
    "TRAIN": {"HAS_RPN": True, "IMS_PER_BATCH": 1, "BBOX_NORMALIZE_TARGETS_PRECOMPUTED": True}
}
END_TO_END["TRAIN"] |= {"BG_THRESH_LO": 0.0, "RPN_POST_NMS_TOP_N": 200, "BATCH_SIZE": 32}
OBJECTS = torch.tensor([[20.0, 30, 150, 170, 3], [120, 60, 280, 200, 20]])


def convolution(name: str, bottom: str, outputs: int, size: int, std: float = 0, **more: int) -> str:
    more = {"pad": size // 2, **more}
    options = " ".join(f"{key}: {value}" for key, value in more.items())
    filler = f'weight_filler {{ type: "gaussian" std: {std} }}' if std else 'weight_filler { type: "msra" }'
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
      convolution_param {{ num_output: {outputs} kernel_size: {size} {options} {filler} }} }}\n"""


def relu(blob: str) -> str:
    return f'layer {{ name: "relu_{blob}" type: "ReLU" bottom: "{blob}" top: "{blob}" }}\n'


def pooling(name: str, bottom: str, size: int, pad: int = 0) -> str:
    return f"""layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}"
      pooling_param {{ pool: MAX kernel_size: {size} stride: 2 pad: {pad} }} }}\n"""


def vgg16(narrow: int) -> tuple[str, str]:
    """The convolutions, with a part of the channels, and the blob that they end in."""
    text, below = "", "data"
    for block, (outputs, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for i in range(1, count + 1):
            name = f"conv{block}_{i}"
            text += convolution(name, below, outputs // narrow, 3) + relu(name)
            below = name
        if block < 5:
            text += pooling(f"pool{block}", below, 2)
            below = f"pool{block}"
    return text, below


def zf(narrow: int) -> tuple[str, str]:
    text, below = "", "data"
    for i, (outputs, size, stride) in enumerate(((96, 7, 2), (256, 5, 2)), 1):
        name = f"conv{i}"
        text += convolution(name, below, outputs // narrow, size, stride=stride) + relu(name)
        text += f"""layer {{ name: "norm{i}" type: "LRN" bottom: "{name}" top: "norm{i}"
          lrn_param {{ local_size: 3 alpha: 0.00005 beta: 0.75 norm_region: WITHIN_CHANNEL engine: CAFFE }} }}\n"""
        text += pooling(f"pool{i}", f"norm{i}", 3, pad=1)
        below = f"pool{i}"
    for i, outputs in ((3, 384), (4, 384), (5, 256)):
        text += convolution(f"conv{i}", below, outputs // narrow, 3) + relu(f"conv{i}")
        below = f"conv{i}"
    return text, below


def python(name: str, cls: str, bottoms: list[str], tops: list[str], told: str) -> str:
    """A layer of class ``cls``, with its module in front."""
    module, _, cls = cls.rpartition(".")
    wiring = "".join(f' bottom: "{blob}"' for blob in bottoms) + "".join(f' top: "{blob}"' for blob in tops)
    return f"""layer {{ name: "{name}" type: "Python" {wiring}
      python_param {{ module: "{module}" layer: "{cls}" param_str: "{told}" }} }}\n"""


def reshape(name: str, bottom: str, channels: int) -> str:
    dims = f"dim: 0 dim: {channels} dim: -1 dim: 0"
    return f"""layer {{ name: "{name}" type: "Reshape" bottom: "{bottom}" top: "{name}"
      reshape_param {{ shape {{ {dims} }} }} }}\n"""


def smooth_l1(name: str, bottoms: list[str], sigma: float) -> str:
    wiring = "".join(f' bottom: "{blob}"' for blob in bottoms)
    return f"""layer {{ name: "{name}" type: "SmoothL1Loss" {wiring} top: "{name}" loss_weight: 1
      smooth_l1_loss_param {{ sigma: {sigma} }} }}\n"""


def proposals(features: str, train: bool) -> str:
    """The region proposal network, with its losses if it is trained; its boxes are the blob ``rois``."""
    text = convolution("rpn", features, 32, 3) + relu("rpn")
    text += convolution("rpn_cls_score", "rpn", 18, 1, std=0.01)
    text += convolution("rpn_bbox_pred", "rpn", 36, 1, std=0.0005)
    text += reshape("rpn_scores", "rpn_cls_score", 2)
    if train:
        tops = ["rpn_labels", "rpn_targets", "rpn_inside", "rpn_outside"]
        bottoms = ["rpn_cls_score", "gt_boxes", "im_info", "data"]
        text += python("rpn-data", "rpn.anchor_target_layer.AnchorTargetLayer", bottoms, tops, "'feat_stride': 16")
        text += """layer { name: "rpn_loss_cls" type: "SoftmaxWithLoss" bottom: "rpn_scores" bottom: "rpn_labels"
          top: "rpn_loss_cls" propagate_down: 1 propagate_down: 0 loss_weight: 1
          loss_param { ignore_label: -1 normalize: true } }\n"""
        text += smooth_l1("rpn_loss_bbox", ["rpn_bbox_pred", *tops[1:]], 3)
    text += 'layer { name: "rpn_prob" type: "Softmax" bottom: "rpn_scores" top: "rpn_prob" }\n'
    text += reshape("rpn_probabilities", "rpn_prob", 18)
    bottoms = ["rpn_probabilities", "rpn_bbox_pred", "im_info"]
    name = "proposed" if train else "rois"
    text += python("proposal", "rpn.proposal_layer.ProposalLayer", bottoms, [name], "'feat_stride': 16")
    if train:
        tops = ["rois", "labels", "targets", "inside", "outside"]
        told = f"'num_classes': {CLASSES}"
        text += python(
            "roi-data", "rpn.proposal_target_layer.ProposalTargetLayer", ["proposed", "gt_boxes"], tops, told
        )
    return text


def head(features: str, side: int, narrow: int, train: bool) -> str:
    text = f"""layer {{ name: "roi_pool" type: "ROIPooling" bottom: "{features}" bottom: "rois" top: "roi_pool"
      roi_pooling_param {{ pooled_w: {side} pooled_h: {side} spatial_scale: 0.0625 }} }}\n"""
    below = "roi_pool"
    for name, outputs in (("fc6", 4096 // narrow), ("fc7", 4096 // narrow)):
        text += inner_product(name, below, outputs) + relu(name)
        text += f'layer {{ name: "drop_{name}" type: "Dropout" bottom: "{name}" top: "{name}" }}\n'
        below = name
    text += inner_product("cls_score", "fc7", CLASSES) + inner_product("bbox_pred", "fc7", 4 * CLASSES)
    return text + (losses() if train else softmax())


def inner_product(name: str, bottom: str, outputs: int) -> str:
    return f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
      inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.001 }} }} }}\n"""


def losses() -> str:
    text = """layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels"
      propagate_down: 1 propagate_down: 0 top: "loss_cls" loss_weight: 1 }\n"""
    return text + smooth_l1("loss_bbox", ["bbox_pred", "targets", "inside", "outside"], 1)


def softmax() -> str:
    return 'layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob" }\n'


def inputs(train: bool) -> str:
    if train:
        tops = ["data", "im_info", "gt_boxes"]
        return python("input-data", "roi_data_layer.layer.RoIDataLayer", [], tops, f"'num_classes': {CLASSES}")
    sizes = ((1, 3, *SIZE), (1, 3))
    return "".join(
        f'input: "{name}" input_shape {{ {" ".join(f"dim: {dim}" for dim in size)} }}\n'
        for name, size in zip(("data", "im_info"), sizes, strict=True)
    )


def faster_rcnn(trunk: Any, side: int, *, train: bool, narrow: int = 32) -> str:
    text, features = trunk(narrow)
    return inputs(train) + text + proposals(features, train) + head(features, side, narrow, train)


def r_fcn(*, narrow: int = 32) -> str:
    """R-FCN for testing on the convolutions of VGG16: class agnostic boxes, scores of 7 x 7 places."""
    text, features = vgg16(narrow)
    text = (
        inputs(False) + text + proposals(features, False) + convolution("conv_new", features, 64, 1) + relu("conv_new")
    )
    for name, outputs in (("cls", CLASSES), ("bbox", 8)):
        text += convolution(f"rfcn_{name}", "conv_new", 49 * outputs, 1)
        text += f"""layer {{ name: "pooled_{name}" type: "PSROIPooling" bottom: "rfcn_{name}" bottom: "rois"
          top: "pooled_{name}" psroi_pooling_param {{ spatial_scale: 0.0625 output_dim: {outputs} group_size: 7 }} }}
        layer {{ name: "ave_{name}" type: "Pooling" bottom: "pooled_{name}" top: "ave_{name}"
          pooling_param {{ pool: AVE kernel_size: 7 stride: 7 }} }}\n"""
    text += 'layer { name: "prob" type: "Softmax" bottom: "ave_cls" top: "prob" }\n'
    for name, blob, count in (("cls_prob", "prob", CLASSES), ("bbox_pred", "ave_bbox", 8)):
        text += f"""layer {{ name: "{name}" type: "Reshape" bottom: "{blob}" top: "{name}"
          reshape_param {{ shape {{ dim: -1 dim: {count} }} }} }}\n"""
    return text


def built(text: str, phase: str, seed: int = 1) -> CaffeNet:
    parsed = parse_message(text, dialect=DIALECT if phase == "TRAIN" else None)
    message = configured(upgrade_net(parsed.message, parsed.schema).message, END_TO_END)
    net = CaffeNet(message, NetState(phase), dialect=parsed.schema.name).materialize(seed)
    net.randomness.seed = seed
    return net


def picture(height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(1, 3, height, width, generator=generator) * 255 - 120
    return {"data": x, "im_info": torch.tensor([[float(height), float(width), 1.25]])}


TRUNKS = [(vgg16, 7), (zf, 6)]


@pytest.mark.parametrize(("trunk", "side"), TRUNKS)
def test_faster_rcnn_finds_boxes(trunk: Any, side: int, device: torch.device) -> None:
    net = built(faster_rcnn(trunk, side, train=False), "TEST").to(device)
    assert [note for note in net.notes if "rpn.proposal_layer.ProposalLayer is built in" in note]
    for height, width in (SIZE, (160, 352)):
        values = net.run({name: x.to(device) for name, x in picture(height, width).items()}, blobs="all")
        rois, scores, boxes = values["rois"], values["cls_prob"], values["bbox_pred"]
        assert 5 < len(rois) <= 300
        assert (rois.shape[1], scores.shape, boxes.shape) == (5, (len(rois), CLASSES), (len(rois), 4 * CLASSES))
        torch.testing.assert_close(scores.sum(1), torch.ones(len(rois), device=device))
        assert (rois[:, 0] == 0).all()
        assert (rois[:, 1:] >= 0).all()
        assert (rois[:, 3] <= width - 1).all()
        assert (rois[:, 4] <= height - 1).all()
        # Sides are at least 16 pixels of the picture before it was scaled.
        assert (rois[:, 3:] - rois[:, 1:3] + 1 >= 16 * 1.25 - 1e-3).all()


@pytest.mark.parametrize(("trunk", "side"), TRUNKS)
def test_faster_rcnn_learns(trunk: Any, side: int, device: torch.device) -> None:
    net = built(faster_rcnn(trunk, side, train=True), "TRAIN").to(device)
    assert net.input_shapes == {"data": (1, 3, 600, 1000), "im_info": (1, 3), "gt_boxes": (1, 5)}
    given = {name: x.to(device) for name, x in {**picture(*SIZE), "gt_boxes": OBJECTS}.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5)
    found = []
    for _ in range(4):  # the draws stay the same
        outputs = net(**given)
        assert set(outputs) == {"rpn_loss_cls", "rpn_loss_bbox", "loss_cls", "loss_bbox"}
        loss = torch.stack([value.sum() for value in outputs.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.rpn_bbox_pred.weight.grad.abs().sum() > 0
    assert net.bbox_pred.weight.grad.abs().sum() > 0
    assert found[-1] < found[0]
    again = built(faster_rcnn(trunk, side, train=True), "TRAIN").to(device)
    first = torch.stack([value.sum() for value in again(**given).values()]).sum()
    assert float(first.detach()) == pytest.approx(found[0], rel=1e-5)


def test_r_fcn_finds_boxes(device: torch.device) -> None:
    net = built(r_fcn(), "TEST").to(device)
    values = net.run({name: x.to(device) for name, x in picture(*SIZE).items()}, blobs="all")
    count = len(values["rois"])
    assert 5 < count <= 300
    assert values["bbox_pred"].shape == (count, 8)
    torch.testing.assert_close(values["cls_prob"].sum(1), torch.ones(count, device=device))
