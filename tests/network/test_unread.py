"""Fields that nobody reads, layers in place, layers without weights: an error, or said ever after."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat.cli import main
from caffe_compat.errors import CaffeCompatWarning, LayerError, NetworkError, WeightsError
from caffe_compat.network.checkpoint import read_checkpoint, save_checkpoint
from caffe_compat.network.in_place import REFUSED, SAFE
from caffe_compat.network.unread import IgnoredField
from caffe_compat.schema.harmless import HARMLESS, harmless_reason
from caffe_compat.schema.prototxt import parse_message
from tests.networks import filled, input_layer, ip, layer, net_of, write_weights

X = input_layer("x", 1, 1, 6, 6)


def built(
    text: str, dialect: str | None = None, phase: str = "TEST", ignore: tuple[str, ...] = ()
) -> caffe_compat.CaffeNet:
    parsed = parse_message(text, dialect=dialect)
    state = caffe_compat.NetState(phase)
    return caffe_compat.CaffeNet(parsed.message, state, dialect=parsed.schema.name, ignore_fields=ignore)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (layer("r", "ReLU", "x", "y", "relu_params { negative_slope: 0.1 }"), "relu_param?"),
        (
            layer("p", "Pooling", "x", "y", "pooling_param_ { stride: 2 } pooling_param { kernel_size: 2 }"),
            "pooling_param?",
        ),
        (layer("r", "ReLU", "x", "y", 'rounding_of_weights: "Ternary"'), ""),
        (layer("r", "ReLU", "x", "y", "relu_param { negativ_slope: 0.1 }"), "negative_slope?"),
        (ip("f", "x", "y", 3, "param { lr_mul: 2 }"), "lr_mult?"),
    ],
)
def test_a_field_that_no_schema_knows(text: str, near: str) -> None:
    with pytest.raises(LayerError, match=r"line \d+, column \d+: .*no such field") as caught:
        built(X + text)
    assert f"did you mean {near}" in str(caught.value) if near else "did you mean" not in str(caught.value)
    name = str(caught.value).rpartition("--ignore-field ")[2].partition(" ")[0]
    net = built(X + text, ignore=(name,))
    assert [(ignored.field, ignored.accepted) for ignored in net.ignored] == [(name, True)]
    assert any(name in warning for warning in net.warnings)


def test_a_misspelt_message_is_named_before_what_it_leaves_missing() -> None:
    with pytest.raises(LayerError, match="did you mean pooling_param"):
        built(X + layer("p", "Pooling", "x", "y", "pooling_param_ { kernel_size: 2 }"))


def test_a_field_of_the_network_that_no_schema_knows() -> None:
    with pytest.raises(NetworkError, match=r"force_backwards \(no such field in NetParameter\); did you mean force_b"):
        built("force_backwards: true " + X + layer("r", "ReLU", "x", "y"))


def test_a_field_under_ones_own_schema_that_no_builder_reads(tmp_path: Path) -> None:
    (tmp_path / "own.proto").write_text(
        "package caffe; message LayerParameter { optional string rounding_of_weights = 900; }", encoding="utf-8"
    )
    text = X + layer("r", "ReLU", "x", "y", 'rounding_of_weights: "Ternary"')
    own = str(tmp_path / "own.proto")
    with pytest.raises(LayerError, match=r"rounding_of_weights means nothing to type ReLU.*--ignore-field rounding"):
        built(text, dialect=own)
    net = built(text, dialect=own, ignore=("rounding_of_weights",))
    assert net.ignored[0] == IgnoredField("r", "ReLU", "rounding_of_weights", "accepted by name", True)


def test_what_caffe_itself_does_not_read_is_said() -> None:
    net = built(X + layer("p", "Pooling", "x", "y", "pooling_param { kernel_size: 2 } convolution_param { stride: 3 }"))
    assert [str(ignored) for ignored in net.ignored] == [
        "layer 'p' (Pooling): convolution_param is ignored: the type does not read it, in Caffe either"
    ]


@pytest.mark.parametrize("entry", HARMLESS, ids=lambda entry: entry.fields[0])
def test_harmless_fields_have_a_reason_and_their_forks(entry: Any) -> None:
    for dialect in entry.dialects or ("bvlc",):
        for field in entry.fields:
            assert harmless_reason(field, "Convolution", "TEST", dialect) == entry.reason
            assert (harmless_reason(field, "Convolution", "TRAIN", dialect) is None) == entry.only_in_test
            if entry.dialects:
                assert harmless_reason(field, "Convolution", "TEST", "bvlc") is None


def test_harmless_fields_build_where_they_are_harmless() -> None:
    convolution = "convolution_param { num_output: 2 kernel_size: 1 } prune_param { prune_ratio: 0.9 }"
    text = X + layer("c", "Convolution", "x", "y", convolution)
    net = built(text, "MingSun-Tse/Caffe_IncReg")
    assert "prunes in training" in net.warnings[0]
    with pytest.raises(LayerError, match="prune_param means nothing to type Convolution here"):
        built(text, "MingSun-Tse/Caffe_IncReg", "TRAIN")


@pytest.mark.parametrize("mode", ["CONNECTED", "DISCONNECTED_ELTWISE", "DISCONNECTED_GRPWISE"])
def test_connections_are_cut_in_training_alone(mode: str) -> None:
    convolution = f"connectivity_mode: {mode} convolution_param {{ num_output: 2 kernel_size: 1 }}"
    text = X + layer("c", "Convolution", "x", "y", convolution)
    assert "keeps weights at zero in training" in built(text, "IntelLabs/SkimCaffe").warnings[0]
    with pytest.raises(LayerError, match="connectivity_mode means nothing to type Convolution here"):
        built(text, "IntelLabs/SkimCaffe", "TRAIN")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("operation: max", "value 'max' is none of EltwiseParameter.EltwiseOp: PROD, SUM, MAX"),
        ("stable_prod_grad: 2", "value '2' is not true or false in EltwiseParameter"),
    ],
)
def test_a_wrong_value_tells_the_right_ones_and_no_near_name(value: str, said: str) -> None:
    text = X + layer("e", "Eltwise", "x x", "y", f"eltwise_param {{ {value} }}")
    with pytest.raises(LayerError, match=re.escape(f"({said})") + "$"):
        built(text)


@pytest.mark.parametrize(
    ("type_", "more", "name"),
    [
        ("LRN", 'lrn_param { local_size: "abc" }', "local_size"),
        ("ReLU", 'lrn_param { local_size: "abc" }', "lrn_param"),
        ("ReLU", "transform_param { mirror: 7 }", "transform_param"),
        ("ReLU", "convolution_param { weight_filler { variance_norm: FAN } }", "convolution_param"),
    ],
)
def test_no_wrong_value_is_accepted_by_name(type_: str, more: str, name: str) -> None:
    for accepted in ((), (name,), ("*",)):
        with pytest.raises(LayerError, match=r"value .* is (none|not)") as caught:
            built(X + layer("r", type_, "x", "y", more), ignore=accepted)
        assert "--ignore-field" not in str(caught.value)


def test_the_pt_and_inspect_say_what_was_let_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = X + ip("f", "x", "y", 3) + layer("r", "ReLU", "y", "z", "relu_params { negative_slope: 0.1 }")
    Path("net.prototxt").write_text(text)
    twin = filled(X + ip("g", "x", "y", 3))
    from caffe_compat.training.solver.snapshot import write_model

    write_model(Path("w.caffemodel"), twin, hdf5=False)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main([*words])
        out = capsys.readouterr()
        return int(done.value.code or 0), out.out + out.err

    status, said = run("convert", "net.prototxt", "w.caffemodel", "-o", "net.pt")
    assert (status, "relu_params" in said, Path("net.pt").exists()) == (2, True, False)
    status, said = run("convert", "net.prototxt", "w.caffemodel", "-o", "net.pt", "--ignore-field", "relu_params")
    assert (status, "has no weights for layer 'f'" in said, Path("net.pt").exists()) == (2, True, False)
    accept = ("--ignore-field", "relu_params", "--fill-missing")
    status, said = run("convert", "net.prototxt", "w.caffemodel", "-o", "net.pt", *accept)
    assert status == 0
    content = read_checkpoint("net.pt")
    assert content.ignored == (IgnoredField("r", "ReLU", "relu_params", "accepted by name", True),)
    assert content.unfilled == ("f",)
    net = caffe_compat.load("net.pt")
    assert (net.ignored, net.unfilled) == (content.ignored, ("f",))
    save_checkpoint(net, "again.pt")
    assert read_checkpoint("again.pt").ignored == content.ignored
    status, said = run("inspect", "again.pt")
    assert (status, "relu_params is ignored" in said, "initial values: f" in said) == (0, True, True)
    status, said = run("inspect", "again.pt", "--json")
    assert json.loads(said.partition("\n")[0])["checkpoint"]["unfilled"] == ["f"]


def test_files_that_do_not_say_load_as_ever(tmp_path: Path) -> None:
    text = X + layer("r", "ReLU", "x", "y", "relu_params { negative_slope: 0.1 }")
    save_checkpoint(built(text, ignore=("relu_params",)).materialize(), tmp_path / "net.pt")
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    del content["ignored"], content["unfilled"]
    torch.save(content, tmp_path / "old.pt")
    assert [ignored.field for ignored in caffe_compat.load(tmp_path / "old.pt").ignored] == ["relu_params"]


# In place


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_layers_that_caffe_refuses_in_place(kind: str) -> None:
    more = "reshape_param { shape { dim: 0 dim: -1 } }" if kind == "Reshape" else ""
    with pytest.raises(LayerError, match=rf"\({kind}\): writes over its bottom 'x', which Caffe refuses"):
        net_of(X + layer("l", kind, "x", "x", more))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Pooling", "pooling_param { kernel_size: 2 }"),
        ("Slice", ""),
        ("Tile", "tile_param { tiles: 2 }"),
        ("ArgMax", ""),
        ("LRN", ""),
    ],
)
def test_layers_that_caffe_computes_wrongly_in_place(kind: str, more: str) -> None:
    warnings = net_of(X + layer("l", kind, "x", "x", more)).warnings
    assert [warning.partition(":")[0] for warning in warnings] == [f"layer 'l' ({kind})"]


def test_elementwise_layers_in_place_are_fine() -> None:
    assert not REFUSED & SAFE
    assert net_of(X + layer("l", "ReLU", "x", "x") + layer("d", "Dropout", "x", "x")).warnings == []


# Layers without weights


def test_missing_weights_are_an_error_unless_asked_for(tmp_path: Path) -> None:
    from caffe_compat.training.solver.snapshot import write_model

    write_model(tmp_path / "w.caffemodel", filled(X + ip("f", "x", "y", 3)), hdf5=False)
    (tmp_path / "net.prototxt").write_text(X + ip("f", "x", "y", 3) + ip("g", "y", "z", 2))
    paths = (tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    for call in (caffe_compat.load, caffe_compat.convert):
        with pytest.raises(WeightsError, match=r"has no weights for layer 'g'.*fill_missing=True"):
            call(*paths)
    conversion = caffe_compat.convert(*paths, fill_missing=True)
    assert conversion.net.unfilled == ("g",)
    with pytest.warns(CaffeCompatWarning, match="no weights for layer 'g'"):
        caffe_compat.load(*paths, fill_missing=True)


def test_of_layers_of_one_name_the_first_alone_gets_weights(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.caffemodel", [("f", [np.ones((36, 36)), np.ones(36)])])
    text = X + ip("f", "x", "y", 36) + ip("f", "y", "z", 36)
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(
        WeightsError, match=r"no weights for layer 'f' \(of several named 'f', the first gets the file's\)"
    ):
        caffe_compat.load(tmp_path / "net.prototxt", weights)
    net = caffe_compat.convert(tmp_path / "net.prototxt", weights, fill_missing=True).net
    assert net.unfilled == ("f",)
    assert [blob.sum().item() for blob in (net.f.weight, net.get_submodule("f#2").weight)] == [36 * 36, 0]


def test_a_layer_twice_in_a_weights_file_is_said(tmp_path: Path) -> None:
    from caffe_compat.training.solver.snapshot import write_model

    for name, seed in (("a", 1), ("b", 2)):
        net = net_of(X + ip("f", "x", "y", 3)).materialize(seed)
        with torch.no_grad():
            net.f.bias.fill_(seed)
        write_model(tmp_path / name, net, hdf5=False)
    (tmp_path / "w.caffemodel").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    (tmp_path / "net.prototxt").write_text(X + ip("f", "x", "y", 3))
    conversion = caffe_compat.convert(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    assert conversion.net.f.bias.tolist() == [2, 2, 2]
    assert any("has layer 'f' twice; the last one counts" in warning for warning in conversion.warnings)


def test_weights_beyond_float32_are_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "w.caffemodel.h5", "w") as file:
        file["data/f/0"], file["data/f/1"] = np.full((3, 36), 1e39), np.zeros(3)
    (tmp_path / "net.prototxt").write_text(X + ip("f", "x", "y", 3))
    with pytest.raises(WeightsError, match=r"layer 'f', blob 0 \(weight\): the file's float64 holds numbers beyond"):
        caffe_compat.convert(tmp_path / "net.prototxt", tmp_path / "w.caffemodel.h5")


# Sums that overwrite their first bottom

NVIDIA = "NVIDIA/caffe"
SUM = layer("sum", "Eltwise", "a b", "sum")
TWO_WAYS = ip("a", "x", "a", 4) + ip("b", "x", "b", 4)


def test_a_sum_whose_first_bottom_nobody_else_needs_may_overwrite_it() -> None:
    text = "eltwise_mem_sharing: true " + X + TWO_WAYS + SUM
    for phase in ("TEST", "TRAIN"):
        assert built(text, NVIDIA, phase).warnings == []


@pytest.mark.parametrize(
    ("text", "phase", "who"),
    [
        (TWO_WAYS + SUM + layer("late", "TanH", "a", "late"), "TEST", "layer 'late' (TanH) reads"),
        (
            layer("f", "Flatten", "x", "a") + ip("b", "x", "b", 36) + SUM + ip("late", "x", "late", 2),
            "TEST",
            "layer 'late' (InnerProduct) reads",
        ),
        (TWO_WAYS + layer("early", "TanH", "a", "early") + SUM, "TRAIN", "layer 'early' (TanH) reads"),
        (TWO_WAYS + layer("r", "ReLU", "a", "a") + SUM, "TRAIN", "the gradient of layer 'r' (ReLU) looks at"),
    ],
)
def test_a_sum_that_overwrites_what_is_needed_is_refused(text: str, phase: str, who: str) -> None:
    on = "eltwise_mem_sharing: true " + X + text
    detail = f"the sum of layer 'sum' overwrites its bottom 'a', which {who}"
    with pytest.raises(NetworkError, match=re.escape(f"eltwise_mem_sharing is on: {detail}, and")):
        built(on, NVIDIA, phase)
    for net in (built(on, NVIDIA, phase, ignore=("eltwise_mem_sharing",)), built(X + text, NVIDIA, phase)):
        assert [detail in warning for warning in net.warnings] == [True]
    assert built("eltwise_mem_sharing: false " + X + text, NVIDIA, phase).warnings == []
    assert built(X + text, "bvlc", phase).warnings == []


@pytest.mark.parametrize("how", ["coeff: 1 coeff: -1", "operation: MAX"])
def test_only_plain_sums_overwrite(how: str) -> None:
    total = layer("sum", "Eltwise", "a b", "sum", f"eltwise_param {{ {how} }}")
    text = "eltwise_mem_sharing: true " + X + TWO_WAYS + total + layer("late", "TanH", "a", "late")
    assert built(text, NVIDIA).warnings == []


def test_what_is_read_before_the_sum_is_not_needed_afterwards_unless_in_training() -> None:
    text = "eltwise_mem_sharing: true " + X + TWO_WAYS + layer("early", "TanH", "a", "early") + SUM
    assert built(text, NVIDIA).warnings == []
