"""``caffe-compat train``, ``test``, ``time`` and ``device_query``: the commands of Caffe's own program.

They take its flags in every spelling of gflags (``-gpu=0``, ``--gpu 0``, ``-sigint_effect snapshot``), and some of
their own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import torch

from ..errors import UsageError
from ..network.plugins import load_plugins
from ..reports import timing
from ..training import parallel
from ..training import session as training
from ..training.solver import Action, Event, SolverSettings, read_solver
from ..training.solver.events import BlobOutput
from ..training.solver.settings import StateOverride
from .caffe_log import CaffeLog, Charts
from .groups import gathered
from .options import dialect_option, plugin_option, python_config_option, python_option, warn

__all__ = ["Signals", "amp_option", "device_query", "gradients_option", "nan_option", "test", "time", "train"]

F = TypeVar("F", bound=Callable[..., Any])

_ARGUMENTS = "caffe_compat.arguments"  # of the command line, as they were given
_EFFECTS = {"stop": Action.STOP, "snapshot": Action.SNAPSHOT, "none": Action.NONE}


class CaffeCommand(click.Command):
    """A command whose long options may be spelled as gflags allows: one dash or two, ``_`` or ``-``, ``=`` or space."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        names = {name for option in self.params for name in option.opts if name.startswith("--")}
        # Our log goes to stderr whatever they say, and there is nothing else that they could turn off.
        kept = [word for word in args if word.lstrip("-") not in _TURNED_OFF or not word.startswith("-")]
        return super().parse_args(ctx, [_canonical(word, names) for word in kept])


def _canonical(word: str, names: set[str]) -> str:
    """``-sigint-effect=stop`` as ``--sigint_effect=stop``, if there is such an option; any other word as it is."""
    if not word.startswith("-") or word.strip("-") == "":
        return word
    given, equals, value = word.lstrip("-").partition("=")
    # --log-dir is ours, --log_dir that of glog.
    for name in (f"--{given}", f"--{given.replace('-', '_')}", f"--{given.replace('_', '-')}"):
        if name in names:
            return f"{name}{equals}{value}"
    # A misspelled flag, which click would take for -s -o -l ...; a number is a value.
    return f"--{given}{equals}{value}" if given[:1].isalpha() and len(given) > 1 else word


# Caffe's flags, in the order of its help. Its program takes all of them with every command.
_FLAGS: dict[str, dict[str, Any]] = {
    "gpu": {"default": "", "help": "GPUs, e.g. 0 or 0,1 or all; several train together."},
    "solver": {"default": "", "help": "Solver prototxt."},
    "model": {"default": "", "help": "Network prototxt."},
    "phase": {"default": "", "help": "TRAIN or TEST."},
    "level": {"default": 0, "help": "Level that include and exclude rules see."},
    "stage": {"default": "", "help": "Stages that they see, separated by commas."},
    "snapshot": {"default": "", "help": "Solverstate to resume from."},
    "weights": {"default": "", "help": "Weights to start from, separated by commas."},
    "iterations": {"default": 50, "help": "How many batches."},
    "sigint_effect": {"default": "stop", "help": "What SIGINT asks for: snapshot, stop or none."},
    "sighup_effect": {"default": "snapshot", "help": "What SIGHUP asks for: snapshot, stop or none."},
}
# Flags of its logging library. Our log always goes to stderr.
_LOGGING = ("logtostderr", "alsologtostderr", "colorlogtostderr", "minloglevel", "stderrthreshold", "v", "vmodule")
_TURNED_OFF = tuple(f"no{name}" for name in _LOGGING[:3])
_WITH_VALUE = (*_FLAGS, *_LOGGING[3:], "log_dir")


def caffe_flags(*used: str) -> Callable[[F], F]:
    """All of Caffe's flags; those a command does not use are taken, and warned about."""

    def add(command: F) -> F:
        for name, how in reversed(_FLAGS.items()):
            hidden = name not in used
            callback = _unused if hidden else None
            # The type is that of the default; gflags would take anything else for a mistake, too.
            command = click.option(
                f"--{name}", name, hidden=hidden, callback=callback, expose_value=not hidden, show_default=True, **how
            )(command)
        for name in _LOGGING:
            command = click.option(f"--{name}", name, is_flag=False, flag_value="1", hidden=True, expose_value=False)(
                command
            )
        return click.option("--log_dir", "glog_dir", help="Folder for a copy of the log, as Caffe's own flag.")(command)

    return add


