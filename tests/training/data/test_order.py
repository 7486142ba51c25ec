"""Orders as functions of a seed and a position."""

from __future__ import annotations

import numpy as np

from caffe_compat.training.data.order import Cursor, draw, permutation, stream


def test_streams_are_told_apart() -> None:
    names = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), (1, 2), (12,), ("1", 2, "")]
    assert len({stream(*words) for words in names}) == len(names)
    assert stream(5, "TRAIN") == stream(5, "TRAIN") < 2**128


def test_draws_are_uniform_and_positions_independent() -> None:
    key = stream("x")
    values = np.array([draw(key, p) for p in range(3000)], np.float64) / 2**64
    assert abs(values.mean() - 0.5) < 0.01
    assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 0.06
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.06
    assert len(np.unique(values)) == values.size


def test_permutations_put_every_item_anywhere() -> None:
    places = np.stack([permutation(stream("p", i), 5) for i in range(500)])
    assert (np.sort(places, axis=1) == np.arange(5)).all()
    counts = np.stack([np.bincount(places[:, column], minlength=5) for column in range(5)])
    assert counts.min() > 60  # of 100 expected
    assert counts.max() < 140


def test_a_list_shorter_than_a_batch() -> None:
    cursor = Cursor(3, 8, start=1)
    assert cursor.samples(0).tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    assert cursor.samples(1).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    shuffled = np.concatenate([Cursor(3, 8, shuffle=stream("s")).samples(k) for k in range(3)])
    assert (np.sort(shuffled.reshape(8, 3), axis=1) == np.arange(3)).all()


def test_ranks_cover_everything_once() -> None:
    for interleaved in (False, True):
        cursors = [Cursor(60, 5, rank=r, world_size=3, interleaved=interleaved) for r in range(3)]
        taken = np.concatenate([c.samples(k) for k in range(4) for c in cursors])
        assert sorted(taken) == list(range(60))


def test_far_positions() -> None:
    cursor = Cursor(1000, 7, shuffle=stream("s"), jump=stream("j"))
    assert cursor.samples(10**12).shape == (7,)
    assert (cursor.samples(10**12) < 1000).all()
