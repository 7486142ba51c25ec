"""A solver's snapshots: Caffe's two files, and a third with what Caffe does not keep.

``<prefix>_iter_<n>.caffemodel`` and ``.solverstate`` (or ``.caffemodel.h5`` and ``.solverstate.h5``) are what real
Caffe writes and reads. ``<prefix>_iter_<n>.resume.npz`` beside them holds the seed, how many batches each network has
seen, recurrent state, what layers have counted and the losses being averaged, so that training goes on as if it had
never stopped. Without it (a snapshot of real Caffe) training goes on too, with recurrent state at zero. It knows the
solverstate that it belongs to, and is not used beside another one, which real Caffe wrote over ours, say. Gradients are
never half accumulated in a snapshot: it is taken between iterations.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...display import short_words
from ...errors import FileError, WeightsError, first_line
from ...formats.arrays import read_npz, write_npz
from ...formats.blob_proto import BlobView
from ...formats.files import atomic_write, reason_of, sha256_of
from ...formats.solverstate import SolverState
from ...formats.weights import (
    read_solverstate,
    read_weights,
    write_caffemodel,
    write_solverstate,
)
from ...formats.weights_hdf5 import write_caffemodel_hdf5
from ...network.net import CaffeNet
from ...network.registry import Shape
from .snapshot_files import SnapshotPaths, resume_file_of, working_folder
from .structure import layers_of_snapshot

__all__ = [
    "ResumeState",
    "Snapshot",
    "fitted",
    "fitted_history",
    "read_snapshot",
    "restore_blobs",
    "write_model",
    "write_snapshot",
]

_VERSION = 2


@dataclass(frozen=True)
class ResumeState:
    """What goes on beside Caffe's own files.

    Attributes:
        seed: of the run. train_passes: batches that the trained network has seen; test_passes: per test network.
        losses: of the last iterations, oldest first as far as the average needs them; loss_index: how many there were.
        smoothed_loss: their average as Caffe keeps it.
        world_size: how many processes trained together.
        buffers: ``train/<name>`` and ``test<k>/<name>``: recurrent state, and what layers have counted;
            ``train:<rank>/<name>`` for the processes after the first.
    """

    seed: int
    train_passes: int
    test_passes: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    loss_index: int = 0
    smoothed_loss: float = 0.0
    world_size: int = 1
    buffers: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot read: Caffe's state, the path of the model, and what the third file adds (None without it).

    ``unfit`` is the path of a third file that lies there but belongs to another solverstate.
    """

    path: Path
    state: SolverState
    model: Path
    resume: ResumeState | None
    unfit: Path | None = None


