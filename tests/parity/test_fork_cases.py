"""Every stored case of a fork's layer, under the dialect that it was recorded with, is as ``fork_cases.json`` has it.

That table lists what is not equal: ``refused`` maps a part of an error to the cases that get it, ``deviations`` a case
to the arrays that depart on purpose and the reason. Every other case is equal, and the table is never out of date.

With the dialect chosen automatically they are as equal, except for those ``in_doubt``: their networks fit several forks
that mean different things by the layer, and are refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import torch

from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import find_layer
from caffe_compat.parity.cases import run_case
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
TABLE = json.loads(Path(__file__).with_name("fork_cases.json").read_text(encoding="utf-8"))
COUNTS = {
    "fork_layers.h5": 295,
    "fork_layers_first.h5": 20,
    "fork_layers_segnet_lstm.h5": 5,
    "fork_layers_yolo.h5": 78,
}
REFUSALS = {case: reason for reason, cases in TABLE["refused"].items() for case in cases}


def _cases() -> list[tuple[str, str]]:
    found = []
    for name, count in COUNTS.items():
        with h5py.File(REFERENCE / name) as file:
            assert len(file) == count
            found += [(name, case) for case in file]
    return found


CASES = _cases()


def test_the_table_lists_only_cases_that_there_are_each_once() -> None:
    names = [case for _, case in CASES]
    listed = [case for cases in TABLE["refused"].values() for case in cases] + list(TABLE["deviations"])
    assert len(names) == len(set(names))
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(names)


@pytest.mark.parametrize(("file_name", "case"), CASES)
def test_case_equals_the_fork(file_name: str, case: str, device: torch.device) -> None:
    with h5py.File(REFERENCE / file_name) as file:
        result = run_case(case, file[case], device, root=REFERENCE)
        stored = {"top", "bottom_diff", "param_diff", "param_after_forward"} & set(file[case])
        compared = sum(len(_arrays(file[case][key])) for key in stored)
        kind, dialect = file[case].attrs["type"], file[case].attrs["dialect"]
    if case in REFUSALS:
        assert REFUSALS[case] in result.unsupported
        return
    assert not result.unsupported
    # A draw that departs proves nothing of its layer.
    assert find_layer(kind, dialect).verified or case in TABLE["deviations"]
    assert result.skipped == []
    assert len(result.blobs) == compared
    failed = [(b.name, b.max_abs, b.max_rel, b.problem) for b in result.blobs if not b.passed]
    if case in TABLE["deviations"]:
        assert sorted(name for name, *_ in failed) == sorted(TABLE["deviations"][case]["arrays"])
    else:
        assert failed == []


@pytest.mark.parametrize(("file_name", "case"), CASES)
def test_no_case_is_wrong_under_the_fork_that_is_chosen(file_name: str, case: str) -> None:
    with h5py.File(REFERENCE / file_name) as file:
        result = run_case(case, file[case], root=REFERENCE, dialect="auto")
    doubted = "several forks of Caffe fit the file" in result.unsupported
    assert doubted == (case in TABLE["in_doubt"])
    assert bool(result.unsupported) == (doubted or case in REFUSALS)
    failed = sorted(blob.name for blob in result.blobs if not blob.passed)
    assert failed in ([], sorted(TABLE["deviations"].get(case, {}).get("arrays", [])))


def test_a_network_says_which_of_its_types_have_no_case() -> None:
    text = """input: "x" input_shape { dim: 1 dim: 2 dim: 4 dim: 5 dim: 6 }
    layer { name: "flat" type: "Flatten" bottom: "x" top: "y" }
    layer { name: "pool" type: "NdPooling" bottom: "x" top: "z"
      pooling_param { kernel_shape { dim: 2 dim: 2 dim: 2 } stride_shape { dim: 1 dim: 1 dim: 1 } } }"""
    parsed = parse_message(text)
    net = CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name)
    assert net.notes == ["never compared with outputs of real Caffe, only built from the fork's source: NdPooling"]


def _arrays(group: h5py.Group) -> list[str]:
    names: list[str] = []
    group.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names
