"""SegmentationEvaluate beyond its recorded cases (``test_fork_cases.py``): OpenCV's sizes, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.forks.segmentation_evaluate import _resize_bytes
from tests.layers.building import build


def module(params: str = "num_classes: 3", *shapes: tuple[int, ...]) -> Any:
    text = f'type: "SegmentationEvaluate" segmentation_evaluate_param {{ {params} }}'
    return build(text, *(shapes or ((2, 3, 5, 7), (2, 3, 5, 7))), dialect="eric612/MobileNet-YOLO")


@pytest.mark.parametrize("size", [(5, 7), (20, 31), (40, 50), (17, 60), (9, 12), (11, 13), (1, 1), (4, 40)])
def test_bytes_are_resized_as_opencv_does(size: tuple[int, int], device: torch.device) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.RandomState(0).randint(0, 256, (18, 24, 3)).astype(np.uint8)
    found = _resize_bytes(torch.tensor(pixels, device=device).permute(2, 0, 1).long(), *size)
    np.testing.assert_array_equal(found.permute(1, 2, 0).cpu(), cv2.resize(pixels, size[::-1]))


def test_the_threshold_is_what_lies_below() -> None:
    predicted = torch.tensor([0.2, 0.3, 0.5, 0.9]).reshape(1, 1, 2, 2)
    truth = torch.tensor([0.0, 1, 1, 0]).reshape(1, 1, 2, 2)
    found = module("num_classes: 1 threshold: 0.3", (1, 1, 2, 2), (1, 1, 2, 2))(predicted, truth)
    assert found.shape == (1, 1, 1, 1)
    assert found.item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("params", "shapes", "problem"),
    [
        ("threshold: 0.4", (), "needs num_classes"),
        (
            "num_classes: 3",
            ((2, 3, 5), (2, 3, 5, 7)),
            r"'b0' has shape \[2, 3, 5\]; \(images, channels, height > 0",
        ),
        ("num_classes: 3", ((2, 3, 5, 7), (2, 4, 5, 7)), r"'b1' has shape \[2, 4, 5, 7\]; \(images > 0, 3, height > 0"),
    ],
)
def test_errors(params: str, shapes: Any, problem: str) -> None:
    with pytest.raises(LayerError, match=problem):
        module(params, *shapes)
