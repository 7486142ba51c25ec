"""What the benchmarks say of times: turns, spreads and verdicts."""

from __future__ import annotations

import sys

import peers
import pytest
from classics import CLASSICS
from peers import Peer, Spread, by_turns, runtimes_of
from table import Case, cases


def test_runs_go_by_turns_and_each_begins_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PAUSE", 0.0)
    ran: list[str] = []

    def own_time() -> float:
        ran.append("b")
        return 7.0

    took = by_turns({"a": lambda: ran.append("a"), "b": own_time}, 0.0, (2, 9))
    assert "".join(ran) == "abbaab"  # the first round warms up, and two are the least
    assert took["b"] == [7.0, 7.0]
    assert len(took["a"]) == 2


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([1.0, 1.1, 1.2, 1.3, 1.4], "ok"), ([0.9, 0.9, 0.9, 1.1, 1.1], "near"), ([0.5, 0.6, 0.7, 0.8, 2.0], "MISS")],
)
def test_a_target_within_the_spread_is_no_miss(values: list[float], verdict: str) -> None:
    assert Spread.of(values).reaches(1.0) == verdict


def test_half_of_the_values_lie_within_the_spread() -> None:
    assert str(Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])) == "3.00 (2.00 to 4.00)"


def test_a_peer_answers_and_one_that_ends_is_said() -> None:
    code = "print(0.5, flush=True)\nassert input() == 'memory'\nprint(3)"
    with Peer("it", [sys.executable, "-c", code]) as peer:
        assert (peer.loaded, peer.ask("memory")) == (0.5, 3.0)
        with pytest.raises(SystemExit, match="it ended with 0"):
            peer.run()


def test_a_python_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match="--peers no-such-python: "):
        runtimes_of("no-such-python")


def test_what_is_measured() -> None:
    assert [case.network for case in cases()] == list(CLASSICS)
    assert list(cases(("fcn",), full=True)) == [Case("fcn", 250), Case("fcn", 500), Case("fcn", 250, 16)]
    assert {case.target for case in cases(("vgg16", "googlenet"))} == {1.0, 1.15}
