"""Poses for other programs: what a reader of each format gets back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pygltflib import GLTF2
from scipy.spatial.transform import Rotation

from caffe_compat.errors import UsageError
from hpm.files.exports import Motion, export_poses, smoothed
from hpm.files.lists import read_list
from hpm.files.motions import to_bvh
from hpm.files.npz import read_npz
from hpm.scaling import bone_lengths, denormalise, read_bounds
from hpm.skeleton import H36M16


@pytest.fixture
def walk(reference: Path) -> np.ndarray:
    data = reference / "synthetic_pose" / "data"
    labels = read_list(data / "gt" / "test" / "test13.txt", need_3d=True).pose3d
    assert labels is not None
    pose: np.ndarray = denormalise(labels, read_bounds(data / "16point_mean_limb_scaled_max_min.csv"))
    return pose.reshape(-1, 16, 3)


def _turn(axis: str, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"X": (1, 2), "Y": (2, 0), "Z": (0, 1)}[axis]
    turn = np.eye(3)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn


def _play(text: str) -> tuple[list[dict[str, np.ndarray]], float]:
    """Where a BVH's nodes are in each frame, as a player works it out; ends are called ``<node>.end``."""
    hierarchy, _, motion = text.partition("MOTION\n")
    nodes: list[tuple[str, int, np.ndarray, list[str]]] = []
    stack: list[int] = []
    for words in (line.split() for line in hierarchy.splitlines()):
        if words[0] in ("ROOT", "JOINT", "End"):
            name = words[1] if words[0] != "End" else f"{nodes[stack[-1]][0]}.end"
            nodes.append((name, stack[-1] if stack else -1, np.zeros(3), []))
        elif words[0] == "{":
            stack.append(len(nodes) - 1)
        elif words[0] == "}":
            stack.pop()
        elif words[0] == "OFFSET":
            nodes[-1][2][:] = [float(word) for word in words[1:]]
        elif words[0] == "CHANNELS":
            assert int(words[1]) == len(words[2:])
            nodes[-1][3].extend(words[2:])
    assert not stack
    count, time, *rows = motion.splitlines()
    assert int(count.removeprefix("Frames: ")) == len(rows)
    frames = []
    for row in rows:
        values = iter(map(float, row.split()))
        places: list[tuple[np.ndarray, np.ndarray]] = []
        for _, parent, offset, channels in nodes:
            place, turned = (np.zeros(3), np.eye(3)) if parent < 0 else places[parent]
            place, own = place + turned @ offset, np.eye(3)
            for channel in channels:
                if channel.endswith("position"):
                    place = place + next(values) * np.eye(3)["XYZ".index(channel[0])]
                else:
                    own = own @ _turn(channel[0], next(values))
            places.append((place, turned @ own))
        assert next(values, None) is None
        frames.append({name: place for (name, *_), (place, _) in zip(nodes, places, strict=True)})
    return frames, float(time.removeprefix("Frame Time: "))


def _joints(frame: dict[str, np.ndarray]) -> np.ndarray:
    """The pose (16, 3) of a BVH frame, in the camera's axes and mm."""
    found = {"Hip": frame["Hip"]}
    for name, place in frame.items():
        if "_" in name and not name.endswith(".end"):
            found[name.partition("_")[0]] = place
        elif name.endswith(".end"):
            found[name.removesuffix(".end").partition("_")[2]] = place
    return np.stack([found[joint] for joint in H36M16.joints]) * [10, -10, -10]


def test_bvh_plays_the_poses(walk: np.ndarray) -> None:
    """Of a body whose bones keep their lengths, each joint is where it was."""
    frames, time = _play(to_bvh(walk, 12.5))
    assert time == pytest.approx(0.08)
    assert len(frames) == len(walk)
    assert len(frames[0]) == 16 + 5  # the hip, 15 bones, 5 ends
    np.testing.assert_allclose(np.stack(list(map(_joints, frames))), walk, atol=0.01)


def test_bvh_keeps_directions_of_bones_that_change(walk: np.ndarray) -> None:
    pose = walk + np.random.RandomState(0).normal(0, 30, walk.shape)
    pose -= pose[:, :1]
    found = np.stack([_joints(frame) for frame in _play(to_bvh(pose, 10))[0]])
    np.testing.assert_allclose(bone_lengths(found), np.tile(bone_lengths(pose).mean(0), (len(pose), 1)), atol=0.01)
    for child, parent in H36M16.bones:
        ours, theirs = (p[:, child] - p[:, parent] for p in (found, pose))
        cosine = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
        assert cosine.min() > 1 - 1e-6


