from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build

FORK = "chanyn/3Dpose_ssl"


def slow_disc(x: float, y: float, width: int, height: int, radius: int, binary: bool = False) -> np.ndarray:
    """One map, cell by cell, around the cell nearest to (x, y)."""
    cx, cy = math.floor(float(x) + 0.5), math.floor(float(y) + 0.5)
    out = np.zeros((height, width), np.float32)
    for j in range(-radius, radius + 1):
        for i in range(-radius, radius + 1):
            if i * i + j * j <= radius * radius and 0 <= cy + j < height and 0 <= cx + i < width:
                square = math.exp(-2 * (i * i + j * j) / radius**2) if radius else 0.0
                out[cy + j, cx + i] = 1 if binary else square
    return out


def coordinates(*shape: int) -> np.ndarray:
    """Fractions of the image, some beside it, some on the half between two cells."""
    x = np.random.RandomState(len(shape)).uniform(-0.2, 1.2, shape).astype(np.float32)
    x.flat[0], x.flat[3] = 0.25, 0.35
    return x


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.125, 0.5, 1.0, -1.0])
def test_maps_from_coords(binary: bool, factor: float, device: torch.device) -> None:
    text = f"""type: "HeatMapsFromCoords" heat_maps_from_coords_param {{ is_binary: {str(binary).lower()} heat_map_a: 4
        heat_map_b: 0 valid_dist_factor: {factor} img_width: 38 img_height: 29 }}"""
    x = coordinates(2, 6)
    maps = build(text, x.shape, dialect=FORK)(torch.tensor(x, device=device))
    assert maps.shape == (2, 3, 8, 10)
    radius = math.floor(4 * factor + 0.5)
    for n in range(2):
        for k in range(3):
            px, py = x[n, 2 * k] * np.float32(10), x[n, 2 * k + 1] * np.float32(8)
            expected = slow_disc(px, py, 10, 8, radius, binary)
            np.testing.assert_allclose(maps[n, k].cpu(), expected, rtol=1e-5, atol=1e-7)


