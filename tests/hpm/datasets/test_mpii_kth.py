"""MPII and KTH Multiview Football II in the formats that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from caffe_compat.errors import FileError, UsageError
from caffe_compat.training.data.lists import read_image_list
from hpm.datasets.bodies import MEAN_LENGTHS, motion, pose
from hpm.datasets.kth_football import camera_pose, prepare_kth, read_kth
from hpm.datasets.mpii import prepare_mpii, read_mpii
from hpm.files.folders import KthFolder
from hpm.scaling import REFINEMENT_BOUNDS, Bounds, bone_lengths, bounds_difference, bounds_of, denormalise, read_bounds
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
    two[4] = -1 if kind == "joints" else 0
    entries: list[dict[str, Any]] = []
    for name, joints, visible in (("a.png", one, np.ones(16)), ("b.png", two, seen)):
        place = {"objpos": [51.0, 61.0], "scale_provided": 1.5}
        if kind == "joints":
            place = {"center": [51.0, 61.0], "scale": 1.5}
            entries.append(
                {"image": name, "joints": joints.tolist(), "joints_vis": visible.astype(int).tolist()} | place
            )
        else:
            # A joint that is hidden, yet there.
            flags = visible.copy()
            flags[5] = 0
            entries.append({"img_paths": name, "joint_self": np.column_stack([joints, flags]).tolist()} | place)
    path.write_text(json.dumps({"root": entries} if kind == "root" else entries))


EMPTY = np.zeros((0, 0))


def _write_mat(path: Path, more: int = 0, compressed: bool = True) -> None:
    """``RELEASE`` in the structure of mpii_human_pose_v1_u12_1.mat, with what is odd in it, and ``more`` persons."""
    one, two = _points() + 1

    def person(joints: np.ndarray, lacks: int | None = None) -> dict[str, Any]:
        # Not in the order of their ids; is_visible is a text, or nothing for the upper neck and the top of the head.
        points = [
            {
                "x": joints[k, 0],
                "y": joints[k, 1],
                "id": np.uint8(k),
                "is_visible": EMPTY if k in (8, 9) else str(k % 2),
            }
            for k in (6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15)
            if k != lacks
        ]
        place = _structs([{"x": np.uint16(51), "y": np.uint16(61)}])
        head = {"x1": 3.0, "y1": 4.0, "x2": 5.0, "y2": 6.0}
        return {**head, "annopoints": _structs([{"point": _structs(points)}]), "scale": 1.5, "objpos": place}

    nobody = {"x1": 3.0, "y1": 4.0, "x2": 5.0, "y2": 6.0, "annopoints": EMPTY, "scale": EMPTY, "objpos": EMPTY}
    tested = {"scale": 1.1, "objpos": _structs([{"x": 7.0, "y": 8.0}])}
    pictures = [
        ("a.png", _structs([person(one), nobody]), 1),
        ("b.png", _structs([person(two, lacks=4)]), 1),
        ("test.png", _structs([tested]), 0),
        ("empty.png", EMPTY, 1),
        *((f"{k:09d}.jpg", _structs([person(two)]), 1) for k in range(more)),
    ]
    annolist = [
        {"image": _structs([{"name": name}]), "annorect": people, "frame_sec": EMPTY, "vididx": EMPTY}
        for name, people, _ in pictures
    ]
    single = np.empty((len(pictures), 1), object)
    single[:, 0] = [np.ones((1, 1), np.uint8)] * len(pictures)
    release = {
        "annolist": _structs(annolist),
        "img_train": np.array([[train for _, _, train in pictures]], np.uint8),
        "version": "12",
        "single_person": single,
        "act": _structs([{"act_name": "curling", "cat_name": "winter activities", "act_id": 1}] * len(pictures)),
        "video_list": np.array([["_g1S1xIbqS0"]], object),
    }
    savemat(path, {"RELEASE": _structs([release])}, do_compression=compressed)


def _structs(entries: list[dict[str, Any]]) -> np.ndarray:
    """A MATLAB struct array."""
    result = np.zeros((1, len(entries)), dtype=[(key, object) for key in entries[0]])
    for k, entry in enumerate(entries):
        result[0, k] = tuple(entry.values())
    return result


@pytest.mark.parametrize("kind", ["joint_self", "root", "joints", "mat"])
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
    for person in (first, second):
        assert person.centre is not None
        assert person.centre.tolist() == [50, 60]
        assert person.scale == 1.5


@pytest.mark.slow
def test_thousands_of_persons_in_a_mat(tmp_path: Path) -> None:
    _write_mat(tmp_path / "mpii.mat", more=2000)
    people = read_mpii(tmp_path / "mpii.mat")
    assert len(people) == 2002
    assert people[-1].image == "000001999.jpg"
    np.testing.assert_allclose(people[-1].points, _points()[1])


def test_mats_that_are_cut_short_or_damaged(tmp_path: Path) -> None:
    path, rng = tmp_path / "mpii.mat", np.random.default_rng(8)
    for compressed in (True, False):
        _write_mat(path, compressed=compressed)
        whole = path.read_bytes()
        for length in (0, 1, 100, 130, len(whole) // 2, len(whole) - 9):
            path.write_bytes(whole[:length])
            with pytest.raises(FileError, match=r"mpii\.mat: is not MPII's release"):
                read_mpii(path)
    _write_mat(path)
    whole = path.read_bytes()
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[int(rng.integers(140, len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"mpii\.mat: is not MPII's release"):
            read_mpii(path)


def test_mats_with_other_content(tmp_path: Path) -> None:
    path = tmp_path / "mpii.mat"
    place = {"x": 1.0, "y": 2.0, "id": 16}

    def write(point: dict[str, Any], train: list[int]) -> None:
        people = _structs([{"annopoints": _structs([{"point": _structs([point])}])}])
        pictures = _structs([{"image": _structs([{"name": "a.png"}]), "annorect": people}])
        savemat(path, {"RELEASE": _structs([{"annolist": pictures, "img_train": np.array([train])}])})

    for point, train, message in (
        (place, [1], "picture 1: ValueError joint 16; there are 0 to 15"),
        ({**place, "id": 3, "x": float("nan")}, [1], "picture 1: ValueError joints that are not finite"),
        ({"x": 1.0, "id": 3}, [1], "picture 1: AttributeError"),
        (place, [1, 0], "annolist has 1 pictures, img_train 2"),
    ):
        write(point, train)
        with pytest.raises(FileError, match=message):
            read_mpii(path)
    savemat(path, {"OTHER": 1.0})
    with pytest.raises(FileError, match="is not MPII's release: KeyError 'RELEASE'"):
        read_mpii(path)


def test_mpii_prepared(tmp_path: Path) -> None:
    _write_json(tmp_path / "mpii.json", "joints")
    head = _points()[0, MPII16.index("HeadTop")]
    picture = np.zeros((200, 220, 3), np.uint8)
    cv2.circle(picture, np.rint(head).astype(int).tolist(), 6, (250, 250, 250), -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    told: list[tuple[int, int]] = []
    done = prepare_mpii(
        tmp_path / "mpii.json", tmp_path, tmp_path / "out", image_size=64, progress=lambda *args: told.append(args)
    )
    assert told == [(1, 1)]
    assert (done.persons, done.incomplete, done.missing) == (1, 1, ())
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
    with pytest.raises(UsageError, match="none of 1 pictures is there"):
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


def _write_kth(folder: Path, times: int = 1) -> None:
    """The three files, the frames so many times over."""
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
        np.savetxt(folder / f"{name}.txt", np.tile(values.ravel(order="F"), times))


def test_kth_is_read_with_the_first_index_fastest(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    sequence = read_kth(tmp_path)
    np.testing.assert_allclose(sequence.pose, _body())
    np.testing.assert_allclose(sequence.cameras, _cameras())
    again = np.einsum("kcij,knj->kcni", sequence.cameras[..., :3], sequence.pose) + sequence.cameras[:, :, None, :, 3]
    np.testing.assert_allclose(sequence.points, again)


def test_camera_axes_agree_with_the_picture() -> None:
    body, cameras = _body(), _cameras()
    for camera in range(3):
        seen = camera_pose(body, cameras[:, camera])
        flat = np.einsum("tij,tnj->tni", cameras[:, camera, :, :3], body)
        np.testing.assert_allclose(seen[..., :2] * 50, flat, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), np.linalg.norm(body, axis=-1))
        assert not left_right_suspect(convert(seen, KTH14, H36M16), H36M16).reasons


BOUNDS = bounds_of(np.stack([np.full((16, 3), -1200.0), np.full((16, 3), 1200.0)]), "wide")


def _write_pictures(folder: Path, camera: int, numbers: range, ending: str = ".png") -> None:
    """Grey that tells the frame."""
    (folder / f"Camera {camera}").mkdir()
    for k in numbers:
        picture = np.full((400, 600, 3), 40 * k, np.uint8)
        cv2.imwrite(str(folder / f"Camera {camera}" / f"{k:05d}{ending}"), picture)


def test_kth_prepared(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    _write_pictures(tmp_path, 2, range(1, FRAMES + 1))
    told: list[tuple[int, int]] = []
    done = prepare_kth(tmp_path, tmp_path / "out", BOUNDS, image_size=32, progress=lambda *args: told.append(args))
    assert told == [(FRAMES + k, 3 * FRAMES) for k in range(1, FRAMES + 1)]
    assert [path.name for path in done.lists] == ["camera1.txt", "camera2.txt", "camera3.txt"]
    assert (done.frames, done.pictures) == (FRAMES, FRAMES)
    for path in done.lists:
        entries = read_image_list(str(path), 81)
        values = np.array([entries.labels(k) for k in range(len(entries))])
        assert values[:, -1].tolist() == [0, 1, 1, 1]
        labels = denormalise(values[:, 32:80], BOUNDS).reshape(-1, 16, 3)
        np.testing.assert_allclose(bone_lengths(labels), np.broadcast_to(MEAN_LENGTHS, (4, 16)), atol=0.05)
        # Affine cameras: seen from the hip, the picture is the pose without depth, scaled. The trunk is resized most.
        flat = values[:, :32].reshape(-1, 16, 2)
        legs = [H36M16.index(name) for name in ("RKnee", "RFoot", "LKnee", "LFoot")]
        a, b = (flat - flat[:, :1])[:, legs].ravel(), labels[:, legs, :2].ravel()
        assert np.corrcoef(a, b)[0, 1] > 0.99
        assert entries.name(2) == f"images/{path.stem}/00003.jpg"
    for k in range(1, FRAMES + 1):
        crop = cv2.imread(str(tmp_path / f"out/images/camera2/{k:05d}.jpg"))
        assert crop is not None
        assert crop.shape == (32, 32, 3)
        assert abs(np.median(crop.astype(float)) - 40 * k) < 3
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == FRAMES


def test_kth_labels_lie_beside_their_bounds(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    out = tmp_path / "out"
    wider = Bounds(1.1 * REFINEMENT_BOUNDS.maximum, 1.1 * REFINEMENT_BOUNDS.minimum, "wider")
    prepare_kth(tmp_path, out, wider)
    assert bounds_difference(read_bounds(KthFolder(out).bounds), wider) is None
    before = KthFolder(out).ground_truth(2).read_bytes()
    with pytest.raises(UsageError, match=r"max_min\.csv holds other bounds than these labels': RWrist's minimum of y"):
        prepare_kth(tmp_path, out, REFINEMENT_BOUNDS)
    assert KthFolder(out).ground_truth(2).read_bytes() == before
    prepare_kth(tmp_path, out, wider)


def test_kth_with_its_own_proportions(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    done = prepare_kth(tmp_path, tmp_path / "out", BOUNDS, keep_proportions=True)
    entries = read_image_list(str(done.lists[1]), 81)
    values = np.array([entries.labels(k)[32:80] for k in range(len(entries))])
    lengths = bone_lengths(denormalise(values, BOUNDS).reshape(-1, 16, 3))
    # Affine cameras do not change lengths, and one factor changes all alike.
    own = bone_lengths(convert(_body(), KTH14, H36M16))
    factor = MEAN_LENGTHS.sum() / own.mean(0).sum()
    np.testing.assert_allclose(lengths, factor * own, atol=0.05)
    spine = H36M16.index("Spine")
    assert abs(factor * own[0, spine] - MEAN_LENGTHS[spine]) > 5


def test_a_thousand_frames_of_kth(tmp_path: Path) -> None:
    _write_kth(tmp_path, 250)
    done = prepare_kth(tmp_path, tmp_path / "out", BOUNDS)
    assert (done.frames, done.pictures) == (1000, 0)
    assert len(read_image_list(str(done.lists[2]), 81)) == 1000


def test_kth_pictures_that_are_missing_or_damaged(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    _write_pictures(tmp_path, 1, range(1, FRAMES + 1), ".jpg")
    _write_pictures(tmp_path, 3, range(1, FRAMES))
    with pytest.raises(FileError, match="Camera 3: has pictures, but none called 00004"):
        prepare_kth(tmp_path, tmp_path / "out", BOUNDS, image_size=16)
    assert not list((tmp_path / "out").rglob("*.txt"))
    (tmp_path / "Camera 3/00004.png").write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"Camera 3/00004\.png: is no image that OpenCV can decode"):
        prepare_kth(tmp_path, tmp_path / "out", BOUNDS, image_size=16)


def test_kth_that_cannot_be_read(tmp_path: Path) -> None:
    _write_kth(tmp_path)
    path = tmp_path / "positions3d.txt"
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-42]))
    with pytest.raises(FileError, match="4 frames of 2D positions, 3 of 3D positions, 4 of cameras"):
        read_kth(tmp_path)
    for text, message in (
        (whole + "1.5\n", "169 numbers; 42 finite ones for each frame"),
        (whole.replace(whole.split()[0], "nan", 1), "168 numbers; 42 finite ones"),
        ("a b c", "numbers were expected"),
        ("", "0 numbers"),
    ):
        path.write_text(text)
        with pytest.raises(FileError, match=message):
            read_kth(tmp_path)
    # The joints first, where the coordinates belong.
    np.savetxt(path, np.array(whole.split(), float).reshape(FRAMES, 14, 3).swapaxes(1, 2).ravel())
    with pytest.raises(FileError, match=r"the cameras put the 3D positions \d+ pixels from the 2D ones"):
        read_kth(tmp_path)
