"""MPII and KTH Multiview Football II in the formats that people have."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from caffe_compat.data.lists import read_image_list
from caffe_compat.errors import FileError, UsageError
from hpm.datasets.bodies import MEAN_LENGTHS, motion, pose
from hpm.datasets.kth import camera_pose, prepare_kth, read_kth
from hpm.datasets.mpii import prepare_mpii, read_mpii
from hpm.scaling import bone_lengths, bounds_of, denormalise
from hpm.skeleton import H36M16, H36M17, KTH14, MPII16, convert, left_right_suspect

# MPII


def _points() -> np.ndarray:
    """(2, 16, 2): two people in MPII's order, pixels from 0, every value different."""
    rng = np.random.default_rng(5)
    return rng.uniform(20, 180, (2, 16, 2)).round(1)


def _write_json(path: Path, kind: str) -> None:
    one, two = _points() + 1
    seen = np.ones(16)
    seen[4] = 0
    two[4] = 0
    entries: list[dict[str, object]] = []
    for name, joints, visible in (("a.png", one, np.ones(16)), ("b.png", two, seen)):
        if kind == "joint_self":
            entries.append({"img_paths": name, "joint_self": np.column_stack([joints, visible]).tolist()})
        else:
            entries.append({"image": name, "joints": joints.tolist(), "joints_vis": visible.astype(int).tolist()})
    path.write_text(json.dumps(entries))


def _write_mat(path: Path) -> None:
    one, two = _points() + 1

    def person(joints: np.ndarray, keep: range | list[int]) -> dict[str, object]:
        # Not in the order of their ids, as in the real file.
        points = [{"x": joints[k, 0], "y": joints[k, 1], "id": k, "is_visible": 1} for k in reversed(keep)]
        return {"annopoints": {"point": _structs(points)}, "scale": 1.0}

    pictures = [
        {"image": {"name": "a.png"}, "annorect": person(one, range(16))},
        {"image": {"name": "b.png"}, "annorect": person(two, [k for k in range(16) if k != 4])},
        {"image": {"name": "test.png"}, "annorect": {"x1": 3.0}},
    ]
    savemat(path, {"RELEASE": {"annolist": _structs(pictures), "img_train": np.array([1, 1, 0])}})


def _structs(entries: list[dict[str, object]]) -> np.ndarray:
    """A MATLAB struct array."""
    result = np.zeros(len(entries), dtype=[(key, object) for key in entries[0]])
    for k, entry in enumerate(entries):
        result[k] = tuple(entry.values())
    return result


