"""Metrics against cases worked out by hand, and scipy's Procrustes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.spatial

from caffe_compat.errors import UsageError
from hpm.metrics import (
    auc,
    mpjpe,
    mpjpe_per_frame,
    mpjve,
    n_mpjpe,
    n_mpjpe_per_frame,
    p_mpjpe,
    p_mpjpe_per_frame,
    pck,
    pcp,
    procrustes,
)
from hpm.skeleton import H36M16, KTH14


def _random(seed: int, frames: int = 4, joints: int = 16) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-800, 800, (frames, joints, 3))


def test_mpjpe_counts_every_joint_the_hip_too() -> None:
    truth = np.zeros((2, 16, 3))
    pose = truth.copy()
    pose[0, 0] = (3, 4, 0)
    pose[0, 15] = (0, 5, 12)
    pose[1, 7] = (0, 0, 8)
    assert mpjpe_per_frame(pose, truth).tolist() == [(5 + 13) / 16, 8 / 16]
    assert mpjpe(pose, truth) == (18 + 8) / 32


def test_procrustes_is_scipys() -> None:
    pose, truth = _random(0), _random(1)
    aligned = procrustes(pose, truth)
    for ours, p, t in zip(aligned, pose, truth, strict=True):
        # scipy gives both in its own frame (centred, of norm 1) and allows mirroring.
        a, b, _ = scipy.spatial.procrustes(t, p)
        size = np.linalg.norm(t - t.mean(0))
        best = b * size + t.mean(0)
        rotation, *_ = np.linalg.lstsq(p - p.mean(0), ours - t.mean(0), rcond=None)
        assert np.linalg.det(rotation) > 0
        np.testing.assert_allclose(a * size + t.mean(0), t)
        mirrored, *_ = np.linalg.lstsq(p - p.mean(0), best - t.mean(0), rcond=None)
        if np.linalg.det(mirrored) > 0:
            np.testing.assert_allclose(ours, best, rtol=1e-8, atol=1e-8)


def test_procrustes_agrees_with_scipy_on_poses_near_the_truth() -> None:
    truth = _random(2, frames=5)
    pose = truth * 1.3 + np.random.RandomState(3).normal(0, 20, truth.shape)
    expected = []
    for p, t in zip(pose, truth, strict=True):
        a, b, _ = scipy.spatial.procrustes(t, p)
        expected.append(np.linalg.norm(a - b, axis=-1).mean() * np.linalg.norm(t - t.mean(0)))
    assert p_mpjpe(pose, truth) == pytest.approx(np.mean(expected), rel=1e-9)


def test_procrustes_undoes_a_similarity_but_no_mirroring() -> None:
    truth = _random(4)
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = 0.4 * truth @ turn.T + np.array([100, -20, 3000])
    assert p_mpjpe(moved, truth) < 1e-9
    assert p_mpjpe(moved * np.array([-1, 1, 1]), truth) > 100
    point = np.ones_like(truth)
    np.testing.assert_allclose(procrustes(point, truth), np.tile(truth.mean(1, keepdims=True), (1, 16, 1)))


def test_n_mpjpe_undoes_the_scale_of_each_frame() -> None:
    truth = _random(5)
    scales = np.array([0.5, 2, 3, 0.1])[:, None, None]
    assert n_mpjpe(truth * scales, truth) < 1e-9
    # By hand: pose (1, 0, 0), (0, 1, 0); truth (2, 0, 0), (0, 0, 2): scale (1 * 2) / 2 = 1.
    pose = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    goal = np.array([[[2.0, 0, 0], [0, 0, 2]]])
    assert n_mpjpe(pose, goal) == pytest.approx((1 + np.sqrt(5)) / 2)


def test_mpjve_by_hand_and_across_sequences() -> None:
    truth = np.zeros((4, 2, 3))
    pose = truth.copy()
    pose[:, 0, 0] = [0, 3, 3, 103]
    assert mpjve(pose, truth) == pytest.approx((3 + 0 + 100) / 6)
    assert mpjve(pose, truth, np.array([True, False, False, True])) == pytest.approx(3 / 4)
    assert np.isnan(mpjve(pose[:1], truth[:1]))
    # A constant offset moves nothing.
    assert mpjve(truth + 50, truth) == 0


def test_pck_and_auc_by_hand() -> None:
    truth = np.zeros((1, 4, 3))
    pose = truth.copy()
    pose[0, :, 1] = [0, 75, 150, 151]
    assert pck(pose, truth) == 0.75
    assert pck(pose, truth, 74) == 0.25
    # 31 thresholds 0, 5, ..., 150: joint 0 within all, joint 1 from 75 on (16), joint 2 at 150 only, joint 3 never.
    assert auc(pose, truth) == pytest.approx((31 + 16 + 1) / (4 * 31))


def test_pcp_by_hand() -> None:
    truth = np.zeros((1, 14, 3))
    for k, name in enumerate(KTH14.joints):
        truth[0, k] = (0, 0, 100.0 * k)
        assert KTH14.index(name) == k
    pose = truth.copy()
    # Left upper arm: shoulder 9 and elbow 10, 100 mm apart. 90 mm at one end: mean 45 <= 50, yet over 50 alone.
    pose[0, 9, 0] = 90
    assert pcp(pose, truth) == {"upper arms": 1, "lower arms": 1, "upper legs": 1, "lower legs": 1, "all": 1}
    assert pcp(pose, truth, strict=True) == {
        "upper arms": 0.5,
        "lower arms": 1,
        "upper legs": 1,
        "lower legs": 1,
        "all": 0.875,
    }
    pose[0, 5, 1] = 101
    assert pcp(pose, truth)["lower legs"] == 0.5
    assert pcp(pose, truth, alpha=0.6)["lower legs"] == 1


def test_shapes_that_differ_are_errors() -> None:
    with pytest.raises(UsageError, match=r"poses \(4, 16, 3\) and truth \(3, 16, 3\)"):
        mpjpe(_random(0), _random(0, frames=3))
    with pytest.raises(UsageError, match="poses of 16 joints; KTH14 has 14"):
        pcp(_random(0), _random(1))
    with pytest.raises(UsageError, match="starts of shape"):
        mpjve(_random(0), _random(1), np.zeros(3, bool))


ALL = (
    *(auc, mpjpe, mpjpe_per_frame, mpjve, n_mpjpe, n_mpjpe_per_frame, p_mpjpe, p_mpjpe_per_frame, pck, procrustes),
    lambda pose, truth: pcp(pose, truth, H36M16),
)


@pytest.mark.parametrize("metric", ALL)
def test_joints_that_are_not_finite_are_one_error_in_all_metrics(metric: Callable[..., object]) -> None:
    truth = np.random.default_rng(0).normal(0, 300, (20, 16, 3))
    pose = truth + 20
    metric(pose, truth)
    for value in (np.nan, np.inf, -np.inf):
        bad = pose.copy()
        bad[3, 2, 1] = bad[3, 2, 2] = bad[5, 0, 0] = value
        with pytest.raises(
            UsageError, match=r"^poses with 2 joints that are not finite, the first is joint 2 of frame 3$"
        ):
            metric(bad, truth)
        with pytest.raises(UsageError, match=r"^true poses with 2 joints that are not finite"):
            metric(pose, bad)
    with pytest.raises(UsageError, match="not empty"):
        metric(pose[:0], truth[:0])


def test_a_threshold_that_is_none() -> None:
    pose = _random(0)
    for threshold in (float("nan"), -1.0):
        with pytest.raises(UsageError, match="0 or more was expected"):
            pck(pose, pose, threshold)
        with pytest.raises(UsageError, match="0 or more, was expected"):
            pcp(pose, pose, H36M16, threshold)
