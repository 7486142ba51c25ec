"""Recordings of steps: that playing one back is the run itself, with memory of one's own on both sides.

What records here is no GPU but a stand-in with the same rules: what was recorded is repeated in the same memory.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from caffe_compat.errors import LayerError
from caffe_compat.inference import optimization
from caffe_compat.inference.optimization import FusedNet
from caffe_compat.inference.passes import find_passes
from caffe_compat.inference.recording import Recordings, cuda_graph, recordable
from caffe_compat.network.net import CaffeNet
from caffe_compat.parity.precision import ieee_float32
from tests.inference.patterns import batch_norm, build, conv, example, in_place
from tests.networks import input_layer, layer


class StandIn:
    """Repeats what it recorded into the memory that the recorded run made."""

    def __init__(self) -> None:
        self.recorded, self.played = 0, 0

    def __call__(
        self, run: Callable[[], dict[int, Tensor]], device: torch.device
    ) -> tuple[dict[int, Tensor], Callable[[], None]]:
        memory = run()
        self.recorded += 1

        def play() -> None:
            self.played += 1
            made = run()
            for value, x in memory.items():
                x.copy_(made[value])

        for x in memory.values():  # a recording computes nothing
            x.fill_(torch.nan)
        return memory, play


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Inference forms on the CPU that record."""
    found = StandIn()
    monkeypatch.setattr(optimization, "_can_record", lambda device, inputs: True)
    monkeypatch.setattr(optimization, "Recordings", lambda: Recordings(found))
    return found


# Convolutions, then a layer that looks at values, or remembers, then more of the first kind.
MIDST = {
    "argmax": layer("m", "ArgMax", "c", "m", "argmax_param { axis: 1 }"),
    "lstm": layer("m", "LSTM", "c cont", "m", "recurrent_param { num_output: 5 }"),
}


def net_with(midst: str) -> CaffeNet:
    return build(
        input_layer("cont", 2, 8) if midst == "lstm" else "",
        conv("a", "data"),
        batch_norm("a"),
        in_place("ReLU", "a"),
        layer("p", "Pooling", "a", "p", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
        conv("c", "p"),
        MIDST[midst],
        layer("s", "Softmax", "m", "s"),
        layer("t", "TanH", "s", "t"),
        layer("side", "Sigmoid", "p", "side"),
        layer("flat", "Flatten", "side", "flat"),
    )


@pytest.mark.parametrize("midst", MIDST)
def test_runs_are_those_of_the_form(midst: str, recorder: StandIn) -> None:
    net = net_with(midst)
    net.reset_state()
    form = net.optimize()
    plain = net.optimize([run.name for run in form.passes if run.name != "record"])
    for scale in (1.0, -0.5, 2.0):
        given = {name: x * scale for name, x in example(net).items()}
        expected, found = plain(**given), form(**given)
        assert list(found) == list(expected)
        for name, x in expected.items():
            assert torch.equal(found[name], x)
            assert found[name].is_contiguous()
    assert recorder.recorded == 2  # all before the layer in the midst, and all behind it
    assert form.recorded == ["a to flat", "s to t"]
    assert recorder.played == 6


def test_what_a_run_gave_stays(recorder: StandIn) -> None:
    net = net_with("argmax")
    form = net.optimize()
    given = example(net)
    first = form(**given)
    kept = {name: x.clone() for name, x in first.items()}
    form(**{name: x + 1 for name, x in given.items()})
    for name, x in kept.items():
        assert torch.equal(first[name], x)
    assert torch.equal(given["data"], example(net)["data"])  # what was given is not written to


def test_other_shapes_and_settings_have_recordings_of_their_own(
    recorder: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    net = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a"))
    form, again = net.optimize(), net.optimize(["join-relu", "pack-weights"])
    shapes = [(2, 6, 9, 7), (3, 6, 9, 7), (2, 6, 12, 7), (2, 6, 9, 7)]
    for shape in shapes:
        x = example(net, data=shape)["data"]
        torch.testing.assert_close(form(data=x)["b"], again(data=x)["b"])
    assert recorder.recorded == 3
    with ieee_float32():
        form(data=x)
    assert recorder.recorded == 4


def test_only_so_many_are_kept(recorder: StandIn) -> None:
    net = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a"))
    form = net.optimize()
    for batch in (1, 2, 3, 4, 5, 1):
        form(**example(net, data=(batch, 6, 9, 7)))
    assert recorder.recorded == 6


def test_a_user_who_asks_for_blobs_gets_them(recorder: StandIn) -> None:
    net = build(conv("a", "data"), layer("r", "TanH", "a", "r"), conv("b", "r"))
    form, given = net.optimize(), example(net)
    assert list(form.run(given, "all")) == ["data", "a", "r", "b"]
    assert recorder.recorded == 0
    assert list(form.run(given)) == ["b"]
    assert recorder.recorded == 1


def test_what_cannot_be_recorded_runs_and_is_said(monkeypatch: pytest.MonkeyPatch, recorder: StandIn) -> None:
    def refuses(run: Callable[[], dict[int, Tensor]], device: torch.device) -> NoReturn:
        raise RuntimeError("operation not permitted when stream is capturing")

    net = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a"))
    monkeypatch.setattr(optimization, "Recordings", lambda: Recordings(refuses))
    form, given = net.optimize(), example(net)
    for _ in range(2):
        torch.testing.assert_close(form(**given)["b"], net.run(given)["b"])
    assert form.notes == [*net.notes, "a to b cannot be recorded: operation not permitted when stream is capturing"]


def test_what_is_wrong_with_a_run_is_said_as_ever(recorder: StandIn) -> None:
    net = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a"))
    with pytest.raises(LayerError, match=r"layer 'a' \(Convolution\): failed on bottoms data \[2, 5, 9, 7\]"):
        net.optimize()(data=torch.zeros(2, 5, 9, 7))


def test_a_move_forgets_them_and_copies_begin_anew(recorder: StandIn) -> None:
    net = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a"))
    form, given = net.optimize(), example(net)
    form(**given)
    form.double()
    assert form(data=given["data"].double())["b"].dtype == torch.float64
    assert recorder.recorded == 2
    other = copy.deepcopy(form)
    other(data=given["data"].double())
    assert recorder.recorded == 2  # a copy of the stand-in counts for itself


def test_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    form = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a")).optimize()
    assert isinstance(form, FusedNet)
    other = pickle.loads(pickle.dumps(form))
    assert other._recordings is not form._recordings
    assert other._recordings._record is cuda_graph


def test_what_counts_batches_or_is_a_users_is_not_recorded() -> None:
    net = build(
        conv("a", "data"),
        in_place("BatchNorm", "a", "batch_norm_param { use_global_stats: false }"),
        in_place("ReLU", "a"),
    )
    assert not recordable(net.a_batchnorm)
    assert recordable(net.a)
    assert recordable(net.a_relu)
    net.a_relu.register_forward_hook(lambda module, bottoms, top: None)
    assert not recordable(net.a_relu)
    assert not recordable(nn.ReLU())


def test_the_pass_can_be_left_out(recorder: StandIn) -> None:
    net = build(conv("a", "data"), in_place("ReLU", "a"), conv("b", "a"))
    every = [each.name for each in find_passes([run.name for run in net.optimize().passes]) if each.name != "record"]
    form = net.optimize(every)
    form(**example(net))
    assert recorder.recorded == 0
