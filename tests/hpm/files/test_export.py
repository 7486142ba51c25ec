"""Poses for other programs: what a reader of each format gets back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from caffe_compat.errors import UsageError
from hpm.files.exports import export_poses, smoothed, to_bvh
from hpm.files.lists import read_list
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


def test_arrays_and_json(walk: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.npy", "a.json", "a.bvh"):
        export_poses(walk, tmp_path / name, fps=10, stage="refined")
    array = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert (array.shape, array.dtype) == (walk.shape, np.float32)
    np.testing.assert_allclose(array, walk, atol=1e-3)
    content = json.loads((tmp_path / "a.json").read_text())
    np.testing.assert_allclose(content["poses"], walk, atol=1e-3)
    assert (content["stage"], content["unit"], content["fps"]) == ("refined", "mm", 10)
    assert content["joints"][content["parents"][3]] == "RKnee"
    assert (tmp_path / "a.bvh").read_text() == to_bvh(walk, 10)
    with pytest.raises(UsageError, match=r"a.fbx: a name that ends in .npy, .json, .bvh"):
        export_poses(walk, tmp_path / "a.fbx", fps=10, stage="refined")
    with pytest.raises(UsageError, match=r"found \(0, 16, 3\)"):
        export_poses(walk[:0], tmp_path / "b.npy", fps=10, stage="refined")
    with pytest.raises(UsageError, match="0 frames per second"):
        to_bvh(walk, 0)


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
