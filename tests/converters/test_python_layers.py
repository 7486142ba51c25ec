"""Built-in Python layers whose work no tensor operation does: what leaves in each format, and what is refused by name.

The networks are small and of one layer: DetectNet's, which group boxes on the CPU, and FPN's, which draw at random and
sort boxes by their size.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import converters
from caffe_compat import NetworkError
from tests.networks import filled, input_layer, layer

CLUSTERING = "caffe.layers.detectnet.clustering"
MAPS = [(24, 36), (12, 18), (6, 9), (3, 5), (2, 3)]
PYRAMID = (
    "{feat_stride: '4,8,16,32,64', cfg: {FPNRATIOS: [0.8, 1.5], FPNRSCALES: [3],"
    " TEST: {RPN_PRE_NMS_TOP_N: 80, RPN_POST_NMS_TOP_N: 60, RPN_NMS_THRESH: 0.1}}}"
)


def _python(name: str, bottoms: str, tops: str, told: str) -> str:
    module, _, cls = name.rpartition(".")
    param = f'python_param {{ module: "{module}" layer: "{cls}" param_str: "{told}" }}'
    return layer("py", "Python", bottoms, tops, param)


def _maps(letter: str, channels: int) -> str:
    return "".join(input_layer(f"{letter}{i}", 1, channels, *size) for i, size in enumerate(MAPS))


CELLS = input_layer("covered", 2, 1, 6, 8) + input_layer("boxes", 2, 4, 6, 8)
NETS = {
    "ClusterDetections": CELLS
    + _python(f"{CLUSTERING}.ClusterDetections", "covered boxes", "list", "64, 48, 8, 0.6, 3, 0.02, 15, 1"),
    "ClusterGroundtruth": CELLS + _python(f"{CLUSTERING}.ClusterGroundtruth", "covered boxes", "list", "64,48,8"),
    "mAP": input_layer("lists", 2, 50, 5) + _python("caffe.layers.detectnet.mean_ap.mAP", "lists", "a b c", ""),
    "PyramidProposal": input_layer("info", 1, 3)
    + _maps("o", 8)
    + _maps("s", 4)
    + _python("rpn.proposal_layer.ProposalLayer", "info o0 o1 o2 o3 o4 s0 s1 s2 s3 s4", "rois", PYRAMID),
    "As_rois": input_layer("rois", 9, 5) + _python("rpn.as_rois.As_roisLayer", "rois", "a b c d e", "{cfg: {}}"),
}


@pytest.mark.parametrize(
    ("name", "format_", "reason"),
    [
        ("ClusterDetections", "onnx", "computes outside of torch"),
        ("ClusterDetections", "pt2", "numpy.* is not supported"),
        ("ClusterDetections", "python", "its code needs scipy"),
        ("ClusterGroundtruth", "onnx", "computes outside of torch"),
        ("ClusterGroundtruth", "pt2", "numpy.* is not supported"),
        ("PyramidProposal", "onnx", "decides by values"),
        ("PyramidProposal", "pt2", "decides by values"),
        ("PyramidProposal", "python", "draws at random"),
        ("As_rois", "onnx", "picks values by a mask"),
        ("As_rois", "pt2", "decides by values"),
    ],
)
def test_what_no_file_holds_is_refused_by_name(name: str, format_: str, reason: str, tmp_path: Path) -> None:
    """Although a grid with too few covered cells gives the same empty list, whatever stands in it."""
    with pytest.raises(NetworkError, match=rf"layer 'py' \(Python\): .*{reason}.*stop before it with"):
        converters.export(filled(NETS[name]), tmp_path / "a.file", format_)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("mAP", "onnx"),
        *(pytest.param(n, "python", marks=pytest.mark.slow) for n in ("ClusterGroundtruth", "mAP", "As_rois")),
        pytest.param("mAP", "pt2", marks=pytest.mark.slow),
    ],
)
def test_what_goes_out_is_equal(name: str, format_: str, tmp_path: Path) -> None:
    exported = converters.export(filled(NETS[name]), tmp_path / "a.file", format_)
    assert exported.verification is not None
    assert exported.verification.worst_rel < 1e-6
