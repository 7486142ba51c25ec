"""Human3.6M in every format that people have it in, and what is prepared from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cdflib.cdfwrite
import cv2
import h5py
import numpy as np
import pytest

from caffe_compat.data.lists import read_image_list
from caffe_compat.errors import FileError, UsageError
from hpm.datasets.bodies import MEAN_LENGTHS, ground_shift, motion, pose
from hpm.datasets.human36m import find_reader, read_baseline, read_cdf, read_fetch, read_videopose
from hpm.datasets.human36m_cameras import human36m_cameras
from hpm.datasets.prepare import PrepareOptions, crop_picture, prepare_human36m
from hpm.datasets.views import View, split_action
from hpm.scaling import bone_lengths, denormalise, read_bounds
from hpm.skeleton import H36M16, H36M17, H36M32

SERIALS = ("54138969", "55011271", "58860488", "60457274")
FRAMES = {("S1", "Directions 1"): 11, ("S1", "TakingPhoto"): 7, ("S9", "Walking 1"): 6}


def _world(subject: str, action: str) -> np.ndarray:
    """(frames, 32, 3), mm: a made-up body in Human3.6M's room; joints that 17 lack are where their parents are."""
    frames = FRAMES[subject, action]
    rng = np.random.default_rng(len(subject + action))
    body = pose(motion("Walking", np.arange(frames) / 50, rng))
    body[..., 2] += ground_shift(body)[:, None]
    body *= 1.1 if subject == "S9" else 0.9
    joints = np.zeros((frames, 32, 3))
    for k, name in enumerate(H36M32.joints):
        joints[:, k] = body[:, H36M17.index(name)] if name in H36M17.joints else joints[:, H36M32.parents[k]]
    return joints


def _seen(subject: str, action: str, serial: str) -> tuple[np.ndarray, np.ndarray]:
    camera = human36m_cameras()[subject, serial]
    points = camera.to_camera(_world(subject, action))
    return points, camera.project(points)


def _write_videopose(root: Path) -> Path:
    data: dict[str, dict[str, np.ndarray]] = {}
    flat: dict[str, dict[str, list[np.ndarray]]] = {}
    keep = [H36M32.index(name) for name in H36M17.joints]
    for subject, action in FRAMES:
        data.setdefault(subject, {})[action] = (_world(subject, action) / 1000).astype(np.float32)
        views = [_seen(subject, action, serial)[1][:, keep].astype(np.float32) for serial in SERIALS]
        # Detections run on beyond the motion capture.
        flat.setdefault(subject, {})[action] = [np.concatenate([view, view[-1:]]) for view in views]
    np.savez_compressed(root / "data_3d_h36m.npz", positions_3d=np.array(data, dtype=object))
    np.savez_compressed(root / "data_2d_h36m_gt.npz", positions_2d=np.array(flat, dtype=object))
    return root / "data_3d_h36m.npz"


def _write_baseline(root: Path) -> Path:
    for subject, action in FRAMES:
        folder = root / subject / "MyPoses" / "3D_positions"
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{action}.h5", "w") as file:
            file["3D_positions"] = _world(subject, action).reshape(-1, 96).T
    return root


def _write_fetch(root: Path) -> Path:
    for subject, action in FRAMES:
        folder = root / subject / action.replace(" ", "-")
        folder.mkdir(parents=True)
        parts = [(int(serial), *_seen(subject, action, serial)) for serial in SERIALS]
        with h5py.File(folder / "annot.h5", "w") as file:
            file["pose/3d"] = np.concatenate([points for _, points, _ in parts])
            file["pose/2d"] = np.concatenate([pixels for _, _, pixels in parts])
            file["camera"] = np.concatenate([np.full(len(points), serial) for serial, points, _ in parts])
            file["frame"] = np.concatenate([np.arange(1, len(points) + 1) for _, points, _ in parts])
    return root


