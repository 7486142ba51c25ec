"""``python -m caffe_compat.pycaffe script.py arguments ...``: run a script; its ``import caffe`` means this package."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ..display import shown_lines
from ..errors import CaffeCompatError, FileError
from ..formats.files import open_file
from .install import install

__all__ = ["main"]

# What a Python 3 says to a script for Python 2, and what to write instead.
_OLD_SYNTAX = (
    (r"Missing parentheses in call to 'print'|^\s*print\s+[^\s(=.,)]", "print is a function: print(x)"),
    (r"^\s*except\s+[\w.]+\s*,\s*\w+\s*:|multiple exception types must be", "write `except Error as e:`"),
    (r"Missing parentheses in call to 'exec'|^\s*exec\s+['\"\w]", "exec is a function: exec(code)"),
    (r"^\s*raise\s+[\w.]+\s*,", "write `raise Error(message)`"),
    (r"<>", "write `!=`"),
    (r"`", "write `repr(x)` instead of backquotes"),
    (
        r"leading zeros in decimal|invalid decimal literal|\b0[0-7]+\b",
        "write octal numbers as 0o17, and no L",
    ),
    (r"inconsistent use of tabs", "indent with spaces or tabs, not with both"),
    (r"invalid string prefix|\bur['\"]", "write u'...' or r'...'"),
)
_OLD_NAMES = {
    "xrange": "range",
    "raw_input": "input",
    "unicode": "str",
    "basestring": "str",
    "long": "int",
    "reduce": "functools.reduce",
    "file": "open",
    "execfile": "runpy.run_path",
    "unichr": "chr",
    "cmp": "(a > b) - (a < b)",
    "reload": "importlib.reload",
    "izip": "zip",
}
_OLD_METHODS = {
    "iteritems": "items",
    "itervalues": "values",
    "iterkeys": "keys",
    "has_key": "`key in d`",
    "tostring": "tobytes",
    "next": "next(x)",
}
_OLD_MODULES = {
    "cPickle": "pickle",
    "cStringIO": "io",
    "StringIO": "io",
    "urllib2": "urllib.request",
    "Queue": "queue",
    "ConfigParser": "configparser",
    "commands": "subprocess",
    "exceptions": "builtins",
    "Tkinter": "tkinter",
    "skimage": "an installed scikit-image (pip install scikit-image)",
}
_LAZY = r"'(?:o?dict_(?:keys|values|items)|map|zip|filter|range)'"
_AS_LIST = "in Python 3 dict.keys(), map, zip, filter and range give no lists; write list(...) around it"
_DIVISION = "in Python 3 a / b is a float even between integers; write a // b"
# What a Python 3 says where values are not what they were, and what to write instead.
_OLD_VALUES = (
    (rf"{_LAZY} object is not subscriptable", _AS_LIST),
    (rf"unsupported operand type\(s\) for \+: (?:{_LAZY}|'list' and {_LAZY})", _AS_LIST),
    (r"can only concatenate list \(not \"(?:map|zip|filter|range|o?dict_\w+)\"", _AS_LIST),
    (rf"{_LAZY} object has no attribute '(?:sort|index|append|reverse|pop|remove|extend|insert)'", _AS_LIST),
    (r"'(?:map|zip|filter)' has no len\(\)|object of type '(?:map|zip|filter)' has no len", _AS_LIST),
    (r"'float' object cannot be interpreted as an integer", _DIVISION),
    (r"indices must be integers or (?:slices, not float|None)|only integers, slices .* are valid indices", _DIVISION),
    (
        r"a bytes-like object is required, not 'str'|must be str, not bytes|string pattern on a bytes-like object|"
        r"can't concat str to bytes|can only concatenate str \(not \"bytes\"\) to str",
        "text and bytes are two types in Python 3; open binary files with 'rb' or 'wb', and write b'...' for bytes",
    ),
    (
        r"codec can't decode byte",
        "in Python 3 binary files are opened with 'rb', and a pickle of Python 2 is read with pickle.load(file, "
        "encoding='latin1')",
    ),
    (
        r"load\(\) missing 1 required positional argument: 'Loader'",
        "yaml.load(text) became yaml.safe_load(text) in PyYAML 6",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a script; the exit status: 2 where it cannot run, 1 where it failed."""
    parser = argparse.ArgumentParser(prog="python -m caffe_compat.pycaffe", description=__doc__)
    parser.add_argument(
        "--allow-python-layers",
        action="store_true",
        help="let networks import modules for their Python layers, which runs the code in them",
    )
    parser.add_argument(
        "--dialect", metavar="NAME", help="the fork of Caffe that the script is for, or the path of its caffe.proto"
    )
    parser.add_argument("script", help="a Python script that imports caffe")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    given = parser.parse_args(arguments)
    try:
        code = _read(given.script)
        install(allow_python_layers=given.allow_python_layers, dialect=given.dialect)
    except CaffeCompatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        compile(code, given.script, "exec")
    except (SyntaxError, ValueError) as error:
        print(shown_lines(f"error: {_syntax_message(error, given.script, code)}"), file=sys.stderr)
        return 2
    sys.argv = [given.script, *given.arguments]
    sys.path.insert(0, str(Path(given.script).resolve().parent))
    try:
        runpy.run_path(given.script, run_name="__main__")
    except Exception as error:
        traceback.print_exc()
        hint = _hint(error)
        if hint:
            print(shown_lines(f"hint: {hint}"), file=sys.stderr)
        return 1
    return 0


def _read(script: str) -> bytes:
    with open_file(script) as file:
        try:
            return file.read()
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}", path=script) from error


def _syntax_message(error: SyntaxError | ValueError, script: str, code: bytes) -> str:
    """What is wrong, and if it is Python 2, what to write instead."""
    line = getattr(error, "lineno", None) or 0
    lines = code.decode("utf-8", "replace").splitlines()
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    said = getattr(error, "msg", None) or str(error)
    place = f"{script}, line {line}: {said}" if line else f"{script}: {said}"
    for pattern, advice in _OLD_SYNTAX:
        if re.search(pattern, said) or re.search(pattern, text):
            return (
                f"{place}\n    {text.strip()}\nThis is Python 2, which ended in 2020. In Python 3 {advice}. The tool "
                f"2to3 (of Python up to 3.12) rewrites a whole script: 2to3 -w {script}"
            )
    return f"{place}\n    {text.strip()}"


def _hint(error: BaseException) -> str | None:
    """What to write where a name of Python 2 is missing in Python 3."""
    name = str(getattr(error, "name", None) or "")
    if isinstance(error, NameError) and not name:
        found = re.search(r"name '(\w+)'", str(error))
        name = found[1] if found else ""
    table = {}
    if isinstance(error, ModuleNotFoundError) and name.startswith("caffe."):
        return (
            f"{name} is no module of BVLC's pycaffe; if it is one of the fork's, put the folder python of the fork's "
            "checkout on PYTHONPATH"
        )
    if isinstance(error, ModuleNotFoundError):
        table = _OLD_MODULES
    elif isinstance(error, NameError):
        table = _OLD_NAMES
    elif isinstance(error, AttributeError):
        table = _OLD_METHODS
        found = re.search(r"attribute '(\w+)'", str(error))
        name = name or (found[1] if found else "")
    if name not in table:
        return next((advice for pattern, advice in _OLD_VALUES if re.search(pattern, str(error))), None)
    if name == "skimage":
        return "caffe.io here needs no scikit-image; the script imports it itself: pip install scikit-image"
    return f"{name} is Python 2; in Python 3 it is {table[name]}"


if __name__ == "__main__":
    sys.exit(main())
