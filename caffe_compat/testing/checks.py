"""One test of a suite, run: the model is brought into its form and compared with what real Caffe gave."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..conversion import convert, save
from ..errors import UsageError
from ..formats.arrays import read_npy
from ..inference.optimization import optimize
from ..network.loading import load
from ..network.running import ProgramNet
from ..parity.outputs import Runner, verify_outputs
from ..parity.pairs import compare_models
from ..parity.reference_files import open_recorded, pick_group, split_reference
from ..parity.report import Report
from ..parity.verification import verify
from .suite import NET, PT, ParityTest

__all__ = ["Outcome", "compare_tests", "is_there", "run_test", "scratch"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Outcome:
    """What came out of a test.

    Attributes:
        report: the comparison. makers: blob name -> name and type of each layer that writes it, in order.
    """

    report: Report
    makers: Mapping[str, Sequence[str]]


def is_there(device: str) -> bool:
    """Whether this machine has ``device``. Raises UsageError if torch knows no such kind."""
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"no device {device!r}; cpu, cuda and cuda:1 are some") from error
    try:
        torch.zeros(1, device=kind)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return True


@contextmanager
def scratch(*tests: ParityTest) -> Iterator[Path]:
    """A folder for what ``tests`` write, which is gone afterwards; nothing is made where they write nothing."""
    if not any(test.writes for test in tests):
        yield Path()
        return
    with tempfile.TemporaryDirectory(prefix="caffe_compat_") as folder:
        yield Path(folder)


def run_test(test: ParityTest, folder: Path) -> Outcome:
    """Run ``test``; what it has to write goes into ``folder``.

    Raises:
        CaffeCompatError: the model cannot be loaded, brought into its form or run, or the reference cannot be read.
    """
    inputs = _inputs(test)
    file, group = split_reference(test.reference)
    if test.form in (NET, PT):
        net = _net(test, folder)
        report = verify(net, test.reference, inputs=inputs, tolerance=test.tolerance)
        return Outcome(report, _makers(net))
    runs = _file(test, folder)
    with open_recorded(file) as opened:
        results = verify_outputs(runs.run, pick_group(opened, group), inputs, test.tolerance, runs.inputs)
    return Outcome(Report(tuple(results), file, group, runs.runtime, test.precision), runs.makers)


def compare_tests(first: ParityTest, second: ParityTest, folder: Path) -> Report:
    """Two models against each other on the same inputs; the first that a net can be made of stands for what is right.

    Raises:
        CaffeCompatError: as :func:`run_test`, or the models have nothing in common.
    """
    if first.is_file:
        first, second = second, first
    if first.is_file:
        raise UsageError("of two exported files neither tells its inputs' shapes; compare each with the net")
    net = _net(replace(first, form=NET), folder)
    other: ProgramNet | Runner = _net(second, folder) if second.form in (NET, PT) else _file(second, folder).run
    return compare_models(net, other, second.tolerance, _inputs(first))


def _inputs(test: ParityTest) -> dict[str, np.ndarray]:
    return {blob: read_npy(file) for blob, file in test.inputs.items()}


def _net(test: ParityTest, folder: Path) -> ProgramNet:
    """The model of a test as a net, in its form, where and as precise as it is asked for."""
    net: ProgramNet = load(test.model, test.weights, seed=0, **test.options)
    if test.form == PT:
        path = str(folder / f"{test.name}.pt")
        save(convert(test.model, test.weights, seed=0, **test.options), path)
        net = load(path, root=test.options.get("root"), allow_python=test.options.get("allow_python", False))
    net = net.to(test.device, _DTYPES[test.precision])
    return optimize(net) if test.optimized else net


@dataclass(frozen=True)
class _File:
    """A file and what runs it."""

    run: Runner
    runtime: str
    makers: Mapping[str, Sequence[str]]
    inputs: Sequence[str] = ()


def _file(test: ParityTest, folder: Path) -> _File:
    """A test of a file that another runtime runs: the one that is there, or one that is written for it."""
    from converters import export, find_target, target_of

    if test.device != "cpu" or test.optimized:
        raise UsageError(f"a file of format {test.form} runs on the cpu, as it is; neither device nor optimize apply")
    target = target_of(test.model) if test.is_file else find_target(test.form)
    target.check(())
    if target.run is None:
        raise UsageError(f"nothing runs {target.title}; it cannot be tested")
    if test.is_file:
        return _File(partial(target.run, test.model), target.runtime(), {})
    conversion = convert(test.model, test.weights, seed=0, **test.options)
    path = str(folder / f"{test.name}{target.suffix}")
    export(conversion, path, test.form, **({} if test.precision == "float32" else {"dtype": test.precision}))
    return _File(partial(target.run, path), target.runtime(), _makers(conversion.net), conversion.net.input_names)


def _makers(net: ProgramNet) -> dict[str, list[str]]:
    graph, makers = net.graph, dict[str, list[str]]()
    for node in graph.nodes:
        for top in node.tops:
            makers.setdefault(graph.blobs[top], []).append(f"{node.name!r} ({node.type})")
    return makers
