"""``caffe._caffe``: Caffe's compiled module, for scripts that import from it or ask for its types."""

from __future__ import annotations

from ..layers.bvlc.python_layer import Blob
from .blob import BlobVec
from .layer import Layer, layer_type_list
from .nccl import NCCL, has_nccl
from .net import Net
from .runtime import (
    Timer,
    init_log,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from .solvers import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "BlobVec",
    "BoolVec",
    "DtypeVec",
    "IntVec",
    "Layer",
    "LayerVec",
    "NesterovSolver",
    "Net",
    "NetVec",
    "RMSPropSolver",
    "RawBlobVec",
    "SGDSolver",
    "Solver",
    "StringVec",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "log",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
]

__version__ = "1.0.0"  # the Caffe whose interface this is

# What Caffe gives as a C++ vector is a list here.
BoolVec = DtypeVec = IntVec = LayerVec = NetVec = RawBlobVec = StringVec = list
