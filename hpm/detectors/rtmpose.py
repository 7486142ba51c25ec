"""RTMDet and RTMPose from ``.onnx`` files, as mmdeploy exports them, run by onnxruntime.

RTMDet takes the picture, shrunk to fit and padded on the right and below, and gives boxes ``dets`` (x, y, x, y, score)
and ``labels``. RTMPose takes each person upright and gives, for each joint, scores of columns and of rows (SimCC, Li et
al., ECCV 2022): the joint lies where both are highest, and is as sure as the lesser of the two. Scaling and padding of
the picture, means and deviations are those of mmpose's ``rtmdet_m_640-8xb32_coco-person.py`` and
``rtmpose-m_8xb256-420e_coco-256x192.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_compat.errors import FileError
from caffe_compat.extras import require

from ..joint_orders import COCO17, COCO133, HALPE26, Skeleton
from ..people import Person
from .patches import Patch

__all__ = ["RTMPose"]

# Red, green, blue.
_MEAN, _DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
_PADDING, _LEAST = 114, 0.3
# About the box of a person, relative to it.
_ROOM = 1.25
# The side of RTMDet's input where its file leaves it open.
_OPEN_SIDE = 640
_ORDERS = {len(order): order for order in (COCO17, HALPE26, COCO133)}


class RTMPose:
    """People as RTMDet and RTMPose find them, several in a picture.

    Args:
        person_model: RTMDet's ``end2end.onnx``, with outputs ``dets`` and ``labels``, of which 0 is a person.
        pose_model: RTMPose's ``end2end.onnx``, with outputs ``simcc_x`` and ``simcc_y``: of COCO's 17 joints, Halpe's
            26 or COCO-WholeBody's 133.

    Raises:
        MissingExtraError: no onnxruntime. FileError: files that are not there, or of other networks.

    Example:
        >>> detector = RTMPose("rtmdet/end2end.onnx", "rtmpose/end2end.onnx")
        >>> detector.joints.name, detector.people(np.zeros((480, 640, 3), np.uint8))
        ('COCO17', [])
    """

    def __init__(self, person_model: str | os.PathLike[str], pose_model: str | os.PathLike[str]) -> None:
        self._detector = _Onnx(person_model, ("dets", "labels"))
        self._pose = _Onnx(pose_model, ("simcc_x", "simcc_y"))
        self.joints = self._order()

    def _order(self) -> Skeleton:
        count = self._pose.output("simcc_x")[1]
        if count not in _ORDERS or None in self._pose.size:
            known = ", ".join(f"{number} ({order.name})" for number, order in _ORDERS.items())
            raise FileError(
                f"a network with a fixed size of its input and {known} joints was expected, found {count} joints and "
                f"{self._pose.size} pixels",
                path=self._pose.path,
            )
        return _ORDERS[count]

    def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
        """See :class:`.protocol.Detector`."""
        return [self._person(picture, box) for box in self._boxes(picture)]

    def _boxes(self, picture: np.ndarray) -> np.ndarray:
        """(people, 4): x, y, width, height."""
        height, width = (side or _OPEN_SIDE for side in self._detector.size)
        shrunk = min(width / picture.shape[1], height / picture.shape[0])
        size = width / shrunk, height / shrunk
        pixels = Patch((size[0] / 2, size[1] / 2), size).cut(picture, width, height, beyond=_PADDING)
        # This one has blue first.
        dets, labels = self._detector((pixels - _MEAN[::-1]) / _DEVIATION[::-1])
        rows = dets[0][(labels[0] == 0) & (dets[0][:, 4] >= _LEAST)].astype(np.float64)
        corners = rows[:, :4] / shrunk
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        return np.asarray(boxes[(boxes[:, 2:] > 0).all(1)])

    def _person(self, picture: np.ndarray, box: np.ndarray) -> Person:
        rows, columns = (int(side or 0) for side in self._pose.size)
        # As wide as the input in relation to its height.
        wide = max(box[2], box[3] * columns / rows) * _ROOM
        patch = Patch((box[0] + box[2] / 2, box[1] + box[3] / 2), (wide, wide * rows / columns))
        pixels = patch.cut(picture, columns, rows, beyond=0)[..., ::-1]
        scores = [values[0].astype(np.float64) for values in self._pose((pixels - _MEAN) / _DEVIATION)]
        places = np.stack([each.argmax(-1) / each.shape[-1] for each in scores], -1)
        sure = np.minimum(*(each.max(-1) for each in scores)).clip(min=0)
        return Person(patch.to_picture(places), sure, box)


class _Onnx:
    """A network of an ``.onnx`` file, with one input (1, 3, height, width)."""

    def __init__(self, path: str | os.PathLike[str], outputs: tuple[str, ...]) -> None:
        self.path = os.fspath(path)
        runtime = require("onnxruntime", "detect")
        if not os.path.isfile(self.path):
            raise FileError("there is no such file", path=self.path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._net: Any = runtime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            said = f"{error}"[:100].replace("\n", " ")
            raise FileError(f"is no network that onnxruntime can run: {said}", path=self.path) from error
        inputs = [each.shape for each in self._net.get_inputs()]
        self._shapes = {each.name: each.shape for each in self._net.get_outputs()}
        self._outputs = list(outputs)
        if len(inputs) != 1 or len(inputs[0]) != 4 or any(name not in self._shapes for name in outputs):
            raise FileError(
                f"one input of pictures and outputs {', '.join(outputs)} were expected, found {len(inputs)} inputs and "
                f"outputs {', '.join(self._shapes)}; mmdeploy exports RTMDet and RTMPose so (end2end.onnx)",
                path=self.path,
            )
        self._input: str = self._net.get_inputs()[0].name
        self.size: list[int | None] = [side if isinstance(side, int) else None for side in inputs[0][2:]]
        """Height and width of the input; None where the file leaves them open."""

    def output(self, name: str) -> list[object]:
        """Its shape; text where the file leaves it open."""
        return list(self._shapes[name])

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """What a picture (height, width, 3) gives."""
        given = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
        return [np.asarray(values) for values in self._net.run(self._outputs, {self._input: given})]
