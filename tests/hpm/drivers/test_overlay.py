"""Whole frames beside the poses: where the 2D pose lies, what the frames are called, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import UsageError
from hpm.datasets.cameras import Crop
from hpm.drivers import predict_outputs
from hpm.drivers.predict import predict
from hpm.files.pictures import FramesInOrder, frame_names
from hpm.visualize import Scene
from tests.hpm.tiny import random_frames, tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(nothing that it knows|too few joints|were not seen|2D poses):caffe_compat.errors.CaffeCompatWarning"
)


@pytest.fixture
def model(reference: Path, tmp_path: Path) -> Path:
    return tiny_model(reference, tmp_path)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Nine frames of 96 x 48, each of one grey: 20, 40 and so on."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 48))
    for k in range(9):
        writer.write(np.full((48, 96, 3), 20 * (k + 1), np.uint8))
    writer.release()
    return path


def test_a_scene_of_whole_frames(model: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Scene] = []
    monkeypatch.setattr(predict_outputs, "save_scene", lambda scene, path, **options: drawn.append(scene))
    points = np.random.RandomState(1).uniform(5, 43, (3, 16, 2))
    points[1] = 0  # nobody was found
    truth = np.random.RandomState(2).normal(0, 300, (3, 16, 3))
    np.save(tmp_path / "k.npy", points)
    predict(
        video,
        model,
        tmp_path / "out",
        every=4,
        keypoints=tmp_path / "k.npy",
        overlay=tmp_path / "a.mp4",
        truth=truth,
    )
    (scene,) = drawn
    # Frames of the video's own numbers.
    assert [scene.name(k) for k in range(3)] == ["frame 0", "frame 4", "frame 8"]
    assert scene.pictures is not None
    for k in (0, 2, 1):
        picture = scene.pictures[k]
        assert picture.shape == (48, 96, 3)
        assert abs(float(picture.mean()) - 20 * (4 * k + 1)) < 3
    np.testing.assert_allclose(scene.pose2d_pixels[[0, 2]], points[[0, 2]], atol=1e-4)
    assert scene.poses["truth"] is not None
    np.testing.assert_array_equal(scene.poses["truth"], truth)
    with pytest.raises(UsageError, match=r"ground truth of shape \(3, 16, 3\) was expected, found \(2, 16, 3\)"):
        predict(video, model, tmp_path / "out", every=4, overlay=tmp_path / "a.mp4", truth=truth[:2])
    with pytest.raises(UsageError, match="--truth goes with --overlay"):
        predict(video, model, tmp_path / "out", truth=truth)


def test_frames_in_order_and_back(tmp_path: Path) -> None:
    pictures = random_frames(5)
    for k, picture in enumerate(pictures):
        assert cv2.imwrite(str(tmp_path / f"{k}.png"), picture)
    frames = FramesInOrder([tmp_path], 2, 3)
    for k in (0, 1, 2, 2, 0):
        np.testing.assert_array_equal(frames[k], pictures[2 * k])
    assert [len(FramesInOrder([tmp_path], 2, 3)), frame_names([tmp_path], 2, 3)[2]] == [3, "frame 4: 4.png"]
    with pytest.raises(IndexError):
        frames[3]
    with pytest.raises(UsageError, match="3 frames, and there were 4"):
        FramesInOrder([tmp_path], 2, 4)[3]


def test_pixels_and_fractions_of_a_crop() -> None:
    crop = Crop(np.array([[10.0, 20.0]]), np.array([50.0]))
    points = np.random.RandomState(0).uniform(0, 90, (1, 16, 2))
    np.testing.assert_allclose(crop.pixels(crop.fractions(points)), points)
