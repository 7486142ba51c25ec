"""Fixtures of the pycaffe tests: the interface on every device, with its process-wide settings as at the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from caffe_compat import pycaffe
from caffe_compat.pycaffe import blob
from caffe_compat.pycaffe.runtime import runtime

DEVICES = ["cpu", "mirrored"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def caffe(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``caffe`` as a script sees it, computing on one device after the other, in an empty working folder.

    "mirrored" is the CPU taken for a device whose memory numpy cannot look at, which needs no such device.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "level", 3)
    if request.param == "mirrored":
        monkeypatch.setattr(blob, "_HOSTS", frozenset())
    if request.param == "cuda":
        pycaffe.set_mode_gpu()
    else:
        pycaffe.set_mode_cpu()
    pycaffe.set_random_seed(11)
    yield pycaffe
    pycaffe.set_mode_cpu()
    runtime.allow_python = False
