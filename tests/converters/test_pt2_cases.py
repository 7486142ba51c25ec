"""Detection in ``torch.export`` programs: stored cases of real Caffe, run in a process that has torch alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import converters
from caffe_compat import NetworkError
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.layers.forks.boxes import _suppress_one_by_one, overlap, pixel_overlap, suppress
from caffe_compat.parity.compare import compare
from caffe_compat.parity.reference_files import named_arrays
from caffe_compat.parity.tolerance import LAYER_TOLERANCE
from converters.pt2 import program_of, run_alone
from converters.samples import sample_inputs
from tests.converters.test_onnx_cases import REFERENCE, _cases, _net

TYPES = re.compile(
    r"(DetectionOutput|YoloDetectionOutput|Yolov3DetectionOutput|Proposal|Python\.ProposalLayer|BoxOutput"
    r"|BoxGroupOutput|FrcnnOutput|ScaleRoute|PriorBox|ROI\w+|PSROI\w+)\."
)
CASES = [case for case in _cases() if TYPES.match(case[1])]


@pytest.mark.slow
@pytest.mark.parametrize(("file_name", "name"), CASES)
def test_a_case_runs_equal_with_torch_alone(file_name: str, name: str, tmp_path: Path) -> None:
    with open_hdf5(REFERENCE / file_name) as file:
        case = file[name]
        net = _net(case, name)
        arrays = named_arrays(case, "bottom")
    path = str(tmp_path / "case.pt2")
    given = {k: x.astype(np.float32) for k, x in arrays.items() if k in net.program.needed_inputs}
    converters.find_target("pt2").write(net, path)
    expected = {k: x.detach().numpy() for k, x in net.run(given).items()}
    (found,) = run_alone(path, [given])
    assert found.keys() == expected.keys()
    results = [compare(k, found[k], x, LAYER_TOLERANCE) for k, x in expected.items()]
    assert [(r.name, r.max_rel, r.problem) for r in results if not r.passed] == []


@pytest.mark.slow
def test_detections_of_any_batch(tmp_path: Path) -> None:
    with open_hdf5(REFERENCE / "fork_layers_first.h5") as file:
        name = next(name for name in file if name.startswith("DetectionOutput."))
        net = _net(file[name], name)
    program_of(net)  # of one size, whose loop torch keeps
    exported = converters.export(net, tmp_path / "case.pt2", dynamic_batch=True)
    assert exported.verification is not None
    assert (exported.verification.runs, exported.verification.worst_rel) == (2, 0.0)


def test_what_values_decide_is_refused_by_name(tmp_path: Path) -> None:
    with open_hdf5(REFERENCE / "fork_layers.h5") as file:
        net = _net(file["MultiBoxLoss.ssd.corner_size"], "MultiBoxLoss.ssd.corner_size")
    with pytest.raises(
        NetworkError, match=r"layer '\w+' \(MultiBoxLoss\): decides by values.*stop before it with outputs"
    ):
        converters.export(net, tmp_path / "case.pt2")


@pytest.mark.parametrize("measure", [overlap, pixel_overlap])
@pytest.mark.parametrize("limit", [None, 4])
def test_suppression_box_by_box_keeps_what_it_keeps_in_blocks(measure: object, limit: int | None) -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(3, 300, 4, generator=generator) * 40
    boxes = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:] / 3], -1)
    boxes[1, 7] = torch.nan  # lies apart from nothing
    candidates = torch.rand(3, 300, generator=generator) < 0.8
    candidates[2] = False
    settings: dict[str, object] = {"measure": measure, "limit": limit}
    plain = suppress(boxes, candidates, 0.3, **settings)  # type: ignore[arg-type]
    found = _suppress_one_by_one(boxes, candidates, 0.3, 1.0, measure, limit)  # type: ignore[arg-type]
    assert torch.equal(found, plain)
    assert plain[0].sum() > 3


def test_samples_know_what_proposals_need() -> None:
    with open_hdf5(REFERENCE / "fork_layers.h5") as file:
        names = [name for name in file if name.startswith("Python.ProposalLayer.")]
        net = _net(file[names[0]], names[0])
    given = sample_inputs(net)
    image = next(x for x in given.values() if x.ndim == 2)
    assert (image > 0).all()
