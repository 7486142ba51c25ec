"""The solvers of pycaffe: the same updates as the training loop, with everything in between to be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.errors import FileError, UsageError
from caffe_compat.network.net import CaffeNet
from caffe_compat.pycaffe.runtime import runtime
from caffe_compat.training.solver import Solver, read_solver
from tests.pycaffe.pycaffe_models import write

NET = """
name: "regression"
layer { name: "data" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "list.txt" batch_size: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" include { phase: TRAIN }
  dropout_param { dropout_ratio: 0.25 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""
KINDS = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.8",
    "AdaGrad": "",
    "RMSProp": "rms_decay: 0.9",
    "AdaDelta": "momentum: 0.95 delta: 1e-5",
    "Adam": "momentum: 0.9 momentum2: 0.99",
}


def problem(kind: str = "SGD", more: str = "", name: str = "solver.prototxt") -> str:
    """The files of a small problem; the name of its solver file."""
    rng = np.random.RandomState(0)
    with h5py.File("x.h5", "w") as file:
        file["x"] = rng.randn(12, 3).astype(np.float32)
        file["y"] = rng.randn(12, 2).astype(np.float32)
    write("x.h5\n", "list.txt")
    write(NET)
    options = KINDS[kind]
    return write(
        f'net: "net.prototxt" type: "{kind}" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2 weight_decay: 0.01 '
        f"{options} test_iter: 3 test_interval: 100 test_initialization: false random_seed: 3 max_iter: 6 {more} "
        'snapshot_after_train: false snapshot_prefix: "snap"',
        name,
    )


def open_(caffe: Any, kind: str, file: str) -> Any:
    return getattr(caffe, f"{kind}Solver")(file)


def plain_steps(caffe: Any, file: str, iterations: int) -> tuple[Solver, CaffeNet, list[dict[str, torch.Tensor]]]:
    """The training loop over a bare network that starts from the same weights and sees the same batches."""
    settings = read_solver(file)
    start = caffe.get_solver(file)
    start.net.save("start.caffemodel")
    with h5py.File("x.h5") as h5:
        x, y = torch.tensor(h5["x"][:]), torch.tensor(h5["y"][:])

    def batches(k: int) -> dict[str, torch.Tensor]:
        rows = torch.arange(4 * k, 4 * k + 4) % 12
        return {"x": x[rows], "y": y[rows]}

    def network(source: Any) -> CaffeNet:
        definition, state = source.definition()
        return CaffeNet(definition.message, state, input_shapes={"x": (4, 3), "y": (4, 2)})

    net = network(settings.train)
    solver = Solver(
        replace(settings, weights=("start.caffemodel",)),
        net,
        batches,
        [(network(settings.tests[0]), batches)],
        device=runtime.device,
        write_root="/",
    )
    weights = []
    for _ in range(iterations):
        solver.step(1)
        weights.append({name: p.detach().cpu().clone() for name, p in net.named_parameters()})
    return solver, net, weights


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_training_loop(caffe: Any, kind: str) -> None:
    file = problem(kind)
    _, _, weights = plain_steps(caffe, file, 5)
    solver = open_(caffe, kind, file)
    for k, expected in enumerate(weights):
        before = solver.net.params["ip"][0].data.copy()
        solver.step(1)
        assert solver.iter == k + 1
        after = solver.net.params["ip"][0].data
        np.testing.assert_allclose(after, expected["ip.weight"].numpy(), rtol=1e-5, atol=1e-7)
        # The diff is what the update subtracted.
        np.testing.assert_allclose(solver.net.params["ip"][0].diff, before - after, rtol=1e-3, atol=2e-7)
        assert solver.net.params["ip"][1].diff.any()


@pytest.mark.parametrize("kind", KINDS)
def test_get_solver_takes_the_type_of_the_file(caffe: Any, kind: str) -> None:
    solver = caffe.get_solver(problem(kind))
    assert type(solver) is getattr(caffe, f"{kind}Solver")
    assert isinstance(solver, caffe.SGDSolver)


def test_the_class_decides_not_the_file(caffe: Any) -> None:
    file = problem("SGD")
    nesterov, sgd = caffe.NesterovSolver(file), caffe.SGDSolver(file)
    nesterov.step(2)
    sgd.step(2)
    assert (nesterov.net.params["ip"][0].data != sgd.net.params["ip"][0].data).any()
    with pytest.raises(UsageError, match=r"momentum 0\.9 cannot be used with AdaGrad"):
        caffe.AdaGradSolver(file)


def test_blobs_show_the_last_batch(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    with h5py.File("x.h5") as file:
        x = file["x"][:]
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12), slice(0, 4)):
        solver.step(1)
        np.testing.assert_array_equal(solver.net.blobs["x"].data, x[rows])
    blobs = solver.net.blobs
    loss = ((blobs["ip"].data - blobs["y"].data) ** 2).sum() / 8
    assert float(blobs["loss"].data) == pytest.approx(loss, rel=1e-5)
    assert blobs["ip"].diff.any()


