"""RegionLoss beyond its recorded cases (``test_fork_cases.py``): what it refuses, gradients, and of rows."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

YOLO = "eric612/MobileNet-YOLO"
BIASES = " ".join(f"biases: {value}" for value in (0.7, 0.9, 2.4, 2.7, 4.3, 7.0, 10.2, 4.6, 12.7, 11.9))


def module(params: str = "", x: Any = (2, 45, 6, 6), objects: Any = (2, 1, 300, 5), **more: Any) -> Any:
    text = f'type: "RegionLoss" region_loss_param {{ num_class: 4 {BIASES} {params} }}'
    return build(text, x, objects, phase="TRAIN", dialect=YOLO, **more)


def truth(*boxes: tuple[float, ...]) -> torch.Tensor:
    rows = torch.zeros(2, 1, 300, 5)
    rows[1, 0, : len(boxes)] = torch.tensor(boxes)
    return rows


@pytest.mark.parametrize(
    ("params", "shapes", "problem"),
    [
        ("coords: 5", {}, "coords is 5; 4 was expected"),
        ("num: 6", {}, "with two of 10 biases for each num"),
        ("num: 0", {}, "num 0 and num_class 4 must be at least 1"),
        ("num: 4", {}, r"'b0' has shape \[2, 45, 6, 6\]; a square map of 4 x \(5 \+ 4\)"),
        ("", {"x": (2, 45, 6, 7)}, "a square map"),
        (
            "",
            {"objects": (2, 1, 30, 5)},
            r"'b1' has shape \[2, 1, 30, 5\]; \(images = 2, 300 objects of 5 numbers = 1500\)",
        ),
        ("", {"objects": (3, 1, 300, 5)}, r"\(images = 2, 300 objects of"),
    ],
)
def test_losses_that_make_no_sense(params: str, shapes: dict[str, Any], problem: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' .RegionLoss.: .*{problem}"):
        module(params, **shapes)


def test_an_object_outside_its_image(device: torch.device) -> None:
    x = torch.zeros(2, 45, 6, 6, device=device)
    with pytest.raises(LayerError, match="an object lies outside its image"):
        module()(x, truth((1, 0.5, 1.2, 0.1, 0.1)).to(device))


def test_what_has_no_bearing() -> None:
    """The fork reads these fields and does not use them."""
    x, objects = torch.randn(2, 45, 6, 6), truth((1, 0.5, 0.4, 0.3, 0.2))
    plain = module()(x, objects)
    other = 'side: 7 softmax: 0 jitter: 0.5 absolute: 0 random: 0 softmax_tree: "tree" class_map: "map"'
    assert torch.equal(module(other)(x, objects), plain)


def test_the_true_gradient(device: torch.device) -> None:
    """By small steps, where no error aims at an overlap, which is a constant to the gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 45, 6, 6, generator=generator) * 0.3
    objects = truth((1, 0.52, 0.41, 0.3, 0.2), (3, 0.1, 0.9, 0.7, 0.6)).to(device)
    params = "thresh: 1 rescore: 0 object_scale: 5 class_scale: 2 noobject_scale: 1 coord_scale: 3"

    def gradient(kind: str) -> torch.Tensor:
        given = x.clone().to(device).requires_grad_(True)
        module(params, gradients=kind)(given, objects).backward()
        return given.grad.cpu()

    found, loss = gradient("true"), module(params, gradients="true")
    for place in found.flatten().abs().topk(12).indices.tolist():
        ends = []
        for step in (1e-2, -1e-2):
            moved = x.clone()
            moved.view(-1)[place] += step
            ends.append(float(loss(moved.to(device), objects)))
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(found.flatten()[place]), rel=0.02, abs=0.02)
    assert not torch.allclose(gradient("caffe"), found)


# Of rows of objects, as YOLO9000's fork and Intel's have them

