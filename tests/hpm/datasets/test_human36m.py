"""Human3.6M in every format that people have it in, and what is prepared from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from caffe_compat.errors import CaffeCompatError, CaffeCompatWarning, FileError, UsageError
from caffe_compat.training.data.lists import read_image_list
from hpm.datasets.bodies import MEAN_LENGTHS
from hpm.datasets.crops import crop_picture
from hpm.datasets.detections import read_detections
from hpm.datasets.human36m import find_reader, read_baseline, read_cdf, read_fetch, read_videopose
from hpm.datasets.human36m_cameras import human36m_cameras
from hpm.datasets.prepare import PrepareOptions, prepare_human36m
from hpm.datasets.views import LeaveOut, View, split_action
from hpm.files.lists import read_list
from hpm.scaling import bone_lengths, denormalise, read_bounds, read_limbs
from hpm.skeleton import COCO17, H36M16, H36M17, H36M32, MPII16, convert
from tests.hpm.datasets.human36m_files import FEW, PERFORMANCES, SERIALS, Recordings, grey, write_cdf

FILES = Recordings()
KEEP16 = [H36M32.index(joint) for joint in H36M16.joints]
KEEP17 = [H36M32.index(joint) for joint in H36M17.joints]

Read = Callable[[Path], Iterator[View]]

FORMATS: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "videopose": (FILES.videopose, read_videopose),
    "baseline": (FILES.baseline, read_baseline),
    "fetch": (FILES.fetch, read_fetch),
    "fetch of old": (lambda root: FILES.fetch(root, universal_only=True), read_fetch),
    "cdf": (FILES.cdf, read_cdf),
    "cdf as h36m-fetch unpacks it": (lambda root: FILES.cdf(root, "Poses_", compress=0), read_cdf),
    "cdf of one body size": (lambda root: FILES.cdf(root, kind="D3_Positions_mono_universal"), read_cdf),
    "cdf of the world": (FILES.world_cdf, read_cdf),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_views(name: str, tmp_path: Path) -> None:
    write, read = FORMATS[name]
    path = write(tmp_path)
    assert find_reader(path) == name.split()[0]
    views = {view.name: view for view in read(path)}
    assert len(views) == len(FEW) * len(SERIALS)
    for subject, performance in FEW:
        action, take = split_action(performance)
        # h36m-fetch numbers takes in its own way.
        take = (take or "2") if name.startswith("fetch") else take
        for serial in SERIALS:
            view = views["_".join(part for part in (subject, action, take, serial) if part)]
            points, pixels = FILES.seen(subject, performance, serial)
            assert view.numbers.tolist() == list(range(1, FEW[subject, performance] + 1))
            np.testing.assert_allclose(view.pose, points[:, KEEP16], atol=0.01)
            np.testing.assert_allclose(view.points, pixels[:, KEEP17], atol=0.01)
            np.testing.assert_allclose(view.points16, pixels[:, KEEP16], atol=0.01)


def test_seventeen_joints_do_as_well(tmp_path: Path) -> None:
    world = FILES.world("S1", "Directions 1")[:, KEEP17] / 1000
    np.savez(tmp_path / "data_3d_h36m.npz", positions_3d=np.array({"S1": {"Directions 1": world}}, object))
    (first, *_) = read_videopose(tmp_path / "data_3d_h36m.npz")
    np.testing.assert_allclose(first.pose, FILES.seen("S1", "Directions 1", SERIALS[0])[0][:, KEEP16], atol=1e-6)


def test_what_is_left_out_is_not_even_read(tmp_path: Path) -> None:
    root = FILES.cdf(tmp_path)
    folder = root / "S1/MyPoseFeatures/D3_Positions_mono"
    (folder / f"Directions 1.{SERIALS[1]}.cdf").write_bytes(b"damaged")
    for serial in SERIALS:
        (folder / f"TakingPhoto.{serial}.cdf").write_bytes(b"damaged")
    leave_out = LeaveOut([f"S1_Directions_1_{SERIALS[1]}", "S1_Photo", "S1_Waiting"])
    names = [view.name for view in read_cdf(root, subjects=("S1",), leave_out=leave_out)]
    assert names == [f"S1_Directions_1_{serial}" for serial in SERIALS if serial != SERIALS[1]]
    assert leave_out.unused == ("S1_Waiting",)
    others = LeaveOut(["S1"])
    assert {view.subject for view in read_baseline(FILES.baseline(tmp_path), leave_out=others)} == {"S9"}
    assert others.unused == ()


def test_a_choice_of_frames_is_taken_whole(tmp_path: Path) -> None:
    """h36m-fetch, as it comes, keeps frames that are no multiple of anything."""
    files = Recordings({("S1", "Walking 1"): 150, ("S9", "Walking 1"): 150})
    views = [view.every(5) for view in read_fetch(files.fetch(tmp_path, as_it_comes=True))]
    assert views[-1].numbers.tolist() == [1, 65, 129]
    gaps = np.diff(views[0].numbers)
    assert gaps.min() != gaps.max()
    done = prepare_human36m(lambda: read_fetch(tmp_path), tmp_path / "out")
    assert (done.sampled, done.test, done.train) == (8, 12, sum(len(view.numbers) for view in views[:4]))


def test_one_in_five_of_one_in_five(tmp_path: Path) -> None:
    (view, *_) = read_fetch(FILES.fetch(tmp_path))
    assert view.every(5).numbers.tolist() == [1, 6, 11]
    assert view.every(5).every(5).numbers.tolist() == [1, 6, 11]
    assert view.every(5).every(10).numbers.tolist() == [1, 11]


# Detections

ORDERS = {"H36M17": H36M17, "COCO17": COCO17, "MPII16": MPII16}


@pytest.mark.parametrize("order", ORDERS)
def test_detections_in_the_order_that_their_metadata_tell(order: str, tmp_path: Path) -> None:
    found = read_detections(FILES.detections(tmp_path / "data_2d_h36m_x.npz", order, noise=0))
    name = f"S9_Walking_1_{SERIALS[2]}"
    assert len(found.of) == len(FEW) * len(SERIALS)
    poses = found.of[name]()
    expected = convert(FILES.detected("S9", "Walking 1", SERIALS[2], order, 0), ORDERS[order], H36M16)
    np.testing.assert_allclose(poses[:6], expected, atol=0.01)
    assert len(poses) == 9
    if order != "COCO17":
        pixels = FILES.seen("S9", "Walking 1", SERIALS[2])[1]
        np.testing.assert_allclose(poses[:6], pixels[:, KEEP16], atol=0.01)


def test_detections_of_3d_pose_baseline(tmp_path: Path) -> None:
    found = read_detections(FILES.hourglass(tmp_path))
    pixels = FILES.seen("S1", "TakingPhoto", SERIALS[0])[1][:, KEEP16]
    poses = found.of[f"S1_Photo_{SERIALS[0]}"]()
    np.testing.assert_allclose(poses, pixels, atol=25)
    assert 2 < np.abs(poses - pixels).mean() < 5


@pytest.mark.parametrize("order", ORDERS)
def test_detections_become_the_hourglass_lists(order: str, tmp_path: Path) -> None:
    detections = read_detections(FILES.detections(tmp_path / "data_2d_h36m_x.npz", order))
    views = _views(FILES.baseline(tmp_path / "in"))
    done = prepare_human36m(views, tmp_path / "out", PrepareOptions(detections=detections))
    data = done.folder.test_data()
    truth, hourglass = read_list(data.ground_truth(13)), read_list(data.pose2d(13, "hourglass"))
    assert hourglass.paths == truth.paths
    assert hourglass.pose3d is None
    off = np.abs(hourglass.pose2d - truth.pose2d).reshape(-1, 16, 2).max((0, 2))
    # The trunk and the head of COCO are guesses.
    assert (off[H36M16.index("LKnee")], off.max()) < (0.05, 0.25)
    assert off.max() > 0.005
    assert not data.pose2d(1, "hourglass").exists()


def test_detections_that_are_not_those_of_the_frames(tmp_path: Path) -> None:
    path, root = tmp_path / "data_2d_h36m_x.npz", FILES.baseline(tmp_path / "in")
    FILES.detections(path, more_frames=0)

    def prepare() -> None:
        options = PrepareOptions(detections=read_detections(path))
        prepare_human36m(_views(root), tmp_path / "out", options)

    arrays = dict(np.load(path, allow_pickle=True))
    flat = arrays["positions_2d"].item()
    original = flat["S9"]["Walking 1"]
    for views, message in (
        ([view[:4] for view in original], r"S9_Walking_1_54138969: 4 frames of 2D poses; frame 6 has a 3D pose"),
        ([view / 500 - 1 for view in original], r"2D poses lie \d+ pixels from the projected 3D poses"),
        ([original[1], original[0], *original[2:]], r"2D poses lie \d+ pixels from"),
        ([None, *original[1:]], r"has no 2D poses of S9_Walking_1_54138969; leave that view out"),
        ([view * np.nan for view in original], "2D poses that are not finite"),
        (original[:3], "2D poses of 4 cameras were expected"),
        ([view[:, :15] for view in original], r"shape \(6, 15, 2\); \(frames, 17, 2\) was expected"),
    ):
        flat["S9"]["Walking 1"] = views
        np.savez(path, positions_2d=flat, metadata=arrays["metadata"])
        with pytest.raises(FileError, match=message):
            prepare()
        assert not list((tmp_path / "out").rglob("*.txt"))


def test_joint_orders_of_detections_that_are_not_known(tmp_path: Path) -> None:
    path = FILES.detections(tmp_path / "data_2d_h36m_x.npz")
    arrays = dict(np.load(path, allow_pickle=True))
    np.savez(path, positions_2d=arrays["positions_2d"])
    with pytest.raises(FileError, match="has no metadata that tell the order of its joints; name it: H36M17, COCO17"):
        read_detections(path)
    assert len(read_detections(path, COCO17).of) == 12
    metadata = arrays["metadata"].item()
    np.savez(
        path,
        positions_2d=arrays["positions_2d"],
        metadata=np.array({**metadata, "keypoints_symmetry": [[1], [2]]}, object),
    )
    with pytest.raises(FileError, match=r"17 joints, \[1\] on the left and \[2\] on the right, an order that is not"):
        read_detections(path)
    np.savez(path, positions_2d=arrays["positions_2d"], metadata=metadata)
    with pytest.raises(FileError, match="is not the order of COCO17"):
        read_detections(path, COCO17)
    with pytest.raises(UsageError, match="protocol 1 only"):
        PrepareOptions(protocol=3, detections=read_detections(path))
    with pytest.raises(FileError, match="no 2D poses were recognised"):
        read_detections(tmp_path)


def test_detections_with_sides_exchanged_are_suspected(tmp_path: Path) -> None:
    files = Recordings({("S1", "Walking 1"): 60, ("S9", "Walking 1"): 60})
    path = files.detections(tmp_path / "data_2d_h36m_x.npz")
    arrays = dict(np.load(path, allow_pickle=True))
    for actions in arrays["positions_2d"].item().values():
        for views in actions.values():
            views[:] = [view[:, list(H36M17.swaps)] for view in views]
    np.savez(path, **arrays)
    options = PrepareOptions(detections=read_detections(path))
    with pytest.warns(CaffeCompatWarning, match="S9_Walking_1_.*left and right may be exchanged: in 12 of 12 frames"):
        prepare_human36m(_views(files.baseline(tmp_path / "in")), tmp_path / "out", options)


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


def _views(root: Path, videos: Path | None = None) -> Callable[[], Iterator[View]]:
    return lambda: read_baseline(root, videos=videos)


def test_prepared_lists(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    done = prepare_human36m(
        _views(FILES.baseline(tmp_path / "in")), tmp_path / "out", progress=lambda *args: told.append(args)
    )
    folder = done.folder
    # Frames 1, 6, 11 of 11 and 1, 6 of 7 and of 6, each for four cameras.
    assert (done.train, done.test, done.pictures) == (4 * (3 + 2), 4 * 2, 0)
    assert "Walking" not in done.missing
    assert len(done.missing) == 14
    assert {"S5", "S6", "S7", "S8", "S11", "S1 Walking", "S9 Directions"} <= set(done.absent)
    assert not {"S1", "S9", "S9 Walking", "S1 Photo"} & set(done.absent)
    assert told[:12] == [("limbs and bounds", k + 1, None) for k in range(12)]
    assert told[12:] == [("views", k, 12) for k in range(13)]
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
    np.testing.assert_allclose(read_limbs(folder.limbs), 0.9 * MEAN_LENGTHS, atol=1e-6)
    points, pixels = FILES.seen("S1", "Directions 1", "54138969")
    np.testing.assert_allclose(millimetres[1], (points[5] - points[5, :1])[KEEP16], atol=0.05)
    box = np.ptp(pixels[5, KEEP16], axis=0).max()
    flat = values[1, :32].reshape(16, 2)
    np.testing.assert_allclose(np.ptp(flat, axis=0).max(), box / np.rint(1.25 * box), atol=1e-5)
    np.testing.assert_allclose(flat.min(0) + flat.max(0), 1, atol=2 / box)


def test_list_for_the_2d_pre_training(tmp_path: Path) -> None:
    """17 joints, the nose among them, of the same frames and crops, shuffled."""
    done = prepare_human36m(_views(FILES.baseline(tmp_path / "in")), tmp_path / "out")
    images, train = (
        read_image_list(str(path), n) for path, n in ((done.folder.images_list, 36), (done.folder.train_list, 81))
    )
    names = [images.name(k) for k in range(len(images))]
    by_name = {train.name(k): np.array(train.labels(k)[:32]).reshape(16, 2) for k in range(len(train))}
    assert sorted(names) == sorted(by_name)
    assert names != list(by_name)
    for k, name in enumerate(names):
        labels = images.labels(k)
        assert list(labels[34:]) == [0, 0]
        points = np.array(labels[:34]).reshape(17, 2)
        np.testing.assert_allclose(convert(points, H36M17, H36M16), by_name[name], atol=2e-6)
        assert np.abs(points[9] - points[10]).max() > 0.01


@pytest.mark.parametrize(("scaled", "factor"), [(True, 0.9), (False, 1.1)])
def test_test_labels_with_training_limbs_or_their_own(scaled: bool, factor: float, tmp_path: Path) -> None:
    views = _views(FILES.baseline(tmp_path / "in"))
    done = prepare_human36m(views, tmp_path / "out", PrepareOptions(scale_test=scaled))
    entries = read_image_list(str(done.folder.test_list), 81)
    values = np.array([entries.labels(k) for k in range(len(entries))])[:, 32:80]
    lengths = bone_lengths(denormalise(values, done.bounds).reshape(-1, 16, 3))
    np.testing.assert_allclose(lengths, np.broadcast_to(factor * MEAN_LENGTHS, lengths.shape), atol=0.05)


def test_bone_variation_is_measured(tmp_path: Path) -> None:
    """Two training bodies of 0.9 and 0.95 times the mean, and as many frames of each."""
    files = Recordings({("S1", "Walking 1"): 10, ("S5", "Walking 1"): 10, ("S9", "Walking 1"): 10})
    views = _views(files.baseline(tmp_path / "in"))
    done = prepare_human36m(views, tmp_path / "out", PrepareOptions(scale_test=False))
    assert done.train_bones.variation == pytest.approx(0.025 / 0.925, rel=1e-4)
    assert done.test_bones.variation == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(done.label_bones.mean, 1.1 * MEAN_LENGTHS, atol=1e-6)
    scaled = prepare_human36m(views, tmp_path / "out")
    np.testing.assert_allclose(scaled.label_bones.mean, 0.925 * MEAN_LENGTHS, atol=1e-6)


def test_protocol_3_trains_on_s9_too(tmp_path: Path) -> None:
    views = _views(FILES.baseline(tmp_path / "in"))
    done = prepare_human36m(views, tmp_path / "out", PrepareOptions(protocol=3))
    assert (done.train, done.test) == (28, 0)
    assert len(done.missing) == 15
    assert not done.folder.test_list.exists()


def test_both_protocols_in_one_folder_need_the_same_bounds(tmp_path: Path) -> None:
    files = Recordings({(subject, "Walking 1"): 10 for subject in ("S1", "S9", "S11")})
    views, out = _views(files.baseline(tmp_path / "in")), tmp_path / "out"
    first = prepare_human36m(views, out)
    before = first.folder.train_list.read_bytes()
    with pytest.raises(
        UsageError, match=r"holds lists of protocol 1 that are normalised with other bounds \(.*limb_len"
    ):
        prepare_human36m(views, out, PrepareOptions(protocol=3))
    assert first.folder.train_list.read_bytes() == before
    bounds, limbs = read_bounds(first.folder.bounds), read_limbs(first.folder.limbs)
    third = prepare_human36m(views, out, PrepareOptions(protocol=3, bounds=bounds, limbs=limbs))
    assert (first.test, third.train, third.test) == (16, 16, 8)
    assert third.folder.test_data().ground_truth(13).exists()
    assert first.folder.test_data().ground_truth(13).exists()


def test_given_bounds_and_limbs_are_used(tmp_path: Path) -> None:
    root = FILES.baseline(tmp_path / "in")
    first = prepare_human36m(_views(root), tmp_path / "a")
    options = PrepareOptions(bounds=first.bounds, limbs=MEAN_LENGTHS)
    second = prepare_human36m(lambda: read_baseline(root, leave_out=LeaveOut(["S1_Photo"])), tmp_path / "b", options)
    assert second.train == 12
    assert second.outside > 0.01  # longer limbs than the bounds were made for
    np.testing.assert_array_equal(read_bounds(second.folder.bounds).maximum, read_bounds(first.folder.bounds).maximum)


def test_what_an_earlier_run_left_is_named(tmp_path: Path) -> None:
    prepare_human36m(_views(FILES.baseline(tmp_path / "in")), tmp_path / "out")
    files = Recordings({("S1", "Walking 1"): 10, ("S9", "Eating 1"): 10})
    done = prepare_human36m(_views(files.baseline(tmp_path / "other")), tmp_path / "out")
    assert done.stale == (done.folder.test_data().ground_truth(13),)


def test_mirrored_poses_are_suspected(tmp_path: Path) -> None:
    files = Recordings({("S1", "Walking 1"): 100, ("S9", "Walking 1"): 100})
    with h5py.File(files.baseline(tmp_path) / "S1/MyPoses/3D_positions/Walking 1.h5", "r+") as file:
        poses = file["3D_positions"][()].reshape(32, 3, -1)
        poses[:, 0] *= -1
        file["3D_positions"][...] = poses.reshape(96, -1)
    with pytest.warns(CaffeCompatWarning, match=r"S1: left and right may be exchanged.*knees bend backwards"):
        prepare_human36m(_views(tmp_path), tmp_path / "out")


# Pictures


def test_crops_of_h36m_fetch(tmp_path: Path) -> None:
    root = FILES.fetch(tmp_path / "in")
    folder = root / "S9" / "Walking-1" / "imageSequence" / SERIALS[2]
    folder.mkdir(parents=True)
    pixels = FILES.seen("S9", "Walking 1", SERIALS[2])[1][:, KEEP16]
    for number in (1, 6):
        picture = np.full((1000, 1000, 3), 40, np.uint8)
        cv2.circle(picture, np.rint(pixels[number - 1, 9]).astype(int).tolist(), 25, (240, 240, 240), -1)
        cv2.imwrite(str(folder / f"img_{number:06d}.jpg"), picture)
    done = prepare_human36m(lambda: read_fetch(root), tmp_path / "out", PrepareOptions(image_size=96))
    assert done.pictures == 2
    entries = read_image_list(str(done.folder.test_data().ground_truth(13)), 81)
    k = next(k for k in range(len(entries)) if SERIALS[2] in entries.name(k))
    _check_dot(cv2.imread(str(done.folder.h36m / entries.name(k))), entries.labels(k), 96)


def _check_dot(crop: np.ndarray | None, labels: int | list[float], size: int) -> None:
    assert crop is not None
    assert crop.shape == (size, size, 3)
    x, y = np.array(labels[18:20]) * size
    bright = np.argwhere(crop[..., 0] > 200)
    np.testing.assert_allclose(bright.mean(0), [y - 0.5, x - 0.5], atol=1)


SHORT = Recordings({("S1", "TakingPhoto"): 12, ("S9", "Walking 1"): 11})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SHORT.videos(tmp_path_factory.mktemp("videos"))


@pytest.mark.slow
def test_frames_of_videos(tmp_path: Path, videos: Path) -> None:
    """Each picture is of the frame that its list says, though 3d-pose-baseline calls the video by another name."""
    root = SHORT.baseline(tmp_path / "in")
    done = prepare_human36m(_views(root, videos), tmp_path / "out", PrepareOptions(image_size=80))
    assert done.pictures == done.train + done.test == 4 * (3 + 3)
    seen = 0
    for path in (done.folder.train_list, done.folder.test_list):
        entries = read_image_list(str(path), 81)
        for k in range(len(entries)):
            crop = cv2.imread(str(done.folder.h36m / entries.name(k)))
            assert crop is not None
            _check_dot(crop, entries.labels(k), 80)
            number = int(Path(entries.name(k)).stem)
            assert number in (1, 6, 11)
            assert abs(np.median(crop.astype(float)) - grey(number)) < 4.5
            seen += 1
    assert seen == 24


@pytest.mark.slow
def test_crops_are_kept_if_they_would_be_the_same(tmp_path: Path, videos: Path) -> None:
    root = SHORT.baseline(tmp_path / "in")

    def prepare(**options: object) -> tuple[int, int]:
        done = prepare_human36m(
            _views(root, videos),
            tmp_path / "out",
            PrepareOptions(**{"image_size": 16, **options}),  # type: ignore[arg-type]
        )
        return done.pictures, done.kept

    assert prepare() == (24, 0)
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    assert prepare() == (24, 24)
    assert pictures == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    assert prepare(margin=0.3) == (24, 0)
    assert prepare(margin=0.3, image_size=20) == (24, 0)
    # What was interrupted half-way has no mark that it is whole.
    next((tmp_path / "out").rglob("crops.sha256")).unlink()
    assert prepare(margin=0.3, image_size=20) == (24, 21)


def test_a_failed_preparation_goes_on_where_it_was(tmp_path: Path, videos: Path) -> None:
    root, own = SHORT.baseline(tmp_path / "in"), tmp_path / "own"
    for path in videos.rglob("*.mp4"):
        target = own / path.relative_to(videos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    (damaged,) = own.glob(f"S9/Videos/*{SERIALS[3]}.mp4")
    whole = damaged.resolve()
    damaged.unlink()
    damaged.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(FileError, match=rf"S9/Videos/Walking 1.{SERIALS[3]}.mp4: is no video that OpenCV can read"):
        prepare_human36m(_views(root, own), tmp_path / "out", PrepareOptions(image_size=16))
    assert not [*(tmp_path / "out").rglob("*.txt"), *(tmp_path / "out").rglob("*.csv")]
    damaged.write_bytes(whole.read_bytes())
    done = prepare_human36m(_views(root, own), tmp_path / "out", PrepareOptions(image_size=16))
    assert (done.pictures, done.kept) == (24, 21)


def test_videos_that_are_not_those_of_the_poses(tmp_path: Path, videos: Path) -> None:
    def prepare(files: Recordings, where: Path) -> None:
        views = _views(files.baseline(tmp_path / str(len(list(tmp_path.iterdir())))), where)
        prepare_human36m(views, tmp_path / "out", PrepareOptions(image_size=16))

    # The 11th frame is the last that is wanted of 13; the 12th and 13th are missing.
    longer = Recordings({**SHORT.frames, ("S9", "Walking 1"): 13})
    with pytest.raises(FileError, match=r"Walking 1.54138969.mp4: ends after 11 frames; there are 13 poses"):
        prepare(longer, videos)
    shorter = Recordings({**SHORT.frames, ("S9", "Walking 1"): 10})
    with pytest.warns(CaffeCompatWarning, match=r"Walking 1.\d+.mp4: 11 frames for 10 poses"):
        prepare(shorter, videos)
    with pytest.raises(FileError, match=r"S1/Videos/Directions 1\.54138969\.mp4: cannot be opened: No such file"):
        prepare(FILES, videos)
    small = Recordings({("S1", "TakingPhoto"): 2}).videos(tmp_path / "small", size=(500, 500))
    with pytest.raises(FileError, match="pictures of 500 x 500; 1000 x 1000 or 1000 x 1002 were expected"):
        prepare(SHORT, small)


def test_crop_beyond_the_edges_is_black() -> None:
    picture = np.full((30, 40, 3), 200, np.uint8)
    crop = crop_picture(picture, np.array([-10, 20]), 20, 20)
    assert crop[5, 15].tolist() == [200, 200, 200]
    assert crop[5, 5].tolist() == crop[15, 15].tolist() == [0, 0, 0]
    assert crop_picture(picture, np.array([50, 50]), 10, 5).max() == 0


# All of it


@pytest.mark.slow
def test_all_actions_takes_and_cameras(tmp_path: Path) -> None:
    """Every performance that the data set has, of a subject to train on and one to test on, as official files."""
    files = Recordings({(subject, performance): 36 for subject in ("S1", "S9") for performance in PERFORMANCES})
    done = prepare_human36m(
        lambda: read_cdf(files.cdf(tmp_path / "in") if not (tmp_path / "in").exists() else tmp_path / "in"),
        tmp_path / "out",
    )
    assert (done.train, done.test, done.missing) == (30 * 4 * 8, 30 * 4 * 8, ())
    for k in range(1, 16):
        entries = read_list(done.folder.test_data().ground_truth(k))
        assert len(entries) == 2 * 4 * 8
        assert (entries.clip == 0).sum() == 2 * 4
    assert len(read_list(done.folder.test_list)) == done.test


# What is wrong is said


def test_what_is_no_data_of_human36m(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no data of Human3\.6M was recognised"):
        find_reader(tmp_path)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("fetch") else name for name in FORMATS]
)
def test_files_that_are_cut_short_or_damaged(name: str, tmp_path: Path) -> None:
    """Whatever is wrong with the bytes, the error is one of ours, and names the file that is cut short."""
    write, read = FORMATS[name]
    path = write(tmp_path)
    suffix = {"videopose": ".npz", "baseline": ".h5", "fetch": ".h5", "cdf": ".cdf"}[name.split()[0]]
    victim = max(tmp_path.rglob(f"*{suffix}"), key=lambda p: ("_ALL" not in p.name, str(p)))
    whole = victim.read_bytes()
    rng = np.random.default_rng(3)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 200):
        victim.write_bytes(whole[:length])
        with pytest.raises(FileError, match=str(victim.name)):
            list(read(path))
    # cdflib follows the lists in a file's head wherever they lead, for ever if they lead back.
    start = len(whole) // 2 if suffix == ".cdf" else 0
    for _ in range(20):
        damaged = bytearray(whole)
        for at in rng.integers(start, len(whole), 8):
            damaged[at] ^= int(rng.integers(1, 256))
        victim.write_bytes(damaged)
        # Often nobody can tell.
        with suppress(FileError):
            list(read(path))


@dataclass
class _Code:
    """Pickles as a call."""

    path: str

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (self.path,))


def test_code_in_an_npz_is_not_run(tmp_path: Path) -> None:
    """A dictionary whose arrays hide a call that would make a file."""
    made = tmp_path / "made"
    data = {"S1": {"Walking 1": _Code(str(made))}}
    for key, read in (("positions_3d", lambda p: list(read_videopose(p))), ("positions_2d", read_detections)):
        members: dict[str, Any] = {key: np.array(data, dtype=object)}
        np.savez(tmp_path / "a.npz", **members)
        with pytest.raises(FileError, match=r"a\.npz.*refused at byte"):
            read(tmp_path / "a.npz")


def test_an_npz_with_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for arrays, message in (
        ({"other": np.zeros(2)}, "has no positions_3d; it has other"),
        ({"positions_3d": np.zeros(2)}, "positions_3d: a dictionary was expected, found ndarray"),
        ({"positions_3d": {"S2": {}}}, "has none of the subjects S1, .*; it has S2"),
        ({"positions_3d": {3: {}}}, "names were expected, found 3"),
        ({"positions_3d": {"S1": {"Flying 1": np.zeros((3, 17, 3))}}}, "'Flying 1' is no action of Human3.6M"),
        ({"positions_3d": {"S1": {"Walking 1": "text"}}}, "S1 Walking 1: poses were expected"),
        (
            {"positions_3d": {"S1": {"Walking 1": np.zeros((3, 15, 3))}}},
            r"of shape \(3, 15, 3\); \(frames, 32 or 17, 3\)",
        ),
    ):
        members: dict[str, Any] = {
            key: np.array(value, dtype=object) if isinstance(value, dict) else value for key, value in arrays.items()
        }
        np.savez(path, **members)
        with pytest.raises(CaffeCompatError, match=message):
            list(read_videopose(path))


def test_numbers_that_cannot_be_poses(tmp_path: Path) -> None:
    folder = tmp_path / "S1" / "MyPoses" / "3D_positions"
    folder.mkdir(parents=True)
    world = FILES.world("S1", "Directions 1")
    gap = world.copy()
    gap[4, H36M32.index("LKnee"), 1] = np.nan
    for poses, message in (
        (1000 * world, "Walking.h5: joints behind camera"),
        (world / 1000, r"Walking.h5: S1_Walking_54138969: bones are 0\.\d+ mm long on average"),
        (gap, r"Walking.h5: S1_Walking_54138969: the 2D pose of frame 5 is no place \(1 such frames\)"),
    ):
        with h5py.File(folder / "Walking.h5", "w") as file:
            file["3D_positions"] = poses.reshape(-1, 96).T
        with pytest.raises(FileError, match=message):
            list(read_baseline(tmp_path))
    flat = world.copy()
    flat[7, H36M32.index("LElbow")] = flat[7, H36M32.index("LShoulder")]
    with h5py.File(folder / "Walking.h5", "w") as file:
        file["3D_positions"] = flat.reshape(-1, 96).T
    with pytest.raises(UsageError, match=r"S1_Walking_54138969: frame 7: LShoulder and LElbow are at the same place"):
        prepare_human36m(_views(tmp_path), tmp_path / "out", PrepareOptions(every=1))
    with h5py.File(folder / "Walking.h5", "w") as file:
        file["3D_positions"] = world.reshape(-1, 96)
    with pytest.raises(FileError, match=r"3D_positions has shape \(11, 96\); \(96, frames\) was expected"):
        list(read_baseline(tmp_path))
    (folder / "Walking.h5").rename(folder / "Flying.h5")
    with pytest.raises(FileError, match=r"Flying.h5: 'Flying' is no action"):
        list(read_baseline(tmp_path))


def test_annotations_of_h36m_fetch_that_do_not_fit(tmp_path: Path) -> None:
    path = FILES.fetch(tmp_path) / "S1" / "Directions-1" / "annot.h5"

    def change(name: str, values: np.ndarray | None, message: str) -> None:
        with h5py.File(path, "r+") as file:
            before = file[name][()]
            del file[name]
            if values is not None:
                file[name] = values
        with pytest.raises(FileError, match=message):
            list(read_fetch(tmp_path))
        with h5py.File(path, "r+") as file:
            if name in file:
                del file[name]
            file[name] = before

    change("camera", None, "has no camera")
    change("frame", np.arange(5), "pose/2d, pose/3d, camera, frame differ in length")
    change("frame", np.ones(44, int), "frames of camera 54138969 are there twice, or from before 1")
    change("frame", np.linspace(0, 1, 44), "frame is float64")
    change("pose/2d", np.zeros((44, 32, 2)), r"2D poses lie \d+ pixels from the projected 3D poses")
    change("pose/3d", np.zeros((44, 16, 3)), r"shape \(44, 16, 3\)")


def test_cdf_files_that_do_not_fit(tmp_path: Path) -> None:
    root = FILES.cdf(tmp_path)
    partner = root / "S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf"
    pixels = FILES.seen("S1", "Directions 1", SERIALS[0])[1]
    write_cdf(partner, pixels[:7], 6)
    with pytest.raises(FileError, match=r"D3_Positions_mono/Directions 1.54138969.cdf: has 11 frames, .*D2.* has 7"):
        list(read_cdf(root))
    write_cdf(partner, pixels[:, :20], 6)
    with pytest.raises(FileError, match=r"Pose has shape \(1, 11, 40\); \(1, frames, 64\) was expected"):
        list(read_cdf(root))
    partner.unlink()
    with pytest.raises(FileError, match="has no file of the same name in D2_Positions"):
        list(read_cdf(root))


def test_limbs_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "limbs.csv"
    for text, message in (
        ("a,b", "numbers parted by commas were expected"),
        ("0,1,2", "3 values; 16 bone lengths in mm were expected"),
        (",".join(["1"] * 16), "0 of the hip, then above 0 of RHip, "),
        (",".join(["0"] + ["nan"] * 15), "above 0"),
    ):
        path.write_text(text)
        with pytest.raises(FileError, match=message):
            read_limbs(path)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    root = FILES.baseline(tmp_path / "in")
    with pytest.raises(UsageError, match="no frames of S1, S5, S6, S7, S8 to take limb lengths from"):
        prepare_human36m(lambda: read_baseline(root, subjects=("S9",)), tmp_path / "out")
    with pytest.raises(UsageError, match="protocol 2"):
        PrepareOptions(protocol=2)
    with pytest.raises(UsageError, match="margin is 0 or more"):
        PrepareOptions(margin=float("nan"))
    with pytest.raises(UsageError, match=r"limbs of shape \(3,\); 16 lengths"):
        PrepareOptions(limbs=np.ones(3))
