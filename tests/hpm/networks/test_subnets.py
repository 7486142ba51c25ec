"""The net in two: the same bits as window by window, and whole where it cannot be parted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet, NetState
from caffe_compat.schema.prototxt import parse_message
from hpm.model import PoseMachine
from hpm.networks import NetworkOptions, define, scaled_channels
from hpm.networks import subnetworks as subnets
from hpm.networks.subnetworks import Halves, layers_for
from tests.hpm.seeded import seeded_net
from tests.hpm.tiny import SIDE, random_frames

NARROW = NetworkOptions(image_size=SIDE, channels=scaled_channels(1 / 16), hidden=24, projector=40)


@pytest.mark.parametrize("name", ["deploy", "mask3d", "2d_to_3d", "pose_2d"])
def test_many_windows_at_once_give_the_same_bits(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With state that goes on, starts in the midst, and a last window that is short."""
    frames, clip = random_frames(23), np.ones(23)
    clip[[0, 9]] = 0
    found = []
    for budget in (1, 1 << 20):
        monkeypatch.setattr(subnets, "_BUDGET", {"cpu": budget, "cuda": budget})
        machine = PoseMachine(seeded_net(define(name, NARROW))).to(device)
        found.append([machine.predict(frames[part], clip[part], window=4) for part in (slice(0, 16), slice(16, 23))])
    for one, many in zip(*found, strict=True):
        if device.type == "cpu":
            np.testing.assert_array_equal(one.pose, many.pose)
        np.testing.assert_allclose(one.pose, many.pose, atol=1e-6)
        assert (one.change is None) == (many.change is None)


@pytest.mark.parametrize("count", [1, 5, 6, 11, 16])
def test_windows_longer_than_memory_likes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subnets, "_BUDGET", {"cpu": 1})
    machine = PoseMachine(seeded_net(define("deploy", NARROW)))
    machine.window = 16
    trunk, sizes = machine._halves.trunk, list[int]()
    assert trunk is not None
    trunk.conv1_1.register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    found = machine.coarse(random_frames(count), window=16)
    assert sum(sizes) == count
    assert max(sizes) <= 5
    assert count == 1 or min(sizes) > 1
    monkeypatch.setattr(subnets, "_BUDGET", {"cpu": 1 << 30})
    machine.reset_state()
    np.testing.assert_array_equal(machine.coarse(random_frames(count), window=16), found)


def test_how_many_frames_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = PoseMachine(seeded_net(define("deploy", NARROW)))
    largest = 4 * SIDE * SIDE * NARROW.channels[0]
    monkeypatch.setattr(subnets, "_BUDGET", {"cpu": 17 * largest})
    assert [machine._halves.frames_at_once(window) for window in (1, 5, 9, 20)] == [17, 15, 9, 20]
    assert [node.type for node in machine._halves.rest.graph.computed[:2]] == ["InnerProduct", "Reshape"]


def _net(text: str) -> CaffeNet:
    head = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 3, 6, 5] } } }\n'
    net = CaffeNet(parse_message(head + text).message, NetState("TEST")).materialize(seed=3)
    return net.eval()


def _layer(name: str, kind: str, bottoms: str, top: str, more: str = "") -> str:
    given = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {given} top: "{top}" {more} }}\n'


_CONVOLUTION = 'convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } }'


@pytest.mark.parametrize(
    ("text", "convolutions"),
    [
        # A blob that is changed in place behind the cut: its name would mean two values.
        (
            _layer("c", "Convolution", "data", "c", _CONVOLUTION)
            + _layer("s", "Sigmoid", "c", "c")
            + _layer("e", "Eltwise", "c data", "y"),
            0,
        ),
        # Two values are needed later on.
        (
            _layer("c", "Convolution", "data", "c", _CONVOLUTION)
            + _layer("d", "Convolution", "c", "d", _CONVOLUTION)
            + _layer("e", "Eltwise", "c d", "y"),
            2,
        ),
        # What is wanted comes of the convolutions alone.
        (_layer("c", "Convolution", "data", "y", _CONVOLUTION), 0),
        # Convolution over the frames themselves.
        (
            _layer("c", "Convolution", "data", "c", _CONVOLUTION.replace("kernel_size", "axis: 0 kernel_size"))
            + _layer("e", "Sigmoid", "c", "y"),
            0,
        ),
    ],
)
def test_where_it_parts(text: str, convolutions: int) -> None:
    net = _net(text)
    halves = Halves(net, layers_for(net, ["y"]), "data", ["y"])
    assert (0 if halves.trunk is None else len(halves.trunk.graph.computed)) == convolutions
    x = np.random.RandomState(0).rand(2, 3, 6, 5).astype(np.float32)
    found = halves.rest.run(halves.per_frame(x), ["y"])["y"]
    torch.testing.assert_close(found, net.run({"data": x}, ["y"])["y"])


def test_the_inference_form(reference: Path, device: torch.device) -> None:
    folder = reference / "tiny_mask3d"
    machine = PoseMachine.from_caffe(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel").to(device)
    frames = random_frames(12)
    expected = machine.coarse(frames)
    assert not machine.optimized
    found = machine.optimize().coarse(frames)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))
    assert machine.to(device).optimized
    np.testing.assert_array_equal(machine.coarse(frames), found)
