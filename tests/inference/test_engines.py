"""Nets that another runtime runs: the numbers of the net, its state dict, pickles, and the choice of the fastest."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import gc
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import caffe_compat
from caffe_compat import CaffeNet
from caffe_compat.cli import main
from caffe_compat.errors import MissingExtraError, ParityError, UsageError
from caffe_compat.inference import choosing, engines
from caffe_compat.inference.choice import Choice
from caffe_compat.inference.processor import processor
from caffe_compat.network.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint

NET = """
layer { name: "data" type: "Input" top: "data" top: "scale"
  input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } shape { dim: 2 dim: 4 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "pool" bottom: "scale" top: "sum" }
layer { name: "twice" type: "Power" bottom: "scale" top: "twice" power_param { scale: 2 } }
"""
LSTM = """
layer { name: "x" type: "Input" top: "x" top: "cont"
  input_param { shape { dim: 3 dim: 1 dim: 4 } shape { dim: 3 dim: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 5
  weight_filler { type: "uniform" } bias_filler { type: "uniform" } } }
"""
FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"
EVERY = sorted(engines.engines())


@pytest.fixture
def net(tmp_path: Path) -> CaffeNet:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return caffe_compat.load(path, seed=3).requires_grad_(False)


def drawn(batch: int = 2, size: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {
        "data": torch.randn(batch, 3, size, size, generator=generator),
        "scale": torch.randn(batch, 4, size // 2, size // 2, generator=generator),
    }


@pytest.fixture
def lstm(tmp_path: Path) -> CaffeNet:
    (tmp_path / "lstm.prototxt").write_text(LSTM)
    return caffe_compat.load(tmp_path / "lstm.prototxt", seed=1).requires_grad_(False)


def steps(seed: int, streams: int) -> dict[str, Tensor]:
    """Inputs of the LSTM that go on from those before."""
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(3, streams, 4, generator=generator), "cont": torch.ones(3, streams)}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, reference in expected.items():
        torch.testing.assert_close(found[name], reference, rtol=1e-5, atol=1e-6)


def test_the_engines_that_this_distribution_brings() -> None:
    assert EVERY == ["onnxruntime", "openvino"]


@pytest.mark.parametrize("engine", EVERY)
class TestEngine:
    def test_outputs_of_any_batch_and_size(self, net: CaffeNet, engine: str) -> None:
        form = net.optimize(engine=engine)
        assert form.engine == engine
        for batch, size in ((2, 12), (5, 12), (1, 16), (2, 12)):
            assert_alike(form(**drawn(batch, size)), net(**drawn(batch, size)))

    def test_arrays_and_places_are_taken_too(self, net: CaffeNet, engine: str) -> None:
        form, given = net.optimize(engine=engine), drawn()
        expected = net(**given)
        assert_alike(form(given["data"], given["scale"]), expected)
        assert_alike(form.run({name: x.double().numpy() for name, x in given.items()}), expected)

    def test_pickles_and_copies_run(self, net: CaffeNet, engine: str) -> None:
        form = net.optimize(engine=engine)
        expected = form(**drawn())
        for other in (pickle.loads(pickle.dumps(form)), copy.deepcopy(form)):
            assert other.engine == engine
            for name, x in other(**drawn()).items():
                assert torch.equal(x, expected[name])

    def test_the_state_dict_is_the_nets(self, net: CaffeNet, engine: str) -> None:
        form = net.optimize(engine=engine)
        state = form.state_dict()
        assert state.keys() == net.state_dict().keys()
        for name, x in net.state_dict().items():
            assert state[name].data_ptr() == x.data_ptr()  # one copy of the weights

    def test_what_becomes_of_the_net_later_changes_nothing(self, net: CaffeNet, engine: str) -> None:
        form = net.optimize(engine=engine)
        expected = net(**drawn())
        with torch.no_grad():
            net.conv.weight.zero_()
        assert_alike(form(**drawn()), expected)

    def test_results_are_ones_own(self, net: CaffeNet, engine: str) -> None:
        form = net.optimize(engine=engine)
        first = form(**drawn())
        kept = {name: x.clone() for name, x in first.items()}
        form(
            **drawn(2, 12),
        ) and form(**{name: x * 2 for name, x in drawn().items()})
        for name, x in first.items():
            assert torch.equal(x, kept[name])

    def test_what_it_cannot_do_is_said(self, net: CaffeNet, engine: str, tmp_path: Path) -> None:
        form = net.optimize(engine=engine)
        with pytest.raises(UsageError, match=f"blob 'pool' is inside {engine}"):
            form.run(drawn(), blobs=["pool"])
        with pytest.raises(UsageError, match="runs on the cpu in float32; move or cast the net"):
            form.double()
        with pytest.raises(UsageError, match=r"runs nets on the cpu in float32; this one is torch.float64 on cpu"):
            copy.deepcopy(net).double().optimize(engine=engine)
        with pytest.raises(UsageError, match="has its own"):
            net.optimize(["drop-idle"], engine=engine)

    def test_an_input_that_only_goes_into_silence_is_taken(self, engine: str, tmp_path: Path) -> None:
        label = NET.replace('top: "scale"', 'top: "scale" top: "label"', 1).replace(
            "dim: 6 } }", "dim: 6 } shape { dim: 2 } }"
        )
        (tmp_path / "net.prototxt").write_text(label + 'layer { name: "silence" type: "Silence" bottom: "label" }')
        net = caffe_compat.load(tmp_path / "net.prototxt", seed=3).requires_grad_(False)
        given = {**drawn(), "label": torch.zeros(2)}
        assert_alike(net.optimize(engine=engine)(**given), net(**given))

    def test_state_goes_on_as_in_the_net(self, lstm: CaffeNet, engine: str) -> None:
        form = lstm.optimize(engine=engine)
        lstm.reset_state()
        for run, streams in enumerate((1, 1, 3, 2, 3)):  # with more streams than before all begin anew, as in Caffe
            assert_alike(form(**steps(run, streams)), lstm(**steps(run, streams)))
        others = pickle.loads(pickle.dumps(form)), copy.deepcopy(form)
        expected = lstm(**steps(7, 3))
        for other in (*others, form):
            assert_alike(other(**steps(7, 3)), expected)
        lstm.reset_state()
        form.reset_state()
        anew = lstm(**steps(7, 3))
        assert_alike(form(**steps(7, 3)), anew)
        assert not torch.allclose(anew["h"], expected["h"])

    def test_what_the_net_remembers_is_left_to_it(self, lstm: CaffeNet, engine: str) -> None:
        lstm(**steps(0, 1))
        before = lstm.lstm.hidden.clone()
        assert lstm.optimize(engine=engine).lstm.hidden.abs().max() == 0
        lstm.optimize(engine="auto")
        assert torch.equal(lstm.lstm.hidden, before)

    @pytest.mark.skipif(sys.platform == "win32", reason="signals there have no stack")
    def test_forms_that_come_and_go_leave_the_stack_of_signals(self, net: CaffeNet, engine: str) -> None:
        """A stack that a runtime has freed ends the process at the next Ctrl-C."""

        def stack() -> bytes:
            told = ctypes.create_string_buffer(64)
            assert ctypes.CDLL(None).sigaltstack(None, told) == 0
            return told.raw

        net.optimize(engine=engine)(**drawn())
        before = stack()
        forms = [net.optimize(engine=engine) for _ in range(2)]
        for form in forms:
            form(**drawn())
        del form, forms[0]
        gc.collect()
        forms.clear()
        gc.collect()
        assert stack() == before

    def test_a_pt_opens_in_it(self, net: CaffeNet, engine: str, tmp_path: Path) -> None:
        save_checkpoint(net, tmp_path / "net.pt", optimized=engine)
        assert read_checkpoint(tmp_path / "net.pt").engine == engine
        form = load_checkpoint(tmp_path / "net.pt")
        assert form.engine == engine
        assert_alike(form(**drawn()), net(**drawn()))


def test_an_engine_that_there_is_not(net: CaffeNet) -> None:
    with pytest.raises(UsageError, match="no engine 'warp'; known are auto, plain, torch, onnxruntime, openvino"):
        net.optimize(engine="warp")


def test_an_engine_that_is_not_installed(net: CaffeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(engines.engines()["openvino"], needs={"no_such_package": "openvino"})
    monkeypatch.setitem(engines.engines(), "openvino", absent)
    with pytest.raises(MissingExtraError, match=r'pip install "caffe-compat\[openvino\]"'):
        net.optimize(engine="openvino")
    choice = net.optimize(engine="auto").choice
    assert choice is not None
    assert choice.refused == {"openvino": "is not installed"}


class TestAuto:
    def test_it_takes_the_fastest(self, net: CaffeNet, monkeypatch: pytest.MonkeyPatch) -> None:
        took = {"torch": 3.0, "plain": 4.0, "onnxruntime": 2.0, "openvino": 1.0}
        monkeypatch.setattr(choosing, "_measured", lambda forms, inputs: {name: took[name] for name in forms})
        form = net.optimize(engine="auto")
        assert form.engine == "openvino"
        assert form.choice is not None
        assert form.choice.milliseconds == took
        assert max(form.choice.off.values()) < 1e-5
        assert_alike(form(**drawn()), net(**drawn()))

    def test_it_measures(self, net: CaffeNet) -> None:
        choice = net.optimize(engine="auto").choice
        assert choice is not None
        assert sorted(choice.milliseconds) == ["onnxruntime", "openvino", "plain", "torch"]
        assert all(ms > 0 for ms in choice.milliseconds.values())

    def test_an_engine_that_is_wrong_is_left_out(self, net: CaffeNet, monkeypatch: pytest.MonkeyPatch) -> None:
        right = engines.engines()["openvino"]

        def wrong(net: CaffeNet, shapes: Mapping[str, tuple[int, ...]], threads: int) -> engines.Session:
            session = right.open(net, shapes, threads)
            return lambda inputs: {name: x * 1.001 for name, x in session(inputs).items()}

        monkeypatch.setitem(engines.engines(), "openvino", dataclasses.replace(right, open=wrong))
        choice = net.optimize(engine="auto").choice
        assert choice is not None
        assert "openvino" not in choice.milliseconds
        assert choice.refused["openvino"].endswith("e-03 of the largest value")
        with pytest.raises(ParityError, match=r"in openvino .* departs from the net: off by .*; engine=torch keeps to"):
            net.optimize(engine="openvino")

    def test_the_net_as_it_is_may_be_the_fastest(
        self, net: CaffeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(choosing, "_measured", lambda forms, inputs: {n: float(n != "plain") for n in forms})
        form = net.optimize(engine="auto")
        assert (form.engine, form.passes) == ("plain", ())
        expected = net(**drawn())
        for name, x in form(**drawn()).items():
            assert torch.equal(x, expected[name])
        with pytest.raises(UsageError, match="cannot be trained"):
            form.train()
        save_checkpoint(net, tmp_path / "net.pt", optimized="auto")
        assert load_checkpoint(tmp_path / "net.pt").engine == "plain"
        assert net.optimize(engine="plain").engine == "plain"

    def test_a_net_that_no_engine_runs(self, net: CaffeNet, monkeypatch: pytest.MonkeyPatch) -> None:
        form = net.double().optimize(engine="auto")
        assert form.choice is not None
        assert sorted(form.choice.milliseconds) == ["plain", "torch"]
        monkeypatch.setattr(choosing, "engines", dict)
        assert sorted(net.float().optimize(engine="auto").choice.milliseconds) == ["plain", "torch"]

    def test_a_pt_remembers_what_was_chosen(
        self, net: CaffeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(choosing, "_measured", lambda forms, inputs: {name: float(-len(name)) for name in forms})
            patched.setattr(choosing, "processor", lambda: "some processor")
            save_checkpoint(net, tmp_path / "net.pt", optimized="auto")
            stored = read_checkpoint(tmp_path / "net.pt").choice
            assert stored is not None
            assert (stored.engine, stored.processor) == ("onnxruntime", "some processor")
            patched.setattr(choosing, "choose", lambda net: pytest.fail("measured anew"))
            form = load_checkpoint(tmp_path / "net.pt")
            assert (form.engine, form.choice) == ("onnxruntime", stored)
        form = load_checkpoint(tmp_path / "net.pt")  # on another processor
        assert form.choice is not None
        assert form.choice.processor == processor()
        assert "measured anew, as the file's choice, onnxruntime, was made on some processor" in form.notes[-1]


def test_a_choice_in_a_file_is_checked() -> None:
    choice = Choice("torch", {"torch": 1.5}, {"torch": 0.0}, {"x": "no"}, "some processor", 2, ("torch 2.6",))
    assert Choice.from_record(choice.to_record()) == choice
    for wrong in (
        {"engine": 1},
        {"milliseconds": {"torch": "fast"}},
        {"threads": 0},
        {"runtimes": [1]},
        {"runtimes": 5},
        {"off": 5},
        {"more": 1},
    ):
        with pytest.raises((TypeError, ValueError)):
            Choice.from_record({**choice.to_record(), **wrong})


def status_of(*words: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    return ended.value.code


def test_the_command_line_stores_and_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel"]
    for engine, told in (("auto", "runs in engine "), ("openvino", "runs in openvino\n")):
        out = tmp_path / f"{engine}.pt"
        assert status_of("convert", *files, "-o", out, "--optimize", "--engine", engine) == 0
        assert status_of("inspect", out) == 0
        assert told in capsys.readouterr().out
    assert status_of("convert", *files, "-o", tmp_path / "x.pt", "--engine", "auto") == 2
    assert "--engine auto is for --optimize" in capsys.readouterr().err
