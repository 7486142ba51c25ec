"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

# One process a core runs the tests: threads of each, and of what they start, would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
REFERENCE = Path(__file__).parent.parent / "reference_outputs"


def pytest_collection_finish() -> None:
    """What tests and torch consist of is there for good: Python's collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every torch device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of stored outputs of real Caffe."""
    return REFERENCE