NINE = "choasup/caffe-yolo9000"
ANCHORS = ((0.7, 0.9), (2.4, 2.7), (4.3, 1.6))
OF_ROWS = (
    "side: 4 num: 3 num_class: 2 object_scale: 5 noobject_scale: 0.7 class_scale: 2 coord_scale: 3 thresh: 0.3 "
    + " ".join(f"biases: {value}" for anchor in ANCHORS for value in anchor)
)
# image, class, instance, corners, difficult; the last two want the same box, and one image has none.
ROWS = (
    (0, 1, 0, 0.1, 0.2, 0.45, 0.5, 0),
    (2, 2, 0, 0.6, 0.55, 0.9, 0.95, 0),
    (-1, 1, 0, 0.0, 0.0, 1.0, 1.0, 0),
    (0, 2, 1, 0.55, 0.05, 0.95, 0.1, 1),
    (2, 1, 0, 0.61, 0.56, 0.89, 0.94, 0),
)


def of_rows(more: str = "", x: Any = (3, 21, 4, 4), rows: Any = (1, 1, 5, 8), **other: Any) -> Any:
    text = f'type: "RegionLoss" region_loss_param {{ {OF_ROWS} {more} }}'
    return build(text, x, rows, **{"phase": "TRAIN", "dialect": NINE, **other})


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def shared(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of boxes by centre and size."""
    ends = [
        (min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2), max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2)) for i in (0, 1)
    ]
    sides = [high - low for high, low in ends]
    if min(sides) < 0:
        return 0.0
    area = sides[0] * sides[1]
    return area / (a[2] * a[3] + b[2] * b[3] - area)


def errors_by_hand(x: Any, by_anchor: bool) -> Any:
    """The errors (3, 3, 7, 4, 4) of maps ``x`` of the same shape, box by box."""
    out = x.new_zeros(x.shape)
    boxes = {}
    for b, n, j, i in itertools.product(range(3), range(3), range(4), range(4)):
        raw = x[b, n, :, j, i].tolist()
        size = [math.exp(raw[2 + k]) * ANCHORS[n][k] / 4 for k in (0, 1)]
        boxes[b, n, j, i] = [(i + sigmoid(raw[0])) / 4, (j + sigmoid(raw[1])) / 4, *size]
    for b in range(3):
        own = [[r[1] - 1, (r[3] + r[5]) / 2, (r[4] + r[6]) / 2, r[5] - r[3], r[6] - r[4]] for r in ROWS if r[0] == b]
        for n, j, i in itertools.product(range(3), range(4), range(4)):
            sure = sigmoid(float(x[b, n, 4, j, i]))
            if max((shared(boxes[b, n, j, i], o[1:]) for o in own), default=0) <= 0.3:
                out[b, n, 4, j, i] = 0.7 * sure * sure * (1 - sure)
        for label, cx, cy, w, h in own:
            i, j = int(cx * 4), int(cy * 4)
            sizes = [[v / 4 for v in ANCHORS[n]] if by_anchor else boxes[b, n, j, i][2:] for n in range(3)]
            found = [shared([0, 0, *size], [0, 0, w, h]) for size in sizes]
            n = found.index(max(found))
            raw = x[b, n, :, j, i].tolist()
            for k, aim in enumerate((cx * 4 - i, cy * 4 - j)):
                s = sigmoid(raw[k])
                out[b, n, k, j, i] = -3 * max(-1, min(1, aim - s)) * s * (1 - s)
            for k, side in enumerate((w, h)):
                aim = math.log(side * 4 / ANCHORS[n][k])
                out[b, n, 2 + k, j, i] = -3 * max(-1, min(1, aim - raw[2 + k]))
            sure = sigmoid(raw[4])
            out[b, n, 4, j, i] = -5 * 2 * (1 - sure) ** 3 * sure * (1 - sure)
            chances = x[b, n, 5:, j, i].softmax(0)
            for c in range(2):
                out[b, n, 5 + c, j, i] = 2 * (float(chances[c]) - (c == label))
    return out


@pytest.mark.parametrize("dialect", [NINE, "intel/caffe"])
@pytest.mark.parametrize("by_anchor", [False, True])
def test_errors_of_rows_of_objects(by_anchor: bool, dialect: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 21, 4, 4, generator=generator, dtype=torch.double)
    x[0, 2::7] *= 3  # some sizes off by more than 1
    expected = errors_by_hand(x.reshape(3, 3, 7, 4, 4), by_anchor)
    given = x.float().to(device).requires_grad_()
    module = of_rows(f"bias_match: {int(by_anchor)}", dialect=dialect)
    loss = module(given, torch.tensor(ROWS, device=device).reshape(1, 1, 5, 8))
    assert float(loss.detach()) == pytest.approx(float(expected.square().sum()), rel=1e-4)
    loss.backward()
    torch.testing.assert_close(given.grad.cpu().double(), expected.reshape(x.shape) / 3, rtol=1e-4, atol=1e-5)


def test_rows_without_any_object(device: torch.device) -> None:
    x = torch.zeros(3, 21, 4, 4, device=device)
    none = torch.tensor(ROWS[2:3], device=device).reshape(1, 1, 1, 8)
    assert float(of_rows()(x, none)) == pytest.approx(3 * 3 * 16 * (0.7 / 8) ** 2)


def test_the_true_gradient_of_rows(device: torch.device) -> None:
    x = torch.randn(3, 21, 4, 4, generator=torch.Generator().manual_seed(5)) * 0.3
    rows = torch.tensor(ROWS, device=device).reshape(1, 1, 5, 8)
    loss = of_rows("bias_match: 1", gradients="true")
    given = x.to(device).requires_grad_()
    loss(given, rows).backward()
    place = int(given.grad.abs().argmax())
    ends = []
    for step in (1e-2, -1e-2):
        moved = x.clone()
        moved.view(-1)[place] += step
        ends.append(float(loss(moved.to(device), rows).detach()))
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(given.grad.flatten()[place]), rel=0.02)


@pytest.mark.parametrize(
    ("more", "shapes", "problem"),
    [
        ("coords: 5", {}, "coords is 5; 4 was expected"),
        ("num: 4", {}, "there are 6 biases"),
        ("num: 0", {}, "num 0, num_class 2 and side 4 must be at least 1"),
        ("num_class: 3", {}, r"values of 3 boxes = 24"),
        ("", {"x": (3, 21, 4, 5)}, r"values of 3 boxes = 21"),
        ("", {"rows": (1, 1, 5, 7)}, r"\(1, 1, objects, 8\)"),
        ("", {"rows": (3, 1, 5, 8)}, r"\(1, 1, objects, 8\)"),
        ("softmax_tree: 'voc.tree'", {}, "softmax_tree is 'voc.tree'; classes out of a file are not supported"),
        ("class_map: 'voc.map'", {}, "class_map is 'voc.map'; classes out of a file"),
    ],
)
def test_losses_of_rows_that_make_no_sense(more: str, shapes: dict[str, Any], problem: str) -> None:
    repeated = {word.partition(":")[0] for word in more.split() if word.endswith(":")}
    kept = " ".join(f"{k}: {v}" for k, v in re.findall(r"(\w+): (\S+)", OF_ROWS) if k not in repeated)
    text = f'type: "RegionLoss" region_loss_param {{ {kept} {more} }}'
    given = {"x": (3, 21, 4, 4), "rows": (1, 1, 5, 8), **shapes}
    with pytest.raises(LayerError, match=f"layer 'l' .RegionLoss.: .*{problem}"):
        build(text, given["x"], given["rows"], phase="TRAIN", dialect=NINE)


def test_objects_of_rows_that_are_nowhere(device: torch.device) -> None:
    x = torch.zeros(3, 21, 4, 4, device=device)
    for row, problem in (
        ((3, 1, 0, 0, 0, 0.5, 0.5, 0), "an image that there is not: 0 to 2"),
        ((1, 1, 0, 0.9, 0.9, 1.5, 1.4, 0), "an object lies outside its image"),
    ):
        with pytest.raises(LayerError, match=problem):
            of_rows()(x, torch.tensor(row, device=device).reshape(1, 1, 1, 8))


def test_what_has_no_bearing_on_rows() -> None:
    x, rows = torch.randn(3, 21, 4, 4), torch.tensor(ROWS).reshape(1, 1, 5, 8)
    other = "softmax: 0 jitter: 0.5 absolute: 0 random: 0 rescore: 0"
    assert torch.equal(of_rows(other)(x, rows), of_rows()(x, rows))
