"""The script that records reference outputs where an old Caffe still runs.

The script is a file of its own beside this package, because it leaves this package behind: it runs under Python 2.7 to
3.x with nothing but the user's pycaffe, numpy and h5py. Its first lines say how to use it and what it writes.
"""

from __future__ import annotations

from importlib import resources

__all__ = ["capture_script"]


def capture_script() -> str:
    """Text of the self-contained capture script, ready to be written to a ``.py`` file.

    Example:
        >>> capture_script().splitlines()[0]
        '#!/usr/bin/env python'
    """
    return (resources.files("caffe_compat") / "resources" / "capture_reference.py").read_text(encoding="utf-8")