def write_snapshot(
    net: CaffeNet,
    history: Sequence[Tensor],
    paths: SnapshotPaths,
    *,
    iteration: int,
    current_step: int,
    resume: ResumeState | None = None,
    diffs: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a snapshot of ``net`` and a solver's ``history``: every file is complete before the first takes its name.

    Args:
        paths: from :func:`snapshot_paths`. resume: for the third file; None writes none.
        diffs: by full blob name, for ``snapshot_diff``; blobs without one get zeros.

    Raises:
        FileError: the folder is missing, or the disk full; what was there before stays.
    """
    try:
        with working_folder(paths.model) as work:
            new = [work / path.name for path in (paths.model, paths.resume, paths.state)]
            write_model(new[0], net, diffs, hdf5=new[0].suffix == ".h5")
            write_solverstate(new[2], iteration, paths.learned_net, current_step, [_array(h) for h in history])
            if resume is not None:
                _write_resume(new[1], resume, new[2])
            # The state comes last, for it is what a run is resumed from. One of an earlier run goes first: whoever is
            # ended in between must not leave it beside another model.
            if not (_same(new[0], paths.model) and _same(new[2], paths.state)):
                paths.state.unlink(missing_ok=True)
            for made, target in zip(new, (paths.model, paths.resume, paths.state), strict=True):
                if made.exists():
                    os.replace(made, target)
    except FileError as error:  # of a file in the working folder, which has vanished
        raise FileError(f"{error.detail}; earlier snapshots are whole", path=str(paths.model)) from error
    except OSError as error:
        raise FileError(f"cannot be written: {reason_of(error)}", path=str(paths.model)) from error


def _same(made: Path, there: Path) -> bool:
    return there.exists() and filecmp.cmp(made, there, shallow=False)


def write_model(path: Path, net: CaffeNet, diffs: Mapping[str, Tensor] | None = None, *, hdf5: bool = False) -> None:
    """Write the weights of ``net`` as Caffe would: a ``.caffemodel``, or HDF5.

    Args:
        diffs: by full blob name; see :func:`write_snapshot`.

    Raises:
        FileError: it cannot be written.
    """
    message, nodes = layers_of_snapshot(net)
    owners: dict[int, str] = {}
    binary: list[list[np.ndarray | BlobView]] = []
    parts: list[
        tuple[str, list[np.ndarray | BlobView | None]]
    ] = []  # for HDF5: without the data of blobs that an earlier layer owns
    for layer, node in zip(message.layer, nodes, strict=True):
        whole: list[np.ndarray | BlobView] = []
        owned: list[np.ndarray | BlobView | None] = []
        blobs = {} if node is None or node in net.graph.sources else net.blobs_of(node.module_name)
        for name, tensor in blobs.items():
            assert node is not None
            full = f"{node.module_name}.{name}"
            owner = owners.setdefault(id(tensor), full)
            data = _array(tensor)
            if diffs is None:
                whole.append(data)
                owned.append(data if owner == full else None)
                continue
            diff = _array(diffs[owner]) if owner in diffs else np.zeros_like(data)
            whole.append(BlobView(data.shape, data, diff, (0, 0)))
            owned.append(whole[-1] if owner == full else BlobView(data.shape, np.empty(0, data.dtype), diff, (0, 0)))
        binary.append(whole)
        parts.append((layer.name, owned))
    if hdf5:
        write_caffemodel_hdf5(path, parts)
    else:
        write_caffemodel(path, message.SerializeToString(), binary)


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()).numpy()


# The third file


def _write_resume(path: Path, state: ResumeState, solverstate: Path) -> None:
    facts = {key: value for key, value in asdict(state).items() if key != "buffers"}
    text = json.dumps({"version": _VERSION, "solverstate": sha256_of(solverstate), **facts}).encode()
    with atomic_write(path) as handle:
        arrays: dict[str, Any] = {f"buffer:{name}": array for name, array in state.buffers.items()}
        write_npz(handle, {"facts": np.frombuffer(text, np.uint8), **arrays})


def _read_resume(path: Path, solverstate: Path) -> ResumeState | None:
    """What ``path`` holds; None if it belongs to another file than ``solverstate``."""
    name = str(path)
    try:
        arrays = read_npz(path)
    except FileError as error:
        raise _damaged(error.detail, name) from error
    try:
        facts = json.loads(arrays["facts"].tobytes())
        if facts.pop("version") != _VERSION:
            raise FileError(
                "was written by another version of this program; delete it to go on without recurrent state", path=name
            )
        if facts.pop("solverstate") != sha256_of(solverstate):
            return None
        buffers = {key[7:]: array for key, array in arrays.items() if key.startswith("buffer:")}
        return ResumeState(buffers=buffers, **_checked_facts(facts))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise _damaged(first_line(error), name) from error


def _damaged(reason: str, path: str) -> FileError:
    return FileError(f"is damaged ({reason}); delete it to go on without recurrent state", path=path)


def _checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts, if they are what was written. Raises ValueError."""
    checked = dict(facts, test_passes=tuple(facts["test_passes"]), losses=tuple(facts["losses"]))
    whole = {key: checked[key] for key in ("seed", "train_passes", "loss_index", "world_size")}
    for key, value in [*whole.items(), *(("test_passes", value) for value in checked["test_passes"])]:
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(f"{key} is {str(value)[:40]!r}, not a count")
    for value in (checked["smoothed_loss"], *checked["losses"]):
        if type(value) not in (int, float):  # NaN and infinity are losses too
            raise ValueError(f"a loss is {str(value)[:40]!r}, not a number")
    losses = tuple(map(float, checked["losses"]))
    return {**checked, "losses": losses, "smoothed_loss": float(checked["smoothed_loss"])}


# Reading


def read_snapshot(path: str | Path, base: Path = Path()) -> Snapshot:
    """Read a ``.solverstate`` or ``.solverstate.h5`` and what lies beside it.

    Args:
        base: the folder that the model's name is relative to, as Caffe's working directory; where it is not there, the
            folder of ``path`` is tried.

    Raises:
        FileError: a file is missing or damaged.
    """
    path = Path(path)
    try:
        state = read_solverstate(path)
    except FileError as error:
        if not path.name.endswith((".caffemodel", ".caffemodel.h5")):
            raise
        state_name = path.name.replace(".caffemodel", ".solverstate")
        raise FileError(
            f"a training goes on from the state of its solver, {path.with_name(state_name)}, which names these "
            "weights; to start a new one from them alone: --weights",
            path=str(path),
        ) from error
    for what, count in (("iteration", state.iteration), ("current_step", state.current_step)):
        if count < 0:
            raise FileError(f"has {what} {count}, and no training comes below 0: damaged", path=str(path))
    if not state.learned_net:
        raise FileError("names no model (learned_net), so there are no weights to go on with", path=str(path))
    model = base / state.learned_net
    if not os.path.exists(model):
        model = path.parent / Path(state.learned_net).name
    if not os.path.exists(model):
        raise FileError(
            f"its model {short_words(state.learned_net)} is neither in {base.resolve()} nor beside it", path=str(path)
        )
    beside = resume_file_of(path)
    if beside is None or not os.path.exists(beside):
        return Snapshot(path, state, model, None)
    resume = _read_resume(beside, path)
    return Snapshot(path, state, model, resume, None if resume is not None else beside)


@torch.no_grad()
def restore_blobs(net: CaffeNet, model: Path) -> None:
    """Copy the weights of a snapshot into ``net``, in place. Unlike finetuning, every layer has to fit.

    Raises:
        WeightsError: the snapshot is of another net: layers, numbers of blobs or shapes differ.
    """
    with read_weights(model) as weights:
        records: dict[str, list[Any]] = {}
        for record in weights.layers:
            if record.blobs:
                records.setdefault(record.name, []).append(record)
        todo = []
        seen: set[int] = set()
        for node in net.nodes_with_blobs():
            blobs = net.blobs_of(node.module_name)
            waiting = records.get(node.name, [])
            new = [id(blob) not in seen for blob in blobs.values()]
            seen.update(map(id, blobs.values()))
            if not waiting:
                if any(new):
                    raise WeightsError(f"is a snapshot of another net: it has no layer {node.name!r}", path=str(model))
                continue
            record = waiting.pop(0)
            if len(record.blobs) > len(blobs) or any(new[len(record.blobs) :]):
                raise WeightsError(
                    f"is a snapshot of another net: {len(record.blobs)} blobs there, {len(blobs)} here",
                    path=str(model),
                    layer=node.name,
                    found=len(record.blobs),
                    expected=len(blobs),
                )
            for i, (name, blob) in enumerate(zip(blobs, record.blobs, strict=False)):
                if blob.is_empty and not new[i]:
                    continue
                array = fitted(blob, tuple(blobs[name].shape))
                if array is None:
                    raise WeightsError(
                        f"is a snapshot of another net: shape {list(blob.shape)} there, {list(blobs[name].shape)} here",
                        path=str(model),
                        layer=node.name,
                        blob=name,
                        index=i,
                        found=blob.shape,
                        expected=tuple(blobs[name].shape),
                    )
                todo.append((blobs[name], array))
        left = [name for name, waiting in records.items() if waiting]
        if left:
            raise WeightsError(
                f"is a snapshot of another net: it has weights for {', '.join(map(repr, left[:8]))}", path=str(model)
            )
        for tensor, array in todo:
            tensor.copy_(torch.from_numpy(np.array(array)))


def fitted(blob: BlobView, shape: Shape) -> np.ndarray | None:
    """A blob's data in ``shape``: equal, or the four axes of an old file with leading ones. None if it does not fit."""
    found = blob.shape
    if found != shape and not (len(found) == 4 and len(shape) < 4 and found == (1,) * (4 - len(shape)) + shape):
        return None
    return None if blob.is_empty else blob.data.reshape(shape)


def fitted_history(snapshot: Snapshot, shapes: Sequence[Shape], solver: str) -> list[Tensor]:
    """The optimiser's history in a snapshot, as copies, if it is one of a ``solver`` that keeps these ``shapes``.

    Raises:
        WeightsError: the snapshot is of another net or another type of solver.
    """
    found = snapshot.state.history
    if len(found) != len(shapes):
        raise WeightsError(
            f"is a snapshot of another net or solver type: it has {len(found)} history blobs, "
            f"{solver} needs {len(shapes)} for this net",
            path=str(snapshot.path),
        )
    history = []
    for i, (blob, shape) in enumerate(zip(found, shapes, strict=True)):
        array = fitted(blob, shape)
        if array is None:
            raise WeightsError(
                f"is a snapshot of another net: history blob {i} has shape {list(blob.shape)}, {list(shape)} is needed",
                path=str(snapshot.path),
            )
        history.append(torch.from_numpy(np.array(array)))
    return history
