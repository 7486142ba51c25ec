from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_compat.errors import LayerError, UsageError, WeightsError
from caffe_compat.formats.weights import read_weights
from caffe_compat.network.graph import NetState
from caffe_compat.training.solver import Action, Event, Solver, lines_of, parse_solver
from caffe_compat.training.solver.events import (
    BlobOutput,
    Clipped,
    IterationShown,
    NetTested,
    NetTestStarted,
    Note,
    RateShown,
)
from tests.training.solver.recorded import (
    CASES,
    FILES,
    INPUTS,
    NET,
    make_net,
    recorded_case,
    recorded_solver,
    set_recorded_weights,
)

LEAST = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 6 snapshot_prefix: "s" '

# Everything whose state or randomness must survive a restart: dropout, a recurrent layer, statistics.
STATEFUL = """
name: "stateful"
layer { name: "data" type: "Input" top: "x" top: "clip" top: "t"
  input_param { shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } shape { dim: 4 dim: 2 dim: 5 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "clip" top: "h" recurrent_param {
  num_output: 6 weight_filler { type: "uniform" min: -0.5 max: 0.5 } } }
layer { name: "drop" type: "Dropout" bottom: "h" top: "h" }
layer { name: "norm" type: "BatchNorm" bottom: "h" top: "n" }
layer { name: "ip" type: "InnerProduct" bottom: "n" top: "y" inner_product_param {
  num_output: 5 axis: 2 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""


def stateful_batches(k: int) -> Mapping[str, Tensor]:
    g = torch.Generator().manual_seed(k)
    clip = torch.ones(4, 2)
    return {"x": torch.randn(4, 2, 3, generator=g), "clip": clip, "t": torch.randn(4, 2, 5, generator=g)}


def make_solver(folder: Path, settings: str = "", net: str = STATEFUL, **options: Any) -> Solver:
    made = parse_solver(LEAST + settings, base=folder)
    tests = [(make_net(net, state=NetState("TEST")), stateful_batches) for _ in made.tests]
    options.setdefault("batches", stateful_batches)
    (folder / "net.prototxt").write_text(net)
    return Solver(made, make_net(net, state=NetState("TRAIN")), tests=tests, base=folder, **options)


def blobs(solver: Solver) -> list[np.ndarray]:
    return [b.tensor.detach().cpu().numpy().copy() for b in solver.learnable]


@pytest.mark.parametrize("kind", ['type: "Adam" momentum: 0.9', "momentum: 0.9 iter_size: 2", 'type: "AdaDelta"'])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_stopping_and_resuming_changes_nothing(kind: str, form: str, tmp_path: Path) -> None:
    text = f"{kind} weight_decay: 0.01 average_loss: 3 snapshot_format: {form} test_iter: 2 test_interval: 2 "
    straight = make_solver(tmp_path, text, seed=5)
    straight.step(6)
    first = make_solver(tmp_path, text)
    first.seed = 5
    with torch.no_grad():
        for one, other in zip(make_solver(tmp_path, text, seed=5).learnable, first.learnable, strict=True):
            other.tensor.copy_(one.tensor)
    first.step(3)
    state = first.snapshot()
    assert state is not None
    again = make_solver(tmp_path, text)  # another seed, so other weights and other draws, until it is restored
    again.restore(state)
    assert again.seed == 5
    assert again.loss == first.loss
    again.step(3)
    assert again.iteration == 6
    for found, expected in zip(blobs(again), blobs(straight), strict=True):
        assert np.array_equal(found, expected)
    assert again.loss == straight.loss
    assert (again.train_passes, again.test_passes) == (straight.train_passes, straight.test_passes)
    for name, state_of_one in straight.net.named_buffers():
        assert torch.equal(state_of_one, again.net.get_buffer(name))
    one_test, other_test = straight.test(0), again.test(0)
    assert all(torch.equal(one_test[name], other_test[name]) for name in one_test)


def test_a_given_seed_wins_over_that_of_the_snapshot(tmp_path: Path) -> None:
    state = make_solver(tmp_path, seed=1).snapshot()
    assert state is not None
    events: list[Event] = []
    solver = make_solver(tmp_path, "random_seed: 2", observer=events.append)
    solver.restore(state)
    assert solver.seed == 2
    assert [e.text.partition(" was")[2] for e in events if isinstance(e, Note)] == [" made with seed 1, this run has 2"]


def test_seed_and_rank_decide_the_draws(tmp_path: Path) -> None:
    def after(seed: int, rank: int) -> np.ndarray:
        solver = make_solver(tmp_path, seed=seed, rank=rank)
        with torch.no_grad():
            for b in solver.learnable:
                b.tensor.fill_(0.1)
        solver.step(1)
        return np.concatenate([b.ravel() for b in blobs(solver)])

    assert np.array_equal(after(1, 0), after(1, 0))
    assert not np.array_equal(after(1, 0), after(2, 0))
    assert not np.array_equal(after(1, 0), after(1, 1))


def test_from_a_snapshot_of_real_caffe(tmp_path: Path) -> None:
    """Six steps, and four after Caffe's own state, are within rounding of ten."""
    (tmp_path / "small.prototxt").write_text(NET)
    text = CASES["sgd_multistep"].replace("max_iter: 10", "max_iter: 13")
    events: list[Event] = []
    ours = recorded_solver(parse_solver(text, base=tmp_path), tmp_path, observer=events.append)
    ours.solve(FILES / "sgd_multistep_iter_10.solverstate")
    assert (ours.iteration, ours.current_step, ours.train_passes) == (13, 2, 13)
    assert any("recurrent state starts at zero" in e.text for e in events if isinstance(e, Note))
    straight = recorded_case("sgd_multistep", tmp_path)
    straight.step(13)
    for one, other in zip(blobs(straight), blobs(ours), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())


