"""The made-up data set: bodies, cameras, pictures, lists."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError, UsageError
from caffe_compat.training.data.lists import read_image_list
from hpm.datasets.bodies import ACTIONS, MEAN_LENGTHS, MEAN_LIMBS, ground_shift, motion, pose
from hpm.datasets.cameras import Camera, Crop, look_at, square_crops
from hpm.datasets.layout import TrainingFolder
from hpm.datasets.rendering import background, palette, render
from hpm.datasets.synthetic import SyntheticOptions, cameras, sequences, write
from hpm.scaling import bone_lengths, denormalise, read_bounds
from hpm.skeleton import H36M16, H36M17, left_right_suspect

SMALL = SyntheticOptions(
    subjects=("S1", "S5"),
    takes=1,
    frames=6,
    test_frames=4,
    run=3,
    singles=5,
    image_size=24,
    actions=("Walking", "Sitting"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return write(SMALL, tmp_path_factory.mktemp("synthetic"))


def _still(**angles: float) -> np.ndarray:
    names = motion("Walking", np.zeros(1), np.random.default_rng(0))
    return pose({name: np.full(1, angles.get(name, 0.0)) for name in names})[0]


# Bodies


def test_standing_body_faces_x_with_its_left_at_y() -> None:
    joints = dict(zip(H36M17.joints, _still(), strict=True))
    np.testing.assert_allclose(joints["LHip"], [0, 134.05, 0], atol=1e-9)
    np.testing.assert_allclose(joints["RHip"], [0, -134.05, 0], atol=1e-9)
    np.testing.assert_allclose(joints["LFoot"], [0, 134.05, -442.89 - 454.21], atol=1e-9)
    np.testing.assert_allclose(joints["Thorax"], [0, 0, 238.46 + 257.08], atol=1e-9)
    assert joints["Nose"][0] > 40  # in front of the neck
    assert joints["Head"][2] > joints["Nose"][2]


@pytest.mark.parametrize(
    ("angles", "joint", "axis", "sign"),
    [
        ({"Lthigh_forward": 0.5}, "LKnee", 0, 1),
        ({"Lknee": 0.5}, "LFoot", 0, -1),
        ({"Rthigh_out": 0.5}, "RKnee", 1, -1),
        ({"Relbow": 0.5}, "RWrist", 0, 1),
        ({"Larm_out": 0.5}, "LElbow", 1, 1),
        ({"bend": 0.5}, "Thorax", 0, 1),
        ({"yaw": 0.5}, "LHip", 0, -1),
    ],
)
def test_angles_move_joints_the_way_their_names_say(angles: dict[str, float], joint: str, axis: int, sign: int) -> None:
    moved = _still(**angles) - _still()
    assert sign * moved[H36M17.index(joint), axis] > 30


@pytest.mark.parametrize("action", ACTIONS)
def test_motions_keep_bones_and_bend_the_right_way(action: str) -> None:
    joints = np.concatenate(
        [pose(motion(action, np.arange(20) / 10, np.random.default_rng(seed))) for seed in range(6)]
    )
    expected = [MEAN_LIMBS[name] if name in MEAN_LIMBS else MEAN_LIMBS.get(name[1:], 0.0) for name in H36M17.joints]
    expected[0] = 0.0  # the hip's own bone; MEAN_LIMBS["Hip"] is that of the two sides
    np.testing.assert_allclose(bone_lengths(joints, H36M17), np.broadcast_to(expected, (120, 17)), rtol=1e-9, atol=1e-9)
    assert not left_right_suspect(joints, H36M17).reasons
    assert np.abs(np.diff(joints.reshape(6, 20, 17, 3), axis=1)).max() < 450  # smooth: no joint jumps in a tenth second
    np.testing.assert_allclose((joints[..., 2] + ground_shift(joints)[:, None]).min(-1), 80)


# Cameras


def test_look_at_puts_the_target_in_the_middle_and_up_at_the_top() -> None:
    camera = look_at(np.array([4000.0, 3000.0, 1500.0]), np.array([10.0, 20.0, 900.0]), 1100.0, 1000.0)
    points = np.array([[10.0, 20.0, 900.0], [10.0, 20.0, 1900.0], [-590.0, 820.0, 900.0]])
    seen = camera.to_camera(points)
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.rotation) == pytest.approx(1)
    pixels = camera.project(seen)
    np.testing.assert_allclose(pixels[0], [500, 500])
    assert pixels[1, 1] < 350  # what is higher is further up in the picture
    assert pixels[2, 0] > 550  # looking along (-4, -3), the right hand is at (-3, 4)


def test_distortion_by_hand() -> None:
    camera = Camera(
        rotation=np.eye(3),
        position=np.zeros(3),
        focal=np.array([2.0, 3.0]),
        centre=np.array([5.0, 7.0]),
        radial=np.array([0.1, 0.01, 0.001]),
        tangential=np.array([0.2, 0.3]),
    )
    x, y = 0.5, 0.25
    r2 = x * x + y * y
    gain = 1 + 0.1 * r2 + 0.01 * r2**2 + 0.001 * r2**3 + 0.2 * y + 0.3 * x
    expected = [2 * (x * gain + 0.3 * r2) + 5, 3 * (y * gain + 0.2 * r2) + 7]
    np.testing.assert_allclose(camera.project(np.array([2.0, 1.0, 4.0])), expected)


def test_square_crops() -> None:
    pixels = np.array([[[10.0, 20.0], [30.0, 100.0], [15.0, 40.0]]])
    crop = square_crops(pixels, 0.25)
    np.testing.assert_allclose(crop.side, [120])
    np.testing.assert_allclose(crop.corner, [[20 - 60, 60 - 60]])
    np.testing.assert_allclose(crop.fractions(pixels)[0, 1], [70 / 120, 100 / 120])
    whole = Crop(np.array([[0.4, 0.2]]), np.array([9.6])).whole()
    assert (whole.corner.tolist(), whole.side.tolist()) == ([[0.0, 0.0]], [10.0])


# Pictures


def test_limbs_are_where_the_joints_are_and_the_nearer_one_covers() -> None:
    rng = np.random.default_rng(3)
    points, depth = np.full((17, 2), 0.9), np.full(17, 5000.0)
    for name, x in (("LShoulder", 0.2), ("LElbow", 0.2), ("RShoulder", 0.5), ("RElbow", 0.5)):
        points[H36M17.index(name)] = x, 0.2 if "Shoulder" in name else 0.7
    colours = palette(rng)
    behind = background(40, rng)
    shown = render(points, depth, 1 / 2500, colours, behind, rng, noise=0.0)
    left, right = shown[18, 8].astype(int), shown[18, 20].astype(int)  # half way down each upper arm
    assert left[2] > left[0] + 50  # red
    assert right[0] > right[2] + 50  # blue
    points[[H36M17.index("RShoulder"), H36M17.index("RElbow")]] = points[
        [H36M17.index("LShoulder"), H36M17.index("LElbow")]
    ]
    depth[H36M17.index("RElbow")] = 4000.0
    covered = render(points, depth, 1 / 2500, colours, behind, rng, noise=0.0)[18, 8].astype(int)
    assert covered[0] > covered[2] + 50


# The data set


def test_lists_have_the_original_s_layout(folder: TrainingFolder) -> None:
    for path, values, lines in (
        (folder.train_list, 81, 2 * 2 * 4 * 6),
        (folder.runs_list, 81, 2 * 2 * 4 * 6),
        (folder.test_list, 81, 2 * 4 * 4),
        (folder.test_data().ground_truth(13), 81, 4 * 4),
        (folder.test_data().ground_truth(8), 81, 4 * 4),
        (folder.images_list, 36, 2 * 2 * 4 * 6),
        (folder.mpii_list, 33, 5),
    ):
        assert len(read_image_list(str(path), values)) == lines
    clips = [read_image_list(str(folder.train_list), 81).labels(k)[-1] for k in range(12)]
    assert clips == [0, 1, 1, 1, 1, 1] * 2
    assert not folder.test_data().ground_truth(1).exists()


def test_every_picture_is_there(folder: TrainingFolder) -> None:
    for path, root, values in (
        (folder.train_list, folder.h36m, 81),
        (folder.test_list, folder.h36m, 81),
        (folder.mpii_list, folder.mpii, 33),
    ):
        entries = read_image_list(str(path), values)
        for k in range(len(entries)):
            assert cv2.imread(str(root / entries.name(k))).shape == (24, 24, 3)


def test_runs_are_whole_shuffled_and_all_there(folder: TrainingFolder) -> None:
    def lines(path: Path) -> list[str]:
        return path.read_text().splitlines()

    shuffled, ordered = lines(folder.runs_list), lines(folder.train_list)
    assert [line[-2:] for line in shuffled] == [",0", ",1", ",1"] * 32
    assert sorted(line[:-1] for line in shuffled) == sorted(line[:-1] for line in ordered)
    assert [line[:-1] for line in shuffled] != [line[:-1] for line in ordered]
    places = {line[:-1]: k for k, line in enumerate(ordered)}
    for k in range(0, len(shuffled), 3):
        first = places[shuffled[k][:-1]]
        assert [places[line[:-1]] for line in shuffled[k : k + 3]] == [first, first + 1, first + 2]


def test_labels_have_mean_limbs_and_fill_the_bounds(folder: TrainingFolder) -> None:
    entries = read_image_list(str(folder.train_list), 81)
    values = np.array([entries.labels(k) for k in range(len(entries))])
    normalised = values[:, 32:80]
    assert normalised.min() >= 0
    assert normalised.max() <= 1
    np.testing.assert_allclose(normalised[:, 3:].max(0), 1, atol=1e-6)
    millimetres = denormalise(normalised, read_bounds(folder.test_data().bounds)).reshape(-1, 16, 3)
    np.testing.assert_allclose(bone_lengths(millimetres), np.broadcast_to(MEAN_LENGTHS, (96, 16)), atol=0.01)
    assert not left_right_suspect(millimetres, H36M16).reasons
    assert (values[:, :32] > 0.05).all()
    assert (values[:, :32] < 0.95).all()


def test_2d_labels_are_projections_of_the_3d_ones() -> None:
    """Up to perspective and the subject's own limbs, 2D is 3D without depth, scaled."""
    for sequence in sequences(SMALL, held_out=True):
        flat = sequence.points16 - sequence.points16[:, :1]
        predicted = sequence.labels[..., :2] * sequence.per_mm[:, None, None]
        assert np.abs(flat - predicted).max() < 0.12


