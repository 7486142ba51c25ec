"""MPII's release as MATLAB wrote it, read by scipy; run by :func:`caffe_compat.formats.guarded.guarded`."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from caffe_compat.errors import FileError

__all__ = ["place_of", "read_release"]

_JOINTS = 16

# What scipy raises for files that are cut short, damaged, or of MATLAB 7.3.
_DAMAGE = (
    *(OSError, EOFError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError),
    *(NotImplementedError, UnboundLocalError, MatReadError, struct.error, zlib.error),
)


def read_release(path: str) -> dict[str, Any]:
    """The persons of the training pictures of ``mpii_human_pose_v1_u12_1.mat``, a column for everything told of them.

    Returns:
        ``images``: the pictures' names. ``points``: (persons, 16, 2) pixels from 0, in MPII's order; ``present``:
        (persons, 16), which joints there are. ``centres``: (persons, 2) pixels from 0, and ``scales``: (persons,) in
        units of 200 pixels; nan where the file does not tell.

    Raises:
        FileError: something else.
    """
    try:
        release = loadmat(path, struct_as_record=False, squeeze_me=True, variable_names=["RELEASE"])["RELEASE"]
        pictures, training = np.atleast_1d(release.annolist), np.atleast_1d(release.img_train)
    except _DAMAGE as error:
        raise FileError(f"is not MPII's release: {type(error).__name__} {error}", path=path) from error
    if len(pictures) != len(training):
        raise FileError(f"annolist has {len(pictures)} pictures, img_train {len(training)}", path=path)
    images: list[str] = []
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    for k in np.flatnonzero(training):
        for person in np.atleast_1d(getattr(pictures[k], "annorect", [])):
            # Some rectangles are heads without joints, some lists are empty.
            points = np.atleast_1d(getattr(getattr(person, "annopoints", None), "point", []))
            if len(points):
                centre, scale = _place(person, path)
                try:
                    rows.append((*_joints(points), centre, scale))
                    images.append(str(pictures[k].image.name))
                except (AttributeError, IndexError, TypeError, ValueError) as error:
                    raise FileError(f"{type(error).__name__} {error}", path=path, place=f"picture {k + 1}") from error
    places, present, centres, scales = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "images": images,
        "points": np.array(places, np.float64).reshape(-1, _JOINTS, 2),
        "present": np.array(present, bool).reshape(-1, _JOINTS),
        "centres": np.array(centres, np.float64).reshape(-1, 2),
        "scales": np.array(scales, np.float64),
    }


def place_of(centre: Any, scale: Any) -> tuple[np.ndarray | None, float | None]:
    """Centre and scale of a person. Files write -1, -1 for a centre and -1 for a scale that is not known."""
    at = None if centre is None else np.asarray(centre, np.float64).reshape(2)
    size = None if scale is None else float(scale)
    known = at is not None and np.isfinite(at).all() and not (at == -1).all()
    return (at - 1 if known and at is not None else None), (size if size is not None and size > 0 else None)


def _joints(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(16, 2) pixels from 0, and (16,) which there are."""
    places, present = np.zeros((_JOINTS, 2)), np.zeros(_JOINTS, bool)
    for point in points:
        joint = int(point.id)
        if not 0 <= joint < _JOINTS:
            raise ValueError(f"joint {joint}; there are 0 to {_JOINTS - 1}")
        places[joint], present[joint] = (point.x - 1, point.y - 1), True
    if not np.isfinite(places).all():
        raise ValueError("joints that are not finite")
    return places, present


def _place(person: Any, path: str) -> tuple[np.ndarray, float]:
    # An empty field is an empty array.
    at: Any = getattr(person, "objpos", None)
    scale: Any = getattr(person, "scale", None)
    centre = (at.x, at.y) if hasattr(at, "x") else None
    try:
        known_centre, known_scale = place_of(centre, None if np.size(scale) == 0 else scale)
    except (TypeError, ValueError) as error:
        raise FileError(f"a person's centre {centre} or scale {scale} is no number: {error}", path=path) from error
    return np.full(2, np.nan) if known_centre is None else known_centre, np.nan if known_scale is None else known_scale
