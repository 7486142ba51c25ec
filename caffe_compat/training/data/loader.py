"""Reads batches ahead in worker processes."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CaffeCompatError, UsageError
from ...formats.images import opencv
from ...formats.limits import BATCH
from ...network.registry import Shape
from .source import Source, Values

__all__ = ["Loader"]

# How often an idle worker looks whether its parent still lives.
_PARENT_CHECK_SECONDS = 1
_ALIGNMENT = 64
_MOST_AHEAD = 1000  # batches


@dataclass(frozen=True)
class _Stored:
    """Values whose tensor lies at byte ``offset`` of the shared memory that a batch was given."""

    offset: int
    shape: Shape
    dtype: torch.dtype
    mean: tuple[float, ...]
    scale: float


@dataclass(frozen=True)
class _Failure:
    """An error on its way home. Exceptions with arguments of their own do not survive pickling; their parts do."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]

    @staticmethod
    def of(error: BaseException) -> _Failure:
        if isinstance(error, MemoryError):
            return _Failure(MemoryError, (), {})
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
    it writes batches into, which bounds how far it runs ahead; what is handed out is the caller's own.

    Args:
        sources: data layers with different tops.
        start: index of the first batch. stop: the index after the last; None goes on for ever.
        workers: processes; 0 reads in this one, None takes one for each core but one.
        prefetch: batches ready or being read; None takes what the sources ask for.
        device: where the batches are put. Pixels travel there as bytes.

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
        device: torch.device | str = "cpu",
    ) -> None:
        tops = [top for source in sources for top in source.tops]
        if len(set(tops)) < len(tops) or not tops:
            raise UsageError(f"a loader needs sources with different tops, found {', '.join(tops) or 'none'}")
        self._sources = tuple(sources)
        self._next, self._stop, self._device = start, stop, device
        self._ahead = start  # the first batch that no worker was asked for
        self._workers: list[_Worker] = []
        self._turn = 0
        if workers is None:
            workers = max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1
        workers = min([workers, *(s.max_workers for s in sources if s.max_workers is not None)])
        if workers < 0:
            raise UsageError(f"{workers} workers; 0 or more were expected")
        prefetch = prefetch if prefetch is not None else max(source.prefetch for source in sources)
        if workers:
            size = sum(_size(shape, top in s.byte_tops) for s in sources for top, shape in s.shapes().items())
            # How far it is read ahead changes no number, so a definition gets no more of it than there is memory for.
            prefetch = min(prefetch, _MOST_AHEAD, BATCH.bytes // max(size, 1))
            # One slot waits for the consumer while another is being written.
            slots = max(2, -(-prefetch // workers))
            try:
                self._workers = [_Worker(self._sources, slots, size) for _ in range(workers)]
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
            batch = {t: x for s in self._sources for t, x in s.batch(self._next, self._device).items()}
            self._next += 1
            return batch
        worker = self._workers[self._turn]
        try:
            slot, values = worker.receive()
            batch = {top: value.finish(self._device) for top, value in values.items()}
        except BaseException:
            self.close()
            raise
        self._ask(worker, slot)
        self._turn = (self._turn + 1) % len(self._workers)
        self._next += 1
        return batch

    def _ask(self, worker: _Worker, slot: int) -> None:
        if self._stop is None or self._ahead < self._stop:
            worker.ask(self._ahead, slot)
            self._ahead += 1

    def close(self) -> None:
        """End the workers. Harmless when repeated."""
        workers, self._workers = self._workers, []
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

    def __init__(self, sources: tuple[Source, ...], slots: int, size: int) -> None:
        context = multiprocessing.get_context()
        self._memory = [context.RawArray(ctypes.c_uint8, size) for _ in range(slots)]
        self._line, far_end = context.Pipe()
        self._process = context.Process(
            target=_work, args=(far_end, sources, self._memory), daemon=True, name="caffe-compat data"
        )
        with _terminal_held_off():
            self._process.start()
        far_end.close()

    def ask(self, index: int, slot: int) -> None:
        with suppress(OSError):  # a worker that has ended; receive() says so in its turn
            self._line.send((index, slot))

    def receive(self) -> tuple[int, dict[str, Values]]:
        """The slot of the oldest request, and what was read, some of it in that slot."""
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
        return slot, {top: self._values(slot, value) for top, value in result.items()}

    def _values(self, slot: int, sent: _Stored | tuple[np.ndarray, tuple[float, ...], float]) -> Values:
        if not isinstance(sent, _Stored):
            array, mean, scale = sent
            return Values(torch.from_numpy(array), mean, scale)
        count = int(np.prod(sent.shape))
        flat = torch.frombuffer(self._memory[slot], dtype=sent.dtype, count=count, offset=sent.offset)
        return Values(flat.view(sent.shape), sent.mean, sent.scale)

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
        self._memory = memory
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self._used = 0

    def empty(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        size = _size(shape, dtype == torch.uint8)
        if not size or self._used + size > self._bytes.numel():
            return torch.empty(shape, dtype=dtype)
        piece = torch.frombuffer(self._memory, dtype=dtype, count=int(np.prod(shape)), offset=self._used)
        self._used += size
        return piece.view(shape)

    def reset(self) -> None:
        self._used = 0

    def sent(self, values: Values) -> _Stored | tuple[np.ndarray, tuple[float, ...], float]:
        """What goes through the line for ``values``: where they are, or themselves."""
        tensor = values.tensor
        offset = tensor.data_ptr() - self._bytes.data_ptr()
        if 0 <= offset < self._bytes.numel():
            return _Stored(offset, tuple(tensor.shape), tensor.dtype, values.mean, values.scale)
        return tensor.numpy(), values.mean, values.scale


@contextmanager
def _terminal_held_off() -> Iterator[None]:
    """Hold back what a terminal sends to everyone while a worker starts: it inherits that until it has its own say."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
            batch = {top: x for source in sources for top, x in source.read(index, slots[slot].empty).items()}
            result: Any = {top: slots[slot].sent(values) for top, values in batch.items()}
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


def _size(shape: Shape, is_bytes: bool) -> int:
    """Bytes of shared memory for a tensor."""
    size = math.prod(shape) * (1 if is_bytes else 4)
    return -(-size // _ALIGNMENT) * _ALIGNMENT
