"""DetectionOutputExtended: SSD's detections, with the cell and the anchor that each comes from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from .ssd import DetectionOutput, DetectionSettings, detection_settings

__all__ = ["DetectionOutputExtended"]


class DetectionOutputExtended(DetectionOutput):
    """Rows (image, class, score, x1, y1, x2, y2, anchor, column, row): (1, 1, detections, 10).

    Offsets are a map (N, H, W, 4 anchors); class 0 is the background, whatever the file says. Source:
    openvinotoolkit/training_toolbox_caffe, ``detection_output_extended_layer.cpp``.
    """

    def __init__(self, settings: DetectionSettings, width: int, anchors: int) -> None:
        super().__init__(settings)
        self.width = width
        self.anchors = anchors

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 10)

    def more(self, boxes: Tensor) -> Tensor:
        cells = boxes // self.anchors
        return torch.stack([boxes % self.anchors, cells % self.width, cells // self.width], 1)


@layer(
    "DetectionOutputExtended",
    bottoms=3,
    tops=1,
    dialects=("openvinotoolkit/training_toolbox_caffe",),
    verified=False,
)
def detection_output_extended(spec: LayerSpec) -> Layer:
    settings = detection_settings(spec)
    spec.params("detection_output_param").ignore("background_label_id")  # the fork's layer does not read it
    if settings.classes != 2:
        spec.fail(f"num_classes is {settings.classes}; 2 were expected: background and objects")
    if not settings.shared:
        spec.fail("share_location: false is not supported: the fork has no offsets for the background's boxes then")
    _, _, width, values = spec.shaped(0, "images", "height", "width", "values of the anchors")
    if values % 4:
        spec.misfit(0, "(images, height, width, 4 x anchors)")
    return DetectionOutputExtended(replace(settings, background=0), width, values // 4)
