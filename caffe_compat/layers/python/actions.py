"""What the people do whom OpenVINO's action detection has found.

Source: openvinotoolkit/training_toolbox_caffe, ``caffe/custom_layers/actions_detection_output_layer.py``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec

__all__ = ["ActionsDetectionOutput"]

_GIVEN, _MADE = 10, 8


class _Found(NamedTuple):
    image: float
    action: int
    score: float
    action_score: np.float32
    box: tuple[float, ...]

    def row(self) -> list[float]:
        return [self.image, self.action, self.score, float(self.action_score), *self.box]


class ActionsDetectionOutput(Layer):
    """Rows (image, action, score, the action's score, left, top, right, bottom), (1, 1, N, 8).

    Bottoms: detections in rows of ten (image, class, score, left, top, right, bottom, anchor, column, row); and for
    each anchor the scores of actions (images, H, W, actions). A detection has the action whose score is highest in
    its cell of its anchor. The number of rows may depend on the values. No gradient.

    Args:
        overlap: above it, a box adds the score of its action to the votes of the earlier one that it overlaps most,
            best first, and goes; who has most votes is the action. (The first of all has a vote of 1 for its own.) None
            keeps every box.
        actions: how many can be voted for.
    """

    def __init__(self, overlap: float | None, actions: int) -> None:
        super().__init__()
        self.overlap = overlap
        self.actions = actions

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, bottoms[0].numel() // _GIVEN, _MADE)

    @torch.no_grad()
    def forward(self, detections: Tensor, *anchors: Tensor) -> Tensor:
        rows = detections.detach().reshape(-1, _GIVEN).float().cpu().numpy()
        scores = [anchor.detach().float().cpu().numpy() for anchor in anchors]
        found = [self._found(row, scores) for row in rows]
        if self.overlap is not None:
            found = self._voted(found, self.overlap)
        made = np.array([one.row() for one in found], np.float32).reshape(1, 1, -1, _MADE)
        return torch.from_numpy(made).to(detections)

    def _found(self, row: np.ndarray, scores: list[np.ndarray]) -> _Found:
        image, anchor, x, y = (int(row[i]) for i in (0, 7, 8, 9))
        if not 0 <= anchor < len(scores):
            self._refuse(f"a detection has anchor {anchor}; there are {len(scores)}")
        images, height, width, _ = scores[anchor].shape
        if not (0 <= image < images and 0 <= y < height and 0 <= x < width):
            self._refuse(
                f"a detection lies in row {y}, column {x} of image {image}; there are {[images, height, width]}"
            )
        own = scores[anchor][image, y, x]
        action = int(own.argmax())
        return _Found(image, action, float(row[2]), own[action], tuple(float(side) for side in row[3:7]))

    def _voted(self, found: list[_Found], overlap: float) -> list[_Found]:
        kept: list[tuple[_Found, np.ndarray]] = []
        for one in sorted(found, key=lambda one: one.score, reverse=True):
            if one.action >= self.actions:
                self._refuse(f"a detection has action {one.action}; num_valid_actions is {self.actions}")
            overlaps = [_overlap(one.box, other.box) for other, _ in kept]
            if overlaps and max(overlaps) > overlap:
                kept[overlaps.index(max(overlaps))][1][one.action] += one.action_score
                continue
            votes = np.zeros(self.actions, np.float32)
            votes[one.action] = one.action_score if kept else 1
            kept.append((one, votes))
        return [one._replace(action=int(votes.argmax())) for one, votes in kept]

    def _refuse(self, problem: str) -> None:
        raise LayerError(problem, layer=self.layer_name, type="Python")


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Intersection by union."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    union = areas - width * height
    return width * height / union if union > 0 else 0.0


@python_layer(
    "caffe.custom_layers.actions_detection_output_layer",
    "ActionsDetectionOutputLayer",
    bottoms=(2, None),
    tops=1,
    verified=False,
)
def actions_detection_output_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    anchors = settings.whole("num_anchors")
    if len(spec.bottoms) != anchors + 1:
        spec.fail(f"takes detections and the scores of num_anchors = {anchors}, found {len(spec.bottoms)} bottoms")
    if math.prod(spec.bottom_shapes[0]) % _GIVEN:
        spec.misfit(0, f"rows of {_GIVEN} numbers")
    actions = [spec.shaped(i + 1, "images", "height", "width", "actions > 0")[3] for i in range(anchors)]
    settings.get("min_iou", None)  # the published network has it, and the class never reads it
    if not settings.get("use_nms", False):
        settings.get("num_valid_actions", None)
        settings.get("min_overlap", None)
        return ActionsDetectionOutput(None, max(actions))
    return ActionsDetectionOutput(settings.number("min_overlap", 0.45), settings.whole("num_valid_actions"))
