"""Every parameter that a builder reads, changed: does anything about the layer change?

The base networks are the stored cases. A parameter is taken as read if the builder of some case's layer read it, and
changed to several other values in every case of the type until the outcome differs: tops, gradients, initial values,
what is written to files, or a refusal.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_compat import FileAccess, NetState
from caffe_compat.errors import CaffeCompatError
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import LayerSpec
from caffe_compat.schema import is_repeated
from caffe_compat.schema.params import Params
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net

REFERENCE = Path(__file__).parents[2] / "reference_outputs"
FILES = (
    *("bvlc_layers.h5", "ssl3d_layers.h5", "fork_layers.h5", "fork_layers_first.h5", "fork_layers_segnet_lstm.h5"),
    "fork_layers_yolo.h5",
)


@dataclass
class Base:
    """A stored case's network: ``message`` bound to ``dialect``, its inputs, and the paths that its builders read.

    ``paths`` maps the index of a layer to dotted paths, ``pooling_param.kernel_size``.
    """

    name: str
    message: Any
    dialect: str
    phase: str
    inputs: dict[str, np.ndarray]
    params: dict[tuple[str, int], np.ndarray]
    paths: dict[int, set[str]] = field(default_factory=dict)


def from_text(text: str, *, phase: str = "TEST", dialect: str | None = None, **inputs: np.ndarray) -> Base:
    """A base network of one's own, for what no stored case has."""
    parsed = parse_message(text, dialect=dialect)
    message = upgrade_net(parsed.message, parsed.schema).message
    return Base("own", message, parsed.schema.name, phase, inputs, {})


def stored_bases() -> Iterator[Base]:
    """The networks of all stored cases that are not refused."""
    for file_name in FILES:
        with h5py.File(REFERENCE / file_name) as file:
            for name, case in file.items():
                try:
                    base = base_of(name, case)
                    read_paths(base)
                except CaffeCompatError:
                    continue
                yield base
                yield from _without_normalization(base)


def _without_normalization(base: Base) -> Iterator[Base]:
    """The network without its ``loss_param.normalization``: then the older ``normalize`` counts."""
    if any(layer.loss_param.HasField("normalization") for layer in base.message.layer):
        message = type(base.message)()
        message.CopyFrom(base.message)
        for layer in message.layer:
            layer.loss_param.ClearField("normalization")
        other = replace(base, message=message, paths={})
        try:
            read_paths(other)
        except CaffeCompatError:  # it has what only counts with a normalization
            return
        yield other


def under(base: Base, dialect: str) -> Base | None:
    """The same text read as another fork's; None if that does not build."""
    try:
        parsed = parse_message(format_message(base.message), dialect=dialect)
        other = replace(base, message=parsed.message, dialect=parsed.schema.name, paths={})
        read_paths(other)
    except CaffeCompatError:
        return None
    return other


def base_of(name: str, case: h5py.Group) -> Base:
    parsed = parse_message(_text(case.attrs["prototxt"]), dialect=_text(case.attrs.get("dialect", "")) or None)
    message = upgrade_net(parsed.message, parsed.schema).message
    inputs = {blob: entry[()] for blob, entry in case["bottom"].items()} if "bottom" in case else {}
    params: dict[tuple[str, int], np.ndarray] = {}
    if "param" in case:
        case["param"].visititems(
            lambda path, entry: (
                params.update({(path.rpartition("/")[0], int(path.rpartition("/")[2])): entry[()]})
                if isinstance(entry, h5py.Dataset)
                else None
            )
        )
    return Base(name, message, parsed.schema.name, _text(case.attrs.get("phase", "TEST")), inputs, params)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# What builders read


@contextmanager
def _watched(found: dict[str, set[str]]) -> Iterator[None]:
    """Collect what builders read, by layer name; what they say has no bearing is left out."""
    ignore, check = Params.ignore, LayerSpec.unread_inside

    def noted_ignore(self: Params, *names: str) -> None:
        self.__dict__.setdefault("_left", set()).update(names)
        ignore(self, *names)

    def noted_check(self: LayerSpec) -> Any:
        paths = found.setdefault(self.name, set())
        for params in self._read.values():
            paths.update(_paths(params))
        return check(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Params, "ignore", noted_ignore)
        patch.setattr(LayerSpec, "unread_inside", noted_check)
        yield


def _paths(params: Params) -> Iterator[str]:
    known = params._message.DESCRIPTOR.fields_by_name
    read = params._read - params.__dict__.get("_left", set())
    for name in sorted(read):
        if name not in known:
            continue
        children = params._children.get(name, [])
        if known[name].message_type is None:
            yield f"{params._path}.{name}"
        for child in children[:1]:
            yield from _paths(child)
    # A filler is read when it is used.
    for name, descriptor in known.items():
        if name in read and descriptor.message_type is not None and descriptor.message_type.name == "FillerParameter":
            yield f"{params._path}.{name}.type"
            yield f"{params._path}.{name}.value"


def read_paths(base: Base) -> None:
    """Fill ``base.paths``. Raises CaffeCompatError: the network cannot be built."""
    found: dict[str, set[str]] = {}
    with _watched(found):
        CaffeNet(base.message, NetState(base.phase), dialect=base.dialect, files=FileAccess(REFERENCE))
    base.paths = {i: found[layer.name] for i, layer in enumerate(base.message.layer) if layer.name in found}


# What comes of a network

Outcome = dict[str, Any]


