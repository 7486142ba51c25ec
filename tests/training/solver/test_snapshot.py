from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.errors import FileAccessError, FileError, WeightsError
from caffe_compat.formats.weights import read_solverstate, read_weights, write_solverstate
from caffe_compat.network.definition import read_definition
from caffe_compat.network.filling import fill_net
from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.training.solver import (
    Solver,
    latest_snapshot,
    parse_solver,
    read_snapshot,
    snapshot,
    snapshot_files,
    write_snapshot,
)
from caffe_compat.training.solver.events import Note
from caffe_compat.training.solver.structure import layers_of_snapshot
from tests.training.solver.recorded import CASES, FILES, NET, REFERENCE, make_net, recorded_case, recorded_solver

HDF5 = CASES["adam"].replace('"adam"', '"adam_hdf5"') + "snapshot_format: HDF5"


def same_hdf5(one: Path, other: Path) -> bool:
    def contents(path: Path) -> dict[str, object]:
        found: dict[str, object] = {}

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = (item.shape, item.dtype.str, item[()].tobytes())
            else:
                found[name] = "group"

        with h5py.File(path) as file:
            file.visititems(visit)
        return found

    return contents(one) == contents(other)


@pytest.mark.parametrize("name", CASES)
def test_what_caffe_wrote_is_written_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    solver = recorded_case(name, tmp_path)
    solver.restore(FILES / f"{name}_iter_10.solverstate")
    assert solver.iteration == 10
    solver.snapshot()
    for end in ("caffemodel", "solverstate"):
        ours, theirs = tmp_path / f"{name}_iter_10.{end}", FILES / f"{name}_iter_10.{end}"
        assert ours.read_bytes() == theirs.read_bytes()


def test_hdf5_that_caffe_wrote_is_written_back(tmp_path: Path) -> None:
    (tmp_path / "small.prototxt").write_text(NET)
    solver = recorded_solver(parse_solver(HDF5, base=tmp_path), tmp_path)
    solver.restore(FILES / "adam_hdf5_iter_10.solverstate.h5")
    solver.snapshot()
    for end in ("caffemodel.h5", "solverstate.h5"):
        assert same_hdf5(tmp_path / f"adam_hdf5_iter_10.{end}", FILES / f"adam_hdf5_iter_10.{end}")


def test_ten_steps_of_ours_have_the_structure_of_caffes(tmp_path: Path) -> None:
    solver = recorded_case("adam", tmp_path)
    solver.step(10)
    assert solver.snapshot() == tmp_path / "adam_iter_10.solverstate"
    with (
        read_weights(tmp_path / "adam_iter_10.caffemodel") as ours,
        read_weights(FILES / "adam_iter_10.caffemodel") as theirs,
    ):
        assert ours.structure == theirs.structure
        assert [(r.name, r.type, r.fields) for r in ours.layers] == [(r.name, r.type, r.fields) for r in theirs.layers]
    assert read_solverstate(tmp_path / "adam_iter_10.solverstate").learned_net == "adam_iter_10.caffemodel"


def test_a_network_with_splits_and_a_forks_fields(tmp_path: Path) -> None:
    """The whole file, as the fork of Caffe wrote it."""
    folder = REFERENCE / "tiny_mask3d"
    definition = read_definition(folder / "train.prototxt")
    net = CaffeNet(definition.message, NetState("TRAIN"), dialect=definition.schema.name)
    with read_weights(folder / "tiny_mask3d_train.caffemodel") as weights:
        fill_net(net, weights)
    net.materialize(0)
    write_snapshot(net, [], snapshot_files.snapshot_paths("t", 1, "BINARYPROTO", tmp_path), iteration=1, current_step=0)
    theirs = (folder / "tiny_mask3d_train.caffemodel").read_bytes()
    assert (tmp_path / "t_iter_1.caffemodel").read_bytes() == theirs
    assert not (tmp_path / "t_iter_1.resume.npz").exists()


SHARED = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" lr_mult: 3 } inner_product_param {
  num_output: 3 bias_term: false weight_filler { type: "uniform" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } inner_product_param {
  num_output: 3 weight_filler { type: "uniform" } } }
