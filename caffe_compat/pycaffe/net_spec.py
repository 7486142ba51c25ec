"""Networks written in Python: ``L.Convolution(n.data, num_output=20, kernel_size=5)``.

n = caffe.NetSpec()
n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
n.conv1 = L.Convolution(n.data, num_output=16, kernel_size=3, weight_filler=dict(type="xavier"))
n.relu1 = L.ReLU(n.conv1, in_place=True)
print(n.to_proto())
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from ..errors import UsageError
from ..schema import is_repeated
from ..schema.messages import LayerParameter, Message, MessageField, NetParameter
from .forks import EDITED_SPECS, is_fork
from .proto import caffe_pb2

__all__ = [
    "Function",
    "Layers",
    "NetSpec",
    "Parameters",
    "Top",
    "assign_proto",
    "layers",
    "param_name_dict",
    "params",
    "to_proto",
]

# Layers that take the parameters of another type.
_BORROWED = {"Deconvolution": "convolution", "Im2col": "convolution", "LSTM": "recurrent", "RNN": "recurrent"}


def param_name_dict() -> dict[str, str]:
    """Layer type -> name of the field with its parameters, without ``_param``: ``{"Convolution": "convolution"}``."""
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields
    names = {
        f.message_type.name.removesuffix("Parameter"): f.name.removesuffix("_param")
        for f in fields
        if f.name.endswith("_param")
    }
    return {**names, **_BORROWED}


def assign_proto(proto: Message, name: str, value: object) -> None:
    """Set field ``name`` of a message: a dict fills a message, a list a repeated field, one value may stand for a list.

    Raises:
        AttributeError: the message has no such field, with the names it has.
    """
    descriptor = proto.DESCRIPTOR.fields_by_name.get(name)
    if descriptor is None:
        raise AttributeError(
            f"{proto.DESCRIPTOR.name} has no field {name!r}, only {', '.join(sorted(proto.DESCRIPTOR.fields_by_name))}"
        )
    if is_repeated(descriptor):
        target = getattr(proto, name)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Mapping):
                _assign_all(target.add(), item)
            else:
                target.append(item)
    elif isinstance(value, Mapping):
        message = getattr(proto, name)
        message.SetInParent()
        _assign_all(message, value)
    else:
        setattr(proto, name, value)


def _assign_all(proto: Message, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        assign_proto(proto, name, value)


class Top:
    """One blob that a layer makes."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn, self.n = fn, n

    def to_proto(self) -> NetParameter:
        """A ``NetParameter`` of the layers that this blob needs."""
        return to_proto(self)


class Function:
    """A layer: its type, the blobs it reads, its parameters. ``tops`` are the blobs it makes."""

    def __init__(self, type_name: str, inputs: tuple[object, ...], params: Mapping[str, Any]) -> None:
        for index, given in enumerate(inputs):
            if not isinstance(given, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(given)})")
        self.type_name = type_name
        self.inputs = cast(tuple[Top, ...], inputs)
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class _Writer:
    """Collects layers in an order in which each comes after those that it reads."""

    def __init__(self, names: Mapping[Top | Function, str]) -> None:
        self._names: dict[Top | Function, str] = dict(names)  # of Tops, and of Functions without tops
        self._counts: Counter[str] = Counter()
        self._layers: OrderedDict[Function, LayerParameter] = OrderedDict()

    def add(self, fn: Function) -> LayerParameter:
        """Write a layer after what it reads; its ``LayerParameter``."""
        waiting = [fn]
        while waiting:  # not by recursion: networks are deeper than Python's stack
            last = waiting[-1]
            missing = [top.fn for top in last.inputs if top.fn not in self._layers]
            if last in self._layers:
                waiting.pop()
            elif missing:
                waiting.extend(reversed(missing))
            else:
                self._layers[waiting.pop()] = self._layer(last)
        return self._layers[fn]

    def net(self) -> NetParameter:
        """All layers added, as a ``NetParameter``."""
        net: NetParameter = caffe_pb2.NetParameter()
        net.layer.extend(self._layers.values())
        return net

    def _layer(self, fn: Function) -> LayerParameter:
        layer: LayerParameter = caffe_pb2.LayerParameter(type=fn.type_name)
        layer.bottom.extend(self._layers[top.fn].top[top.n] for top in fn.inputs)
        layer.top.extend(layer.bottom if fn.in_place else [self._name(top, fn) for top in fn.tops])
        layer.name = self._name(fn.tops[0] if fn.ntop else fn, fn)
        own = _param_names.get(fn.type_name, "") + "_param"
        own_fields = getattr(layer, own).DESCRIPTOR.fields_by_name if own != "_param" else {}
        for name, value in fn.params.items():
            if not name.endswith("param") and name in own_fields:
                assign_proto(getattr(layer, own), name, value)
            elif name in layer.DESCRIPTOR.fields_by_name:
                assign_proto(layer, name, value)
            else:
                raise AttributeError(f"layer {layer.name!r} ({fn.type_name}): {_no_field(name, own, own_fields)}")
        return layer

    def _name(self, what: Top | Function, fn: Function) -> str:
        if what not in self._names:
            self._counts[fn.type_name] += 1
            self._names[what] = f"{fn.type_name}{self._counts[fn.type_name]}"
        return self._names[what]


