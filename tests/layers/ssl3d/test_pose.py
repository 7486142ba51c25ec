from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, LayerError
from caffe_compat.network.randomness import Randomness
from tests.layers.building import build

PARENTS = (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14)
FORK = "chanyn/3Dpose_ssl"


def mask_layer(dim: int, prob: float) -> Any:
    module = build(f'type: "Mask" mask_param {{ dim: {dim} prob: {prob} }}', (1, 16 * dim), phase="TRAIN", dialect=FORK)
    module.randomness = Randomness(seed=3)
    return module


@pytest.mark.parametrize("shape", [(5, 6), (4, 7, 1, 1), (3,), (0, 6)])
def test_inverted_order_turns_frames_round(shape: tuple[int, ...], device: torch.device) -> None:
    x = torch.randn(shape, device=device, requires_grad=True)
    y = build('type: "InvertedOrder"', shape)(x)
    assert torch.equal(y, torch.flip(x, [0]))
    weights = torch.randn(shape, device=device)
    (y * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.flip(weights, [0]))


def test_inverted_order_refuses_what_the_fork_would_garble() -> None:
    with pytest.raises(LayerError, match=r"its bottom has shape \[5, 6, 2\]"):
        build('type: "InvertedOrder"', (5, 6, 2))(torch.zeros(5, 6, 2))


def test_dummy_forward_is_the_identity_with_one_unused_blob() -> None:
    module = build('type: "DummyForward"', (2, 3))
    x = torch.randn(2, 3, requires_grad=True)
    assert torch.equal(module(x), x)
    assert module.blob_names == ("dummy",)
    assert module.dummy.shape == (1,)


def test_mask_hides_whole_joints_spine_and_head_twice_as_often(device: torch.device) -> None:
    frames, prob = 4000, 0.1
    x = torch.full((frames, 48), 7.0, device=device)
    y = mask_layer(3, prob)(x)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    joints = y.reshape(frames, 16, 3)
    assert torch.equal(joints, joints[:, :, :1].expand(-1, -1, 3))
    hidden = 1 - joints[:, :, 0].mean(0)
    expected = torch.full((16,), prob)
    expected[[7, 9]] = 2 * prob
    # Five standard deviations of a binomial share.
    assert ((hidden.cpu() - expected).abs() < 5 * (expected * (1 - expected) / frames).sqrt()).all()


def test_mask_is_a_function_of_seed_iteration_and_layer() -> None:
    module, x = mask_layer(2, 0.5), torch.zeros(6, 32)
    first = module(x)
    assert torch.equal(module(x), first)
    module.randomness = Randomness(seed=3, iteration=1)
    assert not torch.equal(module(x), first)


@pytest.mark.parametrize(("prob", "value"), [(-1, 1.0), (2, 0.0)])
def test_mask_ends(prob: float, value: float) -> None:
    for dtype in (torch.float16, torch.float64):
        x = torch.randn(3, 32, 1, 1, dtype=dtype)
        y = mask_layer(2, prob)(x)
        assert y.shape == x.shape
        assert y.dtype == dtype
        assert (y == value).all()


def test_mask_runs_without_memory_even_with_a_seed() -> None:
    assert mask_layer(3, 0.5)(torch.empty(2, 48, device="meta")).shape == (2, 48)


def test_mask_refuses() -> None:
    with pytest.raises(LayerError, match="16 values are no whole number of joints of 3"):
        mask_layer(3, 0.5)(torch.zeros(2, 16))
    with pytest.raises(LayerError, match="needs mask_param"):
        build('type: "Mask"', (2, 48), dialect=FORK)
    with pytest.raises(LayerError, match=r"mask_param\.dim is 0"):
        build('type: "Mask" mask_param { dim: 0 }', (2, 48), dialect=FORK)


def test_another_forks_mask_is_not_this_one() -> None:
    with pytest.raises(CaffeCompatError, match="layer type 'Mask' is known as chanyn/3Dpose_ssl"):
        build('type: "Mask" mask_param { threshold: 1 }', (2, 48), dialect="lxx1991/caffe_mpi")


