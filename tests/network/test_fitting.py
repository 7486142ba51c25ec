"""A network whose file does not tell which fork wrote it, and whose shapes fit one fork alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe_compat
from caffe_compat.errors import DialectError, LayerError
from caffe_compat.network.definition import read_definition
from caffe_compat.network.loading import build_net
from caffe_compat.reports.survey import survey_file
from tests.networks import input_layer, ip, layer

PETER = "peteanderson80/bottom-up-attention"
# Embed is BVLC's type, in which one fork lets the outputs take the place of a last axis of 1. ROIPooling is a fork's.
EMBEDDING = (
    input_layer("x", 2, 1)
    + input_layer("map", 1, 3, 8, 8)
    + input_layer("rois", 2, 5)
    + layer("pool", "ROIPooling", "map rois", "pool", "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 }")
    + layer("words", "Embed", "x", "words", "embed_param { num_output: 4 input_dim: 9 }")
)
TOGETHER = layer("f", "Flatten", "pool", "f") + layer("c", "Concat", "f words", "c")


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "net.prototxt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def built(path: str, dialect: str | None = None) -> caffe_compat.CaffeNet:
    return build_net(read_definition(path, dialect), None, seed=1)[0]


def test_the_one_fork_that_the_shapes_fit_is_taken_and_said(tmp_path: Path) -> None:
    path = written(tmp_path, EMBEDDING + TOGETHER)
    net = built(path)
    assert net.graph.dialect == PETER
    assert [f"read as {PETER} means it" in warning for warning in net.warnings] == [True]
    assert survey_file(tmp_path, "net.prototxt").reached == 4


def test_a_converted_network_keeps_the_fork(tmp_path: Path) -> None:
    net = built(written(tmp_path, EMBEDDING + TOGETHER))
    caffe_compat.save(net, tmp_path / "net.pt")
    assert caffe_compat.load(tmp_path / "net.pt").graph.dialect == PETER


def test_what_fits_as_it_stands_is_read_as_ever(tmp_path: Path) -> None:
    net = built(written(tmp_path, EMBEDDING))
    assert PETER not in net.graph.dialect
    assert net.warnings == []


def test_who_asks_for_a_fork_gets_it(tmp_path: Path) -> None:
    path = written(tmp_path, EMBEDDING + TOGETHER)
    with pytest.raises(LayerError, match=r"layer 'c' \(Concat\)"):
        built(path, "rbgirshick/caffe-fast-rcnn@fast-rcnn")


def test_a_file_of_bvlcs_is_never_read_otherwise(tmp_path: Path) -> None:
    text = input_layer("x", 2, 1) + input_layer("y", 2, 3)
    text += layer("words", "Embed", "x", "words", "embed_param { num_output: 4 input_dim: 9 }")
    with pytest.raises(LayerError, match=r"layer 'c' \(Concat\)"):
        built(written(tmp_path, text + layer("c", "Concat", "y words", "c")))


def test_shapes_that_fit_no_fork_are_told_as_ever(tmp_path: Path) -> None:
    wrong = ip("g", "rois", "g", 7) + layer("e", "Eltwise", "g words", "e")
    with pytest.raises(LayerError, match=r"layer 'e' \(Eltwise\)"):
        built(written(tmp_path, EMBEDDING + wrong))


def test_where_two_meanings_fit_the_question_stays(tmp_path: Path) -> None:
    with pytest.raises(DialectError, match=r"layer 'n' \(Normalize\): several forks of Caffe fit the file"):
        built(written(tmp_path, input_layer("x", 2, 3, 4, 5) + layer("n", "Normalize", "x", "n")))
