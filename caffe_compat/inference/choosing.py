"""Which engine runs a net fastest on this machine: measured, after each has shown that it gives the net's numbers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import CaffeCompatError, MissingExtraError, ParityError, UsageError
from ..network.registry import Layer
from ..network.running import ProgramNet
from ..parity.compare import BlobResult, compare
from ..parity.tolerance import NET_TOLERANCE, Tolerance
from .choice import Choice
from .engine_net import EngineNet
from .engines import PLAIN, TORCH, engines, find_engine
from .optimization import InferenceNet, check_optimizable, optimize, reduce
from .processor import has_bfloat16, processor
from .reduced import BFLOAT16, FLOAT32, Reduced

__all__ = ["as_chosen", "as_it_is", "choose", "in_engine", "surroundings"]

_Tensors: TypeAlias = Mapping[str, Tensor]

# How far outputs of an engine may be off, relative to the largest: what the inference form of torch keeps to, too.
TOLERANCE = Tolerance(1e-7, 1e-5)
# The same of an engine that was named: what rounding adds up to in deep nets, no more.
NAMED_TOLERANCE = NET_TOLERANCE
# What measuring may take: rounds in which every engine runs once, and seconds in all.
ROUNDS, SECONDS = 30, 3.0


def in_engine(net: ProgramNet, name: str, dtype: str = FLOAT32) -> InferenceNet:
    """The inference form of ``net`` in the engine ``name``, after it has given what the net gives on seeded inputs.

    With dtype ``"bfloat16"`` it has only been measured how far it is off (:attr:`InferenceNet.reduced`).

    Raises:
        UsageError: no such engine or dtype, or a net that it cannot have. MissingExtraError: it is not installed.
        NetworkError: it cannot run the net. ParityError: it gives something else.
    """
    if dtype not in (FLOAT32, BFLOAT16):
        raise UsageError(f"dtype {dtype!r}: one of {FLOAT32}, {BFLOAT16} was expected")
    if dtype == BFLOAT16:
        with _remembering(net):
            return _reduced(net, name, *_tried(net))
    if name in (TORCH, PLAIN):
        return optimize(net) if name == TORCH else as_it_is(net)
    form = _opened(net, name)
    with _remembering(net):
        inputs, expected = _tried(net)
    bad = next((r for r in _compared(_fresh(form, inputs), expected, NAMED_TOLERANCE) if not r.passed), None)
    if bad is not None:
        raise ParityError(
            f"in {find_engine(name).runtime()}, {bad.name} departs from the net: "
            f"{bad.problem or f'off by {bad.max_rel:.1e} of the largest value'}; engine={TORCH} keeps to it"
        )
    return form


def as_it_is(net: ProgramNet) -> InferenceNet:
    """The inference form in which nothing is done: its layers, one by one."""
    form = optimize(net, ())
    form.engine = PLAIN
    return form


def _opened(net: ProgramNet, name: str, dtype: str = FLOAT32) -> EngineNet:
    """As :func:`in_engine`, not compared with anything."""
    engine = find_engine(name)
    check_optimizable(net)
    # All inputs stay, those too that only a layer without tops reads.
    return EngineNet(net.part(net.output_names, net.input_names), engine, dtype)


def _reduced(net: ProgramNet, name: str, inputs: _Tensors, expected: _Tensors) -> InferenceNet:
    """The form of ``net`` that computes in bfloat16 in the engine ``name``."""
    if name == PLAIN:
        raise UsageError(f"engine {PLAIN} is the net as it is; cast the net, or take engine={TORCH}")
    form = reduce(net) if name == TORCH else _opened(net, name, BFLOAT16)
    results = _compared(_fresh(form, inputs), expected, TOLERANCE)
    form.reduced = Reduced(BFLOAT16, {result.name: float(result.max_rel) for result in results})
    return form


def _tried(net: ProgramNet) -> tuple[_Tensors, _Tensors]:
    """Seeded inputs, on the net's device, and what the net itself gives for them."""
    check_optimizable(net)
    device, dtype = net.device_and_dtype()
    drawn = next((engine.inputs for engine in engines().values()), _drawn)(net)
    inputs = {name: torch.from_numpy(x).to(device, dtype) for name, x in drawn.items()}
    return inputs, _fresh(net, inputs)


def _drawn(net: ProgramNet) -> dict[str, np.ndarray]:
    """Evenly from -1 to 1, where no engine says what layers can take."""
    rng = np.random.RandomState(0)
    shapes = net.input_shapes
    return {name: rng.uniform(-1, 1, shapes[name]).astype(np.float32) for name in net.program.needed_inputs}


def _fresh(net: ProgramNet, inputs: _Tensors) -> _Tensors:
    """Outputs of a run that carries nothing over from another, nor leaves anything to the next."""
    net.reset_state()
    with torch.no_grad():
        found = net(**inputs)
    net.reset_state()
    return found


@contextmanager
def _remembering(net: ProgramNet) -> Iterator[None]:
    """Give ``net`` back, after the block, what earlier runs have left in it."""
    kept = [
        (module, name, getattr(module, name).clone())
        for module in net.modules()
        if isinstance(module, Layer)
        for name in module.carried
    ]
    try:
        yield
    finally:
        for module, name, before in kept:
            setattr(module, name, before)


