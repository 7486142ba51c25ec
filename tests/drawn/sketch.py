"""A network that is drawn layer by layer, together with what plain torch computes for it in double precision.

Nothing here asks this library what a layer means: the formulas are Caffe's, written again with torch's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tests.networks import input_layer, layer

__all__ = ["Sketch"]

# Beyond this, or with NaN, a layer is not taken: single precision would compare badly.
LARGEST = 1e3


@dataclass
class Sketch:
    """The layers so far, and the blobs as the last of them left them.

    Attributes:
        phase: of the net that is meant, TRAIN or TEST. seed: of inputs and weights.
        text: the definition. inputs, values: blob name -> what it is given, and what it holds at the end (float64).
        unread: blobs that no layer has read since they were written, inputs among them: the net's outputs.
        written: blobs that a layer wrote.
        weights: layer name -> its blobs as a caffemodel has them (float32).
        shared: name of a parameter -> the values of whoever has it.
    """

    phase: str
    seed: int
    text: str = 'name: "drawn"\n'
    inputs: dict[str, Tensor] = field(default_factory=dict, repr=False)
    values: dict[str, Tensor] = field(default_factory=dict, repr=False)
    unread: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    weights: dict[str, list[np.ndarray]] = field(default_factory=dict, repr=False)
    shared: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    layers: int = 0

    def __post_init__(self) -> None:
        self.chance = np.random.RandomState(self.seed)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """What the layers compute in the end: the outputs, but for inputs that nobody reads."""
        return {name: self.values[name] for name in self.unread & self.written}

    def input(self, *shape: int) -> None:
        """One more input, drawn from the standard normal distribution."""
        name = f"in{len(self.inputs)}"
        self.text += input_layer(name, *shape)
        self.inputs[name] = self.values[name] = torch.from_numpy(self.chance.standard_normal(shape)).float().double()
        self.unread.add(name)

    def weight(self, *shape: int, name: str = "", low: float | None = None) -> np.ndarray:
        """A blob of weights: normal, scaled so that sums keep their size; uniform from ``low`` if that is given.

        Those of one ``name`` and shape are the same values.
        """
        if name in self.shared:
            return self.shared[name]
        if low is None:
            found = self.chance.standard_normal(shape) / np.sqrt(math.prod(shape[1:]))
        else:
            found = self.chance.uniform(low, low + 1, shape)
        found = found.astype(np.float32)
        if name:
            self.shared[name] = found
        return found

    def add(
        self,
        type_: str,
        bottoms: Sequence[str],
        compute: Callable[..., Tensor | Sequence[Tensor]],
        more: str = "",
        *,
        rule: str = "",
        in_place: bool = False,
        tops: int = 1,
        weights: Sequence[np.ndarray] = (),
    ) -> None:
        """One more layer: ``compute`` takes the bottoms and then the weights, and gives the tops.

        A layer whose ``rule`` (``include { phase: TRAIN }``, say) leaves it out of the phase changes nothing. One whose
        tops are too large to compare is not taken.
        """
        name = f"layer{self.layers}"
        names = [bottoms[0]] if in_place else [f"{name}_{k}" for k in range(tops)]
        text = layer(name, type_, " ".join(bottoms), " ".join(names), f"{more} {rule}")
        present = not rule or ("include" in rule) == (self.phase in rule)
        if present:
            found = compute(*(self.values[b] for b in bottoms), *(torch.from_numpy(w).double() for w in weights))
            made = [found] if isinstance(found, Tensor) else list(found)
            if any(not bool((blob.abs() < LARGEST).all()) or not blob.numel() for blob in made):
                return
            self.unread -= set(bottoms)
            self.unread |= set(names)
            self.written |= set(names)
            self.values |= dict(zip(names, made, strict=True))
            if weights:
                self.weights[name] = list(weights)
        self.text += text
        self.layers += 1
