from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caffe_compat.errors import CaffeCompatError, FileError, PrototxtError, UsageError
from caffe_compat.network.graph import NetState
from caffe_compat.training.solver import CaffeNesterov, parse_solver, read_solver
from tests.training.solver.recorded import FILES, NET

LEAST = 'net: "small.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 '


def test_defaults_are_caffes() -> None:
    s = parse_solver(LEAST, path="some/where.prototxt")
    assert (s.type, s.regularization_type, s.clip_gradients) == ("SGD", "L2", None)
    rates = [s.momentum, s.momentum2, s.rms_decay, s.weight_decay, s.delta]
    assert rates == pytest.approx([0.0, 0.999, 0.99, 0.0, 1e-8])
    assert (s.iter_size, s.average_loss, s.display, s.test_interval, s.snapshot) == (1, 1, 0, 0, 0)
    assert (s.snapshot_format, s.snapshot_after_train, s.snapshot_diff) == ("BINARYPROTO", True, False)
    assert (s.test_initialization, s.test_compute_loss, s.debug_info) == (True, False, False)
    assert (s.solver_mode, s.device_id, s.random_seed, s.weights) == (None, 0, None, ())
    assert (s.tests, s.warnings, s.notes) == ((), (), ())
    assert s.snapshot_prefix == "some/where"


@pytest.mark.parametrize("path", sorted(FILES.glob("*.solver.prototxt")), ids=lambda p: p.stem)
def test_recorded_files(path: Path) -> None:
    settings = read_solver(path, base=FILES)
    assert settings.max_iter == 10
    assert settings.train.definition()[0].message.name == "small"


def test_values_are_read() -> None:
    s = parse_solver(
        LEAST
        + 'type: "Nesterov" momentum: 0.5 weight_decay: 0.25 regularization_type: "L1" clip_gradients: 0 iter_size: 3 '
        'snapshot: 2 snapshot_prefix: "a/b" snapshot_format: HDF5 snapshot_diff: true snapshot_after_train: false '
        "random_seed: 0 device_id: 3 solver_mode: CPU average_loss: 7 display: 5 debug_info: true "
        'layer_wise_reduce: false weights: "x.caffemodel, y.caffemodel" weights: "z.caffemodel"'
    )
    assert (s.clip_gradients, s.random_seed, s.snapshot_format) == (0.0, 0, "HDF5")
    assert s.weights == ("x.caffemodel", "y.caffemodel", "z.caffemodel")
    optimizer = s.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is CaffeNesterov
    assert (optimizer.clip_gradients, optimizer.iter_size) == (0.0, 3)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["regularization_type"]) == (0.5, 0.25, "L1")


@pytest.mark.parametrize(
    ("old", "new"), [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("5", "Adam")]
)
def test_old_solver_types(old: str, new: str) -> None:
    s = parse_solver(LEAST + f"solver_type: {old}")
    assert s.type == new
    assert "solver_type" in s.notes[0]


def test_snapshot_prefix_is_completed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    s = parse_solver(LEAST + 'snapshot_prefix: "folder"', base=tmp_path, path="x/train.prototxt")
    assert s.snapshot_prefix == "folder/train"


def test_networks_and_their_states(tmp_path: Path) -> None:
    (tmp_path / "small.prototxt").write_text(NET + 'state { level: 3 stage: "own" }')
    (tmp_path / "other.prototxt").write_text(NET.replace("small", "other"))
    s = parse_solver(
        LEAST + 'test_net: "other.prototxt" test_net_param { name: "inner" layer { name: "i" type: "Input" top: "x" '
        "input_param { shape { dim: 2 } } } } test_iter: 4 test_iter: 5 test_iter: 6 test_iter: 7 test_interval: 2 "
        'train_state { stage: "fine" level: 1 } test_state { } test_state { stage: "b" } test_state { level: 9 } '
        "test_state { phase: TRAIN }",
        base=tmp_path,
    )
    train, state = s.train.definition()
    assert (train.message.name, state) == ("small", NetState("TRAIN", 1, ("own", "fine")))
    found = [(t.iterations, t.definition()[0].message.name, t.definition()[1]) for t in s.tests]
    assert found == [
        (4, "inner", NetState("TEST", 0, ())),
        (5, "other", NetState("TEST", 0, ("b",))),
        (6, "small", NetState("TEST", 9, ("own",))),
        (7, "small", NetState("TRAIN", 3, ("own",))),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base_lr: 1 lr_policy: "fixed"', "names no network to train; exactly one of net, net_param"),
        (LEAST + 'train_net: "b"', "names net and train_net; exactly one"),
        (LEAST + 'test_net: "b"', "test_iter is given 0 times for 1 test networks"),
        (LEAST + "test_iter: 3", "1 test networks, but test_interval is 0"),
        (LEAST + "test_iter: 0 test_interval: 1", "test_iter 0: at least 1"),
        (LEAST + "test_iter: 3 test_interval: 1 test_state { } test_state { }", "test_state is given 2 times for 1"),
        ('train_net: "a" test_iter: 3 test_interval: 1 base_lr: 1 lr_policy: "fixed"', "given 1 times for 0"),
        (LEAST + 'type: "AdamW"', "solver type 'AdamW' is unknown; Caffe has SGD, Nesterov"),
        (LEAST + 'type: "AdaGrad" momentum: 0.9', "momentum 0.9 cannot be used with AdaGrad"),
        (LEAST + 'type: "RMSProp" rms_decay: 1', "rms_decay 1: a number from 0"),
        (LEAST + 'regularization_type: "L3"', "'L3': L1 or L2"),
        (LEAST + "average_loss: 0", "average_loss 0: at least 1"),
        (LEAST + "iter_size: 0", "iter_size 0: at least 1"),
        (LEAST + "snapshot: -1", "snapshot -1: 0"),
        ('net: "a" base_lr: 1 lr_policy: "cosine"', "solver.prototxt: lr_policy 'cosine' is unknown"),
        ('net: "a" base_lr: 1', "lr_policy '' is unknown"),
        (LEAST + 'type: "SGD" solver_type: ADAM', "both given"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(CaffeCompatError, match=message):
        parse_solver(text)


def test_unknown_settings_are_refused_with_their_place() -> None:
    with pytest.raises(
        PrototxtError, match=r"line 2, column 1: setting momentun: no such setting is known; did you mean momentum"
    ):
        parse_solver(LEAST + "\nmomentun: 0.9")
    with pytest.raises(PrototxtError, match=r"line 2, column 1: setting momentum: value 'MUCH' is not a number"):
        parse_solver(LEAST + "\nmomentum: MUCH")


def test_settings_of_a_fork_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"rampup_interval.* is not supported"):
        parse_solver(LEAST + "rampup_interval: 3", dialect="NVIDIA/caffe")


def test_what_caffe_lets_pass_is_a_warning() -> None:
    s = parse_solver('net: "a" lr_policy: "fixed"')
    assert [w.partition(": ")[2] for w in s.warnings] == [
        "base_lr is not set, so the learning rate is 0",
        "max_iter is not set, so solving takes no step",
    ]


def test_a_network_that_is_not_in_the_working_directory(tmp_path: Path) -> None:
    settings = parse_solver('net: "models/net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1', base=tmp_path)
    with pytest.raises(FileError, match=r"models/net\.prototxt: there is no such file; names in a solver file start"):
        settings.train.definition()
