"""Networks written in Python, their coordinates, and their pictures."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_compat import pycaffe as caffe
from caffe_compat.errors import MissingExtraError, UsageError
from caffe_compat.pycaffe import coord_map, draw
from caffe_compat.pycaffe import layers as L
from caffe_compat.pycaffe import params as P
from caffe_compat.pycaffe.net_spec import assign_proto, param_name_dict
from caffe_compat.schema.prototxt import parse_message
from tests.pycaffe.pycaffe_models import BRANCHES


def spec() -> Any:
    n = caffe.NetSpec()
    n.data, n.label = L.MemoryData(batch_size=2, channels=3, height=8, width=6, ntop=2)
    n.conv = L.Convolution(
        n.data,
        num_output=4,
        kernel_size=[3, 2],
        weight_filler={"type": "xavier"},
        param=[{"lr_mult": 2}, {"lr_mult": 0}],
    )
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, pool=P.Pooling.AVE, kernel_size=2)
    n["ip/out"] = L.InnerProduct(n.pool, num_output=5, include={"phase": caffe.TEST})
    n.silence = L.Silence(n.label, ntop=0)
    return n


def test_net_spec() -> None:
    net = spec().to_proto()
    assert [layer.name for layer in net.layer] == ["data", "conv", "relu", "pool", "ip/out", "silence"]
    data, conv, relu, pool, ip, silence = net.layer
    assert list(data.top) == ["data", "label"]
    assert data.memory_data_param.batch_size == 2
    assert list(conv.convolution_param.kernel_size) == [3, 2]
    assert conv.convolution_param.weight_filler.type == "xavier"
    assert [p.lr_mult for p in conv.param] == [2, 0]
    assert list(relu.top) == list(relu.bottom) == ["conv"]
    assert list(pool.bottom) == ["conv"]
    assert pool.pooling_param.pool == pool.pooling_param.AVE
    assert ip.include[0].phase == caffe.TEST
    assert list(silence.bottom) == ["label"]
    assert not silence.top
    assert str(parse_message(str(net)).message) == str(net)


def test_names_are_made_up_where_none_are_given() -> None:
    data = L.Input(shape={"dim": [1, 2]})
    one, two = L.Power(data, power=2), L.Power(data)
    net = caffe.to_proto(L.Eltwise(one, L.Power(two)))
    assert [layer.name for layer in net.layer] == ["Input1", "Power1", "Power2", "Power3", "Eltwise1"]
    assert list(net.layer[-1].bottom) == ["Power1", "Power3"]
    assert [layer.name for layer in two.to_proto().layer] == ["Input1", "Power1"]


def test_a_deep_net_needs_no_deep_stack() -> None:
    top = L.Input(shape={"dim": [1]})
    for _ in range(3 * sys.getrecursionlimit()):
        top = L.ReLU(top)
    assert len(caffe.to_proto(top).layer) == 3 * sys.getrecursionlimit() + 1


def test_layers_that_use_the_parameters_of_another_type() -> None:
    data = L.Input(shape={"dim": [1, 2, 3, 4]})
    plain = L.Deconvolution(data, num_output=3, kernel_size=2).to_proto().layer[1]
    spelled = L.Deconvolution(data, convolution_param={"num_output": 3, "kernel_size": 2}).to_proto().layer[1]
    assert str(plain) == str(spelled)
    assert plain.convolution_param.num_output == 3
    names = param_name_dict()
    assert (names["InnerProduct"], names["Deconvolution"], names["ReLU"]) == ("inner_product", "convolution", "relu")


def test_mistakes_in_specs_are_told() -> None:
    data = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(data, ntop=0)
    with pytest.raises(AttributeError, match=r"layer 'Convolution1' .*convolution_param has a field 'kernel'"):
        L.Convolution(data[0], kernel=3).to_proto()
    with pytest.raises(AttributeError, match="FillerParameter has no field 'typ'"):
        L.Convolution(data[0], weight_filler={"typ": "xavier"}).to_proto()
    n = spec()
    with pytest.raises(AttributeError, match=r"no 'konv'; it has data, label, conv"):
        _ = n.konv
    n.both = data
    with pytest.raises(UsageError, match="both in the spec is no Top"):
        n.to_proto()
    with pytest.raises(AttributeError, match="NopeParameter"):
        _ = P.Nope.MAX


def test_a_missing_name_is_a_missing_key_too() -> None:
    spec = caffe.NetSpec()
    for miss in (lambda: spec["x"], lambda: spec.x):
        with pytest.raises(KeyError, match=r"^the spec has no 'x'; it has nothing yet$"):
            miss()
    assert not hasattr(spec, "x")


def test_assign_proto() -> None:
    layer = caffe.proto.caffe_pb2.LayerParameter()
    assign_proto(layer, "bottom", "a")
    assign_proto(layer, "top", ["b", "c"])
    assign_proto(layer, "input_param", {"shape": [{"dim": [1, 2]}, {"dim": 3}]})
    assert (list(layer.bottom), list(layer.top)) == (["a"], ["b", "c"])
    assert [list(shape.dim) for shape in layer.input_param.shape] == [[1, 2], [3]]


# Coordinates


def pyramid(kernel: Any = 3, stride: Any = 1, pad: Any = 0, pool: int = 2, up: int = 2, cut: int = 0) -> Any:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 2, 50, 60]})
    n.conv = L.Convolution(n.data, num_output=3, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool)
    n.up = L.Deconvolution(n.pool, num_output=3, kernel_size=2 * up, stride=up, pad=cut)
    return n


def test_coordinates_against_a_net_that_runs(tmp_path: Path) -> None:
    """A bright pixel must come out where the map says."""
    n = pyramid(kernel=5, pad=4, pool=4, up=4)
    axis, scale, shift = coord_map.coord_map_from_to(n.up, n.data)
    assert axis == 1
    assert scale == 1
    n.crop = coord_map.crop(n.up, n.data)
    assert list(n.to_proto().layer[-1].crop_param.offset) == [-shift]
    path = tmp_path / "net.prototxt"
    path.write_text(str(n.to_proto()))
    net = caffe.Net(str(path), caffe.TEST)
    for name in ("conv", "up"):
        net.params[name][0].data[...] = 1
        net.params[name][1].data[...] = 0
    net.blobs["data"].data[0, 0, 20:22, 30:32] = 1
    net.forward()
    assert net.blobs["crop"].data.shape[2:] == (50, 60)
    y, x = (np.average(np.arange(n), weights=net.blobs["crop"].data[0, 0].sum(1 - i)) for i, n in enumerate((50, 60)))
    assert abs(y - 20.5) < 2
    assert abs(x - 30.5) < 2


@pytest.mark.parametrize(("options", "shift"), [({}, 0), ({"pool": 4, "up": 4}, -1), ({"pad": 3}, -3), ({"cut": 2}, 2)])
def test_shifts(options: dict[str, int], shift: int) -> None:
    n = pyramid(**options)
    assert coord_map.coord_map_from_to(n.up, n.data) == (1, 1, shift)


def test_maps_along_each_axis_and_of_pointwise_layers() -> None:
    n = pyramid(kernel=[3, 5], stride=[1, 2], pad=[0, 10])
    n.relu = L.ReLU(n.up)
    _, scale, shift = coord_map.coord_map_from_to(n.relu, n.data)
    for k, one in enumerate((pyramid(), pyramid(kernel=5, stride=2, pad=10))):
        _, a, b = coord_map.coord_map_from_to(one.up, one.data)
        assert (scale[k], shift[k]) == (a, b)
    base, after = (1, 2.0, 3.0), (None, 0.5, -1.0)
    assert coord_map.compose(base, after) == (1, 1.0, 1.0)
    assert coord_map.inverse(base) == (1, 0.5, -1.5)
    with pytest.raises(coord_map.AxisMismatchException):
        coord_map.compose(base, (2, 1, 0))


def test_scripts_may_name_layers_that_pass_positions_through(monkeypatch: pytest.MonkeyPatch) -> None:
    n = pyramid()
    n.own = L.Own(n.up)
    with pytest.raises(RuntimeError, match="Could not compute map"):
        coord_map.coord_map_from_to(n.own, n.data)
    monkeypatch.setattr(coord_map, "PASS_THROUGH_LAYERS", [*coord_map.PASS_THROUGH_LAYERS, "Own"])
    assert coord_map.coord_map_from_to(n.own, n.data) == coord_map.coord_map_from_to(n.up, n.data)
    axis, offset = coord_map.crop_params(L.Crop(n.up, n.data, offset=[3, 4]).fn)
    assert (axis, offset.tolist()) == (2, [3, 4])


def test_crops_that_cannot_be() -> None:
    n = pyramid(pool=3)
    with pytest.raises(AssertionError, match="scale mismatch"):
        coord_map.crop(n.up, n.data)
    n = pyramid(cut=5)
    with pytest.raises(AssertionError, match="negative offset"):
        coord_map.crop(n.up, n.data)
    n = pyramid()
    n.ip = L.InnerProduct(n.up, num_output=2)
    with pytest.raises(RuntimeError, match="Could not compute map"):
        coord_map.coord_map_from_to(n.ip, n.data)
    with pytest.raises(coord_map.UndefinedMapException, match="InnerProduct"):
        coord_map.coord_map(n.ip.fn)
    n.odd = L.Convolution(n.data, kernel_h=3, kernel_w=2)
    with pytest.raises(AssertionError, match="kernel_h"):
        coord_map.coord_map(n.odd.fn)
    n.cropped = L.Crop(n.up, n.data, axis=2, offset=4)
    assert coord_map.coord_map_from_to(n.cropped, n.data)[2] == 4


# Pictures


def test_the_picture_of_a_net() -> None:
    net = parse_message(BRANCHES).message
    text = draw.dot_text(net, "LR")
    assert text.startswith('digraph "branches" {\nrankdir=LR;\n')
    assert '"conv_Convolution" [label="conv\\n(Convolution)\\nkernel size: 3\\nstride: 1\\npad: 0", shape=box' in text
    assert '"relu_ReLU" [label="relu\\n(ReLU)", shape=box, style=filled, fillcolor="#90EE90"]' in text
    assert '"data_blob" -> "conv_Convolution";' in text
    assert '"conv_Convolution" -> "conv_blob" [label="4"];' in text
    assert draw.draw_net(net, "LR", "dot") == text.encode()
    assert "kernel size" in draw.dot_text(net, "TB")
    assert 'label="4"' not in draw.dot_text(net, "LR", label_edges=False)
    assert "lr mult: 1.0, 2.0" in draw.dot_text(net, "LR", display_lrm=True)


def test_pictures_of_one_phase() -> None:
    net = spec().to_proto()
    assert "ip/out" in draw.dot_text(net, phase=caffe.TEST)
    assert "ip/out" not in draw.dot_text(net, phase=caffe.TRAIN)
    net.layer[4].ClearField("include")
    net.layer[4].exclude.add(phase=caffe.TEST)
    assert "ip/out" not in draw.dot_text(net, phase=caffe.TEST)
    net.layer[4].include.add()
    with pytest.raises(ValueError, match="both include and exclude"):
        draw.dot_text(net)


def test_parts_of_pictures() -> None:
    data, conv, _, pool, ip, silence = spec().to_proto().layer
    assert draw.get_layer_lr_mult(conv) == (2, 0)
    assert draw.get_layer_lr_mult(ip) == (1, 1)
    with pytest.raises(ValueError, match="Pooling"):
        draw.get_layer_lr_mult(pool)
    assert [draw.get_edge_label(layer) for layer in (conv, ip, pool)] == ["4", "5", ""]
    assert draw.get_pooling_types_dict() == {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
    assert draw.get_layer_label(pool, "TB") == "pool (Pooling AVE) kernel size: 2 stride: 1 pad: 0"
    assert draw.choose_color_by_layertype("Pooling") != draw.choose_color_by_layertype("ReLU")
    assert data.type == "MemoryData"
    assert silence.type == "Silence"


def test_names_with_quotes_stay_names() -> None:
    net = caffe.proto.caffe_pb2.NetParameter()
    net.layer.add(name='a"b\\', type="ReLU", top=["x"])
    # A backslash of the name is doubled, so that no escaped control character passes for it; DOT doubles both again.
    assert '"a\\"b\\\\\\\\_ReLU" [' in draw.dot_text(net)


def test_other_formats_are_drawn_by_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    net = spec().to_proto()
    with pytest.raises(MissingExtraError, match="Graphviz"):
        draw.draw_net(net, "LR")
    program = tmp_path / "dot"
    body = "import sys\nsys.exit('bad' if sys.argv[1] == '-Tbad' else print(sys.argv[1], sys.stdin.read()))\n"
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    draw.draw_net_to_file(net, str(tmp_path / "net.svg"), "BT")
    assert (tmp_path / "net.svg").read_text().startswith('-Tsvg digraph "Net" {\nrankdir=BT;')
    with pytest.raises(UsageError, match=r"\.bad: bad"):
        draw.draw_net(net, "LR", "bad")


def test_pydot_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(MissingExtraError, match=r"caffe-compat\[draw\]"):
        draw.get_pydot_graph(spec().to_proto(), "LR")
