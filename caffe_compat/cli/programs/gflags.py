"""Command lines as gflags, Caffe's library for them, takes them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ...errors import UsageError

__all__ = ["Value", "parse_flags", "text_flag", "whole_flag"]

Value = bool | int | str
T = TypeVar("T")

_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")
# Of its logging library, which have no effect here: the log goes to stderr.
_LOGGING: dict[str, Value] = {
    "logtostderr": False,
    "alsologtostderr": False,
    "colorlogtostderr": False,
    "stderrthreshold": "",
    "minloglevel": "",
    "log_dir": "",
    "v": "",
    "vmodule": "",
}


def parse_flags(words: Sequence[str], defaults: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """Flags by name, and the words that are none, which may stand between them.

    A flag is ``-name=value``, ``--name value``, or for a bool ``-name``, ``-noname``, ``-name=false``; its type is that
    of its default. ``--`` ends the flags.

    >>> parse_flags(["-gray", "--width", "3", "root/", "--noshuffle"], {"gray": False, "width": 0, "shuffle": True})
    ({'gray': True, 'width': 3, 'shuffle': False}, ['root/'])

    Raises:
        UsageError: an unknown flag, or a value that does not fit.
    """
    known = {**_LOGGING, **defaults}
    values, rest, waiting = dict(known), list[str](), list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            rest += waiting
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        given, equals, text = word.lstrip("-").partition("=")
        name = given.replace("-", "_")
        if name.startswith("no") and isinstance(known.get(name[2:]), bool) and not equals:
            values[name[2:]] = False
            continue
        if name not in known:
            raise UsageError(f"unknown command line flag {given!r}; {', '.join(defaults)} are known")
        if isinstance(known[name], bool):
            values[name] = _truth(name, text) if equals else True
            continue
        if not equals:
            if not waiting:
                raise UsageError(f"flag {given!r} is missing its argument")
            text = waiting.pop(0)
        values[name] = _whole(name, text) if isinstance(known[name], int) else text
    return {name: values[name] for name in defaults}, rest


def whole_flag(values: Mapping[str, Value], name: str) -> int:
    """A flag whose default is a number."""
    return _of_type(values[name], int)


def text_flag(values: Mapping[str, Value], name: str) -> str:
    """A flag whose default is a text."""
    return _of_type(values[name], str)


def _of_type(value: Value, kind: type[T]) -> T:
    assert isinstance(value, kind)
    return value


def _truth(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UsageError(f"illegal value {text!r} for the flag {name!r}; true or false was expected")
    return text.lower() in _TRUE


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"illegal value {text!r} for the flag {name!r}; a whole number was expected") from None
