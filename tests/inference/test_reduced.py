"""Nets that compute in bfloat16 inside: what they give, how far that is off, and where there is none."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from caffe_compat.cli import main
from caffe_compat.errors import FileError, UsageError
from caffe_compat.inference import choosing, engines, optimization
from caffe_compat.inference.engines import Session
from caffe_compat.inference.fused import Fused
from caffe_compat.inference.processor import has_bfloat16
from caffe_compat.inference.reduced import Reduced
from caffe_compat.network.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from caffe_compat.network.net import CaffeNet
from tests.inference.patterns import batch_norm, build, conv, example, in_place
from tests.networks import layer

LAYERS = (
    conv("a", "data"),
    batch_norm("a"),
    in_place("ReLU", "a"),
    layer("p", "Pooling", "a", "p", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
    conv("b", "p", "group: 2"),
    layer("s", "Eltwise", "p b", "s"),
    in_place("ReLU", "s", "relu_param { negative_slope: 0.1 }"),
    layer("n", "LRN", "s", "n"),
    layer("k", "Concat", "n s", "k"),
    layer("prelu", "PReLU", "k", "r"),
    layer("up", "Deconvolution", "r", "u", "convolution_param { num_output: 3 kernel_size: 2 stride: 2 }"),
    layer("fc", "InnerProduct", "u", "f", "inner_product_param { num_output: 7 }"),
    layer("less", "Power", "f", "less", "power_param { scale: 0.001 shift: 0.5 }"),
    layer("prob", "Softmax", "less", "prob"),
    layer("raw", "Pooling", "s", "raw", "pooling_param { pool: AVE global_pooling: true }"),
)
FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has it. (Torch computes the same on one that has not, only slowly.)"""
    for module in (optimization, choosing):
        monkeypatch.setattr(module, "has_bfloat16", lambda device: True)


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (optimization, choosing):
        monkeypatch.setattr(module, "has_bfloat16", lambda device: False)


