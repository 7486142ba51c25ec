"""Python layers that are built in besides Faster R-CNN's: losses, ENet's dropout, DetectNet's, readers of data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import InputShapeError, LayerError
from caffe_compat.layers.python.detectnet import group_rectangles
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.randomness import Randomness
from caffe_compat.schema.prototxt import parse_message
from tests.layers.building import build


def layer(name: str, told: str = "") -> str:
    module, _, cls = name.rpartition(".")
    return f'type: "Python" python_param {{ module: "{module}" layer: "{cls}" param_str: "{told}" }}'


# Losses


def test_euclidean_loss(device: torch.device) -> None:
    x, y = (torch.randn(3, 4, 5, device=device, requires_grad=True) for _ in range(2))
    module = build(layer("pyloss.EuclideanLossLayer"), (3, 4, 5), (3, 20))
    loss = module(x, y.reshape(3, 20))
    assert loss.shape == (1,)
    torch.testing.assert_close(loss[0], (x - y).square().sum() / 3 / 2)
    loss.backward(torch.tensor([0.5], device=device))
    torch.testing.assert_close(x.grad, 0.5 * (x - y).detach() / 3)
    torch.testing.assert_close(y.grad, -x.grad)
    with pytest.raises(LayerError, match=r"'b1' has shape \[3, 5\]; a value for each of 'b0', \[3, 4\], was"):
        build(layer("pyloss.EuclideanLossLayer"), (3, 4), (3, 5))


def test_losses_of_mtcnn_leave_batches_of_others_alone(device: torch.device) -> None:
    module = build(layer("pythonLayer.regression_Layer"), (3, 4), (3, 4))
    x, y = torch.randn(3, 4, device=device, requires_grad=True), torch.full((3, 4), -1.0, device=device)
    module(x, y).backward()
    assert x.grad.abs().sum() == 0
    y[1, 0] = 2
    torch.testing.assert_close(module(x, y)[0], (x - y).square().sum() / 6)
    with pytest.raises(LayerError, match=r"has shape \[12\]; \(examples, values, ...\) was expected"):
        build(layer("pythonLayer.regression_Layer"), (12,), (12,))


@pytest.mark.parametrize(("cls", "axes"), [("cls_Layer", ()), ("cls_Layer_fc", (1, 1))])
def test_rows_with_a_class_come_first(cls: str, axes: Any, device: torch.device) -> None:
    module = build(layer(f"pythonLayer.{cls}"), (4, 2, *axes), (4, 1), tops=2)
    scores = torch.arange(8.0, device=device).reshape(4, 2, *axes).requires_grad_(True)
    labels = torch.tensor([[-1.0], [1], [-1], [0]], device=device)
    found, classes = module(scores, labels)
    assert found.shape == (4, 2, *axes)
    assert found.flatten().tolist() == [2, 3, 6, 7, 0, 0, 0, 0]
    assert classes.tolist() == [[1], [0], [0], [0]]
    found.backward(torch.arange(1.0, 9, device=device).reshape(found.shape))
    assert scores.grad.flatten().tolist() == [0, 0, 1, 2, 0, 0, 3, 4]
    with pytest.raises(LayerError, match=r"\(rows, scores = 2\) was"):
        build(layer(f"pythonLayer.{cls}"), (4, 3), (4, 1), tops=2)


# ENet's dropout


@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_spatial_dropout(gradients: str, device: torch.device) -> None:
    told = "{'phase': 'TRAIN', 'p': '0.4'}"
    module = build(layer("spatial_dropout.SpatialDropoutLayer", told), (3, 8, 2, 5), gradients=gradients)
    module.randomness = Randomness(stream=np.random.RandomState(3))
    x = torch.randn(3, 8, 2, 5, device=device, requires_grad=True)
    y = module(x)
    random = np.random.RandomState(3)
    kept = torch.tensor(np.stack([random.binomial(np.ones(8, int), 0.6) for _ in range(3)]), device=device)
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(y, x * kept[..., None, None] / 0.6)
    y.sum().backward()
    kept = kept[-1:].expand(3, -1) if gradients == "caffe" else kept
    torch.testing.assert_close(x.grad, (kept[..., None, None] / 0.6).float().expand_as(x))


def test_spatial_dropout_that_drops_nothing_still_scales() -> None:
    module = build(layer("spatial_dropout.SpatialDropoutLayer", "{phase: TEST, p: 0.2}"), (1, 2, 3, 3), phase="TRAIN")
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(module(x), x / 0.8)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ("{phase: TEST}", "no 'p'"),
        ("{p: 0.1}", "no 'phase'"),
        ("{phase: TEST, p: 1}", "p is 1; it must lie between"),
        ("{phase: TEST, p: x}", "p is 'x'; a number"),
        ("{phase: TEST, p: 0.1, q: 2}", "q"),
    ],
)
def test_spatial_dropouts_that_make_no_sense(told: str, problem: str) -> None:
    text = layer("spatial_dropout.SpatialDropoutLayer", told)
    with pytest.raises(LayerError, match=problem):
        CaffeNet(parse_message(f'{DATA} layer {{ name: "l" bottom: "x" top: "y" {text} }}').message)


DATA = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }'


# DetectNet


def grouped_by_hand(boxes: Any, least: int, eps: float) -> list[tuple[int, ...]]:
    if least <= 0:
        return [(*box, 1) for box in boxes]
    groups: list[list[Any]] = []
    for box in boxes:

        def similar(other: Any, box: Any = box) -> bool:
            far = eps * (min(box[2], other[2]) + min(box[3], other[3])) * 0.5
            ends = [(b[0], b[1], b[0] + b[2], b[1] + b[3]) for b in (box, other)]
            return all(abs(a - b) <= far for a, b in zip(*ends, strict=True))

        near = [group for group in groups if any(map(similar, group))]
        merged = [*(other for group in near for other in group), box]
        place = groups.index(near[0]) if near else len(groups)
        groups = [group for group in groups if group not in near]
        groups.insert(place, merged)
    means = [tuple(round(sum(v) / len(v)) for v in zip(*group, strict=True)) for group in groups]
    kept: list[tuple[int, ...]] = []
    for mean, group in zip(means, groups, strict=True):
        hidden = False
        for other, larger in zip(means, groups, strict=True):
            dx, dy = round(other[2] * eps), round(other[3] * eps)
            within = mean[0] >= other[0] - dx and mean[0] + mean[2] <= other[0] + other[2] + dx
            within &= mean[1] >= other[1] - dy and mean[1] + mean[3] <= other[1] + other[3] + dy
            large = len(larger) > max(3, len(group)) or len(group) < 3
            hidden |= larger is not group and len(larger) > least and within and large
        if len(group) > least and not hidden:
            kept.append((*mean, len(group)))
    return kept


@pytest.mark.parametrize(("least", "eps"), [(0, 0.2), (1, 0.2), (2, 0.5), (1, 0.05), (1, 1.2)])
def test_rectangles_are_grouped_as_opencv_groups_them(least: int, eps: float) -> None:
    random = np.random.RandomState(0)
    kinds = np.array([[10, 12, 60, 40], [14, 15, 30, 20], [100, 90, 50, 50], [200, 10, 33, 35]])
    sizes = set()
    for trial in range(20):
        boxes = kinds[random.randint(0, 4, 25)] + random.randint(-5, 6, (25, 4)) * (1 + trial % 3)
        found = group_rectangles(boxes, least, eps)
        assert found == grouped_by_hand([tuple(box) for box in boxes.tolist()], least, eps)
        sizes |= {row[4] for row in found}
    assert sizes


def grid_cells(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coverage of two classes, and boxes, for an image of 64 x 48, stride 8; ``count`` cells see a box of 24 x 20."""
    coverage, boxes = torch.zeros(2, 2, 7, 9), torch.zeros(2, 4, 7, 9)
    for k in range(count):
        y, x = 1 + k % 2, 2 + k // 2
        coverage[1, 1, y, x] = 0.9
        boxes[1, :, y, x] = torch.tensor([17.5 - 8 * x, 9.25 - 8 * y, 41.5 - 8 * x, 29.25 - 8 * y])
    coverage[:, :, 6, 8] = 1  # beyond the image's last whole cell
    return coverage, boxes


