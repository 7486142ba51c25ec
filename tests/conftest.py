"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
REFERENCE = Path(__file__).parent.parent / "reference_outputs"


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every torch device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of stored outputs of real Caffe."""
    return REFERENCE
