"""What the capture script records is what verify reads; our own pycaffe stands in for the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_compat.parity.capture import capture_script

STAND_IN = "import sys\nimport caffe_compat.pycaffe\nsys.modules['caffe'] = caffe_compat.pycaffe\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text(STAND_IN)
    (tmp_path / "capture.py").write_text(capture_script(), encoding="utf-8")
    return tmp_path


def _run(folder: Path, *arguments: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[2])])}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_two_batches_of_a_recurrent_net(folder: Path, reference: Path) -> None:
    model = (reference / "tiny_mask3d" / "deploy.prototxt", reference / "tiny_mask3d" / "tiny_mask3d.caffemodel")
    _run(folder, "capture.py", *model, "-o", "ref.h5", "--batches", "2")
    output = _run(folder, "-m", "caffe_compat", "verify", *model, "--reference", "ref.h5")
    assert "2 of 2 passed, 82 blobs compared" in output


@pytest.mark.slow
def test_gradients_as_a_case(folder: Path, reference: Path) -> None:
    model = (reference / "formats" / "v1net.prototxt", reference / "formats" / "v1net.caffemodel")
    _run(folder, "capture.py", *model, "-o", "ref.h5", "--gradients", "--params")
    output = _run(folder, "-m", "caffe_compat", "verify", "--cases", "ref.h5", "--all")
    assert "bottom_diff/data" in output
    assert "param_diff/conv1/0" in output
    assert "1 of 1 passed" in output