def test_two_masks_hide_the_same_joints(device: torch.device) -> None:
    frames = 3000
    module = build('type: "Mask2D3D"', (frames, 48), tops=2)
    module.randomness = Randomness(seed=5)
    flat, solid = module(torch.zeros(frames, 48, device=device))
    assert flat.shape == (frames, 32, 1, 1)
    assert solid.shape == (frames, 48)
    joints = flat.reshape(frames, 16, 2)[:, :, 0]
    assert torch.equal(flat.reshape(frames, 16, 2), joints.unsqueeze(2).expand(-1, -1, 2))
    assert torch.equal(solid.reshape(frames, 16, 3), joints.unsqueeze(2).expand(-1, -1, 3))
    hidden = 1 - joints.mean(0)
    assert abs(hidden[[7, 9]].mean().item() - 0.4) < 0.04
    assert abs(hidden[[0, 1, 6, 8, 15]].mean().item() - 0.2) < 0.03


def slow_bones(pose: np.ndarray, dim: int) -> np.ndarray:
    bones = np.zeros_like(pose)
    for n in range(pose.shape[0]):
        for c in range(pose.shape[1] // dim):
            for d in range(dim):
                bones[n, dim * c + d] = pose[n, dim * PARENTS[c] + d] - pose[n, dim * c + d]
    return bones


@pytest.mark.parametrize(("dim", "joints"), [(2, 16), (3, 16), (3, 5), (1, 16)])
def test_skel_vector_loss(dim: int, joints: int, device: torch.device) -> None:
    rs = np.random.RandomState(dim)
    a, b = rs.standard_normal((2, 5, dim * joints)).astype(np.float32)
    x, t = (torch.tensor(v, device=device, requires_grad=True) for v in (a, b))
    module = build(f'type: "SkelVectorLoss" skel_vector_param {{ dim: {dim} }}', a.shape, b.shape)
    loss = module(x, t)
    difference = slow_bones(a, dim) - slow_bones(b, dim)
    assert loss.shape == ()
    np.testing.assert_allclose(loss.item(), (difference**2).sum() / 5 / 2, rtol=1e-5)
    (3 * loss).backward()
    np.testing.assert_allclose(x.grad.cpu(), -3 * difference / 5, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(t.grad.cpu(), 3 * difference / 5, rtol=1e-5, atol=1e-6)


def test_skel_vector_loss_with_its_true_gradient() -> None:
    text = 'type: "SkelVectorLoss" skel_vector_param { dim: 2 }'
    module = build(text, (3, 32), (3, 32, 1, 1), gradients="true")
    x = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    t = torch.randn(3, 32, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, t))
    faithful = build(text, (3, 32), (3, 32, 1, 1))(x, t)
    assert torch.equal(faithful, module(x, t))
    gx, gt = torch.autograd.grad(faithful, (x, t))
    assert torch.equal(gt, -gx.reshape(t.shape))
    assert not torch.allclose(gx, torch.autograd.grad(module(x, t), x)[0])


def test_skel_vector_loss_refuses() -> None:
    module = build('type: "SkelVectorLoss" skel_vector_param { }', (2, 51), (2, 51))
    with pytest.raises(LayerError, match="51 values are no 16 joints"):
        module(torch.zeros(2, 51), torch.zeros(2, 51))
    with pytest.raises(LayerError, match=r"found \[2, 48\] and \[2, 45\]"):
        module(torch.zeros(2, 48), torch.zeros(2, 45))
    with pytest.raises(LayerError, match="needs skel_vector_param"):
        build('type: "SkelVectorLoss"', (2, 48), (2, 48))


def test_rescaled_coords(device: torch.device) -> None:
    x = torch.randn(3, 8, device=device, requires_grad=True)
    info = torch.rand(3, 5, 1, 1, device=device) + 1
    y = build('type: "RescaledPoseCoords"', (3, 8), (3, 5, 1, 1))(x, info)
    assert y.shape == (3, 8, 1, 1)
    assert not y.requires_grad
    torch.testing.assert_close(y[:, :, 0, 0], x.detach() / info[:, 3, 0])
    true = build('type: "RescaledPoseCoords"', (3, 8), (3, 5, 1, 1), gradients="true")
    true(x, info).sum().backward()
    torch.testing.assert_close(x.grad, (1 / info[:, 3, 0]).expand(3, 8))


@pytest.mark.parametrize(("shape", "info"), [((3, 7), (3, 5)), ((3, 8), (3, 4)), ((3, 8), (2, 5))])
def test_rescaled_coords_refuses(shape: tuple[int, ...], info: tuple[int, ...]) -> None:
    with pytest.raises(LayerError, match="layer 'l' \\(RescaledPoseCoords\\)"):
        build('type: "RescaledPoseCoords"', shape, info)(torch.zeros(shape), torch.zeros(info))