def test_a_forward_pass_takes_a_batch_too(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    with h5py.File("x.h5") as file:
        x = file["x"][:]
    solver.step(1)
    solver.net.forward()
    np.testing.assert_array_equal(solver.net.blobs["x"].data, x[4:8])
    solver.net.forward(start="ip")
    np.testing.assert_array_equal(solver.net.blobs["x"].data, x[4:8])
    solver.step(1)
    np.testing.assert_array_equal(solver.net.blobs["x"].data, x[8:])
    solver.test_nets[0].forward()
    np.testing.assert_array_equal(solver.test_nets[0].blobs["x"].data, x[:4])


def test_test_nets_use_the_trained_weights(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem(more="display: 0"))
    solver.step(3)
    (test,) = solver.test_nets
    np.testing.assert_array_equal(test.params["ip"][0].data, solver.net.params["ip"][0].data)
    test.forward()
    weight, bias = (blob.data for blob in solver.net.params["ip"])
    np.testing.assert_allclose(test.blobs["ip"].data, test.blobs["x"].data @ weight.T + bias, rtol=1e-4, atol=1e-6)
    solver.net.params["ip"][0].data[...] = 0
    np.testing.assert_allclose(test.forward(blobs=["ip"])["ip"], np.tile(bias, (4, 1)), rtol=1e-5)


def test_tests_within_steps_show_in_the_test_net(caffe: Any) -> None:
    file = problem(more="")
    Path(file).write_text(Path(file).read_text().replace("test_interval: 100", "test_interval: 2"))
    solver = caffe.SGDSolver(file)
    solver.step(3)
    with h5py.File("x.h5") as h5:
        np.testing.assert_array_equal(solver.test_nets[0].blobs["x"].data, h5["x"][8:])
    assert float(solver.test_nets[0].blobs["loss"].data) > 0


def test_solve_logs_as_caffe_does(caffe: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime, "level", 0)
    solver = caffe.SGDSolver(problem(more="display: 2"))
    assert solver.iter == 0
    solver.solve()
    assert solver.iter == 6
    lines = capsys.readouterr().err.splitlines()
    assert all(line[0] == "I" and "] " in line for line in lines)
    texts = [line.partition("] ")[2] for line in lines]
    assert "Solving regression" in texts
    assert any(text.startswith("Iteration 4 (") and "loss = " in text for text in texts)
    assert texts[-1] == "Optimization Done."


def test_snapshot_restore_and_solve_from_one(caffe: Any) -> None:
    file = problem()
    straight = caffe.SGDSolver(file)
    straight.step(6)
    first = caffe.SGDSolver(file)
    first.step(4)
    first.snapshot()
    assert Path("snap_iter_4.caffemodel").exists()
    resumed = caffe.SGDSolver(file)
    resumed.restore("snap_iter_4.solverstate")
    assert resumed.iter == 4
    np.testing.assert_array_equal(resumed.net.params["ip"][0].data, first.net.params["ip"][0].data)
    resumed.step(2)
    np.testing.assert_allclose(
        resumed.net.params["ip"][0].data, straight.net.params["ip"][0].data, rtol=1e-6, atol=1e-8
    )
    again = caffe.SGDSolver(file)
    again.solve("snap_iter_4.solverstate")
    assert again.iter == 6
    np.testing.assert_array_equal(again.net.params["ip"][0].data, resumed.net.params["ip"][0].data)
    with pytest.raises(FileError, match="nothing"):
        again.restore("nothing.solverstate")


def test_apply_update(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    weight, bias = solver.net.params["ip"]
    before, held = weight.data.copy(), weight.data
    weight.diff[...] = 2
    solver.apply_update()
    np.testing.assert_allclose(weight.data, before - 0.1 * (2 + 0.01 * before), rtol=1e-5)
    assert (held == weight.data).all()  # touching it has brought the array that is held up to date
    assert solver.iter == 1
    assert (bias.data == 0).all()


def test_loop_by_hand(caffe: Any) -> None:
    """forward, backward, apply_update: what step does."""
    file = problem()
    write(NET.replace("dropout_ratio: 0.25", "dropout_ratio: 0"))
    by_hand, stepped = caffe.SGDSolver(file), caffe.SGDSolver(file)
    for _ in range(3):
        by_hand.net.clear_param_diffs()
        by_hand.net.forward()
        by_hand.net.backward()
        by_hand.apply_update()
        stepped.step(1)
    assert by_hand.iter == 3
    for a, b in zip(by_hand.net.params["ip"], stepped.net.params["ip"], strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(a.diff, b.diff, rtol=1e-6, atol=1e-8)


def test_callbacks(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    seen: list[Any] = []
    solver.add_callback(lambda: seen.append("start"), lambda: seen.append(solver.net.params["ip"][0].diff.copy()))
    before = solver.net.params["ip"][0].data.copy()
    solver.step(2)
    assert [seen[0], seen[2]] == ["start", "start"]
    blobs = solver.net.blobs
    np.testing.assert_allclose(seen[3], blobs["ip"].diff.T @ blobs["x"].data, rtol=1e-4, atol=1e-6)
    solver.add_callback(lambda: None, lambda: solver.net.params["ip"][0].diff.fill(0))
    weight = solver.net.params["ip"][0].data.copy()
    assert (weight != before).any()
    momentum = solver.net.params["ip"][0].diff.copy()
    lr = solver.lr
    solver.step(1)
    # A gradient of zero leaves momentum and decay.
    np.testing.assert_allclose(
        solver.net.params["ip"][0].data, weight - 0.9 * momentum - lr * 0.01 * weight, rtol=1e-4, atol=1e-6
    )


def test_learning_rate_and_parameters(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem(more="display: 7"))
    assert (solver.param.max_iter, solver.param.display, solver.param.layer_wise_reduce) == (6, 7, False)
    assert solver.param.base_lr == pytest.approx(0.1)
    assert solver.lr == pytest.approx(0.1)
    solver.step(2)
    assert solver.lr == pytest.approx(0.05)
    solver.param.base_lr = 0.8
    assert solver.lr == pytest.approx(0.4)


def test_share_weights(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    net = caffe.Net("net.prototxt", caffe.TEST)
    solver.share_weights(net)
    solver.step(1)
    np.testing.assert_array_equal(net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_solvers_that_share_weights_train_the_same(caffe: Any) -> None:
    file = problem()
    first, second = caffe.SGDSolver(file), caffe.SGDSolver(file)
    first.share_weights(second.net)
    before = first.net.params["ip"][0].data.copy()
    second.step(1)
    after = second.net.params["ip"][0].data
    assert (after != before).all()
    np.testing.assert_array_equal(first.net.params["ip"][0].data, after)
    np.testing.assert_array_equal(second.test_nets[0].params["ip"][0].data, after)
    np.testing.assert_allclose(before - after, second.net.params["ip"][0].diff, rtol=1e-3, atol=1e-6)
    first.step(1)
    np.testing.assert_array_equal(first.net.params["ip"][0].data, second.net.params["ip"][0].data)
    first.test_nets[0].share_with(caffe.Net("net.prototxt", caffe.TEST))
    first.step(1)
    np.testing.assert_array_equal(first.net.params["ip"][0].data, first.test_nets[0].params["ip"][0].data)


def test_fine_tuning_reaches_the_optimizer(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    other = caffe.Net("net.prototxt", caffe.TRAIN)
    other.params["ip"][0].data[...] = 7
    other.save("pretrained.caffemodel")
    solver.net.copy_from("pretrained.caffemodel")
    assert (solver.net.params["ip"][0].data == 7).all()
    solver.step(1)
    moved = solver.net.params["ip"][0].data
    assert (moved != 7).all()
    np.testing.assert_allclose(7 - moved, solver.net.params["ip"][0].diff, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(solver.test_nets[0].params["ip"][0].data, moved)


def test_nets_outlive_their_solver(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem())
    solver.step(1)
    nets = [solver.net, *solver.test_nets]
    del solver
    for net in nets:
        net.forward()
        assert np.isfinite(sum(blob.data.sum() + blob.diff.sum() for blobs in net.params.values() for blob in blobs))


def test_iter_size_adds_gradients_up(caffe: Any) -> None:
    solver = caffe.SGDSolver(problem(more="iter_size: 3"))
    solver.step(1)
    with h5py.File("x.h5") as file:
        np.testing.assert_array_equal(solver.net.blobs["x"].data, file["x"][8:])


def test_training_goes_on_where_the_loss_is_no_number(caffe: Any) -> None:
    """Caffe does not look, so scripts do."""
    solver = caffe.SGDSolver(problem())
    solver.net.params["ip"][0].data[...] = np.nan
    solver.step(2)
    assert np.isnan(solver.net.blobs["loss"].data)
    assert solver.iter == 2


def test_mode_change_between_steps(caffe: Any) -> None:
    file = problem()
    solver, still = caffe.SGDSolver(file), caffe.SGDSolver(file)
    still.step(1)
    solver.step(1)
    np.testing.assert_allclose(solver.net.params["ip"][0].data, still.net.params["ip"][0].data, rtol=1e-6)
    caffe.set_mode_cpu()
    solver.step(2)
    assert solver._loop.device.type == "cpu"
    np.testing.assert_array_equal(solver.test_nets[0].params["ip"][0].data, solver.net.params["ip"][0].data)


def test_the_base_class_is_none(caffe: Any) -> None:
    from caffe_compat.pycaffe.solvers import Solver as Base

    with pytest.raises(UsageError, match="get_solver"):
        Base(problem())