CLUSTERING = "caffe.layers.detectnet.clustering"


def test_detections_are_clustered(device: torch.device) -> None:
    coverage, boxes = (x.to(device) for x in grid_cells(4))

    def found(told: str) -> Any:
        module = build(layer(f"{CLUSTERING}.ClusterDetections", told), coverage.shape, boxes.shape, tops=2)
        return [top.cpu() for top in module(coverage, boxes)]

    lists = found("64, 48, 8, 0.6, 3, 0.02, 15, 2")
    assert [tuple(x.shape) for x in lists] == [(2, 50, 5)] * 2
    assert lists[0].abs().sum() == lists[1][0].abs().sum() == lists[1][1, 1:].abs().sum() == 0
    torch.testing.assert_close(lists[1][1, 0], torch.tensor([17.0, 9, 41, 29, np.float16(np.log(4)).item()]))
    assert found("64, 48, 8, 0.95, 3, 0.02, 15, 2")[1].abs().sum() == 0  # not covered enough
    assert found("64, 48, 8, 0.6, 4, 0.02, 15, 2")[1].abs().sum() == 0  # too few
    assert found("64, 48, 8, 0.6, 3, 0.02, 21, 2")[1].abs().sum() == 0  # too low


def test_true_boxes_are_listed_once(device: torch.device) -> None:
    coverage, boxes = (x.to(device) for x in grid_cells(4))
    text = layer(f"{CLUSTERING}.ClusterGroundtruth", "64,48,8,2")
    _, second = build(text, coverage.shape, boxes.shape, tops=2)(coverage, boxes)
    expected = [float(np.float16(v)) for v in (17.5, 9.25, 41.5, 29.25, 0)]
    assert second[1, :2].tolist() == [expected, [0] * 5]
    one = build(layer(f"{CLUSTERING}.ClusterGroundtruth", "64,48,8"), (2, 1, 7, 9), boxes.shape)
    assert torch.equal(one(coverage[:, 1:], boxes), second)


