"""MediaPipe's pose detector and landmarks, run from their two files by ai-edge-litert.

What its graphs do between the networks is done here, by the settings of MediaPipe 0.10.21's ``pose_detection`` and
``pose_landmark``: the whole picture goes to the detector, which gives, for 2254 anchors, a score, a box and four
points, of which the first is the middle of the hips and the second tells how large the body is and how it leans. About
these lies the square that the second network sees, upright. It gives 33 landmarks, which its heat maps make more exact.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from caffe_compat.errors import FileError, UsageError
from caffe_compat.extras import require

from ..joint_orders import MEDIAPIPE33
from ..people import Person, overlap
from .patches import Patch

__all__ = ["MediaPipe"]

# Sides of the two networks' inputs, and the steps of the detector's grids: two anchors for each place of each grid.
_SEEN, _CLOSE = 224, 256
_STEPS = (8, 16, 32, 32, 32)
# A detection: x, y, width, height, then points.
_VALUES, _POINTS_FROM = 12, 4
# A landmark: x, y, z in pixels of the input, visibility and presence before the sigmoid. Six more are auxiliary.
_MARKS, _MARK_VALUES = 39, 5
_SURE = 0.5
_SAME_DETECTION = 0.3
# Boxes of two results that are one person's.
_SAME_PERSON = 0.5
# The square is larger than the circle about the body by a quarter.
_ROOM = 1.25
# Heat maps: how far about a landmark they are looked at.
_REACH = 3


class _Network(Protocol):
    """One network: a picture in, arrays out."""

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]: ...


class MediaPipe:
    """People as MediaPipe's networks find them, several in a picture.

    Args:
        person_model: ``pose_detection.tflite``. pose_model: ``pose_landmark_full.tflite``, ``_lite`` or ``_heavy``.

    Raises:
        MissingExtraError: no ai-edge-litert. FileError: files that are not there, or of other networks.

    Example:
        >>> detector = MediaPipe("pose_detection.tflite", "pose_landmark_full.tflite")
        >>> detector.joints.name, detector.people(np.zeros((480, 640, 3), np.uint8))
        ('MEDIAPIPE33', [])
    """

    joints = MEDIAPIPE33

    def __init__(self, person_model: str | os.PathLike[str], pose_model: str | os.PathLike[str]) -> None:
        anchors = len(_ANCHORS)
        self._detector: _Network = _LiteRT(person_model, _SEEN, [(anchors, _VALUES), (anchors, 1)])
        grid = _CLOSE // 4
        self._landmarks: _Network = _LiteRT(pose_model, _CLOSE, [(_MARKS * _MARK_VALUES,), (1,), (grid, grid, _MARKS)])

    def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
        """See :class:`.protocol.Detector`. Those of ``before`` come first, as far as they are still there."""
        found: list[Person] = []
        for patch in (*map(_about_person, before), *self._detections(picture)):
            person = self._person(picture, patch)
            if person is not None and all(overlap(person.box, other.box) < _SAME_PERSON for other in found):
                found.append(person)
        return found

    def _detections(self, picture: np.ndarray) -> list[Patch | None]:
        """The squares about the bodies that the detector sees, the surest first; None about one without size."""
        height, width = picture.shape[:2]
        side = float(max(height, width))
        whole = Patch((width / 2, height / 2), (side, side))
        pixels = whole.cut(picture, _SEEN, _SEEN, beyond=0)[..., ::-1].astype(np.float32) / 127.5 - 1
        raw, logits = self._detector(pixels)
        scores = _sigmoid(logits[:, 0].clip(-100, 100))
        likely = np.flatnonzero(scores >= _SURE)
        values = raw[likely] / _SEEN
        # All but width and height are relative to the anchor.
        values[:, :2] += _ANCHORS[likely]
        values[:, _POINTS_FROM:] += np.tile(_ANCHORS[likely], (_VALUES - _POINTS_FROM) // 2)
        patches: list[Patch | None] = []
        for one in _merged(values, scores[likely]):
            hips, end = whole.to_picture(one[_POINTS_FROM : _POINTS_FROM + 4].reshape(2, 2))
            patches.append(_upright(hips, end))
        return patches

    def _person(self, picture: np.ndarray, patch: Patch | None) -> Person | None:
        """Who is in that square, if the network says that there is somebody."""
        if patch is None:
            return None
        pixels = patch.cut(picture, _CLOSE, _CLOSE)[..., ::-1].astype(np.float32) / 255
        marks, there, maps = self._landmarks(pixels)
        if there[0] < _SURE:
            return None
        values = marks.reshape(_MARKS, _MARK_VALUES)[: len(MEDIAPIPE33)].astype(np.float64)
        points = _by_heat_maps(values[:, :2] / _CLOSE, maps[..., : len(MEDIAPIPE33)])
        return Person(patch.to_picture(points), _sigmoid(values[:, 3]))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values.astype(np.float64))))


def _anchors() -> np.ndarray:
    """(2254, 2): the middles of the anchors, fractions of the input's side. All are one side wide."""
    rows = []
    for step in _STEPS:
        places = (np.arange(_SEEN // step) + 0.5) / (_SEEN // step)
        grid = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
        rows.append((step, np.repeat(grid, 2, 0)))
    # Grids of one step are one layer: all anchors of a place lie beside each other.
    fine = [grid for step, grid in rows if step != _STEPS[-1]]
    coarse = [grid.reshape(-1, 2, 2) for step, grid in rows if step == _STEPS[-1]]
    return np.concatenate([*fine, np.concatenate(coarse, 1).reshape(-1, 2)])


_ANCHORS = _anchors()


def _merged(values: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Detections of one person as one: their mean, weighted by their scores; the surest person first."""
    boxes = np.concatenate([values[:, :2] - values[:, 2:4] / 2, values[:, 2:4]], 1)
    left = np.argsort(-scores, kind="stable").tolist()
    merged = []
    while left:
        same = [k for k in left if k == left[0] or overlap(boxes[left[0]], boxes[k]) > _SAME_DETECTION]
        merged.append(np.average(values[same], axis=0, weights=scores[same]))
        left = [k for k in left if k not in same]
    return merged


def _upright(hips: np.ndarray, end: np.ndarray) -> Patch | None:
    """The square about a circle, whose middle are the hips, through ``end``; up in it is from the hips to ``end``."""
    across = end - hips
    side = _ROOM * 2 * float(np.hypot(*across))
    if not side >= 1:
        return None
    angle = math.pi / 2 - math.atan2(-across[1], across[0])
    return Patch((float(hips[0]), float(hips[1])), (side, side), angle)


_HIPS = [MEDIAPIPE33.index(side + "Hip") for side in "LR"]
_SHOULDERS = [MEDIAPIPE33.index(side + "Shoulder") for side in "LR"]


def _about_person(person: Person) -> Patch | None:
    """Where someone is looked for in the next frame: about the hips as far as the farthest joint, trunk upright."""
    hips, shoulders = person.points[_HIPS].mean(0), person.points[_SHOULDERS].mean(0)
    reach = float(np.linalg.norm(person.points - hips, axis=1).max())
    trunk = float(np.linalg.norm(shoulders - hips))
    if trunk < 1 or not math.isfinite(reach):
        return None
    return _upright(hips, hips + (shoulders - hips) * reach / trunk)


def _by_heat_maps(points: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Landmarks (33, 2), fractions of the side, where the heat about each says that they are, if it is sure."""
    side, refined = maps.shape[0], points.copy()
    for k, (x, y) in enumerate(points * side):
        column, row = int(x), int(y)
        if not (0 <= column < side and 0 <= row < side):
            continue
        top, left = max(0, row - _REACH), max(0, column - _REACH)
        heat = _sigmoid(maps[top : row + _REACH + 1, left : column + _REACH + 1, k])
        if heat.max() >= _SURE:
            rows, columns = np.indices(heat.shape)
            place = np.array([(heat * (left + columns)).sum(), (heat * (top + rows)).sum()]) / heat.sum()
            refined[k] = place / side
    return refined


class _LiteRT:
    """A network of a ``.tflite`` file, with one input (1, side, side, 3)."""

    def __init__(self, path: str | os.PathLike[str], side: int, outputs: list[tuple[int, ...]]) -> None:
        name = os.fspath(path)
        interpreter = require("ai_edge_litert.interpreter", "detect").Interpreter
        if not os.path.isfile(name):
            raise FileError("there is no such file", path=name)
        try:
            self._net: Any = interpreter(model_path=name)
            self._net.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise FileError(f"is no network that LiteRT can run: {str(error)[:100]}", path=name) from error
        inputs = [tuple(each["shape"].tolist()) for each in self._net.get_input_details()]
        shapes = [tuple(each["shape"][1:].tolist()) for each in self._net.get_output_details()]
        if inputs != [(1, side, side, 3)] or any(shape not in shapes for shape in outputs):
            raise FileError(
                f"an input (1, {side}, {side}, 3) and outputs {_listed(outputs)} were expected, found inputs "
                f"{_listed(inputs)} and outputs {_listed(shapes)}; the person model is pose_detection.tflite, the pose "
                "model pose_landmark_full.tflite, both of MediaPipe 0.10.21",
                path=name,
            )
        self._input = self._net.get_input_details()[0]["index"]
        details = self._net.get_output_details()
        self._outputs = [details[shapes.index(shape)]["index"] for shape in outputs]

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        self._net.set_tensor(self._input, np.ascontiguousarray(pixels[None], np.float32))
        self._net.invoke()
        found = [np.asarray(self._net.get_tensor(index))[0] for index in self._outputs]
        if not all(np.isfinite(values).all() for values in found):
            raise UsageError("the detector's network gives values that are no numbers")
        return found


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
