"""AssistedExcitation, against one loop per place; the recorded cases have single training lengths only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, LayerError
from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.training.solver import Solver, parse_solver
from tests.layers.building import assert_equals, build
from tests.networks import input_layer, layer

FORK = "eric612/MobileNet-YOLO"
OUTPUTS = "inner_product_param { num_output: 2 }"
SHAPES = (2, 3, 5, 7), (2, 1, 300, 5), (2, 1, 5, 7)


def excitation(*shapes: tuple[int, ...]) -> Any:
    return build('type: "AssistedExcitation"', *shapes, phase="TRAIN", dialect=FORK)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    boxes = torch.zeros(SHAPES[1])
    boxes[0, 0, :3] = torch.tensor([[1, 0.3, 0.4, 0.25, 0.3], [2, 0.9, 0.85, 0.6, 0.1], [0, 0.45, 0.45, 0.1, 0.2]])
    boxes[0, 0, 4] = torch.tensor([3, 0.1, 0.1, 0.2, 0.2])  # behind the end
    boxes[1, 0, 0] = torch.tensor([1, 0.5, 0.5, 1, 1])
    values = np.random.RandomState(1)
    x, maps = (torch.tensor(values.randn(*shape).astype(np.float32)) for shape in (SHAPES[0], SHAPES[2]))
    return x, boxes, maps


@pytest.mark.parametrize(("iteration", "stop"), [(0, 8), (3, 8), (7, 8), (1, 1000)])
def test_a_share_of_the_map_is_added_where_boxes_are(iteration: int, stop: int) -> None:
    x, boxes, maps = inputs()
    share = max(math.cos(iteration / (0.75 * stop) * math.pi / 2), 0)
    expected = x.clone()
    for row, column in np.ndindex(5, 7):
        for _, centre_x, centre_y, width, height in boxes[0, 0, :3].tolist():
            left, top = int((centre_x - width / 2) * 7), int((centre_y - height / 2) * 5)
            right, bottom = int((centre_x + width / 2) * 7 + 0.95), int((centre_y + height / 2) * 5 + 0.95)
            if left <= column < max(right, left + 1) and top <= row < max(bottom, top + 1):
                expected[0, :, row, column] = x[0, :, row, column] + share * maps[0, 0, row, column]
    layer = excitation(*SHAPES)
    layer.randomness.training = iteration, stop
    x.requires_grad_(True)
    found = layer(x, boxes, maps)
    assert_equals(found, expected.detach())
    found.backward(torch.full_like(found, 2))
    assert_equals(x.grad, np.full(SHAPES[0], 2))


def test_a_solver_says_how_far_it_is(tmp_path: Path) -> None:
    shapes = zip(("x", "boxes", "map"), SHAPES, strict=True)
    text = "".join(input_layer(name, *shape) for name, shape in shapes)
    text += layer("raise", "AssistedExcitation", "x boxes map", "y") + layer("ip", "InnerProduct", "y", "z", OUTPUTS)
    text += layer("loss", "EuclideanLoss", "z z", "loss")
    settings = 'net: "n" base_lr: 0.1 lr_policy: "fixed" max_iter: 6 iter_size: 2 snapshot_prefix: "s"'
    parsed = parse_message(text, dialect=FORK)
    net = CaffeNet(parsed.message, NetState("TRAIN"), dialect=parsed.schema.name)
    given = dict(zip(("x", "boxes", "map"), inputs(), strict=True))
    solver = Solver(parse_solver(settings, base=tmp_path), net, lambda k: given, base=tmp_path, seed=0)
    seen: list[tuple[int, int] | None] = []
    solver.on_gradients_ready.append(lambda: seen.append(net.randomness.training))
    solver.step(2)
    solver.step(3)
    assert seen == [(0, 2), (1, 2), (2, 5), (3, 5), (4, 5)]


def test_errors() -> None:
    with pytest.raises(LayerError, match="nothing trains this net"):
        excitation(*SHAPES)(*inputs())
    for shapes, message in (
        (((2, 3, 5), *SHAPES[1:]), "images, channels, height > 0, width > 0"),
        ((SHAPES[0], (2, 1, 30, 5), SHAPES[2]), "300 boxes of five numbers for each image"),
        ((*SHAPES[:2], (2, 1, 5, 6)), "width = 7"),
        ((*SHAPES[:2], (2, 2, 5, 7)), "images = 2, 1, height"),
    ):
        with pytest.raises(CaffeCompatError, match=message):
            excitation(*shapes)
