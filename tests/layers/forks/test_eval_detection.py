"""EvalDetection against a loop over cells, boxes and objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import assert_equals, build

FORK = "intel/caffe"
SIDE, CLASSES = 3, 2
ANCHORS = [(1.3, 1.7), (0.6, 2.0), (2.5, 0.8), (0.4, 0.5), (1.0, 1.0)]
BIASES = " ".join(f"biases: {w} biases: {h}" for w, h in ANCHORS)
SHAPES = (2, 5 * (CLASSES + 5), SIDE, SIDE), (1, 1, 5, 8)


def text(more: str = "", *, objects: int = 5, side: int = SIDE) -> str:
    params = f"side: {side} num_class: {CLASSES} num_object: {objects} {BIASES} {more}"
    return f'type: "EvalDetection" eval_detection_param {{ {params} }}'


def given() -> tuple[np.ndarray, np.ndarray]:
    maps = np.random.RandomState(1).uniform(-1.5, 1.5, SHAPES[0])
    objects = np.array(
        [
            [0, 1, 0, 0.1, 0.1, 0.5, 0.6, 0],
            [0, 1, 1, 0.3, 0.3, 0.9, 0.8, 0],
            [0, 2, 2, 0.4, 0.1, 0.8, 0.5, 0],
            [1, 2, 0, 0.2, 0.2, 0.7, 0.9, 1],
            [-1] * 8,
        ]
    )
    return maps, objects.reshape(SHAPES[1])


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes: centre, width, height."""
    sides = [
        min(a[i] + a[2 + i] / 2, b[i] + b[2 + i] / 2) - max(a[i] - a[2 + i] / 2, b[i] - b[2 + i] / 2) for i in (0, 1)
    ]
    common = 0.0 if min(sides) < 0 else sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def expected(maps: np.ndarray, objects: np.ndarray, kind: str, crowded: float, enough: float) -> np.ndarray:
    out = np.zeros((2, CLASSES + SIDE * SIDE * 5 * 4))
    rows = [row for row in objects.reshape(-1, 8) if row[0] != -1]
    for n in range(2):
        truth = [
            (int(r[1]) - 1, [(r[3] + r[5]) / 2, (r[4] + r[6]) / 2, r[5] - r[3], r[6] - r[4]]) for r in rows if r[0] == n
        ]
        for label, _ in truth:
            out[n, label] += 1
        boxes = []
        for j, i, a in np.ndindex(SIDE, SIDE, 5):
            v = maps[n, a * (CLASSES + 5) : (a + 1) * (CLASSES + 5), j, i]
            s = 1 / (1 + np.exp(-v))
            chances = np.exp(v[5:]) / np.exp(v[5:]).sum()
            score = {"OBJ": s[4], "PROB": chances.max(), "MULTIPLY": s[4] * chances.max()}[kind]
            sizes = [math.exp(v[2 + k]) * ANCHORS[a][k] / SIDE for k in (0, 1)]
            boxes.append((score, int(chances.argmax()), [(i + s[0]) / SIDE, (j + s[1]) / SIDE, *sizes]))
        kept: list[tuple[float, int, list[float]]] = []
        for found in sorted(boxes, key=lambda b: -b[0]):
            if all(iou(found[2], other[2]) < crowded for other in kept):
                kept.append(found)
        taken, place = set(), CLASSES
        for score, label, box in sorted((b for b in kept if b[0] >= 0.005), key=lambda b: (b[1], -b[0])):
            own = [k for k, (other, _) in enumerate(truth) if other == label]
            right = wrong = 0
            if not own:
                wrong = 1
            else:
                best = max(own, key=lambda k: (iou(box, truth[k][1]), -k))
                if iou(box, truth[best][1]) >= enough:
                    right, wrong = int(best not in taken), int(best in taken)
                    taken.add(best)
            out[n, place : place + 4] = label, score, right, wrong
            place += 4
    return out


@pytest.mark.parametrize(("kind", "crowded", "enough"), [("OBJ", 0.2, 0.2), ("PROB", 0.6, 0.1), ("MULTIPLY", 1, 0.4)])
def test_boxes_are_judged(kind: str, crowded: float, enough: float, device: torch.device) -> None:
    maps, objects = given()
    module = build(text(f"nms: {crowded} threshold: {enough} score_type: {kind}"), *SHAPES, dialect=FORK)
    x, t = (torch.tensor(v, dtype=torch.float32, device=device) for v in (maps, objects))
    top = module(x, t)
    assert module.infer(x, t).shape == top.shape
    wanted = expected(maps, objects, kind, crowded, enough)
    assert wanted[:, CLASSES + 2 :: 4].any()
    assert wanted[:, CLASSES + 3 :: 4].any()
    assert_equals(top, wanted)


def test_without_suppression_no_box_is_looked_at() -> None:
    maps, objects = (torch.tensor(v) for v in given())
    top = build(text("nms: -1"), *SHAPES, dialect=FORK)(maps, objects)
    assert top[:, :CLASSES].tolist() == [[2, 1], [0, 1]]
    assert not top[:, CLASSES:].any()


def test_errors() -> None:
    for more, shapes, message in (
        (text(objects=4), SHAPES, "num_object is 4"),
        (text().replace("biases: 1.3", ""), SHAPES, "9 biases"),
        (text(side=0), SHAPES, "side 0"),
        (text(), ((2, 30, SIDE, SIDE), SHAPES[1]), "values of 5 boxes = 35"),
        (text(), (SHAPES[0], (2, 1, 5, 8)), r"\(1, 1, objects, 8\)"),
    ):
        with pytest.raises(LayerError, match=message):
            build(more, *shapes, dialect=FORK)
    maps, objects = (torch.tensor(v) for v in given())
    module = build(text(), *SHAPES, dialect=FORK)
    for place, value in ((0, 2.0), (1, 3.0), (1, 0.0)):
        wrong = objects.clone()
        wrong[0, 0, 0, place] = value
        with pytest.raises(LayerError, match="an image or class that there is not"):
            module(maps, wrong)
