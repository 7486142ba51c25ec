"""Nets made of some layers of a net, with the same tensors; and a net in two: its convolutions, and the rest.

The convolutions look at single frames, so they need not see the windows that the recurrent layers see and may take as
many frames at once as memory and caches like. Their results are the same to the last bit, unless a window has one frame
alone, for which torch chooses another algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from caffe_compat import CaffeNet
from caffe_compat.network.graph import Node
from caffe_compat.network.registry import Shape

__all__ = ["Halves", "input_shapes", "layers_for"]

# At TEST, layers that give every frame of a batch what they would give it alone. So do fully connected ones, but torch
# rounds their sums by the size of the batch.
_PER_FRAME = ("Convolution", "Dropout", "LRN", "PReLU", "Pooling", "ReLU")

# Bytes that the largest blob of frames taken at once may have: what stays in a CPU's cache, what a GPU is busy with.
_BUDGET = {"cpu": 1 << 23, "cuda": 1 << 30}
# Frames that are taken at once whatever they need: the original's batch.
_LEAST = 5


def layers_for(net: CaffeNet, blobs: Sequence[str]) -> list[Node]:
    """The layers that ``blobs`` depend on: without losses and what writes files."""
    piece = net.program.part(blobs)
    chosen = {step.module for step in piece.steps}
    chosen |= {node.module_name for node in net.graph.sources if not set(piece.inputs).isdisjoint(node.tops)}
    return [node for node in net.graph.nodes if node.module_name in chosen]


def input_shapes(net: CaffeNet, nodes: Sequence[Node]) -> dict[str, Shape]:
    """The inputs of ``net`` that some of its layers begin with."""
    inputs = set(net.graph.inputs)
    return {net.graph.blobs[top]: net.shapes[top] for node in nodes for top in node.tops if top in inputs}


class Halves:
    """``nodes`` of ``net`` in two: the layers from its images on that look at single frames, and the rest.

    Args:
        images: the input with the frames.
        wanted: blobs that the rest has to compute; if one comes earlier, everything is the rest.
        optimized: whether the convolutions run in their inference form.
    """

    def __init__(
        self, net: CaffeNet, nodes: Sequence[Node], images: str, wanted: Sequence[str], *, optimized: bool = False
    ) -> None:
        first, cut = _per_frame(net, nodes, images)
        names = [net.graph.blobs[v] for v in cut]
        last = {name: value for value, name in enumerate(net.graph.blobs)} | dict.fromkeys(net.input_names, -1)
        made = {top for node in first for top in node.tops}
        # Blobs go by name from one to the other, so a name has to mean the value that is cut at, and no other one.
        if any(last[name] != v for name, v in zip(names, cut, strict=True)) or any(last[b] in made for b in wanted):
            first, cut, names = [], [], []
        self._images = images
        trunk = net.part(names, [images]).eval() if first else None
        self.trunk = trunk.optimize() if trunk is not None and optimized else trunk
        others = [name for name in net.program.part(wanted).input_names if name != images]
        self.rest = net.part(wanted, [*names, *others] if first else None).eval()
        largest = max((math.prod(net.shapes[top][1:]) for node in first for top in node.tops), default=1)
        self._bytes = largest * net.device_and_dtype()[1].itemsize
        self._device = net.device_and_dtype()[0].type

    def frames_at_once(self, window: int) -> int:
        """How many frames to give to :meth:`per_frame`: whole windows, one at least."""
        return window if self.trunk is None else max(1, self._most() // window) * window

    def per_frame(self, images: Any) -> dict[str, Any]:
        """What the rest needs of frames (n, 3, height, width)."""
        if self.trunk is None:
            return {self._images: images}
        # A window may be longer than what memory likes. Parts of equal size, so that none is a frame alone.
        parts = math.ceil(len(images) / max(_LEAST, self._most()))
        ends = [len(images) * k // parts for k in range(parts + 1)]
        blobs = [self.trunk.run({self._images: images[start:end]}) for start, end in pairwise(ends)]
        return {name: torch.cat([part[name] for part in blobs]) for name in self.trunk.output_names}

    def memory(self) -> dict[str, Tensor]:
        """The recurrent state, by name: a copy."""
        kept = self.rest.state_dict().keys()
        return {name: value.detach().clone() for name, value in self.rest.named_buffers() if name not in kept}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from the state that :meth:`memory` gave."""
        device = self.rest.device_and_dtype()[0]
        for name, value in memory.items():
            layer, _, buffer = name.rpartition(".")
            setattr(self.rest.get_submodule(layer), buffer, value.to(device, copy=True))

    def _most(self) -> int:
        """Frames whose largest blob keeps within the budget."""
        return _BUDGET.get(self._device, _BUDGET["cpu"]) // self._bytes


def _per_frame(net: CaffeNet, nodes: Sequence[Node], images: str) -> tuple[list[Node], list[int]]:
    """The layers that look at single frames, and those of their values that others need."""
    seen = {v for v in net.graph.inputs if net.graph.blobs[v] == images}
    first = []
    for node in nodes:
        batched = node.type != "Convolution" or node.message.convolution_param.axis > 0
        if node.type in _PER_FRAME and batched and seen.issuperset(node.bottoms):
            first.append(node)
            seen.update(node.tops)
    made = {top for node in first for top in node.tops}
    others = {v for node in nodes if node not in first for v in node.bottoms}
    if others & (seen - made):
        return [], []  # the images themselves are needed later on
    return first, sorted(made & others)