def as_chosen(net: ProgramNet, engine: str, choice: Choice | None, dtype: str = FLOAT32) -> InferenceNet:
    """The inference form of ``net`` in ``engine``; for ``"auto"`` what was chosen, where that still holds, or anew.

    A processor without bfloat16 computes in float32, and a note says so.

    Raises:
        CaffeCompatError: as :meth:`caffe_compat.CaffeNet.optimize`.
    """
    lacking = dtype == BFLOAT16 and not has_bfloat16(net.device_and_dtype()[0])
    if lacking:
        dtype, choice = FLOAT32, None
    form = _as_chosen(net, engine, choice, dtype)
    if lacking:
        form.notes.append(f"computes in {FLOAT32}: this processor ({processor()}) does not compute in {BFLOAT16}")
    return form


def _as_chosen(net: ProgramNet, engine: str, choice: Choice | None, dtype: str) -> InferenceNet:
    if engine != "auto":
        return in_engine(net, engine, dtype)
    if choice is not None and (choice.engine in (PLAIN, TORCH) or choice.engine in engines()):
        try:
            here = surroundings([choice.engine])
        except CaffeCompatError:
            here = None  # the runtime is not installed
        if here is not None and here[:2] == (choice.processor, choice.threads) and set(here[2]) <= set(choice.runtimes):
            form = in_engine(net, choice.engine, dtype)
            form.choice = choice
            return form
    form = choose(net, dtype)
    if choice is not None:
        there = f"{choice.processor}, threads: {choice.threads}, {', '.join(choice.runtimes)}"
        form.notes.append(f"{form.choice}; measured anew, as the file's choice, {choice.engine}, was made on {there}")
    return form


def choose(net: ProgramNet, dtype: str = FLOAT32) -> InferenceNet:
    """The fastest inference form of ``net`` on this machine, with as many threads as torch has now.

    The net as it is, torch's form and every engine that is installed are tried on seeded inputs of the shapes that the
    net was built for; engines that cannot run the net, or are off by more than :data:`TOLERANCE`, are left out, with
    the reason. In bfloat16 only forms that compute in it are tried, and none is left out for its numbers.

    Raises:
        UsageError: as :func:`caffe_compat.inference.optimization.optimize` and ``reduce``.
    """
    if dtype not in (FLOAT32, BFLOAT16):
        raise UsageError(f"dtype {dtype!r}: one of {FLOAT32}, {BFLOAT16} was expected")
    with _remembering(net):
        return _choose(net, dtype)


def _choose(net: ProgramNet, dtype: str) -> InferenceNet:
    inputs, expected = _tried(net)
    forms: dict[str, InferenceNet] = {
        TORCH: optimize(net) if dtype == FLOAT32 else _reduced(net, TORCH, inputs, expected)
    }
    refused: dict[str, str] = {}
    if net.device_and_dtype() == (torch.device("cpu"), torch.float32):
        for name in engines():
            try:
                forms[name] = _opened(net, name) if dtype == FLOAT32 else _reduced(net, name, inputs, expected)
            except CaffeCompatError as error:
                refused[name] = "is not installed" if isinstance(error, MissingExtraError) else str(error)
    off = {}
    for name in list(forms):
        try:
            results = _compared(_fresh(forms[name], inputs), expected, TOLERANCE)
        except CaffeCompatError as error:
            if name == TORCH:
                raise
            refused[name] = str(error)
            del forms[name]
            continue
        off[name] = max((float(result.max_rel) for result in results), default=0.0)
        bad = next((result for result in results if not result.passed), None)
        if bad is not None and name != TORCH and dtype == FLOAT32:
            refused[name] = f"{bad.name}: {bad.problem or f'off by {bad.max_rel:.1e} of the largest value'}"
            del forms[name]
    # The net itself needs no copy to be measured.
    runs: dict[str, ProgramNet] = {**forms, PLAIN: net} if dtype == FLOAT32 else {**forms}
    took = _measured(runs, inputs)
    for run in runs.values():
        run.reset_state()
    best = min(took, key=took.__getitem__)
    form = forms[best] if best in forms else as_it_is(net)
    form.choice = Choice(best, took, off, refused, *surroundings(forms))
    return form


def surroundings(names: Iterable[str]) -> tuple[str, int, tuple[str, ...]]:
    """The processor, torch's threads, and the versions of torch and of the engines that are named.

    Raises:
        MissingExtraError: one is not installed.
    """
    others = [find_engine(name).runtime() for name in names if name not in (PLAIN, TORCH)]
    return processor(), torch.get_num_threads(), (f"torch {torch.__version__}", *others)


def _compared(found: _Tensors, expected: _Tensors, tolerance: Tolerance) -> list[BlobResult]:
    return [compare(name, found.get(name), x.float().cpu().numpy(), tolerance) for name, x in expected.items()]


def _measured(forms: Mapping[str, ProgramNet], inputs: _Tensors) -> dict[str, float]:
    """Milliseconds of a run of each, the median of runs by turns."""
    took: dict[str, list[float]] = {name: [] for name in forms}
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        for name, form in forms.items():
            _settled(inputs)
            start = time.perf_counter()
            with torch.no_grad():
                form(**inputs)
            _settled(inputs)
            took[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > SECONDS:
            break
    return {name: statistics.median(seconds) * 1e3 for name, seconds in took.items()}


def _settled(inputs: _Tensors) -> None:
    """Wait until the GPU that has the inputs has done its work."""
    for device in {x.device for x in inputs.values() if x.is_cuda}:
        torch.cuda.synchronize(device)
