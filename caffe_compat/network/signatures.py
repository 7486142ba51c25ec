"""Signatures that name a net's inputs: torch's exporters ask the method ``forward`` for them, and so do editors."""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["identifiers", "with_named_inputs"]


def with_named_inputs(function: Callable[..., Any]) -> Any:
    """Decorates the ``forward`` of a net: asked of an instance, it has the names of the inputs of its ``program``."""
    return _NamedInputs(function)


class _NamedInputs:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, net: nn.Module | None, kind: type[nn.Module]) -> Any:
        if net is None:
            return self._function
        if torch.compiler.is_dynamo_compiling():
            return functools.partial(self._function, net)  # it does not know how methods are made
        program = net.__dict__.get("program")
        return MethodType(_named(self._function, program.input_names) if program else self._function, net)


@functools.lru_cache(maxsize=64)
def _named(function: Any, names: tuple[str, ...]) -> Any:
    """``function`` with ``names`` for parameters.

    If it takes no keywords they are positional, and names that a parameter cannot have are changed; otherwise a
    function of such names stays as it is.
    """
    keywords = any(p.kind == Parameter.VAR_KEYWORD for p in Signature.from_callable(function).parameters.values())
    legal = identifiers(names)
    if keywords and legal != names:
        return function
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
    copied.__doc__ = function.__doc__
    kind = Parameter.POSITIONAL_OR_KEYWORD if keywords else Parameter.POSITIONAL_ONLY
    # Labels may be left out where inputs go by name; which inputs may not, the net says itself.
    default = None if keywords else Parameter.empty
    own = [Parameter("self", Parameter.POSITIONAL_ONLY)]
    own += [Parameter(name, kind, default=default, annotation=Tensor) for name in legal]
    copied.__signature__ = Signature(own)  # type: ignore[attr-defined]
    return copied


def identifiers(names: Sequence[str]) -> tuple[str, ...]:
    """A different legal name of a parameter for each blob: almost always the blob's own.

    >>> identifiers(["data", "im-info", "im_info", "1x", "self", "class", ""])
    ('data', 'im_info', 'im_info_', '_1x', 'self_', 'class_', '_')
    """
    taken = {"self"}
    out = []
    for name in names:
        legal = re.sub(r"\W", "_", name)
        if not legal or legal[0].isdigit():
            legal = f"_{legal}"
        while legal in taken or keyword.iskeyword(legal):
            legal += "_"
        taken.add(legal)
        out.append(legal)
    return tuple(out)
