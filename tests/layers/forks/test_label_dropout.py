"""LABEL_DROPOUT and RESIZE of a fork of the first generation, whose parameters only V1 layers have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.layers.building import assert_equals

FORK = "xiaolonw/caffe-3dnormal_joint_pose"
SHAPE = (2, 3, 4, 5)


def network(layer: str, *shapes: tuple[int, ...]) -> Any:
    """A net of one V1 layer on inputs b0, b1, ..., which gives y."""
    inputs = "".join(
        f'input: "b{i}" ' + " ".join(f"input_dim: {n}" for n in shape) + " " for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    parsed = parse_message(f'{inputs} layers {{ name: "l" top: "y" {bottoms} {layer} }}', dialect=FORK)
    upgraded = upgrade_net(parsed.message, parsed.schema)
    assert not [note for note in upgraded.notes if "has no place" in note]
    net = CaffeNet(upgraded.message, dialect=FORK)
    net.materialize(0)
    return net


def given() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.RandomState(0)
    labels = draws.choice([0, 0, 0, 1, -1], SHAPE).astype(np.float32)
    labels[0, 0] = 0  # a map without a joint
    labels[1, 2] = 1
    return draws.randn(*SHAPE).astype(np.float32), labels


@pytest.mark.parametrize(("ratio", "hard"), [(1, 0.5), (2, 1), (0.5, 0), (9, 0.3)])
def test_what_takes_part(ratio: float, hard: float, device: torch.device) -> None:
    x, labels = given()
    net = network(
        f"type: LABEL_DROPOUT label_drop_param {{ drop_neg_ratio: {ratio} hard_ratio: {hard} rand_ratio: {1 - hard} }}",
        SHAPE,
        SHAPE,
    ).to(device)
    values = torch.tensor(x, device=device, requires_grad=True)
    top = net(b0=values, b1=torch.tensor(labels, device=device))["y"]
    top.sum().backward()
    assert values.grad is not None
    chosen = values.grad.cpu().numpy()
    assert set(np.unique(chosen)) <= {0, 1}
    assert_equals(top, np.where(chosen == 1, x, labels))
    assert not chosen[labels == -1].any()
    for n, c in np.ndindex(2, 3):
        joints, others = labels[n, c] == 1, labels[n, c] == 0
        assert chosen[n, c][joints].all()
        wanted = int(ratio * joints.sum())
        if wanted >= others.sum():
            assert chosen[n, c][others].all()
            continue
        drawn = int(wanted * np.float32(1 - hard))
        assert chosen[n, c][others].sum() == int(wanted * np.float32(hard)) + drawn
        if hard == 1:
            largest = sorted(np.abs(x[n, c][others]))[len(np.abs(x[n, c][others])) - wanted :]
            assert sorted(np.abs(x[n, c][(chosen[n, c] == 1) & others])) == largest


@pytest.mark.parametrize(
    ("params", "size"),
    [("height: 3 width: 8", (3, 8)), ("is_pyramid_test: true out_height_scale: 0.5 out_width_scale: 1.5", (2, 7))],
)
def test_resize(params: str, size: tuple[int, int]) -> None:
    x = given()[0]
    top = network(f"type: RESIZE resize_param {{ {params} }}", SHAPE)(b0=torch.tensor(x))["y"]
    expected = np.zeros((2, 3, *size))
    for n, c, i, j in np.ndindex(expected.shape):
        y, z = i * 4 / size[0], j * 5 / size[1]
        for h, w in ((int(y), int(z)), (int(y), int(z) + 1), (int(y) + 1, int(z)), (int(y) + 1, int(z) + 1)):
            if h < 4 and w < 5:
                expected[n, c, i, j] += (1 - abs(y - h)) * (1 - abs(z - w)) * x[n, c, h, w]
    assert_equals(top, expected)


def test_errors() -> None:
    with pytest.raises(LayerError, match=r"hard_ratio 0\.7 and rand_ratio 0\.5"):
        network("type: LABEL_DROPOUT label_drop_param { hard_ratio: 0.7 rand_ratio: 0.5 }", SHAPE, SHAPE)
    with pytest.raises(LayerError, match="a label for each place"):
        network("type: LABEL_DROPOUT", SHAPE, (2, 3, 4, 4))
    with pytest.raises(LayerError, match="needs height and width"):
        network("type: RESIZE resize_param { height: 3 }", SHAPE)