def test_maps_keep_precision_and_gradient() -> None:
    text = """type: "HeatMapsFromCoords" heat_maps_from_coords_param { is_binary: false heat_map_a: 1 heat_map_b: 0
        valid_dist_factor: 3 img_width: 400 img_height: 300 }"""
    x = torch.tensor([[0.75, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    maps = build(text, (1, 2), dialect=FORK)(x)
    assert maps.dtype == torch.bfloat16
    assert not maps.requires_grad
    assert maps[0, 0].argmax().item() == 150 * 400 + 300


def test_shift_takes_cells_away() -> None:
    text = """type: "HeatMapsFromCoords" heat_maps_from_coords_param { is_binary: true heat_map_a: 4 heat_map_b: 7
        img_width: 38 img_height: 29 }"""
    assert build(text, (1, 2), dialect=FORK)(torch.zeros(1, 2)).shape == (1, 1, 6, 8)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("radius", [0, 2, 3])
def test_volumes(binary: bool, radius: int) -> None:
    text = f"""type: "Gen3DHeatMap" gen_3dheatmap_param {{ is_binary: {str(binary).lower()} heat_map_a: 4 heat_map_b: 0
        valid_dist_factor: {radius / 4} img_width: 40 img_height: 32 img_channel: 7 }}"""
    x = coordinates(2, 6)
    volumes = build(text, x.shape)(torch.tensor(x)).reshape(2, 2, 7, 8, 10)
    for n in range(2):
        for k in range(2):
            centre = [math.floor(float(x[n, 3 * k + i] * np.float32(s)) + 0.5) for i, s in enumerate((10, 8, 7))]
            expected = np.zeros((7, 8, 10))
            for z, y, w in np.ndindex(7, 8, 10):
                dx, dy, dz = w - centre[0], y - centre[1], z - centre[2]
                if max(dx * dx + dy * dy, dx * dx + dz * dz, dy * dy + dz * dz) <= radius**2:
                    expected[z, y, w] = 1 if binary else math.exp(-(dx * dx + dy * dy + dz * dz) / 8)
            np.testing.assert_allclose(volumes[n, k], expected, rtol=1e-5, atol=1e-7)


def test_maps_weighted_by_misplaced_3d_coordinates() -> None:
    text = """type: "Gen3DHeatMap2" gen_3dheatmap2_param { heat_map_a: 4 heat_map_b: 0 valid_dist_factor: 0.5
        img_width: 40 img_height: 32 }"""
    x = coordinates(3, 6)
    solid = np.random.RandomState(1).standard_normal((3, 9)).astype(np.float32)
    maps, weighted = build(text, x.shape, solid.shape, tops=2)(torch.tensor(x), torch.tensor(solid))
    for n in range(3):
        for k in range(3):
            expected = slow_disc(x[n, 2 * k] * np.float32(10), x[n, 2 * k + 1] * np.float32(8), 10, 8, 2)
            np.testing.assert_allclose(maps[n, k], expected, rtol=1e-5, atol=1e-7)
            for c in range(3):
                weight = solid.flat[n * 6 + 3 * k + c]
                np.testing.assert_allclose(weighted[n, 3 * k + c], weight * expected, rtol=1e-5, atol=1e-7)


def test_projections() -> None:
    text = """type: "Gen3DXYZHeatMap" gen_3dxyz_heatmap_param { heat_map_a: 4 heat_map_b: 0 valid_dist_factor: 0.75
        img_width: 40 img_height: 32 }"""
    x = coordinates(2, 6)
    maps = build(text, x.shape)(torch.tensor(x))
    assert maps.shape == (2, 6, 8, 10)
    for n in range(2):
        for k in range(2):
            for plane, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
                across, down = x[n, 3 * k + i] * np.float32(10), x[n, 3 * k + j] * np.float32(10)
                expected = slow_disc(across, down, 10, 8, 3)
                np.testing.assert_allclose(maps[n, 3 * k + plane], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            "is_binary: true heat_map_a: 4 heat_map_b: 0 img_width: 40",
            "needs img_height in heat_maps_from_coords_param",
        ),
        ("is_binary: true heat_map_a: 0 heat_map_b: 0 img_width: 40 img_height: 4", "heat_map_a is 0"),
        ("is_binary: true heat_map_a: 4 heat_map_b: 40 img_width: 40 img_height: 40", "leaves no cell"),
    ],
)
def test_maps_refuse(params: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(f'type: "HeatMapsFromCoords" heat_maps_from_coords_param {{ {params} }}', (1, 2), dialect=FORK)


@pytest.mark.parametrize(("channels", "values"), [(1, 2 * 6), (3, 3 * 2)])
def test_coords_are_zero_and_scores_the_maxima(channels: int, values: int, device: torch.device) -> None:
    text = f"""type: "CoordsFromHeatMaps" pose_coords_from_heat_maps_param {{ heat_map_a: 4 heat_map_b: 0
        per_heatmap_ch: {channels} }}"""
    maps = torch.randn(2, 6, 4, 5, device=device)
    maps[0, 0, 1, 2] = float("nan")
    maps[1, 3:] = -float("inf")
    coords, scores = build(text, maps.shape, tops=2, dialect=FORK)(maps)
    assert coords.shape == (2, values, 1, 1)
    assert (coords == 0).all()
    assert scores.shape == (2, 6 // channels, 1, 1)
    array = maps.cpu().numpy().reshape(2, 6 // channels, -1)
    expected = np.maximum(np.nanmax(array, axis=2), -np.finfo(np.float32).max)
    np.testing.assert_array_equal(scores[:, :, 0, 0].cpu(), expected)
    assert isinstance(build(text, maps.shape, dialect=FORK)(maps), torch.Tensor)


def test_coords_refuse() -> None:
    text = 'type: "CoordsFromHeatMaps" pose_coords_from_heat_maps_param { heat_map_a: 4 heat_map_b: 0 %s }'
    with pytest.raises(LayerError, match="per_heatmap_ch is 0"):
        build(text % "", (2, 6, 4, 5), dialect=FORK)
    with pytest.raises(LayerError, match=r"joints \* 4"):
        build(text % "per_heatmap_ch: 4", (2, 6, 4, 5), dialect=FORK)(torch.zeros(2, 6, 4, 5))


def test_weighted_loss(device: torch.device) -> None:
    x, t = torch.randn(2, 2, 6, 4, 5, device=device).unbind()
    h = torch.rand(2, 2, 4, 5, device=device).round(decimals=1)
    x[0, 0][h[0, 0] == 0] = float("nan")  # what weighs nothing is not even looked at
    for v in (x, t, h):
        v.requires_grad_(True)
    loss = build('type: "HeatMap3DLoss"', x.shape, t.shape, h.shape)(x, t, h)
    loss.backward()
    w = h.detach().repeat_interleave(3, 1)
    d = torch.where(w == 0, 0, (x - t).detach())
    torch.testing.assert_close(loss.detach(), (d * w).square().sum() / 4)
    torch.testing.assert_close(x.grad, d * w * w / 2)
    torch.testing.assert_close(t.grad, -d * w * w / 2)
    assert h.grad is None


def run_loss(*shapes: tuple[int, ...]) -> None:
    build('type: "HeatMap3DLoss"', *shapes)(*map(torch.zeros, shapes))


def test_weighted_loss_refuses() -> None:
    with pytest.raises(LayerError, match=r"found \[2, 6, 4, 5\], \[2, 6, 4, 5\], \[2, 3, 4, 5\]"):
        run_loss((2, 6, 4, 5), (2, 6, 4, 5), (2, 3, 4, 5))
    with pytest.raises(LayerError, match="takes two stacks"):
        run_loss((2, 6, 4, 5), (2, 6, 4, 4), (2, 2, 4, 5))
    with pytest.raises(LayerError, match="takes two stacks"):
        run_loss((2, 6), (2, 6), (2, 2))


def emphatic(kind: int, ratio: float = 0.25, **more: Any) -> Any:
    text = f"""type: "PoseHeatMapLoss" pose_heat_map_loss_param {{ loss_emphase_type: {kind} fg_eof: 3 bg_eof: 0.5
        ratio: {ratio} }}"""
    module = build(text, (2, 3, 40, 50), (2, 3, 40, 50), dialect=FORK, **more)
    module.randomness = Randomness(seed=2)
    return module


@pytest.mark.parametrize("kind", range(5))
def test_emphasis_shows_in_the_backward_pass_only(kind: int, device: torch.device) -> None:
    x = torch.randn(2, 3, 40, 50, device=device)
    t = torch.randn(2, 3, 40, 50, device=device).relu().requires_grad_(True)
    x.requires_grad_(True)
    loss = emphatic(kind)(x, t)
    torch.testing.assert_close(loss, (x - t).square().sum() / 2)
    (4 * loss).backward()
    diff = (x - t).detach() * 4 / 2
    assert x.grad is not None
    assert t.grad is not None
    factor = x.grad / diff
    assert torch.equal(t.grad, -x.grad)
    foreground, background = factor[t > 0], factor[t == 0]
    torch.testing.assert_close(foreground, torch.full_like(foreground, 3.0 if kind in (2, 4) else 1.0))
    if kind < 3:
        torch.testing.assert_close(background, torch.full_like(background, 0.0 if kind == 1 else 1.0))
    else:
        kept = background > 0
        torch.testing.assert_close(background[kept], torch.full_like(background[kept], 0.5))
        assert abs(kept.float().mean().item() - 0.25) < 0.03


def test_emphatic_loss_with_its_true_gradient() -> None:
    x, t = torch.randn(2, 2, 3, 40, 50, dtype=torch.float64).unbind()
    x.requires_grad_(True)
    emphatic(2, gradients="true")(x, t).backward()
    torch.testing.assert_close(x.grad, (x - t).detach())


def test_emphatic_loss_refuses() -> None:
    with pytest.raises(LayerError, match="loss_emphase_type is 5; 0 to 4 exist"):
        emphatic(5)
    with pytest.raises(LayerError, match="ratio is 1"):
        emphatic(0, ratio=1)
    with pytest.raises(LayerError, match="compares stacks of one shape"):
        emphatic(0)(torch.zeros(2, 3), torch.zeros(2, 4))


VISUAL = """type: "VisualizedHeatMaps" visual_heat_maps_param { heat_map_path: "out/" heat_map_files_name: "files/"
    heat_map_images_name: "images/" visual_type: %d threshold: 0.3 phase_name: "test_" file_ext: ".txt" }"""


def test_maps_become_text() -> None:
    shape = (2, 1, 2, 3)
    module = build(VISUAL % 0, shape, shape, tops=0, dialect=FORK)
    predicted = torch.arange(12.0).reshape(shape) / 8
    for _ in range(2):  # files are written anew
        assert module(predicted, torch.ones(shape)) == ()
    assert module.files.written == {
        "out/files/test_0_0.txt": "0 0.125 0.25 \n0.375 0.5 0.625 \n\n\n1 1 1 \n1 1 1 \n\n",
        "out/files/test_1_0.txt": "0.75 0.875 1 \n1.125 1.25 1.375 \n\n\n1 1 1 \n1 1 1 \n\n",
    }
    alone = build(VISUAL % 0, shape, tops=0, dialect=FORK)
    alone(predicted)
    assert alone.files.written["out/files/test_0_0.txt"] == "0 0.125 0.25 \n0.375 0.5 0.625 \n\n"


def test_maps_write_nothing_while_shapes_are_inferred() -> None:
    module = build(VISUAL % 0, (2, 1, 2, 3), tops=0, dialect=FORK)
    assert module.infer(torch.empty(2, 1, 2, 3, device="meta")) == ()
    assert module.files.written == {}


def test_visualized_maps_refuse() -> None:
    with pytest.raises(LayerError, match="visual_type 0 writes the same maps as text"):
        build(VISUAL % 1, (2, 1, 2, 3), tops=0, dialect=FORK)
    with pytest.raises(LayerError, match=r"found \[2, 1, 2, 3\], \[2, 1, 2, 4\]"):
        build(VISUAL % 0, (2, 1, 2, 3), tops=0, dialect=FORK)(torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 2, 4))
