"""CUDA graphs: steps whose work depends on nothing but shapes are recorded once, and played back by a single launch.

For a small batch a GPU waits for Python more than it computes. A recording repeats what the GPU was told, with the same
memory, so inputs are copied into the memory that was recorded, and outputs out of it. Steps that look at values (what
decides how many boxes there are, say), remember something, or are unknown here run as ever, between recordings.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CaffeCompatError, first_line
from ..layers.bvlc import activation
from ..layers.bvlc.batch_norm import BatchNorm
from ..layers.bvlc.convolution import Convolution, Deconvolution
from ..layers.bvlc.elementwise import EltwiseMax, EltwiseProduct, EltwiseSum, Softmax
from ..layers.bvlc.inner_product import InnerProduct
from ..layers.bvlc.lrn import AcrossChannels, WithinChannel
from ..layers.bvlc.pooling import Pooling
from ..layers.bvlc.prelu import PReLU
from ..layers.bvlc.scale import Bias, Scale
from ..layers.bvlc.shape import Concat, Crop, Flatten, Reshape, Slice, Split
from ..layers.forks.nvidia import NvidiaBatchNorm
from ..network.program import Program, Step
from ..network.shipped import LAYERS
from ..parity.precision import precision_settings
from .affine import Affine
from .fused import Fused

__all__ = ["Recorder", "Recordings", "cuda_graph", "recordable"]

# In testing these compute the same operations for the same shapes, keep nothing, and read nothing back from the GPU.
# By their exact class: one that a user wrote, or derived, may do otherwise.
_RECORDABLE = (
    *(getattr(activation, name) for name in activation.__all__),
    AcrossChannels,
    Affine,
    BatchNorm,
    Bias,
    Concat,
    Convolution,
    Crop,
    Deconvolution,
    EltwiseMax,
    EltwiseProduct,
    EltwiseSum,
    Flatten,
    Fused,
    InnerProduct,
    NvidiaBatchNorm,
    PReLU,
    Pooling,
    Reshape,
    Scale,
    Slice,
    Softmax,
    Split,
    WithinChannel,
)
# The same of forks' layers, by module and name: a net without them does not import them.
_RECORDABLE_OF_FORKS = {("normalize", "Normalize"), ("shape", "ShuffleChannel"), ("ssd", "Permute")}

# A recording of fewer steps saves nothing.
_LEAST_STEPS = 2
# For how many shapes of inputs recordings are kept, each with memory of its own.
_KEPT = 4
# Runs before a recording, in which cuDNN finds its fastest kernels.
_WARM_UPS = 3

Recorder = Callable[[Callable[[], dict[int, Tensor]], torch.device], tuple[dict[int, Tensor], Callable[[], None]]]
"""``record(run, device)`` runs ``run``, the last time while recording.