def test_bvh_of_poses_that_tell_no_direction() -> None:
    """All joints in one place, on one line, and bones opposite to those of the body at rest."""
    line = np.zeros((16, 3))
    line[1:, 1] = np.arange(1, 16) * 10
    upside = np.zeros((16, 3))
    for child, parent in H36M16.downward:
        upside[child] = upside[parent] + (0, 100.0 if child in (7, 8, 9) else -100.0, 0)
    text = to_bvh(np.stack([np.zeros((16, 3)), line, upside]), 10)
    assert "nan" not in text
    found = _joints(_play(text)[0][2])
    assert all(
        (found[child] - found[parent])[1] * (1 if child in (7, 8, 9) else -1) > 0 for child, parent in H36M16.bones
    )


def test_conventional_names_of_the_same_motion(walk: np.ndarray) -> None:
    """Those of CMU's motions; where the nodes are, and how they turn, does not change."""
    ours, theirs = to_bvh(walk, 10).splitlines(), to_bvh(walk, 10, "conventional").splitlines()
    names = [line.split()[1] for line in theirs if line.split()[0] in ("ROOT", "JOINT")]
    sides = [
        side + part for side in ("Right", "Left") for part in ("Hip", "UpLeg", "Leg", "Shoulder", "Arm", "ForeArm")
    ]
    assert sorted(names) == sorted(["Hips", "Spine", "Spine1", "Neck", *sides])
    differ = [(a.split(), b.split()) for a, b in zip(ours, theirs, strict=True) if a != b]
    assert len(differ) == 16
    assert (["JOINT", "LHip_LKnee"], ["JOINT", "LeftUpLeg"]) in differ


def _accessor(file: GLTF2, number: int) -> np.ndarray:
    """The rows of an accessor, by the numbers that glTF gives to types."""
    accessor = file.accessors[number]
    view = file.bufferViews[accessor.bufferView]
    kind, width = {5126: "<f4", 5123: "<u2"}[accessor.componentType], {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
    values = np.frombuffer(file.binary_blob(), kind, accessor.count * width, view.byteOffset)
    rows = values.reshape(accessor.count, width)
    np.testing.assert_array_equal(rows.min(0), np.float32(accessor.min))
    np.testing.assert_array_equal(rows.max(0), np.float32(accessor.max))
    return rows


def test_a_reader_of_gltf_finds_the_poses(walk: np.ndarray, tmp_path: Path) -> None:
    pose = walk.copy()
    pose[3] = np.nan  # a frame without a pose has no key
    export_poses(pose, tmp_path / "a.glb", Motion(12.5, "refined"))
    file = GLTF2().load(str(tmp_path / "a.glb"))
    nodes = {node.name: k for k, node in enumerate(file.nodes)}
    (animation,) = file.animations
    tracks = {}
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        assert sampler.interpolation == "LINEAR"
        times = _accessor(file, sampler.input)[:, 0]
        np.testing.assert_allclose(times, np.delete(np.arange(len(walk)), 3) / 12.5, rtol=1e-6)
        tracks[channel.target.node, channel.target.path] = _accessor(file, sampler.output).astype(np.float64)
    expected = np.delete(walk, 3, 0) * [1, -1, -1] / 1000

    def place(node: int) -> np.ndarray:
        """Where a joint's node is: joints only move, they do not turn."""
        above = [k for k, other in enumerate(file.nodes) if node in (other.children or [])]
        return tracks[node, "translation"] + (place(above[0]) if above else 0)

    assert file.scenes[file.scene].nodes == [nodes["Hip"]]
    for k, name in enumerate(H36M16.joints):
        np.testing.assert_allclose(place(nodes[name]), expected[:, k], atol=1e-5)
    # The spindle's tip, turned and scaled, lies on the joint.
    for child, parent in H36M16.bones:
        bone = nodes[f"{H36M16.joints[parent]}_{H36M16.joints[child]}"]
        assert bone in file.nodes[nodes[H36M16.joints[parent]]].children
        turn = Rotation.from_quat(tracks[bone, "rotation"])
        tip = turn.apply(tracks[bone, "scale"] * [0, 1, 0])
        np.testing.assert_allclose(tip, expected[:, child] - expected[:, parent], atol=1e-5)
        (primitive,) = file.meshes[file.nodes[bone].mesh].primitives
        assert _accessor(file, primitive.attributes.POSITION)[:, 1].max() == 1
        assert _accessor(file, primitive.indices).max() == 5


def test_a_bone_that_points_down_half_a_turn(walk: np.ndarray, tmp_path: Path) -> None:
    down = np.zeros((2, 16, 3))
    down[:, 1:, 1] = 100.0 * np.arange(1, 16)  # y is down in a camera's axes
    export_poses(down, tmp_path / "a.glb", Motion(10, "coarse"))
    file = GLTF2().load(str(tmp_path / "a.glb"))
    for node in file.nodes:
        if node.rotation is not None:
            tip = Rotation.from_quat(node.rotation).apply([0, node.scale[1], 0])
            assert tip[1] == pytest.approx(-node.scale[1], abs=1e-6)


def test_arrays_tables_and_json_have_all_digits(walk: np.ndarray, tmp_path: Path) -> None:
    pose = walk.copy()
    pose[2] = np.nan
    rests_on = ["seen"] * len(walk)
    rests_on[2] = "none"
    motion = Motion(10, "refined", "walk.mp4", rests_on)
    for name in ("a.npy", "a.npz", "a.csv", "a.json", "a.bvh"):
        export_poses(pose, tmp_path / name, motion)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), pose)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["poses"].pop(2) is None
    np.testing.assert_array_equal(content["poses"], np.delete(pose, 2, 0))
    assert (content["stage"], content["unit"], content["fps"]) == ("refined", "mm", 10)
    assert content["joints"][content["parents"][3]] == "RKnee"
    assert content["rests_on"] == rests_on
    arrays = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["positions_3d"]["walk.mp4"]["custom"], pose / 1000)
    assert arrays["metadata"]["keypoints_symmetry"] == [[4, 5, 6, 10, 11, 12], [1, 2, 3, 13, 14, 15]]
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["LWrist_y"]) == pose[1, H36M16.index("LWrist"), 1]
    assert (rows[2]["frame"], rows[2]["rests_on"], rows[2]["Hip_x"]) == ("2", "none", "")
    motions = (tmp_path / "a.bvh").read_text().partition("Frame Time")[2].splitlines()[1:]
    middle = (walk[1] + walk[3]) / 2
    assert motions[2] == to_bvh(np.concatenate([walk[:2], middle[None], walk[3:]]), 10).splitlines()[-len(walk) + 2]


