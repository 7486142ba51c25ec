"""Other runtimes behind a net: ``net.optimize(engine="onnxruntime")``.

An engine is registered by the distribution that brings it, under the entry point group ``caffe_compat.engines``; here
:mod:`converters.engines` does. So this package knows none by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..errors import UsageError
from ..extras import require
from ..network.registry import Shape
from .reduced import BFLOAT16, FLOAT32

__all__ = ["GROUP", "PLAIN", "TORCH", "Arrays", "Engine", "Session", "engines", "find_engine"]

GROUP = "caffe_compat.engines"
# What runs the inference form that is made of torch's own operations.
TORCH = "torch"
# The layers as they are, one by one: where they are small, what the inference form saves may not pay.
PLAIN = "plain"

Arrays: TypeAlias = Mapping[str, np.ndarray]


class Session(Protocol):
    """A net opened in a runtime, for inputs of fixed shapes."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by blob name, float32, for inputs by blob name, float32.

        State that passes from run to run is read from the net that was opened, and left there.
        """


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
        open_in_bfloat16: the same, computing in bfloat16; UsageError where the processor does not. None where the
            runtime does not.
    """

    name: str
    needs: Mapping[str, str]
    runtime: Callable[[], str]
    inputs: Callable[[Any], dict[str, np.ndarray]]
    open: Callable[[Any, Mapping[str, Shape], int], Session]
    open_in_bfloat16: Callable[[Any, Mapping[str, Shape], int], Session] | None = None

    def opener(self, dtype: str) -> Callable[[Any, Mapping[str, Shape], int], Session]:
        """What opens a session that computes in ``dtype``. Raises UsageError where there is none."""
        if dtype == FLOAT32:
            return self.open
        if self.open_in_bfloat16 is None:
            able = [TORCH, *(each.name for each in engines().values() if each.open_in_bfloat16 is not None)]
            raise UsageError(f"engine {self.name} does not compute in {dtype}; {', '.join(able)} may")
        assert dtype == BFLOAT16
        return self.open_in_bfloat16

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
        known = ", ".join(("auto", PLAIN, TORCH, *engines()))
        raise UsageError(f"no engine {name!r}; known are {known}")
    engines()[name].check()
    return engines()[name]
