"""What the layers of a :class:`Net` do in its passes: each can run alone, forward and backward, as in Caffe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaffeCompatError, LayerError, first_line
from ..layers.bvlc.python_layer import Blob, PythonLayer
from ..layers.bvlc.source import DummyData
from ..network.building import build_layer
from ..network.net import CaffeNet
from ..network.registry import Shape
from ..network.sharing import blob_names, get_tensor
from ..network.surroundings import Surroundings
from .blob import BlobVec, NetBlob, flush_parameters, is_host
from .wiring import Wire

__all__ = ["DummyDataStep", "ModuleStep", "PythonStep", "SourceStep", "SplitStep", "Step"]

# Layers whose top is their bottom's very memory in Caffe, so that writing to one writes to both.
_SHARING = frozenset({"Flatten", "Reshape"})


class Step:
    """One layer of a net; ``net.layers`` has these.

    Attributes:
        name, type: as in the file. blobs: its parameters.
        bottoms, tops: its blobs in the net.
        runs_backward: whether a backward pass of the net touches it.
    """

    def __init__(
        self,
        w: Wire,
        bottoms: Sequence[NetBlob],
        tops: Sequence[NetBlob],
        runs_backward: bool = False,
        needs: Sequence[bool] = (),
    ) -> None:
        self.name, self.type, self.wire = w.name, w.type, w
        self.bottoms, self.tops = list(bottoms), list(tops)
        self.runs_backward, self.needs = runs_backward, tuple(needs)
        self.blobs = BlobVec()

    @property
    def public(self) -> Any:
        """What ``net.layers`` shows."""
        return self

    def forward(self) -> Sequence[Tensor | None]:
        """Fill the tops; the tensors, one for each."""
        raise NotImplementedError

    def backward(self) -> None:
        """Fill the bottoms' diffs from the tops', and add to those of the parameters."""

    def reshape(self) -> None:
        """Give the tops their shapes without computing them."""

    def forget(self) -> None:
        """Drop what the last forward pass left for the backward pass."""

    def __repr__(self) -> str:
        return f"<layer {self.name!r} ({self.type})>"


class SourceStep(Step):
    """An ``Input`` layer, whose blobs the script fills, or a data layer, whose next batch ``read`` gives."""

    def __init__(self, w: Wire, tops: Sequence[NetBlob], read: Callable[[], Mapping[str, Tensor]] | None) -> None:
        super().__init__(w, (), tops)
        self._read = read

    def forward(self) -> Sequence[Tensor | None]:
        if self._read is not None:
            batch = self._read()
            for top in self.tops:
                top.data_array.put(batch[top.name])
        return [top.data_array.tensor() for top in self.tops]


class SplitStep(Step):
    """Hands its bottom to several layers: the tops are its very memory, their gradients add up."""

    def __init__(
        self, w: Wire, bottom: NetBlob, tops: Sequence[NetBlob], runs_backward: bool, needs: Sequence[bool]
    ) -> None:
        super().__init__(w, [bottom], tops, runs_backward, needs)
        self.share()

    def share(self) -> None:
        """Let the tops be the bottom's memory."""
        for top in self.tops:
            top.data_array = self.bottoms[0].data_array

    def forward(self) -> Sequence[Tensor | None]:
        return [self.bottoms[0].data_array.tensor()] * len(self.tops)

    def backward(self) -> None:
        if self.runs_backward and self.needs[0]:
            total = sum(top.diff_array.tensor() for top in self.tops[1:]) + self.tops[0].diff_array.tensor()
            self.bottoms[0].diff_array.put(total, borrowed=len(self.tops) == 1)


@dataclass
class _Record:
    """A forward pass of one layer: what autograd needs to go back through this layer alone.

    Attributes:
        versions: of the parameters; an update in between makes the record useless.
    """

    leaves: list[Tensor]
    tops: list[Tensor]
    versions: list[int]


