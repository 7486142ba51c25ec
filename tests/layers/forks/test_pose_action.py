"""Layers of pose_action_caffe on poses, against one loop per coordinate, and beside their namesakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build, precise

FORK = "zimenglan-sysu-512/pose_action_caffe"
COORDINATES = np.array([[5.0, 7, -3, 30, 40, 3], [6, 1, 64, 24, 63, 23.5]])
# Index, width, height, scale, flipped.
INFO = np.array([[0.0, 20, 15, 2, 0], [1, 32, 12, 2, 1]])


def test_places_in_the_image(device: torch.device) -> None:
    expected = np.zeros_like(COORDINATES)
    for n, i in np.ndindex(2, 3):
        x, y = COORDINATES[n, 2 * i : 2 * i + 2] / INFO[n, 3]
        expected[n, 2 * i] = -1 if x >= INFO[n, 1] else INFO[n, 1] - 1 - x if INFO[n, 4] else x
        expected[n, 2 * i + 1] = -1 if y >= INFO[n, 2] else y
    assert (expected == -1).sum() == 4
    module = build('type: "RescaledPoseCoords"', (2, 6), (2, 5, 1, 1), dialect=FORK)
    given = [torch.tensor(x, device=device, dtype=precise(device)) for x in (COORDINATES, INFO)]
    assert_equals(module(given[0], given[1][..., None, None]), expected[..., None, None])
    assert module.infer(*given).shape == (2, 6, 1, 1)
    plain = build('type: "RescaledPoseCoords"', (2, 6), (2, 5), dialect="chanyn/3Dpose_ssl")
    assert_equals(plain(*given), (COORDINATES / INFO[:, 3:4])[..., None, None])


def test_gradient() -> None:
    x, info = torch.tensor(COORDINATES, requires_grad=True), torch.tensor(INFO)
    assert not build('type: "RescaledPoseCoords"', (2, 6), (2, 5), dialect=FORK)(x, info).requires_grad
    true = build('type: "RescaledPoseCoords"', (2, 6), (2, 5), dialect=FORK, gradients="true")
    true(x, info).sum().backward()
    assert x.grad is not None
    assert_equals(x.grad, [[0.5, 0.5, 0.5, 0, 0, 0.5], [-0.5, 0.5, 0, 0, -0.5, 0.5]])


def test_errors() -> None:
    with pytest.raises(LayerError, match="pairs of coordinates"):
        build('type: "RescaledPoseCoords"', (2, 5), (2, 5), dialect=FORK)
    with pytest.raises(LayerError, match=r"\(images = 2, index width height scale flipped = 5\) was expected"):
        build('type: "RescaledPoseCoords"', (2, 6), (3, 5), dialect=FORK)


# Poses out of heat maps

PLACES = "pose_coords_from_heat_maps_param { heat_map_a: 3 heat_map_b: -4 top_k: %d }"


@pytest.mark.parametrize("best", [0, 3, 100])
def test_places_of_the_largest_values(best: int) -> None:
    maps = np.random.RandomState(1).randint(0, 9, (2, 3, 4, 5)).astype(float)
    places, values = np.zeros((2, 6)), np.zeros((2, 3))
    for n, j in np.ndindex(2, 3):
        flat = [(value, cell) for cell, value in enumerate(maps[n, j].flat)]
        # The first of the largest; of several, the later one of two equals comes first.
        chosen = sorted(flat, reverse=True)[:best] if best else [max(flat, key=lambda entry: (entry[0], -entry[1]))]
        values[n, j] = sum(value for value, _ in chosen) / len(chosen)
        places[n, 2 * j] = sum(cell % 5 for _, cell in chosen) // len(chosen) * 3 - 4
        places[n, 2 * j + 1] = sum(cell // 5 for _, cell in chosen) // len(chosen) * 3 - 4
    module = build(f'type: "CoordsFromHeatMaps" {PLACES % best}', maps.shape, tops=2, dialect=FORK)
    x = torch.tensor(maps, requires_grad=True)
    found = module(x)
    assert_equals(found[0], places[..., None, None])
    assert_equals(found[1], values[..., None, None])
    (found[0].sum() + found[1].sum()).backward()
    assert_equals(x.grad, np.zeros_like(maps))
    alone = build('type: "CoordsFromHeatMaps"', maps.shape, dialect=FORK)
    assert alone(x)[1, 1].item() == maps[1, 0].argmax() // 5


def test_the_channel_of_the_largest_value() -> None:
    x = np.random.RandomState(2).uniform(-1, 1, (2, 4, 3, 5))
    x[0, 3, 1, 2] = x[0, 1, 1, 2] = 2  # the first of two equals
    plain = build('type: "ArgMaxC"', x.shape, dialect=FORK)
    assert_equals(plain(torch.tensor(x)), x.argmax(1)[:, None])
    both = build('type: "ArgMaxC" arg_max_c_param { out_max_val: true }', x.shape, dialect=FORK)
    assert_equals(both(torch.tensor(x)), np.stack([x.argmax(1), x.max(1)], 1))


LOG = 'acc_factor: 0.1 acc_factor_num: 4 images_num: 2 acc_path: "a/" acc_name: "b" log_name: "c"'


@pytest.mark.parametrize(
    "text",
    [
        f'type: "PosePDJAccuracy" pose_pdj_accuracy_param {{ {LOG} shoulder_id: 1 hip_id: 2 }}',
        f'type: "PoseEuDistAccuracy" pose_eudist_accuracy_param {{ {LOG} zero_iter_test: true }}',
    ],
)
def test_the_difference_of_poses(text: str) -> None:
    a, b = np.random.RandomState(3).uniform(0, 9, (2, 3, 6))
    module = build(text, (3, 6), (3, 6, 1, 1), dialect=FORK)
    given = torch.tensor(a, requires_grad=True), torch.tensor(b)[..., None, None]
    assert_equals(module(*given), [[[[sum(float(d) ** 2 for d in (a - b).flat) / 3]]]])
    assert module.infer(*given).shape == (1, 1, 1, 1)
    assert not module(*given).requires_grad
    with pytest.raises(LayerError, match="images_num"):
        build(text.replace("images_num: 2", ""), (3, 6), (3, 6), dialect=FORK)
    with pytest.raises(LayerError, match="poses of one shape"):
        build(text, (3, 6), (3, 4), dialect=FORK)


def test_errors_of_what_reads_and_rates_poses() -> None:
    for text, shapes, message in (
        ("CoordsFromHeatMaps", [(2, 3, 4, 5), (2,)], "takes 1 bottom"),
        ("CoordsFromHeatMaps", [(2, 3, 4)], r"joints > 0, height > 0"),
        ("ArgMaxC", [(2, 3)], "height, width"),
    ):
        with pytest.raises(LayerError, match=message):
            build(f'type: "{text}"', *shapes, dialect=FORK)
    with pytest.raises(LayerError, match="needs heat_map_a and heat_map_b"):
        build(f'type: "CoordsFromHeatMaps" {PLACES % 1}'.replace("heat_map_b: -4", ""), (2, 3, 4, 5), dialect=FORK)
    with pytest.raises(LayerError, match="top_k is -1"):
        build(f'type: "CoordsFromHeatMaps" {PLACES % -1}', (2, 3, 4, 5), dialect=FORK)
    with pytest.raises(LayerError, match="hip_id is 3; a joint of 0 to 2"):
        build(
            f'type: "PosePDJAccuracy" pose_pdj_accuracy_param {{ {LOG} shoulder_id: 1 hip_id: 3 }}',
            (3, 6),
            (3, 6),
            dialect=FORK,
        )


def test_what_would_be_drawn_for_people_is_not() -> None:
    maps = build(
        'type: "VisualizedHeatMaps2" visual_heat_maps_param { heat_map_path: "a/" visual_type: 1 }',
        (2, 3, 4, 5),
        (2, 5),
        tops=0,
        dialect=FORK,
    )
    assert maps(torch.rand(2, 3, 4, 5), torch.rand(2, 5)) == ()
    with pytest.raises(LayerError, match="scale flipped = 5"):
        build('type: "VisualizedPoseCoords"', (2, 6), (2, 4), tops=0, dialect=FORK)
