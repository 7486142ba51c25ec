"""Arrays and fingerprints of more values than are compared at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.errors import UsageError
from caffe_compat.parity.compare import BlobResult, compare
from caffe_compat.parity.reference_files import whole_or_fingerprint
from caffe_compat.parity.tolerance import NET_TOLERANCE, Tolerance

# In no round number of pieces.
SHAPE = (7, 11, 1201)


def _values() -> np.ndarray:
    return (np.random.RandomState(0).standard_normal(SHAPE) * 3 + 100).astype(np.float32)


def _statistics() -> np.ndarray:
    exact = _values().astype(np.float64)
    return np.array([exact.mean(), exact.std(), exact.min(), exact.max()])


def _fingerprint(path: Path, x: np.ndarray, **changes: np.ndarray) -> h5py.Group:
    """A fingerprint of ``x`` as the recording programs write it, in a file in memory."""
    group = h5py.File(path, "w", driver="core", backing_store=False).create_group("x")
    exact = x.astype(np.float64)
    positions = np.arange(0, x.size, 1 + x.size // 64)
    group.attrs["shape"] = x.shape
    measured = np.array([exact.mean(), exact.std(), exact.min(), exact.max()])
    group.attrs["mean_std_min_max"] = changes.get("statistics", measured)
    group["positions"] = changes.get("positions", positions)
    group["values"] = changes.get("values", x.ravel()[positions])
    return group


def compare_stored(name: str, ours: Any, stored: h5py.Group, tolerance: Tolerance) -> BlobResult:
    """Compare with what a file holds of a blob, whole or as a fingerprint."""
    return compare(name, ours, whole_or_fingerprint(stored, name), tolerance)


def test_one_value_far_into_a_large_array() -> None:
    ours = _values()
    ours[6, 10, 1200] += 0.5
    result = compare("x", torch.from_numpy(ours), _values(), NET_TOLERANCE)
    assert not result.passed
    assert result.max_abs == pytest.approx(0.5, rel=1e-4)
    assert result.max_rel == pytest.approx(0.5 / np.abs(_values()).max(), rel=1e-4)
    ours[6, 10, 1200] = np.nan
    assert "not a number" in compare("x", torch.from_numpy(ours), _values(), NET_TOLERANCE).problem


def test_an_infinite_reference_does_not_widen_the_tolerance() -> None:
    reference = _values()
    reference[0, 0, :2] = np.inf, np.nan
    ours = reference.copy()
    ours[3, 5, 7] += 0.5
    result = compare("x", ours, reference, Tolerance(0.0, 1e-3))
    assert not result.passed
    assert result.max_abs == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_are_those_of_float64(tmp_path: Path, dtype: torch.dtype) -> None:
    ours = torch.from_numpy(_values()).to(dtype)
    before = ours.clone()
    result = compare_stored("x", ours, _fingerprint(tmp_path / "a.h5", _values()), Tolerance(0.0, 1e-13))
    assert result.passed
    assert (result.count, result.shape) == (ours.numel(), SHAPE)
    assert torch.equal(ours, before)


@pytest.mark.parametrize("at", range(4))
def test_each_statistic_counts(tmp_path: Path, at: int) -> None:
    statistics = _statistics()
    statistics[at] += 0.1
    group = _fingerprint(tmp_path / "a.h5", _values(), statistics=statistics)
    result = compare_stored("x", torch.from_numpy(_values()), group, NET_TOLERANCE)
    assert not result.passed
    assert result.max_abs == pytest.approx(0.1, rel=1e-3)


def test_a_value_between_the_positions_shows_in_the_statistics(tmp_path: Path) -> None:
    ours = torch.from_numpy(_values())
    ours.view(-1)[1] = 200.0
    assert not compare_stored("x", ours, _fingerprint(tmp_path / "a.h5", _values()), NET_TOLERANCE).passed


def test_fingerprint_with_nan(tmp_path: Path) -> None:
    x = _values()
    x[0, 0, 0] = np.nan
    group = _fingerprint(tmp_path / "a.h5", x)
    assert compare_stored("x", torch.from_numpy(x), group, NET_TOLERANCE).passed
    assert not compare_stored("x", torch.from_numpy(_values()), group, NET_TOLERANCE).passed


def test_fewer_values_than_positions(tmp_path: Path) -> None:
    group = _fingerprint(tmp_path / "a.h5", np.arange(5.0), positions=np.array([0, 1]), values=np.zeros(1))
    with pytest.raises(UsageError, match="5 values are stored for 6 places"):
        compare_stored("x", torch.arange(5.0), group, NET_TOLERANCE)
