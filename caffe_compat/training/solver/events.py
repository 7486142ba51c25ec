"""What happens while a solver runs, as small records; :func:`lines_of` puts them in the words of Caffe's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from ...display import shown
from ...formats.cxx_numbers import cxx_number

__all__ = [
    "BlobOutput",
    "Clipped",
    "DebugLine",
    "Event",
    "Finished",
    "HeaderLine",
    "IterationShown",
    "MultiStep",
    "NetTestStarted",
    "NetTested",
    "Note",
    "Observer",
    "RateShown",
    "Restoring",
    "Snapshotting",
    "SolvingStarted",
    "lines_of",
]


@dataclass(frozen=True)
class Event:
    """Base of all events."""


Observer = Callable[[Event], None]


@dataclass(frozen=True)
class BlobOutput:
    """One number of an output blob: ``index`` counts them all, ``weight`` is the blob's weight in the loss."""

    index: int
    blob: str
    value: float
    weight: float


@dataclass(frozen=True)
class Note(Event):
    """Something a user should know. ``warning`` tells whether it may be a mistake."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class HeaderLine(Event):
    """A line of what is said before the first iteration (:mod:`.header`); ``place`` is where Caffe's code writes it."""

    text: str
    place: str


@dataclass(frozen=True)
class SolvingStarted(Event):
    net: str
    policy: str


@dataclass(frozen=True)
class Restoring(Event):
    path: str


@dataclass(frozen=True)
class IterationShown(Event):
    """An iteration that ``display`` shows. ``loss`` is smoothed over ``average_loss`` iterations.

    ``seconds`` is None for the pass after the last iteration, which is only for show.
    """

    iteration: int
    loss: float
    outputs: tuple[BlobOutput, ...] = ()
    seconds: float | None = None
    iterations_per_second: float = 0.0
    display: int = 0


@dataclass(frozen=True)
class RateShown(Event):
    iteration: int
    rate: float


@dataclass(frozen=True)
class MultiStep(Event):
    iteration: int
    step: int


@dataclass(frozen=True)
class Clipped(Event):
    norm: float
    limit: float


@dataclass(frozen=True)
class DebugLine(Event):
    """One line of ``debug_info``."""

    text: str


@dataclass(frozen=True)
class NetTestStarted(Event):
    iteration: int
    net: int


@dataclass(frozen=True)
class NetTested(Event):
    """Means over the batches; ``loss`` only with ``test_compute_loss``. An ``interrupted`` test has no numbers."""

    net: int
    outputs: tuple[BlobOutput, ...] = ()
    loss: float | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class Snapshotting(Event):
    """``what`` is ``"model"`` or ``"state"``, ``format`` as in the solver file."""

    what: str
    format: str
    path: str


@dataclass(frozen=True)
class Finished(Event):
    iteration: int
    early: bool


def lines_of(event: Event) -> list[str]:
    """The lines of Caffe's log for ``event``, without the prefix of time and place: no name adds another."""
    return [shown(line) for line in _words(event)]


def _words(event: Event) -> list[str]:
    match event:
        case Note(text=text):
            return [text]
        case SolvingStarted(net=net, policy=policy):
            return [f"Solving {net}", f"Learning Rate Policy: {policy}"]
        case Restoring(path=path):
            return [f"Restoring previous solver status from {path}"]
        case IterationShown():
            return _iteration_lines(event)
        case RateShown(iteration=iteration, rate=rate):
            return [f"Iteration {iteration}, lr = {cxx_number(rate)}"]
        case MultiStep(iteration=iteration, step=step):
            return [f"MultiStep Status: Iteration {iteration}, step = {step}"]
        case Clipped(norm=norm, limit=limit):
            return [
                f"Gradient clipping: scaling down gradients (L2 norm {cxx_number(norm)} > {cxx_number(limit)}) "
                f"by scale factor {cxx_number(limit / norm)}"
            ]
        case DebugLine(text=text) | HeaderLine(text=text):
            return [text]
        case NetTestStarted(iteration=iteration, net=net):
            return [f"Iteration {iteration}, Testing net (#{net})"]
        case NetTested():
            if event.interrupted:
                return ["Test interrupted."]
            loss = [] if event.loss is None else [f"Test loss: {cxx_number(event.loss)}"]
            return loss + [_output_line("Test", output) for output in event.outputs]
        case Snapshotting(what=what, format=kind, path=path):
            file = "binary proto file" if kind == "BINARYPROTO" else "HDF5 file"
            return [f"Snapshotting {'solver state ' if what == 'state' else ''}to {file} {path}"]
        case Finished(early=early):
            return ["Optimization stopped early." if early else "Optimization Done."]
    raise TypeError(f"{type(event).__name__} ({', '.join(f.name for f in fields(event))}) has no words")


def _iteration_lines(event: IterationShown) -> list[str]:
    speed = ""
    if event.seconds is not None:
        speed = (
            f" ({cxx_number(event.iterations_per_second)} iter/s, {cxx_number(event.seconds)}s/{event.display} iters)"
        )
    first = f"Iteration {event.iteration}{speed}, loss = {cxx_number(event.loss)}"
    return [first, *(_output_line("Train", output) for output in event.outputs)]


def _output_line(net: str, output: BlobOutput) -> str:
    line = f"    {net} net output #{output.index}: {output.blob} = {cxx_number(output.value)}"
    if output.weight:
        line += f" (* {cxx_number(output.weight)} = {cxx_number(output.weight * output.value)} loss)"
    return line