def _write_cdf(root: Path) -> Path:
    for subject, action in FRAMES:
        for serial in SERIALS:
            for kind, values in zip(("D3_Positions_mono", "D2_Positions"), _seen(subject, action, serial), strict=True):
                folder = root / subject / "MyPoseFeatures" / kind
                folder.mkdir(parents=True, exist_ok=True)
                _write_one_cdf(folder / f"{action}.{serial}.cdf", values)
    return root


def _write_world_cdf(root: Path) -> Path:
    for subject, action in FRAMES:
        folder = root / subject / "MyPoseFeatures" / "D3_Positions"
        folder.mkdir(parents=True, exist_ok=True)
        _write_one_cdf(folder / f"{action}.cdf", _world(subject, action))
    return root


def _write_one_cdf(path: Path, values: np.ndarray) -> None:
    """One record of (frames, values), as in the official files."""
    flat = values.reshape(len(values), -1)
    writer = cdflib.cdfwrite.CDF(str(path), delete=True)
    spec = {"Variable": "Pose", "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": list(flat.shape)}
    writer.write_var(spec | {"Compress": 6}, var_data=flat.astype(np.float32)[None])
    writer.close()


FORMATS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Iterator[View]]]] = {
    "videopose": (_write_videopose, lambda path: read_videopose(path)),
    "videopose with 2D": (
        _write_videopose,
        lambda path: read_videopose(path, path.with_name("data_2d_h36m_gt.npz"), subjects=("S1", "S9")),
    ),
    "baseline": (_write_baseline, lambda path: read_baseline(path)),
    "fetch": (_write_fetch, lambda path: read_fetch(path)),
    "cdf": (_write_cdf, lambda path: read_cdf(path)),
    "cdf of the world": (_write_world_cdf, lambda path: read_cdf(path)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_views(name: str, tmp_path: Path) -> None:
    prepare, read = FORMATS[name]
    path = prepare(tmp_path)
    assert find_reader(path) == name.split()[0]
    views = {view.name: view for view in read(path)}
    expected = [(subject, action, serial) for subject, action in FRAMES for serial in SERIALS]
    assert len(views) == len(expected)
    keep = [H36M32.index(joint) for joint in H36M16.joints]
    for subject, action, serial in expected:
        plain, take = split_action(action)
        view = views["_".join(part for part in (subject, plain, take, serial) if part)]
        points, pixels = _seen(subject, action, serial)
        assert view.numbers.tolist() == list(range(1, FRAMES[subject, action] + 1))
        np.testing.assert_allclose(view.pose, points[:, keep], atol=0.01)
        np.testing.assert_allclose(view.points, pixels[:, keep], atol=0.01)


def test_published_cameras_see_the_room() -> None:
    """A point amid the room is in front of every camera and in its picture, and the head is above the feet."""
    cameras = human36m_cameras()
    assert len(cameras) == 28
    for camera in cameras.values():
        np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(camera.rotation) == pytest.approx(1, abs=1e-6)
        feet, head = camera.to_camera(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1700.0]]))
        assert feet[2] > 2000
        pixels = camera.project(np.stack([feet, head]))
        assert (np.abs(pixels - 500) < 500).all()
        assert pixels[1, 1] < pixels[0, 1] - 200


def test_action_names() -> None:
    assert split_action("TakingPhoto 1") == ("Photo", "1")
    assert split_action("WalkingDog") == ("WalkDog", "")
    assert split_action("SittingDown-2") == ("SittingDown", "2")
    with pytest.raises(UsageError, match="'Flying 1' is no action"):
        split_action("Flying 1")


# Preparation


def _views(root: Path) -> Callable[[], Iterator[View]]:
    return lambda: read_baseline(root)


