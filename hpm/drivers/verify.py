"""Proof that a model gives the original's numbers, and the record of it in the ``.pt``, which refinement asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from caffe_compat.errors import UsageError
from caffe_compat.formats.sniff import is_checkpoint
from caffe_compat.parity.compare import CaseResult

from ..files.folders import DataFolder
from ..model import PoseMachine
from ..scaling import check_agreement
from .bounds import GivenBounds, Tell, choose_bounds, given_bounds, warn
from .models import find_data, load
from .released import verify_released

__all__ = ["Verified", "Withdrawal", "verify"]

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Withdrawal:
    """A ``.pt`` with the weights that were just shown to depart, and a record that says otherwise."""

    path: Path
    reference: str
    """What the record was of."""
    withdrawn: bool
    """Whether the record was taken out; False of a file that was only read."""


@dataclass(frozen=True)
class Verified:
    """What :func:`verify` found."""

    results: tuple[CaseResult, ...]
    output: Path
    """The ``.pt`` with the record; not written if anything departs."""
    withdrawals: tuple[Withdrawal, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return all(result.passed for result in self.results)


def verify(
    model: _Path,
    weights: _Path | None = None,
    *,
    reference: _Path | None = None,
    group: str = "",
    inputs: Mapping[str, np.ndarray] | None = None,
    released_coarse: _Path | None = None,
    data: DataFolder | _Path | None = None,
    images: _Path | None = None,
    actions: Iterable[int] | None = None,
    frames: int = 200,
    window: int = 5,
    bounds: GivenBounds = None,
    output: _Path | None = None,
    pose_blob: str | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, int], None] | None = None,
    tell: Tell = warn,
) -> Verified:
    """Compare with recorded outputs of real Caffe, or with the predictions that the authors publish.

    If all agree, ``output`` is written with the record. If anything departs, nothing is, and a record that a ``.pt``
    with the same weights holds from an earlier check is withdrawn from where it would have been written.

    Args:
        model, weights, pose_blob: see :func:`.models.load`.
        reference, group, inputs: see :meth:`PoseMachine.verify`.
        released_coarse: the folder of the authors' ``result<k>_norm.csv``; see :func:`.released.verify_released`.
        data, images, actions, frames, window: for ``released_coarse``: where the lists lie, the folder of their
            pictures if it is another than theirs, which actions (None: all), how many frames of each at most, and the
            batch that the predictions were made with.
        bounds: see :func:`.bounds.choose_bounds`.
        output: a ``.pt``; None for ``model`` itself, if it is one.
        progress: called with action, frames done and frames in all.
        tell: told which bounds were assumed.

    Raises:
        UsageError: neither or both of ``reference`` and ``released_coarse``, or options that go with the other.
        CaffeCompatError: see :func:`.models.load` and the comparisons.

    Example:
        >>> found = verify("mask3d.pt", reference="recorded.h5")
        >>> found.ok, str(found.output)
        (True, 'mask3d.pt')
    """
    folder, target = _check(model, reference, released_coarse, data, images, output)
    machine = load(model, weights, pose_blob=pose_blob).to(device)
    own = machine.known_bounds
    if folder is not None:
        machine.bounds = choose_bounds(bounds, folder, os.fspath(model), own, tell).poses
    elif (chosen := given_bounds(bounds)) is not None:
        check_agreement(os.fspath(model), own, chosen)
        machine.bounds = chosen
    if reference is not None:
        results = machine.verify(reference, group, inputs)
    else:
        assert folder is not None
        assert released_coarse is not None
        results = verify_released(
            machine,
            folder.ground_truth,
            images or folder.pictures,
            released_coarse,
            actions=folder.actions if actions is None else actions,
            frames=frames,
            window=window,
            progress=progress,
        )
    done = Verified(tuple(results), target)
    if not done.ok:
        return Verified(done.results, target, _withdraw(machine, model, target))
    if bounds is None and not machine.has_correction:
        machine.bounds = own  # those of the data folder were needed for nothing that was compared
    machine.save(target)
    return done


def _check(
    model: _Path,
    reference: _Path | None,
    released_coarse: _Path | None,
    data: DataFolder | _Path | None,
    images: _Path | None,
    output: _Path | None,
) -> tuple[DataFolder | None, Path]:
    """The data folder and the file to write. Raises UsageError of what does not go together."""
    if (reference is None) == (released_coarse is None):
        raise UsageError("pass either --reference FILE[:GROUP] or --released-coarse DIR")
    if released_coarse is not None and data is None:
        raise UsageError("--released-coarse needs the lists of the frames it was made of: pass --data-dir")
    if reference is not None and (data is not None or images is not None):
        raise UsageError("--data-dir and --images are for --released-coarse; --reference holds its own frames")
    target = output or (model if is_checkpoint(os.fspath(model)) else None)
    if target is None:
        raise UsageError("where to? Pass -o MODEL.pt for the model with its record")
    return None if data is None else find_data(data), Path(target)


def _withdraw(machine: PoseMachine, model: _Path, target: Path) -> tuple[Withdrawal, ...]:
    """Take the record out of ``target`` if it holds these weights, which have just been shown to depart."""
    found = []
    for path in dict.fromkeys((target, Path(model))):
        if not path.exists() or not is_checkpoint(path):
            continue
        claims = PoseMachine.from_pretrained(path)
        if claims.parity is None or claims.fingerprint() != machine.fingerprint():
            continue
        before = claims.parity.reference
        if path == target:
            claims.parity = None
            claims.save(path)
        found.append(Withdrawal(path, before, path == target))
    return tuple(found)
