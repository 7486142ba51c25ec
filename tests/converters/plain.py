"""Sources of plain PyTorch, run in this process. (Tests of the format run them alone.)"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from converters.plain.source import Source

__all__ = ["module_of", "outputs_of", "same_bits"]


def module_of(source: Source) -> nn.Module:
    """The network that a source defines, with its weights."""
    name = "a_plain_network"
    module = types.ModuleType(name)
    module.__file__ = "/nowhere/network.py"
    sys.modules[name] = module  # dataclasses look their module up
    exec(compile(source.text, f"<{source.class_name}>", "exec"), module.__dict__)
    net: nn.Module = getattr(module, source.class_name)()
    net.load_state_dict({key: tensor.detach().clone() for key, tensor in source.tensors.items()})
    return net.eval()


def outputs_of(net: nn.Module, source: Source, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The outputs by blob name, of inputs by blob name; those that the source does not take are left out."""
    given = {source.inputs[name]: torch.as_tensor(x) for name, x in inputs.items() if name in source.inputs}
    with torch.no_grad():
        return net(**given)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same in shape, type and every bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
