"""``torch.export`` programs (``.pt2``): they run with torch alone, without this library."""

from __future__ import annotations

import io
import logging
import operator
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from caffe_compat.errors import LayerError, NetworkError, first_line
from caffe_compat.formats.arrays import read_npz
from caffe_compat.formats.files import atomic_write
from caffe_compat.formats.sink import Sink
from caffe_compat.layers.bvlc.python_layer import Python
from caffe_compat.network.graph import Node
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.program import Program
from caffe_compat.network.registry import Layer
from caffe_compat.network.signatures import identifiers, with_named_inputs

from .chance import draws
from .dynamic import Axes, dynamic_axes, other_shapes, rebuilt
from .precision import in_precision
from .registry import target
from .settled import check_settled
from .state import AFTER, check_state, state_note, states_of
from .unchecked import unchecked

__all__ = ["program_of", "run_alone", "write"]


# Torch 2.6 asks of a size without bounds that it is not the largest integer, which it then finds to be a condition.
_LARGEST = 2**31 - 1


class _Exported(nn.Module):
    """What is traced: the modules of a net under their names, inputs and outputs by blob name, and the state."""

    def __init__(self, net: CaffeNet, state: str) -> None:
        super().__init__()
        self.net_program: Program = net.program
        self.state = state
        self.named = _argument_names(net, state)
        self.program = SimpleNamespace(input_names=tuple(self.named))  # what torch.export is told of the arguments
        self.states = {name: net.get_buffer(name) for name in states_of(net)}
        for step in net.program.steps:
            self.add_module(step.module, net.get_submodule(step.module))
        self.train(net.training)

    @with_named_inputs
    def forward(self, **arguments: Tensor) -> dict[str, Tensor]:
        blobs = {self.named[name]: x for name, x in arguments.items()}
        for name, buffer in self.states.items():
            if self.state == "inputs":
                buffer.copy_(blobs[name])
            elif self.state == "reset":
                buffer.zero_()
        given = {name: x for name, x in blobs.items() if name not in self.states}
        program = self.net_program
        result = program.result(program.execute(self, program.place((), given), keep=False), program.wanted(None))
        if self.state == "inputs":
            result |= {name + AFTER: buffer.clone() for name, buffer in self.states.items()}
        return result


def _argument_names(net: CaffeNet, state: str) -> dict[str, str]:
    """What the inputs of a program are called, which has to be legal in Python -> the blob or the state that it is."""
    blobs = [*net.program.needed_inputs, *(states_of(net) if state == "inputs" else ())]
    return dict(zip(identifiers(blobs), blobs, strict=True))


def program_of(net: CaffeNet, axes: Axes | None = None, state: str = "carry") -> torch.export.ExportedProgram:
    """``net`` as a program for the shapes it was built for, but for its dynamic ``axes``.

    The program takes the inputs by blob name, with an underscore for what a name in Python cannot have, and returns the
    outputs by blob name, like the net. Recurrent state is part of the program and carries from call to call, unless
    ``state`` says otherwise (:mod:`.state`).

    Raises:
        NetworkError: a layer does something that torch.export cannot follow (code of a user, files, values
            that decide what it does), gives something else in every pass, learns by itself, or is bound to the size
            that the net was built for.
    """
    check_settled(net)
    device, dtype = net.device_and_dtype()
    shapes = dict(net.input_shapes)
    dynamic = None
    if axes:
        # Loops are compiled on the way. A loop that torch has kept from an earlier export would be asked whether it
        # fits, and the answer ties down a size that varies.
        torch._dynamo.reset()
        rebuilt(net, other_shapes(net, axes))
        shapes = other_shapes(net, axes, 2)  # torch takes a size of 1 for a number, whatever it is told
        sizes = {name: torch.export.Dim(name, max=_LARGEST) for asked in axes.values() for name in asked.values()}
        dynamic = {
            argument: {axis: sizes[size] for axis, size in axes.get(name, {}).items()} or None
            for argument, name in _argument_names(net, state).items()
        }
    states = states_of(net)
    inputs = {
        argument: torch.zeros_like(states[name]) if name in states else torch.zeros(shapes[name]).to(device, dtype)
        for argument, name in _argument_names(net, state).items()
    }
    net.reset_state()
    within: list[Node] = []
    try:
        with torch.no_grad(), _told(net, within), _quiet_failure():
            program = torch.export.export(_Exported(net, state), (), inputs, dynamic_shapes=dynamic, strict=False)
    except LayerError as error:
        for node in within[-1:]:
            error.within(layer=node.name, type=node.type)
        raise
    except Exception as error:  # torch.export raises whatever the tracing raised
        if not within:
            raise NetworkError(f"torch.export cannot follow the net: {first_line(error)}") from error
        _fail(within[-1], f"decides by values, which torch.export cannot follow: {first_line(error)}", error)
    finally:
        net.reset_state()  # which tracing has taken on
    _check_chance(net, program.graph_module)
    return program


@contextmanager
def _quiet_failure() -> Iterator[None]:
    """Within, torch does not print the graph as far as it came: the error says in one line what it cannot follow."""
    log, said = logging.getLogger("torch.fx.experimental.symbolic_shapes"), io.StringIO()
    before, log.disabled = log.disabled, True
    try:
        with redirect_stderr(said):
            yield
        sys.stderr.write(said.getvalue())
    finally:
        log.disabled = before


