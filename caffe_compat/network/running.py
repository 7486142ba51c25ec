"""A module that runs a program: what every net can do, whether it was built from a definition or made faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..access import FileAccess
from ..errors import UsageError, first_line
from ..schema.messages import NetParameter
from .graph import Graph
from .pickling import PicklableNet
from .positional import PositionalNet
from .program import Program
from .randomness import Randomness
from .registry import Layer, Shape
from .signatures import with_named_inputs

__all__ = ["ProgramNet"]


class ProgramNet(PicklableNet):
    """One child module for each step of :attr:`program`.

    Attributes:
        program: what is run.
        warnings: what Caffe lets pass and a user should see.
        notes: what was done on the way (data layers that became inputs), and which layer types were never compared with
            Caffe.
        randomness: what random draws of the layers depend on. files: what they may read and write.
    """

    program: Program
    warnings: list[str]
    notes: list[str]
    randomness: Randomness
    files: FileAccess

    if TYPE_CHECKING:
        # net.conv1.weight: what a child has depends on its layer, while torch promises a tensor or a module.
        def __getattr__(self, name: str) -> Any: ...

    @property
    def graph(self) -> Graph:
        """The layers of this phase, wired."""
        return self.program.graph

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of every value of the graph."""
        return self.program.shapes

    @property
    def message(self) -> NetParameter:
        """The definition (a ``NetParameter``), of all phases."""
        return self.graph.message

    @property
    def dialect(self) -> str:
        """Name of the schema that the definition is bound to."""
        return self.graph.dialect

    # Running

    @with_named_inputs
    def forward(self, *positional: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The output blobs by name.

        Args:
            positional: tensors for the inputs in the order of :attr:`input_names`.
            inputs: tensors by blob name. Both are on the net's device. Inputs that no layer reads may be left out.

        Raises:
            UsageError: inputs that there are not, that are missing, or with another number of axes than the net was
                built for. LayerError: a layer that fails, by name.
        """
        values = self._execute(self.program.place(positional, inputs), keep=False)
        return self.program.result(values, self.program.wanted(None))

    def run(
        self, inputs: Mapping[str, Any] | None = None, blobs: Literal["all"] | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Run once without gradients and return blobs by name, in execution order.

        Args:
            inputs: a numpy array or tensor per input blob; converted to the net's device and precision.
            blobs: ``"all"``, names, or None for the outputs. A blob that later layers overwrite in place shows its last
                value, as in Caffe.

        Raises:
            UsageError: inputs or blobs that the net does not have. LayerError: a layer that fails, by name.
        """
        wanted = self.program.wanted(blobs)
        device, dtype = self.device_and_dtype()
        given = {name: _as_input(name, x, device, dtype) for name, x in (inputs or {}).items()}
        with torch.no_grad():
            values = self._execute(self.program.place((), given), keep=blobs is not None)
        named = blobs is not None and blobs != "all"
        return self.program.result(values, wanted, complete=named)

    def values(self, inputs: Mapping[str, Tensor], *, keep: bool = True) -> list[Tensor | None]:
        """Every value of the graph, in order, with gradients where asked for. For training and for checks.

        Without ``keep`` a value that no later layer reads is let go, except for outputs and losses: memory that
        gradients do not need can then be used again while it is warm.
        """
        return self._execute(self.program.place((), inputs), keep=keep)

    def _execute(self, values: list[Tensor | None], *, keep: bool) -> list[Tensor | None]:
        """:meth:`.program.Program.execute`. Override where steps are run in another way."""
        return self.program.execute(self, values, keep=keep)

    def as_module(self, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> PositionalNet:
        """A module with positional inputs and a tuple of outputs, as exporters, tracers, compilers and DDP take it.

        It has the very modules of this net, under the same names, as far as the outputs need them: what trains one
        trains the other, recurrent state is one, and so are the keys of their state dicts.

        >>> import caffe_compat
        >>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
        >>> module = net.as_module(outputs=["prob", "pool1"])
        >>> x = torch.ones(net.input_shapes["data"])
        >>> [tuple(y.shape) for y in module(x)]
        [(2, 10), (2, 6, 4, 4)]
        >>> batch = torch.export.Dim("batch", max=4096)
        >>> program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},), strict=False)
        >>> [tuple(y.shape) for y in program.module()(torch.ones(5, *x.shape[1:]))]
        [(5, 10), (5, 6, 4, 4)]

        Args:
            inputs: names of the blobs that are given, in their order: inputs of the net, or blobs of its midst, where
                the module then begins. By default those inputs of the net that are needed, in its order.
            outputs: names of the blobs that are returned; by default the outputs of the net.

        Raises:
            UsageError: blobs that there are not, or outputs that cannot be had from ``inputs``.
        """
        return PositionalNet(self, self.program.part(self.output_names if outputs is None else outputs, inputs))

    def reset_state(self) -> None:
        """Forget what earlier runs left behind: recurrent state, running counts."""
        for module in self.modules():
            if isinstance(module, Layer):
                module.reset_state()

    # What it takes and gives

    @property
    def input_names(self) -> tuple[str, ...]:
        """Blob names of the inputs."""
        return self.program.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """Blob names of the outputs."""
        return self.program.output_names

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """The shapes the net was built for. Other batch sizes, and image sizes where the layers allow, work too."""
        return {self.graph.blobs[v]: self.shapes[v] for v in self.program.inputs}

    def device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the weights are and their precision; (cpu, float32) for a net without any."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
        return torch.device("cpu"), torch.float32

    def extra_repr(self) -> str:
        return f"{self.message.name!r}, phase={self.graph.state.phase}, dialect={self.dialect}"


def _as_input(name: str, x: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An array or tensor as the net takes it. Raises UsageError, also for a tensor without values (of ``meta``)."""
    try:
        # Torch takes no array that must not be written to, such as a mapped file.
        whole = np.require(x, None, ("C", "W")) if isinstance(x, np.ndarray) else x
        return torch.as_tensor(whole).to(device, dtype)
    except (RuntimeError, TypeError, ValueError) as error:  # of which NotImplementedError is the first
        raise UsageError(f"input {name!r} cannot be taken to {device} as {dtype}: {first_line(error)}") from error
