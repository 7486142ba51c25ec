"""Boxes back in the pixels of pictures that were resized (SSD), worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_compat.errors import LayerError
from caffe_compat.layers.forks.resizing import Resizing
from tests.layers.building import build

BOX = np.array([[[0.25, 0.375, 0.75, 0.5]]], np.float32)


@pytest.mark.parametrize(
    ("resizing", "size", "expected"),
    [
        (Resizing("WARP", 50, 60), (200, 100), [50, 37.5, 150, 50]),
        # 200 x 100 in 80 x 80: 80 x 40, with 20 rows of border above and below.
        (Resizing("FIT_LARGE_SIZE_AND_PAD", 80, 80), (200, 100), [50, 25, 150, 50]),
        # 100 x 200 in 80 x 80: 20 columns of border on either side.
        (Resizing("FIT_LARGE_SIZE_AND_PAD", 80, 80), (100, 200), [0, 75, 100, 100]),
        (Resizing("FIT_LARGE_SIZE_AND_PAD", 40, 80), (200, 100), [50, 37.5, 150, 50]),
        (Resizing("FIT_SMALL_SIZE", 50, 60), (200, 100), [50, 37.5, 150, 50]),
        (Resizing("FIT_SMALL_SIZE", 50, 60, scales=(240, 400)), (200, 100), [100, 90, 200, 100]),
    ],
)
def test_boxes_in_pixels(resizing: Resizing, size: tuple[float, float], expected: list[float]) -> None:
    np.testing.assert_allclose(resizing.undone(BOX, size), np.array([[expected]]), rtol=1e-6)


def test_a_box_in_the_border_alone_stays() -> None:
    box = np.array([[0.1, 0.05, 0.6, 0.25], [-0.5, 0.3, 1.5, 2]], np.float32)
    found = Resizing("FIT_LARGE_SIZE_AND_PAD", 80, 80).undone(box, (200, 100))
    np.testing.assert_allclose(found, [[20, 5, 120, 25], [0, 10, 200, 100]], rtol=1e-6)


def test_errors() -> None:
    text = 'type: "DetectionEvaluate" detection_evaluate_param { num_classes: 3 resize_param { height: 5 } }'
    with pytest.raises(LayerError, match="height 5 and width 0; both must be at least 1"):
        build(text, (1, 1, 7, 7), (1, 1, 6, 8), dialect="weiliu89/caffe@ssd")
