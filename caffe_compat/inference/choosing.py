"""Which engine runs a net fastest on this machine: measured, after each has shown that it gives the net's numbers."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CaffeCompatError, MissingExtraError, ParityError
from ..network.running import ProgramNet
from ..parity.compare import BlobResult, compare
from ..parity.tolerance import NET_TOLERANCE, Tolerance
from .choice import Choice
from .engine_net import EngineNet
from .engines import TORCH, engines, find_engine
from .optimization import InferenceNet, check_optimizable, optimize

__all__ = ["as_chosen", "choose", "in_engine", "processor", "surroundings"]

# How far outputs of an engine may be off, relative to the largest: what the inference form of torch keeps to, too.
TOLERANCE = Tolerance(1e-7, 1e-5)
# The same of an engine that was named: what rounding adds up to in deep nets, no more.
NAMED_TOLERANCE = NET_TOLERANCE
# What measuring may take: rounds in which every engine runs once, and seconds in all.
ROUNDS, SECONDS = 30, 3.0


def in_engine(net: ProgramNet, name: str) -> InferenceNet:
    """The inference form of ``net`` in the engine ``name``, after it has given what the net gives on seeded inputs.

    Raises:
        UsageError: no such engine, or a net that it cannot have. MissingExtraError: it is not installed.
        NetworkError: it cannot run the net. ParityError: it gives something else.
    """
    if name == TORCH:
        return optimize(net)
    form = _opened(net, name)
    inputs, expected = _tried(net)
    bad = next((r for r in _compared(form(**inputs), expected, NAMED_TOLERANCE) if not r.passed), None)
    if bad is not None:
        raise ParityError(
            f"in {find_engine(name).runtime()}, {bad.name} departs from the net: "
            f"{bad.problem or f'off by {bad.max_rel:.1e} of the largest value'}; engine={TORCH} keeps to it"
        )
    return form


def _opened(net: ProgramNet, name: str) -> EngineNet:
    """As :func:`in_engine`, not compared with anything."""
    engine = find_engine(name)
    check_optimizable(net)
    return EngineNet(net.part(net.output_names), engine)


def _tried(net: ProgramNet) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Seeded inputs, and what the net itself gives for them."""
    inputs = {name: torch.from_numpy(x) for name, x in next(iter(engines().values())).inputs(net).items()}
    net.reset_state()
    with torch.no_grad():
        expected = net(**inputs)
    net.reset_state()
    return inputs, expected


def as_chosen(net: ProgramNet, engine: str, choice: Choice | None) -> InferenceNet:
    """The inference form of ``net`` in ``engine``; for ``"auto"`` what was chosen, where that still holds, or anew.

    Raises:
        CaffeCompatError: as :meth:`caffe_compat.CaffeNet.optimize`.
    """
    if engine != "auto":
        return in_engine(net, engine)
    if choice is not None and (choice.engine == TORCH or choice.engine in engines()):
        try:
            here = surroundings([choice.engine])
        except CaffeCompatError:
            here = None  # the runtime is not installed
        if here is not None and here[:2] == (choice.processor, choice.threads) and set(here[2]) <= set(choice.runtimes):
            form = in_engine(net, choice.engine)
            form.choice = choice
            return form
    form = choose(net)
    if choice is not None:
        there = f"{choice.processor}, threads: {choice.threads}, {', '.join(choice.runtimes)}"
        form.notes.append(f"{form.choice}; measured anew, as the file's choice, {choice.engine}, was made on {there}")
    return form


def choose(net: ProgramNet) -> InferenceNet:
    """The fastest inference form of ``net`` on this machine, with as many threads as torch has now.

    Every engine that is installed is tried on seeded inputs of the shapes that the net was built for; those that cannot
    run the net, or are off by more than :data:`TOLERANCE`, are left out, with the reason.

    Raises:
        UsageError: as :func:`caffe_compat.inference.optimization.optimize`.
    """
    forms: dict[str, InferenceNet] = {TORCH: optimize(net)}
    refused: dict[str, str] = {}
    if net.device_and_dtype() == (torch.device("cpu"), torch.float32):
        for name in engines():
            try:
                forms[name] = _opened(net, name)
            except CaffeCompatError as error:
                refused[name] = "is not installed" if isinstance(error, MissingExtraError) else str(error)
    if len(forms) == 1:
        forms[TORCH].choice = Choice(TORCH, {}, {}, refused, *surroundings(forms))
        return forms[TORCH]
    inputs, expected = _tried(net)
    off = {}
    for name in list(forms):
        try:
            results = _compared(forms[name](**inputs), expected, TOLERANCE)
        except CaffeCompatError as error:
            if name == TORCH:
                raise
            refused[name] = str(error)
            del forms[name]
            continue
        off[name] = max((float(result.max_rel) for result in results), default=0.0)
        bad = next((result for result in results if not result.passed), None)
        if bad is not None and name != TORCH:
            refused[name] = f"{bad.name}: {bad.problem or f'off by {bad.max_rel:.1e} of the largest value'}"
            del forms[name]
    took = _measured(forms, inputs)
    best = min(took, key=took.__getitem__)
    forms[best].choice = Choice(best, took, off, refused, *surroundings(forms))
    return forms[best]


def surroundings(names: Iterable[str]) -> tuple[str, int, tuple[str, ...]]:
    """The processor, torch's threads, and the versions of torch and of the engines that are named.

    Raises:
        MissingExtraError: one is not installed.
    """
    others = [find_engine(name).runtime() for name in names if name != TORCH]
    return processor(), torch.get_num_threads(), (f"torch {torch.__version__}", *others)


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # another system than Linux
    return platform.processor() or platform.machine()


def _compared(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: Tolerance) -> list[BlobResult]:
    return [compare(name, found.get(name), reference.numpy(), tolerance) for name, reference in expected.items()]


def _measured(forms: Mapping[str, InferenceNet], inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Milliseconds of a run of each, the median of runs by turns."""
    took: dict[str, list[float]] = {name: [] for name in forms}
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        for name, form in forms.items():
            start = time.perf_counter()
            form(**inputs)
            took[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > SECONDS:
            break
    return {name: statistics.median(seconds) * 1e3 for name, seconds in took.items()}
