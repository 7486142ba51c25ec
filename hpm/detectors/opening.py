"""Detectors by name, from their files."""

from __future__ import annotations

import os
from typing import Literal

from caffe_compat.errors import FileError, UsageError

from .mediapipe import MediaPipe
from .protocol import Detector
from .rtmpose import RTMPose

__all__ = ["KINDS", "Kind", "open_detector"]

Kind = Literal["mediapipe", "rtmpose", "none"]
KINDS: tuple[Kind, ...] = ("mediapipe", "rtmpose", "none")

_GET = {
    "mediapipe": "its person model is pose_detection.tflite, its pose model pose_landmark_full.tflite; both lie in the "
    "wheel of mediapipe 0.10.21 (pip download --no-deps mediapipe==0.10.21; unzip mediapipe-0.10.21-*.whl), the pose "
    "models also in the npm package @mediapipe/pose",
    "rtmpose": "its person model is RTMDet's end2end.onnx, its pose model RTMPose's; both lie in the ONNX archives "
    "that mmpose's projects/rtmpose/README.md links to",
}


def open_detector(
    kind: Kind, person_model: str | os.PathLike[str] | None, pose_model: str | os.PathLike[str] | None
) -> Detector | None:
    """The detector of that name; None for ``none``.

    Args:
        person_model: the file of the network that finds people. pose_model: of the one that finds their joints.

    Raises:
        UsageError: another name; files that are not given, or given for ``none``.
        FileError: one that is not there, or another network's; either says what to get.
        MissingExtraError: the package that runs them is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"detector {kind!r}: {', '.join(KINDS)} was expected")
    given = {"--person-model": person_model, "--pose-model": pose_model}
    if kind == "none":
        if named := [name for name, path in given.items() if path is not None]:
            raise UsageError(f"{named[0]} goes with --detect mediapipe or rtmpose")
        return None
    if person_model is None or pose_model is None:
        lacking = " and ".join(name for name, path in given.items() if path is None)
        raise UsageError(f"--detect {kind} needs {lacking}: {_GET[kind]}")
    for path in (person_model, pose_model):
        if not os.path.isfile(path):
            raise FileError(f"there is no such file; of {kind}, {_GET[kind]}", path=os.fspath(path))
    return MediaPipe(person_model, pose_model) if kind == "mediapipe" else RTMPose(person_model, pose_model)