def test_the_order_of_events_is_caffes(tmp_path: Path) -> None:
    lines: list[str] = []
    asked: list[int] = []

    def batches(k: int) -> Mapping[str, Tensor]:
        asked.append(k)
        return stateful_batches(k)

    solver = make_solver(
        tmp_path,
        "display: 2 average_loss: 2 iter_size: 2 snapshot: 4 test_iter: 3 test_interval: 3 test_compute_loss: true "
        "clip_gradients: 1e-3",
        seed=0,
        batches=batches,
        observer=lambda event: lines.extend(lines_of(event)),
    )
    solver.solve()
    short = [line.split(" (")[0].split(", loss")[0].split(" = ")[0] for line in lines]
    clip = "Gradient clipping: scaling down gradients"
    test = ["Testing", "Test loss: ", "    Test net output #0: loss"]
    train = ["    Train net output #0: loss"]
    short = [test[0] if "Testing net" in s else test[1] if s.startswith("Test loss") else s for s in short]
    assert short == [
        "Solving stateful", "Learning Rate Policy: fixed",
        *test, "Iteration 0", *train, "Iteration 0, lr", clip, clip,
        "Iteration 2", *train, "Iteration 2, lr", clip,
        *test, clip,
        "Snapshotting to binary proto file s_iter_4.caffemodel",
        "Snapshotting solver state to binary proto file s_iter_4.solverstate",
        "Iteration 4", *train, "Iteration 4, lr", clip, clip,
        "Snapshotting to binary proto file s_iter_6.caffemodel",
        "Snapshotting solver state to binary proto file s_iter_6.solverstate",
        "Iteration 6", *test, "Optimization Done.",
    ]  # fmt: skip
    assert asked == list(range(13))  # two an iteration, and one for the last display
    assert solver.test_passes == [9]


def test_lines_are_those_of_caffe() -> None:
    event = IterationShown(20, 0.123456789, (BlobOutput(0, "loss", 1234567.0, 0.5),), 2.5, 8.0, 20)
    assert lines_of(event) == [
        "Iteration 20 (8 iter/s, 2.5s/20 iters), loss = 0.123457",
        "    Train net output #0: loss = 1.23457e+06 (* 0.5 = 617284 loss)",
    ]
    assert lines_of(IterationShown(20, 0.5)) == ["Iteration 20, loss = 0.5"]
    assert lines_of(RateShown(3, 1e-5)) == ["Iteration 3, lr = 1e-05"]
    assert lines_of(NetTestStarted(4, 1)) == ["Iteration 4, Testing net (#1)"]
    assert lines_of(NetTested(1, (BlobOutput(1, "acc", 0.5, 0.0),), 2.0)) == [
        "Test loss: 2",
        "    Test net output #1: acc = 0.5",
    ]
    assert lines_of(Clipped(10.0, 2.5)) == [
        "Gradient clipping: scaling down gradients (L2 norm 10 > 2.5) by scale factor 0.25"
    ]


