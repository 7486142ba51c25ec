"""The blobs of a net's layers: reaching them by name, how training treats them, and layers that share them.

Layers with a ``param`` of one name share a tensor. Under ``share_mode: PERMISSIVE`` their shapes may differ; then the
first has the tensor and the others see it reshaped: one tensor, one gradient, one entry in the state dict.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias, cast

from torch import Tensor, nn

from ..errors import LayerError
from ..schema.messages import ParamSpec as ParamSpecMessage
from .graph import Node
from .registry import Layer, Shape

__all__ = ["Holder", "ParamSpec", "Sharing", "blob_names", "get_tensor", "make_own", "set_tensor", "view_owners"]

# A module, and the name of a tensor in it.
Holder: TypeAlias = "tuple[nn.Module, str]"


@dataclass(frozen=True)
class ParamSpec:
    """How training treats one blob: multipliers of the learning rate and of the weight decay."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0


_USUAL = ParamSpec()


def blob_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and buffers that are a layer's blobs, in Caffe's order."""
    if isinstance(module, Layer):
        return module.blob_names
    return tuple(name for name, _ in module.named_parameters(recurse=True))


def get_tensor(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer ``name``, whose dots lead into submodules."""
    owner, _, own = name.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner) if owner else module, own)
    return tensor


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put ``tensor`` in the place of a parameter or buffer."""
    owner, _, own = name.rpartition(".")
    target = module.get_submodule(owner) if owner else module
    if own in target._parameters:
        target._parameters[own] = tensor  # type: ignore[assignment]
    else:
        target._buffers[own] = tensor


# Sharing by name


@dataclass
class _Owner:
    """The first layer with a named param: its blob, everyone who shares it, and the multipliers somebody gave."""

    module: nn.Module
    blob: str
    sharers: list[str]
    told: set[str]


class Sharing:
    """What the ``param`` entries of layers say, read layer by layer in execution order.

    Attributes:
        specs: full parameter name (``conv1.weight``) -> how training treats it.
        holders: full name of a shared blob -> everyone who holds its tensor, the first of whom owns it. Those that see
            it reshaped are not among them.
    """

    def __init__(self) -> None:
        self.specs: dict[str, ParamSpec] = {}
        self.holders: dict[str, list[Holder]] = {}
        self._owners: dict[str, _Owner] = {}

    def read(self, node: Node, module: nn.Module) -> None:
        """Read the entries of one layer, and make its blobs those that it shares.

        Raises:
            LayerError: more entries than blobs, shapes that differ, multipliers that contradict.
        """
        names, entries = blob_names(module), node.message.param
        if not names and not entries:
            return
        if len(entries) > len(names):
            _fail(node, f"has {len(entries)} param entries for {len(names)} blobs")
        for i, name in enumerate(names):
            entry = entries[i] if i < len(entries) else None
            full = f"{node.module_name}.{name}"
            if entry is None:
                self.specs[full] = _USUAL
                continue
            self.specs[full] = ParamSpec(entry.lr_mult, entry.decay_mult)
            if not entry.name:
                continue
            if entry.name not in self._owners:
                told = {field for field in ("lr_mult", "decay_mult") if entry.HasField(field)}
                self._owners[entry.name] = _Owner(module, name, [full], told)
                continue
            owner = self._owners[entry.name]
            holders = self.holders.setdefault(owner.sharers[0], [(owner.module, owner.blob)])
            if _share(owner, module, name, permissive=entry.share_mode == 1, node=node):
                holders.append((module, name))
            self.holders[full] = holders
            owner.sharers.append(full)
            self._merge(node, entry, owner)

    def _merge(self, node: Node, entry: ParamSpecMessage, owner: _Owner) -> None:
        """Caffe's rule: of layers that share a blob, the first to give a multiplier sets it; none may contradict."""
        merged = self.specs[owner.sharers[0]]
        for field in ("lr_mult", "decay_mult"):
            if not entry.HasField(field):
                continue
            value = getattr(entry, field)
            if field in owner.told and value != getattr(merged, field):
                _fail(
                    node,
                    f"param {entry.name!r} has {field} {value:g}, but {owner.sharers[0]}, which shares it, has "
                    f"{getattr(merged, field):g}",
                )
            owner.told.add(field)
            merged = replace(merged, **{field: value})
        # All of them once more only if the newest told something: thousands of layers may share one blob.
        news = merged != self.specs[owner.sharers[0]]
        self.specs.update(dict.fromkeys(owner.sharers if news else owner.sharers[-1:], merged))


