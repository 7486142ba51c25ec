"""Reads batches ahead in worker processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CaffeCompatError, UsageError
from ..registry import Shape
from .images import opencv
from .source import Source

__all__ = ["Loader"]

# How often an idle worker looks whether its parent still lives.
_PARENT_CHECK_SECONDS = 1
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Stored:
    """A tensor at ``offset`` floats of the shared memory that a batch was given."""

    offset: int
    shape: Shape


@dataclass(frozen=True)
class _Failure:
    """An error on its way home. Exceptions with arguments of their own do not survive pickling; their parts do."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]

    @staticmethod
    def of(error: BaseException) -> _Failure:
        if isinstance(error, CaffeCompatError):
            return _Failure(type(error), error.args, dict(error.__dict__))
        return _Failure(RuntimeError, (f"reading a batch failed: {traceback.format_exc()}",), {})

    def error(self) -> BaseException:
        error = self.kind.__new__(self.kind, *self.args)
        error.__dict__.update(self.state)
        return error


class Loader:
    """The batches of several sources, one dict of all their tops after the other, read ahead of need.

        with Loader(sources, start=iteration) as loader:
            for batch in loader:
                net(**batch)

    Batch k is what ``source.batch(k)`` gives, whatever the number of workers. Each worker owns some shared memory that
    it writes batches into, which bounds how far it runs ahead.

    Args:
        sources: data layers with different tops.
        start: index of the first batch. stop: the index after the last; None goes on for ever.
        workers: processes; 0 reads in this one, None takes one for each core but one.
        prefetch: batches ready or being read; None takes what the sources ask for.
        copy: False hands out the shared memory itself, which the next batch may overwrite.

    Raises:
        UsageError: two sources make one top.
        CaffeCompatError: from ``next``, in its turn: what a source raised, or a worker that ended by itself.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        start: int = 0,
        stop: int | None = None,
        workers: int | None = None,
        prefetch: int | None = None,
        copy: bool = True,
    ) -> None:
        tops = [top for source in sources for top in source.tops]
        if len(set(tops)) < len(tops) or not tops:
            raise UsageError(f"a loader needs sources with different tops, found {', '.join(tops) or 'none'}")
        self._sources = tuple(sources)
        self._next, self._stop, self._copy = start, stop, copy
        self._ahead = start  # the first batch that no worker was asked for
        self._workers: list[_Worker] = []
        self._turn = 0
        self._held: tuple[_Worker, int] | None = None
        if workers is None:
            workers = max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1
        workers = min([workers, *(s.max_workers for s in sources if s.max_workers is not None)])
        if workers < 0:
            raise UsageError(f"{workers} workers; 0 or more were expected")
        prefetch = prefetch if prefetch is not None else max(source.prefetch for source in sources)
        if workers:
            # One slot is the consumer's while another is being written; with fewer they would wait for each other.
            slots = max(2, -(-prefetch // workers))
            floats = sum(_padded(int(np.prod(shape))) for s in sources for shape in s.shapes().values())
            try:
                self._workers = [_Worker(self._sources, slots, floats) for _ in range(workers)]
                for slot in range(slots):
                    for worker in self._workers:
                        self._ask(worker, slot)
            except BaseException:
                self.close()
                raise

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self._stop is not None and self._next >= self._stop:
            self.close()
            raise StopIteration
        if not self._workers:
            batch = _read(self._sources, self._next, torch.empty)
            self._next += 1
            return batch
        self._release()
        worker = self._workers[self._turn]
        try:
            slot, batch = worker.receive(self._copy)
        except BaseException:
            self.close()
            raise
        self._held = (worker, slot)
        self._turn = (self._turn + 1) % len(self._workers)
        self._next += 1
        if self._copy:
            self._release()
        return batch

    def _release(self) -> None:
        """Let the worker of the batch handed out last use its memory again."""
        if self._held is not None:
            self._ask(*self._held)
            self._held = None

    def _ask(self, worker: _Worker, slot: int) -> None:
        if self._stop is None or self._ahead < self._stop:
            worker.ask(self._ahead, slot)
            self._ahead += 1

    def close(self) -> None:
        """End the workers. Harmless when repeated."""
        workers, self._workers, self._held = self._workers, [], None
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.join()
        if workers:
            self._stop = self._next

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Worker:
    """A process that reads batches, and this process's end of the line to it."""

    def __init__(self, sources: tuple[Source, ...], slots: int, floats: int) -> None:
        context = multiprocessing.get_context()
        self._memory = [context.RawArray(ctypes.c_float, max(1, floats)) for _ in range(slots)]
        self._views = [torch.frombuffer(memory, dtype=torch.float32) for memory in self._memory]
        self._line, far_end = context.Pipe()
        self._process = context.Process(
            target=_work, args=(far_end, sources, self._memory), daemon=True, name="caffe-compat data"
        )
        self._process.start()
        far_end.close()

    def ask(self, index: int, slot: int) -> None:
        with suppress(OSError):  # a worker that has ended; receive() says so in its turn
            self._line.send((index, slot))

    def receive(self, copy: bool) -> tuple[int, dict[str, Tensor]]:
        """The slot and the batch of the oldest request."""
        multiprocessing.connection.wait([self._line, self._process.sentinel])
        try:
            if not self._line.poll():
                raise EOFError
            slot, result = self._line.recv()
        except (EOFError, OSError) as error:
            self._process.join(1)
            raise CaffeCompatError(
                f"a process that reads data ended by itself (exit code {self._process.exitcode}); "
                "was it killed for using too much memory?"
            ) from error
        if isinstance(result, _Failure):
            raise result.error()
        batch = {}
        for top, value in result.items():
            if isinstance(value, _Stored):
                count = int(np.prod(value.shape))
                value = self._views[slot][value.offset : value.offset + count].view(value.shape)
                batch[top] = value.clone() if copy else value
            else:
                batch[top] = torch.from_numpy(value)
        return slot, batch

    def dismiss(self) -> None:
        with suppress(OSError):
            self._line.send(None)
        self._line.close()

    def join(self) -> None:
        self._process.join(2)
        if self._process.is_alive():  # in the middle of a long read, whose result nobody wants
            self._process.kill()
            self._process.join()