def test_average_loss(tmp_path: Path) -> None:
    """The running mean as Caffe keeps it, which starts anew with every call of step."""
    solver = make_solver(tmp_path, "average_loss: 3", seed=0)
    plain = make_solver(tmp_path, seed=0)
    losses = []
    for _ in range(5):
        plain.step(1)
        losses.append(plain.loss)
    solver.step(2)
    assert solver.loss == pytest.approx(np.mean(losses[:2]))
    again = make_solver(tmp_path, "average_loss: 3", seed=0)
    again.step(5)
    assert again.loss == pytest.approx(np.mean(losses[2:]))
    solver.step(1)
    assert solver.loss == losses[2]


def test_iter_size_is_the_mean_of_its_passes(tmp_path: Path) -> None:
    """Without dropout and state: two passes over halves are one over the whole."""
    whole = {"x": INPUTS["x"], "t": INPUTS["t"]}
    (tmp_path / "small.prototxt").write_text(NET)
    one = recorded_solver(parse_solver(CASES["sgd_fixed"], base=tmp_path), tmp_path)
    two = recorded_solver(parse_solver(CASES["sgd_fixed"] + "iter_size: 2", base=tmp_path), tmp_path)
    one.batches = lambda k: whole
    two.batches = lambda k: {name: x[3 * (k % 2) : 3 * (k % 2) + 3] for name, x in whole.items()}
    one.step(3)
    two.step(3)
    for a, b in zip(blobs(one), blobs(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)


def test_test_networks_share_the_weights(tmp_path: Path, device: torch.device) -> None:
    solver = make_solver(tmp_path, "test_iter: 1 test_interval: 100", seed=0, device=device)
    solver.step(2)
    test = solver.tests[0][0]
    for b in solver.learnable:
        layer, _, name = b.name.partition(".")
        assert getattr(test.get_submodule(layer), name).data_ptr() == b.tensor.data_ptr()
    assert not test.training
    assert solver.net.get_buffer("norm.scale_factor").item() == pytest.approx(1 + 0.999)


def test_a_test_networks_own_layer_keeps_its_filler(tmp_path: Path) -> None:
    extra = """layer { name: "own" type: "InnerProduct" bottom: "y" top: "z" include { phase: TEST }
      inner_product_param { num_output: 2 bias_filler { type: "constant" value: 7 } } }"""
    solver = make_solver(tmp_path, "test_iter: 1 test_interval: 100", STATEFUL + extra, seed=0)
    assert torch.equal(solver.tests[0][0].get_parameter("own.bias"), torch.full((2,), 7.0))
    assert set(solver.test(0)) == {"loss", "z"}


def test_test_networks_that_do_not_fit(tmp_path: Path) -> None:
    settings = parse_solver(LEAST + "test_iter: 1 test_interval: 1", base=tmp_path)
    train = make_net(STATEFUL, state=NetState("TRAIN"))
    with pytest.raises(UsageError, match="0 test networks were given"):
        Solver(settings, train, stateful_batches)
    wrong = make_net(STATEFUL.replace("num_output: 5", "num_output: 5 bias_term: false"))
    with pytest.raises(WeightsError, match="layer 'ip': has 2 blobs in training and 1 in testing"):
        Solver(settings, train, stateful_batches, [(wrong, stateful_batches)])


def test_means_over_the_batches_of_a_test(tmp_path: Path) -> None:
    events: list[Event] = []
    solver = make_solver(
        tmp_path, "test_iter: 3 test_interval: 5 test_compute_loss: true", seed=0, observer=events.append
    )
    means = solver.test(0)
    net = solver.tests[0][0]
    net.reset_state()
    expected = np.mean([float(net.run(stateful_batches(k))["loss"]) for k in range(3)])
    assert float(means["loss"]) == pytest.approx(expected)
    done = events[-1]
    assert isinstance(done, NetTested)
    assert done.loss == pytest.approx(expected)
    assert done.outputs[0].value == pytest.approx(expected)


def test_weights_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "small.prototxt").write_text(NET)
    model = FILES / "adam_iter_10.caffemodel"
    settings = parse_solver(CASES["adam"] + f'weights: "{model}"', base=tmp_path)
    events: list[Event] = []
    net = make_net(NET.replace('"ip"', '"fresh"'), state=NetState("TRAIN"))
    solver = Solver(settings, net, lambda k: INPUTS, base=tmp_path, observer=events.append)
    with read_weights(model) as weights:
        conv = next(r for r in weights.layers if r.name == "conv")
        assert np.array_equal(net.get_parameter("conv.weight").detach().numpy(), conv.blobs[0].data)
    notes = [e.text for e in events if isinstance(e, Note)]
    assert len(notes) == 2
    assert "'fresh'" in notes[0]
    assert "'ip'" in notes[1]
    assert solver.iteration == 0


