"""The classic networks as they are, optimized, in the engine that ``auto`` takes, and in other runtimes by hand."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from classics import CLASSICS, net_of
from peers import HERE, Runtime, Spread, by_turns, drop
from torch import Tensor

from caffe_compat.errors import first_line
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.running import ProgramNet
from caffe_compat.parity.compare import compare
from caffe_compat.parity.tolerance import Tolerance
from converters import onnx
from converters.samples import sample_inputs

__all__ = ["Case", "Peers", "cases", "print_table"]

PLAIN, OPTIMIZED, AUTO = "the net", "optimize()", "auto"
TARGET, TARGET_LIKE_VGG, TARGET_MEMORY = 1.0, 1.15, 1.3
TOLERANCE = Tolerance(1e-7, 1e-5)


@dataclass(frozen=True)
class Case:
    """A network at a size, with a batch."""

    network: str
    size: int
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.network} {self.size}" + (f" x{self.batch}" if self.batch > 1 else "")

    @property
    def target(self) -> float:
        return TARGET_LIKE_VGG if CLASSICS[self.network].like_vgg else TARGET


@dataclass(frozen=True)
class Peers:
    """Where other runtimes are, and how all are measured.

    Attributes:
        python: a Python with ``runtimes``. threads: one row each. seconds: of measuring a row, about.
        busy: whether processor time counts. memory: whether a process for each engine tells its peak.
    """

    python: str
    runtimes: tuple[str, ...]
    threads: tuple[int, ...] = (1, 2)
    seconds: float = 5.0
    busy: bool = False
    memory: bool = False


def cases(only: tuple[str, ...] = (), full: bool = False) -> Iterator[Case]:
    """What is measured: a picture at the usual size; with ``full`` other sizes, and batches of 16, too."""
    for name, classic in CLASSICS.items():
        if not only or name in only:
            yield Case(name, classic.size)
            if full:
                yield from (Case(name, size) for size in classic.more)
                yield Case(name, classic.size, 16)


def print_table(wanted: Iterator[Case], peers: Peers) -> bool:
    """A line for each network and number of threads, as soon as it is measured; whether no target was missed."""
    columns = [PLAIN, OPTIMIZED, AUTO, *peers.runtimes]
    print("Milliseconds, medians. Ratios are of runs by turns: half of them lie between the numbers in brackets.")
    print(f"| network | threads | {' | '.join(columns)} | auto took | fastest peer / auto | target | |", flush=True)
    print("|---" * (len(columns) + 6) + "|", flush=True)
    good = True
    for case in wanted:
        try:
            good &= _print_case(case, peers, columns)
        except (Exception, SystemExit) as error:  # a network that fails is a line, whatever it was
            print(f"FAIL {case}: {type(error).__name__}: {first_line(error)}", flush=True)
            good = False
    return good


def _print_case(case: Case, peers: Peers, columns: list[str]) -> bool:
    net = net_of(CLASSICS[case.network], case.batch, case.size)
    given = sample_inputs(net)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        model: Path | None = Path(folder, "net.onnx")
        inputs = Path(folder, "inputs.npz")
        np.savez(inputs, allow_pickle=False, **given)
        try:
            onnx.write(net, Path(folder, "net.onnx"))
        except Exception as error:
            print(f"left out: {', '.join(peers.runtimes)} on {case}; there is no ONNX file: {first_line(error)}")
            model = None
        for threads in peers.threads:
            torch.set_num_threads(threads)
            good &= _print_row(case, peers, columns, threads, net, given, model, inputs)
        if peers.memory:
            good &= _print_memory(case, peers, model, inputs)
    return good


def _print_row(
    case: Case,
    peers: Peers,
    columns: list[str],
    threads: int,
    net: CaffeNet,
    given: Mapping[str, np.ndarray],
    model: Path | None,
    inputs: Path,
) -> bool:
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    fastest = net.optimize(engine="auto")
    forms: dict[str, ProgramNet] = {PLAIN: net, OPTIMIZED: net.optimize(), AUTO: fastest}
    off = _differences(forms, tensors)
    runs: dict[str, Callable[[], float | None]] = {name: _run_of(form, tensors) for name, form in forms.items()}
    with ExitStack() as stack:
        options = ["--busy"] * peers.busy
        for name in peers.runtimes:
            if model is None:
                break
            try:
                runs[name] = stack.enter_context(Runtime(name, peers.python, model, inputs, threads, *options)).run
            except SystemExit as error:
                print(f"left out: {name} on {case}; {error}")
        clock = time.process_time if peers.busy else time.perf_counter
        took = by_turns(runs, peers.seconds, clock=clock)
    middle = {name: float(np.median(seconds)) for name, seconds in took.items()}
    shown = " | ".join(f"{middle[name] * 1e3:.2f}" if name in middle else "-" for name in columns)
    by_hand = [name for name in peers.runtimes if name in took]
    reached, told = "", "- | -"
    if by_hand:
        best = min(by_hand, key=middle.__getitem__)
        ratio = Spread.of([theirs / ours for theirs, ours in zip(took[best], took[AUTO], strict=True)])
        reached, told = ratio.reaches(case.target), f"{ratio} | {case.target:g}"
    print(f"| {case} | {threads} | {shown} | {fastest.engine} | {told} | {reached} |", flush=True)
    print("\n".join(off), end="\n" if off else "", flush=True)
    if fastest.choice is not None and threads == peers.threads[0]:
        for engine, why in fastest.choice.refused.items():
            print(f"     {case}: {engine} was not taken: {why:.100}", flush=True)
    return reached != "MISS" and not off


def _run_of(form: ProgramNet, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
    return lambda: drop(form(**tensors))


def _differences(forms: Mapping[str, ProgramNet], tensors: Mapping[str, Tensor]) -> list[str]:
    """A line for each output that is off by more than 1e-5 of its largest value."""
    lines = []
    with torch.no_grad():
        expected = _fresh(forms[PLAIN], tensors)
        for name in (OPTIMIZED, AUTO):
            found = _fresh(forms[name], tensors)
            for blob, reference in expected.items():
                result = compare(blob, found.get(blob), reference.numpy(), TOLERANCE)
                if not result.passed:
                    lines.append(
                        f"MISS {name} gives another {blob}: {result.problem or f'off by {result.max_rel:.1e}'}"
                    )
    return lines


def _fresh(form: ProgramNet, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    form.reset_state()
    return form(**tensors)


def _print_memory(case: Case, peers: Peers, model: Path | None, inputs: Path) -> bool:
    """Peak memory of processes that do nothing else."""
    held = {}
    if model is not None and "onnxruntime" in peers.runtimes:
        with Runtime("onnxruntime", peers.python, model, inputs, peers.threads[-1]) as peer:
            for _ in range(3):
                peer.run()
            held["onnxruntime by hand"] = peer.ask("memory")
    for engine in ("torch", "auto"):
        command = [sys.executable, str(HERE / "memory.py"), case.network, engine]
        command += ["--threads", str(peers.threads[-1]), "--batch", str(case.batch), "--size", str(case.size)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            print(f"FAIL {case}: memory of {engine}: {(ended.stderr.strip().splitlines() or ['no message'])[-1]}")
            return False
        held[engine] = float(ended.stdout)
    told, verdict = ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in held.items()), "    "
    if "onnxruntime by hand" in held:
        ratio = held["auto"] / held["onnxruntime by hand"]
        verdict = "ok  " if ratio <= TARGET_MEMORY else "MISS"
        told += f"; auto over onnxruntime {ratio:.2f} (target <= {TARGET_MEMORY:g})"
    print(f"{verdict} {case}: peak memory: {told}", flush=True)
    return verdict != "MISS"