@pytest.mark.parametrize("kind", ["joint_self", "joints", "mat"])
def test_mpii_in_every_format(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("mpii.mat" if kind == "mat" else "mpii.json")
    if kind == "mat":
        _write_mat(path)
    else:
        _write_json(path, kind)
    first, second = read_mpii(path)
    assert (first.image, second.image) == ("a.png", "b.png")
    np.testing.assert_allclose(first.points, _points()[0])
    assert first.present.all()
    assert np.flatnonzero(~second.present).tolist() == [4]
    others = [k for k in range(16) if k != 4]
    np.testing.assert_allclose(second.points[others], _points()[1][others])


def test_mpii_prepared(tmp_path: Path) -> None:
    _write_json(tmp_path / "mpii.json", "joints")
    head = _points()[0, MPII16.index("HeadTop")]
    picture = np.zeros((200, 220, 3), np.uint8)
    cv2.circle(picture, np.rint(head).astype(int).tolist(), 6, (250, 250, 250), -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    done = prepare_mpii(tmp_path / "mpii.json", tmp_path, tmp_path / "out", image_size=64)
    assert (done.persons, done.incomplete, done.unreadable) == (1, 1, ())
    entries = read_image_list(str(done.folder.mpii_list), 33)
    values = np.array(entries.labels(0))
    assert values[-1] == 0
    crop = cv2.imread(str(done.folder.mpii / entries.name(0)))
    bright = np.argwhere(crop[..., 0] > 128).mean(0)
    x, y = values[2 * H36M16.index("Head") :][:2] * 64
    np.testing.assert_allclose(bright, [y - 0.5, x - 0.5], atol=1)


def test_mpii_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "mpii.json"
    _write_json(path, "joints")
    with pytest.raises(UsageError, match="none of 1 pictures can be read"):
        prepare_mpii(path, tmp_path, tmp_path / "out")
    for text, message in (
        ("{", "is no json"),
        ("{}", "a list of persons was expected"),
        ('[{"image": "a", "joints": [[1, 2]], "joints_vis": [1]}]', "person 0"),
        ('[{"image": "a"}]', "person 0: KeyError"),
    ):
        path.write_text(text)
        with pytest.raises(FileError, match=message):
            read_mpii(path)
    (tmp_path / "other.mat").write_bytes(b"no matlab file")
    with pytest.raises(FileError, match="is not MPII's release"):
        read_mpii(tmp_path / "other.mat")


# KTH

FRAMES = 4


def _body() -> np.ndarray:
    """(frames, 14, 3): a made-up walker in a unit of its own, in the order of KTH14."""
    joints = pose(motion("Walking", np.arange(FRAMES) / 5, np.random.default_rng(2)))
    return convert(convert(joints, H36M17, H36M16), H36M16, KTH14) / 700


def _cameras() -> np.ndarray:
    """(frames, 3, 2, 4): cameras from three sides, each turned a little from frame to frame. y points down."""
    result = np.zeros((FRAMES, 3, 2, 4))
    for k in range(FRAMES):
        for c, azimuth in enumerate((0.1, 2.2, 4.3)):
            a = azimuth + 0.05 * k
            result[k, c] = [[50 * -np.sin(a), 50 * np.cos(a), 0, 300 + c], [0, 0, -50, 200 + k]]
    return result


def _write_kth(folder: Path) -> None:
    body, cameras = _body(), _cameras()
    points = np.zeros((2, 14, 3, FRAMES))
    for k in range(FRAMES):
        for c in range(3):
            points[:, :, c, k] = cameras[k, c] @ np.vstack([body[k].T, np.ones(14)])
    arrays = {
        "positions2d": points,
        "positions3d": body.transpose(2, 1, 0),
        "cameras": cameras.transpose(2, 3, 1, 0),
    }
    for name, values in arrays.items():
        np.savetxt(folder / f"{name}.txt", values.ravel(order="F"))


def test_kth_is_read_with_the_first_index_fastest(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    sequence = read_kth(tmp_path)
    np.testing.assert_allclose(sequence.pose, _body())
    np.testing.assert_allclose(sequence.cameras, _cameras())
    again = np.einsum("kcij,knj->kcni", sequence.cameras[..., :3], sequence.pose) + sequence.cameras[:, :, None, :, 3]
    np.testing.assert_allclose(sequence.points, again)


def test_camera_axes_agree_with_the_picture() -> None:
    body, cameras = _body(), _cameras()
    seen = camera_pose(body[1], cameras[1, 2])
    flat = body[1] @ cameras[1, 2, :, :3].T
    np.testing.assert_allclose(seen[:, :2] * 50, flat, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), np.linalg.norm(body[1], axis=1))
    assert not left_right_suspect(convert(seen[None], KTH14, H36M16), H36M16).reasons


def test_kth_prepared(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    (tmp_path / "Camera 2").mkdir()
    cv2.imwrite(str(tmp_path / "Camera 2" / "00003.jpg"), np.full((400, 600, 3), 99, np.uint8))
    bounds = bounds_of(np.stack([np.full((16, 3), -1200.0), np.full((16, 3), 1200.0)]), "wide")
    paths = prepare_kth(tmp_path, tmp_path / "out", bounds, image_size=32)
    assert [path.name for path in paths] == ["camera1.txt", "camera2.txt", "camera3.txt"]
    for path in paths:
        entries = read_image_list(str(path), 81)
        values = np.array([entries.labels(k) for k in range(len(entries))])
        assert values[:, -1].tolist() == [0, 1, 1, 1]
        labels = denormalise(values[:, 32:80], bounds).reshape(-1, 16, 3)
        np.testing.assert_allclose(bone_lengths(labels), np.broadcast_to(MEAN_LENGTHS, (4, 16)), atol=0.05)
        # Affine cameras: seen from the hip, the picture is the pose without depth, scaled. The trunk is resized most.
        flat = values[:, :32].reshape(-1, 16, 2)
        legs = [H36M16.index(name) for name in ("RKnee", "RFoot", "LKnee", "LFoot")]
        a, b = (flat - flat[:, :1])[:, legs].ravel(), labels[:, legs, :2].ravel()
        assert np.corrcoef(a, b)[0, 1] > 0.99
    assert cv2.imread(str(tmp_path / "out/images/camera2/00003.jpg")).shape == (32, 32, 3)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 1


def test_kth_that_cannot_be_read(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    path = tmp_path / "positions3d.txt"
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-42]))
    with pytest.raises(FileError, match="4 frames of 2D positions, 3 of 3D positions, 4 of cameras"):
        read_kth(tmp_path)
    path.write_text(whole + "1.5\n")
    with pytest.raises(FileError, match="169 numbers; 42 finite ones for each frame"):
        read_kth(tmp_path)
    path.write_text("a b c")
    with pytest.raises(FileError, match="numbers were expected"):
        read_kth(tmp_path)
