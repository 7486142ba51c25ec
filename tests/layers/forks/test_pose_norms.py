"""Poses as fractions, and the boxes that joints span, beyond their recorded cases (``test_fork_cases.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat import FileAccess
from caffe_compat.errors import LayerError
from tests.layers.building import build

FORK = "zimenglan-sysu-512/pose_action_caffe"
POSES = np.random.RandomState(0).uniform(0, 50, (2, 6, 1, 1)).astype(np.float32)
INFO = np.array([[0, 64, 56, 1.5, 0], [1, 80, 40, 0.5, 1]], np.float32).reshape(2, 5, 1, 1)


def scale(kind: str, params: str, *shapes: tuple[int, ...]) -> Any:
    text = f'type: "{kind}" norm_pose_coords_param {{ {params} }}'
    return build(text, *(shapes or (POSES.shape, INFO.shape)), dialect=FORK)


def test_fractions_of_the_picture_and_back() -> None:
    """The fork takes the width for the height."""
    forth, back = (scale(kind, "normalized_type: 1") for kind in ("NormalizedPoseCoords", "RevertNormalizedPoseCoords"))
    found = forth(torch.tensor(POSES), torch.tensor(INFO))
    width, height = INFO[:, 2, 0, 0] * INFO[:, 3, 0, 0], INFO[:, 1, 0, 0] * INFO[:, 3, 0, 0]
    expected = POSES.reshape(2, 3, 2) / np.stack([width, height], 1)[:, None] - 0.5
    np.testing.assert_allclose(found.reshape(2, 3, 2), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back(found, torch.tensor(INFO)), POSES, rtol=1e-5)


def test_statistics_of_a_file(tmp_path: Path) -> None:
    numbers = np.random.RandomState(1).uniform(1, 9, (6, 2)).astype(np.float32)
    (tmp_path / "poses.txt").write_text("6\n" + "\n".join(f"{a} {b}" for a, b in numbers))
    modules = [
        scale(kind, 'normalized_type: 2 statistic_file: "poses.txt"')
        for kind in ("NormalizedPoseCoords", "RevertNormalizedPoseCoords")
    ]
    for module in modules:
        module.files = FileAccess(tmp_path)
    found = modules[0](torch.tensor(POSES), torch.tensor(INFO))
    mean, deviation = (numbers[:, i] * INFO[:, 3, :, 0] for i in (0, 1))
    np.testing.assert_allclose(found.flatten(1), (POSES[..., 0, 0] - mean) / deviation, rtol=1e-5)
    np.testing.assert_allclose(modules[1](found, torch.tensor(INFO)), POSES, rtol=1e-4)
    (tmp_path / "poses.txt").write_text("5 1 2")
    other = scale("NormalizedPoseCoords", 'normalized_type: 2 statistic_file: "poses.txt"')
    other.files = FileAccess(tmp_path)
    with pytest.raises(LayerError, match="has 5 coordinates and 2 numbers; 6, and two numbers of each"):
        other(torch.tensor(POSES), torch.tensor(INFO))


@pytest.mark.parametrize(
    ("params", "shapes", "problem"),
    [
        ("", (), "needs a normalized_type of 0, 1 or 2"),
        ("normalized_type: 3", (), "needs a normalized_type of 0, 1 or 2"),
        ("normalized_type: 1", (POSES.shape,), "normalized_type 1 needs a second bottom"),
        ("normalized_type: 2", (), "normalized_type 2 needs statistic_file"),
        ("normalized_type: 1", (POSES.shape, (2, 4)), r"'b1' has shape \[2, 4\]"),
        ("normalized_type: 0", ((2, 5),), "pairs of coordinates"),
    ],
)
def test_errors(params: str, shapes: tuple[tuple[int, ...], ...], problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        scale("NormalizedPoseCoords", params, *shapes)


@pytest.mark.parametrize(("ids", "joints"), [((2, 0), [0, 2]), ((1, 1), [0, 1, 2]), ((-1, -2), [0, 1, 2])])
def test_boxes(ids: tuple[int, int], joints: list[int]) -> None:
    text = f'type: "CoordsToBboxes" coord2bbox_param {{ bbox_id1: {ids[0]} bbox_id2: {ids[1]} }}'
    found = build(text, POSES.shape, dialect=FORK)(torch.tensor(POSES))
    points = POSES.reshape(2, 3, 2)[:, joints]
    np.testing.assert_array_equal(found[..., 0, 0], np.concatenate([points.min(1), points.max(1)], 1))
    with pytest.raises(LayerError, match="bbox_id1 0 and bbox_id2 3 must be two of 3 joints"):
        build('type: "CoordsToBboxes" coord2bbox_param { bbox_id1: 0 bbox_id2: 3 }', POSES.shape, dialect=FORK)
    with pytest.raises(LayerError, match="needs bbox_id1 and bbox_id2"):
        build('type: "CoordsToBboxes" coord2bbox_param { bbox_id1: 0 }', POSES.shape, dialect=FORK)