def test_what_cannot_be_exported(walk: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a.fbx: a name that ends in .npy, .npz, .csv, .json, .bvh, .glb"):
        export_poses(walk, tmp_path / "a.fbx", Motion(10, "refined"))
    with pytest.raises(UsageError, match=r"found \(0, 16, 3\)"):
        export_poses(walk[:0], tmp_path / "b.npy", Motion(10, "refined"))
    with pytest.raises(UsageError, match="0 frames per second"):
        export_poses(walk, tmp_path / "b.npy", Motion(0, "refined"))
    with pytest.raises(UsageError, match="no frame has a pose"):
        export_poses(np.full_like(walk, np.nan), tmp_path / "b.bvh", Motion(10, "refined"))
    with pytest.raises(UsageError, match=r"a joint 1e\+300 mm from the hip"):
        export_poses(np.full_like(walk, 1e300), tmp_path / "b.glb", Motion(10, "refined"))
    with pytest.raises(UsageError, match="1 frames rest on something"):
        export_poses(walk, tmp_path / "b.bvh", Motion(10, "refined", rests_on=["seen"]))


def test_smoothing() -> None:
    steady = np.tile(np.arange(48.0).reshape(1, 16, 3), (9, 1, 1))
    np.testing.assert_allclose(smoothed(steady, 2.0), steady)  # at the ends too
    pulse = np.zeros((13, 1, 1))
    pulse[6] = 1
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    np.testing.assert_allclose(smoothed(pulse, 1.0)[3:10, 0, 0], weights / weights.sum())
    np.testing.assert_array_equal(smoothed(pulse, 0), pulse)
    assert smoothed(pulse[:1], 5.0).shape == (1, 1, 1)
    noisy = np.random.RandomState(0).normal(0, 1, (200, 16, 3))
    assert np.diff(smoothed(noisy, 2.0), axis=0).std() < 0.2 * np.diff(noisy, axis=0).std()
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="0 or more"):
            smoothed(pulse, wrong)