class _Slot:
    """Hands out pieces of one slot of shared memory, and ordinary memory once it is used up."""

    def __init__(self, memory: Any) -> None:
        self._view = torch.frombuffer(memory, dtype=torch.float32)
        self._used = 0

    def empty(self, shape: Shape) -> Tensor:
        count = int(np.prod(shape))
        if self._used + count > self._view.numel():
            return torch.empty(shape)
        piece = self._view[self._used : self._used + count].view(shape)
        self._used += _padded(count)
        return piece

    def reset(self) -> None:
        self._used = 0

    def stored(self, tensor: Tensor) -> _Stored | np.ndarray:
        offset = (tensor.data_ptr() - self._view.data_ptr()) // self._view.element_size()
        if 0 <= offset < self._view.numel():
            return _Stored(offset, tuple(tensor.shape))
        return tensor.numpy()


def _work(line: Any, sources: tuple[Source, ...], memory: list[Any]) -> None:
    """What a worker process does until it is dismissed."""
    parent = os.getppid()
    # The terminal sends these to everyone; the parent decides what they mean and ends the workers in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler of the parent's would not end this process
    torch.set_num_threads(1)
    if _uses_opencv():
        opencv().setNumThreads(0)  # also keeps away from a thread pool that did not survive the fork
    slots = [_Slot(piece) for piece in memory]
    while True:
        while not line.poll(_PARENT_CHECK_SECONDS):
            if os.getppid() != parent:
                return  # killed without a goodbye
        try:
            request = line.recv()
        except (EOFError, OSError):
            return
        if request is None:
            return
        index, slot = request
        try:
            slots[slot].reset()
            batch = _read(sources, index, slots[slot].empty)
            result: Any = {top: slots[slot].stored(tensor) for top, tensor in batch.items()}
        except BaseException as error:
            result = _Failure.of(error)
        try:
            line.send((slot, result))
        except OSError:
            return


def _uses_opencv() -> bool:
    try:
        opencv()
    except CaffeCompatError:
        return False
    return True


def _read(sources: Sequence[Source], index: int, empty: Any) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = {}
    for source in sources:
        batch.update(source.batch(index, empty))
    return batch


def _padded(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
