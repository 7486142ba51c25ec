"""A few kills of everything that writes; ``scripts/crash_test.sh`` goes on from there."""

from __future__ import annotations

import pytest

from tests.crash.checking import check
from tests.crash.jobs import Job, jobs

JOBS = jobs()
# Those whose every run takes a moment only.
QUICK = ("convert",)


@pytest.mark.parametrize(
    "job", [pytest.param(j, id=j.name, marks=() if j.name in QUICK else pytest.mark.slow) for j in JOBS]
)
def test_nothing_is_broken(job: Job) -> None:
    outcome = check(job, 3 if job.name in QUICK else 6)
    assert outcome.bad == []
    assert outcome.counts["SIGTERM"] == outcome.counts["SIGINT"] == 2


@pytest.mark.slow
def test_a_file_that_is_written_in_place_is_found() -> None:
    """The test of the test: a writer as it should not be."""

    def write(content: bytes) -> None:
        with open("a.bin", "wb") as file:
            file.write(content[:4])
            file.flush()
            open("mark", "wb").close()  # an event amid its writing, whether it is there or not
            file.write(content[4:])

    job = Job("careless", lambda folder: None, lambda: write(b"12345678"), ("a.bin",), lambda: write(b"abcdefgh"))
    found = check(job, 12).bad
    assert any("a.bin is neither old nor new" in what for what in found)
