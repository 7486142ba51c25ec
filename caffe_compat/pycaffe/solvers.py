"""``caffe.SGDSolver`` and its kin: pycaffe's interface over :class:`caffe_compat.training.solver.Solver`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from ..layers.autograd import Context
from ..network.definition import Definition
from ..network.graph import NetState
from ..training.solver import Event, SolverSettings, lines_of, read_solver
from ..training.solver.loop import Solver as _Loop
from ..training.solver.policies import rate, step_after
from .blob import flush_parameters
from .building import SteppedNet, build
from .net import Net
from .runtime import draw_seed, log, runtime, set_random_seed

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
]


class _Context(Context, Protocol):
    net: Net


class _Backward(torch.autograd.Function):
    """The loss of a net as a tensor whose backward pass is the net's own, which fills every blob's diff."""

    @staticmethod
    def forward(ctx: _Context, anchor: Tensor, net: Net, loss: Tensor) -> Tensor:
        ctx.net = net
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[None, None, None]:
        ctx.net.backward_all()
        return None, None, None


class _Pass(nn.Module):
    """What the training loop runs instead of the bare network."""

    def __init__(self, net: Net, core: SteppedNet) -> None:
        super().__init__()
        self.core = core
        self._net = net
        self._anchor = torch.zeros((), requires_grad=True)

    def forward(self, inputs: Any, keep: bool) -> tuple[Tensor, list[Tensor | None]]:
        values = self._net.run_all()
        with torch.enable_grad():
            return _Backward.apply(self._anchor, self._net, self.core.loss(values)), values


class _Parameters:
    """``solver.param``: some of the settings, of which the learning rate may be changed."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    @property
    def max_iter(self) -> int:
        return self._loop.settings.max_iter

    @property
    def display(self) -> int:
        return self._loop.settings.display

    @property
    def layer_wise_reduce(self) -> bool:
        return False

    @property
    def base_lr(self) -> float:
        return self._loop.settings.policy.base_lr

    @base_lr.setter
    def base_lr(self, value: float) -> None:
        settings = self._loop.settings
        self._loop.settings = replace(settings, policy=replace(settings.policy, base_lr=value))


