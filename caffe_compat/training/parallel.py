"""Processes that train together: one copy of the network each, batches of its own, gradients averaged.

Under ``torchrun`` the processes are there already, and its environment variables say which one this is;
:func:`launch` starts them on one machine without it.
"""

from __future__ import annotations

import atexit
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ..errors import CaffeCompatError, UsageError, first_line
from .solver import Action, Event, Solver, latest_snapshot
from .solver.events import NetTested, NetTestStarted, Observer

__all__ = [
    "ParallelNet",
    "Rank",
    "Vote",
    "decided",
    "finish",
    "gather",
    "is_restart",
    "joined",
    "launch",
    "restart_point",
    "share",
    "this_rank",
]

T = TypeVar("T")

# Rank 0 tests, and writes snapshots, while the others wait for it.
_PATIENCE = datetime.timedelta(days=7)
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
_PARENT = "CAFFE_COMPAT_PARENT"

_left_groups: list[Rank] = []  # what this process has been


@dataclass(frozen=True)
class Rank:
    """Which of ``size`` processes this is; ``local`` counts those on this machine only."""

    rank: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """What the variables that ``torchrun`` sets say; without them this process trains alone.

    Raises:
        UsageError: they are no numbers.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Rank()
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return Rank(
            rank, size, int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
        )
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE must be numbers: {error}") from error


@contextmanager
def joined(rank: Rank, device: torch.device) -> Iterator[None]:
    """Be one of the group within the block; nothing happens for a process that trains alone.

    Raises:
        CaffeCompatError: the others cannot be reached, or one of them ended.
    """
    if rank.size == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, _, _ = next(rendezvous("env://", rank.rank, rank.size, timeout=_PATIENCE))
        # torchrun may keep its store over a restart, with the addresses of processes that are gone.
        prefix = f"attempt {os.environ.get(_RESTARTS, '0')}"
        attempt = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]  # private to torch's own type hints
        dist.init_process_group(backend, store=attempt, rank=rank.rank, world_size=rank.size, timeout=_PATIENCE)
        yield
    except (RuntimeError, ValueError) as error:  # torch's distributed errors are kinds of RuntimeError
        if not _is_about_the_group(error):
            raise
        said = first_line(error)
        raise CaffeCompatError(f"rank {rank.rank} of {rank.size} lost touch with the others: {said}") from error
    finally:
        if dist.is_initialized():
            _left_groups.append(rank)
            with suppress(RuntimeError):
                dist.destroy_process_group()


def finish(status: int) -> NoReturn:
    """``sys.exit``; but a process that was one of a group ends without taking the interpreter apart.

    torch's threads outlive the group that they served. One that lets go of a tensor while the interpreter is being
    taken apart ends the process with SIGABRT, and ``torchrun`` would take a finished training for a lost rank.
    """
    if not _left_groups:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(status)


def _is_about_the_group(error: Exception) -> bool:
    words = ("gloo", "nccl", "connect", "peer", "rendezvous", "store", "process group", "socket")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def share(value: Any) -> Any:
    """``value`` as rank 0 has it."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """``value`` as each rank has it, in their order."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def decided(decide: Callable[[], T]) -> T:
    """What ``decide`` returns on rank 0, which alone runs it.

    Raises:
        CaffeCompatError: on rank 0 what ``decide`` raised; on the others one that says the same.
    """
    if not dist.is_initialized():
        return decide()
    value, problem = None, None
    if dist.get_rank() == 0:
        try:
            value = decide()
        except CaffeCompatError as error:
            problem = error
    value, text = share((value, "" if problem is None else str(problem)))
    if problem is not None:
        raise problem
    if text:
        raise CaffeCompatError(f"rank 0: {text}")
    return value


