"""Optional packages: what is said where one is missing, and that none tells its makers what it is used for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_compat.errors import MissingExtraError
from caffe_compat.extras import require

LISTENING = """
import sys
from caffe_compat.extras import require
calls = []
sys.addaudithook(lambda event, arguments: calls.append(event) if event.startswith("socket.") else None)
package = require(sys.argv[1], "onnx")
if sys.argv[1] == "openvino":
    package.Core()
else:
    package.get_available_providers()
assert "openvino_telemetry" not in sys.modules
print([call for call in calls if call != "socket.__new__"])
"""


def test_a_missing_package_is_said_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"needs the package 'no_such'.*pip install \"caffe-compat\[onnx\]\""):
        require("no_such", "onnx")


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_what_is_done_is_reported_to_nobody(package: str, tmp_path: Path) -> None:
    """They would keep an identity in the home folder, too."""
    home, between = tmp_path / "home", tmp_path / "between"
    home.mkdir()
    between.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(between)}
    told = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", *places)}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING, package], env=told | places, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert [*home.iterdir(), *between.iterdir()] == []


def test_whoever_wants_it_reported_can_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    require("onnxruntime", "onnx")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