def _no_field(name: str, own: str, own_fields: Mapping[str, MessageField]) -> str:
    if own_fields:
        return f"neither LayerParameter nor its {own} has a field {name!r}"
    return (
        f"LayerParameter has no field {name!r}, and no parameters for this type; if it is a fork's, name the fork with "
        "--dialect or install(dialect=...)"
    )


def to_proto(*tops: Top) -> NetParameter:
    """A ``NetParameter`` of all layers that ``tops`` need; names are made up: ``Convolution1``, ``Pooling1`` ..."""
    writer = _Writer({})
    for top in tops:
        writer.add(top.fn)
    return writer.net()


class _NoSuchTopError(AttributeError, KeyError):
    """An AttributeError for Python, a KeyError for scripts that know pycaffe."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show quotes around it


class NetSpec:
    """Tops by name: ``n.conv1 = L.Convolution(...)``, ``n["a/relu"] = ...``. A layer has the name of its first top.

    Under SSD's Caffe and the forks that descend from it, ``n.keys()`` and ``n.vals()`` are lists of the names and of
    what they stand for, ``n.update(name, parameters)`` changes parameters of a layer, and ``del n[name]`` forgets one.
    """

    tops: OrderedDict[str, Any]

    def __init__(self) -> None:
        object.__setattr__(self, "tops", OrderedDict())

    def __setattr__(self, name: str, value: object) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _EDITS and is_fork(EDITED_SPECS):
            return partial(_EDITS[name], self)
        return self[name]

    def __setitem__(self, name: str, value: object) -> None:
        self.tops[name] = value

    def __delitem__(self, name: str) -> None:
        if not is_fork(EDITED_SPECS):
            raise TypeError(f"a NetSpec of BVLC's Caffe forgets nothing; forks that do: {_NAMED_FORKS} (--dialect)")
        self[name]  # says what there is, if there is no such name
        del self.tops[name]

    def __getitem__(self, name: str) -> Any:
        try:
            return self.tops[name]
        except KeyError:
            raise _NoSuchTopError(f"the spec has no {name!r}; it has {', '.join(self.tops) or 'nothing yet'}") from None

    def to_proto(self) -> NetParameter:
        """A ``NetParameter`` of everything assigned, and of what that needs.

        Raises:
            UsageError: something else than a Top was assigned. AttributeError: a parameter that no field takes.
        """
        for name, top in self.tops.items():
            if not isinstance(top, (Top, Function)):
                raise UsageError(
                    f"{name} in the spec is no Top but a {type(top).__name__}; layers with several tops return a tuple"
                )
        writer = _Writer({top: name for name, top in self.tops.items()})
        for top in self.tops.values():
            writer.add(top.fn if isinstance(top, Top) else top)
        return writer.net()


def _keys(spec: NetSpec) -> list[str]:
    return list(spec.tops)


def _vals(spec: NetSpec) -> list[Any]:
    return list(spec.tops.values())


def _update(spec: NetSpec, name: str, params: Mapping[str, object]) -> None:
    """Change parameters of the layer that makes ``name``."""
    what = spec[name]
    (what.fn if isinstance(what, Top) else what).params.update(params)


_EDITS: Mapping[str, Callable[..., Any]] = {"keys": _keys, "vals": _vals, "update": _update}
_NAMED_FORKS = "weiliu89/caffe@ssd and those that descend from it"


class Layers:
    """``L.<type>(*tops, **parameters)``: the Top of a layer, a tuple with ``ntop``, the layer with ``ntop=0``."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def make(*inputs: object, **parameters: Any) -> Any:
            fn = Function(name, inputs, parameters)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return make


class Parameters:
    """``P.Pooling.MAX``: the constants of a layer's parameters."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        message = getattr(caffe_pb2, name + "Parameter", None)
        if message is None:
            raise AttributeError(f"there is no message {name}Parameter")
        return message


_param_names: dict[str, str] = {}


def follow_caffe_pb2() -> None:
    """Learn the layer types that ``caffe_pb2`` has parameters for."""
    _param_names.clear()
    _param_names.update(param_name_dict())


follow_caffe_pb2()
layers = Layers()
params = Parameters()