def test_frozen_layers_get_no_gradient_unless_forced(tmp_path: Path) -> None:
    frozen = NET.replace(
        "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2", "param { lr_mult: 0 } param { lr_mult: 2"
    )
    settings = parse_solver(CASES["sgd_fixed"])
    for text, wanted in ((frozen, False), ("force_backward: true " + frozen, True)):
        net = make_net(text, state=NetState("TRAIN"))
        set_recorded_weights(net)
        solver = Solver(settings, net, lambda k: INPUTS, base=tmp_path, seed=0)
        before = blobs(solver)
        solver.step(1)
        weight = solver.net.get_parameter("conv.weight")
        assert weight.requires_grad is wanted
        assert (weight.grad is not None) is wanted
        moved = [not np.array_equal(a, b) for a, b in zip(before, blobs(solver), strict=True)]
        assert moved == [False, True, True, True]


def test_a_loss_that_is_no_number_stops_with_the_layer_named(tmp_path: Path) -> None:
    def batches(k: int) -> Mapping[str, Tensor]:
        x = INPUTS["x"].clone()
        x[0, 0, 0, 0] = math.nan if k == 2 else 1
        return {"x": x, "t": INPUTS["t"]}

    solver = recorded_case("adam", tmp_path)
    solver.batches = batches
    with pytest.raises(LayerError, match=r"layer 'data' \(Input\): top 'x' is not finite .* at iteration 2"):
        solver.step(5)
    assert solver.iteration == 2
    assert all(np.isfinite(b).all() for b in blobs(solver))

    burst = recorded_case("sgd_fixed", tmp_path)
    with torch.no_grad():
        burst.net.get_parameter("ip.bias")[1] = math.inf
    with pytest.raises(LayerError, match=r"layer 'ip' \(InnerProduct\): blob bias is not finite"):
        burst.step(1)

    on = recorded_case("adam", tmp_path, stop_at_nan=False)
    on.batches = batches
    on.step(4)
    assert math.isnan(on.loss)


# Values that neither outputs nor gradients need: the sum, of which a power of 1 keeps nothing. Random ones, too.
PASSING = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
        inner_product_param { num_output: 2 weight_filler { type: "constant" value: 1 } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "drop" }
