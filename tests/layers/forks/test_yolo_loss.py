"""Yolov3 and GaussianYolov3 beyond their recorded cases (``test_fork_cases.py``): refusals, true gradients, IOU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.forks.yolo_boxes import overlap
from tests.layers.building import build

YOLO, WINDOWS = "eric612/MobileNet-YOLO", "eric612/Caffe-YOLOv3-Windows"
ANCHORS = " ".join(f"biases: {value}" for value in (20, 30, 60, 50, 90, 110, 40, 45))
MASK = "num: 2 mask: 1 mask: 2"
KINDS = {"Yolov3": 4, "GaussianYolov3": 8}


def module(params: str = "", kind: str = "Yolov3", dialect: str = YOLO, x: Any = None, **more: Any) -> Any:
    shape = x or (2, 2 * (KINDS[kind] + 1 + 3), 4, 5 if dialect == YOLO else 4)
    objects = more.pop("objects", (2, 1, 300, 5))
    text = f'type: "{kind}" yolov3_param {{ num_class: 3 {ANCHORS} {params if "mask" in params else params + MASK} }}'
    return build(text, shape, objects, phase="TRAIN", dialect=dialect, **more)


def truth(*boxes: tuple[float, ...]) -> torch.Tensor:
    rows = torch.zeros(2, 1, 300, 5)
    rows[1, 0, : len(boxes)] = torch.tensor(boxes)
    return rows


OBJECTS = ((1, 0.52, 0.41, 0.5, 0.7), (2, 0.1, 0.9, 0.55, 0.8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("params", "shapes", "problem"),
    [
        ("num: 2 mask: 1", {}, r"mask \[1\] must name num, 2, of the anchors in biases, 8 numbers"),
        ("num: 2 mask: 1 mask: 4", {}, "must name num, 2, of the anchors"),
        ("num: 0 mask: 1", {}, "must name num, 0, of the anchors"),
        ("biases: 3 ", {}, "of the anchors in biases, 9 numbers"),
        ("anchors_scale: 0 ", {}, "num_class 3 and anchors_scale 0 must be at least 1"),
        ("num: 1 mask: 1", {}, r"'b0' has shape \[2, \d+, 4, 5\]; \(images, (8|12), height, width\)"),
        ("", {"objects": (2, 1, 30, 5)}, r"'b1' has shape \[2, 1, 30, 5\]; 300 objects of 5 numbers for each image"),
        ("", {"objects": (3, 1, 300, 5)}, r"'b1' has shape \[3, 1, 300, 5\]; \(images = 2, ...\)"),
    ],
)
def test_losses_that_make_no_sense(kind: str, params: str, shapes: dict[str, Any], problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' .{kind}.: .*{problem}"):
        module(params, kind, **shapes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((1, 0.5, 1.2, 0.1, 0.1), "an object lies outside its image"),
        ((3, 0.5, 0.5, 0.1, 0.1), "an object has class 3, which is none of the 3 classes"),
    ],
)
def test_objects_that_make_no_sense(kind: str, box: tuple[float, ...], problem: str, device: torch.device) -> None:
    x = torch.zeros(2, 2 * (KINDS[kind] + 4), 4, 5, device=device)
    with pytest.raises(LayerError, match=problem):
        module(kind=kind)(x, truth(box).to(device))


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_bearing(kind: str) -> None:
    x, objects = torch.randn(2, 2 * (KINDS[kind] + 4), 4, 5), truth(*OBJECTS)
    other = "side: 7 noobject_scale: 3 " + ("iou_loss: GIOU label_smooth_eps: 0.4 " if kind == "GaussianYolov3" else "")
    assert torch.equal(module(other, kind)(x, objects), module("", kind)(x, objects))


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("Yolov3", "thresh: 1 use_focal_loss: false class_scale: 2 "),
        ("Yolov3", "thresh: 1 iou_loss: CIOU iou_normalizer: 3 "),
        ("Yolov3", "thresh: 1 iou_loss: IOU iou_normalizer: 3 "),
        ("GaussianYolov3", "thresh: 1 iou_normalizer: 3 "),
    ],
)
def test_the_true_gradient(kind: str, params: str, device: torch.device) -> None:
    """By small steps, where an object's anchors are learnt in several rounds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2 * (KINDS[kind] + 4), 4, 5, generator=generator) * 0.3
    objects = truth(*OBJECTS).to(device)
    params += "iou_thresh: 0.1 "

    def gradient(gradients: str) -> torch.Tensor:
        given = x.clone().to(device).requires_grad_(True)
        module(params, kind, gradients=gradients)(given, objects).backward()
        assert given.grad is not None
        return given.grad.cpu()

    found, loss = gradient("true"), module(params, kind, gradients="true")
    for place in found.flatten().abs().topk(12).indices.tolist():
        ends = []
        for step in (1e-2, -1e-2):
            moved = x.clone()
            moved.view(-1)[place] += step
            ends.append(float(loss(moved.to(device), objects)))
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(found.flatten()[place]), rel=0.02, abs=0.02)
    assert not torch.allclose(gradient("caffe"), found)


def test_the_plain_overlap(device: torch.device) -> None:
    """No case has it: boxes learn the slopes of the overlap, and its loss is that of DIOU."""
    x = torch.zeros(2, 16, 4, 5, device=device, requires_grad=True)
    objects = truth(OBJECTS[0]).to(device)
    params = "thresh: 1 iou_thresh: 1 label_smooth_eps: 0 iou_normalizer: 0.5 "
    loss = module(params + "iou_loss: IOU ")(x, objects)
    assert loss.item() == pytest.approx(module(params + "iou_loss: DIOU ")(x, objects).item())
    loss.backward()
    assert x.grad is not None
    # The object lies in column 2 and row 1, and has most of the third anchor's shape, the second of this map's.
    found = x.grad[1].cpu().reshape(2, 8, 4, 5)[:, :, 1, 2]
    assert not found[0, :4].any()
    box = torch.tensor([2.5 / 5, 1.5 / 4, 90 / 160, 110 / 128], requires_grad=True)
    (slopes,) = torch.autograd.grad(overlap(box, torch.tensor(OBJECTS[0][1:])), box)
    # Sizes are learnt without the half of an edge's way.
    torch.testing.assert_close(found[1, :4], -slopes * torch.tensor([1, 1, 2, 2]) * 0.5 / 2)


def test_the_windows_fork(device: torch.device) -> None:
    """A class that a second object adds to a prediction gets an error of the other sign; nothing is smoothed."""
    x = torch.zeros(2, 16, 4, 4, device=device, requires_grad=True)
    box = OBJECTS[0][1:]
    params = "thresh: 1 class_scale: 3 object_scale: 7 coord_scale: 0 use_logic_gradient: true "
    module(params, dialect=WINDOWS)(x, truth((0, *box), (2, *box)).to(device)).backward()
    assert x.grad is not None
    found = x.grad[1].cpu().reshape(2, 8, 4, 4)[1, :, 1, 2]
    # By the sigmoid's slope, 1/4, and two images.
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 0, -7 / 2, -3 / 2, 3 / 2, 1 / 2]) / 8)
    with pytest.raises(LayerError, match="a square map was expected"):
        module(dialect=WINDOWS, x=(2, 16, 4, 5))
