"""What 2D detectors write, read as the same poses whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import CaffeCompatWarning, FileError, UsageError
from hpm.files.keypoints import Keypoints, read_keypoints
from hpm.skeleton import COCO17, COCO133, H36M16, HALPE26, MEDIAPIPE33, Skeleton, conversion, skeleton

FRAMES = 6


def _detected(joints: Skeleton) -> np.ndarray:
    """(frames, joints, 3): x, y, confidence; what lies far below is nobody's."""
    rng = np.random.default_rng(len(joints))
    values = rng.uniform(50, 90, (FRAMES, len(joints), 3))
    values[..., 2] = rng.uniform(0.4, 1, (FRAMES, len(joints)))
    return values


def _expected(values: np.ndarray, joints: Skeleton) -> Keypoints:
    to = conversion(joints, H36M16)
    return Keypoints(to(values[..., :2]), to.confidence(values[..., 2]))


def _same(found: Keypoints, expected: Keypoints) -> None:
    np.testing.assert_allclose(found.points, expected.points, rtol=1e-12)
    np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-12)


def _write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def _instances(values: np.ndarray, first: int) -> list[dict[str, Any]]:
    return [
        {
            "frame_id": first + k,
            "instances": [{"keypoints": row[:, :2].tolist(), "keypoint_scores": row[:, 2].tolist()}],
        }
        for k, row in enumerate(values)
    ]


@pytest.mark.parametrize(("dataset", "joints"), [("coco", COCO17), ("halpe26", HALPE26), ("coco_wholebody", COCO133)])
def test_mmpose(dataset: str, joints: Skeleton, tmp_path: Path) -> None:
    values = _detected(joints)
    content = {"meta_info": {"dataset_name": dataset}, "instance_info": _instances(values, 1)}
    path = _write(tmp_path / "a.json", content)
    _same(read_keypoints(path), _expected(values, joints))
    # Without a name of the data set nothing tells the order: 17 joints may be COCO's or Human3.6M's.
    bare = _write(tmp_path / "b.json", _instances(values, 0))
    with pytest.raises(FileError, match="nothing in it tells the order of its joints; name it with --joints"):
        read_keypoints(bare)
    _same(read_keypoints(bare, joints), _expected(values, joints))
    with pytest.raises(FileError, match=f"in the order of {joints.name}, not of MPII16"):
        read_keypoints(path, skeleton("MPII16"))


@pytest.mark.parametrize("joints", [COCO17, HALPE26, COCO133])
@pytest.mark.parametrize("name", ["{}.jpg", "{}"])
def test_alphapose_and_coco_results(name: str, joints: Skeleton, tmp_path: Path) -> None:
    """Frames with nobody are left out of these files."""
    values = _detected(joints)
    numbered = name == "{}"
    entries = [
        {
            "image_id": k if numbered else name.format(k),
            "category_id": 1,
            "keypoints": row.ravel().tolist(),
            "score": 2.5,
        }
        for k, row in enumerate(values)
        if k != 3
    ]
    path = _write(tmp_path / "a.json", entries)
    expected = _expected(values, joints)
    expected.points[3], expected.confidence[3] = np.nan, 0
    found = read_keypoints(path)
    _same(found, expected)
    assert not found.whole
    # Of pictures, by their names or the numbers in them.
    pictures = [f"somewhere/{k:012d}.jpg" if numbered else f"somewhere/{k}.jpg" for k in range(FRAMES)]
    backwards = read_keypoints(path, pictures=pictures[::-1])
    np.testing.assert_array_equal(backwards.points, expected.points[::-1])
    with pytest.raises(UsageError, match="none of which is among the pictures"):
        read_keypoints(path, pictures=["other.jpg"])
    if numbered:
        with pytest.warns(CaffeCompatWarning, match="no image_id is 0"):
            read_keypoints(_write(tmp_path / "b.json", entries[1:]))


def test_openpose(tmp_path: Path) -> None:
    joints = skeleton("BODY25")
    values, other = _detected(joints), _detected(joints)
    other[..., :2] = other[..., :2] / 8 + 400  # a small person, elsewhere
    for k, row in enumerate(values):
        people = [{"person_id": [-1], "pose_keypoints_2d": each.ravel().tolist()} for each in (other[k], row)]
        _write(tmp_path / f"walk_{k:012d}_keypoints.json", {"version": 1.3, "people": people if k != 2 else []})
    with pytest.warns(CaffeCompatWarning, match="up to 2 people in a frame; the one who fills most"):
        found = read_keypoints(tmp_path)
    expected = _expected(values, joints)
    expected.points[2], expected.confidence[2] = np.nan, 0
    _same(found, expected)