layer { name: "sum" type: "Eltwise" bottom: "drop" bottom: "drop" top: "sum" }
layer { name: "half" type: "Power" bottom: "sum" top: "half" power_param { scale: 0.5 } }
%s
layer { name: "loss" type: "EuclideanLoss" bottom: "half" bottom: "t" top: "loss" }
"""


@pytest.mark.parametrize("debug", [False, True])
def test_values_that_gradients_do_not_need_are_let_go(debug: bool, tmp_path: Path) -> None:
    net = make_net(PASSING % "", state=NetState("TRAIN"))
    settings = parse_solver(f"{LEAST} display: 1 debug_info: {str(debug).lower()}")
    solver = Solver(settings, net, lambda k: {"x": torch.ones(4, 3), "t": torch.zeros(4, 2)}, base=tmp_path, seed=0)
    sums: list[weakref.ref[Tensor]] = []
    net.get_submodule("sum").register_forward_hook(lambda module, bottoms, top: sums.append(weakref.ref(top)))
    there: list[bool] = []
    solver.on_gradients_ready.append(lambda: there.append(sums[-1]() is not None))
    solver.step(2)
    assert there == [debug, debug]


def test_where_a_loss_became_infinite_is_found_after_its_values_were_let_go(tmp_path: Path) -> None:
    # exp(4 * 30) is infinite in float32, exp(0) is not: the pass that is run again has to drop the same values.
    exp = 'layer { name: "exp" type: "Exp" bottom: "half" top: "half" exp_param { scale: 4 } }'
    net = make_net(PASSING % exp, state=NetState("TRAIN"))
    sizes = {"x": torch.zeros(4, 3), "t": torch.zeros(4, 2)}
    sizes["x"][1] = 10
    solver = Solver(parse_solver(LEAST), net, lambda k: sizes, base=tmp_path, seed=0)
    with pytest.raises(LayerError, match=r"layer 'exp' \(Exp\): top 'half' is not finite .* at iteration 0"):
        solver.step(1)


def test_requests(tmp_path: Path) -> None:
    asked = iter([Action.NONE, Action.SNAPSHOT, Action.STOP])
    solver = make_solver(tmp_path, seed=0, requested=lambda: next(asked))
    solver.solve()
    assert solver.stopped
    assert solver.iteration == 3
    assert sorted(p.name for p in tmp_path.glob("*.solverstate")) == ["s_iter_2.solverstate", "s_iter_3.solverstate"]
    asked = iter([Action.STOP])
    (tmp_path / "s_iter_3.solverstate").unlink()
    solver = make_solver(tmp_path, "snapshot_after_train: false", seed=0, requested=lambda: next(asked))
    solver.solve()
    assert solver.iteration == 1
    assert not (tmp_path / "s_iter_1.solverstate").exists()


def test_a_request_during_a_test(tmp_path: Path) -> None:
    asked = iter([Action.NONE, Action.SNAPSHOT, Action.STOP, Action.NONE])
    events: list[Event] = []
    solver = make_solver(
        tmp_path,
        "test_iter: 5 test_interval: 1",
        seed=0,
        requested=lambda: next(asked),
        observer=events.append,
    )
    solver.step(3)
    assert solver.stopped
    assert solver.iteration == 0
    assert (tmp_path / "s_iter_0.solverstate").exists()
    assert events[-1] == NetTested(0, interrupted=True)


def test_only_rank_0_writes(tmp_path: Path) -> None:
    assert make_solver(tmp_path, seed=0, rank=1).snapshot() is None
    assert list(tmp_path.glob("s_iter*")) == []


def test_hooks(tmp_path: Path) -> None:
    solver = make_solver(tmp_path, seed=0)
    seen: list[tuple[str, bool]] = []
    weight = solver.net.get_parameter("ip.weight")
    solver.on_start.append(lambda: seen.append(("start", weight.grad is None)))
    solver.on_gradients_ready.append(lambda: seen.append(("ready", weight.grad is None)))
    solver.step(2)
    assert seen == [("start", True), ("ready", False)] * 2


def test_debug_info(tmp_path: Path) -> None:
    lines: list[str] = []
    solver = recorded_solver_with_debug(tmp_path, lines)
    solver.step(1)
    own = [line for line in lines if line.startswith("    [")]
    c = torch.relu(torch.conv2d(INPUTS["x"], solver_weight(tmp_path, "conv", 0), solver_weight(tmp_path, "conv", 1)))
    assert own[0] == f"    [Forward] Layer data, top blob x data: {float(INPUTS['x'].abs().mean()):g}"
    relu = next(line for line in own if "Layer relu, top blob c" in line)
    assert float(relu.rpartition(" ")[2]) == pytest.approx(float(c.mean()), rel=1e-5)
    assert [line.partition(" diff")[0] for line in own if "[Backward]" in line] == [
        "    [Backward] Layer loss, bottom blob y",
        "    [Backward] Layer ip, bottom blob c",
        "    [Backward] Layer ip, param blob 0",
        "    [Backward] Layer ip, param blob 1",
        "    [Backward] Layer relu, bottom blob c",
        "    [Backward] Layer conv, param blob 0",
        "    [Backward] Layer conv, param blob 1",
        "    [Backward] All net params (data,",
    ]
    assert "L2 norm = (" in own[-1]


SPLITS = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param {
  num_output: 3 weight_filler { type: "uniform" } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "twice" type: "Eltwise" bottom: "a" bottom: "a" top: "e" eltwise_param { coeff: 1 coeff: -3 } }
layer { name: "stop" type: "Power" bottom: "a" top: "s" propagate_down: false }
layer { name: "l" type: "EuclideanLoss" bottom: "e" bottom: "x" top: "l" loss_weight: 2 }
layer { name: "half" type: "Power" bottom: "l" top: "h" power_param { scale: 0.5 } loss_weight: 4 }
layer { name: "quiet" type: "Silence" bottom: "h" bottom: "s" }
"""


