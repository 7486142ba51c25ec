"""Other runtimes behind a net: ``net.optimize(engine="onnxruntime")``.

An engine is registered by the distribution that brings it, under the entry point group ``caffe_compat.engines``; here
:mod:`converters.engines` does. So this package knows none by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..errors import UsageError
from ..extras import require
from ..network.registry import Shape

if TYPE_CHECKING:
    from ..network.running import ProgramNet

__all__ = ["GROUP", "TORCH", "Arrays", "Engine", "Session", "engines", "find_engine"]

GROUP = "caffe_compat.engines"
# What runs the inference form that is made of torch's own operations.
TORCH = "torch"

Arrays: TypeAlias = Mapping[str, np.ndarray]


class Session(Protocol):
    """A net opened in a runtime, for inputs of fixed shapes."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by blob name, float32, for inputs by blob name, float32."""


@dataclass(frozen=True)
class Engine:
    """A runtime.

    Attributes:
        name: what ``optimize(engine=...)`` calls it.
        needs: package -> the optional dependency of this distribution that installs it.
        runtime: its name and version. Imports it.
        inputs: numbers to try a net on.
        open: ``open(net, shapes, threads)`` makes a session for inputs of ``shapes``; NetworkError where the net has
            something that the runtime cannot do.
    """

    name: str
    needs: Mapping[str, str]
    runtime: Callable[[], str]
    inputs: Callable[[Any], dict[str, np.ndarray]]
    open: Callable[[Any, Mapping[str, Shape], int], Session]

    def check(self) -> None:
        """Whether it is installed. Raises MissingExtraError."""
        for package, extra in self.needs.items():
            require(package, extra)


@functools.cache
def engines() -> dict[str, Engine]:
    """Every engine that is registered, by name, whether its runtime is installed or not."""
    found = {point.name: point.load() for point in entry_points(group=GROUP)}
    return {name: found[name] for name in sorted(found)}


def find_engine(name: str) -> Engine:
    """The engine called ``name``.

    Raises:
        UsageError: there is none. MissingExtraError: its runtime is not installed.
    """
    if name not in engines():
        known = ", ".join(("auto", TORCH, *engines()))
        raise UsageError(f"no engine {name!r}; known are {known}")
    engines()[name].check()
    return engines()[name]


def state_of(net: ProgramNet) -> tuple[str, ...]:
    """What of ``net`` passes from run to run, by name: a file that begins anew every time gives something else."""
    named = net.named_modules()
    return tuple(f"{path}.{name}" for path, module in named for name in getattr(module, "carried", ()))
