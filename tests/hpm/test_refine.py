"""Refinement against the original's recorded run, and every option against autograd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_compat.errors import UsageError
from caffe_compat.formats.hdf5 import open_hdf5
from hpm.metrics import mpjpe_per_frame
from hpm.refine import PAPER, Refiner, RefineSettings
from hpm.scaling import REFINEMENT_BOUNDS, denormalise
from tests.hpm.refinement import autograd_refine, seeded_projector


def _mm(pose: np.ndarray) -> np.ndarray:
    return denormalise(np.asarray(pose, np.float64), REFINEMENT_BOUNDS).reshape(-1, 16, 3)


def _frames(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.rand(count, 48, generator=draw, dtype=dtype), torch.rand(count, 32, generator=draw, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reproduces_the_original(reference: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Both actions, every frame, both steps, within 1e-5 of the greatest value of the frame."""
    refiner = Refiner(seeded_projector(), device=device, dtype=dtype)
    with open_hdf5(reference / "hpm_refine.h5") as file:
        for action in ("action_1", "action_2"):
            stored = {name: np.asarray(value) for name, value in file[action].items()}
            refiner.reset()
            # In two calls: state carries from one to the next.
            parts = [refiner.refine(stored["coarse_3d"][k], stored["pose_2d"][k]) for k in (slice(7), slice(7, None))]
            refined, change = (np.concatenate([getattr(p, name) for p in parts]) for name in ("pose", "change"))
            expected = stored["refined_3d_mm"].reshape(-1, 16, 3)
            assert len(refined) == len(expected) == 40
            worst = np.abs(_mm(refined) - expected).max((1, 2)) / np.abs(expected).max((1, 2))
            assert worst.max() < 1e-5
            truth = _mm(stored["ground_truth_3d"])
            errors = [mpjpe_per_frame(_mm(pose), truth) for pose in (stored["coarse_3d"], change, refined)]
            np.testing.assert_allclose(np.stack(errors, 1), stored["mpjpe_mm"], rtol=1e-5)


def test_order_of_frames_matters_in_faithful_mode_only(reference: Path) -> None:
    with open_hdf5(reference / "hpm_refine.h5") as file:
        coarse, pose2d = (np.asarray(file[f"action_1/{name}"])[:12] for name in ("coarse_3d", "pose_2d"))
    for mode, same in (("faithful", False), ("independent", True)):
        refiner = Refiner(seeded_projector(), RefineSettings(mode))  # type: ignore[arg-type]
        forward = refiner.refine(coarse, pose2d).pose
        refiner.reset()
        backward = refiner.refine(coarse[::-1].copy(), pose2d[::-1].copy()).pose[::-1]
        assert np.allclose(forward, backward, rtol=1e-5, atol=1e-6) == same


