"""A solver file -> :class:`SolverSettings`: every field honoured or refused, checked as Caffe checks it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch.optim import Optimizer

from ...errors import FileError, PrototxtError, UsageError, located
from ...network.definition import Definition, read_definition
from ...network.graph import NetState
from ...network.python_config import PythonConfig, configured
from ...schema import Schema, is_repeated
from ...schema.enums import enum_name
from ...schema.messages import NetParameter, SolverParameter
from ...schema.messages import NetState as NetStateMessage
from ...schema.printing import format_message
from ...schema.prototxt import ParsedText, parse_message, read_message
from ...schema.unknown import near_name, unknown_fields_of
from ...schema.upgrade import upgrade_solver
from .optimizers import (
    CaffeAdaDelta,
    CaffeAdaGrad,
    CaffeAdam,
    CaffeNesterov,
    CaffeOptimizer,
    CaffeRMSProp,
    CaffeSGD,
)
from .policies import Policy

__all__ = ["SOLVER_TYPES", "NetSource", "SolverSettings", "StateOverride", "parse_solver", "read_solver"]

# Type -> (optimizer, the fields of a solver file that are options of it)
SOLVER_TYPES: dict[str, tuple[type[CaffeOptimizer], tuple[str, ...]]] = {
    "SGD": (CaffeSGD, ("momentum",)),
    "Nesterov": (CaffeNesterov, ("momentum",)),
    "AdaGrad": (CaffeAdaGrad, ("delta",)),
    "RMSProp": (CaffeRMSProp, ("rms_decay", "delta")),
    "AdaDelta": (CaffeAdaDelta, ("momentum", "delta")),
    "Adam": (CaffeAdam, ("momentum", "momentum2", "delta")),
}
_NETS = ("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "train_state", "test_state")
# How several devices share the work, never what is computed.
_HOW_NOT_WHAT = ("layer_wise_reduce",)


@dataclass(frozen=True)
class StateOverride:
    """A ``NetState`` of a solver file, with None for what it does not set."""

    phase: str | None = None
    level: int | None = None
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetSource:
    """Where one of a solver's networks comes from, and the state it is built in.

    Attributes:
        field: the field that names it, for messages. path: its file, or None. message: it itself, or None.
        phase: of this use, unless the network or the override say otherwise.
        iterations: how many batches one test of it takes; 0 for the network that is trained.
    """

    field: str
    path: Path | None
    message: NetParameter | None
    schema: Schema
    phase: Literal["TRAIN", "TEST"]
    state: StateOverride = StateOverride()
    iterations: int = 0

    def definition(
        self, dialect: str | None = None, python_config: PythonConfig | None = None
    ) -> tuple[Definition, NetState]:
        """The network and its state: the phase's default, then what the network says, then what the solver says.

        Raises:
            FileError, PrototxtError, NetworkError: the network cannot be read.
        """
        if self.path is not None:
            if not os.path.exists(self.path):
                raise FileError(
                    "there is no such file; names in a solver file start from the working directory, as in Caffe",
                    path=str(self.path),
                )
            found = read_definition(self.path, dialect, python_config=python_config)
        else:
            assert self.message is not None
            message = configured(self.message, python_config)
            found = Definition(self.field, message, self.schema, "as the solver's")
        own = _override(found.message.state) if found.message.HasField("state") else StateOverride()
        phase, level = self.phase, 0
        for state in (own, self.state):
            phase = state.phase or phase  # type: ignore[assignment]
            level = level if state.level is None else state.level
        return found, NetState(phase, level, tuple(dict.fromkeys((*own.stages, *self.state.stages))))


@dataclass(frozen=True)
class SolverSettings:
    """A ``SolverParameter``, checked. Fields without a note here mean what they mean in Caffe.

    Attributes:
        train, tests: the networks; each test network knows its number of iterations.
        policy: the learning rate's course.
        clip_gradients: None where there is no limit.
        snapshot_prefix: completed as Caffe does: the solver file's path without its extension where there is none, and
            the file's name added to a folder.
        solver_mode: None where the file does not say, which Caffe's command takes for CPU.
        random_seed: None where Caffe would take one from the clock.
        weights: files to start from, in the order in which they are loaded.
        text: the file's settings in the current generation.
        notes: what was upgraded. warnings: what Caffe lets pass.
    """

    path: str
    type: str
    train: NetSource
    tests: tuple[NetSource, ...]
    policy: Policy
    max_iter: int
    iter_size: int
    momentum: float
    momentum2: float
    rms_decay: float
    delta: float
    weight_decay: float
    regularization_type: str
    clip_gradients: float | None
    display: int
    average_loss: int
    debug_info: bool
    test_interval: int
    test_compute_loss: bool
    test_initialization: bool
    snapshot: int
    snapshot_prefix: str
    snapshot_diff: bool
    snapshot_format: Literal["BINARYPROTO", "HDF5"]
    snapshot_after_train: bool
    solver_mode: Literal["CPU", "GPU"] | None
    device_id: int
    random_seed: int | None
    weights: tuple[str, ...]
    text: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def optimizer(self, params: Iterable[Any]) -> CaffeOptimizer:
        """The optimizer of this type with these options over ``params`` (see :class:`CaffeOptimizer`)."""
        kind, options = SOLVER_TYPES[self.type]
        made: Optimizer = kind(
            params,
            lr=self.policy.base_lr,
            weight_decay=self.weight_decay,
            regularization_type=self.regularization_type,
            clip_gradients=self.clip_gradients,
            iter_size=self.iter_size,
            **{name: getattr(self, name) for name in options},
        )
        assert isinstance(made, CaffeOptimizer)
        return made


def read_solver(path: str | Path, *, base: str | Path = ".", dialect: str | None = None) -> SolverSettings:
    """Read a solver file.

    Args:
        base: the folder that networks named in it are relative to; Caffe's working directory.
        dialect: a fork's name; None finds it out.

    Raises:
        FileError, PrototxtError: the file cannot be read. UsageError: a setting that Caffe refuses, or one of a fork
        that is not honoured here.
    """
    parsed = read_message(path, "SolverParameter", dialect)
    return _settings(parsed, Path(path), Path(base))


def parse_solver(
    text: str, *, base: str | Path = ".", dialect: str | None = None, path: str = "solver.prototxt"
) -> SolverSettings:
    """As :func:`read_solver`, from text; ``path`` stands for the file's name."""
    return _settings(parse_message(text, "SolverParameter", dialect, path=path), Path(path), Path(base))


