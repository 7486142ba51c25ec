"""RegionLoss beyond its recorded cases (``test_fork_cases.py``): what it refuses, and its true gradient."""

from __future__ import annotations

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