It returns what that run made, which need not hold its numbers yet, and what plays it back into that memory.
"""


def recordable(module: nn.Module) -> bool:
    """Whether what ``module`` tells the GPU is the same for every bottom of a shape."""
    if isinstance(module, BatchNorm) and module.use_global_stats is False:
        return False  # it counts every batch
    if module._forward_hooks:
        return False
    kind = type(module)
    package, _, home = kind.__module__.rpartition(".")
    return kind in _RECORDABLE or (package == f"{LAYERS}.forks" and (home, kind.__name__) in _RECORDABLE_OF_FORKS)


def cuda_graph(
    run: Callable[[], dict[int, Tensor]], device: torch.device
) -> tuple[dict[int, Tensor], Callable[[], None]]:
    """See :data:`Recorder`."""
    tunes = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                made = run()
    finally:
        torch.backends.cudnn.benchmark = tunes

    def play() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return made, play


@dataclass
class _Take:
    """Steps as they were recorded.

    Attributes:
        inputs, made: the memory in which the recording finds what it reads, and leaves what it makes, by value.
        play: computes the one from the other.
    """

    inputs: Mapping[int, Tensor]
    made: Mapping[int, Tensor]
    play: Callable[[], None]

    def fits(self, values: list[Tensor | None]) -> bool:
        """Whether ``values`` are such as it was recorded with: how many boxes there are may change."""
        given = ((values[v], x) for v, x in self.inputs.items())
        return all(g is not None and g.shape == x.shape and g.dtype == x.dtype for g, x in given)

    def run(self, values: list[Tensor | None]) -> None:
        for value, own in self.inputs.items():
            given = values[value]
            if given is not None and given is not own:
                own.copy_(given)
        self.play()
        for value, top in self.made.items():
            values[value] = top


@dataclass(frozen=True)
class _Piece:
    """Steps that follow each other, all to be recorded or none."""

    program: Program
    recorded: bool

    @property
    def reads(self) -> list[int]:
        """The values that it needs."""
        made = {v for step in self.program.steps for v in step.tops}
        return sorted({v for step in self.program.steps for v in step.bottoms} - made)

    def __str__(self) -> str:
        return f"{self.program.steps[0].module} to {self.program.steps[-1].module}"


class Recordings:
    """What was recorded of a net, by shapes of its inputs. Copies and pickles of it begin anew.

    Attributes:
        refused: steps that could not be recorded, and why; they run as ever.
    """

    def __init__(self, record: Recorder = cuda_graph) -> None:
        self._record = record
        self._program: Program | None = None
        self._pieces: list[_Piece] = []
        self._takes: OrderedDict[object, dict[int, _Take | None]] = OrderedDict()
        self._lock = threading.Lock()
        self._ended: torch.cuda.Event | None = None
        self.refused: list[str] = []

    def __reduce__(self) -> tuple[object, ...]:
        return Recordings, (self._record,)

    @property
    def there(self) -> list[str]:
        """The steps that are recorded for some shapes, as the first and the last of each recording."""
        found = {i for takes in self._takes.values() for i, take in takes.items() if take is not None}
        return [str(self._pieces[i]) for i in sorted(found)]

    def execute(
        self, program: Program, modules: nn.Module, values: list[Tensor | None], device: torch.device
    ) -> list[Tensor | None]:
        """As :meth:`caffe_compat.network.program.Program.execute`, for the outputs alone, without gradients.

        Raises:
            LayerError: a module fails.
        """
        given = [values[v] for v in program.inputs]
        key = (tuple(None if x is None else (x.shape, x.dtype) for x in given), precision_settings())
        # The memory is one for all who call.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            self._wait(device)
            if program is not self._program:
                self._takes.clear()
                self._program, self._pieces = program, _pieces(program, modules)
            takes = self._takes.setdefault(key, {})
            self._takes.move_to_end(key)
            while len(self._takes) > _KEPT:
                self._takes.popitem(last=False)
            for i, piece in enumerate(self._pieces):
                if piece.recorded and i not in takes:
                    takes[i] = self._taken(piece, modules, values, device)
                take = takes.get(i)
                if take is not None and take.fits(values):
                    take.run(values)
                else:
                    piece.program.execute(modules, values, keep=False)
            for value, source in program.aliases.items():
                values[value] = values[source]
            lent = {
                x.untyped_storage().data_ptr()
                for take in takes.values()
                if take is not None
                for x in (*take.inputs.values(), *take.made.values())
            }
            found: list[Tensor | None] = [None] * len(values)
            for value in (*program.inputs, *program.outputs):
                found[value] = _own(values[value], lent)
            self._end(device)
        return found

    def _taken(
        self, piece: _Piece, modules: nn.Module, values: list[Tensor | None], device: torch.device
    ) -> _Take | None:
        """A recording of ``piece``, or None if there can be none."""
        earlier = {
            id(x) for takes in self._takes.values() for take in takes.values() if take for x in take.made.values()
        }
        inputs = {}
        for value in piece.reads:
            x = values[value]
            assert x is not None, f"{piece} reads what is not there"
            inputs[value] = x if id(x) in earlier else x.clone()

        def run() -> dict[int, Tensor]:
            own: list[Tensor | None] = [None] * len(values)
            for value, given in inputs.items():
                own[value] = given
            own = piece.program.execute(modules, own, keep=False)
            return {v: x for v in piece.program.keeps if (x := own[v]) is not None}

        try:
            made, play = self._record(run, device)
        except (CaffeCompatError, RuntimeError) as error:  # what is wrong with the run itself comes again without this
            self.refused.append(f"{piece} cannot be recorded: {first_line(error)}")
            return None
        return _Take(inputs, made, play)

    def _wait(self, device: torch.device) -> None:
        """Let the GPU begin when the last run has ended, whichever stream that was on."""
        if self._ended is not None:
            torch.cuda.current_stream(device).wait_event(self._ended)

    def _end(self, device: torch.device) -> None:
        if device.type == "cuda":
            self._ended = self._ended or torch.cuda.Event()
            self._ended.record(torch.cuda.current_stream(device))


def _own(x: Tensor | None, lent: set[int]) -> Tensor | None:
    """``x`` in the order of its axes, in memory that no recording writes to."""
    if x is not None and x.untyped_storage().data_ptr() in lent:
        return x.clone(memory_format=torch.contiguous_format)
    return None if x is None else x.contiguous()


def _pieces(program: Program, modules: nn.Module) -> list[_Piece]:
    """The steps of ``program`` in pieces as large as they can be: a step runs as soon as all that it reads is there."""
    left, there = list(program.steps), set(program.inputs)
    taken: list[tuple[bool, list[Step]]] = []
    recorded = True
    while left:
        ready, rest = [], []
        for step in left:
            if recordable(modules.get_submodule(step.module)) == recorded and there.issuperset(step.bottoms):
                ready.append(step)
                there.update(step.tops)
            else:
                rest.append(step)
        if ready:
            taken.append((recorded, ready))
        left, recorded = rest, not recorded
    needed = {program.aliases.get(v, v) for v in program.outputs}
    pieces = []
    for recorded, steps in reversed(taken):
        made = {v for step in steps for v in step.tops}
        own = Program.of(program.graph, program.shapes, steps, outputs=(), keeps=sorted(needed & made))
        pieces.append(_Piece(own, recorded and len(steps) >= _LEAST_STEPS))
        needed = (needed - made) | {v for step in steps for v in step.bottoms}
    pieces.reverse()
    return pieces
