"""RoIDataLayer: the data layer of Fast and Faster R-CNN's training. What it reads, a program hands it in memory.

So here it is an input, of the shapes that the configuration tells; those of a batch may differ. Sources:
``lib/roi_data_layer/layer.py`` of rbgirshick/fast-rcnn (five tops) and rbgirshick/py-faster-rcnn (three or six), and
``lib/action_roi_data_layer/layer.py`` of zimenglan-sysu-512/pose_action_caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...network.python_registry import Project, PythonSettings, python_source
from ...network.registry import Shape
from .projects import FASTER_RCNN

__all__ = ["POSE_ACTION"]

POSE_ACTION = Project(
    "zimenglan-sysu-512/pose_action_caffe",
    "fast_rcnn.config_action",
    {"TRAIN.IMS_PER_BATCH": 2, "TRAIN.BATCH_SIZE": 30},
)


@python_source("roi_data_layer.layer", "RoIDataLayer", tops=(3, 6), project=FASTER_RCNN)
def roi_data_layer(settings: PythonSettings, tops: Sequence[str]) -> Sequence[Shape]:
    """Image, (height, width, scale) and objects, where proposals are the network's own; else images, boxes, their
    classes, and what is known of their offsets.

    Of three tops, the second's name tells which of the two it is, unless the configuration does. The original takes one
    image where proposals are the network's own, and stops at more.
    """

    def told(key: str) -> int:
        return int(settings.config(FASTER_RCNN, f"TRAIN.{key}"))

    classes = settings.whole("num_classes", least=2)
    size = (int(max(settings.config(FASTER_RCNN, "TRAIN.SCALES"))), told("MAX_SIZE"))
    if len(tops) == 3 and (told("HAS_RPN") or (told("BBOX_REG") and tops[1] != "rois")):
        return [(1, 3, *size), (1, 3), (1, 5)]
    count = told("BATCH_SIZE")
    offsets = (count, 4 * (2 if told("AGNOSTIC") else classes))
    return [(told("IMS_PER_BATCH"), 3, *size), (count, 5), (count,), *[offsets] * (len(tops) - 3)]


@python_source("action_roi_data_layer.layer", "RoIDataLayer", tops=(3, 6), project=POSE_ACTION)
def action_roi_data_layer(settings: PythonSettings, tops: Sequence[str]) -> Sequence[Shape]:
    """Images, boxes, classes of the images, and how many boxes each image has; then offsets and their weights."""
    classes = settings.whole("num_classes", least=2)
    images, count = (settings.config(POSE_ACTION, f"TRAIN.{key}") for key in ("IMS_PER_BATCH", "BATCH_SIZE"))
    shapes = [(images, 3, 100, 100), (count, 5), (images,), (images,), (1, 4 * classes), (1, 4 * classes)]
    return shapes[: len(tops)]
