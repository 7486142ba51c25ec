"""A number of damaged files of every kind, the same ones each time; ``scripts/fuzz.sh`` goes on from there."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from caffe_compat.errors import FileError
from tests.fuzz.fence import BAIT
from tests.fuzz.server import Findings, content_of, run
from tests.fuzz.target import ROOT
from tests.fuzz.targets import Target, targets

TARGETS = targets()
NAMES = [target.name for target in TARGETS]
# Readers that damage keeps busy until their time is up, or whose process has to begin anew; formats whose files run in
# a process of their own, or with much to import.
FEW = {"cdf": 2, "persons-mat": 3, "write-pt2": 1, "write-python": 1, "write-openvino": 2, "cases": 2}
LONG = ("write-pt2", "write-python", "cases")


def check(found: Findings, count: int) -> None:
    assert found.bad == []
    assert set(found.counts) <= {"accepted", "refused"}
    assert sum(found.counts.values()) == count


@pytest.mark.parametrize(
    "target", [pytest.param(t, id=t.name, marks=[pytest.mark.slow] if t.name in LONG else []) for t in TARGETS]
)
def test_damaged_files_are_refused_or_sound(target: Target) -> None:
    count = FEW.get(target.name, 12)
    check(run(target, 0, count), count)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_many_damaged_files_are_refused_or_sound(target: Target) -> None:
    count = 10 * FEW.get(target.name, 30)
    check(run(target, 1000, count), count)


# Files that hurt once are all there is of these.
HURT = ("cdf", "persons-mat", "reference-bytes")


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(t, id=t.name, marks=[pytest.mark.slow] if t.name in LONG else [])
        for t in TARGETS
        if t.name not in HURT
    ],
)
def test_what_is_damaged_is_accepted_as_it_was(target: Target) -> None:
    """Else damage would only ever be refused for what was wrong before."""
    alone = [replace(target, mutate=lambda content, chance: content, seeds=[seed]) for seed in target.seeds]
    # One in four inputs has bytes damaged all the same.
    assert any(run(one, first, 2).counts["accepted"] for first in (0, 2, 4) for one in alone)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_an_input_is_always_the_same(target: Target) -> None:
    assert content_of(target, 7) == content_of(target, 7)
    assert len({content_of(target, number) for number in range(20)}) > 5


# The server itself


def _planted(read: Callable[[Path], object]) -> Findings:
    """Six inputs, of which the third does what ``read`` does."""

    def third(path: Path) -> None:
        if path.parent.name == "2":
            read(path)

    found = run(Target("planted", "a", third, lambda content, chance: content, [b"x"], seconds=1.0), 0, 6)
    assert found.counts["accepted"] == 6 - len(found.bad), "the inputs after it are run, too"
    return found


def _hangs(path: Path) -> None:
    while True:
        pass


def _raises(path: Path) -> None:
    raise KeyError("of a library")


def _reads_natively(path: Path) -> None:
    cv2.imread(BAIT)


def _unpickles(path: Path) -> None:
    pickle.loads(pickle.dumps(Path))


class _ForgingError(FileError):
    def __str__(self) -> str:
        return "a\nb"


def _forges(path: Path) -> None:
    raise _ForgingError("which the library's own errors escape")


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda path: os.abort(), "the process ended: SIGABRT"),
        (_hangs, "takes longer than 1 s"),
        (_raises, "KeyError: \"'of a library'\" at ?"),
        (_forges, "the error has 3 letters in several lines"),
        (lambda path: Path("somewhere").touch(), "it left files outside its folder: .*/elsewhere/somewhere"),
        (lambda path: tempfile.mkstemp(), "it left files outside its folder: .*/tmp/"),
        (lambda path: Path("/etc/hostname").read_bytes(), "outside its folder: read '/etc/hostname'"),
        (lambda path: Path("somewhere").unlink(missing_ok=True), "outside its folder: os.remove '.*/elsewhere/some"),
        (lambda path: os.system("true"), "outside its folder: os.system"),
        (_reads_natively, f"outside its folder: native code opened {BAIT}"),
        (_unpickles, r"outside its folder: pickle.find_class \('pathlib', 'Path'\)"),
    ],
    ids=[
        "dies",
        "hangs",
        "raises",
        "lines",
        "leaves",
        "forgets",
        "reads",
        "removes",
        "starts",
        "natively",
        "unpickles",
    ],
)
def test_what_goes_wrong_is_found(read: Callable[[Path], object], what: str) -> None:
    ((name, number, said),) = _planted(read).bad
    assert (name, number) == ("planted", 2)
    assert re.match(what, said) or said == what


def test_what_is_allowed() -> None:
    def allowed(path: Path) -> None:
        path.with_name("b").write_bytes(path.read_bytes())
        path.with_name("b").rename(path.with_name("c"))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "d").touch()
        Path(__file__).read_bytes()

    assert _planted(allowed).bad == []


ATHERIS = """
import contextlib
import random
asked = {}
def instrument_imports(include):
    asked["include"] = include
    return contextlib.nullcontext()
def Setup(arguments, one, custom_mutator):
    asked.update(arguments=arguments, one=one, mutated=custom_mutator)
def Mutate(data, size):
    return b"\\x00" + data
def Fuzz():
    from pathlib import Path
    corpus = Path(asked["arguments"][-1])
    seeds = [path.read_bytes() for path in corpus.iterdir()]
    inputs = {asked["mutated"](seed, 100, k) for k in range(20) for seed in seeds}
    for data in inputs:
        assert len(data) <= 100
        asked["one"](data)
    print(asked["include"], asked["arguments"][1:-1], len(seeds), len(inputs) > 10)
"""


@pytest.mark.slow
def test_atheris_is_given_seeds_and_mutators(tmp_path: Path) -> None:
    """A stand-in for it: what it is told, and that inputs of its own are read."""
    (tmp_path / "atheris.py").write_text(ATHERIS)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "3", "--atheris", "errors", "--", "-seed=1"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    largest = 4 * max(len(seed) for target in TARGETS if target.name == "errors" for seed in target.seeds)
    assert done.stdout == (
        f"['caffe_compat', 'converters', 'hpm'] ['-max_total_time=3', '-max_len={largest}', '-rss_limit_mb=4096', "
        "'-timeout=60', '-seed=1'] 1 True\n"
    ), done.stderr
