"""Readers in another process: what comes back, what becomes of one that dies, hangs or eats memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.guarded import guarded

ROOT = Path(__file__).parents[2]


def values(path: str, n: int) -> dict[str, Any]:
    print("what a library says must not get among the answers")
    shapes = [(n, 2), (0, 3), ()]
    return {
        "path": path,
        "arrays": [np.arange(np.prod(shape), dtype=kind).reshape(shape) for shape in shapes for kind in "fbd"],
        "transposed": np.arange(6).reshape(2, 3).T,
        "rest": [None, True, 1.5, np.float32(0.5), "é\0", {"a": (1, 2)}],
    }


def who(path: str) -> int:
    return os.getpid()


def fail(path: str, what: str) -> None:
    if what == "damage":
        raise FileError("is damaged", path=path, place="record 3")
    if what == "surprise":
        raise ZeroDivisionError("of a library")
    if what == "hang":
        time.sleep(100)
    if what == "busy":
        while True:
            pass
    if what == "memory":
        bytearray(2**40)
    if what == "exit":
        os._exit(3)
    if what == "nonsense":
        for number in range(3, 10):  # one of them goes back
            with contextlib.suppress(OSError):
                os.write(number, b"x" * 100)
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, what))


def test_what_comes_back() -> None:
    found, expected = guarded(values, "a", 2), values("a", 2)
    assert (found["path"], found["rest"]) == (os.path.abspath("a"), [None, True, 1.5, 0.5, "é\0", {"a": [1, 2]}])
    pairs = zip(found["arrays"], expected["arrays"], strict=True)
    for a, b in [*pairs, (found["transposed"], expected["transposed"])]:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def test_one_process_serves_until_it_dies() -> None:
    first = guarded(who, "a")
    assert first != os.getpid()
    assert guarded(who, "b") == first
    with pytest.raises(FileError):
        guarded(fail, "c", "SIGKILL")
    assert guarded(who, "d") not in (first, os.getpid())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("damage", "f.x: record 3: is damaged"),
        ("surprise", "f.x: cannot be read: ZeroDivisionError: of a library"),
        ("hang", "f.x: takes longer than 1 s to read"),
        ("busy", "f.x: takes longer than 1 s to read"),
        ("memory", "f.x: needs more memory than the 2,147,483,648 bytes that a reader may take"),
        ("exit", "f.x: cannot be read: its reader ended"),
        ("nonsense", "f.x: cannot be read: its reader ended"),
        ("SIGSEGV", "f.x: cannot be read: SIGSEGV ended its reader"),
        ("SIGBUS", "f.x: cannot be read: SIGBUS ended its reader"),
    ],
)
def test_failures_are_errors_of_the_file(what: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFE_COMPAT_MAX_READER_SECONDS", "1")
    with pytest.raises(FileError) as caught:
        guarded(fail, "f.x", what)
    assert str(caught.value).startswith(message)
    assert guarded(who, "good") != os.getpid()


def test_a_relative_path_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(who, "a")
    monkeypatch.chdir(tmp_path)
    assert guarded(values, "a", 1)["path"] == str(tmp_path / "a")
    with pytest.raises(FileError, match=r"^a: record 3: is damaged$"):
        guarded(fail, "a", "damage")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon", "1e9"])
def test_a_limit_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFE_COMPAT_MAX_READER_SECONDS", text)
    with pytest.raises(UsageError, match="a number of seconds was expected"):
        guarded(who, "a")


def test_a_forked_process_has_a_reader_of_its_own() -> None:
    ours = guarded(who, "a")
    back, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(there, str(guarded(who, "a")).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(back, 100)) != ours
    assert guarded(who, "a") == ours
    os.close(back)
    os.close(there)


@pytest.mark.slow
def test_none_is_left_behind() -> None:
    """Neither by a program that ends, nor, after its time, by one that was killed while its reader was busy."""
    code = (
        "import os, sys; from caffe_compat.formats.guarded import guarded; from tests.formats.test_guarded import *\n"
        "print(guarded(who, 'a'), flush=True)\n"
        "if sys.argv[1] == 'killed':\n"
        "    import threading; threading.Timer(0.3, os._exit, [0]).start(); guarded(fail, 'a', 'busy')\n"
    )
    for way in ("ended", "killed"):
        done = subprocess.run(
            [sys.executable, "-c", code, way],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"CAFFE_COMPAT_MAX_READER_SECONDS": "0.5"},
        )
        reader = Path("/proc", done.stdout.strip())
        deadline = time.monotonic() + 60
        while reader.exists() and (reader / "stat").read_text().split()[2] != "Z" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not reader.exists() or (reader / "stat").read_text().split()[2] == "Z"
