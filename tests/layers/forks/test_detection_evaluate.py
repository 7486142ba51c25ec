"""DetectionEvaluate against rows that were worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caffe_compat.access import FileAccess
from caffe_compat.errors import LayerError, UnknownLayerError
from tests.layers.building import build

SSD = "weiliu89/caffe@ssd"

TRUTHS = [
    (0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0),
    (0, 1, 0, 0.6, 0.6, 0.9, 0.9, 1),
    (0, 2, 0, 0.2, 0.2, 0.5, 0.5, 0),
    (1, 2, 0, 0.0, 0.0, 1.0, 1.0, 0),
    (-1, 0, 0, 0, 0, 0, 0, 0),
    (1, 1, 0, 0.0, 0.0, 1.0, 1.0, 0),
]
DETECTIONS = [
    (0, 1, 0.5, 0.1, 0.1, 0.4, 0.42),  # meets a truth that the next one met
    (0, 1, 0.9, 0.1, 0.1, 0.4, 0.4),
    (0, 1, 0.8, 0.6, 0.6, 0.9, 0.88),  # meets a difficult one
    (0, 1, 0.7, 0.0, 0.6, 0.2, 0.9),  # meets none
    (1, 1, 0.6, 0.0, 0.0, 1.0, 1.0),  # its truth stands behind the end
    (1, 2, 0.4, 0.0, 0.1, 1.0, 1.0),
    (2, -1, -1, -1, -1, -1, -1),
]


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("difficult", [False, True])
def test_detection_evaluate(tmp_path: Path, difficult: bool, sizes: bool) -> None:
    hit, miss = (1, 0), (0, 1)
    expected = [
        (-1, 1, 1 + difficult, -1, -1),
        (-1, 2, 2, -1, -1),
        (0, 1, 0.9, *hit),
        (0, 1, 0.8, *(hit if difficult else (0, 0))),
        (0, 1, 0.7, *miss),
        (0, 1, 0.5, *miss),
        (1, 1, 0.6, *miss),
        (1, 2, 0.4, *hit),
    ]
    text = f"""type: "DetectionEvaluate" detection_evaluate_param {{ num_classes: 3
    evaluate_difficult_gt: {str(difficult).lower()} {'name_size_file: "sizes.txt"' if sizes else ""} }}"""
    module = build(text, (1, 1, 7, 7), (1, 1, 6, 8), dialect=SSD)
    (tmp_path / "sizes.txt").write_text("a 300 200\nb 400 500\n")
    module.files = FileAccess(tmp_path)
    top = module(torch.tensor(DETECTIONS)[None, None], torch.tensor(TRUTHS)[None, None])
    torch.testing.assert_close(top[0, 0], torch.tensor(expected, dtype=torch.float32))
    assert module.infer(torch.empty(1, 1, 7, 7, device="meta")).shape == (1, 1, 9, 5)


def test_forks_that_change_classes_want_none_to_change() -> None:
    text, truths = 'type: "DetectionEvaluate" detection_evaluate_param { num_classes: 2 }', torch.tensor(TRUTHS)
    found = torch.tensor(DETECTIONS)[None, None]
    for dialect in (SSD, "sfzhang15/RefineDet"):
        module = build(text, (1, 1, 7, 7), (1, 1, 6, 8), dialect=dialect)
        module(found, truths.clamp(max=1)[None, None])
    assert build(text, (1, 1, 7, 7), (1, 1, 6, 8), dialect=SSD)(found, truths[None, None])[0, 0, 0, 2] == 2
    with pytest.raises(LayerError, match="none of the 2 classes"):
        module(found, truths[None, None])
    with pytest.raises(UnknownLayerError, match="not under dialect"):
        build(text, (1, 1, 7, 7), (1, 1, 6, 8), dialect="MVIG-SJTU/RMPE")