@pytest.mark.parametrize("wrapped", [lambda marks: marks, lambda marks: {"landmark": marks}])
def test_mediapipe(wrapped: Callable[[object], object], tmp_path: Path) -> None:
    values = _detected(MEDIAPIPE33)
    values[..., :2] /= 100
    frames: list[object] = [
        wrapped([{"x": x, "y": y, "z": 0.1, "visibility": sure} for x, y, sure in row]) for row in values.tolist()
    ]
    frames[4] = None
    found = read_keypoints(_write(tmp_path / "a.json", frames))
    expected = _expected(values, MEDIAPIPE33)
    expected.points[4], expected.confidence[4] = np.nan, 0
    assert found.fractions
    _same(found, expected)
    np.testing.assert_allclose(found.in_pixels(320, 200).points, expected.points * (320, 200))
    np.save(tmp_path / "a.npy", np.insert(values, 2, 0.1, axis=2))
    array = read_keypoints(tmp_path / "a.npy", MEDIAPIPE33)
    assert array.fractions
    np.testing.assert_allclose(array.points[:4], expected.points[:4])
    np.testing.assert_allclose(array.confidence[:4], expected.confidence[:4])


def test_videopose3d(tmp_path: Path) -> None:
    values = _detected(COCO17)
    symmetry = [[k for k, name in enumerate(COCO17.joints) if name[0] == side] for side in "LR"]
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": symmetry, "video_metadata": {}}
    takes = {f"{name}.mp4": {"custom": [values[..., :2] + k]} for k, name in enumerate("ab")}
    np.savez(tmp_path / "a.npz", positions_2d=np.array(takes), metadata=np.array(metadata))
    values[..., :2] += 1
    values[..., 2] = 1
    _same(read_keypoints(tmp_path / "a.npz", video="b.mp4"), _expected(values, COCO17))
    with pytest.raises(FileError, match=r"has the 2D poses of a\.mp4, b\.mp4, and none of c\.mp4"):
        read_keypoints(tmp_path / "a.npz", video="c.mp4")


def test_arrays(tmp_path: Path) -> None:
    values = _detected(COCO17)
    values[1, 0] = 0, 0, 0.9  # where detectors put what they do not find
    values[2, 3, 0] = np.nan
    np.save(tmp_path / "a.npy", values)
    found = read_keypoints(tmp_path / "a.npy", COCO17)
    assert found.confidence[2, H36M16.index("Head")] > 0  # the ear is no part of it
    assert found.whole
    np.save(tmp_path / "b.npy", values[..., :2])
    plain = read_keypoints(tmp_path / "b.npy", COCO17)
    np.testing.assert_array_equal(plain.points, found.points)
    assert set(np.unique(plain.confidence)) == {1.0}
    values[..., 2] -= 1
    np.save(tmp_path / "c.npy", values)
    with pytest.raises(FileError, match="has confidence -0"):
        read_keypoints(tmp_path / "c.npy", COCO17)


def _result(image_id: str) -> str:
    return f'[{{"image_id": {image_id}, "keypoints": {[1] * 51}}}]'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("7", "found a int"),
        ("[]", "tells of no frame"),
        ('{"annotations": []}', "found an object with annotations"),
        ('[{"image_id": "0.jpg", "keypoints": [1, 2, 3]}]', "nothing in it tells the order"),
        ('[{"image_id": "0.jpg", "keypoints": 7}]', "entry 0: keypoints in a list were expected, found int"),
        (_result('"walk.jpg"'), "'walk.jpg' is a picture's name"),
        (_result("99999999999"), "numbers below 10000000 were"),
        ('[{"frame_id": 0, "instances": [{"keypoints": [[1, 2]]}]}]', "keypoints of COCO17 of shape"),
        ('[{"frame_id": 5, "instances": []}]', "frame_ids begin with 5"),
        ('[{"frame_id": 0, "instances": []}, {"frame_id": 0, "instances": []}]', "there twice"),
        ('{"people": [7]}', "pose_keypoints_2d of BODY25 of shape"),
        ('{"people": []}', "tells of nobody"),
        ("[[7]]", "33 landmarks with x and y were expected"),
        ("[" * 2000, "is no JSON"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no image_id is 0:caffe_compat.errors.CaffeCompatWarning")
def test_other_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    order = COCO17 if "instances" in content else None
    with pytest.raises(FileError, match=message) as caught:
        read_keypoints(path, order)
    assert str(caught.value).startswith(str(path))