def _unused(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    if option.name and ctx.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE:
        warn([f"--{option.name} has no effect on {ctx.info_name}, as in Caffe"])


gpu_required = click.option("--require-gpu", is_flag=True, help="Without a GPU, fail instead of using the CPU.")
write_root = click.option(
    "--write-root", type=click.Path(file_okay=False), help="Folder besides this one where files may be written."
)
workers = click.option("--workers", type=click.IntRange(0), help="Processes that read data; 0 reads in this one.")
amp_option = click.option(
    "--amp", "--bfloat16", "bfloat16", is_flag=True, help="Forward passes in mixed precision (bfloat16)."
)
gradients_option = click.option(
    "--gradients",
    type=click.Choice(["caffe", "true"]),
    default="caffe",
    show_default=True,
    help="Caffe's own backward pass, or the true gradient in the layers of forks where the two differ.",
)
nan_option = click.option(
    "--keep-going-on-nan", is_flag=True, help="Go on when the loss is not a number, as Caffe does."
)


def _reading(
    write_root: str | None, dialect: str, allow_python_layers: bool, python_config: str | None
) -> dict[str, Any]:
    return {
        "write_root": write_root,
        "dialect": None if dialect == "auto" else dialect,
        "allow_python": allow_python_layers,
        "python_config": python_config,
    }


def _stepping(gradients: str, bfloat16: bool, keep_going_on_nan: bool) -> dict[str, Any]:
    return {"gradients": gradients, "bfloat16": bfloat16, "stop_at_nan": not keep_going_on_nan}


# How a network is read, as open_solver(), score() and time() take it; and how a solver goes its steps.
reading_options = gathered("reading", _reading, write_root, dialect_option, python_option, python_config_option)
stepping_options = gathered("stepping", _stepping, amp_option, gradients_option, nan_option)


# train


@click.command(cls=CaffeCommand)
@caffe_flags("gpu", "solver", "level", "stage", "snapshot", "weights", "sigint_effect", "sighup_effect")
@gpu_required
@workers
@click.option("--log-dir", "charts_dir", type=click.Path(file_okay=False), help="Folder for TensorBoard.")
@stepping_options
@reading_options
@plugin_option
def train(
    gpu: str,
    solver: str,
    level: int,
    stage: str,
    snapshot: str,
    weights: str,
    sigint_effect: str,
    sighup_effect: str,
    glog_dir: str | None,
    require_gpu: bool,
    workers: int | None,
    charts_dir: str | None,
    stepping: dict[str, Any],
    reading: dict[str, Any],
    plugins: tuple[str, ...],
) -> int:
    """Train a network, or go on from a snapshot.

    SIGINT writes a snapshot and stops, SIGHUP writes one and goes on. Under torchrun, and with several GPUs, gradients
    are averaged over all processes; the effective batch size is theirs together.
    """
    if not solver:
        raise UsageError("train needs a solver: --solver FILE")
    if snapshot and weights:
        raise UsageError("give --snapshot to resume training or --weights to finetune, not both")
    effects = {"SIGINT": _effect("sigint_effect", sigint_effect), "SIGHUP": _effect("sighup_effect", sighup_effect)}
    rank = parallel.this_rank()
    with ExitStack() as stack:
        log = stack.enter_context(CaffeLog(quiet=rank.rank != 0, folder=glog_dir))
        settings = _with_state(read_solver(solver, dialect=reading["dialect"]), level, stage, log)
        gpus = _gpus(gpu, settings, require_gpu, log)
        if len(gpus) > 1 and rank.size == 1:
            return parallel.launch(["train", *click.get_current_context().meta[_ARGUMENTS]], len(gpus))
        load_plugins(plugins)
        device = _device(gpus, rank, gpu)
        log.line(f"Using GPUs {', '.join(map(str, gpus))}" if gpus else "Use CPU.", f"caffe.cpp:{204 if gpus else 197}")
        signals = stack.enter_context(Signals(effects))
        charts = stack.enter_context(Charts(charts_dir)) if charts_dir and rank.rank == 0 else None

        def observe(event: Event) -> None:
            log.event(event)
            if charts is not None:
                charts.event(event)

        stack.enter_context(parallel.joined(rank, device))
        again = stack.enter_context(parallel.restart_point(settings.snapshot_prefix, Path()))
        start: str | None = parallel.share(str(again) if again else snapshot or None)
        if start is not None:
            log.line(f"Resuming from {start}", "caffe.cpp:235")
        opened = training.open_solver(
            settings,
            snapshot=start,
            weights=[] if start else _weights(weights),
            device=device,
            workers=workers,
            observer=observe,
            requested=lambda: Action.STOP if parallel.is_abandoned() else signals.requested(),
            **stepping,
            **reading,
        )
        ready = stack.enter_context(opened)
        log.line("Starting Optimization", "caffe.cpp:239")
        show = log.follow(ready.iteration, settings.max_iter)
        ready.on_start.append(lambda: show(ready.iteration))
        ready.solve()
        show(ready.iteration)
        log.line("Optimization Done.", "caffe.cpp:250")
    return 0


def _effect(flag: str, value: str) -> Action:
    if value not in _EFFECTS:
        raise UsageError(f"--{flag} {value!r}: snapshot, stop or none was expected")
    return _EFFECTS[value]


def _with_state(settings: SolverSettings, level: int, stage: str, log: CaffeLog) -> SolverSettings:
    """The training network's state with the command line's level and stages, which Caffe always puts in."""
    old = settings.train.state
    if old.level not in (None, level):
        log.warn(f"train_state.level {old.level} gives way to --level {level}, as in Caffe")
    state = StateOverride(old.phase, level, (*old.stages, *_stages(stage)))
    return replace(settings, train=replace(settings.train, state=state))


def _weights(text: str) -> list[str]:
    """The files that ``--weights`` names."""
    names = [name.strip() for name in text.split(",")] if text else []
    if "" in names:
        raise UsageError(f"--weights {text!r}: file names with commas between were expected")
    return names


def _stages(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


class Signals:
    """What signals ask of a solver. Within the block, SIGINT and SIGHUP do nothing but be remembered."""

    def __init__(self, effects: dict[str, Action]) -> None:
        self._effects = {getattr(signal, name): effect for name, effect in effects.items() if hasattr(signal, name)}
        self._got: set[int] = set()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._remember) for number in self._effects}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._got.add(number)

    def requested(self) -> Action:
        """The effect of a signal that came since the last question; SIGINT's first."""
        for number, effect in self._effects.items():
            if number in self._got:
                self._got.discard(number)
                return effect
        return Action.NONE


