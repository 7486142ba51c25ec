"""Models into other files: a ``.pt`` with parity record and bounds, or the pickle that the original refines with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.formats.sniff import is_checkpoint
from caffe_compat.network.checkpoint import read_checkpoint
from caffe_compat.parity.compare import CaseResult
from caffe_compat.parity.record import ParityRecord

from ..files.checkpoint_extras import stored_bounds
from ..files.projector_pickle import is_pickle, read_projector_pickle, write_projector_pickle
from ..model import PoseMachine
from ..networks.projector_network import projector_of, save_projector
from ..parity_gate import parity_of, verified_pickle
from ..projector import POSE_3D
from ..scaling import Bounds, check_agreement
from .bounds import GivenBounds, given_bounds
from .models import load

__all__ = ["Converted", "convert"]

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Converted:
    """What :func:`convert` made."""

    output: Path
    kind: Literal["network", "projector", "pickle"]
    """A whole network, the correction module and projector alone, or their 12 arrays."""
    written: bool = True
    """False: the network does not reproduce the reference, as :attr:`results` tell."""
    results: tuple[CaseResult, ...] = ()
    """The comparison with the reference, if one was given."""
    parity: ParityRecord | None = None
    """The record that a ``.pt`` holds; None of one that is unverified."""
    bounds: Bounds | None = None
    """What the poses of a ``.pt`` refer to, as it holds them; None if nobody knows."""
    pose_blob: str = ""
    """Of a network: the blob with the pose."""
    dimensions: int = 3
    """Of a network: 3, or 2 of one that gives 2D poses."""


def convert(
    model: _Path,
    weights: _Path | None = None,
    *,
    output: _Path,
    reference: _Path | None = None,
    group: str = "",
    inputs: Mapping[str, np.ndarray] | None = None,
    verified_by: _Path | None = None,
    bounds: GivenBounds = None,
    pose_blob: str | None = None,
) -> Converted:
    """Write ``model`` as a ``.pt``, or as the pickle of 12 arrays that the original refines with.

    Args:
        model, weights, pose_blob: see :func:`.models.load`. Or a pickle, whose ``.pt`` holds the correction module and
            projector alone.
        output: a name that ends in ``.pt`` or ``.pkl``.
        reference, group, inputs: recorded outputs of real Caffe to check against; see :meth:`PoseMachine.verify`.
            Nothing is written of a network that departs.
        verified_by: of a pickle: a verified ``.pt`` with the same arrays.
        bounds: what the poses refer to, for the ``.pt`` to hold; None leaves those that ``model`` holds.

    Raises:
        UsageError: files or options that do not go together. ParityError: a pickle that differs from ``verified_by``.
        CaffeCompatError: see :func:`.models.load`.

    Example:
        >>> done = convert(
        ...     "deploy.prototxt", "mask3d.caffemodel", output="new.pt", reference="recorded.h5", bounds="published"
        ... )
        >>> done.written, done.parity.reference, done.bounds.source
        (True, 'recorded.h5', 'the bounds of the released model')
        >>> convert("new.pt", output="refine.pkl").kind
        'pickle'
    """
    target, chosen = Path(output), given_bounds(bounds)
    pickled = _check_target(target, [model, weights], chosen)
    if is_pickle(model):
        if pickled or weights is not None or reference is not None:
            raise UsageError(f"{model} is a pickle; it becomes a .pt and takes neither WEIGHTS nor --reference")
        return _from_pickle(model, target, verified_by, chosen)
    if verified_by is not None:
        raise UsageError("--verified-by is for pickles")
    if pickled and is_checkpoint(os.fspath(model)) and reference is None:
        # A .pt of the projector alone is no pose machine.
        write_projector_pickle(target, projector_of(model))
        return Converted(target, "pickle")
    machine = load(model, weights, pose_blob=pose_blob)
    if chosen is not None:
        machine.bounds = chosen
    results = () if reference is None else tuple(machine.verify(reference, group, inputs))
    written = all(result.passed for result in results)
    if written and pickled:
        write_projector_pickle(target, machine.projector)
    elif written:
        machine.save(target)
    if pickled:
        return Converted(target, "pickle", written, results, machine.parity)
    return _described(machine, target, written, results)


def _check_target(target: Path, sources: list[_Path | None], bounds: Bounds | None) -> bool:
    """Whether a pickle is asked for. Raises UsageError of a name, a place or bounds that cannot be."""
    ending = target.suffix.lower()
    if ending not in (".pt", ".pkl"):
        raise UsageError(f"-o {target}: a name that ends in .pt or .pkl was expected")
    for source in sources:
        if source is not None and target.exists() and Path(source).exists() and target.samefile(source):
            raise UsageError(f"-o {target} would overwrite {source}, which is read")
    if ending == ".pkl" and bounds is not None:
        raise UsageError(f"-o {target}: a pickle holds the 12 arrays alone, no --bounds")
    return ending == ".pkl"


def _from_pickle(model: _Path, target: Path, verified_by: _Path | None, bounds: Bounds | None) -> Converted:
    parity = None
    if verified_by is None:
        projector = read_projector_pickle(model)
    else:
        projector, judge = verified_pickle(model, verified_by), os.fspath(verified_by)
        content = read_checkpoint(judge)
        parity, own = parity_of(content), stored_bounds(content, judge)
        check_agreement(judge, own, bounds)
        bounds = bounds or own
    save_projector(projector, target, sources=[os.fspath(model)], parity=parity, bounds=bounds)
    return Converted(target, "projector", parity=parity, bounds=bounds)


def _described(machine: PoseMachine, target: Path, written: bool, results: tuple[CaseResult, ...]) -> Converted:
    return Converted(
        target,
        "network",
        written,
        results,
        machine.parity,
        machine.known_bounds,
        machine.pose_blob,
        3 if machine.values == POSE_3D else 2,
    )