def test_found_boxes_are_judged(device: torch.device) -> None:
    truth, found = torch.zeros(2, 50, 5), torch.zeros(2, 50, 5)
    truth[0, :3, :4] = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 9]])
    found[0, :3, :4] = torch.tensor([[20.0, 21, 40, 40], [50, 50, 60, 60], [0, 0, 10, 9]])
    module = build(layer("caffe.layers.detectnet.mean_ap.ScoreDetections"), (2, 50, 5), (2, 50, 5))
    rows = module(truth.to(device), found.to(device))
    assert rows[0, :5].tolist() == [
        [20, 21, 40, 40, 1],
        [0, 0, 10, 9, 1],
        [50, 50, 60, 60, 2],
        [0, 0, 10, 9, 3],
        [0, 0, 0, 0, 0],
    ]
    measured = build(layer("caffe.layers.detectnet.mean_ap.mAP", "64, 48, 8"), (2, 50, 5), tops=3)(rows)
    for top, expected in zip(measured, (400 / 9, 200 / 3, 200 / 3), strict=True):
        torch.testing.assert_close(top.cpu(), torch.tensor([expected]))
    nothing = build(layer("caffe.layers.detectnet.mean_ap.mAP"), (2, 50, 5), tops=3)(torch.zeros(2, 50, 5))
    assert [float(x) for x in nothing] == [0, 0, 0]
    with pytest.raises(LayerError, match="has 100 boxes for an image; a list holds 50"):
        module(torch.ones(1, 50, 5), torch.full((1, 50, 5), 2.0))


@pytest.mark.parametrize(
    ("cls", "told", "shapes", "problem"),
    [
        ("ClusterGroundtruth", "64,48", [(1, 1, 6, 8), (1, 4, 6, 8)], "4 numbers with commas"),
        ("ClusterGroundtruth", "64,x,8", [(1, 1, 6, 8), (1, 4, 6, 8)], "4 numbers with commas"),
        ("ClusterGroundtruth", "64,48,99", [(1, 1, 6, 8), (1, 4, 6, 8)], "a stride of 99 make no grid"),
        ("ClusterGroundtruth", "64,48,8,2", [(1, 1, 6, 8), (1, 4, 6, 8)], r"\(images, 2, height, width\) was"),
        (
            "ClusterDetections",
            "64,48,8,0.6,3,0.02,22",
            [(1, 1, 6, 8), (1, 5, 6, 8)],
            r"\(images = 1, 4, height = 6, width = 8\) was",
        ),
    ],
)
def test_clusterings_that_make_no_sense(cls: str, told: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=f"'l' .Python.: .*{problem}"):
        build(layer(f"{CLUSTERING}.{cls}", told), *shapes)


def test_more_boxes_than_a_list_holds() -> None:
    module = build(layer(f"{CLUSTERING}.ClusterGroundtruth", "64,64,8"), (1, 1, 8, 8), (1, 4, 8, 8))
    with pytest.raises(LayerError, match="finds 64 boxes in an image; a list holds 50"):
        module(torch.ones(1, 1, 8, 8), torch.ones(1, 4, 8, 8))


# What reads data


def source(name: str, told: str, tops: int) -> CaffeNet:
    names = " ".join(f'top: "t{i}"' for i in range(tops))
    return CaffeNet(parse_message(f'layer {{ name: "l" {names} {layer(name, told)} }}').message)


