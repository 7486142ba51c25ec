"""How long every layer of a network takes, forward and backward."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..display import shown
from ..errors import UsageError
from ..network.definition import read_definition
from ..network.graph import NetState
from ..network.net import CaffeNet
from ..network.python_config import PythonConfig
from ..training.session import feed_net

__all__ = ["LayerTime", "Timing", "time"]


@dataclass(frozen=True)
class LayerTime:
    """Mean times of one layer, milliseconds."""

    name: str
    forward: float
    backward: float


@dataclass(frozen=True)
class Timing:
    """Mean times over the iterations, milliseconds. The last three are of whole passes."""

    layers: tuple[LayerTime, ...]
    forward: float
    backward: float
    total: float


def time(
    model: str | Path,
    iterations: int = 50,
    *,
    phase: str = "TRAIN",
    level: int = 0,
    stages: Sequence[str] = (),
    device: torch.device | str = "cpu",
    base: str | Path = ".",
    write_root: str | Path | None = None,
    dialect: str | None = None,
    allow_python: bool = False,
    python_config: PythonConfig | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Timing:
    """Time a network with the initial values of its fillers, layer by layer, as ``caffe time``.

    ``Input`` layers are fed zeros. Reading data is not timed: every pass uses the first batch.

    Args:
        phase, level, stages: of the network's state. tell: told the lines of Caffe's log as they come.

    Raises:
        UsageError: no iterations. CaffeCompatError: what cannot be read or built.
    """
    if iterations < 1:
        raise UsageError(f"{iterations} iterations: at least 1 was expected")
    definition = read_definition(model, dialect, python_config=python_config)
    state = NetState(phase, level, tuple(stages))
    fed = feed_net(
        definition,
        state,
        base=base,
        write_root=write_root,
        seed=0,
        workers=0,
        allow_python=allow_python,
        zeros=True,
    )
    net = fed.net.materialize(0, device).to(device)
    batch = {name: torch.zeros(shape) for name, shape in net.input_shapes.items()} | dict(fed.batches(0))
    run = _Stepwise(net, {name: x.to(device) for name, x in batch.items()})
    tell("Performing Forward")
    run.forward()
    tell(f"Initial loss: {run.loss():g}")
    tell("Performing Backward")
    run.backward()
    run.forget()
    tell("*** Benchmark begins ***")
    tell(f"Testing for {iterations} iterations.")
    forward = backward = 0.0
    begin = clock.perf_counter()
    for i in range(iterations):
        a = clock.perf_counter()
        run.forward()
        b = clock.perf_counter()
        run.backward()
        c = clock.perf_counter()
        forward, backward = forward + b - a, backward + c - b
        tell(f"Iteration: {i + 1} forward-backward time: {(c - a) * 1e3:g} ms.")
    total = clock.perf_counter() - begin
    scale = 1e3 / iterations
    layers = tuple(
        LayerTime(node.name, run.forward_seconds[i] * scale, run.backward_seconds[i] * scale)
        for i, node in enumerate(net.graph.computed)
    )
    tell("Average time per layer: ")
    for layer in layers:
        tell(f"{shown(layer.name):>10}\tforward: {layer.forward:g} ms.")
        tell(f"{shown(layer.name):>10}\tbackward: {layer.backward:g} ms.")
    tell(f"Average Forward pass: {forward * scale:g} ms.")
    tell(f"Average Backward pass: {backward * scale:g} ms.")
    tell(f"Average Forward-Backward: {total * scale:g} ms.")
    tell(f"Total Time: {total * 1e3:g} ms.")
    tell("*** Benchmark ends ***")
    return Timing(layers, forward * scale, backward * scale, total * scale)


class _Stepwise:
    """A network run one layer at a time, each cut off from the next, so that each backward pass can be timed alone."""

    def __init__(self, net: CaffeNet, inputs: dict[str, Tensor]) -> None:
        self._net = net
        self._values: list[Tensor | None] = [None] * len(net.graph.blobs)
        for value in net.graph.inputs:
            self._values[value] = inputs[net.graph.blobs[value]]
        self._made: list[tuple[Tensor, ...]] = []  # the tops of every layer, still tied to its bottoms
        self._device = net.device_and_dtype()[0]
        self.forget()

    def forget(self) -> None:
        """Start the sums anew."""
        count = len(self._net.graph.computed)
        self.forward_seconds, self.backward_seconds = [0.0] * count, [0.0] * count

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return clock.perf_counter()

    def forward(self) -> None:
        self._made = []
        for i, node in enumerate(self._net.graph.computed):
            module: nn.Module = self._net.get_submodule(node.module_name)
            start = self._now()
            result: Any = module(*(self._values[v] for v in node.bottoms))
            self.forward_seconds[i] += self._now() - start
            tops = (result,) if isinstance(result, Tensor) else tuple(result)
            self._made.append(tops[: len(node.tops)])
            for value, top in zip(node.tops, tops, strict=False):
                self._values[value] = top.detach().requires_grad_(top.requires_grad)

    def loss(self) -> float:
        return float(self._net.loss(self._values).detach()) if self._net.loss_weights else 0.0

    def backward(self) -> None:
        """As in Caffe, every layer: where no later layer gives a gradient, of zeros, or of the loss weight."""
        for i, node in reversed(list(enumerate(self._net.graph.computed))):
            tops, diffs = [], []
            for value, top in zip(node.tops, self._made[i], strict=True):
                leaf = self._values[value]
                if not top.requires_grad or leaf is None:
                    continue
                weight = self._net.loss_weights.get(value, 0.0)
                tops.append(top)
                diffs.append(torch.full_like(top, weight) if leaf.grad is None else leaf.grad + weight)
            if not tops:
                continue
            start = self._now()
            torch.autograd.backward(tops, diffs)
            self.backward_seconds[i] += self._now() - start
        for parameter in self._net.parameters():
            parameter.grad = None
