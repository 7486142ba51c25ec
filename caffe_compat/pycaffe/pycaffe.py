"""``caffe.pycaffe``: where Caffe keeps its nets and solvers in Python, for scripts that import them from there."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from .nccl import NCCL
from .net import Net
from .runtime import Timer
from .solvers import AdaDeltaSolver, AdaGradSolver, AdamSolver, NesterovSolver, RMSPropSolver, SGDSolver

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "Net",
    "OrderedDict",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "np",
]