class ModuleStep(Step):
    """A layer that computes."""

    def __init__(
        self,
        w: Wire,
        core: CaffeNet,
        module: nn.Module,
        blobs: BlobVec,
        bottoms: Sequence[NetBlob],
        tops: Sequence[NetBlob],
        runs_backward: bool,
        needs: Sequence[bool],
    ) -> None:
        super().__init__(w, bottoms, tops, runs_backward, needs)
        self.core, self.module, self.blobs = core, module, blobs
        self._record: _Record | None = None
        # The shapes of bottoms that the layer was last seen to fit.
        self._checked: tuple[Shape, ...] | None = tuple(blob.shape for blob in bottoms)
        for blob in blobs:
            blob.when_reshaped = self._doubt

    def _doubt(self) -> None:
        self._checked = self._record = None

    def forward(self) -> Sequence[Tensor | None]:
        self._record = None
        if self._checked != tuple(blob.shape for blob in self.bottoms):
            self.reshape()
        replaced = [top for top in self.tops if top not in self.bottoms]
        for top in replaced:
            top.data_array.release()
        try:
            if self.runs_backward:
                self._record = self._run_recorded()
                tops = [top.detach() for top in self._record.tops]
            else:
                tops = self._run([blob.data_array.tensor() for blob in self.bottoms])
        except BaseException:
            for top in replaced:
                top.data_array.restore()
            raise
        self._put(tops)
        return tops

    def _put(self, tops: Sequence[Tensor]) -> None:
        lent = (
            set()
            if self.type in _SHARING
            else {b.data_array.tensor().untyped_storage().data_ptr() for b in self.bottoms}
        )
        for i, (blob, top) in enumerate(zip(self.tops, tops, strict=True)):
            in_place = i < len(self.bottoms) and self.bottoms[i] is blob
            blob.data_array.put(top, borrowed=not in_place and top.untyped_storage().data_ptr() in lent)

    def _run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """The layer's tops.

        Raises:
            LayerError: it failed; with the shapes of bottoms and parameters.
        """
        try:
            result = self.module(*bottoms)
        except CaffeCompatError:
            raise
        except Exception as error:
            raise self._failure("failed on", error) from error
        tops = [result] if isinstance(result, Tensor) else list(result)
        return tops[: len(self.tops)]  # a loss whose top has no name

    def _run_recorded(self) -> _Record:
        leaves = []
        for i, (blob, need) in enumerate(zip(self.bottoms, self.needs, strict=True)):
            tensor = blob.data_array.tensor()
            if i < len(self.tops) and self.tops[i] is blob and blob.data_array.is_held:
                tensor = tensor.clone()  # the result will be copied over what the backward pass needs
            leaves.append(tensor.detach().requires_grad_(need and tensor.is_floating_point()))
        with torch.enable_grad():
            tops = self._run(leaves)
        return _Record(leaves, tops, self._versions())

    def _versions(self) -> list[int]:
        return [parameter._version for parameter in self.module.parameters()]

    def forget(self) -> None:
        self._record = None

    def backward(self) -> None:
        if not self.runs_backward:
            return
        if self._record is None or self._record.versions != self._versions():
            self._record = self._run_recorded()  # nothing ran forward yet, or the weights were updated since
        record = self._record
        gradients = [top.diff_array.tensor() for top in self.tops]
        outputs = [(top, g.view(top.shape)) for top, g in zip(record.tops, gradients, strict=True) if top.requires_grad]
        learned = [p for p in self.module.parameters() if p.requires_grad]
        for parameter in self.blobs:
            parameter.gradient()  # they add up in the memory that was handed out
        inputs = [leaf for leaf in record.leaves if leaf.requires_grad] + learned
        if outputs and inputs:
            tensors, grads = zip(*outputs, strict=True)
            torch.autograd.backward(tensors, grads, inputs=inputs, retain_graph=True)
        for blob, leaf, need in zip(self.bottoms, record.leaves, self.needs, strict=True):
            if need:
                blob.diff_array.put(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
                leaf.grad = None

    def reshape(self) -> None:
        """Give the tops the shapes that follow from the bottoms', checking all that building the layer checks.

        Raises:
            LayerError: the layer cannot take these bottoms; with all shapes.
        """
        self._checked = tuple(blob.shape for blob in self.bottoms)
        try:
            tops = self._inferred([torch.empty(shape, device="meta") for shape in self._checked])
        except LayerError:
            self._checked = None
            raise
        for blob, top in zip(self.tops, tops, strict=False):
            blob.reshape(*top.shape)

    def _inferred(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the layer would make of bottoms without memory."""
        assert self.wire.node is not None
        graph = self.core.graph
        built = build_layer(
            self.wire.node, graph, bottoms, around=Surroundings(graph, dict(enumerate(self.core.shapes)))
        )
        needed = [tuple(get_tensor(built.module, name).shape) for name in blob_names(built.module)]
        found = [blob.shape for blob in self.blobs]
        if needed != found:
            raise self._failure(f"would need parameters of shapes {', '.join(map(str, map(list, needed)))} for")
        return built.tops

    def _failure(self, what: str, error: Exception | None = None) -> LayerError:
        bottoms = ", ".join(f"{blob.name} {list(blob.shape)}" for blob in self.bottoms)
        blobs = ", ".join(str(list(blob.shape)) for blob in self.blobs)
        reason = f": {first_line(error)}" if error else ""
        return LayerError(
            f"with parameters of shapes {blobs or '(none)'} {what} bottoms {bottoms or '(none)'}{reason}",
            layer=self.name,
            type=self.type,
        )


class PythonStep(Step):
    """A layer that a script wrote.

    It works on the blobs of the net themselves, as in Caffe: it may run in place, and write to its bottoms. What it
    raises comes through as it is.
    """

    def __init__(
        self,
        w: Wire,
        implementation: PythonLayer,
        blobs: BlobVec,
        bottoms: Sequence[NetBlob],
        tops: Sequence[NetBlob],
        runs_backward: bool,
        needs: Sequence[bool],
    ) -> None:
        super().__init__(w, bottoms, tops, runs_backward, needs)
        self.implementation, self.blobs = implementation, blobs
        self._bottom: list[Blob] = [*self.bottoms]
        self._top: list[Blob] = [*self.tops]
        self._made_in_setup: list[Blob] = [*implementation.blobs]
        implementation.blobs[:] = blobs

    @property
    def public(self) -> Any:
        """The script's own object."""
        return self.implementation

    def bind(self) -> None:
        """Let blobs that the layer may have kept since its setup lie over the parameters' memory too.

        Only on the CPU: elsewhere they stay what setup made of them.
        """
        for own, parameter in zip(self._made_in_setup, self.blobs, strict=True):
            if is_host(parameter.tensor()):
                own._data, own._diff = parameter.data.reshape(-1), parameter.diff.reshape(-1)

    def forward(self) -> Sequence[Tensor | None]:
        self.reshape()
        self.implementation.forward(self._bottom, self._top)
        flush_parameters()
        return [top.data_array.tensor() for top in self.tops]

    def backward(self) -> None:
        if not self.runs_backward:
            return
        for parameter in self.blobs:
            parameter.gradient()  # it counts even if the layer does not look at it
        self.implementation.backward(self._top, list(self.needs), self._bottom)
        flush_parameters()

    def reshape(self) -> None:
        """Run the layer's own ``reshape``."""
        self.implementation.reshape(self._bottom, self._top)


class DummyDataStep(ModuleStep):
    """DummyData: what a constant filler gives is given once, and a script may write over it. The rest is drawn anew,
    in the shape that the script gave the top, if it did.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._filled = False

    def forward(self) -> Sequence[Tensor | None]:
        assert isinstance(self.module, DummyData)
        filled = self.module.filled([blob.shape for blob in self.tops])
        for blob, top, filler in zip(self.tops, filled, self.module.tops_fillers, strict=True):
            if not self._filled or (filler is not None and filler.type != "constant"):
                blob.data_array.put(top)
        self._filled = True
        return [blob.data_array.tensor() for blob in self.tops]

    def backward(self) -> None:
        """Nothing lies below."""

    def reshape(self) -> None:
        """Its tops keep their shapes, as in Caffe."""