layer { name: "n" type: "BatchNorm" bottom: "b" top: "n" include { phase: TRAIN } }
layer { name: "l" type: "EuclideanLoss" bottom: "n" bottom: "x" top: "l" loss_weight: 2 }
layer { name: "s" type: "Power" bottom: "l" top: "s" }
"""


def test_structure_of_splits_losses_and_statistics() -> None:
    net = make_net(SHARED, state=NetState("TRAIN"))
    message, nodes = layers_of_snapshot(net)
    found = [(layer.name, list(layer.bottom), list(layer.top), list(layer.loss_weight)) for layer in message.layer]
    assert found == [
        ("data", [], ["x"], []),
        ("x_data_0_split", ["x"], ["x_data_0_split_0", "x_data_0_split_1"], []),
        ("a", ["x_data_0_split_0"], ["a"], []),
        ("b", ["a"], ["b"], []),
        ("n", ["b"], ["n"], []),
        ("l", ["n", "x_data_0_split_1"], ["l"], [1]),
        ("l_l_0_split", ["l"], ["l_l_0_split_0", "l_l_0_split_1"], [2, 0]),
        ("s", ["l_l_0_split_1"], ["s"], []),
    ]
    assert [node.name if node else None for node in nodes] == ["data", None, "a", "b", "n", "l", None, "s"]
    assert all(layer.phase == 0 for layer in message.layer)
    assert [p.lr_mult for p in message.layer[4].param] == [0, 0, 0]


def test_shared_blobs_and_statistics_in_history_and_hdf5(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(SHARED)
    settings = parse_solver(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 momentum: 0.5 snapshot_prefix: "s" '
        "snapshot_format: HDF5 snapshot_diff: true",
        base=tmp_path,
    )
    net = make_net(SHARED, state=NetState("TRAIN"))
    solver = Solver(settings, net, lambda k: {"x": torch.eye(2, 3)}, base=tmp_path, seed=3)
    assert [(b.name, b.lr_mult, b.display) for b in solver.learnable] == [
        ("a.weight", 3, "w"),
        ("b.bias", 1, "1"),
        ("n.mean", 0, "0"),
        ("n.variance", 0, "1"),
        ("n.scale_factor", 0, "2"),
    ]
    solver.step(1)
    before = net.get_parameter("a.weight").detach().clone()
    solver.step(1)
    solver.snapshot()
    with h5py.File(tmp_path / "s_iter_2.caffemodel.h5") as file:
        assert {name: sorted(file["data"][name]) for name in ("a", "b", "n", "x_data_0_split")} == {
            "a": ["0"], "b": ["1"], "n": ["0", "1", "2"], "x_data_0_split": [],
        }  # fmt: skip
        assert sorted(file["diff/b"]) == ["0", "1"]
        change = (before - net.get_parameter("a.weight")).detach().numpy()
        assert np.array_equal(file["diff/a/0"][()], change)
        assert np.array_equal(file["diff/b/0"][()], change)
        assert np.any(change)
    again = Solver(settings, make_net(SHARED, state=NetState("TRAIN")), lambda k: {}, base=tmp_path, seed=4)
    again.restore(tmp_path / "s_iter_2.solverstate.h5")
    for one, other in zip(solver.learnable, again.learnable, strict=True):
        assert torch.equal(one.tensor, other.tensor)


def test_a_full_disk_leaves_the_previous_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = recorded_case("adam", tmp_path)
    solver.step(3)
    solver.snapshot()
    solver.step(1)
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="the disk is full"):
        solver.snapshot()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == kept
    assert latest_snapshot("adam", tmp_path) == tmp_path / "adam_iter_3.solverstate"


def test_a_crash_between_the_files_leaves_no_mixed_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = recorded_case("adam", tmp_path)
    solver.step(2)
    solver.snapshot()
    solver.step(1)
    solver.snapshot()
    again = recorded_case("adam", tmp_path)
    with torch.no_grad():
        again.net.get_parameter("ip.bias")[1] = 3
    again.step(3)

    class Killed(BaseException):
        pass

    real = os.replace

    def killed(source: Path | str, target: Path | str) -> None:
        if target == tmp_path / "adam_iter_3.solverstate":
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        again.snapshot()
    # The model of the second run stands there now; the state of the first would go on with it.
    assert latest_snapshot("adam", tmp_path) == tmp_path / "adam_iter_2.solverstate"


def test_a_crash_while_the_same_snapshot_is_written_again_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = recorded_case("adam", tmp_path)
    solver.step(2)
    state = solver.snapshot()
    again = recorded_case("adam", tmp_path)
    assert state is not None
    again.restore(state)

    def killed(source: Path | str, target: Path | str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        again.snapshot()
    assert latest_snapshot("adam", tmp_path) == state


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """By the next run of the same prefix; a writer that lives, and other prefixes, are let be."""
    left, alive, other = (tmp_path / name for name in (".adam.snapshot.a", ".adam.snapshot.b", ".adam_2.snapshot.c"))
    for folder in (left, alive, other):
        folder.mkdir()
        (folder / "adam_iter_3.caffemodel").write_bytes(b"half a model")
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(alive)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "locked\n"
    snapshot_files.remove_unfinished("adam", tmp_path)
    assert (left.exists(), alive.exists(), other.exists()) == (False, True, True)
    writer.kill()
    writer.communicate()
    snapshots = parse_solver(CASES["adam"] + "snapshot: 5", base=tmp_path)
    (tmp_path / "small.prototxt").write_text(NET)
    recorded_solver(snapshots, tmp_path)
    assert (alive.exists(), other.exists()) == (False, True)


@pytest.mark.slow
def test_a_writer_holds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = recorded_case("adam", tmp_path)
    seen: list[list[str]] = []
    real = vars(snapshot)["write_solverstate"]

    def write(path: Path, *rest: Any) -> None:
        code = (
            "import sys; from caffe_compat.training.solver.snapshot_files import remove_unfinished as remove\n"
            "remove(sys.argv[1])"
        )
        root = str(Path(__file__).parents[3])
        subprocess.run(
            [sys.executable, "-c", code, "adam"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}, check=True
        )
        seen.append([p.name for p in path.parent.iterdir()])
        real(path, *rest)

    monkeypatch.setattr(snapshot, "write_solverstate", write)
    assert solver.snapshot() is not None
    assert seen == [["adam_iter_0.caffemodel"]]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_the_third_file_belongs_to_one_solverstate(tmp_path: Path) -> None:
    """Beside a state that another program wrote over ours it is named and not used."""
    solver = recorded_case("adam", tmp_path)
    solver.step(10)
    state = solver.snapshot()
    assert state is not None
    assert read_snapshot(state).resume is not None
    for end in ("caffemodel", "solverstate"):
        (tmp_path / f"adam_iter_10.{end}").write_bytes((FILES / f"adam_iter_10.{end}").read_bytes())
    found = read_snapshot(state)
    assert (found.resume, found.unfit) == (None, tmp_path / "adam_iter_10.resume.npz")
    notes: list[Note] = []
    again = recorded_case(
        "adam", tmp_path, seed=77, observer=lambda e: notes.append(e) if isinstance(e, Note) else None
    )
    again.restore(state)
    (note,) = notes
    assert note.warning
    assert "adam_iter_10.resume.npz belongs to another file than" in note.text
    assert (again.seed, again.train_passes, again.loss) == (77, 10, 0)


def test_a_third_file_of_another_version_is_refused(tmp_path: Path) -> None:
    solver = recorded_case("adam", tmp_path)
    state = solver.snapshot()
    assert state is not None
    path = tmp_path / "adam_iter_0.resume.npz"
    with np.load(path) as file:
        facts = bytes(file["facts"]).replace(b'"version": 2', b'"version": 1')
    np.savez(path, facts=np.frombuffer(facts, np.uint8))
    with pytest.raises(FileError, match=r"resume\.npz: was written by another version of this program; delete it"):
        solver.restore(state)


def test_latest_snapshot_counts_as_numbers(tmp_path: Path) -> None:
    assert latest_snapshot("adam", tmp_path) is None
    for name in (
        "adam_iter_9.solverstate",
        "adam_iter_10.solverstate.h5",
        "adam_x_iter_99.solverstate",
        "adam_iter_50.x",
    ):
        (tmp_path / name).touch()
    assert latest_snapshot("adam", tmp_path) == tmp_path / "adam_iter_10.solverstate.h5"


OTHER_SHAPE = NET.replace("num_output: 5", "num_output: 6")
NO_BIAS = NET.replace("param { lr_mult: 1 decay_mult: 0 } i", "i").replace(
    "num_output: 5", "num_output: 5 bias_term: false"
)
OTHER_NAME = NET.replace('"ip"', '"fc"')


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (OTHER_SHAPE, r"history blob 2 has shape \[5, 64\], \[6, 64\] is needed"),
        (OTHER_NAME, "is a snapshot of another net: it has no layer 'fc'"),
        (NO_BIAS, "it has 4 history blobs, SGD needs 3"),
    ],
)  # fmt: skip
def test_a_snapshot_of_another_net_is_refused(net: str, message: str, tmp_path: Path) -> None:
    solver = recorded_case("sgd_fixed", tmp_path)
    (tmp_path / "small.prototxt").write_text(net)
    solver = recorded_solver(solver.settings, tmp_path)
    before = [b.tensor.detach().clone() for b in solver.learnable]
    with pytest.raises(WeightsError, match=message):
        solver.restore(FILES / "sgd_fixed_iter_10.solverstate")
    assert solver.iteration == 0
    assert all(torch.equal(a, b.tensor) for a, b in zip(before, solver.learnable, strict=True))


def test_weights_that_the_net_lacks_are_refused(tmp_path: Path) -> None:
    net = make_net(NET[: NET.index('layer { name: "ip"')])
    net.materialize(0)
    with pytest.raises(WeightsError, match="it has weights for 'ip'"):
        snapshot.restore_blobs(net, FILES / "adam_iter_10.caffemodel")


def test_a_snapshot_of_another_solver_is_refused(tmp_path: Path) -> None:
    solver = recorded_case("adam", tmp_path)
    with pytest.raises(WeightsError, match="it has 4 history blobs, Adam needs 8"):
        solver.restore(FILES / "sgd_fixed_iter_10.solverstate")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "a_iter_10.solverstate").write_bytes((FILES / "adam_iter_10.solverstate").read_bytes())
    with pytest.raises(FileError, match=r"its model adam_iter_10\.caffemodel is neither in"):
        read_snapshot(tmp_path / "a_iter_10.solverstate", tmp_path)


@pytest.mark.parametrize(("iteration", "step", "what"), [(-1, 0, "iteration -1"), (3, -2, "current_step -2")])
@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_no_training_comes_below_zero(iteration: int, step: int, what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.solverstate{suffix}"
    write_solverstate(path, iteration, "a.caffemodel", step, [])
    with pytest.raises(FileError, match=f"has {what}, and no training comes below 0: damaged"):
        read_snapshot(path)


def test_a_model_of_a_name_that_no_system_has(tmp_path: Path) -> None:
    write_solverstate(tmp_path / "a.solverstate", 3, "x" * 5000, 0, [])
    with pytest.raises(FileError, match=r"its model x{200}\.\.\. is neither in"):
        read_snapshot(tmp_path / "a.solverstate", tmp_path)


def npz_of_facts(path: Path, **changes: Any) -> bytes:
    """A resume file with other facts in it; None takes one out."""
    with np.load(path) as file:
        facts = {**json.loads(bytes(file["facts"])), **changes}
    text = json.dumps({key: value for key, value in facts.items() if value is not None}).encode()
    buffer = io.BytesIO()
    np.savez(buffer, facts=np.frombuffer(text, np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"PK\x03\x04 no zip",
        b"text",
        {"seed": "x"},
        {"seed": -1},
        {"seed": 10**400},
        {"seed": None},
        {"train_passes": 1.5},
        {"test_passes": 3},
        {"test_passes": [1, None]},
        {"losses": ["x"]},
        {"losses": [10**400]},
        {"loss_index": 2**70},
        {"world_size": True},
        {"smoothed_loss": []},
        {"more": 1},
        b'{"version": 2, "seed": 1e999, [',
        b"[" * 100_000,
        b"[]",
        b"1",
        b"\xff",
    ],
    ids=lambda damage: str(damage)[:30],
)
def test_a_damaged_resume_file_is_named(damage: bytes | dict[str, Any], tmp_path: Path) -> None:
    solver = recorded_case("adam", tmp_path)
    state = solver.snapshot()
    assert state is not None
    path = tmp_path / "adam_iter_0.resume.npz"
    if isinstance(damage, dict):
        path.write_bytes(npz_of_facts(path, **damage))
    elif damage[:4] in (b"", b"PK\x03\x04", b"text"):
        path.write_bytes(damage)
    else:
        np.savez(path, facts=np.frombuffer(damage, np.uint8))
    with pytest.raises(FileError, match=r"adam_iter_0.resume.npz: is damaged \(.+\); delete it to go on"):
        solver.restore(state)


def test_snapshots_stay_below_the_write_root(tmp_path: Path) -> None:
    (tmp_path / "small.prototxt").write_text(NET)
    outside = CASES["adam"].replace('snapshot_prefix: "adam"', 'snapshot_prefix: "../adam" snapshot: 5')
    (tmp_path / "in").mkdir()
    with pytest.raises(FileAccessError, match="lies outside"):
        recorded_solver(parse_solver(outside, base=tmp_path), tmp_path)
    missing = CASES["adam"].replace('snapshot_prefix: "adam"', 'snapshot_prefix: "none/adam" snapshot: 5')
    with pytest.raises(FileError, match="does the folder exist"):
        recorded_solver(parse_solver(missing, base=tmp_path), tmp_path)
