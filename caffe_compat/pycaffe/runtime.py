"""What pycaffe keeps for the whole process: the device, the log, whether networks may import code."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from functools import cache
from pathlib import Path

import torch

from ..display import shown
from ..errors import CaffeCompatWarning, UsageError

__all__ = [
    "Runtime",
    "Timer",
    "draw_seed",
    "init_log",
    "keep_freed_memory",
    "log",
    "runtime",
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


class Runtime:
    """The process-wide settings. Nets look at ``device`` in every pass, as Caffe looks at its mode.

    Attributes:
        allow_python: whether ``Python`` layers may import modules that the script has not imported itself.
        dialect: the fork that files are read as; None finds it out for each.
        level: messages below it are not logged (0 info, 1 warning, 2 error), as glog's ``minloglevel``.
    """

    def __init__(self) -> None:
        self.gpu = False
        self.device_id = 0
        self.allow_python = False
        self.dialect: str | None = None
        self.solver_count = 1
        self.solver_rank = 0
        level = os.environ.get("GLOG_minloglevel", "0")  # noqa: SIM112  glog's own spelling
        self.level = int(level) if level.isdigit() else 0
        self._warned = False

    @property
    def device(self) -> torch.device:
        """Where nets compute."""
        if self.gpu and torch.cuda.is_available():
            return torch.device("cuda", self.device_id)
        return torch.device("cpu")

    def warn_without_gpu(self) -> None:
        """Say once that there is no GPU."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                "torch finds no CUDA device; everything goes on computing on the CPU", CaffeCompatWarning, stacklevel=3
            )


runtime = Runtime()


@cache
def keep_freed_memory() -> None:
    """Have glibc keep more of the memory that is freed.

    A net that keeps all its blobs leaves few holes for what a layer needs for a moment; glibc then gives that memory
    back to the system and asks for it again, page by page, in every pass, which costs up to a tenth of the time.
    Freeing one large block that was never touched raises its limits (see "dynamic mmap threshold" in mallopt(3)).
    """
    torch.empty(2**25 - 2**14, dtype=torch.uint8)  # just below the largest block that counts


def set_mode_cpu() -> None:
    """Compute on the CPU from now on."""
    runtime.gpu = False


def set_mode_gpu() -> None:
    """Compute on the GPU from now on, in plain float32 as Caffe does (TF32 is turned off for the process).

    Without CUDA it warns once, and computing goes on on the CPU.
    """
    runtime.gpu = True
    if not torch.cuda.is_available():
        runtime.warn_without_gpu()
        return
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def set_device(device_id: int) -> None:
    """Choose the GPU that :func:`set_mode_gpu` means.

    Raises:
        UsageError: there is no such GPU. Without any, it warns once instead.
    """
    if not torch.cuda.is_available():
        runtime.warn_without_gpu()
    elif not 0 <= device_id < torch.cuda.device_count():
        raise UsageError(
            f"set_device({device_id}): this machine has {torch.cuda.device_count()} CUDA devices, from 0 on"
        )
    runtime.device_id = device_id


def set_random_seed(seed: int) -> None:
    """Seed what fillers, dropout and data layers draw from. One seed gives one run, but not Caffe's numbers."""
    torch.manual_seed(seed)


def draw_seed() -> int:
    """A seed that :func:`set_random_seed` determines."""
    return int(torch.randint(2**31, ()))


# Several solvers in one process are Caffe's way to several GPUs; scripts set these beside NCCL.


def solver_count() -> int:
    """How many solvers train together: 1 (see :func:`set_solver_count`)."""
    return runtime.solver_count


def set_solver_count(count: int) -> None:
    """Refuses more than one, which would need NCCL.

    Raises:
        UsageError: ``count`` is not 1.
    """
    if count != 1:
        raise UsageError(
            f"set_solver_count({count}): one process trains with one GPU here; for several run "
            "`torchrun --nproc-per-node N -m caffe_compat train --solver solver.prototxt`"
        )
    runtime.solver_count = count


def solver_rank() -> int:
    """Which of the solvers that train together this process is, from 0."""
    return runtime.solver_rank


def set_solver_rank(rank: int) -> None:
    """Refuses any rank but 0.

    Raises:
        UsageError: ``rank`` is not 0.
    """
    if rank != 0:
        raise UsageError(f"set_solver_rank({rank}): there is one solver, of rank 0")
    runtime.solver_rank = rank


def set_multiprocess(value: bool) -> None:
    """Taken and ignored: it only tells Caffe which process prints."""


# The log


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Choose what is logged: 0 everything, 1 warnings and errors, 2 errors. The log goes to stderr in any case."""
    runtime.level = level


def log(text: str, level: int = 0) -> None:
    """Log in the form of glog, which scripts that read Caffe's logs expect."""
    if level < runtime.level:
        return
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1e6):06d}"
    where = Path(__file__).name
    prefix = f"{'IWEF'[min(level, 3)]}{stamp} {threading.get_native_id() % 100000:5d} {where}:1] "
    print(prefix + shown(text), file=sys.stderr)


class Timer:
    """A stopwatch that waits for the GPU; for anything finer use ``torch.profiler``."""

    def __init__(self) -> None:
        self._started = 0.0
        self._ms = 0.0
        self._runs = False

    def start(self) -> None:
        self._started, self._runs = self._now(), True

    def stop(self) -> None:
        if self._runs:
            self._ms, self._runs = (self._now() - self._started) * 1000, False

    @property
    def ms(self) -> float:
        """Milliseconds between start and stop; up to now if it was not stopped."""
        self.stop()
        return self._ms

    @staticmethod
    def _now() -> float:
        if runtime.device.type == "cuda":
            torch.cuda.synchronize(runtime.device)
        return time.perf_counter()