@pytest.mark.usefixtures("able")
class TestTorch:
    def test_outputs_are_float32_and_how_far_they_are_off_is_said(self) -> None:
        net = build(*LAYERS)
        form = net.optimize(dtype="bfloat16")
        assert form.device_and_dtype() == (torch.device("cpu"), torch.float32)
        reduced = {n for n, m in form.named_children() if isinstance(m, Fused) and m.reduced}
        assert reduced == {"a", "b", "up", "fc"}
        given = example(net)
        expected = net.run(given)
        for found in (form(**given), form.run(given)):
            for name, x in expected.items():
                assert found[name].dtype == torch.float32
                off = float((found[name] - x).abs().max() / x.abs().max())
                assert 1e-5 < off < 0.05
        assert form.reduced is not None
        assert form.reduced.dtype == "bfloat16"
        assert form.reduced.off.keys() == expected.keys()
        assert all(1e-5 < off < 0.05 for off in form.reduced.off.values())
        assert str(form.reduced).startswith("bfloat16, off by (of the largest value): prob ")

    def test_what_is_off_is_measured(self) -> None:
        form = build(*LAYERS).optimize(dtype="bfloat16")
        net = build(*LAYERS)
        inputs, expected = choosing._tried(net)
        for name, x in form(**inputs).items():
            off = float((x - expected[name]).abs().max() / expected[name].abs().max())
            assert form.reduced.off[name] == pytest.approx(off, rel=1e-3)

    def test_copies_and_pickles(self) -> None:
        net = build(*LAYERS)
        form = net.optimize(dtype="bfloat16")
        expected = form(**example(net))
        for other in (copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
            assert other.reduced == form.reduced
            for name, x in other(**example(net)).items():
                assert torch.equal(x, expected[name])

    def test_it_cannot_be_cast(self) -> None:
        form = build(*LAYERS).optimize(dtype="bfloat16")
        with pytest.raises(UsageError, match="bfloat16 inside cannot be cast; cast the net"):
            form.half()
        form.to("cpu")

    def test_a_pt_has_it(self, tmp_path: Path) -> None:
        net = build(*LAYERS)
        save_checkpoint(net, tmp_path / "net.pt", optimized=True, computed="bfloat16")
        stored = read_checkpoint(tmp_path / "net.pt").reduced
        form = load_checkpoint(tmp_path / "net.pt")
        assert form.reduced is not None
        assert stored == form.reduced == net.optimize(dtype="bfloat16").reduced

    def test_auto_measures_what_there_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def opened(net: CaffeNet, shapes: Mapping[str, tuple[int, ...]], threads: int) -> Session:
            asked.append(threads)
            return right.open(net, shapes, threads)

        right = engines.engines()["openvino"]
        monkeypatch.setitem(engines.engines(), "openvino", dataclasses.replace(right, open_in_bfloat16=opened))
        net = build(*LAYERS)
        form = net.optimize(engine="auto", dtype="bfloat16")
        assert asked
        assert form.choice is not None
        assert sorted(form.choice.milliseconds) == ["openvino", "torch"]
        assert form.choice.refused == {
            "onnxruntime": "engine onnxruntime does not compute in bfloat16; torch, openvino may"
        }
        assert form.reduced is not None
        other = net.optimize(engine="openvino", dtype="bfloat16")
        assert other.reduced is not None
        assert max(other.reduced.off.values()) < 1e-5  # what opened it here computes in float32

    def test_what_there_is_not(self) -> None:
        net = build(*LAYERS)
        with pytest.raises(UsageError, match="dtype 'float8': one of float32, bfloat16 was expected"):
            net.optimize(dtype="float8")
        with pytest.raises(UsageError, match="for dtype 'bfloat16' all are needed"):
            net.optimize(["drop-idle"], dtype="bfloat16")
        with pytest.raises(UsageError, match=r"is for nets in float32; this one is torch\.float64"):
            net.double().optimize(dtype="bfloat16")
        with pytest.raises(UsageError, match="bfloat16 is what an inference form computes in; ask for one"):
            save_checkpoint(net, "unwritten.pt", computed="bfloat16")


@pytest.mark.usefixtures("unable")
class TestWithout:
    @pytest.mark.parametrize("engine", ["torch", "auto"])
    def test_it_is_refused(self, engine: str) -> None:
        with pytest.raises(UsageError, match=r"this processor \(.+\) does not compute in it, and would be slower"):
            build(*LAYERS).optimize(engine=engine, dtype="bfloat16")

    def test_a_pt_from_elsewhere_computes_in_float32_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        net = build(*LAYERS)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(optimization, "has_bfloat16", lambda device: True)
            save_checkpoint(net, tmp_path / "net.pt", optimized=True, computed="bfloat16")
        form = load_checkpoint(tmp_path / "net.pt")
        assert form.reduced is None
        assert form.notes[-1].startswith("computes in float32: this processor (")
        for name, x in net.run(example(net)).items():
            torch.testing.assert_close(form(**example(net))[name], x, rtol=1e-4, atol=1e-5)


def test_openvino_asks_its_runtime() -> None:
    openvino = pytest.importorskip("openvino")
    there = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    net = build(conv("a", "data"), in_place("ReLU", "a"))
    if there:
        form = net.optimize(engine="openvino", dtype="bfloat16")
        assert form.reduced is not None
        assert 1e-5 < form.reduced.off["a"] < 0.05
    else:
        with pytest.raises(UsageError, match="OpenVINO does not compute in it on this processor"):
            net.optimize(engine="openvino", dtype="bfloat16")


def test_the_processor_is_asked() -> None:
    assert has_bfloat16(torch.device("meta")) is False
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" in flags:  # of an x86
        assert has_bfloat16(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_bf16" in flags)


def test_a_record_is_checked() -> None:
    for reduced in (Reduced("bfloat16", {"prob": 0.01}), Reduced("bfloat16", {"found": math.inf})):
        assert Reduced.from_record(reduced.to_record()) == reduced
    assert str(reduced) == "bfloat16, off by (of the largest value): found of another shape"
    record = Reduced("bfloat16", {"prob": 0.01}).to_record()
    for wrong in ({"dtype": "int8"}, {"off": 5}, {"off": {"prob": math.nan}}, {"off": {1: 0.5}}, {"more": 1}):
        with pytest.raises((TypeError, ValueError)):
            Reduced.from_record({**record, **wrong})


@pytest.mark.usefixtures("able")
def test_a_damaged_record_is_an_error_of_the_file(tmp_path: Path) -> None:
    save_checkpoint(build(*LAYERS), tmp_path / "net.pt", optimized=True, computed="bfloat16")
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    content["reduced"] = {"dtype": "bfloat16", "off": "little"}
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(FileError):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.usefixtures("able")
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def status(*words: object) -> object:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, words)))
        return ended.value.code

    files = [FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel"]
    out = tmp_path / "net.pt"
    assert status("convert", *files, "-o", out, "--optimize", "--compute", "bfloat16") == 0
    assert status("inspect", out) == 0
    assert "computes in bfloat16, off by (of the largest value): prob " in capsys.readouterr().out
    assert status("convert", *files, "-o", out, "--compute", "bfloat16") == 2
    assert "--compute bfloat16 is for --optimize" in capsys.readouterr().err