def _share(owner: _Owner, module: nn.Module, name: str, *, permissive: bool, node: Node) -> bool:
    """Make blob ``name`` of ``module`` its owner's tensor; False if it is a reshaped view of that instead."""
    source, target = get_tensor(owner.module, owner.blob), get_tensor(module, name)
    if source.shape == target.shape:
        set_tensor(module, name, source)
        return True
    if not permissive or source.numel() != target.numel():
        _fail(
            node,
            f"blob {name} of shape {list(target.shape)} shares its parameter with one of shape {list(source.shape)}"
            + ("" if permissive else "; share_mode: PERMISSIVE would allow other shapes of the same count"),
        )
    _view_reshaped(owner, module, name)
    return False


def _fail(node: Node, message: str) -> NoReturn:
    raise LayerError(message, layer=node.name, type=node.type)


# Views of another layer's blob


def _view_reshaped(owner: _Owner, module: nn.Module, name: str) -> None:
    """Replace a blob by a property that reshapes its owner's."""
    path, _, own = name.rpartition(".")
    target = module.get_submodule(path) if path else module
    shape = tuple(getattr(target, own).shape)
    target._parameters.pop(own, None)
    target._buffers.pop(own, None)
    # In the instance, where a copy of the net finds the copied owner; the net already has it as a submodule.
    _set_views(target, {**_views(target), own: (owner.module, owner.blob, shape)})


def _views(module: nn.Module) -> Mapping[str, tuple[nn.Module, str, Shape]]:
    found: Mapping[str, tuple[nn.Module, str, Shape]] = module.__dict__.get("_views", {})
    return found


def _set_views(module: nn.Module, views: Mapping[str, tuple[nn.Module, str, Shape]]) -> None:
    kind = type(module)
    plain: type[nn.Module] = getattr(kind, "_plain", kind)
    module.__dict__["_views"] = dict(views)
    module.__class__ = _viewing(cast(Hashable, plain), tuple(sorted(views))) if views else plain


@functools.cache
def _viewing(kind: Any, names: tuple[str, ...]) -> type[nn.Module]:
    """``kind`` with properties in the place of blobs: each the view that ``_views`` of the instance says."""

    def view_of(own: str) -> property:
        def view(self: nn.Module) -> Tensor:
            holder, blob, shape = self.__dict__["_views"][own]
            return get_tensor(holder, blob).view(shape)

        return property(view)

    def reduce(self: nn.Module) -> tuple[object, ...]:
        return _unfilled, (kind, names), self.__dict__

    members = {"__module__": kind.__module__, "_plain": kind, "__reduce__": reduce}
    return type(kind.__name__, (kind,), members | {name: view_of(name) for name in names})


def _unfilled(kind: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """A module for a copy or pickle to fill."""
    made = _viewing(cast(Hashable, kind), names)
    return made.__new__(made)


def view_owners(module: nn.Module) -> dict[str, nn.Module]:
    """The blobs of a layer that are views, by name, and whose they are."""
    return {
        f"{path}.{own}" if path else own: owner
        for path, part in module.named_modules()
        for own, (owner, _, _) in _views(part).items()
    }


def make_own(module: nn.Module, name: str) -> None:
    """Give a layer a tensor of its own in the place of a view: the same memory, as long as nobody replaces it."""
    path, _, own = name.rpartition(".")
    target = module.get_submodule(path) if path else module
    owner, blob, shape = _views(target)[own]
    source = get_tensor(owner, blob)
    tensor = source.detach().view(shape)
    _set_views(target, {key: view for key, view in _views(target).items() if key != own})
    if isinstance(source, nn.Parameter):
        target.register_parameter(own, nn.Parameter(tensor, requires_grad=source.requires_grad))
    else:
        target.register_buffer(own, tensor)
