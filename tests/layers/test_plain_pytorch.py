"""Every stored case as plain PyTorch: the same bits, or a refusal that names the layer and the reason."""

from __future__ import annotations

from collections import Counter

import h5py
import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet, FileAccess, NetState, NetworkError
from caffe_compat.errors import CaffeCompatError
from converters.plain.source import source_of
from tests.converters.plain import module_of, outputs_of, same_bits
from tests.layers.sweep import FILES, REFERENCE, base_of

# Why a layer cannot be plain PyTorch -> the types that are refused for it, in some cases or in all.
REFUSED = {
    "touches files": {
        *("DetectionEvaluate", "HeatMapsFromCoordsOrigin", "HeatMapsFromCoordsOrigin2", "InfogainLoss"),
        *("MPJPEEvaluation", "NormalizedPoseCoords"),
        *("PosePDJAccuracy", "RevertNormalizedPoseCoords", "SavePath"),
    },
    "draws at random": {"CoordsToBboxesMasks", "Mask", "PoseHeatMapLoss", "Python"},
    "depends on the definition": {"Python"},
    "builds on another in a way that cannot be flattened": {"SoftmaxWithLossOHEM"},
}


def _net_of(file_name: str, case: str) -> tuple[CaffeNet, dict[str, torch.Tensor]] | None:
    """The case's network at TEST with its weights, and its inputs; None where the library refuses it."""
    with h5py.File(REFERENCE / file_name) as file:
        try:
            base = base_of(case, file[case])
            net = CaffeNet(base.message, NetState("TEST"), dialect=base.dialect, files=FileAccess(REFERENCE))
            net.materialize(seed=0)
            for node in net.nodes_with_blobs():
                for i, name in enumerate(net.blobs_of(node.module_name)):
                    if (node.name, i) in base.params:
                        values = torch.from_numpy(np.asarray(base.params[node.name, i], np.float32))
                        net.assign_blob(node.module_name, name, values)
            inputs = {name: torch.from_numpy(np.asarray(x, np.float32)) for name, x in base.inputs.items()}
            net.run(inputs)
        except CaffeCompatError:
            return None
    net.reset_state()
    return net, inputs


LONG = ("fork_layers.h5", "fork_layers_yolo.h5")


@pytest.mark.parametrize(
    "file_name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in FILES]
)
def test_cases_as_plain_pytorch(file_name: str) -> None:
    with h5py.File(REFERENCE / file_name) as file:
        cases = list(file)
    counts: Counter[str] = Counter()
    refused: list[NetworkError] = []
    for case in cases:
        found = _net_of(file_name, case)
        if found is None:
            counts["not built"] += 1
            continue
        net, inputs = found
        expected = net.run(inputs)
        net.reset_state()
        try:
            source = source_of(net)
        except NetworkError as error:
            refused.append(error)
            continue
        outputs = outputs_of(module_of(source), source, inputs)
        assert sorted(outputs) == sorted(expected), case
        assert [name for name in outputs if not same_bits(outputs[name], expected[name])] == [], case
        counts["equal"] += 1
    for refusal in refused:
        reason = next((reason for reason in REFUSED if reason in refusal.detail), "")
        assert refusal.type in REFUSED.get(reason, ()), str(refusal)
        assert "stop before it with --outputs" in refusal.detail
    # What the library itself refuses has tests of its own.
    assert counts["equal"] > len(refused)
    assert counts.total() + len(refused) == len(cases)
