"""Work that the collector of garbage does not interrupt: importing, and building nets.

What either makes stays, so there is nothing to collect. Yet it counts: after ``import torch`` with its 150,000 objects
it makes a run over all of these due, which takes longer than importing the library, or building a net of usual size.
"""

from __future__ import annotations

import functools
import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

__all__ = ["collecting_later", "import_quietly"]

F = TypeVar("F", bound=Callable[..., object])


@contextmanager
def _paused() -> Iterator[None]:
    """The collector is paused meanwhile; whoever had paused it finds it so."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collecting_later(make: F) -> F:
    """A decorator: the collector is paused while ``make`` runs, most of whose objects stay."""

    @functools.wraps(make)
    def made(*args: object, **options: object) -> object:
        with _paused():
            return make(*args, **options)

    return made  # type: ignore[return-value]


def import_quietly(name: str) -> ModuleType:
    """Import the module ``name`` with the collector paused.

    Raises:
        ImportError: as :func:`importlib.import_module`.
    """
    with _paused():
        return importlib.import_module(name)