class ParallelNet(nn.Module):
    """A solver's model that averages gradients over all processes after each backward pass.

    Takes the place of ``Solver.model``. Buffers stay each process's own, as in Caffe: statistics of BatchNorm, of which
    rank 0 writes its own into snapshots, and recurrent state.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._values: list[Tensor | None] = []
        on_gpu = next(model.parameters()).device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch 2.13: broadcast_buffers, which older ones need
            self.ddp = DistributedDataParallel(
                _LossOnly(model, self._values),
                device_ids=[on_gpu] if on_gpu.type == "cuda" else None,
                broadcast_buffers=False,
                # Some blobs may have no path to the loss. Where all have one, torch says once that it looked in vain.
                find_unused_parameters=True,
            )

    def forward(self, inputs: Mapping[str, Tensor], keep: bool) -> tuple[Tensor, list[Tensor | None]]:
        loss: Tensor = self.ddp(inputs, keep)
        values = list(self._values)
        self._values.clear()
        return loss, values

    def no_sync(self) -> AbstractContextManager[None]:
        """Keep gradients to this process for the backward passes within."""
        return self.ddp.no_sync()


class _LossOnly(nn.Module):
    """Puts the values aside: a blob that reaches an output but not the loss gets no gradient, and the wrapper, which
    looks for such blobs from the outputs, would wait for it."""

    def __init__(self, model: nn.Module, values: list[Tensor | None]) -> None:
        super().__init__()
        self.model = model
        self._values = values

    def forward(self, inputs: Mapping[str, Tensor], keep: bool) -> Tensor:
        loss, self._values[:] = self.model(inputs, keep)
        return loss


class Vote:
    """Makes all processes stop, or take a snapshot, after the same iteration if one of them is asked to.

    ``requested`` and ``after_tests`` are a solver's ``requested`` and an entry of its ``on_start``; what :meth:`before`
    gives is its observer. A snapshot that is asked for during a test is taken when the tests are over: the other
    processes have a share in it.

    Args:
        asked: what this process alone is asked to do. tests_at: whether tests begin the current iteration.
    """

    def __init__(self, asked: Callable[[], Action] | None, device: torch.device, tests_at: Callable[[], bool]) -> None:
        self._asked, self._device, self._tests_at = asked or (lambda: Action.NONE), device, tests_at
        self._testing = self._waiting = False

    def requested(self) -> Action:
        if not self._testing:
            return self._agree(self._asked())
        # While rank 0 tests, the others wait for it where they cannot vote.
        action = self._asked()
        self._waiting |= action is Action.SNAPSHOT
        return Action.STOP if action is Action.STOP else Action.NONE

    def before(self, observer: Observer) -> Observer:
        """An observer that learns of tests, and hands every event on."""

        def observe(event: Event) -> None:
            if isinstance(event, NetTestStarted | NetTested):
                self._testing = isinstance(event, NetTestStarted)
            observer(event)

        return observe

    def after_tests(self, solver: Solver) -> None:
        """Let the others know if a test was stopped, and take the snapshot that was asked for meanwhile."""
        if not self._tests_at():
            return
        waiting = self._agree(Action.SNAPSHOT if self._waiting else Action.NONE)
        stopped = self._agree(Action.STOP if solver.stopped else Action.NONE)
        self._waiting = False
        if waiting is Action.SNAPSHOT:
            solver.snapshot()
        solver.stopped = stopped is Action.STOP

    def _agree(self, action: Action) -> Action:
        """The most that anyone wants."""
        actions = list(Action)
        number = torch.tensor(actions.index(action), device=self._device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return actions[int(number)]


# After the loss of a process


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``torchrun`` has started the processes again after one was lost."""
    return environment.get(_RESTARTS, "0") not in ("", "0")


@contextmanager
def restart_point(prefix: str, base: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Path | None]:
    """The last snapshot of this run, if this is a restart of it: where to go on from.

    A file beside the snapshots marks when a run under ``torchrun`` began, since older ones belong to another run. It
    goes away when the block ends without an error. Without ``torchrun`` there is none.
    """
    if _RESTARTS not in environment:
        yield None
        return
    first = this_rank(environment).rank == 0
    marker = (base / prefix).with_name(f".{Path(prefix).name}.started")
    found = None
    if is_restart(environment):
        if marker.exists():
            latest = latest_snapshot(prefix, base, newer_than=marker.stat().st_mtime_ns)
            found = latest
    elif first:
        with suppress(OSError):  # the solver says in its own words that it cannot write there
            marker.touch()
    yield found
    if first:
        marker.unlink(missing_ok=True)


# Without torchrun


def launch(arguments: Sequence[str], count: int) -> int:
    """Run ``caffe-compat`` with ``arguments`` in ``count`` processes that train together; the exit status.

    If one fails, the others are ended. Signals for this process go to all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        _PARENT: str(os.getpid()),
    }
    here = str(Path(__file__).parents[1])
    common["PYTHONPATH"] = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH", ""), here) if p)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "caffe_compat", *arguments],
            env=common | {"RANK": str(i), "LOCAL_RANK": str(i)},
            start_new_session=True,  # else a terminal's Ctrl-C would reach them twice
        )
        for i in range(count)
    ]

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            with suppress(OSError):
                process.send_signal(number)

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.1)
        failed = [process.returncode for process in processes if process.poll()]
        return (failed[0] if failed[0] > 0 else 128 - failed[0]) if failed else 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def is_abandoned(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the process that :func:`launch` ran in has gone without ending this one."""
    return _PARENT in environment and os.getppid() != int(environment[_PARENT])
