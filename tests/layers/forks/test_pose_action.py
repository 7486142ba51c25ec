"""RescaledPoseCoords of pose_action_caffe, against one loop per coordinate, and beside its namesake."""

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
