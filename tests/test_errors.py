"""Errors are data that formats itself."""

from __future__ import annotations

import copy
import doctest
import pickle
import warnings

import pytest

from caffe_compat import display, errors
from caffe_compat.errors import (
    CaffeCompatError,
    CaffeCompatWarning,
    FileError,
    LayerError,
    NetworkError,
    PrototxtError,
    UnknownLayerError,
    UsageError,
    WireError,
    located,
)
from caffe_compat.pycaffe.io import ImageFileError

KINDS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
NASTY = "a\x1b[2J\x1b]0;pwn\x07\nERROR: all fine\r\x9b"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UsageError("odd"), "odd"),
        (FileError("is empty", path="a.npy"), "a.npy: is empty"),
        (PrototxtError("odd", path="a", line=3, column=7), "a: line 3, column 7: odd"),
        (FileError("odd", path="a", line=3), "a: line 3: odd"),
        (FileError("odd", path="a", place="record 3"), "a: record 3: odd"),
        (WireError("cut", path="a", offset=0), "a: cut (at byte 0)"),
        (LayerError("odd", layer="l"), "layer 'l': odd"),
        (LayerError("odd", layer=""), "layer '': odd"),
        (LayerError("odd", path="n", layer="l", type="T"), "n: layer 'l' (T): odd"),
        (LayerError("odd", layer="l", type="T", blob="weight"), "layer 'l' (T), blob weight: odd"),
        (NetworkError("odd", layer="l", blob="weight", index=0), "layer 'l', blob 0 (weight): odd"),
        (NetworkError("odd", layer="l", index=0), "layer 'l', blob 0: odd"),
        (NetworkError("odd", blob="x"), "blob x: odd"),
        (UnknownLayerError("no layer type 'T'", layer="l", type="T"), "layer 'l': no layer type 'T'"),
    ],
)
def test_an_error_says_where_and_what(error: CaffeCompatError, text: str) -> None:
    assert str(error) == text


def test_context_fills_only_what_is_empty() -> None:
    error = LayerError("odd", layer="own")
    assert error.within(path="a", layer="other", line=None) is error
    assert error.within(path="b", offset=0) is error
    assert (error.path, error.layer, error.offset, error.line) == ("a", "own", 0, None)
    with pytest.raises(TypeError, match="LayerError has no context 'lyaer'"):
        error.within(lyaer="l")
    with pytest.raises(TypeError, match="no context 'detail'"):
        error.within(detail="other")


def test_what_passes_a_place_knows_it() -> None:
    cause = ValueError("inner")
    with pytest.raises(LayerError) as raised, located(path="net.prototxt", layer="l"):
        raise LayerError("odd") from cause
    assert str(raised.value) == "net.prototxt: layer 'l': odd"
    assert raised.value.__cause__ is cause
    with pytest.raises(KeyError), located(path="a"):
        raise KeyError("not ours")


@pytest.mark.parametrize("kind", [*KINDS, ImageFileError])
def test_copies_and_pickles_keep_everything(kind: type[CaffeCompatError]) -> None:
    error = kind("odd", path="p", line=1, column=2, offset=3, place="frame 4", layer="l", type="T", blob="b", index=5)
    error.within(found=(1, 2), expected=(3,))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert str(again) == str(error)
        assert again.args == ("odd",)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_is_drawn(kind: type[CaffeCompatError]) -> None:
    assert issubclass(kind, CaffeCompatError)
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_reaches_a_terminal_raw(kind: type[CaffeCompatError]) -> None:
    error = kind(f"about {NASTY}", path=NASTY, place=NASTY, layer=NASTY, type=NASTY, blob=NASTY)
    assert str(error).isprintable()
    assert error.path == error.layer == error.blob == NASTY


def test_warnings_are_shown_safely() -> None:
    """By Python's own display of warnings, too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(f"layer {NASTY}", CaffeCompatWarning, stacklevel=1)
    line = warnings.formatwarning(caught[0].message, CaffeCompatWarning, "f.py", 1, "")
    assert line.rstrip("\n").isprintable()
    assert r"layer a\x1b[2J\x1b]0;pwn\x07\nERROR" in line


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("conv1/3x3 (ReLU) äöü 図 é", "conv1/3x3 (ReLU) äöü 図 é"),
        ("\x1b[2J\x07\r\n\t\x9b\x00\x7f", r"\x1b[2J\x07\r\n\t\x9b\x00\x7f"),
        ("a\u202eb\u2066c\u200bd\ufeffe\u2028f\u00a0g", r"a\u202eb\u2066c\u200bd\ufeffe\u2028f\xa0g"),
        ("\u3164\u115f\u034f\ufe0f\U000e0041", r"\u3164\u115f\u034f\ufe0f\U000e0041"),
        ("\udcff", r"\udcff"),
        ("back\\slash \\n", "back\\slash \\n"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, seen: str) -> None:
    assert display.shown(text) == seen
    assert display.shown(seen) == seen


@pytest.mark.parametrize("module", [display, errors])
def test_examples_run(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
