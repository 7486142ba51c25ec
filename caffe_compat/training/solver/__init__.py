"""Training as Caffe does it: optimizers, learning-rate policies, snapshots and the loop."""

from .events import Event, lines_of
from .loop import Action, Solver
from .optimizers import (
    CaffeAdaDelta,
    CaffeAdaGrad,
    CaffeAdam,
    CaffeNesterov,
    CaffeOptimizer,
    CaffeRMSProp,
    CaffeSGD,
)
from .settings import SolverSettings, parse_solver, read_solver
from .snapshot import read_snapshot, write_snapshot
from .snapshot_files import latest_snapshot

__all__ = [
    "Action",
    "CaffeAdaDelta",
    "CaffeAdaGrad",
    "CaffeAdam",
    "CaffeNesterov",
    "CaffeOptimizer",
    "CaffeRMSProp",
    "CaffeSGD",
    "Event",
    "Solver",
    "SolverSettings",
    "latest_snapshot",
    "lines_of",
    "parse_solver",
    "read_snapshot",
    "read_solver",
    "write_snapshot",
]
