"""Which states and dialects a survey tries, and what it says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_compat.network.graph import NetState
from caffe_compat.reports import survey as module
from caffe_compat.reports.survey import BUILT, KNOWN, FileResult, survey, survey_file
from caffe_compat.reports.survey_states import MAX_TRIED, combined_states, plain_states
from caffe_compat.schema.prototxt import parse_message

INPUT = 'layer { name: "data" type: "Input" top: "data" %s input_param { shape { dim: 2 dim: 3 } } }\n'
SIGMOID = 'layer { name: "%s" type: "Sigmoid" bottom: "%s" top: "%s" %s }\n'
ALWAYS = SIGMOID % ("last", "s", "last", "")


def included(*rules: str) -> str:
    return " ".join(f"include {{ {rule} }}" for rule in rules)


def check(tmp_path: Path, text: str) -> FileResult:
    (tmp_path / "net.prototxt").write_text(text)
    return survey_file(tmp_path, "net.prototxt")


@pytest.mark.parametrize(
    ("data", "sigmoid", "state"),
    [
        ('phase: TRAIN stage: "small"', 'stage: "small"', "TRAIN small"),
        ('stage: "a" stage: "b"', 'stage: "b"', "TEST a b"),
        ('stage: "a" stage: "b" stage: "c"', 'stage: "a"', "TEST a b c"),
        ("min_level: 3", "max_level: 4", "TEST level 3"),
        ('min_level: 3 stage: "a" phase: TRAIN', 'stage: "a"', "TRAIN a level 3"),
    ],
)
def test_states_together(tmp_path: Path, data: str, sigmoid: str, state: str) -> None:
    found = check(tmp_path, INPUT % included(data) + SIGMOID % ("s", "data", "s", included(sigmoid)) + ALWAYS)
    assert (found.reached, found.state) == (BUILT, state)


def test_a_state_that_selects_no_other_layers_is_not_tried() -> None:
    rules = [included('stage: "a"', 'stage: "b" stage: "a"'), included('not_stage: "a"')]
    net = parse_message(INPUT % rules[0] + SIGMOID % ("s", "data", "s", rules[1])).message
    assert list(plain_states(net)) == [
        NetState("TEST"),
        NetState("TRAIN"),
        NetState("TEST", stages=("a",)),
        NetState("TEST", stages=("b",)),
    ]
    assert list(combined_states(net)) == [NetState("TRAIN", stages=("a",))]


def test_no_more_than_so_many_are_tried() -> None:
    layers = [SIGMOID % (f"s{i}", "data", f"s{i}", included(f'stage: "{i}" min_level: {i}')) for i in range(40)]
    net = parse_message(INPUT % "" + "".join(layers)).message
    states = list(combined_states(net))
    assert len(states) == MAX_TRIED
    assert len(set(states)) == MAX_TRIED


def test_rules_that_caffe_refuses_end_no_survey(tmp_path: Path) -> None:
    both = f"{included('stage: {0}a{0}'.format(chr(34)))} exclude {{ phase: TRAIN }}"
    found = check(tmp_path, INPUT % both)
    assert "include and exclude rules" in found.detail


IN_DOUBT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 8 dim: 1 dim: 4 } } }
layer { name: "lstm" type: "Lstm" bottom: "data" top: "lstm" lstm_param { num_output: %d } }
"""


@pytest.mark.slow
def test_one_of_the_forks_that_fit(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(IN_DOUBT % 3)
    found = survey(tmp_path)
    assert found.results[0].reached == BUILT
    assert found.results[0].dialect == "junhyukoh/caffe-lstm"
    assert found.counts()["built_with_dialect"] == 1


def test_forks_that_do_not_build_it_settle_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(tmp_path, IN_DOUBT % 0)
    assert (found.reached, found.dialect) == (KNOWN, "")
    assert "several forks of Caffe fit the file" in found.detail
    monkeypatch.setattr(module, "MAX_DIALECTS", 0)
    assert check(tmp_path, IN_DOUBT % 3).reached == KNOWN
