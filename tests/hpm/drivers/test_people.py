"""Several people in one video: a folder, a recurrent state and exports each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import CaffeCompatWarning, UsageError
from hpm.bridging import bridge
from hpm.detectors import Detector
from hpm.drivers.footage_squares import squares_about
from hpm.drivers.predict import predict
from hpm.joint_orders import H36M16
from hpm.people import Person
from tests.hpm.tiny import random_frames, tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(nothing that it knows|too few joints|were not seen):caffe_compat.errors.CaffeCompatWarning"
)

FRAMES = 12


class _Two:
    """Finds two people: one large and always there, one who goes after ten frames."""

    joints = H36M16

    def __init__(self, left_out: int | None = None) -> None:
        self.seen = 0
        self._left_out = left_out
        rng = np.random.RandomState(5)
        self.points = [rng.uniform(4, 44, (FRAMES, 16, 2)), rng.uniform(50, 80, (FRAMES, 16, 2))]

    def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
        k = self.seen
        self.seen += 1
        there = [0, 1] if k < 10 else [0]
        return [Person(self.points[who][k], np.full(16, 0.8)) for who in there if who != self._left_out]


@pytest.fixture
def model(reference: Path, tmp_path: Path) -> Path:
    return tiny_model(reference, tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, frame in enumerate(random_frames(FRAMES, height=80, width=90)):
        assert cv2.imwrite(str(folder / f"{k:02d}.png"), frame)
    return folder


def test_each_person_as_if_alone(model: Path, pictures: Path, tmp_path: Path) -> None:
    def run(name: str, detector: Detector, people: object) -> Path:
        done = predict(
            pictures,
            model,
            tmp_path / name,
            detector=detector,
            people=people,  # type: ignore[arg-type]
            exports=[tmp_path / f"{name}.npy"],
        )
        assert [each.footage.frames for each in (done, *done.others)] == [FRAMES] * (1 + len(done.others))
        return tmp_path / name

    both = run("both", _Two(), "all")
    alone = [run("first", _Two(left_out=1), "largest"), run("second", _Two(left_out=0), 1) / "person1"]
    for number, other in enumerate(alone, 1):
        root = both / f"person{number}"
        assert sorted(path.name for path in root.iterdir()) == sorted(path.name for path in other.iterdir())
        for name in ("coarse_norm.csv", "refined_mm.txt", "frames.csv", "keypoints.npy", "pose2d.csv"):
            assert (root / name).read_bytes() == (other / name).read_bytes(), name
    for number, name in ((1, "first.npy"), (2, "second-person1.npy")):
        np.testing.assert_array_equal(np.load(tmp_path / f"both-person{number}.npy"), np.load(tmp_path / name))
    rows = (both / "person2" / "frames.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["seen"] * 10 + ["none"] * 2
    # What was detected is a file that can be given in place of the detector.
    again = predict(pictures, model, tmp_path / "again", keypoints=both / "person1" / "keypoints.npy")
    first = np.load(both / "person1" / "keypoints.npy")
    np.testing.assert_array_equal(first[..., :2], _Two().points[0])
    assert again.footage.refined


def test_the_largest_without_a_word_is_told(model: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.warns(CaffeCompatWarning, match="pictures: up to 2 people in a frame; the one who fills most"):
        predict(pictures, model, tmp_path / "out", detector=_Two())
    with pytest.warns(CaffeCompatWarning, match="3 people were asked for, and there are 2"):
        predict(pictures, model, tmp_path / "three", detector=_Two(), people=3)


def test_what_does_not_go_together(model: Path, pictures: Path, tmp_path: Path) -> None:
    out, points = tmp_path / "out", np.ones((FRAMES, 16, 2))
    with pytest.raises(UsageError, match="not from both"):
        predict(pictures, model, out, detector=_Two(), keypoints=points)
    with pytest.raises(UsageError, match="--people goes with --detect or --keypoints"):
        predict(pictures, model, out, people="all")
    with pytest.raises(UsageError, match="boxes and ground truth are those of one person"):
        predict(pictures, model, out, detector=_Two(), people=2, boxes=np.array([0, 0, 9, 9]))
    with pytest.raises(UsageError, match="the detector's joints are H36M16"):
        predict(pictures, model, out, detector=_Two(), joints="COCO17")
    nobody = _Two()
    nobody.people = lambda picture, before=(): []  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="finds nobody in the 12 frames of pictures"):
        predict(pictures, model, out, detector=nobody)
    assert not out.exists()


def test_squares_are_steadier_than_joints() -> None:
    rng = np.random.default_rng(1)
    path = np.linspace(0, 300, 60)[:, None, None] + rng.uniform(0, 100, (1, 16, 2))
    trembling = bridge(path + rng.normal(0, 3, path.shape))
    still = squares_about(bridge(path), 0.1)

    def off(steady: float) -> float:
        squares = squares_about(trembling, 0.1, steady)
        return float(np.abs(squares.side - still.side)[6:-6].std())

    assert off(2.0) < 0.6 * off(0.0)
    # Where nothing trembles, an even path is left as it is.
    steady = squares_about(bridge(path), 0.1, 2.0)
    np.testing.assert_allclose(steady.corner[6:-6], still.corner[6:-6], atol=1e-6)
