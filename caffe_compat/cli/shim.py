"""``caffe-compat shim``: Caffe's programs for the scripts that call them. It needs no torch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import FileError, UsageError
from ..formats.files import atomic_write, reason_of
from .options import say
from .programs import PROGRAMS

__all__ = ["shim"]

_MARK = "caffe-compat shim"
# To sh, the second line starts Python on this very file; to Python, it is a string. No limit on the length of the path.
# A script may also say "python parse_log.py" and mean any Python, which then hands over to the right one.
_SHIM = """#!/bin/sh
'exec' '{python}' "$0" "$@"
# {mark}: one of Caffe's programs, run by PyTorch
import os
import sys

if sys.prefix != {prefix!r}:
    os.execv({python!r}, [{python!r}] + sys.argv)
sys.path.append({package!r})

from caffe_compat.cli import program

program({name!r}, sys.argv[1:])
"""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False))
def shim(folder: str) -> None:
    """Put Caffe's programs into FOLDER, run by this installation, for scripts that call Caffe's own.

    For a script that calls ../../build/tools/caffe: caffe-compat shim ../../build/tools
    """
    paths = {Path(folder) / name: name for name in ("caffe", *PROGRAMS)}
    for path in paths:
        if (path.exists() or path.is_symlink()) and not _is_ours(path):
            raise UsageError(f"{path} is there already, and is another program; remove it first")
    if "'" in sys.executable or "\\" in sys.executable:
        raise UsageError(f"the path of Python, {sys.executable}, has a character that the script cannot quote")
    package = str(Path(__file__).parents[2])
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, name in paths.items():
            text = _SHIM.format(python=sys.executable, mark=_MARK, prefix=sys.prefix, package=package, name=name)
            with atomic_write(path) as file:
                file.write(text.encode())
            path.chmod(0o755)
    except OSError as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=folder) from error
    say(f"in {folder}, run by {sys.executable}: {', '.join(paths.values())}")


def _is_ours(path: Path) -> bool:
    try:
        return _MARK.encode() in path.read_bytes()[:4096]
    except OSError:
        return False
