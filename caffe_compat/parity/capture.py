"""The script that records reference outputs where an old Caffe still runs.

The script is a file of its own beside this package, because it leaves this package behind: it runs under Python 2.7 to
3.x with nothing but the user's pycaffe, numpy and h5py. Its first lines say how to use it and what it writes.
"""

from __future__ import annotations

from importlib import resources

from ..errors import UsageError

__all__ = ["capture_script"]


def capture_script(sample: int | None = None) -> str:
    """Text of the self-contained capture script, ready to be written to a ``.py`` file.

    Example:
        >>> capture_script().splitlines()[0]
        '#!/usr/bin/env python'

    Args:
        sample: what its option ``--sample`` is without being given: how many values it records of a blob at most.

    Raises:
        UsageError: ``sample`` is less than 1.
    """
    text = (resources.files("caffe_compat") / "resources" / "capture_reference.py").read_text(encoding="utf-8")
    if sample is None:
        return text
    if sample < 1:
        raise UsageError(f"--sample {sample}: at least one value was expected")
    return text.replace("\nSAMPLE = None ", f"\nSAMPLE = {sample} ", 1)