# Devices


def _gpus(flag: str, settings: SolverSettings | None, required: bool, log: CaffeLog) -> list[int]:
    """The GPUs that the flag, or the solver file, asks for; none where there is no CUDA."""
    asked = f"--gpu {flag}"
    if not flag and settings is not None and settings.solver_mode == "GPU":
        flag, asked = str(settings.device_id), f"{settings.path}: solver_mode: GPU"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if flag and flag != "all" and not all(part.strip().isdecimal() for part in flag.split(",")):
        raise UsageError(f"--gpu {flag!r}: numbers separated by commas, or all, were expected")
    if flag and not count:
        if required:
            raise UsageError(f"{asked}, and there is no CUDA device (--require-gpu)")
        log.warn(f"{asked}, and there is no CUDA device: the CPU does the work")
        return []
    if not flag:
        if required:
            raise UsageError("--require-gpu, and neither --gpu nor the solver file asks for a GPU; pass --gpu 0")
        return []
    numbers = list(range(count)) if flag == "all" else [int(part) for part in flag.split(",")]
    odd = [number for number in numbers if number >= count]
    if odd or len(set(numbers)) < len(numbers):
        raise UsageError(f"{asked} names GPU {odd[0] if odd else flag}; there are {count}, counted from 0, each once")
    return numbers


def _device(gpus: Sequence[int], rank: parallel.Rank, flag: str) -> torch.device:
    """Where this process trains."""
    if not gpus:
        return torch.device("cpu")
    if rank.size == 1:
        return torch.device("cuda", gpus[0])
    if not flag:  # a solver file's device_id knows nothing of other processes
        gpus = range(torch.cuda.device_count())
    if rank.local >= len(gpus):
        raise UsageError(f"{rank.local_size} processes on this machine for {len(gpus)} GPUs ({flag or 'all'})")
    return torch.device("cuda", gpus[rank.local])


def _single_device(gpu: str, required: bool, log: CaffeLog) -> torch.device:
    gpus = _gpus(gpu, None, required, log)
    if not gpus:
        log.line("Use CPU.", "caffe.cpp:275")
        return torch.device("cpu")
    if len(gpus) > 1:
        log.warn(f"--gpu {gpu}: only the first is used, as in Caffe")
    log.line(f"Use GPU with device ID {gpus[0]}", "caffe.cpp:266")
    return torch.device("cuda", gpus[0])


