"""Every layer type in every format that computes: it runs equal there, or is refused with its name and the reason.

The types are those of the registry, so that none is forgotten; the networks are those of the sweep over parameters, as
they are, and with each parameter that the type's builder reads at another value.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet, FileAccess, NetState, NetworkError
from caffe_compat.errors import CaffeCompatError
from caffe_compat.network.registry import LayerType, find_layer
from caffe_compat.network.signatures import identifiers
from caffe_compat.parity.compare import compare
from caffe_compat.parity.tolerance import LAYER_TOLERANCE
from converters.onnx import run_onnxruntime
from converters.onnx_graph.building import build_graph
from converters.onnx_graph.writing import write_model
from converters.plain.source import source_of
from converters.pt2 import write as write_program
from tests.converters.alone import TorchAlone
from tests.converters.plain import module_of, outputs_of, same_bits
from tests.layers.sweep import REFERENCE, Base, changes, differ, fill_from, outcome
from tests.layers.sweep_walk import NAMES, SHIPPED, all_bases, label_of, places

Arrays = dict[str, np.ndarray]


def _net(base: Base, message: Any) -> CaffeNet:
    """The network for phase TEST with its weights."""
    net = CaffeNet(message, NetState("TEST"), dialect=base.dialect, files=FileAccess(REFERENCE))
    net.materialize(seed=0)
    fill_from(net, base)
    return net


def _built(base: Base, message: Any) -> tuple[CaffeNet, Arrays, Arrays] | None:
    """A network, what it is given, and what comes of that; None where that is nothing, or the library refuses it."""
    try:
        other = _net(base, message)  # which runs: a few layers change their own weights in every pass
        given = {name: _input(base, name, shape) for name, shape in other.input_shapes.items()}
        # An input that nobody reads is an output in Caffe, and no business of a file.
        unread = set(other.input_names) - set(other.program.needed_inputs)
        expected = {name: x.detach().numpy() for name, x in other.run(given).items() if name not in unread}
    except CaffeCompatError:
        return None
    return (_net(base, message), given, expected) if expected else None


def _input(base: Base, name: str, shape: tuple[int, ...]) -> np.ndarray:
    known = base.inputs.get(name)
    if known is not None and np.shape(known) == tuple(shape):
        return np.asarray(known, np.float32)
    return np.random.RandomState(zlib.crc32(name.encode())).uniform(0, 1, shape).astype(np.float32)


# How a network runs in each format, by name of its outputs


def _in_onnx(net: CaffeNet, given: Arrays, folder: Path) -> Arrays:
    path = str(folder / "net.onnx")
    write_model(build_graph(net, axes={}), path, name="net", metadata={})
    return run_onnxruntime(path, [{k: x for k, x in given.items() if k in net.program.needed_inputs}])[0]


def _in_plain_pytorch(net: CaffeNet, given: Arrays, folder: Path) -> Arrays:
    source = source_of(net)
    return {name: x.detach().numpy() for name, x in outputs_of(module_of(source), source, given).items()}


_TORCH_ALONE = TorchAlone()


@pytest.fixture(scope="module", autouse=True)
def _torch_alone_ends() -> Iterator[None]:
    with _TORCH_ALONE:
        yield


def _in_a_program(net: CaffeNet, given: Arrays, folder: Path) -> Arrays:
    """Of which torch stores everything, and which a process runs that has torch alone."""
    path = folder / "net.pt2"
    write_program(net, path)
    needed = {k: x for k, x in given.items() if k in net.program.needed_inputs}
    return _TORCH_ALONE.run(path, dict(zip(identifiers(list(needed)), needed.values(), strict=True)))


RUNS: dict[str, Callable[[CaffeNet, Arrays, Path], Arrays]] = {
    "onnx": _in_onnx,
    "python": _in_plain_pytorch,
    "pt2": _in_a_program,
}


def _differs(found: Arrays, expected: Arrays, name: str) -> str:
    """What is wrong with what a format gives; empty if nothing is. Plain PyTorch has to give the very bits."""
    if found.keys() != expected.keys():
        return f"outputs {sorted(found)}"
    for blob, x in expected.items():
        if name == "python":
            if not same_bits(torch.from_numpy(found[blob]), torch.from_numpy(x)):
                return f"{blob} has other bits"
        else:
            result = compare(blob, found[blob], x, LAYER_TOLERANCE)
            if not result.passed:
                return f"{blob} is off by {result.max_rel:.1e} {result.problem}"
    return ""


def _refusal(error: NetworkError) -> tuple[str, str]:
    assert error.layer, f"no layer is named: {error}"
    assert "stop before it with" in error.detail
    return str(error.type), error.detail


def _outcome(base: Base, message: Any, name: str, folder: Path) -> tuple[str, str] | None:
    """What comes of a network in a format: ("", "") if it is equal there, or the type that is refused, and why.

    None where there is no such network, or nothing that it computes.
    """
    built = _built(base, message)
    if built is None:
        return None
    net, given, expected = built
    try:
        found = RUNS[name](net, given, folder)
    except NetworkError as error:
        return _refusal(error)
    assert _differs(found, expected, name) == ""
    return "", ""


# Why no file of a format can hold a layer -> the types of which that is true for every network here. Most
# measure, learn, draw or write.
REFUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "onnx": {
        "decides by values": (
            *(
                "CenterLoss",
                "ChannelSelect",
                "CoordsToBboxesMasks",
                "LABEL_DROPOUT",
                "DetectionLoss",
                "FocalLoss",
                "GaussianYolov3",
            ),
            *("GeneralContrastiveLoss", "GeneralTripletLoss", "HeatMapsFromCoordsOrigin", "HeatMapsFromCoordsOrigin2"),
            *("MULTI_SOFTMAX_LOSS", "MarginInnerProduct", "MultiBoxLoss", "PosePDJAccuracy of chanyn/3Dpose_ssl"),
            *("FrcnnAnchorTarget", "FrcnnProposalTarget", "RegionLoss", "SoftContrastiveLoss"),
            *("SoftmaxWithLoss of openvinotoolkit/training_toolbox_caffe", "SoftmaxWithLossOHEM"),
            *("EvalDetection", "HardMining", "TorsoMaskFromCoords", "Yolov3"),
        ),
        "picks values by a mask": (
            *("BboxAccuracy", "CtcLoss", "DetectionAccuracy", "DetectionGroupAccuracy"),
            "WarpCTCLoss",
        ),
        "computes outside of torch|cannot be run to see": (
            *("DetectionEvaluate", "GenerateAugmentationParameters", "LabelsequenceAccuracy", "MPJPEEvaluation"),
            *("MultiStageMeanfield", "RoiGen", "SegAccuracy"),
        ),
        "draws at random|decides by values": (
            *("DetectionGroupLoss", "Mask", "Mask2D3D", "ProposalTarget", "RandomNoise"),
        ),
        "has no form in ONNX|decides by values": ("BatchContrastiveLoss", "BoxAnnotatorOHEM"),
        "decides by values|computes outside": ("LargeMarginInnerProduct",),
    },
    "python": {
        "touches files": (
            *("DetectionEvaluate", "HeatMapsFromCoordsOrigin", "HeatMapsFromCoordsOrigin2", "InfogainLoss"),
            "MPJPEEvaluation",
            *("NormalizedPoseCoords of zimenglan-sysu-512/pose_action_caffe", "PosePDJAccuracy of chanyn/3Dpose_ssl"),
            "RevertNormalizedPoseCoords of zimenglan-sysu-512/pose_action_caffe",
        ),
        "draws at random": (
            *("CoordsToBboxesMasks", "DetectionGroupLoss", "DetectionLoss", "LABEL_DROPOUT", "Mask", "Mask2D3D"),
            *("FrcnnAnchorTarget", "FrcnnProposalTarget"),
            *("PoseHeatMapLoss of chanyn/3Dpose_ssl", "PoseHeatMapLoss of zimenglan-sysu-512/pose_action_caffe"),
            *("GenerateAugmentationParameters", "ProposalTarget", "RandomNoise", "SeLuDropout"),
            "TorsoMaskFromCoords",
        ),
        "cannot be flattened": ("SoftmaxWithLossOHEM of intel/caffe",),
        "cannot be written as source": ("SegAccuracy",),
    },
    "pt2": {
        "decides by values": (
            *("BboxAccuracy", "CoordsToBboxesMasks", "CtcLoss", "DetectionAccuracy", "DetectionEvaluate"),
            *("DetectionGroupAccuracy", "DetectionGroupLoss", "DetectionLoss"),
            *("EvalDetection", "GaussianYolov3", "GenerateAugmentationParameters", "HardMining"),
            *(
                "HeatMapsFromCoordsOrigin",
                "LABEL_DROPOUT",
                "LabelsequenceAccuracy",
                "MultiBoxLoss",
                "MultiStageMeanfield",
            ),
            "ProposalTarget",
            *("RegionLoss", "RoiGen", "SegAccuracy", "TorsoMaskFromCoords", "WarpCTCLoss", "Yolov3"),
        ),
        "keeps its passes from pass to pass": ("LargeMarginInnerProduct", "MarginInnerProduct"),
        "draws at random": ("Mask", "Mask2D3D", "RandomNoise"),
    },
}


def _reason(format_: str, entry: LayerType) -> str:
    """Why a type never goes out; empty for one that does."""
    for reason, types in REFUSED[format_].items():
        if label_of(entry) in types or entry.name in types:
            return reason
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("type_", NAMES)
@pytest.mark.parametrize("format_", REFUSED)
def test_every_type(format_: str, type_: str, tmp_path: Path) -> None:
    for entry in (entry for entry in SHIPPED if entry.name == type_):
        found = [_outcome(base, base.message, format_, tmp_path) for base in _networks_of(entry)]
        there = {outcome_ for outcome_ in found if outcome_ is not None}
        reasons = [why for refused, why in there if refused == type_]
        if reason := _reason(format_, entry):
            assert ("", "") not in there
            assert all(re.search(reason, why) for why in reasons), reasons
        else:
            assert ("", "") in there or not reasons, f"{label_of(entry)}: {reasons}"


def _networks_of(entry: LayerType) -> Iterator[Base]:
    for base in all_bases():
        if any(find_layer(base.message.layer[i].type, base.dialect) is entry for i in base.paths):
            yield base


@pytest.mark.slow
@pytest.mark.parametrize("type_", NAMES)
@pytest.mark.parametrize("format_", REFUSED)
def test_every_parameter_goes_out_or_is_refused(format_: str, type_: str, tmp_path: Path) -> None:
    """With another value for it, one that changes what the layer does."""
    for (entry, path), found in places().items():
        if entry.name == type_ and "filler" not in path.lower():
            message = next(_changed(found, path), None)
            if message is not None:
                _outcome(message[0], message[1], format_, tmp_path)


def _changed(found: list[tuple[Base, int]], path: str) -> Iterator[tuple[Base, Any]]:
    """Networks in which the parameter has another value that shows in what comes of them."""
    for base, layer in found[:6]:  # of some parameters, nothing shows anywhere
        plain = outcome(base, base.message)
        for message in changes(base, layer, path):
            other = outcome(base, message)
            if "refused" not in other and differ(plain, other):
                yield base, message
