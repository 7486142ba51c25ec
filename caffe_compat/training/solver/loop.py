"""The training loop: Caffe's Solver."""

from __future__ import annotations

import contextlib
import enum
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import LayerError, UsageError
from ...network.gradients import has_gradient
from ...network.net import CaffeNet
from .debug import Watched, backward_lines, forward_lines, watch
from .divergence import diverged
from .events import (
    Clipped,
    DebugLine,
    Finished,
    IterationShown,
    MultiStep,
    NetTested,
    NetTestStarted,
    Note,
    Observer,
    RateShown,
    Restoring,
    Snapshotting,
    SolvingStarted,
)
from .memory import NetMemory, label_of, labelled, net_state, restore_net_state, under_label
from .outputs import numbered, output_numbers, outputs_of
from .policies import rate, step_after
from .settings import SolverSettings
from .smoothing import SmoothedLoss
from .snapshot import ResumeState, fitted_history, read_snapshot, restore_blobs, write_snapshot
from .snapshot_files import check_place, snapshot_paths
from .starting import fill_nets
from .structure import LearnableBlob, learnable_blobs

__all__ = ["Action", "Batches", "LossNet", "Solver"]

# The inputs of a network by name, for its k-th pass, counted from 0.
Batches = Callable[[int], Mapping[str, Tensor]]