def test_debug_info_shows_the_splits_that_caffe_adds(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(SPLITS)
    settings = parse_solver(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 display: 1 debug_info: true iter_size: 2',
        base=tmp_path,
    )
    lines: list[str] = []
    x = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]])
    net = make_net(SPLITS, state=NetState("TRAIN"))
    solver = Solver(
        settings, net, lambda k: {"x": x}, base=tmp_path, seed=3, observer=lambda event: lines.extend(lines_of(event))
    )
    weight, bias = (net.get_parameter(f"a.{name}").detach().clone() for name in ("weight", "bias"))
    solver.step(1)
    own = [line.strip() for line in lines if line.startswith("    [")]
    own = own[: len(own) // 2]  # of the first of two passes
    before = (x @ weight.T + bias).requires_grad_()
    a = before.relu()
    a.retain_grad()
    e = a - 3 * a
    e.retain_grad()
    loss = (e - x).square().sum() / 4
    (4 * loss).backward()
    assert e.grad is not None
    assert a.grad is not None
    assert before.grad is not None

    def mean(tensor: Tensor) -> float:
        return float(tensor.detach().abs().mean())

    expected = [
        ("[Forward] Layer data, top blob x data:", mean(x)),
        ("[Forward] Layer x_data_0_split, top blob x_data_0_split_0 data:", mean(x)),
        ("[Forward] Layer x_data_0_split, top blob x_data_0_split_1 data:", mean(x)),
        ("[Forward] Layer a, top blob a data:", mean(before)),
        ("[Forward] Layer a, param blob 0 data:", mean(weight)),
        ("[Forward] Layer a, param blob 1 data:", mean(bias)),
        ("[Forward] Layer relu, top blob a data:", mean(a)),
        ("[Forward] Layer a_relu_0_split, top blob a_relu_0_split_0 data:", mean(a)),
        ("[Forward] Layer a_relu_0_split, top blob a_relu_0_split_1 data:", mean(a)),
        ("[Forward] Layer a_relu_0_split, top blob a_relu_0_split_2 data:", mean(a)),
        ("[Forward] Layer twice, top blob e data:", mean(e)),
        ("[Forward] Layer stop, top blob s data:", mean(a)),
        ("[Forward] Layer l, top blob l data:", mean(loss)),
        ("[Forward] Layer l_l_0_split, top blob l_l_0_split_0 data:", mean(loss)),
        ("[Forward] Layer l_l_0_split, top blob l_l_0_split_1 data:", mean(loss)),
        ("[Forward] Layer half, top blob h data:", mean(loss) / 2),
        ("[Forward] Layer h_half_0_split, top blob h_half_0_split_0 data:", mean(loss) / 2),
        ("[Forward] Layer h_half_0_split, top blob h_half_0_split_1 data:", mean(loss) / 2),
        ("[Backward] Layer h_half_0_split, bottom blob h diff:", 4),
        ("[Backward] Layer half, bottom blob l_l_0_split_1 diff:", 2),
        ("[Backward] Layer l_l_0_split, bottom blob l diff:", 4),
        ("[Backward] Layer l, bottom blob e diff:", mean(e.grad)),
        ("[Backward] Layer twice, bottom blob a_relu_0_split_0 diff:", mean(e.grad)),
        ("[Backward] Layer twice, bottom blob a_relu_0_split_1 diff:", 3 * mean(e.grad)),
        ("[Backward] Layer a_relu_0_split, bottom blob a diff:", mean(a.grad)),
        ("[Backward] Layer relu, bottom blob a diff:", mean(before.grad)),
        ("[Backward] Layer a, param blob 0 diff:", mean(before.grad.T @ x)),
        ("[Backward] Layer a, param blob 1 diff:", mean(before.grad.sum(0))),
    ]
    assert [line.rpartition(" ")[0] for line in own[:-1]] == [text for text, _ in expected]
    found = [float(line.rpartition(" ")[2]) for line in own[:-1]]
    assert found == pytest.approx([number for _, number in expected], rel=1e-5)
    assert not any(module._forward_pre_hooks for module in net.modules())


def recorded_solver_with_debug(folder: Path, lines: list[str]) -> Solver:
    (folder / "small.prototxt").write_text(NET)
    text = CASES["sgd_fixed"].replace("display: 0", "display: 1") + "debug_info: true"
    settings = parse_solver(text, base=folder)
    return recorded_solver(settings, folder, observer=lambda event: lines.extend(lines_of(event)))


def solver_weight(folder: Path, layer: str, index: int) -> Tensor:
    return list(recorded_case("sgd_fixed", folder).net.blobs_of(layer).values())[index].detach()


def test_bfloat16(tmp_path: Path) -> None:
    exact, mixed = recorded_case("sgd_fixed", tmp_path), recorded_case("sgd_fixed", tmp_path, bfloat16=True)
    exact.step(5)
    mixed.step(5)
    assert mixed.loss == pytest.approx(exact.loss, rel=0.1)
    assert mixed.loss != exact.loss
    assert all(b.tensor.dtype == torch.float32 for b in mixed.learnable)
