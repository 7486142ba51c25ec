"""docs/layers.md names every layer type and counts the stored cases of today.

That the cases pass is tested elsewhere; how far apart the numbers are, only ``scripts/measure_parity.py`` measures.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from caffe_compat.network import registry

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
TABLE = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
ROWS = [tuple(cell.strip() for cell in row) for row in TABLE[1:]]  # the first are the titles
RENEW = "run scripts/measure_parity.py"


@functools.cache
def script() -> ModuleType:
    """``scripts/measure_parity.py``, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("measure_parity", ROOT / "scripts" / "measure_parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@functools.cache
def counted() -> dict[str, Any]:
    """What the script would count of every type, if every case did what its table of refusals and deviations says."""
    table = script().FORK_TABLE
    refused = {case for cases in table["refused"].values() for case in cases}
    found: dict[str, Any] = {}
    for case, _, origin in script().stored_cases():
        entry = found.setdefault(script().type_of(case), script().Measured())
        if case in refused:
            entry.refused += 1
            continue
        entry.origins[origin] = None
        entry.cases += 1
        entry.deviations += case in table["deviations"]
    return found


def shipped() -> list[str]:
    """The layer types that this library brings, without those that other tests may have registered."""
    here = {name for (name, _), entry in registry._TYPES.items() if entry.build.__module__.startswith("caffe_compat.")}
    return [name for name in registry.layer_types() if name in here]


def test_every_type_is_in_its_place_on_the_page() -> None:
    compared = [name for name, entry in counted().items() if entry.cases]
    unchecked = [name for name in script().never_compared(compared) if name in shipped()]
    assert [row[0] for row in ROWS] == [name for name in shipped() if name not in unchecked], RENEW
    below = re.search(r"^Built from .* \((\d+)\): (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    assert below is not None
    assert below[2].split() == ", ".join(unchecked).split(), RENEW
    assert int(below[1]) == len(unchecked)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_cases_are_counted(row: tuple[str, ...]) -> None:
    name, origins, cases, forward, _ = row
    entry = counted().get(name)
    if entry is None or not entry.cases:
        assert (origins, cases) == ("none stored", ""), RENEW
        return
    assert (origins, cases) == (", ".join(entry.origins), entry.counted), RENEW
    assert re.match(r"\d\.\de[+-]\d\d( and its files, byte for byte)?$", forward), f"{name} failed when measured"
