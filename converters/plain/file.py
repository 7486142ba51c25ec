"""The file around the layers: docstring, imports, carried definitions, the class, and how its weights are loaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from caffe_compat import CaffeNet

from .carried import Carried
from .code import Call
from .names import quoted

__all__ = ["Body", "file_text", "told"]


class Body(Protocol):
    """Lines of the class, indented."""

    init: list[str]
    forward: list[str]
    stateful: list[str]


def told(text: str) -> str:
    """``text`` for a docstring or a comment: on one line, and without what could end it.

    >>> print(told('a "b"'), told("x\\n\\"\\"\\""), told("\\\\"))
    a 'b' x\\n''' \\\\
    """
    return quoted(text)[1:-1].replace('\\"', '"').replace('"', "'")


def file_text(
    name: str,
    net: CaffeNet,
    carried: Carried,
    body: Body,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    facts: Sequence[str],
) -> str:
    """The whole file.

    Args:
        inputs, outputs: blob name -> variable. facts: lines for the docstring.
    """
    lines = [*_docstring(net, inputs, outputs, facts), "", "from __future__ import annotations", ""]
    used = "\n".join([*carried.definitions.values(), *body.init, *body.forward])
    lines += [*_imports(carried, used), "", 'WEIGHTS = Path(__file__).with_suffix(".safetensors")', ""]
    for definition in carried.definitions.values():
        # What has a body of its own has two lines around it; a constant stands close to its neighbours.
        lines += ["", "", definition, "", ""] if re.search(r"^(def|class) ", definition, re.MULTILINE) else [definition]
    lines += ["", "", f"class {name}(nn.Module):"]
    lines += [f'    """{told(net.message.name or name)}, in the order and with the names of its definition."""', ""]
    lines += ["    def __init__(self) -> None:", "        super().__init__()", *body.init, ""]
    arguments = ["self", *(f"{variable}: Tensor" for variable in inputs.values())]
    lines += Call("def forward", arguments).lines("    ", "", " -> dict[str, Tensor]:")
    lines += body.forward
    lines += Call("", [f"{quoted(blob)}: {v}" for blob, v in outputs.items()], "{}").lines("        ", "return ")
    if body.stateful:
        lines += [
            "",
            "    def reset_state(self) -> None:",
            '        """Forget what earlier calls left in recurrent layers."""',
        ]
        lines += [f"        {layer}.reset_state()" for layer in body.stateful]
    lines += [
        *("", "", f"def load(weights: str | Path = WEIGHTS) -> {name}:"),
        '    """The network with its weights, ready to run."""',
        f"    net = {name}()",
        "    net.load_state_dict(load_file(weights))",
        "    return net.eval()",
    ]
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)) + "\n"


def _docstring(net: CaffeNet, inputs: Mapping[str, str], outputs: Mapping[str, str], facts: Sequence[str]) -> list[str]:
    shapes = {net.graph.blobs[v]: shape for v, shape in enumerate(net.shapes)}
    named = net.input_shapes
    lines = [
        f'"""{told(net.message.name or "A network")} in plain PyTorch; its weights lie in the .safetensors beside it.',
        "",
    ]
    lines += ["    net = load()", f"    outputs = net({', '.join(inputs.values())})", ""]
    for blob, variable in inputs.items():
        renamed = "" if variable == blob else f" (blob {quoted(told(blob))})"
        lines.append(f"Takes {variable}{renamed}, {list(named[blob])} as it was built.")
    lines += [f"Gives {quoted(told(blob))}, {list(shapes[blob])}." for blob in outputs]
    lines += ["", *map(told, facts)] if facts else []
    return [*lines, '"""']


_GROUPS = ("__future__", "standard", "other")


def _imports(carried: Carried, used: str) -> list[str]:
    """The import lines, sorted and grouped as isort does."""
    wanted = {*carried.imports, "from pathlib import Path", "from safetensors.torch import load_file"}
    wanted |= {"from torch import Tensor", "from torch import nn"}
    if re.search(r"\btorch\.", used):
        wanted.add("import torch")
    if re.search(r"\bF\.", used):
        wanted.add("from torch.nn import functional as F")
    plain = sorted(line for line in wanted if line.startswith("import "))
    members: dict[str, list[str]] = {}
    for line in sorted(wanted - set(plain)):
        module, _, member = line.removeprefix("from ").partition(" import ")
        members.setdefault(module, []).append(member)
    members.pop("__future__", None)
    found = [(line.split()[1], line) for line in plain]
    found += [(module, f"from {module} import {', '.join(_sorted(names))}") for module, names in members.items()]
    standard = [line for module, line in found if module.partition(".")[0] in sys.stdlib_module_names]
    other = [line for module, line in found if module.partition(".")[0] not in sys.stdlib_module_names]
    return [*standard, "", *other]


def _sorted(names: Sequence[str]) -> list[str]:
    """Constants, then classes, then functions."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
