"""Bounds that fit the poses make left and right limbs equally long; others do not, and the evidence says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpm.files.lists import read_list
from hpm.limbs import LABELS, PREDICTIONS, LimbEvidence, limb_evidence
from hpm.scaling import REFINEMENT_BOUNDS, Bounds, denormalise, normalise, read_bounds
from hpm.skeleton import H36M16


def _exchanged(bounds: Bounds) -> Bounds:
    order = list(H36M16.swaps)
    rows = [row.reshape(16, 3)[order].ravel().copy() for row in (bounds.maximum, bounds.minimum)]
    return Bounds(rows[0], rows[1], "exchanged")


@pytest.fixture
def labels(reference: Path) -> tuple[np.ndarray, Bounds]:
    """Normalised labels (frames, 48) of sitting, and their bounds."""
    data = reference / "synthetic_pose" / "data"
    pose = read_list(data / "gt" / "test" / "test8.txt", need_3d=True).pose3d
    assert pose is not None
    return pose, read_bounds(data / "16point_mean_limb_scaled_max_min.csv")


def test_bounds_that_fit(labels: tuple[np.ndarray, Bounds]) -> None:
    pose, bounds = labels
    assert limb_evidence(pose, bounds).reason(LABELS) is None
    published = normalise(denormalise(pose, bounds), REFINEMENT_BOUNDS)
    assert limb_evidence(published, REFINEMENT_BOUNDS).reason(LABELS) is None


def test_left_and_right_exchanged_in_the_bounds(labels: tuple[np.ndarray, Bounds]) -> None:
    """Also in the published ones, whose two sides look alike."""
    pose, bounds = labels
    published = normalise(denormalise(pose, bounds), REFINEMENT_BOUNDS)
    for values, given in ((pose, bounds), (published, REFINEMENT_BOUNDS)):
        reason = limb_evidence(values, _exchanged(given)).reason(LABELS)
        assert reason is not None
        assert "with left and right of the bounds exchanged, no bone differs by more than 0.0%" in reason


def test_bounds_of_other_data(labels: tuple[np.ndarray, Bounds]) -> None:
    pose, _ = labels
    reason = limb_evidence(pose, REFINEMENT_BOUNDS).reason(LABELS)
    assert reason is not None
    assert "exchanged" not in reason


def test_the_numbers_are_those_of_the_bones() -> None:
    """A left thigh of 500 mm and a right one of 400."""
    pose = np.random.RandomState(0).uniform(-100, 100, (12, 16, 3))
    for side, length in (("L", 500.0), ("R", 400.0)):
        pose[:, H36M16.index(f"{side}Knee")] = pose[:, H36M16.index(f"{side}Hip")] + [0, length, 0]
    span = np.full(48, 1000.0)
    reason = limb_evidence(normalise(pose.reshape(12, 48), bounds := Bounds(span, -span, "b")), bounds).reason(LABELS)
    assert reason == "the bone to the knee is 500 mm on the left and 400 mm on the right, on average of 12 frames"


def test_what_is_no_evidence(labels: tuple[np.ndarray, Bounds]) -> None:
    pose, bounds = labels
    wrong = _exchanged(bounds)
    assert LimbEvidence().reason(LABELS) is None
    assert limb_evidence(pose[:9], wrong).reason(LABELS) is None  # few frames
    assert limb_evidence(pose, wrong).reason(PREDICTIONS) is None  # as much as a network errs
    noise = np.random.RandomState(1).uniform(0, 1, (40, 48))
    assert limb_evidence(noise, bounds).reason(LABELS) is None  # unequal by chance


def test_stretches_add_up(labels: tuple[np.ndarray, Bounds]) -> None:
    pose, bounds = labels
    wrong = _exchanged(bounds)
    parts = sum((limb_evidence(pose[k : k + 7], wrong) for k in range(0, len(pose), 7)), LimbEvidence())
    assert parts.reason(LABELS) == limb_evidence(pose, wrong).reason(LABELS)