@pytest.mark.parametrize(
    "settings",
    [
        RefineSettings("faithful"),
        RefineSettings("faithful", steps=3),
        RefineSettings("faithful", steps=2, update_projector=True),
        RefineSettings("faithful", steps=4, update_projector=True, learning_rate=0.001),
        RefineSettings("independent"),
        RefineSettings("independent", steps=2, learning_rate=0.01),
        RefineSettings("independent", steps=5),
        RefineSettings("independent", steps=2, update_projector=True),
        RefineSettings("independent", steps=4, update_projector=True, learning_rate=0.001),
        RefineSettings("independent", steps=1),
        RefineSettings("faithful", steps=1),
        RefineSettings("faithful", learning_rate=0.0),
    ],
    ids=lambda s: f"{s.mode}-{s.steps}-{'all' if s.update_projector else 'two'}-{s.learning_rate}",
)
def test_every_mode_is_what_autograd_gives(settings: RefineSettings, device: torch.device) -> None:
    projector = seeded_projector(20, 30).to(device, torch.float64)
    coarse, pose2d = (part.to(device) for part in _frames(70))
    # An input of 0 and units that never fire have gradients of 0, which must not become 0 / 0.
    coarse[3, 5] = 0
    projector.change_tmp.bias[:3] = -100
    ours = Refiner(projector, settings, device=device, dtype=torch.float64).refine(coarse, pose2d)
    steps = autograd_refine(projector, settings, coarse, pose2d)
    torch.testing.assert_close(ours.pose, steps[-1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.change, steps[0], rtol=1e-12, atol=1e-12)
    assert ours.steps.tolist() == [settings.steps] * 70
    assert not ours.discarded.any()
    if settings.steps > 1 and settings.learning_rate:
        assert (ours.pose - ours.change).abs().max() > 1e-4


@pytest.mark.parametrize("mode", ["faithful", "independent"])
def test_stop_and_discard(mode: str) -> None:
    """The paper's thresholds, chosen so that some frames stop early and some go too far."""
    projector = seeded_projector(20, 30).to(dtype=torch.float64)
    coarse, pose2d = _frames(25)
    settings = RefineSettings(mode, steps=6, learning_rate=0.002)  # type: ignore[arg-type]
    torso = [0, 10, 13, 4, 1]

    def moved(a: Tensor, b: Tensor) -> np.ndarray:
        return np.linalg.norm(_mm(a.numpy()) - _mm(b.numpy()), axis=-1)[:, torso].max(1)

    full = Refiner(projector, settings, dtype=torch.float64).refine(coarse, pose2d)
    limit = float(np.median(moved(full.pose, full.change)))
    kept = Refiner(projector, replace(settings, discard_mm=limit), dtype=torch.float64).refine(coarse, pose2d)
    assert kept.discarded.numpy().tolist() == (moved(full.pose, full.change) > limit).tolist()
    assert 0 < kept.discarded.sum() < 25
    torch.testing.assert_close(kept.pose, torch.where(kept.discarded[:, None], full.change, full.pose))
    # Independent frames can be followed step by step; a threshold of 0 stops none.
    none = Refiner(projector, replace(settings, stop_mm=0.0), dtype=torch.float64).refine(coarse, pose2d)
    torch.testing.assert_close(none.pose, full.pose)
    if mode == "independent":
        steps = autograd_refine(projector, settings, coarse, pose2d)
        distance = np.stack([moved(b, a) for a, b in pairwise(steps)])
        stop = float(np.median(distance))
        ours = Refiner(projector, replace(settings, stop_mm=stop), dtype=torch.float64).refine(coarse, pose2d)
        below = distance < stop
        taken = np.where(below.any(0), below.argmax(0) + 2, 6)
        assert ours.steps.tolist() == taken.tolist()
        assert len(set(taken)) > 1
        expected = torch.stack([steps[k - 1][frame] for frame, k in enumerate(taken)])
        torch.testing.assert_close(ours.pose, expected, rtol=1e-9, atol=1e-9)
    else:
        # A frame's steps, its last one too, enter the moments that the next frame starts with.
        steps = autograd_refine(projector, settings, coarse, pose2d)
        distance = np.stack([moved(b, a) for a, b in pairwise(steps)])
        for stop in np.quantile(distance, [0.1, 0.3, 0.6]):
            stopping = replace(settings, stop_mm=float(stop))
            steps = autograd_refine(projector, stopping, coarse, pose2d)
            ours = Refiner(projector, stopping, dtype=torch.float64).refine(coarse, pose2d)
            assert len(set(ours.steps.tolist())) > 1
            torch.testing.assert_close(ours.pose, steps[-1], rtol=1e-9, atol=1e-9)
        at_once = Refiner(projector, replace(settings, stop_mm=1e9), dtype=torch.float64).refine(coarse, pose2d)
        two = Refiner(projector, replace(settings, steps=2), dtype=torch.float64).refine(coarse, pose2d)
        assert at_once.steps.tolist() == [2] * 25
        torch.testing.assert_close(at_once.pose, two.pose)


def test_the_papers_variant_runs(device: torch.device) -> None:
    coarse, pose2d = _frames(6, torch.float32)
    out = Refiner(seeded_projector(20, 30), PAPER, device=device).refine(coarse, pose2d)
    assert out.pose.isfinite().all()
    assert out.steps.min() >= 2


def test_the_loss_falls() -> None:
    from hpm.projector import RELU_SCALE, ProjectionLoss, project

    projector = seeded_projector()
    coarse, pose2d = _frames(50, torch.float32)
    loss = ProjectionLoss()
    for mode in ("faithful", "independent"):
        out = Refiner(projector, RefineSettings(mode)).refine(coarse, pose2d)
        before, after = (
            loss(project(projector, pose, RELU_SCALE), loss.target(pose2d)).mean() for pose in (out.change, out.pose)
        )
        assert after < 0.95 * before


def test_weights_given_are_not_changed(device: torch.device) -> None:
    projector = seeded_projector(20, 30)
    before = projector.arrays()
    coarse, pose2d = _frames(9, torch.float32)
    Refiner(projector, RefineSettings(steps=3, update_projector=True), device=device).refine(coarse, pose2d)
    for array, expected in zip(projector.arrays(), before, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_streams_give_what_one_call_gives_and_start_anew() -> None:
    refiner = Refiner(seeded_projector(20, 30))
    coarse, pose2d = (part.numpy() for part in _frames(300, torch.float32))
    whole = refiner.refine(coarse, pose2d)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for k in range(0, 300, 90):
            yield coarse[k : k + 90], pose2d[k : k + 90]

    for _ in range(2):
        parts = list(refiner.stream(blocks()))
        assert [len(part.pose) for part in parts] == [90, 90, 90, 30]
        np.testing.assert_allclose(np.concatenate([part.pose for part in parts]), whole.pose, rtol=1e-5, atol=1e-6)


def test_shapes_and_kinds() -> None:
    refiner = Refiner(seeded_projector(20, 30), RefineSettings("independent"))
    coarse, pose2d = _frames(4, torch.float32)
    flat = refiner.refine(coarse, pose2d)
    joints = refiner.refine(coarse.reshape(4, 16, 3).numpy(), pose2d.reshape(4, 16, 2).numpy())
    assert isinstance(flat.pose, Tensor)
    assert isinstance(joints.pose, np.ndarray)
    assert joints.pose.shape == (4, 48)
    np.testing.assert_array_equal(flat.pose.numpy(), joints.pose)
    for mode in ("faithful", "independent"):
        none = Refiner(seeded_projector(20, 30), RefineSettings(mode)).refine(coarse[:0], pose2d[:0])
        assert none.pose.shape == (0, 48)


def test_long_runs_meet_no_denormal_numbers() -> None:
    """A unit that stops firing leaves moments that decay; they end at zero, not among the slow denormal numbers."""
    projector = seeded_projector(20, 30)
    refiner = Refiner(projector)
    coarse, pose2d = _frames(1, torch.float32)
    refiner.refine(coarse, pose2d)
    # At a coarse pose of -100 times the first one, other units fire than before.
    refiner.refine((-100 * coarse).expand(1200, 48), pose2d.expand(1200, 32))
    sequence = refiner._sequence
    assert sequence is not None
    moments = sequence._correction._first
    tiny = torch.finfo(torch.float32).tiny
    assert (moments == 0).any()
    assert not ((moments != 0) & (moments.abs() < tiny)).any()


@pytest.mark.parametrize(
    ("coarse", "pose2d", "message"),
    [
        (np.zeros((3, 48)), np.zeros((4, 32)), "3 coarse 3D poses and 4 2D poses"),
        (
            np.zeros((3, 51)),
            np.zeros((3, 32)),
            r"coarse 3D poses of shape \(frames, 48\) or \(frames, 16, 3\) were expected, found \(3, 51\)",
        ),
        (
            np.zeros((3, 48)),
            np.zeros((3, 34)),
            r"2D poses of shape \(frames, 32\) or \(frames, 16, 2\) were expected, found \(3, 34\)",
        ),
        (np.zeros(48), np.zeros((1, 32)), r"found \(48,\)"),
        (np.zeros((2, 3, 16)), np.zeros((2, 32)), r"or \(frames, 16, 3\) were expected, found \(2, 3, 16\)"),
        (
            np.full((3, 48), np.nan),
            np.zeros((3, 32)),
            "coarse 3D poses that are not finite, 3 in all, the first at index 0",
        ),
        (np.full((3, 48), -450.0), np.zeros((3, 32)), r"coarse 3D poses that reach 450: millimetres .* normalised"),
        (np.zeros((3, 48)), np.full((3, 32), 200.0), r"2D poses that reach 200: .* fractions of the crop's side"),
    ],
)
def test_bad_input(coarse: np.ndarray, pose2d: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Refiner(seeded_projector(20, 30)).refine(coarse, pose2d)


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="refinement mode 'exact'; there are faithful and independent"):
        RefineSettings("exact")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 refinement steps"):
        RefineSettings(steps=0)
    with pytest.raises(UsageError, match="discard_mm = -1"):
        RefineSettings(discard_mm=-1)
    with pytest.raises(UsageError, match=r"torch\.float16; torch\.float32 and"):
        Refiner(seeded_projector(20, 30), dtype=torch.float16)