def test_a_seed_gives_the_same_and_another_one_does_not(folder: TrainingFolder, tmp_path: Path) -> None:
    again = write(SMALL, tmp_path / "again")
    for path in (folder.train_list, folder.mpii_list, folder.h36m / "images/S9_Sitting_1_cam3/0004.png"):
        assert (again.root / path.relative_to(folder.root)).read_bytes() == path.read_bytes()
    a, b = (sequences(SyntheticOptions(**{**vars(SMALL), "seed": seed}), held_out=True)[0].labels for seed in (1, 2))
    assert np.abs(a - b).max() > 50


def test_the_held_out_subject_is_not_trained_on() -> None:
    train, test = (sequences(SMALL, held_out=held_out) for held_out in (False, True))
    assert {s.subject for s in train} == {"S1", "S5"}
    assert {s.subject for s in test} == {"S9"}
    assert len({s.name for s in (*train, *test)}) == len(train) + len(test) == 2 * 2 * 4 + 2 * 4
    assert len(cameras()) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"frames": 7}, "no whole number of runs of 3"),
        ({"actions": ("Flying",)}, "no motion is called Flying"),
        ({"held_out": "S1"}, "another one held out"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SyntheticOptions(**{**vars(SMALL), **changes})


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "h36m").write_text("in the way")
    with pytest.raises(FileError, match="the folder cannot be made"):
        write(SMALL, tmp_path)
