"""What is run: steps over the values of a graph, and what of it somebody wants to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import CaffeCompatError, LayerError, UsageError, first_line
from .graph import Graph, Node
from .names import layer_name
from .registry import Shape
from .tracing import Watch

__all__ = ["Program", "Step", "present"]


@dataclass(frozen=True)
class Step:
    """One module to run: its name, the values it reads and makes, and those nobody needs afterwards.

    Attributes:
        stops_gradient: which bottoms get no gradient; empty where none is computed at all.
    """

    module: str
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    stops_gradient: tuple[bool, ...] = ()
    frees: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """Steps in execution order, over the values of ``graph``.

    A list of values, one for each of the graph, holds what was computed so far; a value that nobody made is None.

    Attributes:
        shapes: of every value, as the net was built.
        inputs: the values that are given, in the order in which positional arguments stand for them.
        outputs: the values that are the result. keeps: others that are needed when all is done.
        aliases: values that no step makes because they are another value.
        detached: whether no gradient passes, and values are in the order of their axes in memory.
        absence: why a blob that the graph has may not be there, for messages.
    """

    graph: Graph
    shapes: tuple[Shape, ...]
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    keeps: tuple[int, ...] = ()
    aliases: Mapping[int, int] = field(default_factory=dict)
    detached: bool = False
    absence: str = ""

    @classmethod
    def of(
        cls,
        graph: Graph,
        shapes: tuple[Shape, ...],
        steps: Sequence[Step],
        *,
        outputs: tuple[int, ...] | None = None,
        keeps: Iterable[int] = (),
        aliases: Mapping[int, int] | None = None,
        detached: bool = False,
        absence: str = "",
    ) -> Program:
        """The program of a whole graph; without ``outputs`` it gives those of the graph, which nobody reads."""
        results = graph.outputs if outputs is None else outputs
        made = cls(graph, shapes, tuple(steps), graph.inputs, results, tuple(keeps), aliases or {}, detached, absence)
        return made._freeing()

    def _freeing(self) -> Program:
        """With steps each of which frees what it is the last to read or make, except for what is needed later."""
        last = {value: i for i, step in enumerate(self.steps) for value in (*step.bottoms, *step.tops)}
        kept = {self.aliases.get(v, v) for v in (*self.outputs, *self.keeps)}
        frees: list[list[int]] = [[] for _ in self.steps]
        for value, i in last.items():
            if value not in kept:
                frees[i].append(value)
        steps = tuple(
            Step(step.module, step.bottoms, step.tops, step.stops_gradient, tuple(done))
            for step, done in zip(self.steps, frees, strict=True)
        )
        return replace(self, steps=steps)

    def returning(self, outputs: Sequence[str]) -> Program:
        """The same steps, with other blobs as the result, each of which means its last value.

        Raises:
            UsageError: a blob that there is not.
        """
        return replace(self, outputs=tuple(self.wanted(_once(outputs)).values()))._freeing()

    def check(self) -> None:
        """What holds of every program. Nothing that a user does breaks it; the tests run it on many networks.

        Raises:
            AssertionError: it does not hold, so whoever made the program is wrong.
        """
        there, made = set(self.inputs), set(self.inputs)
        for step in self.steps:
            assert there.issuperset(step.bottoms), f"{step.module} reads what was not made, or is gone"
            assert made.isdisjoint(step.tops), f"{step.module} makes what was there"
            there.update(step.tops)
            made.update(step.tops)
            assert there.issuperset(step.frees), f"{step.module} frees what is not there"
            there.difference_update(step.frees)
        kept = {self.aliases.get(v, v) for v in (*self.outputs, *self.keeps)}
        assert there.issuperset(kept), "what is wanted in the end is not there"
        assert there <= kept.union(self.inputs), "what nobody needs is kept"
        assert made.isdisjoint(self.aliases), "a value is another one, and made as well"
        names = [step.module for step in self.steps]
        assert len(set(names)) == len(names), "two steps run one module"
        assert len(self.shapes) == len(self.graph.blobs), "a value has no shape"

    # Inputs

    def place(self, positional: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor | None]:
        """The list of values with nothing but the inputs.

        Args:
            positional: in the order of :attr:`inputs`. named: by blob name.

        Raises:
            UsageError: inputs that there are not, that are given twice, or that are missing although a step reads them;
                or another number of axes than the net was built for.
        """
        left = self._with_names(positional, named)
        values: list[Tensor | None] = [None] * len(self.shapes)
        missing = []
        for value in self.inputs:
            name = self.graph.blobs[value]
            if name not in left:
                missing.append(name)
                continue
            x = left.pop(name)
            if not isinstance(x, Tensor):
                raise UsageError(f"input {name!r} is a {type(x).__name__}, not a tensor; net.run() takes arrays too")
            if x.dim() != len(self.shapes[value]):
                raise UsageError(
                    f"input {name!r} has shape {list(x.shape)}, the net was built for {list(self.shapes[value])}"
                )
            values[value] = x
        if missing or left:
            needed = [name for name in self.needed_inputs if name in missing]
            if needed or left:
                found = f"missing {', '.join(needed)}" if needed else f"no input {', '.join(left)}"
                raise UsageError(f"{found}; the net's inputs are {', '.join(self.input_names) or 'none'}")
        return values

    def _with_names(self, positional: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = self.input_names
        if len(positional) > len(names):
            raise UsageError(f"{len(positional)} inputs were given; the net's inputs are {', '.join(names) or 'none'}")
        left = dict(zip(names[: len(positional)], positional, strict=True))
        if twice := [name for name in named if name in left]:
            raise UsageError(f"input {', '.join(map(repr, twice))} is given twice, by its place and by its name")
        left.update(named)
        return left

    @property
    def input_names(self) -> tuple[str, ...]:
        """Blob names of the inputs."""
        return tuple(self.graph.blobs[v] for v in self.inputs)

    @property
    def needed_inputs(self) -> tuple[str, ...]:
        """Blob names of the inputs that a step reads; labels that no layer of the phase reads may be left out."""
        read = {v for step in self.steps for v in step.bottoms}.union(self.aliases.values())
        return tuple(self.graph.blobs[v] for v in self.inputs if v in read)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Blob names of the outputs."""
        return tuple(self.graph.blobs[v] for v in self.outputs)

    # Running

    def execute(self, modules: nn.Module, values: list[Tensor | None], *, keep: bool) -> list[Tensor | None]:
        """Run the steps on ``values``, which :meth:`place` made; the same list with what they made.

        Args:
            modules: has a child for each step. keep: whether values that no later step needs are kept.

        Raises:
            LayerError: a module fails.
        """
        if not self.detached:
            return self._run(modules, values, keep)
        with torch.no_grad():
            values = self._run(modules, values, keep)
        return [None if x is None else x.contiguous() for x in values]

    def _run(self, modules: nn.Module, values: list[Tensor | None], keep: bool) -> list[Tensor | None]:
        compiling = torch.compiler.is_compiling()
        watch = self._watch(values) if compiling and not torch.compiler.is_dynamo_compiling() else None
        for step in self.steps:
            bottoms = [values[v] for v in step.bottoms]
            if any(step.stops_gradient):
                pairs = zip(bottoms, step.stops_gradient, strict=True)
                bottoms = [b.detach() if stop and b is not None else b for b, stop in pairs]
            module = getattr(modules, step.module)
            if compiling:
                result = module(*bottoms)
            else:
                try:
                    result = module(*bottoms)
                except CaffeCompatError:
                    raise
                except Exception as error:  # a user's own layer may raise anything
                    raise self._failure(step, bottoms, error) from error
            if isinstance(result, Tensor):
                if step.tops:
                    values[step.tops[0]] = result
            else:
                for value, top in zip(step.tops, result, strict=True):
                    values[value] = top
            if watch is not None:
                watch.check(layer_name(step.module), self._kind(step))
            if not keep:
                for value in step.frees:
                    values[value] = None
        for value, source in self.aliases.items():
            values[value] = values[source]
        return values

    def _failure(self, step: Step, bottoms: Sequence[Tensor | None], error: Exception) -> LayerError:
        given = list(zip(step.bottoms, bottoms, strict=True))
        shapes = ", ".join(f"{self.graph.blobs[v]} {list(b.shape) if b is not None else '(absent)'}" for v, b in given)
        others = [v for v, b in given if b is not None and tuple(b.shape) != tuple(self.shapes[v])]
        detail = f"failed on bottoms {shapes or '(none)'}: {first_line(error)}"
        if others:
            detail += "; built for " + ", ".join(f"{self.graph.blobs[v]} {list(self.shapes[v])}" for v in others)
        if isinstance(error, IndexError):  # some value names a place that there is not
            there = [(v, b) for v, b in given if b is not None and b.numel() and not b.is_meta]
            spans = [f"{self.graph.blobs[v]} from {float(b.min()):g} to {float(b.max()):g}" for v, b in there]
            detail += f"; values: {', '.join(spans) or '(none)'}"
        return LayerError(detail, layer=layer_name(step.module), type=self._kind(step))

    def _kind(self, step: Step) -> str:
        return next(node.type for node in self.graph.computed if node.module_name == step.module)

    def _watch(self, values: Sequence[Tensor | None]) -> Watch:
        given = {self.graph.blobs[v]: values[v] for v in self.inputs}
        return Watch({name: x for name, x in given.items() if x is not None})

    # Results

    def wanted(self, blobs: Literal["all"] | Sequence[str] | None) -> dict[str, int]:
        """The values to show, by blob name: the outputs, all, or those named.

        A blob that later layers overwrite in place means its last value, as in Caffe.

        Raises:
            UsageError: a blob that the graph does not have, or that is not computed here.
        """
        if blobs is None:
            return {self.graph.blobs[v]: v for v in self.outputs}
        last = {name: v for v, name in enumerate(self.graph.blobs)}
        there = self._values()
        if blobs == "all":
            return {name: last[name] for name in sorted(last, key=last.__getitem__) if last[name] in there}
        return {name: self._last(name, last, there) for name in blobs}

    def result(
        self, values: Sequence[Tensor | None], wanted: Mapping[str, int], *, complete: bool = False
    ) -> dict[str, Tensor]:
        """The tensors of ``wanted``. An input that no step reads, left out, is missing here too, unless ``complete``.

        Raises:
            UsageError: a value that was not computed.
        """
        return {
            name: present(values[v])
            for name, v in wanted.items()
            if complete or values[v] is not None or v not in self.inputs
        }

    def _values(self) -> set[int]:
        """The values that are given or made."""
        made = {*self.inputs, *(v for step in self.steps for v in step.tops)}
        return made | {v for v, source in self.aliases.items() if source in made}

    def _last(self, name: str, last: Mapping[str, int], there: set[int]) -> int:
        if name not in last:
            raise UsageError(f"no blob {name!r}; the net has {', '.join(last)}")
        if last[name] not in there:
            raise UsageError(f"blob {name!r} {self.absence}")
        return last[name]

    # Parts

    def part(self, outputs: Sequence[str], inputs: Sequence[str] | None = None) -> Program:
        """The steps that some blobs depend on, and no others.

        Args:
            outputs: blob names, each of which means its last value.
            inputs: blob names to begin at, in the order in which they are to be given: inputs of the net, or blobs that
                it makes, with their last values (blobs that are aliases of one value stand for each other). By default
                those inputs of the net that are needed, in its order.

        Raises:
            UsageError: a blob that there is not, or that is named twice; outputs that need an input of the net which
                ``inputs`` lacks.
        """
        last = {name: v for v, name in enumerate(self.graph.blobs)}
        there = self._values()
        results = tuple(self._last(name, last, there) for name in _once(outputs))
        if inputs is None:
            return self._part(results, None)
        last.update(zip(self.input_names, self.inputs, strict=True))
        return self._part(results, tuple(self._last(name, last, there) for name in _once(inputs)))

    def _part(self, outputs: tuple[int, ...], inputs: tuple[int, ...] | None) -> Program:
        begins = self.inputs if inputs is None else inputs
        # Where the part begins at a value that was another one, its readers, which know only that one, read it instead.
        instead = {self.aliases[v]: v for v in begins if v in self.aliases}
        aliases = {v: instead.get(source, source) for v, source in self.aliases.items() if v not in begins}
        needed = {aliases.get(v, v) for v in outputs}
        chosen: list[Step] = []
        for step in reversed(self.steps):
            if needed.isdisjoint(set(step.tops).difference(begins)):
                continue
            reads = tuple(instead.get(v, v) for v in step.bottoms)
            chosen.append(replace(step, bottoms=reads))
            needed.update(reads)
        chosen.reverse()
        made = {v for step in chosen for v in step.tops}
        if inputs is None:
            begins = tuple(v for v in self.inputs if v in needed)
        elif lacking := sorted(needed - made - set(begins)):
            names = ", ".join(repr(self.graph.blobs[v]) for v in lacking)
            wanted = ", ".join(self.graph.blobs[v] for v in outputs)
            raise UsageError(f"{wanted} cannot be had without the input {names}")
        aliases = {v: source for v, source in aliases.items() if source in made.union(begins)}
        absence = f"is not in this part of the net, which makes {', '.join(self.graph.blobs[v] for v in outputs)}"
        steps = tuple(chosen)
        part = replace(self, steps=steps, inputs=begins, outputs=outputs, keeps=(), aliases=aliases, absence=absence)
        return part._freeing()

    def nodes(self) -> list[Node]:
        """The layers of the graph whose modules are run."""
        modules = {step.module for step in self.steps}
        return [node for node in self.graph.computed if node.module_name in modules]


def _once(names: Sequence[str]) -> Sequence[str]:
    """``names``. Raises UsageError if there is one twice."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"blob {twice[0]!r} is named twice")
    return names


def present(value: Tensor | None) -> Tensor:
    """A value that has to be there. Raises UsageError."""
    if value is None:
        raise UsageError("a blob was asked for that this run did not compute: an input was left out")
    return value
