"""What ``import hpm`` offers, and when it comes."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import hpm


def test_public_names_are_exact() -> None:
    assert hpm.__all__ == sorted(hpm.__all__)
    for name in ("cli", "datasets", "drivers", "files", "networks", "visualize", "model", "refine"):
        importlib.import_module(f"hpm.{name}")  # no room may take the place of a name
    values = {name: getattr(hpm, name) for name in dir(hpm) if not name.startswith("_")}
    modules = {name for name, value in values.items() if inspect.ismodule(value)}
    assert {"metrics", "prepare", "skeleton"} <= modules
    aside = {"TYPE_CHECKING", "Any", "annotations"}
    assert set(values) - modules - aside == set(hpm.__all__) - modules
    with pytest.raises(AttributeError, match="module 'hpm' has no attribute 'PoseMashine'"):
        _ = hpm.PoseMashine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "torch"),
    [
        ("import hpm", False),
        ("from hpm import metrics, skeleton, Bounds, DataFolder, KthFolder, read_bounds", False),
        ("from hpm import prepare", False),
        ("from hpm import PoseMachine", True),
        ("from hpm import *", True),
    ],
)
def test_torch_comes_when_it_is_needed(statement: str, torch: bool) -> None:
    code = f"import sys\n{statement}\nprint('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.split() == [str(torch)]