@pytest.mark.parametrize(
    ("name", "told", "tops"),
    [
        ("voc_layers.VOCSegDataLayer", "{'voc_dir': 'x', 'split': 'val', 'mean': (1, 2, 3), 'seed': 4}", 2),
        ("voc_layers.SBDDSegDataLayer", "{'sbdd_dir': 'x', 'split': 'train', 'mean': (1, 2, 3)}", 2),
        ("pascalcontext_layers.PASCALContextSegDataLayer", "{'voc_dir': 'x', 'context_dir': 'y', 'split': 'val'}", 2),
        ("nyud_layers.NYUDSegDataLayer", "{'nyud_dir': 'x', 'split': 'val', 'tops': ['color', 'hha', 'label']}", 3),
        ("osvos_layer.OSVOSDataLayer", "{'data_root_dir': 'x', 'seed': 1337, 'pair_list': 'y'}", 2),
        ("ade_layers.AdeSegDataLayer", "{'seed': 1337, 'split': 'train', 'mean': (1, 2, 3)}", 2),
    ],
)
def test_pictures_of_any_size_are_asked_for(name: str, told: str, tops: int) -> None:
    with pytest.raises(InputShapeError, match=r"the shape of input t0 .layer 'l', Python., t1"):
        source(name, told, tops)
    with pytest.raises(LayerError, match=r"layer 'l' .Python.: "):
        source(name, "{}", tops)
    with pytest.raises(LayerError, match="which this layer does not know"):
        source(name, told.replace("}", ", 'scale': 2}"), tops)


def test_shapes_that_are_known() -> None:
    told = "{'batch_size': 7, 'im_shape': [227, 120], 'split': 'train', 'pascal_root': 'x'}"
    net = source("pascal_multilabel_datalayers.PascalMultilabelDataLayerSync", told, 2)
    assert net.input_shapes == {"t0": (7, 3, 227, 120), "t1": (7, 20)}
    net = source(
        "siftflow_layers.SIFTFlowSegDataLayer", "{'siftflow_dir': 'x', 'split': 'test', 'randomize': False}", 3
    )
    assert net.input_shapes == {"t0": (1, 3, 256, 256), "t1": (1, 1, 256, 256), "t2": (1, 1, 256, 256)}
    with pytest.raises(InputShapeError, match=r"the shape of input t0 .layer 'l', Python. is not"):
        source("pythonLayer.Data_Layer_train", "", 4)
    with pytest.raises(LayerError, match=r"'l' .Python.: tops is .*; one of color, depth, hha, label for each of 2"):
        source("nyud_layers.NYUDSegDataLayer", "{'nyud_dir': 'x', 'split': 'val', 'tops': ['color', 'smell']}", 2)


@pytest.mark.parametrize(
    ("cfg", "tops", "shapes"),
    [
        ("", 3, [(1, 3, 600, 1000), (1, 3), (1, 5)]),
        (", cfg: {TRAIN: {SCALES: [320, 480], MAX_SIZE: 800}}", 3, [(1, 3, 480, 800), (1, 3), (1, 5)]),
        (", cfg: {TRAIN: {BBOX_REG: False, BATCH_SIZE: 9, IMS_PER_BATCH: 3}}", 3, [(3, 3, 600, 1000), (9, 5), (9,)]),
        (", cfg: {TRAIN: {BBOX_REG: False, HAS_RPN: True}}", 3, [(1, 3, 600, 1000), (1, 3), (1, 5)]),
        ("", 5, [(2, 3, 600, 1000), (128, 5), (128,), (128, 16), (128, 16)]),
        (", cfg: {TRAIN.AGNOSTIC: True}", 6, [(2, 3, 600, 1000), (128, 5), (128,), *[(128, 8)] * 3]),
    ],
)
def test_the_data_of_faster_rcnn(cfg: str, tops: int, shapes: Any) -> None:
    net = source("roi_data_layer.layer.RoIDataLayer", f"{{num_classes: 4{cfg}}}", tops)
    assert list(net.input_shapes.values()) == shapes


def test_data_by_the_name_of_its_tops_and_of_images() -> None:
    text = layer("roi_data_layer.layer.RoIDataLayer", "num_classes: 4")
    net = CaffeNet(parse_message(f'layer {{ name: "l" top: "data" top: "rois" top: "labels" {text} }}').message)
    assert net.input_shapes["rois"] == (128, 5)
    told = "{num_classes: 4, cfg: {TRAIN.IMS_PER_BATCH: 3, TRAIN.BATCH_SIZE: 9}}"
    net = source("action_roi_data_layer.layer.RoIDataLayer", told, 6)
    assert list(net.input_shapes.values()) == [(3, 3, 100, 100), (9, 5), (3,), (3,), (1, 16), (1, 16)]
