"""The reader of ``param_str`` and of configurations."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.settings import read_settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("# nothing\n\n", None),
        ("---\na: 1", {"a": 1}),
        ("'feat_stride': 4,8,16", {"feat_stride": "4,8,16"}),
        ("{'phase': 'TRAIN', 'p': '0.1'}", {"phase": "TRAIN", "p": "0.1"}),
        ('{"a": true, "b": null, "c": [1, -2.5e-3, .5]}', {"a": True, "b": None, "c": [1, -0.0025, 0.5]}),
        ("{a: (1,), b: (2), c: (), d: [1, 2,]}", {"a": (1,), "b": 2, "c": (), "d": [1, 2]}),
        ("{'path': 'it''s', \"tab\": \"a\\tb\"}", {"path": "it's", "tab": "a\tb"}),
        ("{path: C:/x, url: http://a/b}", {"path": "C:/x", "url": "http://a/b"}),
        ("url: http://a/b#c # a comment", {"url": "http://a/b#c"}),
        ("a: 'x # y'  # z", {"a": "x # y"}),
        ("a: it's\nb: yes", {"a": "it's", "b": True}),
        ("a:\n  b: 1\n  c:\n  - 1\n  -\n    d: 2\nf:", {"a": {"b": 1, "c": [1, {"d": 2}]}, "f": None}),
        ("- 1\n- two\n-\n  - 3", [1, "two", [3]]),
        ("a: [1,\n    2]\nb: {c:\n 3}", {"a": [1, 2], "b": {"c": 3}}),
        ("16", 16),
        ("a: 1_000\nb: +3\nc: -.inf", {"a": 1000, "b": 3, "c": -math.inf}),
        ("a: {}\nb: off", {"a": {}, "b": False}),
    ],
)
def test_what_is_read(text: str, expected: Any) -> None:
    assert read_settings(text) == expected


def test_json_is_read_as_json() -> None:
    told = {"feat_stride": 16, "cfg": {"TRAIN.SCALES": [600, 800], "x": {"y": None, "z": 'a "b"'}}, "é": [[], {}]}
    for text in (json.dumps(told), json.dumps(told, indent=2), json.dumps(told, ensure_ascii=False)):
        assert read_settings(text) == told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x 1", "line 1: '&' begins what is not read here"),
        ("a: 1\nb: *x", "line 2: '\\*' begins"),
        ("a: |\n  text", "line 1: '\\|' begins"),
        ("a: !!python/object:os.system [x]", "'!' begins"),
        ("a: !!python/tuple 3", "stands before a list"),
        ("{a: 1", "a bracket stays open"),
        ("a: 010", "010 is another number in YAML"),
        ("a: 1\na: 2", "line 2: says 'a' a second time"),
        ("{a: 1, a: 2}", "says 'a' twice"),
        ("{[1]: 2}", "\\[1\\] cannot be a key"),
        ("a: 1\n   b: 2", "line 2: is indented more"),
        ("  a: 1\nb: 2", "line 2: is indented less"),
        ("a: 1\nb", "line 2: is no 'key: value'"),
        ("- d: 2", "a mapping was not expected here"),
        ("\ta: 1", "indented with a tab"),
        ("{a 1}", "'a 1' has no value"),
        ("{a: 1} x", "stands behind a value"),
        ("[1 2, (3]]", "a comma or \\) was expected"),
        ("a: 'x", "does not end"),
        ('a: "\\q"', "has an escape that is not known"),
        ("[" * 30 + "1" + "]" * 30, "more than 20 levels"),
        ("\n".join(" " * i + "a:" for i in range(30)), "more than 20 levels"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(FileError, match=f"net.yml: .*{problem}"):
        read_settings(text, "net.yml")
