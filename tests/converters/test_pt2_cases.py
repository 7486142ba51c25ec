"""``torch.export`` programs of stored cases of real Caffe, run in a process that has torch alone, or refused by name.

A few of every kind are here; test_every_type.py has them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from tests.converters.alone import TorchAlone
from tests.converters.test_onnx_cases import REFERENCE, _cases, _net
from tests.networks import filled, input_layer, layer
from tests.tracing import KEEPS_LOOPS

WINDOWS = "happynear/caffe-windows"

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
    try:
        converters.find_target("pt2").write(net, path)
    except NetworkError as error:
        if KEEPS_LOOPS or "torch 2.6 keeps no loops; stop before it" not in error.detail:
            raise
        return
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
    if not KEEPS_LOOPS:
        with pytest.raises(NetworkError, match=r"layer 'l' \(DetectionOutput\): .*torch 2.6 keeps no loops"):
            program_of(net)
        return
    program_of(net)  # of one size, whose loop torch keeps
    exported = converters.export(net, tmp_path / "case.pt2", dynamic_batch=True)
    assert exported.verification is not None
    assert (exported.verification.runs, exported.verification.worst_rel) == (2, 0.0)


@pytest.fixture(scope="module")
def alone() -> Iterator[TorchAlone]:
    with TorchAlone() as process:
        yield process


FEW = {
    "bvlc_layers.h5": (
        *("BatchNorm.test", "Convolution.dilation", "Crop.offsets", "Deconvolution.bilinear_group"),
        *("Eltwise.coeff", "Embed.default", "InnerProduct.axis2", "LRN.across", "LSTM.expose", "Pooling.max_pad_ceil"),
    ),
}


@pytest.mark.parametrize(("file_name", "name"), [(file, name) for file, names in FEW.items() for name in names])
def test_a_few_of_every_kind(file_name: str, name: str, alone: TorchAlone, tmp_path: Path) -> None:
    with open_hdf5(REFERENCE / file_name) as file:
        case = file[name]
        net = _net(case, name)
        arrays = named_arrays(case, "bottom")
    given = {k: x.astype(np.float32) for k, x in arrays.items() if k in net.program.needed_inputs}
    converters.find_target("pt2").write(net, tmp_path / "case.pt2")
    expected = {k: x.detach().numpy() for k, x in net.run(given).items()}
    found = alone.run(tmp_path / "case.pt2", given)
    assert found.keys() == expected.keys()
    results = [compare(k, found[k], x, LAYER_TOLERANCE) for k, x in expected.items()]
    assert [(r.name, r.max_rel, r.problem) for r in results if not r.passed] == []


BY_CHANCE = "draws at random, anew in every pass, which no file repeats"
REFUSED = {
    "RandomNoise": ("random_noise_param { sigma: 1 }", "pulkitag/caffe", BY_CHANCE),
    "Mask": ("mask_param { dim: 2 prob: 0.5 }", "chanyn/3Dpose_ssl", BY_CHANCE),
    "LargeMarginInnerProduct": ("largemargin_inner_product_param { num_output: 5 }", WINDOWS, "keeps its passes from"),
    "MarginInnerProduct": ("margin_inner_product_param { num_output: 5 }", WINDOWS, "keeps its passes from"),
}


@pytest.mark.parametrize("type_", REFUSED)
def test_what_is_something_else_in_the_next_pass_is_refused_by_name(type_: str, tmp_path: Path) -> None:
    params, dialect, reason = REFUSED[type_]
    labels = input_layer("t", 4) if "Margin" in type_ else ""
    text = input_layer("x", 4, 6) + labels + layer("l", type_, "x t" if labels else "x", "y", params)
    net = filled(text, dialect=dialect)
    with pytest.raises(NetworkError, match=rf"layer 'l' \({type_}\): {reason}.*stop before it with outputs"):
        converters.export(net, tmp_path / "case.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_blobs_may_be_called_like_arguments_of_numpy(tmp_path: Path) -> None:
    net = filled(input_layer("file", 2, 3) + layer("l", "AbsVal", "file", "allow_pickle"))
    assert converters.export(net, tmp_path / "case.pt2").verification is not None


def test_what_values_decide_is_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open_hdf5(REFERENCE / "fork_layers.h5") as file:
        net = _net(file["MultiBoxLoss.ssd.corner_size"], "MultiBoxLoss.ssd.corner_size")
    with pytest.raises(
        NetworkError, match=r"layer '\w+' \(MultiBoxLoss\): decides by values.*stop before it with outputs"
    ):
        converters.export(net, tmp_path / "case.pt2")
    assert capfd.readouterr() == ("", "")  # torch would print the graph as far as it came


@pytest.mark.parametrize("measure", [overlap, pixel_overlap])
@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize(("threshold", "least"), [(0.3, 4), (-0.1, 1)])
def test_suppression_box_by_box_keeps_what_it_keeps_in_blocks(
    measure: object, limit: int | None, threshold: float, least: int
) -> None:
    """The first box stays whatever the threshold: there is none that it could overlap."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(3, 300, 4, generator=generator) * 40
    boxes = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:] / 3], -1)
    boxes[1, 7] = torch.nan  # lies apart from nothing
    candidates = torch.rand(3, 300, generator=generator) < 0.8
    candidates[2] = False
    settings: dict[str, object] = {"measure": measure, "limit": limit}
    plain = suppress(boxes, candidates, threshold, **settings)  # type: ignore[arg-type]
    found = _suppress_one_by_one(boxes, candidates, threshold, 1.0, measure, limit)  # type: ignore[arg-type]
    assert torch.equal(found, plain)
    assert plain[0].sum() >= least


@pytest.mark.slow
def test_samples_know_what_proposals_need() -> None:
    with open_hdf5(REFERENCE / "fork_layers.h5") as file:
        names = [name for name in file if name.startswith("Python.ProposalLayer.")]
        net = _net(file[names[0]], names[0])
    given = sample_inputs(net)
    image = next(x for x in given.values() if x.ndim == 2)
    assert (image > 0).all()