class Action(enum.Enum):
    """What someone outside asks of a running solver. To stop includes a snapshot, unless the settings refuse."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    STOP = "stop"


class LossNet(nn.Module):
    """Inputs -> (loss, values of the graph): one forward pass of training as a module that can be wrapped.

    Its second argument says whether all values are wanted, for ``debug_info``; else outputs and losses are enough.
    """

    def __init__(self, net: CaffeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Mapping[str, Tensor], keep: bool) -> tuple[Tensor, list[Tensor | None]]:
        values = self.net.values(inputs, keep=keep)
        return self.net.loss(values), values


class Solver:
    """Trains a network as Caffe's solver does.

        settings = read_solver("solver.prototxt")
        definition, state = settings.train.definition()
        net = CaffeNet(definition.message, state, dialect=definition.schema.name)
        Solver(settings, net, batches).solve()

    Every random draw is a function of (seed, pass, rank, layer), and ``batches`` is asked for a pass by its number, so
    a run that stops and resumes gives the same weights as one that does not.

    Args:
        settings: from :func:`read_solver`.
        net: the network to train. It may lack memory yet: what no file of ``settings.weights`` fills gets its fillers.
        batches: called with the number of a pass (iteration times iter_size, plus the place within the iteration);
            returns the inputs of the net by name.
        tests: for each of ``settings.tests``, its network and its batches. They share the weights of ``net``.
        device: where to train.
        rank: of this process among ``world_size`` that train together, for its own random draws.
        seed: instead of ``settings.random_seed``; without either, one is drawn.
        base: the folder that file names in the settings are relative to. write_root: snapshots are written only below
            it; by default ``base``.
        observer: told what happens (see :mod:`.events`); it runs on the training thread.
        requested: asked after every iteration, and before every batch of a test, what to do.
        stop_at_nan: raise when the loss is no finite number, naming the layer where it began; else go on, as Caffe.
        bfloat16: compute the forward pass in mixed precision.

    Attributes:
        model: the module that is run, a :class:`LossNet`; it may be replaced by a wrapper of it (data parallelism).
        gather: takes what the trained net of this process remembers and returns that of every rank; a snapshot, which
            several processes must take together then, keeps it all.
        optimizer, iteration, current_step, stopped, loss: as they stand. ``loss`` is the smoothed one.
        on_start, on_gradients_ready: lists of functions without arguments, called at these points of an iteration:
            after the tests that begin it, even if one was stopped, and before the update.

    Raises:
        UsageError: tests do not fit the settings. FileAccessError: the snapshot prefix lies outside ``write_root``.
        FileError: snapshots cannot be written there, or a file of weights cannot be read.
    """

    def __init__(
        self,
        settings: SolverSettings,
        net: CaffeNet,
        batches: Batches,
        tests: Sequence[tuple[CaffeNet, Batches]] = (),
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        base: str | Path = ".",
        write_root: str | Path | None = None,
        observer: Observer | None = None,
        requested: Callable[[], Action] | None = None,
        stop_at_nan: bool = True,
        bfloat16: bool = False,
    ) -> None:
        if len(tests) != len(settings.tests):
            raise UsageError(f"{len(tests)} test networks were given, {settings.path} has {len(settings.tests)}")
        self.settings, self.net, self.batches, self.tests = settings, net, batches, list(tests)
        self.device, self.base = torch.device(device), Path(base)
        self.rank, self.world_size = rank, world_size
        self.gather: Callable[[NetMemory], Sequence[NetMemory]] = lambda own: [own]
        self.tell: Observer = observer or (lambda event: None)
        self.requested = requested or (lambda: Action.NONE)
        self.stop_at_nan, self.bfloat16 = stop_at_nan, bfloat16
        self.on_start: list[Callable[[], object]] = []
        self.on_gradients_ready: list[Callable[[], object]] = []
        self._write_root = Path(base if write_root is None else write_root).resolve()
        if settings.snapshot and rank == 0:
            check_place(settings.snapshot_prefix, self.base, self._write_root)

        given = settings.random_seed if seed is None else seed
        self._seed_is_given = given is not None
        self.seed = secrets.randbits(31) if given is None else given
        self.iteration = self.current_step = 0
        self.train_passes = 0
        self.test_passes = [0] * len(self.tests)
        self.stopped = False
        self._average = SmoothedLoss(settings.average_loss)
        self._last_update: dict[str, Tensor] = {}
        self._keeps_average = False  # set when a snapshot brought one
        self._first_show: tuple[int, float] = (0, time.monotonic())

        fill_nets(
            net,
            [test for test, _ in self.tests],
            [self.base / name for name in settings.weights],
            seed=self.seed,
            device=self.device,
            warn=self._warn,
        )
        self.learnable: list[LearnableBlob] = learnable_blobs(net)
        for blob in self.learnable:
            if isinstance(blob.tensor, nn.Parameter):
                # A gradient that nobody uses costs time, and Caffe computes none unless it is forced to.
                blob.tensor.requires_grad_(has_gradient(net.message, blob.lr_mult))
        self.optimizer = settings.optimizer(
            {"params": [b.tensor], "lr_mult": b.lr_mult, "decay_mult": b.decay_mult} for b in self.learnable
        )
        self.model: nn.Module = LossNet(net)

    @property
    def tests_are_due(self) -> bool:
        """Whether the iteration to come begins with the tests."""
        interval = self.settings.test_interval
        due = interval > 0 and self.iteration % interval == 0
        return due and (self.iteration > 0 or self.settings.test_initialization)

    @property
    def loss(self) -> float:
        """The loss of the last iterations, averaged as ``average_loss`` says."""
        return self._average.smoothed

    # Setting up

    def _warn(self, text: str) -> None:
        self.tell(Note(text, warning=True))

    # Training

    def solve(self, resume: str | Path | None = None) -> None:
        """Train up to ``max_iter``, from the solverstate ``resume`` if given; then a last snapshot, display and test.

        Raises:
            LayerError: the loss is no finite number, with the layer where that began.
            FileAccessError, FileError: the last snapshot could not be written; found out before the first iteration.
        """
        settings = self.settings
        if settings.snapshot_after_train and self.rank == 0:
            check_place(settings.snapshot_prefix, self.base, self._write_root)
        self.tell(SolvingStarted(self.net.message.name, settings.policy.name))
        if resume is not None:
            self.restore(resume)
        if 0 < settings.max_iter <= self.iteration:
            text = (
                f"nothing is left to train: max_iter is {settings.max_iter}, and iteration {self.iteration} is reached"
            )
            self.tell(Note(text, warning=True))
        self.step(settings.max_iter - self.iteration)
        if settings.snapshot_after_train and (not settings.snapshot or self.iteration % settings.snapshot):
            self.snapshot()
        if not self.stopped:
            if settings.display and self.iteration % settings.display == 0:
                with torch.no_grad():
                    loss = float(self._forward(debug=False)[0])
                self.tell(IterationShown(self.iteration, self._average.add(loss)))
            if settings.test_interval and self.iteration % settings.test_interval == 0:
                self.test_all()
        self.tell(Finished(self.iteration, self.stopped))

    def step(self, iterations: int) -> None:
        """Train for ``iterations``, with the tests, displays and snapshots that fall into them.

        Raises:
            LayerError: the loss is no finite number, with the layer where that began.
        """
        settings = self.settings
        self.stopped = False
        if not self._keeps_average:
            self._average = SmoothedLoss(settings.average_loss)
        self._keeps_average = False
        self._first_show = (self.iteration, time.monotonic())
        stop = self.iteration + iterations
        while self.iteration < stop and not self.stopped:
            self.optimizer.zero_grad(set_to_none=True)
            self._last_update = {}
            if self.tests_are_due:
                self.test_all()
            for call in self.on_start:
                call()
            if self.stopped:
                break
            shown = settings.display > 0 and self.iteration % settings.display == 0
            self.net.randomness.training = self.iteration, stop
            loss, values = self._gradients(debug=shown and settings.debug_info)
            self._average.add(loss)
            if shown:
                self._show(values)
            for call in self.on_gradients_ready:
                call()
            self._update(shown)
            action = self.requested()
            if action is Action.SNAPSHOT or (settings.snapshot and self.iteration % settings.snapshot == 0):
                self.snapshot()
            if action is Action.STOP:
                self.stopped = True

    def _gradients(self, debug: bool) -> tuple[float, list[Tensor | None]]:
        """Forward and backward ``iter_size`` times; the mean loss, and values of the last pass: all if ``debug``."""
        size = self.settings.iter_size
        total = 0.0
        values: list[Tensor | None] = []
        for i in range(size):
            # A data-parallel wrapper exchanges gradients with the last backward pass only.
            waits = getattr(self.model, "no_sync", None) if i < size - 1 else None
            with waits() if waits is not None else contextlib.nullcontext():
                values = []  # lets go of the last pass before the next
                watching: contextlib.AbstractContextManager[Watched] = (
                    watch(self.net) if debug else contextlib.nullcontext({})
                )
                with watching as read:
                    loss, values = self._forward(debug)
                if loss.requires_grad:
                    loss.backward()
            if debug:
                self._debug(backward_lines(self.net, values, read, self.learnable))
            total += float(loss.detach())
        return total / size, values

    def _forward(self, debug: bool) -> tuple[Tensor, list[Tensor | None]]:
        """One pass of the trained net over its next batch."""
        self._randomize(self.net, self.train_passes)
        inputs = self._inputs(self.batches, self.train_passes)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss, values = self.model(inputs, debug)
        self.train_passes += 1
        if self.stop_at_nan and not math.isfinite(float(loss.detach())):
            raise self._diverged(inputs)
        if debug:
            self._debug(forward_lines(self.net, values))
            for value in values:
                if value is not None and value.requires_grad:
                    value.retain_grad()
        return loss, values

    def _diverged(self, inputs: Mapping[str, Tensor]) -> LayerError:
        """Where it began. The values are gone, but the same pass makes them again: its draws do not depend on time."""
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return diverged(self.net, self.net.values(inputs), self.iteration)

    def _inputs(self, batches: Batches, index: int) -> dict[str, Tensor]:
        return {name: x.to(self.device, non_blocking=True) for name, x in batches(index).items()}

    def _randomize(self, net: CaffeNet, index: int) -> None:
        net.randomness.seed, net.randomness.iteration, net.randomness.rank = self.seed, index, self.rank

    def apply_update(self) -> None:
        """Update the weights by the gradients as they stand; it counts as an iteration."""
        self._update(shown=False)

    def _update(self, shown: bool) -> None:
        settings = self.settings
        step = step_after(settings.policy, self.iteration, self.current_step)
        if settings.policy.name == "multistep" and step != self.current_step:
            self.tell(MultiStep(self.iteration, step))
        self.current_step = step
        lr = rate(settings.policy, self.iteration, step)
        if shown:
            self.tell(RateShown(self.iteration, lr))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        before = {b.name: b.tensor.detach().clone() for b in self.learnable} if settings.snapshot_diff else {}
        self.optimizer.step()
        self._last_update = {b.name: before[b.name] - b.tensor.detach() for b in self.learnable if b.name in before}
        limit = self.optimizer.clip_gradients
        if limit is not None and self.optimizer.norm is not None:
            norm = float(self.optimizer.norm)
            if norm > limit:
                self.tell(Clipped(norm, limit))
        self.iteration += 1

    def _show(self, values: Sequence[Tensor | None]) -> None:
        since, started = self._first_show
        now = time.monotonic()
        seconds = now - started
        outputs = output_numbers(self.net, values)
        speed = (self.iteration - since) / (seconds or 1)
        self.tell(IterationShown(self.iteration, self.loss, outputs, seconds, speed, self.settings.display))
        self._first_show = (self.iteration, now)

    def _debug(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.tell(DebugLine(line))

    # Testing

    def test_all(self) -> None:
        """Test every test network, unless someone asks to stop."""
        for k in range(len(self.tests)):
            if not self.stopped:
                self.test(k)

    @torch.no_grad()
    def test(self, k: int) -> dict[str, Tensor]:
        """Test network ``k``: the means of its outputs over its batches, by name; empty if someone asked to stop."""
        net, batches = self.tests[k]
        self.tell(NetTestStarted(self.iteration, k))
        count = self.settings.tests[k].iterations
        sums: dict[str, Tensor] = {}
        loss = 0.0
        for _ in range(count):
            while (action := self.requested()) is not Action.NONE:
                if action is Action.SNAPSHOT:
                    self.snapshot()
                else:
                    self.stopped = True
            if self.stopped:
                self.tell(NetTested(k, interrupted=True))
                return {}
            self._randomize(net, self.test_passes[k])
            inputs = self._inputs(batches, self.test_passes[k])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                values = net.values(inputs, keep=self.settings.debug_info)
            self.test_passes[k] += 1
            if self.settings.debug_info:
                self._debug(forward_lines(net, values))
            if self.settings.test_compute_loss and net.loss_weights:
                loss += float(net.loss(values))
            for blob, v in outputs_of(net):
                value = values[v]
                assert value is not None
                sums[blob] = sums[blob] + value if blob in sums else value.float()
        means = {blob: total / count for blob, total in sums.items()}
        self.tell(NetTested(k, numbered(net, means), loss / count if self.settings.test_compute_loss else None))
        return means

    # Snapshots

    def snapshot(self) -> Path | None:
        """Write a snapshot; the path of its solverstate. Only the process of rank 0 writes one; the others return None.

        With ``snapshot_diff`` the diffs are what the last update subtracted, as in Caffe, to the weights' precision.

        Raises:
            FileAccessError, FileError: it cannot be written; the previous snapshot stays.
        """
        memories = self.gather(net_state(self.net))
        if self.rank != 0:
            return None
        settings = self.settings
        if not settings.snapshot:
            check_place(settings.snapshot_prefix, self.base, self._write_root)
        kind = settings.snapshot_format
        paths = snapshot_paths(settings.snapshot_prefix, self.iteration, kind, self.base)
        self.tell(Snapshotting("model", kind, paths.learned_net))
        self.tell(Snapshotting("state", kind, paths.state_name))
        write_snapshot(
            self.net,
            self.optimizer.history(),
            paths,
            iteration=self.iteration,
            current_step=self.current_step,
            resume=self._resume_state(memories),
            diffs=self._last_update if settings.snapshot_diff else None,
        )
        return paths.state

    def _resume_state(self, memories: Sequence[NetMemory]) -> ResumeState:
        buffers: dict[str, np.ndarray] = {}
        for rank, memory in enumerate(memories):
            buffers |= labelled(memory, label_of(rank))
        for k, (net, _) in enumerate(self.tests):
            buffers |= labelled(net_state(net), f"test{k}")
        return ResumeState(
            seed=self.seed,
            train_passes=self.train_passes,
            test_passes=tuple(self.test_passes),
            losses=tuple(self._average.losses),
            loss_index=self._average.index,
            smoothed_loss=self._average.smoothed,
            world_size=len(memories),
            buffers=buffers,
        )

    def restore(self, path: str | Path) -> None:
        """Go on from a solverstate, of this library or of real Caffe.

        Raises:
            FileError: a file is missing or damaged. WeightsError: it is a snapshot of another net or solver.
        """
        self.tell(Restoring(str(path)))
        snapshot = read_snapshot(path, self.base)
        shapes = [tuple(blob.tensor.shape) for blob in self.learnable] * self.optimizer.histories
        history = fitted_history(snapshot, shapes, self.settings.type)
        restore_blobs(self.net, snapshot.model)
        self.optimizer.load_history(history, snapshot.state.iteration)
        self.iteration, self.current_step = snapshot.state.iteration, snapshot.state.current_step
        if snapshot.resume is None:
            # Where real Caffe would start again at the first batch; the numbers of passes go on here.
            self.train_passes = self.iteration * self.settings.iter_size
            if snapshot.unfit is None:
                self.tell(Note(f"{path} comes without a .resume.npz: recurrent state starts at zero"))
            else:
                text = (
                    f"{snapshot.unfit} belongs to another file than {path}, and is not used: recurrent state starts at"
                )
                self.tell(Note(f"{text} zero, and random draws with this run's own seed", warning=True))
            return
        self._restore_rest(snapshot.resume, Path(path))

    def _restore_rest(self, resume: ResumeState, path: Path) -> None:
        if not self._seed_is_given:
            self.seed = resume.seed
        elif self.seed != resume.seed:
            self.tell(Note(f"{path} was made with seed {resume.seed}, this run has {self.seed}", warning=True))
        self.train_passes = resume.train_passes
        if len(resume.test_passes) == len(self.tests):
            self.test_passes = list(resume.test_passes)
        if len(resume.losses) <= self.settings.average_loss:
            self._average = SmoothedLoss(
                self.settings.average_loss, list(resume.losses), resume.loss_index, resume.smoothed_loss
            )
            self._keeps_average = True
        if resume.world_size == self.world_size:
            restore_net_state(self.net, under_label(resume.buffers, label_of(self.rank)), path)
        else:
            text = f"{path} was made by {resume.world_size} processes that trained together"
            text += f", this run has {self.world_size}: samples come in another order"
            state = ", and recurrent state starts at zero" if under_label(resume.buffers, label_of(0)) else ""
            self.tell(Note(text + state, warning=True))
        if len(resume.test_passes) == len(self.tests):
            for k, (net, _) in enumerate(self.tests):
                restore_net_state(net, under_label(resume.buffers, f"test{k}"), path)
