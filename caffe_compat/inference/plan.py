"""What passes rewrite: the layers of a net in groups, each of which will run as one module.

A plan begins with a group for every layer. It changes no module; modules are made of it when all passes are through
(:mod:`caffe_compat.inference.modules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..network.graph import Node
from ..network.program import Program, Step
from ..network.running import ProgramNet
from .affine import AffineMap

__all__ = ["Group", "Plan"]


@dataclass(eq=False)
class Group:
    """A layer and those that it takes along.

    Attributes:
        nodes: of which each but the first reads the top of the one before it.
        place: where the last of them stands among the layers; all that the group reads has been made there.
        bottoms, tops: value ids.
        affine: what is folded into a kernel, or all that is computed if the group begins with a layer that scales.
        other: the value that is added then. slope: of the ReLU behind that. None if there is none.
        packed: whether the weight is kept in the order that the processor's kernels like best.
        winograd: whether the convolution may be computed as :mod:`caffe_compat.inference.winograd` says.
        reduced: whether it computes in bfloat16. recorded: whether it may be part of a CUDA graph.
    """

    nodes: list[Node]
    place: int
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    affine: AffineMap | None = None
    other: int | None = None
    slope: float | None = None
    packed: bool = False
    winograd: bool = False
    reduced: bool = False
    recorded: bool = False

    @property
    def reads(self) -> tuple[int, ...]:
        """The values that it needs."""
        return self.bottoms if self.other is None else (*self.bottoms, self.other)

    @property
    def folds(self) -> bool:
        """Whether a scaling behind it could still be part of it."""
        return self.other is None and self.slope is None


class Plan:
    """The groups of ``net``.

    Attributes:
        aliases: values that nobody makes any more because they are another value, and that value.
        in_place: whether a module may write into memory that another module of the form made.
        channels_last: whether tops may lie in memory with the channels of an image last.
        reduced: whether tops may be of bfloat16.
    """

    def __init__(self, net: ProgramNet) -> None:
        self.net = net
        self.aliases: dict[int, int] = {}
        self.in_place = False
        self.channels_last = False
        self.reduced = False
        nodes = enumerate(net.graph.computed)
        self._groups = {place: Group([node], place, node.bottoms, node.tops) for place, node in nodes}
        self._readers: dict[int, list[Group]] = {}
        for group in self._groups.values():
            for value in group.bottoms:
                self._readers.setdefault(value, []).append(group)

    @property
    def groups(self) -> list[Group]:
        """In execution order."""
        return [self._groups[place] for place in sorted(self._groups)]

    def walk(self) -> Iterator[Group]:
        """The groups in execution order, while they take others along: one that was taken is passed over."""
        for place in sorted(self._groups):
            # One that has moved to a later place comes again there.
            if place in self._groups:
                yield self._groups[place]

    @property
    def outputs(self) -> set[int]:
        """The values that the net gives, which have to be there in the end."""
        return {self.resolved(value) for value in self.net.program.outputs}

    def module(self, group: Group) -> nn.Module:
        """The module, in the net, of the first layer of ``group``."""
        return self.net.get_submodule(group.nodes[0].module_name)

    def rank(self, value: int) -> int:
        """How many axes a value has."""
        return len(self.net.shapes[value])

    def resolved(self, value: int) -> int:
        """The value that ``value`` is."""
        return self.aliases.get(value, value)

    def follower(self, group: Group) -> Group | None:
        """The layer that alone reads the only top of ``group``, which nobody else sees, and that has taken none along.

        None if there is no such.
        """
        if len(group.tops) != 1 or group.tops[0] in self.outputs:
            return None
        readers = self._readers.get(group.tops[0], [])
        return readers[0] if len(readers) == 1 and len(readers[0].nodes) == 1 else None

    def drop(self, group: Group) -> None:
        """Leave ``group`` out, whose tops are its only bottom."""
        (bottom,) = group.bottoms
        del self._groups[group.place]
        self.aliases.update(dict.fromkeys(group.tops, bottom))
        # What was another name of such a top is another name of its bottom.
        self.aliases.update({value: self.resolved(source) for value, source in self.aliases.items()})
        readers = self._readers[bottom]
        readers.remove(group)
        for value in group.tops:
            for reader in self._readers.pop(value, []):
                reader.bottoms = tuple(map(self.resolved, reader.bottoms))
                reader.other = None if reader.other is None else self.resolved(reader.other)
                readers.append(reader)

    def take(self, group: Group, follower: Group) -> None:
        """Make ``follower``, which reads the top of ``group``, part of it."""
        del self._groups[group.place]
        self._groups[follower.place] = group
        for value in follower.bottoms:
            self._readers[value] = [group if reader is follower else reader for reader in self._readers[value]]
        group.nodes += follower.nodes
        group.place, group.tops = follower.place, follower.tops

    def program(self) -> Program:
        """The groups as steps to run."""
        return Program.of(
            self.net.graph,
            self.net.shapes,
            [Step(group.nodes[0].module_name, group.reads, group.tops) for group in self.groups],
            outputs=self.net.program.outputs,
            aliases=self.aliases,
            detached=self.in_place or self.channels_last or self.reduced,
            absence="is folded away; ask the net that optimize() was called on for it",
        )

    def check(self) -> None:
        """What holds of every plan, before and after each pass.

        Raises:
            AssertionError: it does not hold, so a pass is wrong.
        """
        there = set(self.net.graph.inputs)
        for group in self.groups:
            where = f"the group of layer {group.nodes[0].name!r}"
            assert there.issuperset(group.reads), f"{where} reads what nobody above it makes"
            assert there.isdisjoint(group.tops), f"{where} makes what was there"
            assert group.tops == group.nodes[-1].tops, f"{where} makes something else than its last layer"
            for before, node in zip(group.nodes, group.nodes[1:], strict=False):
                reads = set(map(self.resolved, node.bottoms))
                assert reads.intersection(before.tops), f"{where} has two layers of which none reads the other"
                assert reads.issubset({*before.tops, group.other}), f"layer {node.name!r} lacks what it reads"
            there.update(group.tops)
        assert there.issuperset(self.outputs), "an output is missing"
        inside = {value for group in self.groups for node in group.nodes for value in node.tops}
        assert inside.issuperset(set(self.aliases.values()) - there), "a value is another one that nobody makes"
        assert there.isdisjoint(self.aliases), "a value is another one, and there as well"
        ran = [node.index for group in self.groups for node in group.nodes]
        left_out = [node.index for node in self.net.graph.computed if self.aliases.keys() & set(node.tops)]
        assert sorted(ran + left_out) == [node.index for node in self.net.graph.computed], "a layer is lost, or twice"
