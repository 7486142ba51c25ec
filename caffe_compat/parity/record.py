"""What a model was checked against, for whoever gets its file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from ..errors import ParityError
from ..formats.files import sha256_of
from .compare import CaseResult

__all__ = ["IEEE", "ParityRecord", "fingerprint", "parity_record", "versions"]

IEEE = "float32 (IEEE)"
"""The precision of numbers computed within :func:`~caffe_compat.parity.precision.ieee_float32`."""


@dataclass(frozen=True)
class ParityRecord:
    """What a model was checked against and how far off it was at worst.

    Attributes:
        reference, sha256: name and checksum of the file of recorded outputs. group: the part of it that was used.
        blobs: how many arrays were compared, all within tolerance.
        worst_blob, worst_abs, worst_rel: the array with the largest relative error, and the largest absolute error of
            all.
        device, precision: where and how it ran. versions: of torch and of this library.
    """

    reference: str
    sha256: str
    group: str
    blobs: int
    worst_blob: str
    worst_abs: float
    worst_rel: float
    device: str
    precision: str
    versions: str


def parity_record(
    reference: str | os.PathLike[str],
    group: str,
    results: Sequence[CaseResult],
    device: torch.device | str,
    precision: str = IEEE,
) -> ParityRecord:
    """The record of a comparison with the file ``reference`` in which everything passed.

    Raises:
        ParityError: something departed, or nothing was compared. FileError: the file cannot be read any more.
    """
    blobs = [blob for result in results for blob in result.blobs]
    bad = next((result for result in results if not result.passed), None)
    if bad is not None or not blobs:
        first = bad.first_failure if bad is not None else None
        found = f"{first.name}: {first.problem or f'off by {first.max_rel:.1e}'}" if first else "nothing was compared"
        raise ParityError(f"the model does not reproduce {os.fspath(reference)}: {found}")
    worst = max(blobs, key=lambda blob: blob.max_rel)
    return ParityRecord(
        reference=Path(reference).name,
        sha256=sha256_of(reference),
        group=group,
        blobs=len(blobs),
        worst_blob=worst.name,
        worst_abs=max(blob.max_abs for blob in blobs),
        worst_rel=worst.max_rel,
        device=str(device),
        precision=precision,
        versions=versions(),
    )


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """A checksum of named tensors (a ``state_dict``), in hexadecimal: it tells a change of any name, type or value."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def versions() -> str:
    """Versions of this library and of torch, for records."""
    try:
        own = metadata.version("caffe-compat")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return f"caffe_compat {own}, torch {torch.__version__}"
