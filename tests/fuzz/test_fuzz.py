"""A number of damaged files of every kind, the same ones each time; ``scripts/fuzz.sh`` goes on from there."""

from __future__ import annotations

import pytest

from tests.fuzz.server import Findings, content_of, run
from tests.fuzz.targets import Target, targets

TARGETS = targets()
NAMES = [target.name for target in TARGETS]
# Readers that damage keeps busy until their time is up, or whose process has to begin anew.
FEW = {"cdf": 2, "persons-mat": 3}


def check(found: Findings, count: int) -> None:
    assert found.bad == []
    assert set(found.counts) <= {"accepted", "refused"}
    assert sum(found.counts.values()) == count


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_damaged_files_are_refused_or_sound(target: Target) -> None:
    count = FEW.get(target.name, 12)
    check(run(target, 0, count), count)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_many_damaged_files_are_refused_or_sound(target: Target) -> None:
    count = 10 * FEW.get(target.name, 30)
    check(run(target, 1000, count), count)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_an_input_is_always_the_same(target: Target) -> None:
    assert content_of(target, 7) == content_of(target, 7)
    assert len({content_of(target, number) for number in range(20)}) > 5


def _dies(path: object) -> None:
    import os

    if str(path).endswith("3/a"):
        os.abort()


def _hangs(path: object) -> None:
    while str(path).endswith("2/a"):
        pass


def _raises(path: object) -> None:
    if str(path).endswith("4/a"):
        raise KeyError("of a library")


def _leaves(path: object) -> None:
    from pathlib import Path

    if str(path).endswith("1/a"):
        Path("elsewhere").touch()


@pytest.mark.parametrize(
    ("read", "number", "what"),
    [
        (_dies, 3, "the process ended: SIGABRT"),
        (_hangs, 2, "takes longer than 1 s"),
        (_raises, 4, "KeyError: \"'of a library'\" at ?"),
        (_leaves, 1, "it left files outside its folder"),
    ],
    ids=["dies", "hangs", "raises", "leaves"],
)
def test_what_goes_wrong_is_found(read: object, number: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server itself: the inputs after one that ends the process are run, too."""
    monkeypatch.setattr("tests.fuzz.server.SECONDS", 1.0)
    found = run(Target("planted", "a", read, lambda content, chance: content, [b"x"]), 0, 6)  # type: ignore[arg-type]
    assert found.bad == [("planted", number, what)]
    assert found.counts["accepted"] == 5
