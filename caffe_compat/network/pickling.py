"""Nets in pickles: for ``torch.save(net)``, for processes that are spawned, and for copies.

A pickle holds the definition as text, so it needs no class of a private schema; the modules as they are, so that shared
blobs stay shared and nothing that a layer remembers is lost; and the names of the Python files that the classes of its
layers come from, which have to be there before anything else can be read. Like every pickle it can run code: read only
your own. The ``.pt`` of :func:`caffe_compat.save` is for files that travel.
"""

from __future__ import annotations

import copy
import importlib
import sys
from typing import Any, TypeVar

from torch import nn

from ..errors import UsageError, first_line
from .names import layer_name
from .plugins import PREFIX

__all__ = ["PicklableNet"]

_N = TypeVar("_N", bound="PicklableNet")


class PicklableNet(nn.Module):
    """A net that pickles as this module says, and copies as every module does."""

    def __reduce_ex__(self, protocol: Any) -> tuple[object, ...]:
        _check_classes(self)
        return _unfilled, (type(self), _needed_modules(self)), self.__dict__

    def __deepcopy__(self: _N, memo: dict[int, object]) -> _N:
        made = self.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __copy__(self: _N) -> _N:
        made = self.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made


def _check_classes(net: nn.Module) -> None:
    """Refuse classes that nobody can find by their names.

    Raises:
        UsageError: one that was defined inside a function.
    """
    for name, module in net.named_modules():
        for thing in (module, getattr(module, "implementation", None)):
            # A class that stands in for another one (one with views of blobs, say) tells pickle itself how to make it.
            if "<locals>" in type(thing).__qualname__:
                raise UsageError(
                    f"its class {type(thing).__qualname__} is defined inside a function, so no other process finds it: "
                    "a net with it cannot be pickled; define the class at the top of its module",
                    layer=layer_name(name.partition(".")[0]),
                )


def _needed_modules(net: nn.Module) -> dict[str, str]:
    """The Python modules of the layers' classes, but for torch's and ours, and the files that they were read from."""
    things = [*net.modules(), *(getattr(module, "implementation", None) for module in net.modules())]
    names = dict.fromkeys(type(thing).__module__ for thing in things)
    foreign = [name for name in names if name.partition(".")[0] not in ("builtins", "caffe_compat", "torch")]
    return {name: getattr(sys.modules.get(name), "__file__", None) or "" for name in foreign}


def _unfilled(kind: type[PicklableNet], modules: dict[str, str]) -> PicklableNet:
    """A net for a pickle to fill.

    Raises:
        UsageError: one of ``modules`` is not there.
    """
    for name, file in modules.items():
        if name in sys.modules:
            continue
        if name.startswith(PREFIX):
            raise UsageError(
                f"the pickled net has layers of the plugin {file}; load it first: "
                f"caffe_compat.network.plugins.load_plugins([{file!r}]), and where processes are spawned at the top of "
                "the program"
            )
        try:
            importlib.import_module(name)
        except Exception as error:  # the code of a user's module may raise anything
            raise UsageError(
                f"the pickled net has layers of the module {name} ({file}), which cannot be imported here: "
                f"{first_line(error)}"
            ) from error
    return kind.__new__(kind)
