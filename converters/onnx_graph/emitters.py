"""The table of layers that have a form of their own in ONNX, by the exact class of their module.

    @emits(ReLU)
    def relu(site: Site) -> Value:
        return site.op("Relu", site.bottoms[0])

An emitter returns the name of what it made, or a list with one name for each top; None where a layer of the class has
no such form after all. What has no form of its own is traced (:mod:`.traced`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from .graph import Site

__all__ = ["Emitter", "emits", "find_emitter", "is_wide"]

Emitter = Callable[[Site], str | Sequence[str] | None]

_EMITTERS: dict[type, Emitter] = {}
# What in half precision would not be right.
_WIDE: set[type] = set()


def emits(*classes: type[nn.Module], wide: bool = False) -> Callable[[Emitter], Emitter]:
    """Register an emitter for modules of these classes.

    Args:
        wide: they compute in single precision whatever the precision of the file.
    """

    def register(emitter: Emitter) -> Emitter:
        for class_ in classes:
            if class_ in _EMITTERS:
                raise ValueError(f"{class_.__name__} is emitted twice")
            _EMITTERS[class_] = emitter
            if wide:
                _WIDE.add(class_)
        return emitter

    return register


def find_emitter(module: nn.Module) -> Emitter | None:
    """The emitter for exactly the class of ``module``: one that a user derived may compute something else."""
    return _EMITTERS.get(type(module))


def is_wide(module: nn.Module) -> bool:
    """Whether ``module`` computes in single precision whatever the precision of the file."""
    return type(module) in _WIDE
