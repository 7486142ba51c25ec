"""MultiStageMeanfield and its filter, against definitions with a dictionary of vertices, point by point."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.layers.forks.permutohedral import Permutohedral
from tests.layers.building import assert_equals, build, give_values
from tests.networks import net_of

CRF, BITTNT = "torrvision/caffe@crfrnn", "bittnt/caffe"
THETAS = "theta_alpha: 4 theta_beta: 2.5 theta_gamma: 1.5"

Key = tuple[int, ...]


def corners(point: np.ndarray) -> list[tuple[Key, float]]:
    """The vertices about a point (d,), without their last coordinate, and its weights on them."""
    d, one = len(point), np.float32(1)
    scaled = [point[i] * np.float32(math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2))) for i in range(d)]
    elevated, total = [np.float32(0)] * (d + 1), np.float32(0)
    for j in range(d, 0, -1):
        elevated[j] = total - j * scaled[j - 1]
        total = total + scaled[j - 1]
    elevated[0] = total
    remainder = [int(np.rint(e * (one / (d + 1)))) * (d + 1) for e in elevated]
    off = [e - r for e, r in zip(elevated, remainder, strict=True)]
    excess = sum(remainder) // (d + 1)
    order = sorted(range(d + 1), key=lambda i: (-off[i], i))
    rank = [order.index(i) + excess for i in range(d + 1)]
    for i in range(d + 1):
        turn = (d + 1) * ((rank[i] < 0) - (rank[i] > d))
        rank[i] += turn
        remainder[i] += turn
    weights = [np.float32(0)] * (d + 2)
    for i in range(d + 1):
        part = np.float32((elevated[i] - remainder[i]) * (one / (d + 1)))
        weights[d - rank[i]] += part
        weights[d - rank[i] + 1] -= part
    weights[0] += 1 + weights[d + 1]
    keys = [tuple(remainder[i] + (r if rank[i] <= d - r else r - (d + 1)) for i in range(d)) for r in range(d + 1)]
    return [(key, float(weight)) for key, weight in zip(keys, weights[: d + 1], strict=True)]


def filtered(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (C, P) of points (P, d): spread over vertices, blurred along each axis, gathered."""
    points = features.astype(np.float32)
    d = points.shape[1]
    about = [corners(point) for point in points]
    there = {key for corner in about for key, _ in corner}
    if len(points) % 4:  # the fork works on four points at a time
        there |= {key for key, _ in corners(np.zeros(d, np.float32))}
    nothing = np.zeros(len(values))
    held: dict[Key, np.ndarray] = defaultdict(lambda: nothing)
    for p, corner in enumerate(about):
        for key, weight in corner:
            held[key] = held[key] + weight * values[:, p]
    for axis in range(d + 1):
        step = np.full(d, -1)
        step[axis : axis + 1] = d
        before = dict(held)
        for key in there:
            sides = [tuple((np.array(key) + sign * step).tolist()) for sign in (1, -1)]
            held[key] = before.get(key, nothing) + 0.5 * sum(before.get(side, nothing) for side in sides)
    gathered = [sum(weight * held[key] for key, weight in corner) for corner in about]
    return np.stack(gathered, 1) / (1 + 2.0**-d)


@pytest.mark.parametrize(("d", "points", "spread"), [(2, 50, 3.0), (5, 81, 2.0), (3, 40, 0.3), (1, 9, 2.0)])
def test_the_filter(d: int, points: int, spread: float) -> None:
    random = np.random.RandomState(d)
    features, values = random.randn(points, d) * spread, random.randn(4, points)
    found = Permutohedral(torch.tensor(features))(torch.tensor(values))
    np.testing.assert_allclose(found, filtered(features, values), atol=2e-6 * abs(values).max() * points)


def test_the_filter_is_about_a_gaussian() -> None:
    where = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij"), 2).view(-1, 2) / 4
    spot = torch.zeros(1, 1600)
    spot[0, 820] = 1
    found = Permutohedral(where)(spot)[0]
    wanted = torch.exp(-0.5 * (where - where[820]).square().sum(1))
    assert (found / found.max() - wanted).abs().max() < 0.2
    assert torch.corrcoef(torch.stack([found, wanted]))[0, 1] > 0.98


