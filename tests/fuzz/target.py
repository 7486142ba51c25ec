"""What a target is, and where the files lie that are damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import caffe_compat
from caffe_compat import CaffeNet
from tests.fuzz.mutators import Mutator

__all__ = ["FORMATS", "HOSTILE", "REFERENCE", "ROOT", "Target", "contents", "small_net"]

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "reference_outputs"
FORMATS = REFERENCE / "formats"
HOSTILE = ROOT / "tests" / "hostile"


@dataclass(frozen=True)
class Target:
    """A reader, or an exporter behind one.

    Attributes:
        file: the name of the damaged file, below a folder of its own.
        read: raises CaffeCompatError for what it refuses, AssertionError if what it accepts is wrong.
        seeds: contents to be damaged.
        beside: other files below that folder, and what they hold.
        seconds: of the processor that one may take; it is ended after six times as long by the clock.
        names_files: whether it may name files anywhere, which are read, as a list of pictures does.
        runs_files: whether it hands files to another runtime, which may start processes and unpickle what it wrote.
    """

    name: str
    file: str
    read: Callable[[Path], object]
    mutate: Mutator
    seeds: Sequence[bytes]
    beside: Mapping[str, bytes] = field(default_factory=dict)
    seconds: float = 20.0
    names_files: bool = False
    runs_files: bool = False


def contents(*paths: Path) -> list[bytes]:
    """What the files hold."""
    return [path.read_bytes() for path in paths]


@cache
def small_net() -> CaffeNet:
    """A convolution, two inner products, and what lies between them."""
    return caffe_compat.load(FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel")
