"""Runs commands in one process with little memory, and tells what became of each: the other half of test_hostile.py.

Reads a JSON list of ``{"name", "arguments", "folder"}`` from stdin and writes one JSON object per job: the exit status,
what went to stderr, the seconds, files that appeared in ``folder``, and every file that was opened. A job that takes
longer than ``argv[1]`` seconds is cut off.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from caffe_compat import cli

# Above what the process holds once everything is imported.
SPARE_BYTES = 2 * 2**30

_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


class _TooSlow(BaseException):
    pass


def _cut_off(number: int, frame: Any) -> None:
    raise _TooSlow


def _limit_memory() -> None:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    held = int(fields["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + SPARE_BYTES, held + SPARE_BYTES))


def _run(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    global _watching
    before = set(os.listdir(job["folder"]))
    out, err = io.StringIO(), io.StringIO()
    status: Any
    started = time.perf_counter()
    _opened.clear()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        _watching = True
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(job["arguments"])
        status = "returned"
    except SystemExit as leaving:
        status = leaving.code
    except _TooSlow:
        status = "too slow"
    except BaseException:
        status = "traceback"
        err.write(traceback.format_exc())
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {
        "name": job["name"],
        "status": status,
        "stderr": err.getvalue(),
        "stdout": out.getvalue()[-2000:],
        "seconds": time.perf_counter() - started,
        "appeared": sorted(set(os.listdir(job["folder"])) - before),
        "opened": list(dict.fromkeys(_opened)),
    }


def main() -> None:
    for command in ("convert", "inspect", "run", "verify", "upgrade"):
        cli._group.get_command(None, command)  # type: ignore[arg-type]  # imports it
    sys.addaudithook(_watch)
    signal.signal(signal.SIGALRM, _cut_off)
    _limit_memory()
    for job in json.load(sys.stdin):
        print(json.dumps(_run(job, float(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