def _fail(node: Node, what: str, cause: Exception | None = None) -> NoReturn:
    raise LayerError(f"{what}; stop before it with outputs (--outputs a,b)", layer=node.name, type=node.type) from cause


@contextmanager
def _told(net: CaffeNet, within: list[Node]) -> Iterator[None]:
    """Within, the layer of ``net`` that runs is the last of ``within``; one that no program can hold is refused."""
    before: list[dict[str, Any]] = []

    def enters(node: Node, module: nn.Module) -> None:
        within.append(node)
        if isinstance(module, Python):
            _fail(node, "runs Python code, which a file cannot hold")
        before.append(_counts(module))

    def leaves(node: Node, module: nn.Module) -> None:
        counted = before.pop()
        for name, value in _counts(module).items():
            if not np.array_equal(value, counted[name]):
                _fail(node, f"keeps its {name} from pass to pass, which a program does not")
        within.clear()

    handles = []
    for node in net.program.nodes():
        module = net.get_submodule(node.module_name)
        handles.append(module.register_forward_pre_hook(lambda m, *_, node=node: enters(node, m)))
        handles.append(module.register_forward_hook(lambda m, *_, node=node: leaves(node, m)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counts(module: nn.Module) -> dict[str, Any]:
    """What a layer counts from pass to pass, by name."""
    return {name: deepcopy(getattr(module, name)) for name in module.counts} if isinstance(module, Layer) else {}


def _check_chance(net: CaffeNet, traced: torch.fx.GraphModule) -> None:
    """Raises LayerError for a layer that draws at random."""
    nodes = {node.module_name: node for node in net.program.nodes()}
    for operation in traced.graph.nodes:
        if operation.op == "call_function" and draws(operation.target, operation.args, operation.kwargs):
            paths = [path for path, _ in operation.meta["nn_module_stack"].values()]
            _fail(
                next(nodes[path] for path in paths if path in nodes),
                "draws at random, anew in every pass, which no file repeats",
            )


def _sums_of_two(module: torch.fx.GraphModule) -> None:
    """Write sums of several sizes as sums of two: torch traces the former, and has no way to store them."""
    for inner in module.children():
        if isinstance(inner, torch.fx.GraphModule):
            _sums_of_two(inner)
    for node in module.graph.find_nodes(op="call_function", target=torch.sym_sum):
        total, *others = node.args[0]
        with module.graph.inserting_before(node):
            for size in others:
                values = [x.meta["val"] if isinstance(x, torch.fx.Node) else x for x in (total, size)]
                total = module.graph.call_function(operator.add, (total, size))
                total.meta["val"] = values[0] + values[1]
        node.replace_all_uses_with(total)
        module.graph.erase_node(node)
    module.recompile()


# Run by a fresh interpreter, in which this library is as good as not installed.
_ALONE = """
import sys
sys.modules["caffe_compat"] = sys.modules["converters"] = None
import numpy, torch
program = torch.export.load(sys.argv[1])
kinds = {x.dtype for x in program.state_dict.values() if x.is_floating_point()}
kind = next(iter(kinds - {torch.float32}), torch.float32)
module = program.module()
for path in sys.argv[2:]:
    with numpy.load(path) as given:
        result = module(**{name[1:]: torch.from_numpy(given[name]).to(kind) for name in given.files})
    numpy.savez(path, **{"=" + name: x.detach().float().numpy() for name, x in result.items()})
"""


def run_alone(path: str, runs: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Run a program in a process that has torch and nothing of this library."""
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, f"{i}.npz") for i in range(len(runs))]
        for name, given in zip(names, runs, strict=True):
            # Of arrays, savez keeps the name; "=" before it makes it no argument of its own, as "file" would be.
            arguments = identifiers(list(given))
            arrays: dict[str, Any] = {f"={x}": given[blob] for x, blob in zip(arguments, given, strict=True)}
            np.savez(name, **arrays)
        command = [sys.executable, "-I", "-c", _ALONE, os.path.abspath(path), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
        return [{blob[1:]: x for blob, x in read_npz(name).items()} for name in names]


@target(
    "pt2",
    suffix=".pt2",
    title="a torch.export program",
    cannot=(
        "inputs of other shapes than the net was built for, unless dynamic_batch or dynamic_size asks for them",
        "layers that run Python code, touch files, or decide by values what they do (detection is no such layer)",
        "preprocessing, sources and parity record",
    ),
    run=run_alone,
    runtime=lambda: f"torch {torch.__version__} alone",
)
def write(
    net: CaffeNet,
    path: str | Path,
    *,
    dtype: str = "float32",
    dynamic_batch: bool = False,
    dynamic_size: Sequence[str] = (),
    state: str = "carry",
) -> list[str]:
    """Export ``net`` and write it to ``path``, whole or not at all; its weights are stored as ``dtype``.

    Raises:
        UsageError: not a dtype, or weights that it cannot hold. NetworkError: see :func:`program_of`. FileError:
            ``path`` cannot be written.
    """
    check_state(state, ("carry", "inputs", "reset"))
    axes = dynamic_axes(net, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size)
    program = program_of(in_precision(net, dtype), axes, state)
    _sums_of_two(program.graph_module)
    with atomic_write(path) as file:
        sink = Sink(file)
        torch.export.save(program, sink)  # type: ignore[arg-type]  # which asks for no more than Sink has
        sink.check()
    return state_note(net, state) + unchecked(net)