def test_prepared_lists(tmp_path: Path) -> None:
    options = PrepareOptions(every=5)
    done = prepare_human36m(_views(_write_baseline(tmp_path / "in")), tmp_path / "out", options)
    folder = done.folder
    # Frames 1, 6, 11 of 11 and 1, 6 of 7 and of 6, each for four cameras.
    assert (done.train, done.test, done.pictures) == (4 * (3 + 2), 4 * 2, 0)
    assert "Walking" not in done.missing
    assert len(done.missing) == 14
    entries = read_image_list(str(folder.train_list), 81)
    assert [entries.labels(k)[-1] for k in range(5)] == [0, 1, 1, 0, 1]
    assert entries.name(1) == "images/S1_Directions_1_54138969/000006.jpg"
    assert len(read_image_list(str(folder.test_data().ground_truth(13)), 81)) == 8
    values = np.array([entries.labels(k) for k in range(len(entries))])
    bounds = read_bounds(folder.bounds)
    millimetres = denormalise(values[:, 32:80], bounds).reshape(-1, 16, 3)
    assert values[:, 32:80].min() >= -1e-6
    assert values[:, 32:80].max() <= 1 + 1e-6
    np.testing.assert_allclose(bone_lengths(millimetres), np.broadcast_to(0.9 * MEAN_LENGTHS, (20, 16)), atol=0.05)
    points, pixels = _seen("S1", "Directions 1", "54138969")
    keep = [H36M32.index(joint) for joint in H36M16.joints]
    np.testing.assert_allclose(millimetres[1], (points[5] - points[5, :1])[keep], atol=0.05)
    box = np.ptp(pixels[5, keep], axis=0).max()
    flat = values[1, :32].reshape(16, 2)
    np.testing.assert_allclose(np.ptp(flat, axis=0).max(), box / np.rint(1.25 * box), atol=1e-5)
    np.testing.assert_allclose(flat.min(0) + flat.max(0), 1, atol=2 / box)


@pytest.mark.parametrize(("scaled", "factor"), [(True, 0.9), (False, 1.1)])
def test_test_labels_with_training_limbs_or_their_own(scaled: bool, factor: float, tmp_path: Path) -> None:
    views = _views(_write_baseline(tmp_path / "in"))
    done = prepare_human36m(views, tmp_path / "out", PrepareOptions(scale_test=scaled))
    entries = read_image_list(str(done.folder.test_list), 81)
    values = np.array([entries.labels(k) for k in range(len(entries))])[:, 32:80]
    lengths = bone_lengths(denormalise(values, done.bounds).reshape(-1, 16, 3))
    np.testing.assert_allclose(lengths, np.broadcast_to(factor * MEAN_LENGTHS, lengths.shape), atol=0.05)


def test_protocol_3_trains_on_s9_too(tmp_path: Path) -> None:
    views = _views(_write_baseline(tmp_path / "in"))
    done = prepare_human36m(views, tmp_path / "out", PrepareOptions(protocol=3))
    assert (done.train, done.test) == (28, 0)
    assert len(done.missing) == 15
    assert not done.folder.test_list.exists()


def test_given_bounds_and_limbs_are_used(tmp_path: Path) -> None:
    views = _views(_write_baseline(tmp_path / "in"))
    first = prepare_human36m(views, tmp_path / "a")
    leave_out = [f"S1_Photo_{serial}" for serial in SERIALS]
    options = PrepareOptions(bounds=first.bounds, limbs=MEAN_LENGTHS, leave_out=leave_out)
    second = prepare_human36m(views, tmp_path / "b", options)
    assert second.train == 12
    assert second.outside > 0.01  # longer limbs than the bounds were made for
    np.testing.assert_array_equal(read_bounds(second.folder.bounds).maximum, read_bounds(first.folder.bounds).maximum)


def test_crops_of_pictures(tmp_path: Path) -> None:
    root = _write_fetch(tmp_path / "in")
    folder = root / "S9" / "Walking-1" / "imageSequence" / SERIALS[2]
    folder.mkdir(parents=True)
    keep = [H36M32.index(joint) for joint in H36M16.joints]
    pixels = _seen("S9", "Walking 1", SERIALS[2])[1][:, keep]
    for number in (1, 6):
        picture = np.full((1000, 1000, 3), 40, np.uint8)
        cv2.circle(picture, np.rint(pixels[number - 1, 9]).astype(int).tolist(), 25, (240, 240, 240), -1)
        cv2.imwrite(str(folder / f"img_{number:06d}.jpg"), picture)
    done = prepare_human36m(lambda: read_fetch(root), tmp_path / "out", PrepareOptions(image_size=96))
    assert done.pictures == 2
    entries = read_image_list(str(done.folder.test_data().ground_truth(13)), 81)
    k = next(k for k in range(len(entries)) if SERIALS[2] in entries.name(k))
    crop = cv2.imread(str(done.folder.h36m / entries.name(k)))
    assert crop.shape == (96, 96, 3)
    x, y = np.array(entries.labels(k)[18:20]) * 96
    bright = np.argwhere(crop[..., 0] > 180)
    np.testing.assert_allclose(bright.mean(0), [y - 0.5, x - 0.5], atol=1)


