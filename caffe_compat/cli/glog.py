"""Lines as glog, the logging library of Caffe, writes them. It needs no torch."""

from __future__ import annotations

import datetime
import sys
import threading
from contextlib import suppress

from ..display import shown

__all__ = ["glog_prefix", "log"]


def glog_prefix(severity: str, place: str, now: datetime.datetime | None = None) -> str:
    """``I1123 06:19:00.123456 12345 solver.cpp:239] ``: what glog writes before each line."""
    now = now or datetime.datetime.now()
    return f"{severity}{now:%m%d %H:%M:%S.%f} {threading.get_native_id():5d} {place}] "


def log(text: str, place: str, severity: str = "I") -> None:
    """A line on stderr. One that cannot be written is lost: the work goes on."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(glog_prefix(severity, place) + shown(text) + "\n")
        sys.stderr.flush()
