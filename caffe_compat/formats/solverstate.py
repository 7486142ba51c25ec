"""A solver's binary snapshot, ``.solverstate``. Field numbers are those of BVLC Caffe 1.0.0's ``caffe.proto``."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_compat.errors import located
from caffe_compat.formats.blob_proto import BlobView, blob_at
from caffe_compat.formats.sizes import MAX_BLOBS
from caffe_compat.formats.varint import signed
from caffe_compat.formats.wire import BYTES, VARINT, PathOrBuffer, Source

__all__ = ["SolverState", "read_solver_state"]


@dataclass(frozen=True, slots=True)
class SolverState:
    """A solver's snapshot: iteration, the weights file it names (None if it names none), step of a multistep policy,
    and the optimiser's history blobs in Caffe's order (for each parameter; Adam, AdaDelta: all first moments, then all
    second ones)."""

    iteration: int
    learned_net: str | None
    current_step: int
    history: tuple[BlobView, ...]


def read_solver_state(file: PathOrBuffer) -> SolverState:
    """Read a binary ``.solverstate``. Raises FileError, WireError."""
    source = Source(file)
    source.refuse_foreign_formats("a .solverstate")
    iteration: int | None = None
    learned_net: str | None = None
    current_step = 0
    history: list[BlobView] = []
    position, end = 0, source.size
    while position < end:
        at = position
        number, wire, value, position = source.field(at, end)
        expected = {1: VARINT, 2: BYTES, 3: BYTES, 4: VARINT}.get(number, wire)
        if wire != expected:
            hint = "; a .caffemodel begins like this" if number == 1 and wire == BYTES else ""
            raise source.error(f"field {number} of SolverState has wire type {wire}, not {expected}{hint}", at)
        if number == 1:
            iteration = signed(value, 32)
        elif number == 2:
            learned_net = source.text(value, position)
        elif number == 3:
            with located(place=f"history blob {len(history)}"):
                history.append(blob_at(source, value, position))
            if len(history) > MAX_BLOBS:
                raise source.error(f"more than {MAX_BLOBS} history blobs: not a solver's state", at)
        elif number == 4:
            current_step = signed(value, 32)
    if iteration is None:
        raise source.error("no iteration (field 1): not the SolverState of a .solverstate", 0)
    return SolverState(iteration, learned_net, current_step, tuple(history))
