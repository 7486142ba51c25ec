"""Masks and heat maps as large as pictures (pose_action_caffe), against one loop per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.net import CaffeNet
from tests.layers.building import assert_equals, build
from tests.networks import input_layer, layer, net_of

FORK = "zimenglan-sysu-512/pose_action_caffe"
# Index, width, height, scale, flipped: the pictures are 16 x 12 and 15 x 13, so maps have 16 columns and 13 rows.
INFO = np.array([[0.0, 8, 6, 2, 0], [1, 10, 8.67, 1.5, 1]])
BOX = "top_id: 0 bottom_id: %d top_id2: 1 bottom_id2: 2 value: 7"


def net_with(text: str, tops: str = "mask", picture: tuple[int, int] = (9, 11)) -> CaffeNet:
    """A net with an input of pictures, which are not what the layer reads: it only tells the size."""
    inputs = input_layer("data", 2, 3, *picture) + input_layer("pose", 2, 6) + input_layer("info", 2, 5)
    quiet = layer("s", "Silence", "data")
    kind, _, more = text.partition(" ")
    return net_of(inputs + quiet + layer("m", kind, "pose info", tops, more))


def boxes(poses: np.ndarray, pair: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    return [(*row[2 * pair[0] : 2 * pair[0] + 2], *row[2 * pair[1] : 2 * pair[1] + 2]) for row in poses.tolist()]


def masks(found: Sequence[tuple[float, float, float, float]], value: float = 7) -> np.ndarray:
    expected = np.zeros((len(found), 1, 13, 16))
    for n, (x1, y1, x2, y2) in enumerate(found):
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        if x1 < 0 or y1 < 0 or x2 >= 16 or y2 >= 13:
            continue
        for h in range(int(y1), math.floor(y2) + 1):
            for w in range(int(x1), math.floor(x2) + 1):
                expected[n, 0, h, w] = value
    return expected


POSES = np.array([[2.5, 9.25, 12, 3, 4, 5.75], [8, 1, 3.5, 11, 15.9, 12.9]])


@pytest.mark.parametrize(
    "kind", ["CoordsToBboxesMasks coord_to_bbox_masks_param", "TorsoMaskFromCoords torso_mask_from_coords_param"]
)
def test_a_box_between_two_joints(kind: str) -> None:
    net = net_with(f"{kind} {{ {BOX % 1} }}")
    assert net.shapes[net.graph.blobs.index("mask")] == (2, 1, 9, 11), "as large as the net's pictures"
    assert "never compared" in " ".join(net.notes)
    poses = torch.tensor(POSES, dtype=torch.float32, requires_grad=True)
    for _ in range(8):
        found = net.run({"data": torch.zeros(2, 3, 9, 11), "pose": poses, "info": torch.tensor(INFO).float()})["mask"]
        for n in range(2):
            wanted = [masks(boxes(POSES, pair))[n] for pair in ((0, 1), (1, 2))]
            assert any(np.array_equal(found[n].detach().numpy(), mask) for mask in wanted)
    net.m(poses, torch.tensor(INFO).float()).sum().backward()
    assert_equals(poses.grad, np.zeros((2, 6)))
    whole = net_with(f"{kind} {{ {BOX % 0} }}")  # of one joint with itself: all joints
    found = whole.run({"data": torch.zeros(2, 3, 9, 11), "pose": poses, "info": torch.tensor(INFO).float()})["mask"]
    corners = [(row[::2].min(), row[1::2].min(), row[::2].max(), row[1::2].max()) for row in POSES]
    assert_equals(found, masks(corners).astype(np.float32))


@pytest.mark.parametrize(
    ("text", "often_still"),
    [
        ("CoordsToBboxesMasks coord_to_bbox_masks_param { %s perturb_num: 2 }", True),
        ("TorsoMaskFromCoords torso_mask_from_coords_param { %s perb_num: 2 }", False),
    ],
)
def test_corners_are_moved(text: str, often_still: bool) -> None:
    """In whole pixels, by 2 at most; all four by themselves, or some of them."""
    net = net_with(text % (BOX % 1).replace("id2: 1", "id2: 0").replace("id2: 2", "id2: 1"))
    pose = torch.tensor([[4.0, 3, 11, 9, 0, 0]] * 2)
    found = []
    for iteration in range(60):
        net.randomness.seed, net.randomness.iteration = 1, iteration
        mask = net.run({"data": torch.zeros(2, 3, 9, 11), "pose": pose, "info": torch.tensor(INFO).float()})["mask"]
        for one in mask:
            rows, columns = one[0].any(1).nonzero().flatten(), one[0].any(0).nonzero().flatten()
            edges = (int(columns[0]) - 4, int(rows[0]) - 3, int(columns[-1]) - 11, int(rows[-1]) - 9)
            assert max(map(abs, edges)) <= 2
            found.append(sum(edge != 0 for edge in edges))
    assert (found.count(0) > len(found) / 5) is often_still, "in 6 of 20 cases nothing moves, or else hardly ever"
    assert {1, 2, 4} <= set(found)


def test_pictures_without_a_size() -> None:
    net = net_with(f"CoordsToBboxesMasks coord_to_bbox_masks_param {{ {BOX % 1} }}")
    given = {"data": torch.zeros(2, 3, 9, 11), "pose": torch.tensor(POSES).float(), "info": torch.zeros(2, 5)}
    assert net.run(given)["mask"].shape == (2, 1, 11, 9), "rows and columns exchanged, as in the fork"
    assert not net.run(given)["mask"].any()
    torso = net_with(f"TorsoMaskFromCoords torso_mask_from_coords_param {{ {BOX % 1} }}")
    with pytest.raises(LayerError, match="pictures are 0 x 0"):
        torso.run(given)


@pytest.mark.parametrize("binary", [True, False])
def test_discs_about_joints(binary: bool) -> None:
    poses = np.array([[2.5, 9.25, 12, 3, -1, 5.75], [8, 1, 3.5, 11, 14.5, 12.5]])
    text = f'is_binary: {str(binary).lower()} gau_mean: 0.5 gau_stds: 2.5 radius_str: "2,0,4"'
    net = net_with(f"HeatMapsFromCoordsOrigin heat_maps_from_coords_origin_param {{ {text} }}", "maps seen size")
    given = {"data": torch.zeros(2, 3, 9, 11), "pose": torch.tensor(poses).float(), "info": torch.tensor(INFO).float()}
    found = net.run(given)
    maps, seen = np.zeros((2, 3, 13, 16)), np.ones((2, 3, 1, 1))
    for n, j in np.ndindex(2, 3):
        x, y = poses[n, 2 * j : 2 * j + 2]
        width, height = INFO[n, 1:3] * INFO[n, 3]
        if x < 0 or y < 0 or x >= width or y >= height:
            seen[n, j] = 0
            continue
        radius = (2, 0, 4)[j]
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                if not (0 <= x + dx < width and 0 <= y + dy < height) or dx * dx + dy * dy > radius**2:
                    continue
                value = 1 if binary else math.exp(((dx - 0.5) ** 2 + (dy - 0.5) ** 2) / (2 * 2.5**2))
                if int(y + dy) < 13:
                    maps[n, j, int(y + dy), int(x + dx)] = value
    assert_equals(found["maps"], maps.astype(np.float32))
    assert_equals(found["seen"], seen)
    assert found["size"].flatten().tolist() == [16, 13, 1, 0]
    assert net.shapes[net.graph.blobs.index("maps")] == (2, 3, 9, 11)


def test_one_radius_for_all() -> None:
    text = "is_binary: true gau_mean: 0 gau_stds: 1 radius: 1"
    net = net_with(f"HeatMapsFromCoordsOrigin heat_maps_from_coords_origin_param {{ {text} }}", "maps seen")
    pose = torch.tensor([[5.0, 6, 10, 8, 3, 3]] * 2)
    maps = net.run({"data": torch.zeros(2, 3, 9, 11), "pose": pose, "info": torch.tensor(INFO).float()})["maps"]
    assert maps.sum((2, 3)).tolist() == [[5, 5, 5]] * 2


@pytest.mark.parametrize("outer", ["in_radius: 5", 'in_radius_str: "3,2,5"'])
def test_rings_about_discs_do_not_count(outer: str) -> None:
    poses = np.array([[2.5, 9.25, 12, 3, -1, 5.75], [8, 1, 3.5, 11, 14.5, 12.5]])
    text = f'is_binary: true gau_mean: 0.5 gau_stds: 2.5 radius_str: "2,0,4" {outer}'
    net = net_with(f"HeatMapsFromCoordsOrigin2 heat_maps_from_coords_origin2_param {{ {text} }}", "maps mask size")
    given = {"data": torch.zeros(2, 3, 9, 11), "pose": torch.tensor(poses).float(), "info": torch.tensor(INFO).float()}
    found = net.run(given)
    mask = np.ones((2, 3, 13, 16))
    for n, j in np.ndindex(2, 3):
        x, y = poses[n, 2 * j : 2 * j + 2]
        width, height = INFO[n, 1:3] * INFO[n, 3]
        if x < 0 or y < 0 or x >= width or y >= height:
            mask[n, j] = 0
            continue
        inner, most = (2, 0, 4)[j], 5 if outer == "in_radius: 5" else (3, 2, 5)[j]
        for row, column in np.ndindex(13, 16):
            dx, dy = column - math.floor(x), row - math.floor(y)
            if inner**2 < dx * dx + dy * dy < most**2 and x + dx < width and y + dy < height:
                mask[n, j, row, column] = 0
    assert_equals(found["mask"], mask.astype(np.float32))
    assert found["maps"].sum((2, 3))[0, 0] == 13, "discs as HeatMapsFromCoordsOrigin draws them"
    assert found["size"].flatten().tolist() == [16, 13, 1, 0]
    assert net.shapes[net.graph.blobs.index("mask")] == (2, 3, 9, 11)


def test_errors_of_rings() -> None:
    rings = "HeatMapsFromCoordsOrigin2 heat_maps_from_coords_origin2_param { %s }"
    for given, message in (
        ("is_binary: true gau_mean: 0", "needs gau_stds"),
        ("is_binary: true gau_mean: 0 gau_stds: 1 radius: 2", "needs in_radius, or in_radius_str"),
        ("is_binary: true gau_mean: 0 gau_stds: 1 radius: 2 in_radius: 2", "in_radius of joint 0 is 2; more than"),
        ('is_binary: true gau_mean: 0 gau_stds: 1 radius: 2 in_radius_str: "3,4"', "3 radii"),
    ):
        with pytest.raises(LayerError, match=message):
            net_with(rings % given, "maps mask")


def test_errors() -> None:
    box = f"CoordsToBboxesMasks coord_to_bbox_masks_param {{ {BOX % 1} }}"
    with pytest.raises(LayerError, match="needs value"):
        net_with(box.replace("value: 7", ""))
    with pytest.raises(LayerError, match="there are 0 to 2"):
        net_with(box.replace("bottom_id2: 2", "bottom_id2: 3"))
    with pytest.raises(LayerError, match="no input of the net has four axes"):
        build(f'type: "{box.split()[0]}" {box.partition(" ")[2]}', (2, 6), (2, 5), dialect=FORK)
    discs = "HeatMapsFromCoordsOrigin heat_maps_from_coords_origin_param { is_binary: true gau_mean: 0 %s }"
    for given, message in (
        ("", "needs gau_stds"),
        ("gau_stds: 0", "more than 0"),
        ("gau_stds: 1", "needs radius, or radius_str"),
        ("gau_stds: 1 radius: 0", "radius is 0"),
        ('gau_stds: 1 radius_str: "1,2"', "3 radii"),
        ('gau_stds: 1 radius_str: "1,a,2"', "whole numbers"),
    ):
        with pytest.raises(LayerError, match=message):
            net_with(discs % given, "maps seen")
