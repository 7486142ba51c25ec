"""A pose machine that was copied, pickled, saved by torch or sent to another process is the same machine."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from hpm.model import PoseMachine
from hpm.networks import NetworkOptions, define, scaled_channels
from hpm.scaling import REFINEMENT_BOUNDS, Bounds
from tests.hpm.seeded import seeded_net
from tests.hpm.tiny import random_frames

FRAMES = random_frames(7)
BOUNDS = Bounds(1.1 * REFINEMENT_BOUNDS.maximum, 1.1 * REFINEMENT_BOUNDS.minimum, "others")


def by_torch(machine: PoseMachine) -> PoseMachine:
    file = io.BytesIO()
    torch.save(machine, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, PoseMachine)
    return loaded


def by_pickle(machine: PoseMachine) -> PoseMachine:
    loaded = pickle.loads(pickle.dumps(machine))
    assert isinstance(loaded, PoseMachine)
    return loaded


Copy = Callable[[PoseMachine], PoseMachine]
WAYS = pytest.mark.parametrize("way", [copy.deepcopy, by_pickle, by_torch])


@pytest.fixture
def machine(reference: Path) -> PoseMachine:
    folder = reference / "tiny_mask3d"
    made = PoseMachine.from_caffe(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel", bounds=BOUNDS)
    made.verify(folder / "tiny_mask3d.h5")
    made.reset_state()
    return made


@WAYS
@pytest.mark.parametrize("optimized", [False, True])
def test_it_goes_on_from_the_same_frame_with_the_same_bits(
    way: Copy, optimized: bool, machine: PoseMachine, device: torch.device
) -> None:
    machine.to(device)
    if optimized:
        machine.optimize()
    machine.predict(FRAMES[:3], window=3)
    other = way(machine)
    assert other.device == machine.device
    assert other.optimized == optimized
    first = [each.predict(FRAMES[3:], window=2) for each in (machine, other)]
    np.testing.assert_array_equal(first[0].pose, first[1].pose)
    np.testing.assert_array_equal(first[0].change, first[1].change)
    # The state matters: at a start, the poses of these frames are others.
    other.reset_state()
    assert np.abs(other.predict(FRAMES[3:], window=2).pose - first[0].pose).max() > 1e-5
    machine.reset_state()
    other.reset_state()
    np.testing.assert_array_equal(machine.coarse(FRAMES), other.coarse(FRAMES))


@WAYS
def test_it_knows_what_the_first_one_knew(way: Copy, machine: PoseMachine, tmp_path: Path) -> None:
    other = way(machine)
    assert other.parity == machine.parity
    assert other.parity is not None
    assert other.known_bounds is not None
    np.testing.assert_array_equal(other.bounds.maximum, BOUNDS.maximum)
    assert (other.pose_blob, other.values, other.image_size) == (machine.pose_blob, machine.values, machine.image_size)
    assert other.fingerprint() == machine.fingerprint()
    machine.save(tmp_path / "a.pt")
    other.save(tmp_path / "b.pt")
    saved = [PoseMachine.from_pretrained(tmp_path / name) for name in ("a.pt", "b.pt")]
    assert saved[0].parity == saved[1].parity
    assert saved[0].fingerprint() == saved[1].fingerprint()
    pose = machine.coarse(FRAMES)
    refined = [each.refine(pose, each.project(pose), unit="mm") for each in (machine, other)]
    np.testing.assert_array_equal(refined[0], refined[1])


@WAYS
def test_its_weights_are_its_own_and_one(way: Copy, machine: PoseMachine) -> None:
    """Its parts share its weights, as those of the first one do, and not the first one's."""
    before, other = machine.coarse(FRAMES), way(machine)
    other.reset_state()
    with torch.no_grad():
        for name, weight in other.net.named_parameters():
            if name.startswith(("fc-final_16", "project_2d")):
                weight.mul_(1.5)
    assert np.abs(other.coarse(FRAMES) - before).max() > 1e-3
    assert other.parity is None  # not these weights
    assert np.abs(other.project(before) - machine.project(before)).max() > 1e-3
    machine.reset_state()
    np.testing.assert_array_equal(machine.coarse(FRAMES), before)
    assert machine.parity is not None


@WAYS
def test_networks_without_projector_and_bounds(way: Copy) -> None:
    options = NetworkOptions(image_size=64, channels=scaled_channels(1 / 16), hidden=24, projector=40)
    machine = PoseMachine(seeded_net(define("pose_2d", options)))
    other = way(machine)
    assert (other.known_bounds, other.parity, other.has_correction) == (None, None, False)
    np.testing.assert_array_equal(machine.pose2d(FRAMES), other.pose2d(FRAMES))


@pytest.mark.slow
def test_spawned_processes(machine: PoseMachine) -> None:
    expected = machine.coarse(FRAMES, unit="mm")
    machine.reset_state()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(PoseMachine.coarse, machine, FRAMES, unit="mm").result()
    np.testing.assert_array_equal(found, expected)