def test_crop_beyond_the_edges_is_black() -> None:
    picture = np.full((30, 40, 3), 200, np.uint8)
    crop = crop_picture(picture, np.array([-10, 20]), 20, 20)
    assert crop[5, 15].tolist() == [200, 200, 200]
    assert crop[5, 5].tolist() == crop[15, 15].tolist() == [0, 0, 0]
    assert crop_picture(picture, np.array([50, 50]), 10, 5).max() == 0


# What is wrong is said


def test_what_is_no_data_of_human36m(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no data of Human3\.6M was recognised"):
        find_reader(tmp_path)


def test_an_npz_with_other_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(2))
    with pytest.raises(FileError, match="has no positions_3d; it has other"):
        next(read_videopose(tmp_path / "a.npz"))


def test_poses_of_another_skeleton(tmp_path: Path) -> None:
    data = {"S1": {"Walking": np.zeros((3, 15, 3))}}
    np.savez(tmp_path / "a.npz", positions_3d=np.array(data, dtype=object))
    with pytest.raises(FileError, match=r"S1 Walking: shape \(3, 15, 3\); \(frames, 32 or 17, 3\) was expected"):
        next(read_videopose(tmp_path / "a.npz"))


def test_metres_for_millimetres(tmp_path: Path) -> None:
    """A far world: joints behind a camera."""
    folder = tmp_path / "S1" / "MyPoses" / "3D_positions"
    folder.mkdir(parents=True)
    with h5py.File(folder / "Walking.h5", "w") as file:
        file["3D_positions"] = (1000 * _world("S1", "Directions 1")).reshape(-1, 96).T
    with pytest.raises(FileError, match="S1 Walking: joints behind camera"):
        list(read_baseline(tmp_path))


def test_too_few_2d_frames(tmp_path: Path) -> None:
    path = _write_videopose(tmp_path)
    flat = {"S1": {"Directions 1": [np.zeros((5, 17, 2))] * 4}}
    np.savez(tmp_path / "b.npz", positions_2d=np.array(flat, dtype=object))
    with pytest.raises(FileError, match="5 frames of 2D poses for 11 of 3D poses"):
        next(read_videopose(path, tmp_path / "b.npz"))


def test_a_cdf_without_its_partner(tmp_path: Path) -> None:
    root = _write_cdf(tmp_path)
    (root / "S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf").unlink()
    with pytest.raises(FileError, match="has no file of the same name in D2_Positions"):
        list(read_cdf(root))


def test_a_damaged_cdf(tmp_path: Path) -> None:
    root = _write_cdf(tmp_path)
    (root / "S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf").write_bytes(b"no cdf at all")
    with pytest.raises(FileError, match="no variable Pose can be read"):
        list(read_cdf(root))


def test_a_missing_video(tmp_path: Path) -> None:
    root = _write_baseline(tmp_path / "in")
    with pytest.raises(FileError, match=r"S1/Videos/Directions 1\.54138969\.mp4"):
        prepare_human36m(lambda: read_baseline(root, videos=tmp_path), tmp_path / "out")


def test_nothing_to_train_on(tmp_path: Path) -> None:
    root = _write_baseline(tmp_path / "in")
    with pytest.raises(UsageError, match="no frames of S1, S5, S6, S7, S8 to take limb lengths from"):
        prepare_human36m(lambda: read_baseline(root, subjects=("S9",)), tmp_path / "out")
    with pytest.raises(UsageError, match="protocol 2"):
        PrepareOptions(protocol=2)