class _Reader:
    """A SolverParameter that remembers which of its fields were read."""

    def __init__(self, message: SolverParameter) -> None:
        self.message = message
        self.seen: set[str] = {*_NETS, *_HOW_NOT_WHAT}

    def __getattr__(self, name: str) -> Any:
        self.seen.add(name)
        value = getattr(self.message, name)
        descriptor = self.message.DESCRIPTOR.fields_by_name[name]
        if is_repeated(descriptor):
            return tuple(value)
        return descriptor.enum_type.values_by_number[value].name if descriptor.enum_type else value


def _settings(parsed: ParsedText, path: Path, base: Path) -> SolverSettings:
    where = str(path)
    for unknown in unknown_fields_of(parsed.message):
        if unknown.name != "solver_type":
            near = near_name(unknown.name, parsed.message)
            said = unknown.reason if unknown.is_wrong_value else f"no such setting is known{near}"
            raise PrototxtError(
                f"setting {unknown.name}: {said}", path=where, line=unknown.line or None, column=unknown.column or None
            )
    upgraded = upgrade_solver(parsed.message, parsed.schema, where)
    message = upgraded.message
    warnings = list(parsed.warnings)
    read = _Reader(message)

    if read.type not in SOLVER_TYPES:
        raise UsageError(f"solver type {read.type!r} is unknown; Caffe has {', '.join(SOLVER_TYPES)}", path=where)
    with located(path=where):
        policy = Policy(
            read.lr_policy, read.base_lr, read.gamma, read.power, read.stepsize, read.stepvalue, read.max_iter
        )
    if not message.HasField("base_lr"):
        warnings.append(f"{where}: base_lr is not set, so the learning rate is 0")
    if not message.HasField("max_iter"):
        warnings.append(f"{where}: max_iter is not set, so solving takes no step")
    _check(read, where)
    clip = read.clip_gradients
    settings = SolverSettings(
        path=where,
        type=read.type,
        train=_train_net(message, parsed.schema, base, where),
        tests=_test_nets(message, parsed.schema, base, where),
        policy=policy,
        max_iter=read.max_iter,
        iter_size=read.iter_size,
        momentum=read.momentum,
        momentum2=read.momentum2,
        rms_decay=read.rms_decay,
        delta=read.delta,
        weight_decay=read.weight_decay,
        regularization_type=read.regularization_type,
        clip_gradients=clip if clip >= 0 else None,
        display=read.display,
        average_loss=read.average_loss,
        debug_info=read.debug_info,
        test_interval=read.test_interval,
        test_compute_loss=read.test_compute_loss,
        test_initialization=read.test_initialization,
        snapshot=read.snapshot,
        snapshot_prefix=_snapshot_prefix(read.snapshot_prefix, message.HasField("snapshot_prefix"), path, base),
        snapshot_diff=read.snapshot_diff,
        snapshot_format=read.snapshot_format,
        snapshot_after_train=read.snapshot_after_train,
        solver_mode=read.solver_mode if message.HasField("solver_mode") else None,
        device_id=read.device_id,
        random_seed=read.random_seed if read.random_seed >= 0 else None,
        weights=tuple(name.strip() for text in read.weights for name in text.split(",")),
        text=format_message(message),
        notes=tuple(upgraded.notes),
        warnings=tuple(warnings),
    )
    # test_iter is read with the test networks; what is left belongs to a fork.
    unread = [d.name for d, _ in message.ListFields() if d.name not in read.seen | {"test_iter"}]
    if unread:
        raise UsageError(f"{', '.join(unread)} (of dialect {parsed.schema.name}) is not supported", path=where)
    return settings