def outcome(base: Base, message: Any) -> Outcome:
    """Everything that running ``message`` with the inputs of ``base`` gives: arrays by name, or the error's words."""
    torch.manual_seed(0)
    files = FileAccess(REFERENCE)
    try:
        net = CaffeNet(message, NetState(base.phase), dialect=base.dialect, files=files)
        net.materialize(seed=0)
        net.randomness.seed = 0
        out: Outcome = {f"initial {name}": tensor.detach().clone() for name, tensor in net.state_dict().items()}
        fill_from(net, base)
        inputs = {}
        for name, shape in net.input_shapes.items():
            values = base.inputs.get(name)
            if values is None or np.shape(values) != tuple(shape):
                values = np.random.RandomState(zlib.crc32(name.encode())).uniform(0, 1, shape).astype(np.float32)
            inputs[name] = torch.from_numpy(np.array(values)).requires_grad_(True)
        values_of = net.values(inputs)
        tops = {net.graph.blobs[v]: x for v, x in enumerate(values_of) if x is not None}
        out.update({f"top {name}": x.detach() for name, x in tops.items()})
        out["again"] = [x.detach() for x in net.values(inputs) if x is not None]  # state may carry over
        out.update({f"after {name}": tensor.detach().clone() for name, tensor in net.state_dict().items()})
        out.update(_gradients(net, values_of, list(inputs.values())))
        out["warnings"] = net.warnings
        out["loss weights"] = sorted(net.loss_weights.items())
        out["written"] = dict(files.written)
    except CaffeCompatError as error:
        return {"refused": str(error)}
    return out


def _gradients(net: CaffeNet, values: list[torch.Tensor | None], inputs: list[torch.Tensor]) -> Outcome:
    ends = [x for v in net.graph.outputs if (x := values[v]) is not None and x.requires_grad]
    leaves = [x for x in (*inputs, *net.parameters()) if x.requires_grad]
    if not ends or not leaves:
        return {}
    random = torch.Generator().manual_seed(2)
    diffs = [torch.rand(x.shape, generator=random) for x in ends]
    try:
        found = torch.autograd.grad(ends, leaves, diffs, allow_unused=True)
    except CaffeCompatError as error:  # layers that only measure
        return {"no gradient": str(error)}
    return {f"gradient {i}": gradient for i, gradient in enumerate(found)}


def fill_from(net: CaffeNet, base: Base) -> None:
    """Give ``net`` the weights that the case has stored, where their shapes are those of the net."""
    for node in net.nodes_with_blobs():
        for i, (name, blob) in enumerate(net.blobs_of(node.module_name).items()):
            stored = base.params.get((node.name, i))
            if stored is not None and np.shape(stored) == tuple(blob.shape):
                net.assign_blob(node.module_name, name, torch.from_numpy(np.array(stored)))


def differ(one: Outcome, other: Outcome) -> bool:
    """Whether anything is different."""
    return one.keys() != other.keys() or any(not _same(one[key], other[key]) for key in one)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
    return bool(type(a) is type(b) and a == b)


# Changes


def changes(base: Base, layer: int, path: str) -> Iterator[Any]:
    """Copies of the network in each of which the parameter has another value."""
    parts = path.split(".")
    for value in _values(_owner(base.message.layer[layer], parts[:-1]), parts[-1]):
        message = type(base.message)()
        message.CopyFrom(base.message)
        owner = _owner(message.layer[layer], parts[:-1])
        descriptor = owner.DESCRIPTOR.fields_by_name[parts[-1]]
        if value is _CLEARED:
            owner.ClearField(parts[-1])
        elif is_repeated(descriptor):
            owner.ClearField(parts[-1])
            getattr(owner, parts[-1]).extend(value)
        else:
            setattr(owner, parts[-1], value)
        yield message


_CLEARED = object()


def _owner(message: Any, parts: list[str]) -> Any:
    for name in parts:
        inner = getattr(message, name)
        if is_repeated(message.DESCRIPTOR.fields_by_name[name]):
            inner = inner[0] if len(inner) else inner.add()
        message = inner
    return message


def _values(owner: Any, name: str) -> Iterator[Any]:
    descriptor = owner.DESCRIPTOR.fields_by_name[name]
    now = getattr(owner, name)
    if not is_repeated(descriptor):
        yield from _others(descriptor, now)
        yield _CLEARED if owner.HasField(name) else now  # what is said counts for more than the default, sometimes
        return
    items = list(now)
    first: Any = "" if descriptor.cpp_type == descriptor.CPPTYPE_STRING else 0
    for other in _others(descriptor, items[0] if items else first):
        yield [other] * max(len(items), 1)
        yield [*items, other]
        yield [*items[:-1], other]
    if len(items) > 1:
        yield items[:-1]
        yield items[::-1]
    if items:
        yield _CLEARED


def _others(descriptor: Any, now: Any) -> Iterator[Any]:
    kind = descriptor.cpp_type
    if kind == descriptor.CPPTYPE_BOOL:
        yield not now
    elif kind == descriptor.CPPTYPE_ENUM:
        yield from (number for number in descriptor.enum_type.values_by_number if number != now)
    elif kind == descriptor.CPPTYPE_STRING:
        if descriptor.type == descriptor.TYPE_STRING:
            yield from (text for text in ("constant", "gaussian", "uniform", "other") if text != now)
    elif kind in (descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE):
        found = [now / 2, now + 0.25, now * 3 + 1, -now, 0.9, 1.7, 5.0, 0.0]
        yield from (value for value in found if value != now and math.isfinite(value))
    else:
        low = 0 if kind in (descriptor.CPPTYPE_UINT32, descriptor.CPPTYPE_UINT64) else -(2**31)
        yield from (v for v in (now + 1, now - 1, now + 2, 2 * now, 0, 1, 2, 3, -1) if v != now and v >= low)