def settled(scores: np.ndarray, first: np.ndarray, image: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Three iterations over one image, by the definition above."""
    height, width = image.shape[1:]
    places = np.array([(p % width, p // width) for p in range(height * width)])
    spaces = (places / 1.5, np.concatenate([places / 4, image.reshape(3, -1).T / 2.5], 1))
    norms = [filtered(space, np.ones((1, len(places)))) for space in spaces]
    unary, now = scores.reshape(len(scores), -1), first.reshape(len(first), -1)
    for _ in range(3):
        q = np.exp(now) / np.exp(now).sum(0)
        near, like = (filtered(space, q) / norm for space, norm in zip(spaces, norms, strict=True))
        now = unary - matrices[2] @ (matrices[0] @ near + matrices[1] @ like)
    return now.reshape(scores.shape)


def test_mean_field(device: torch.device) -> None:
    random = np.random.RandomState(0)
    scores, first = random.randn(2, 3, 4, 5), random.randn(2, 3, 4, 5)
    images = random.uniform(-6, 6, (2, 3, 4, 5))
    text = f'type: "MultiStageMeanfield" multi_stage_meanfield_param {{ num_iterations: 3 {THETAS} }}'
    module = give_values(build(text, scores.shape, scores.shape, images.shape, dialect=CRF), device)
    assert module.blob_names == ("spatial", "bilateral", "compatibility")
    matrices = [blob.detach()[0, 0].double().cpu().numpy() for blob in module.parameters()]
    given = [torch.tensor(x, dtype=torch.float32, device=device) for x in (scores, first, images)]
    expected = np.stack([settled(*each, matrices) for each in zip(scores, first, images, strict=True)])
    np.testing.assert_allclose(module(*given).detach().cpu(), expected, atol=1e-4)


@pytest.mark.slow
def test_gradients_of_mean_field() -> None:
    random = torch.Generator().manual_seed(0)
    scores, first = (torch.randn(1, 2, 3, 4, generator=random, dtype=torch.float64) for _ in range(2))
    images = torch.randn(1, 3, 3, 4, generator=random, dtype=torch.float64, requires_grad=True)
    text = f'type: "MultiStageMeanfield" multi_stage_meanfield_param {{ num_iterations: 2 {THETAS} }}'
    module = give_values(build(text, scores.shape, scores.shape, images.shape, dialect=CRF)).double()
    inputs = (scores.requires_grad_(), first.requires_grad_())

    def run(scores: torch.Tensor, first: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
        blobs = dict(zip(module.blob_names, matrices, strict=True))
        found: torch.Tensor = torch.func.functional_call(module, blobs, (scores, first, images))
        return found

    assert torch.autograd.gradcheck(run, (*inputs, *module.parameters()), atol=1e-4)
    run(*inputs, *module.parameters()).sum().backward()
    assert images.grad is None


@pytest.mark.parametrize(
    ("more", "dialect", "diagonals"),
    [
        ("spatial_filter_weight: 3 bilateral_filter_weight: 5 threshold: 2", BITTNT, ([3, 3], [5, 5])),
        ('spatial_filter_weights_str: "3 4" bilateral_filter_weights_str: "5 6"', CRF, ([3, 4], [5, 6])),
        ("spatial_filter_weight: 3", BITTNT, ([3, 3], [1, 1])),
    ],
)
def test_matrices_start_from_their_diagonals(more: str, dialect: str, diagonals: tuple[list[float], ...]) -> None:
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: 1 dim: {channels} dim: 3 '
        "dim: 4 } } }"
        for name, channels in (("a", 2), ("b", 2), ("c", 3))
    )
    settings = f"multi_stage_meanfield_param {{ num_iterations: 2 {THETAS} {more} }}"
    bottoms = 'bottom: "a" bottom: "b" bottom: "c" top: "y"'
    text = f'{inputs} layer {{ name: "l" type: "MultiStageMeanfield" {bottoms} {settings} }}'
    net = net_of(text, dialect=dialect).materialize(seed=0)
    for blob, diagonal in zip(
        (net.l.spatial, net.l.bilateral, net.l.compatibility), (*diagonals, [-1, -1]), strict=True
    ):
        assert_equals(blob.detach()[0, 0], np.diag(np.array(diagonal, np.float32)))


@pytest.mark.parametrize(
    ("text", "shapes", "says"),
    [
        ("num_iterations: 1", ((1, 2, 3, 4), (1, 2, 3, 4), (1, 3, 3, 4)), "num_iterations is 1; it must be at least 2"),
        ("num_iterations: 2", ((1, 2, 3, 4), (1, 2, 3, 5), (1, 3, 3, 4)), "as .* has, was expected"),
        ("num_iterations: 2", ((1, 2, 3, 4), (1, 2, 3, 4), (1, 1, 3, 4)), "colours = 3"),
        ('num_iterations: 2 spatial_filter_weights_str: "1"', ((1, 2, 3, 4),) * 2 + ((1, 3, 3, 4),), "2 classes"),
        ('num_iterations: 2 bilateral_filter_weights_str: "1 x"', ((1, 2, 3, 4),) * 2 + ((1, 3, 3, 4),), "2 classes"),
    ],
)
def test_mean_field_refuses(text: str, shapes: tuple[tuple[int, ...], ...], says: str) -> None:
    settings = f"multi_stage_meanfield_param {{ {text} {THETAS} }}"
    with pytest.raises(LayerError, match=says):
        build(f'type: "MultiStageMeanfield" {settings}', *shapes, dialect=CRF)


def test_mean_field_starts_from_nothing_that_is_made_up() -> None:
    settings = f"multi_stage_meanfield_param {{ num_iterations: 2 {THETAS} }}"
    module = build(f'type: "MultiStageMeanfield" {settings}', *((1, 2, 3, 4),) * 2, (1, 3, 3, 4), dialect=CRF)
    with pytest.raises(LayerError, match="neither weights nor bilateral_filter_weights_str"):
        module.start_blob("bilateral", torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_mean_field_refuses_no_deviation(name: str) -> None:
    settings = f"multi_stage_meanfield_param {{ num_iterations: 2 {THETAS} }}"
    settings = settings.replace(f"theta_{name}: ", f"theta_{name}: -")
    with pytest.raises(LayerError, match=f"theta_{name} is -.*; it must be positive"):
        build(f'type: "MultiStageMeanfield" {settings}', *((1, 2, 3, 4),) * 2, (1, 3, 3, 4), dialect=CRF)
