"""What the three programs that bring files to the current generation have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import CaffeCompatError
from ...schema.upgrade import Upgraded
from ..glog import log
from .common import usage

__all__ = ["upgraded_file"]


def upgraded_file(
    name: str, words: list[str], upgrade: Callable[[str, str], Upgraded[Any]], message: str, kind: str
) -> int:
    """Run ``upgrade`` on the two files, with the log and the statuses of Caffe's programs: 2 for a file it cannot read.

    Args:
        message: what the file holds, NetParameter or SolverParameter. kind: text or binary.
    """
    if len(words) != 2:
        return usage(f"{name} old_file_in new_file_out")
    place = f"{name}.cpp"
    try:
        upgraded = upgrade(words[0], words[1])
    except CaffeCompatError as error:
        log(f"Failed to parse input {kind} file as {message}: {words[0]}: {error}", f"{place}:30", "E")
        return 2
    for text in upgraded.notes:
        log(text, f"{place}:36")
    if not upgraded.changed:
        log(f"File already in latest proto format: {words[0]}", f"{place}:43", "E")
    log(f"Wrote upgraded {message} {kind} proto to {words[1]}", f"{place}:49")
    return 0
