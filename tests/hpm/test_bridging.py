"""Gaps of 2D poses: what is bridged, what is not, and what each frame rests on."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_compat.errors import UsageError
from hpm.bridging import Bridging, bridge
from hpm.people import Person, chosen_tracks, largest_track, overlap, tracks_of
from hpm.skeleton import H36M16


def _walk(frames: int) -> np.ndarray:
    """Every joint on its own parabola, which the cubic between seen places meets closely."""
    time = np.arange(frames, dtype=float)[:, None]
    x = 100 + 10 * np.arange(16) + 6 * time
    return np.stack([x, 50 + 2 * np.arange(16) + 0.3 * time**2 + 0 * x], -1)


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    pixels, sure = _walk(30), np.ones((30, 16))
    sure[4:7] = 0.1
    sure[12:20, H36M16.index("LWrist")] = 0.1
    damaged = pixels.copy()
    damaged[4:7] = 0
    found = bridge(damaged, sure, Bridging(longest=3))
    assert found.rests_on[:4].tolist() == ["seen"] * 4
    assert found.rests_on[4:7].tolist() == ["bridged"] * 3
    np.testing.assert_allclose(found.pixels[4:7], pixels[4:7], atol=0.5)
    np.testing.assert_array_equal(found.pixels[:4], pixels[:4])
    # The wrist lacks for longer than that; a frame has joints enough without it.
    assert found.rests_on[12:20].tolist() == ["bridged"] * 8
    assert np.isnan(found.pixels[12:20, H36M16.index("LWrist")]).all()
    assert found.known[12:20].sum(1).tolist() == [15] * 8
    assert bridge(damaged, sure, Bridging(longest=2)).rests_on[4:7].tolist() == ["none"] * 3


def test_a_bridge_never_leaves_the_places_around_it() -> None:
    """A jump and a stop, at which other splines swing out."""
    pixels = np.zeros((10, 16, 2))
    pixels[5:] = 100
    sure = np.ones((10, 16))
    sure[4] = 0
    found = bridge(pixels, sure).pixels
    assert (found[4] >= 0).all()
    assert (found[4] <= 100).all()
    pixels[4] = np.nan
    np.testing.assert_array_equal(bridge(pixels).pixels, found)


def test_nothing_is_put_before_the_first_and_after_the_last() -> None:
    sure = np.ones((8, 16))
    sure[[0, 1, 7]] = 0
    found = bridge(_walk(8), sure)
    assert found.rests_on.tolist() == ["none", "none", "seen", "seen", "seen", "seen", "seen", "none"]
    longer = bridge(_walk(8), whole=False).rows(slice(6, 10))
    assert longer.rests_on.tolist() == ["seen", "seen", "none", "none"]
    with pytest.raises(UsageError, match=r"^8 2D poses for 10 frames or more$"):
        bridge(_walk(8)).rows(slice(6, 10))


def test_too_few_joints_are_no_pose() -> None:
    sure = np.ones((5, 16))
    sure[:, :5] = 0
    assert bridge(_walk(5), sure).rests_on.tolist() == ["none"] * 5
    assert bridge(_walk(5), sure, Bridging(enough=11)).rests_on.tolist() == ["bridged"] * 5


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"threshold": float("nan")}, {"longest": -1}, {"enough": 17}])
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Bridging(**wrong)  # type: ignore[arg-type]


def _person(x: float, y: float, size: float = 40) -> Person:
    return Person(np.array([[x, y], [x + size, y + 2 * size]]), np.ones(2))


def test_people_are_followed() -> None:
    """Two cross behind each other's back; one is lost for two frames, a third comes late."""
    frames = [[_person(10 + 5 * k, 20), _person(200 - 5 * k, 120, 60)] for k in range(12)]
    for k in (5, 6):
        del frames[k][0]
    frames[9].append(_person(400, 10))
    for k in range(0, 12, 2):
        frames[k].reverse()  # the order in a frame means nothing
    tracks = tracks_of(frames)
    assert [len(track.people) for track in tracks] == [12, 10, 1]
    assert [track.people[9].box[0] for track in tracks] == [155, 55, 400]
    assert [len(chosen_tracks(frames, people)) for people in ("largest", "all", 1, 3, 9)] == [1, 2, 1, 3, 3]
    assert chosen_tracks([], "all") == []
    for wrong in (0, -1, True, "both"):
        with pytest.raises(UsageError, match="largest, all or a number from 1 was expected"):
            chosen_tracks(frames, wrong)  # type: ignore[arg-type]
    assert largest_track(frames).people[11].box.tolist() == [145, 120, 60, 120]
    assert largest_track([]).people == {}
    assert overlap(np.array([0, 0, 2, 2.0]), np.array([1, 0, 2, 2.0])) == pytest.approx(1 / 3)
    assert overlap(np.zeros(4), np.zeros(4)) == 0