# test, time, device_query


@click.command(cls=CaffeCommand)
@caffe_flags("gpu", "model", "level", "stage", "weights", "iterations")
@gpu_required
@workers
@reading_options
@plugin_option
def test(
    gpu: str,
    model: str,
    level: int,
    stage: str,
    weights: str,
    iterations: int,
    glog_dir: str | None,
    require_gpu: bool,
    workers: int | None,
    reading: dict[str, Any],
    plugins: tuple[str, ...],
) -> None:
    """Score a model on its own test data."""
    if not model or not weights:
        raise UsageError("test needs --model FILE and --weights FILE")
    load_plugins(plugins)
    with CaffeLog(folder=glog_dir) as log:
        device = _single_device(gpu, require_gpu, log)

        def show(batch: int, outputs: Sequence[BlobOutput]) -> None:
            for o in outputs:
                log.line(f"Batch {batch}, {o.blob} = {o.value:g}", "caffe.cpp:304")

        log.line(f"Running for {iterations} iterations.", "caffe.cpp:281")
        scores = training.score(
            model,
            _weights(weights),
            iterations,
            level=level,
            stages=_stages(stage),
            device=device,
            workers=workers,
            warn=log.warn,
            on_batch=show,
            **reading,
        )
        log.line(f"Loss: {scores.loss:g}", "caffe.cpp:309")
        for o in scores.outputs:
            part = f" (* {o.weight:g} = {o.weight * o.value:g} loss)" if o.weight else ""
            log.line(f"{o.blob} = {o.value:g}{part}", "caffe.cpp:321")


@click.command(cls=CaffeCommand)
@caffe_flags("gpu", "model", "phase", "level", "stage", "iterations")
@gpu_required
@reading_options
@plugin_option
def time(
    gpu: str,
    model: str,
    phase: str,
    level: int,
    stage: str,
    iterations: int,
    glog_dir: str | None,
    require_gpu: bool,
    reading: dict[str, Any],
    plugins: tuple[str, ...],
) -> None:
    """Measure how long every layer takes."""
    if not model:
        raise UsageError("time needs --model FILE")
    if phase not in ("", "TRAIN", "TEST"):
        raise UsageError(f"--phase {phase!r}: TRAIN or TEST was expected")
    load_plugins(plugins)
    with CaffeLog(folder=glog_dir) as log:
        timing.time(
            model,
            iterations,
            phase=phase or "TRAIN",
            level=level,
            stages=_stages(stage),
            device=_single_device(gpu, require_gpu, log),
            tell=lambda text: log.line(text, "caffe.cpp:394"),
            **reading,
        )


@click.command("device_query", cls=CaffeCommand)
@caffe_flags("gpu")
def device_query(gpu: str, glog_dir: str | None) -> None:
    """Show what the GPUs can do."""
    with CaffeLog(folder=glog_dir) as log:
        log.line(f"Querying GPUs {gpu}", "caffe.cpp:138")
        if gpu and not torch.cuda.is_available():
            log.line("No cuda device present.", "common.cpp:174")
            return
        for number in _gpus(gpu, None, False, log):
            found = torch.cuda.get_device_properties(number)
            facts = {
                "Device id": number,
                "Major revision number": found.major,
                "Minor revision number": found.minor,
                "Name": found.name,
                "Total global memory": found.total_memory,
                "Number of multiprocessors": found.multi_processor_count,
            }
            for name, value in facts.items():
                log.line(f"{name + ':':<31}{value}", "common.cpp:178")


def reordered(arguments: Sequence[str]) -> list[str]:
    """Arguments of Caffe's program with its command first, wherever it stood among the flags.

    Raises:
        UsageError: there is no command, or an unknown one.
    """
    commands = ("train", "test", "time", "device_query")
    words = list(arguments)
    waiting = False  # for the value of a flag
    for i, word in enumerate(words):
        if waiting:
            waiting = False
        elif word.startswith("-"):
            waiting = "=" not in word and word.lstrip("-").replace("-", "_") in _WITH_VALUE
        elif word in commands:
            return [word, *words[:i], *words[i + 1 :]]
        else:
            raise UsageError(f"unknown action {word!r}; Caffe's are {', '.join(commands)}")
    raise UsageError(f"usage: caffe COMMAND FLAGS, where COMMAND is one of {', '.join(commands)}")