class Solver:
    """Trains the network of a solver file. Use one of its subclasses, or :func:`get_solver`.

    Paths in the file are relative to the working folder. Progress is logged on stderr in the words of Caffe.

    Attributes:
        net: the network that is trained. test_nets: those that it is tested with, over the same parameters.
        param: the settings ``max_iter``, ``display`` and ``base_lr``; the last may be set.

    Raises:
        CaffeCompatError: whatever real Caffe would abort for.
    """

    kind: ClassVar[str] = ""

    def __init__(self, solver_file: str | os.PathLike[str]) -> None:
        settings = _of_kind(read_solver(Path(solver_file), dialect=runtime.dialect), self.kind)
        for text in (*settings.notes, *settings.warnings):
            log(text, 1 if text in settings.warnings else 0)
        if settings.random_seed is not None:
            set_random_seed(settings.random_seed)
        self.net, core = _open(*settings.train.definition(runtime.dialect))
        opened = [_open(*test.definition(runtime.dialect)) for test in settings.tests]
        self.test_nets = [net for net, _ in opened]
        self._loop = _Loop(
            settings,
            core,
            self.net.take_pass,
            [(test, net.take_pass) for net, test in opened],
            device=runtime.device,
            seed=draw_seed() if settings.random_seed is None else settings.random_seed,
            write_root=Path.cwd().anchor,
            observer=_tell,
            stop_at_nan=False,
        )
        self._loop.model = _Pass(self.net, core)
        self._loop.on_gradients_ready.append(self._before_update)
        self._stop_at = 0
        self._shown: list[tuple[Tensor, dict[str, Any], list[Tensor]]] = []
        self.param = _Parameters(self._loop)
        self._nets = [self.net, *self.test_nets]
        self._times_shared = [0] * len(self._nets)
        for net in self._nets:
            net.start()

    @property
    def iter(self) -> int:
        """How many updates there were."""
        return self._loop.iteration

    @property
    def lr(self) -> float:
        """The learning rate of the update to come."""
        settings = self._loop.settings
        step = step_after(settings.policy, self._loop.iteration, self._loop.current_step)
        return rate(settings.policy, self._loop.iteration, step)

    def step(self, iterations: int) -> None:
        """Train for some iterations, with the tests and snapshots that fall into them.

        Afterwards blobs hold the last batch, and the diffs of parameters what the last update subtracted, as in Caffe.
        """
        self._run(self.iter + iterations, lambda: self._loop.step(iterations))

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train up to ``max_iter``, going on from a solverstate if one is given."""
        if resume_file is not None:
            self.restore(resume_file)
        self._run(self._loop.settings.max_iter, self._loop.solve)

    def apply_update(self) -> None:
        """Update the parameters by what is in their diffs; counts as an iteration."""
        self._prepare()
        self._run(self.iter + 1, self._update)

    def _update(self) -> None:
        self._before_update()
        self._loop.apply_update()

    def restore(self, state_file: str | os.PathLike[str]) -> None:
        """Go on from a solverstate. Raises FileError, WeightsError."""
        self._prepare()
        self._loop.restore(Path(state_file))

    def snapshot(self) -> None:
        """Write ``<prefix>_iter_<n>.caffemodel``, ``.solverstate`` and what resuming exactly needs besides."""
        flush_parameters()
        self._loop.snapshot()

    def share_weights(self, net: Net) -> None:
        """Let ``net`` use the parameters of the trained network."""
        net.share_with(self.net)

    def add_callback(self, on_start: Callable[[], object], on_gradients_ready: Callable[[], object]) -> None:
        """Have functions called in every iteration: before its passes, and before its update."""
        self._loop.on_start.append(on_start)
        # What the callback did to diffs must count, so ours stays the last.
        self._loop.on_gradients_ready.insert(-1, on_gradients_ready)

    def _prepare(self) -> None:
        flush_parameters()
        device = runtime.device
        if device != self._loop.device:
            for net in self._nets:
                net.to_device(device)
            self._loop.device = device
            for state in self._loop.optimizer.state.values():
                state.update({k: v.to(device) for k, v in state.items() if isinstance(v, Tensor)})
            self._share()
        elif self._times_shared != [net.times_shared for net in self._nets]:
            self._share()  # a script gave a net other memory; Caffe shares anew before every test

    def _share(self) -> None:
        for test_net in self.test_nets:
            test_net.share_with(self.net)
        self._times_shared = [net.times_shared for net in self._nets]

    def _run(self, stop_at: int, action: Callable[[], None]) -> None:
        self._prepare()
        self._stop_at, self._shown = stop_at, []
        action()
        self._show_update()

    # What an update subtracted is no more to be seen once it is done. It is made again from what it started from, which
    # is kept for the last update of a run only.

    def _before_update(self) -> None:
        flush_parameters()
        if self.iter + 1 != self._stop_at:
            return
        optimizer = self._loop.optimizer
        count = optimizer.histories
        before = [history.clone() for history in optimizer.history()]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        groups = [dict(group) for group in optimizer.param_groups for _ in group["params"]]
        self._shown = [
            (p, groups[i], [before[k * len(parameters) + i] for k in range(count)]) for i, p in enumerate(parameters)
        ]

    @torch.no_grad()
    def _show_update(self) -> None:
        optimizer = self._loop.optimizer
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for p, group, histories in self._shown:
            if p.grad is not None:
                moved = torch.zeros_like(p)
                rate_now = rates[id(p)] * group["lr_mult"]
                optimizer.update([moved], [p.grad.clone()], [[history] for history in histories], rate_now, group)
                p.grad.copy_(moved.neg_())
        self._shown = []


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum, whatever type the file names."""

    kind = "SGD"


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    kind = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad."""

    kind = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp."""

    kind = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta."""

    kind = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam."""

    kind = "Adam"


_KINDS = {
    kind.kind: kind for kind in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(solver_file: str | os.PathLike[str]) -> Solver:
    """The solver of the type that the file names."""
    return _KINDS[read_solver(Path(solver_file), dialect=runtime.dialect).type](solver_file)


def _of_kind(settings: SolverSettings, kind: str) -> SolverSettings:
    if not kind:
        raise UsageError(
            "caffe.Solver only is what the solvers have in common; use SGDSolver and its kin, or get_solver"
        )
    if kind in ("AdaGrad", "RMSProp") and settings.momentum != 0:
        raise UsageError(f"momentum {settings.momentum:g} cannot be used with {kind}; delete it", path=settings.path)
    return replace(settings, type=kind)


def _open(definition: Definition, state: NetState) -> tuple[Net, SteppedNet]:
    core, feeds = build(definition, state)
    net = Net.over(core, feeds)
    core.run_steps = net.run_all
    return net, core


def _tell(event: Event) -> None:
    for line in lines_of(event):
        log(line)
