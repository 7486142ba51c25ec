"""Records of finished actions: kept while everything is as it was, and never believed otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpm.drivers.refine_files import ActionRefined
from hpm.files.action_records import Finished, kept, write_record

MADE_FROM = {"window": 5, "inputs": {"a.txt": "0"}, "settings": ("faithful", 2)}


def _written(folder: Path) -> tuple[Path, list[Path]]:
    outputs = [folder / "one.csv", folder / "two.csv"]
    for path in outputs:
        path.write_text(f"{path.name}\n")
    record = folder / "record.json"
    done = ActionRefined(3, 7, False, 1.5, 2.5, 0.5, 0, ("in 10 of 10 frames",))
    write_record(record, done, MADE_FROM, outputs)
    return record, outputs


def test_what_was_finished_comes_back_as_it_was(tmp_path: Path) -> None:
    record, outputs = _written(tmp_path)
    expected = ActionRefined(3, 7, True, 1.5, 2.5, 0.5, 0, ("in 10 of 10 frames",))
    assert kept(record, ActionRefined, MADE_FROM, outputs) == expected


def test_anything_else_is_done_again(tmp_path: Path) -> None:
    record, outputs = _written(tmp_path)
    assert kept(record, ActionRefined, {**MADE_FROM, "window": 4}, outputs) is None
    # Of another kind of action: it has values that this kind does not know.
    assert kept(record, Finished, MADE_FROM, outputs) is None
    assert kept(tmp_path / "none.json", ActionRefined, MADE_FROM, outputs) is None
    outputs[1].write_text("changed\n")
    assert kept(record, ActionRefined, MADE_FROM, outputs) is None
    outputs[1].unlink()
    assert kept(record, ActionRefined, MADE_FROM, outputs) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", "7", "\xff", '{"made_from": 1}', "done"])
def test_damaged_records_are_not_believed(damage: str, tmp_path: Path) -> None:
    record, outputs = _written(tmp_path)
    if damage == "done":
        content = json.loads(record.read_text())
        damage = json.dumps({**content, "done": [1, 2]})
    record.write_bytes(damage.encode("latin1"))
    assert kept(record, ActionRefined, MADE_FROM, outputs) is None
