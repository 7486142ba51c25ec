"""A net as the text of a Python file, and the weights under the names that the file has for them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from caffe_compat import CaffeNet, NetworkError
from caffe_compat.errors import located
from caffe_compat.network.graph import Node
from caffe_compat.network.program import Step

from .carried import Carried
from .classes import Classes
from .code import WIDTH, assignment
from .file import file_text
from .layers import Place, Written, find_writer
from .names import ATTRIBUTES, VARIABLES, Names, class_name, identifier, quoted

__all__ = ["Source", "source_of"]


@dataclass(frozen=True)
class Source:
    """A network as source.

    Attributes:
        text: of the Python file. tensors: its weights, as its ``load_state_dict`` takes them.
        inputs: blob name -> the argument of ``forward``. outputs: blob names. class_name: of the module.
        wide: names of tensors that stay in single precision, whatever the others are stored in.
    """

    text: str
    tensors: dict[str, Tensor]
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    class_name: str
    wide: frozenset[str]


def source_of(net: CaffeNet, facts: Sequence[str] = ()) -> Source:
    """``net`` as plain PyTorch.

    Args:
        facts: lines for the docstring of the file.

    Raises:
        NetworkError: a net of phase TRAIN, or a layer that cannot be written; it is named.
    """
    if net.graph.state.phase != "TEST":
        raise NetworkError("plain PyTorch is written of nets of phase TEST; convert it with phase test")
    return _Writer(net).write(facts)


@dataclass
class _Lines:
    """What layer after layer adds to the class."""

    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    stateful: list[str] = field(default_factory=list)
    wide: set[str] = field(default_factory=set)


class _Writer:
    """Goes through the steps of a net once.

    A blob is a variable of ``forward``. What overwrites it in place assigns to the variable again, which is the same:
    whoever reads a blob later reads its last value.
    """

    def __init__(self, net: CaffeNet) -> None:
        self.net = net
        self.carried = Carried()
        self.classes = Classes(self.carried)
        self.lines = _Lines()
        self._attributes, self._variables = Names(ATTRIBUTES), Names(VARIABLES)
        self._variable: dict[str, str] = {}  # blob -> variable
        self._nodes = {node.module_name: node for node in net.graph.computed}

    def write(self, facts: Sequence[str]) -> Source:
        """The whole file."""
        program, blobs = self.net.program, self.net.graph.blobs
        inputs = {name: self._variable_of(name) for name in program.needed_inputs}
        for step in self._needed_steps():
            node = self._nodes[step.module]
            with located(layer=node.name, type=node.type):
                self._step(step, node)
        unread = set(program.input_names) - set(inputs)
        outputs = {blobs[v]: self._variable_of(blobs[v]) for v in program.outputs if blobs[v] not in unread}
        self.classes.finish()
        name = Names({*VARIABLES, *self.carried.definitions}).take(class_name(self.net.message.name))
        text = file_text(name, self.net, self.carried, self.lines, inputs, outputs, facts)
        return Source(text, self.lines.tensors, inputs, tuple(outputs), name, frozenset(self.lines.wide))

    def _needed_steps(self) -> list[Step]:
        """Without losses that have no top, which are computed for nobody."""
        needed = set(self.net.program.outputs)
        steps: list[Step] = []
        for step in reversed(self.net.program.steps):
            # What has no top at all is there for something else that it does.
            if needed.intersection(step.tops) or not step.tops:
                steps.append(step)
                needed.update(step.bottoms)
        return steps[::-1]

    def _variable_of(self, blob: str) -> str:
        if blob not in self._variable:
            self._variable[blob] = self._variables.take(identifier(blob, "blob"))
        return self._variable[blob]

    def _step(self, step: Step, node: Node) -> None:
        module = self.net.get_submodule(step.module)
        blobs, shapes = self.net.graph.blobs, self.net.shapes
        attribute = self._attributes.take(identifier(node.name))
        bottoms = [self._variable_of(blobs[v]) for v in step.bottoms]
        at = Place(attribute, bottoms, [shapes[v] for v in step.bottoms], len(step.tops), self.carried)
        try:
            found = self._written(at, module)
        except NetworkError as error:
            raise NetworkError(
                f"plain PyTorch cannot hold it: {error.detail}; stop before it with --outputs BLOB,... (a part of the "
                "net: net.part([...]))"
            ) from error
        tops = [self._variable_of(blobs[v]) for v in step.tops]
        unpacks = len(tops) == 1 and found.member is not None and _gives_a_tuple(module)
        self._add(node, at, found, f"({tops[0]},)" if unpacks else ", ".join(tops))

    def _written(self, at: Place, module: nn.Module) -> Written:
        writer = find_writer(type(module))
        found = writer(at, module) if writer is not None else None
        if found is not None:
            return found
        member = self.classes.add(module)
        return Written(at.call(), member, dict(module.state_dict()), stateful=self.classes.has_state(module))

    def _add(self, node: Node, at: Place, found: Written, target: str) -> None:
        lines = self.lines
        if found.note and found.note not in lines.notes:
            lines.notes.add(found.note)
            note = textwrap.wrap(f"{found.note}.", WIDTH - 10)
            (lines.forward if found.member is None else lines.init).extend(f"        # {line}" for line in note)
        # The layer's own name, where nothing else on the line tells it.
        name = "" if at.attribute == node.name else quoted(node.name)
        if found.member is not None:
            lines.init += _with_remark(assignment("        ", at.me, found.member), name)
            name = ""
        elif target != node.name:
            name = name or node.name
        if found.value:
            lines.forward += _with_remark(assignment("        ", target, found.value), name)
        lines.tensors.update({f"{at.attribute}.{key}": tensor for key, tensor in found.tensors.items()})
        if found.stateful:
            lines.stateful.append(at.me)
        # Means and variances, also where torch's own module has them.
        wide = {
            "running_mean",
            "running_var",
            *getattr(self.net.get_submodule(node.module_name), "single_precision", ()),
        }
        lines.wide.update(f"{at.attribute}.{key}" for key in found.tensors if key in wide)


def _gives_a_tuple(module: nn.Module) -> bool:
    """Whether its forward says that it returns a tuple, even of one."""
    return str(inspect.signature(type(module).forward).return_annotation).startswith("tuple")


def _with_remark(lines: list[str], remark: str) -> list[str]:
    if not remark:
        return lines
    if len(lines) == 1 and len(lines[0]) + 4 + len(remark) <= WIDTH:
        return [f"{lines[0]}  # {remark}"]
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return [f"{indent}# {remark}", *lines]
