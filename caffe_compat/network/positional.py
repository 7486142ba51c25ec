"""A net as a module with positional inputs and a tuple of outputs, which is what torch's own tools take."""

from __future__ import annotations

from torch import Tensor, nn

from .pickling import PicklableNet
from .program import Program, present
from .signatures import with_named_inputs

__all__ = ["PositionalNet"]


class PositionalNet(PicklableNet):
    """What :meth:`.running.ProgramNet.as_module` makes: the modules of a net that some of its blobs need.

    Attributes:
        program: what is run.
    """

    program: Program

    def __init__(self, modules: nn.Module, program: Program) -> None:
        super().__init__()
        self.program = program
        for step in program.steps:
            self.add_module(step.module, modules.get_submodule(step.module))
        self.training = modules.training

    @with_named_inputs
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in their order.

        Args:
            inputs: a tensor for each input, in their order.

        Raises:
            UsageError, LayerError: as :meth:`.running.ProgramNet.forward`.
        """
        values = self.program.execute(self, self.program.place(inputs, {}), keep=False)
        return tuple(present(values[v]) for v in self.program.outputs)

    def extra_repr(self) -> str:
        return f"{', '.join(self.program.input_names)} -> {', '.join(self.program.output_names)}"
