"""Every stored case of real Caffe goes out as ONNX and runs equal in onnxruntime, or is refused by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from onnx import checker

from caffe_compat import CaffeNet, FileAccess, NetState, NetworkError
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.parity.cases import _fill_from_case, _recorded_dialect
from caffe_compat.parity.compare import compare
from caffe_compat.parity.reference_files import named_arrays, params_below
from caffe_compat.parity.tolerance import LAYER_TOLERANCE
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from converters.onnx import run_onnxruntime
from converters.onnx_graph.building import build_graph
from converters.onnx_graph.writing import write_model

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
FILES = ("bvlc_layers.h5", "ssl3d_layers.h5", "fork_layers.h5", "fork_layers_first.h5", "fork_layers_segnet_lstm.h5")

# Types that cannot go out, and why. Losses that search for boxes, and evaluations, are no part of a deployed network.
REFUSED = {
    "AssistedExcitation": "depends on how far the training is",
    "BatchContrastiveLoss": "it needs torch's triu",
    "BoxAnnotatorOHEM": "has no form in ONNX",
    "CenterLoss": "by values",
    "CoordsToBboxesMasks": "draws at random|by values",
    "DetectionEvaluate": "has the background's class|computes outside of torch|by values",
    "FocalLoss": "by values",
    "GaussianYolov3": "by values",
    "GeneralContrastiveLoss": "by values",
    "GeneralTripletLoss": "by values",
    "HeatMapsFromCoordsOrigin": "by values",
    "HeatMapsFromCoordsOrigin2": "by values",
    "LargeMarginInnerProduct": "by values|computes outside of torch",
    "MPJPEEvaluation": "computes outside of torch",
    "MarginInnerProduct": "by values|computes outside of torch",
    "MULTI_SOFTMAX_LOSS": "by values",
    "Mask": "draws at random, anew in every pass",
    "MultiBoxLoss": "by values",
    "PosePDJAccuracy": "by values",
    "Python.AnchorTargetLayer": "by values|by a mask",
    "Python.ProposalTargetLayer": "by values|by a mask",
    "RegionLoss": "by values",
    "SavePath": "computes nothing",
    "Silence": "computes nothing",
    "SoftContrastiveLoss": "by values",
    "SoftmaxWithLossOHEM": "has no form|by values",
    "Yolov3": "by values",
}


# Cases of phase TRAIN alone, which no file is made of.
OF_TRAINING = {"DecodeBBox.casc.with_gt", "DecodeBBox.mscnn.with_gt"}
# Cases of forks that this library refuses to build, as test_fork_cases.py holds.
NOT_BUILT = OF_TRAINING | {
    name
    for names in json.loads((Path(__file__).parents[1] / "parity" / "fork_cases.json").read_text())["refused"].values()
    for name in names
}


def _cases() -> list[tuple[str, str]]:
    found = []
    for name in (*FILES, "fork_layers_yolo.h5"):
        with h5py.File(REFERENCE / name) as file:
            found += [(name, case) for case in file if "prototxt" in file[case].attrs and case not in NOT_BUILT]
    return found


def _refusal(name: str) -> str | None:
    """What is said of a case that cannot go out; its type, or of a Python layer its class, tells."""
    words = name.split(".")
    return REFUSED.get(words[0], REFUSED.get(".".join(words[:2])))


def _net(case: h5py.Group, name: str) -> CaffeNet:
    """The network of a case for phase TEST."""
    dialect = _recorded_dialect(case)
    parsed = parse_message(
        str(case.attrs["prototxt"]),
        dialect=None if dialect == "auto" else dialect,
        path=name,
        blobs=lambda: Counter(layer for layer, _ in params_below(case, "param")),
    )
    message = upgrade_net(parsed.message, parsed.schema).message
    net = CaffeNet(message, NetState("TEST"), dialect=parsed.schema.name, files=FileAccess(REFERENCE))
    net.materialize(seed=0)
    _fill_from_case(net, case)
    return net


@pytest.mark.parametrize(("file_name", "name"), _cases())
def test_a_case_runs_equal_in_onnxruntime(file_name: str, name: str, tmp_path: Path) -> None:
    with open_hdf5(REFERENCE / file_name) as file:
        case = file[name]
        net = _net(case, name)
        arrays = named_arrays(case, "bottom")
    given = {k: x.astype(np.float32) for k, x in arrays.items() if k in net.program.needed_inputs}
    path = str(tmp_path / "case.onnx")
    refused = _refusal(name)
    if refused is not None:
        with pytest.raises(NetworkError, match=refused):
            build_graph(net, axes={})
        return
    built = build_graph(net, axes={})
    write_model(built, path, name=name, metadata={})
    checker.check_model(path, full_check=True)
    net.reset_state()
    expected = {k: x.detach().numpy() for k, x in net.run(given).items()}
    (found,) = run_onnxruntime(path, [given])
    assert found.keys() == expected.keys()
    results = [compare(k, found[k], x, LAYER_TOLERANCE) for k, x in expected.items()]
    assert [(r.name, r.max_rel, r.problem) for r in results if not r.passed] == []
