"""pycaffe without Caffe: what ``import caffe`` offers, over this library.

    python -m caffe_compat.pycaffe script.py arguments ...       # the script's `import caffe` means this package

or in a notebook::

    import caffe_compat.pycaffe
    caffe_compat.pycaffe.install()
    import caffe

Real Caffe ends the process where something does not fit; here it is an exception that names layer, blob and shapes.
"""

from . import _caffe, coord_map, draw, io, net_spec, proto, pycaffe
from ._caffe import __version__
from .classifier import Classifier
from .detector import Detector
from .install import install
from .layer import Layer, layer_type_list
from .nccl import NCCL, has_nccl
from .net import TEST, TRAIN, Net
from .net_spec import NetSpec, layers, params, to_proto
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
    get_solver,
)

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "__version__",
    "_caffe",
    "coord_map",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "install",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "pycaffe",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]
