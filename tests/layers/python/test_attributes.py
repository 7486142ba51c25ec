"""The objects of peteanderson80/bottom-up-attention, which have attributes behind their class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

BOXES = "module: 'rpn.proposal_target_layer' layer: 'ProposalTargetLayer'"
ANCHORS = "module: 'rpn.anchor_target_layer' layer: 'AnchorTargetLayer'"
TOLD = "num_classes: 4, num_attr_classes: 9, use_attr_labels: True, ignore_label: -7"


def layer(names: str, param_str: str) -> str:
    return f'type: "Python" python_param {{ {names} param_str: "{param_str}" }}'


def targets(settings: str, *shapes: Any, tops: int = 6) -> Any:
    return build(layer(BOXES, f"{{{settings}}}"), *(shapes or [(3, 5), (2, 21)]), tops=tops, phase="TRAIN")


def test_attributes_of_objects_follow_their_boxes_and_the_rest_is_ignored() -> None:
    # Three attributes of the first object; of the second, the first of them is 0, which is a value.
    objects = torch.zeros(2, 21)
    objects[0, :9] = torch.tensor([0.0, 0, 19, 19, 2, 5, 6, 8, 0])
    objects[1, :8] = torch.tensor([40.0, 40, 79, 79, 3, 0, 4, 0])
    rois = torch.tensor([[0.0, 0, 0, 19, 18], [0, 40, 41, 79, 79], [0, 0, 0, 19, 70]])
    module = targets(f"{TOLD}, cfg: {{TRAIN: {{BATCH_SIZE: 10, FG_FRACTION: 0.5, BG_THRESH_LO: 0.0}}}}")
    tops = module(rois, objects)
    assert [tuple(top.shape) for top in tops] == [(5, 5, 1, 1), (5, 1, 1, 1), *[(5, 16, 1, 1)] * 3, (5, 16)]
    assert tuple(module.infer(rois, objects)[5].shape) == (5, 16)
    boxes, labels, attributes = tops[0].flatten(1), tops[1].flatten(), tops[5]
    assert sorted(labels.tolist()) == [0, 2, 2, 3, 3]
    first, second = [5.0, 6, 8, *[-7.0] * 13], [0.0, 4, *[-7.0] * 14]
    for box, label, row in zip(boxes, labels, attributes, strict=True):
        expected = {2.0: first, 3.0: second, 0.0: [-7.0] * 16}[label.item()]
        assert row.tolist() == expected, box
    torch.testing.assert_close(tops[4], (tops[3] > 0).float())


@pytest.mark.parametrize(
    ("settings", "shapes", "problem"),
    [
        ("num_classes: 4", None, "no 'num_attr_classes'"),
        ("num_classes: 4, num_attr_classes: 0", None, "num_attr_classes is 0; a whole number from 1 on"),
        (f"{TOLD}, num_rel_classes: 2", None, "num_rel_classes above 0 is not supported"),
        (f"{TOLD}, cfg: {{TRAIN.BATCH_SIZE: -1}}", None, "BATCH_SIZE is -1; a number of boxes"),
        (TOLD, [(3, 5), (2, 5)], "16 attributes >= 21"),
        (TOLD, [(3, 4), (2, 21)], "image x1 y1 x2 y2 = 5"),
    ],
)
def test_target_layers_that_make_no_sense(settings: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' \\(Python\\): .*{problem}"):
        targets(settings, *(shapes or ()))


def test_anchors_learn_of_objects_with_attributes_as_of_those_without() -> None:
    objects = torch.zeros(1, 21)
    objects[0, :6] = torch.tensor([10.0, 10, 60, 60, 2, 5])
    scores, image = torch.zeros(1, 18, 6, 8), torch.tensor([[96.0, 128, 1]])
    found = []
    for truth in (objects, objects[:, :5]):
        text = layer(ANCHORS, "{'feat_stride': 16, 'scales': [1, 2, 3]}")
        module = build(text, (1, 18, 6, 8), truth.shape, (1, 3), tops=4, phase="TRAIN")
        found.append(module(scores, truth, image))
    assert (found[0][0] == 1).any()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with pytest.raises(LayerError, match="x1 y1 x2 y2 class = 5"):
        build(layer(ANCHORS, "{'feat_stride': 16}"), (1, 18, 6, 8), (1, 20), (1, 3), tops=4)