def _check(read: _Reader, where: str) -> None:
    """The checks of Caffe's solver constructors, and a few for numbers that it would stumble over later."""
    for name, least in (("average_loss", 1), ("iter_size", 1), ("max_iter", 0)):
        if getattr(read, name) < least:
            raise UsageError(f"{name} {getattr(read, name)}: at least {least} was expected", path=where)
    for name in ("display", "test_interval", "snapshot"):
        if getattr(read, name) < 0:
            raise UsageError(
                f"{name} {getattr(read, name)}: 0 (never) or a number of iterations was expected", path=where
            )
    if read.type in ("AdaGrad", "RMSProp") and read.momentum != 0:
        raise UsageError(f"momentum {read.momentum:g} cannot be used with {read.type}; delete it", path=where)
    if read.type == "RMSProp" and not 0 <= read.rms_decay < 1:
        raise UsageError(f"rms_decay {read.rms_decay:g}: a number from 0 to below 1 was expected", path=where)
    if read.regularization_type not in ("L1", "L2"):
        raise UsageError(f"regularization_type {read.regularization_type!r}: L1 or L2 was expected", path=where)


def _train_net(message: SolverParameter, schema: Schema, base: Path, where: str) -> NetSource:
    given = [name for name in ("net", "net_param", "train_net", "train_net_param") if message.HasField(name)]
    if len(given) != 1:
        raise UsageError(
            f"names {' and '.join(given) or 'no network to train'}; exactly one of net, net_param, train_net, "
            "train_net_param was expected",
            path=where,
        )
    return _source(given[0], getattr(message, given[0]), schema, base, "TRAIN", message.train_state, 0)


def _test_nets(message: SolverParameter, schema: Schema, base: Path, where: str) -> tuple[NetSource, ...]:
    """Test networks in Caffe's order: every test_net_param, every test_net, then the shared network for the rest."""
    named: list[tuple[str, NetParameter | str]] = [("test_net_param", net) for net in message.test_net_param]
    named += [("test_net", path) for path in message.test_net]
    counts = list(message.test_iter)
    shared = next((name for name in ("net_param", "net") if message.HasField(name)), None)
    if len(counts) < len(named) or (shared is None and len(counts) > len(named)):
        raise UsageError(
            f"test_iter is given {len(counts)} times for {len(named)} test networks; it takes one for each", path=where
        )
    if shared is not None:
        named += [(shared, getattr(message, shared))] * (len(counts) - len(named))
    states = list(message.test_state)
    if states and len(states) != len(named):
        raise UsageError(f"test_state is given {len(states)} times for {len(named)} test networks", path=where)
    if named and message.test_interval <= 0:
        raise UsageError(f"{len(named)} test networks, but test_interval is {message.test_interval}", path=where)
    bad = [count for count in counts if count <= 0]
    if bad:
        raise UsageError(f"test_iter {bad[0]}: at least 1 was expected", path=where)
    return tuple(
        _source(name, value, schema, base, "TEST", states[i] if states else None, counts[i])
        for i, (name, value) in enumerate(named)
    )


def _source(
    name: str,
    value: NetParameter | str,
    schema: Schema,
    base: Path,
    phase: Literal["TRAIN", "TEST"],
    state: NetStateMessage | None,
    count: int,
) -> NetSource:
    override = StateOverride() if state is None else _override(state)
    if isinstance(value, str):
        return NetSource(f"{name} {value}", base / value, None, schema, phase, override, count)
    return NetSource(name, None, value, schema, phase, override, count)


def _override(state: NetStateMessage) -> StateOverride:
    return StateOverride(
        enum_name(state, "phase") if state.HasField("phase") else None,
        state.level if state.HasField("level") else None,
        tuple(state.stage),
    )


def _snapshot_prefix(prefix: str, given: bool, path: Path, base: Path) -> str:
    """Caffe's UpgradeSnapshotPrefixProperty."""
    if not given:
        return str(path.with_suffix(""))
    if os.path.isdir(base / prefix):
        return str(Path(prefix) / path.stem)
    return prefix
