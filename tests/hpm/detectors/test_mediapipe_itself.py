"""MediaPipe's own networks on a photograph of a person: the astronaut of scikit-image's wheel (NASA, public domain).

The networks lie in mediapipe's wheel. What is expected is what ``mediapipe.solutions.pose.Pose(static_image_mode=True,
model_complexity=1)`` of mediapipe 0.10.21 gave, recorded once: x and y in pixels, visibility.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hpm.joint_orders import MEDIAPIPE33

pytestmark = pytest.mark.network

RECORDED = {
    "Nose": (222.7, 128.0, 1.0),
    "LEye": (248.9, 112.5, 1.0),
    "REye": (205.0, 103.3, 1.0),
    "LEar": (268.0, 122.8, 1.0),
    "REar": (190.4, 107.4, 1.0),
    "LShoulder": (306.2, 256.6, 1.0),
    "RShoulder": (112.7, 240.0, 1.0),
    "LElbow": (322.5, 374.9, 0.3),
    "RElbow": (64.6, 413.6, 0.8),
}

LOOK = """
import sys
import numpy as np
from caffe_compat.formats.images import read_picture
from hpm.detectors import open_detector
detector = open_detector("mediapipe", *sys.argv[1:3])
people = detector.people(read_picture(sys.argv[3], "color"))
np.save(sys.argv[4], [np.column_stack([each.points, each.confidence]) for each in people])
"""


def _downloaded(package: str, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *options]
    subprocess.run([*command, package], check=True)
    (wheel,) = folder.glob(f"{package.partition('=')[0].replace('-', '_')}-*.whl")
    return wheel


def test_the_astronaut(tmp_path: Path) -> None:
    # mediapipe's wheels are there up to Python 3.12; of its code nothing runs.
    other = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64")
    with zipfile.ZipFile(_downloaded("mediapipe==0.10.21", tmp_path, *other)) as wheel:
        modules = "mediapipe/modules"
        person = wheel.extract(f"{modules}/pose_detection/pose_detection.tflite", tmp_path)
        pose = wheel.extract(f"{modules}/pose_landmark/pose_landmark_full.tflite", tmp_path)
    with zipfile.ZipFile(_downloaded("scikit-image==0.26.0", tmp_path)) as wheel:
        picture = wheel.extract("skimage/data/astronaut.png", tmp_path)
    runtime = tmp_path / "runtime"
    with zipfile.ZipFile(_downloaded("ai-edge-litert", tmp_path)) as wheel:
        wheel.extractall(runtime)
    places = os.pathsep.join([str(runtime), str(Path(__file__).parents[3])])
    found = tmp_path / "found.npy"
    command = [sys.executable, "-c", LOOK, person, pose, picture, str(found)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": places})
    (marks,) = np.load(found)
    for joint, expected in RECORDED.items():
        x, y, sure = marks[MEDIAPIPE33.index(joint)]
        # Of 512 pixels: two where MediaPipe is sure, more for an arm beyond the edge of which it is not.
        assert (x, y) == pytest.approx(expected[:2], abs=2 if expected[2] == 1.0 else 10), joint
        assert sure == pytest.approx(expected[2], abs=0.06), joint
