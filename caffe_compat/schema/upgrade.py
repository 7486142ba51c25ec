"""Networks and solvers of every generation -> the current one.

Caffe has had three generations of layers: V0 (2013; ``layers { layer { type: "conv" } }``), V1 (2014;
``layers { type: CONVOLUTION }``) and the current one (``layer { type: "Convolution" }``). The rules here are those of
BVLC Caffe 1.0.0's ``util/upgrade_proto.cpp``. Where Caffe drops something it cannot place, it is kept as an unknown
field, so that a layer that would need it objects, or a note says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from ..display import brief
from ..errors import LayerError, NetworkError, PrototxtError, located
from ..formats.files import atomic_write
from ..formats.weights import read_weights, write_caffemodel
from . import Schema, is_repeated, load_schema, split_dialect
from .infer import infer_binary, network_message
from .printing import format_message, format_value, quoted
from .prototxt import read_message
from .unknown import DOUBT_FIELD, TEXT_FIELD, Kind, Unknown, keep_bytes, keep_unknown_text, unknown_fields_of
from .v1_types import plain, string_type

__all__ = ["Upgraded", "decode_net", "upgrade_caffemodel", "upgrade_net", "upgrade_prototxt", "upgrade_solver"]

# V0 type -> (V1 type, the V1 layer's parameter message)
_V0_TYPES = {
    "accuracy": ("ACCURACY", "accuracy_param"),
    "bnll": ("BNLL", ""),
    "concat": ("CONCAT", "concat_param"),
    "conv": ("CONVOLUTION", "convolution_param"),
    "data": ("DATA", "data_param"),
    "dropout": ("DROPOUT", "dropout_param"),
    "euclidean_loss": ("EUCLIDEAN_LOSS", ""),
    "flatten": ("FLATTEN", ""),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param"),
    "hdf5_output": ("HDF5_OUTPUT", "hdf5_output_param"),
    "im2col": ("IM2COL", ""),
    "images": ("IMAGE_DATA", "image_data_param"),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param"),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param"),
    "lrn": ("LRN", "lrn_param"),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", ""),
    "pool": ("POOLING", "pooling_param"),
    "relu": ("RELU", "relu_param"),
    "sigmoid": ("SIGMOID", ""),
    "softmax": ("SOFTMAX", "softmax_param"),
    "softmax_loss": ("SOFTMAX_LOSS", "softmax_param"),
    "split": ("SPLIT", ""),
    "tanh": ("TANH", ""),
    "window_data": ("WINDOW_DATA", "window_data_param"),
}

# V0 field -> (field of the parameter message, the V0 types that take it)
_V0_FIELDS = {
    "num_output": ("num_output", "conv innerproduct"),
    "biasterm": ("bias_term", "conv innerproduct"),
    "weight_filler": ("weight_filler", "conv innerproduct"),
    "bias_filler": ("bias_filler", "conv innerproduct"),
    "pad": ("pad", "conv pool"),
    "kernelsize": ("kernel_size", "conv pool"),
    "group": ("group", "conv"),
    "stride": ("stride", "conv pool"),
    "pool": ("pool", "pool"),
    "dropout_ratio": ("dropout_ratio", "dropout"),
    "local_size": ("local_size", "lrn"),
    "alpha": ("alpha", "lrn"),
    "beta": ("beta", "lrn"),
    "k": ("k", "lrn"),
    "source": ("source", "data hdf5_data images window_data infogain_loss"),
    "batchsize": ("batch_size", "data hdf5_data images window_data"),
    "rand_skip": ("rand_skip", "data images"),
    "shuffle_images": ("shuffle", "images"),
    "new_height": ("new_height", "images"),
    "new_width": ("new_width", "images"),
    "concat_dim": ("concat_dim", "concat"),
    "det_fg_threshold": ("fg_threshold", "window_data"),
    "det_bg_threshold": ("bg_threshold", "window_data"),
    "det_fg_fraction": ("fg_fraction", "window_data"),
    "det_context_pad": ("context_pad", "window_data"),
    "det_crop_mode": ("crop_mode", "window_data"),
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}

_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_DATA_LAYERS = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}

_SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@dataclass(frozen=True)
class Upgraded:
    """A message of the current generation.

    Attributes:
        notes: what was done, and what Caffe would refuse or drop, one line each; empty if nothing had to be done.
        origins: for each layer the index of the layer it was made of, or None for one that is new.
    """

    message: Any
    notes: list[str] = field(default_factory=list)
    origins: tuple[int | None, ...] = ()


def upgrade_net(message: Any, schema: Schema, path: str | None = None) -> Upgraded:
    """A NetParameter of the current generation; ``message``, of any generation, stays as it is.

    Args:
        schema: the schema that ``message`` belongs to.
        path: the file it came from, for errors.

    Raises:
        NetworkError: generations are mixed, or the inputs' shapes do not fit their number.
        LayerError: a V0 padding layer that nothing can absorb.
    """
    net = type(message)()
    net.CopyFrom(message)
    with located(path=path):
        return _upgraded(net, schema)


def _upgraded(net: Any, schema: Schema) -> Upgraded:
    notes: list[str] = []
    origins: list[int | None] = list(range(len(net.layers) or len(net.layer)))
    if net.layers and net.layer:
        raise NetworkError(
            f"holds {len(net.layers)} layers of the old form (`layers`) and {len(net.layer)} of the current one "
            '(`layer`); Caffe refuses such a mixture. Write all of them as `layer { type: "Type" ... }`'
        )
    if any(layer.HasField("layer") for layer in net.layers):
        origins = _upgrade_v0(net, schema, notes)
        notes.append(f"{len(net.layers)} layers upgraded from V0 (`layers {{ layer {{ ... }} }}`)")
    if net.layers:
        _upgrade_data_layers(net)
        _upgrade_v1(net, schema, notes)
    if net.input:
        origins = [*_upgrade_inputs(net, notes), *origins]
    _upgrade_batch_norm(net, notes)
    return Upgraded(net, notes, tuple(origins))


def upgrade_solver(message: Any, schema: Schema, path: str | None = None) -> Upgraded:
    """A SolverParameter with its type as a string, and the networks inside it upgraded; ``message`` stays as it is.

    Raises:
        PrototxtError: ``type`` and the old ``solver_type`` are both given. NetworkError: see :func:`upgrade_net`.
    """
    solver = type(message)()
    for descriptor, value in message.ListFields():
        _put(solver, descriptor.name, value)
    _carry_unknown(message, solver, "SolverParameter", without="solver_type")
    notes: list[str] = []
    old = next((u.text for u in unknown_fields_of(message) if u.name == "solver_type"), "")
    if solver.HasField("solver_type"):
        old = _enum_name(solver, "solver_type")
    if old:
        if solver.HasField("type"):
            raise PrototxtError(
                f"type {solver.type!r} and solver_type {old} are both given; delete solver_type", path=path
            )
        solver.ClearField("solver_type")
        bare = old.strip("\"'")
        solver.type = next((t for t in _SOLVER_TYPES if plain(t) == plain(bare)), bare)
        notes.append(f"solver_type {old} is type {solver.type!r}")
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            upgraded = upgrade_net(getattr(solver, name), schema, path)
            getattr(solver, name).CopyFrom(upgraded.message)
            notes += upgraded.notes
    for inner in solver.test_net_param:
        upgraded = upgrade_net(inner, schema, path)
        inner.CopyFrom(upgraded.message)
        notes += upgraded.notes
    return Upgraded(solver, notes)


def upgrade_prototxt(
    in_path: str | os.PathLike[str], out_path: str | os.PathLike[str], dialect: str | None = None
) -> Upgraded:
    """Write the network or solver in text ``in_path`` to ``out_path`` in the current form, unknown fields included.

    Raises:
        FileError, PrototxtError, NetworkError: nothing is written.
    """
    path = os.fspath(in_path)
    parsed = read_message(path, dialect=dialect)
    net = parsed.message
    solver_fields = parsed.schema.message("SolverParameter").DESCRIPTOR.fields_by_name
    if not (net.layer or net.layers) and any(u.name in solver_fields for u in parsed.unknown):
        parsed = read_message(path, "SolverParameter", dialect)
        upgraded = upgrade_solver(parsed.message, parsed.schema, path)
    else:
        upgraded = upgrade_net(net, parsed.schema, path)
    with atomic_write(out_path) as handle:
        handle.write(format_message(upgraded.message).encode())
    return Upgraded(upgraded.message, [*parsed.warnings, *upgraded.notes], upgraded.origins)


def upgrade_caffemodel(
    in_path: str | os.PathLike[str], out_path: str | os.PathLike[str], dialect: str | None = None
) -> Upgraded:
    """Write the binary network in ``in_path`` to ``out_path`` in the current form, its blobs unchanged.

    Raises:
        FileError, WireError, NetworkError, DialectError: nothing is written.
    """
    path = os.fspath(in_path)
    with read_weights(path) as weights:
        if weights.structure is None:
            raise NetworkError("HDF5 weights carry no network, and so nothing to upgrade", path=path)
        if dialect is None:
            inferred = infer_binary(weights.structure, path)
            schema, reason = inferred.schema, inferred.reason
        else:
            schema, reason = load_schema(*split_dialect(dialect)), "asked for"
        upgraded = upgrade_net(decode_net(weights.structure, schema, path), schema, path)
        blobs = [() if origin is None else weights.layers[origin].blobs for origin in upgraded.origins]
        old = any(record.generation < 2 for record in weights.layers)
        write_caffemodel(out_path, upgraded.message.SerializePartialToString(), blobs, legacy_shapes=old)
    return Upgraded(upgraded.message, [f"dialect {schema.name}: {reason}", *upgraded.notes], upgraded.origins)


def decode_net(structure: bytes, schema: Schema, path: str | None = None) -> Any:
    """The NetParameter in ``structure``, a binary network without its blobs.

    Names that are not UTF-8 (some networks have GBK ones) read with ``\\xNN`` in their place, as in LayerRecord.

    Raises:
        WireError: the bytes do not decode under ``schema``, or lack what must be given.
    """
    net = network_message(schema, structure, path)
    for message in (net, *net.layer, *net.layers, *(layer.layer for layer in net.layers if layer.HasField("layer"))):
        for name in ("name", "type"):
            value = getattr(message, name, None)
            if isinstance(value, bytes):
                setattr(message, name, value.decode("utf-8", "backslashreplace"))
        for name in ("bottom", "top", "input"):
            values: Any = getattr(message, name, ())
            for i, value in enumerate(values):
                if isinstance(value, bytes):
                    values[i] = value.decode("utf-8", "backslashreplace")
    return net


# V0 -> V1


def _upgrade_v0(net: Any, schema: Schema, notes: list[str]) -> list[int | None]:
    """Replace V0 layers by V1 layers; the indices of the layers that remain."""
    for i, connection in enumerate(net.layers):
        if not connection.HasField("layer"):
            raise NetworkError(
                f"number {i} has no inner `layer {{ }}`, but others have: V0 and V1 layers are mixed, and Caffe would "
                "drop this one's parameters. Write all of them in one form",
                layer=connection.name,
            )
    origins = _fold_padding(net, notes)
    for i, connection in enumerate(net.layers):
        layer = schema.message("V1LayerParameter")()
        _upgrade_v0_layer(connection, layer, notes)
        net.layers[i].CopyFrom(layer)
    return origins


def _fold_padding(net: Any, notes: list[str]) -> list[int | None]:
    """Give the pad of each V0 padding layer to the convolution or pooling layers that read it, and remove it."""
    producer: dict[str, Any] = {}
    kept: list[int | None] = []
    for i, layer in enumerate(net.layers):
        name, kind = layer.layer.name, layer.layer.type
        read = list(layer.bottom)
        for j, bottom in enumerate(read):
            padding = producer.get(bottom)
            if padding is None:
                continue
            if kind not in ("conv", "pool") or len(read) != 1 or len(padding.bottom) != 1 or len(padding.top) != 1:
                raise LayerError(
                    f"reads V0 padding layer {padding.layer.name!r}: only a convolution "
                    "or pooling layer with one bottom can, and the padding layer needs one bottom and one top",
                    layer=name,
                    type=kind,
                )
            if layer.layer.pad:
                notes.append(
                    f"layer {name!r}: its own pad {layer.layer.pad} gives way to its padding layer's, as in Caffe"
                )
            layer.layer.pad = padding.layer.pad
            layer.bottom[j] = padding.bottom[0]
            notes.append(f"padding layer {padding.layer.name!r} (pad {padding.layer.pad}) became the pad of {name!r}")
        for top in layer.top:
            if kind == "padding":
                producer[top] = layer
            else:
                producer.pop(top, None)
        if kind != "padding":
            kept.append(i)
    _replace(net, "layers", [net.layers[i] for i in kept])
    return kept


def _upgrade_v0_layer(connection: Any, layer: Any, notes: list[str]) -> None:
    old = connection.layer
    kind = old.type
    layer.bottom.extend(connection.bottom)
    layer.top.extend(connection.top)
    for descriptor, _ in connection.ListFields():
        if descriptor.name not in ("layer", "bottom", "top"):
            notes.append(f"layer {old.name!r}: {descriptor.name} beside a V0 layer is ignored, as in Caffe")
    _carry_unknown(connection, layer, "V1LayerParameter")
    _carry_unknown(old, layer, "V0LayerParameter")

    v1_type, parameters = _V0_TYPES.get(kind, ("", ""))
    if v1_type:
        layer.type = layer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_name[v1_type].number
    elif kind:
        keep_unknown_text(layer, Unknown(Kind.ENUM_VALUE, "BVLC's V0 types", "type", quoted(kind)))
    for descriptor, value in old.ListFields():
        name = descriptor.name
        target, takers = _V0_FIELDS.get(name, ("", ""))
        if name == "name":
            layer.name = value
        elif name == "type":
            pass
        elif name in ("blobs", "blobs_lr", "weight_decay"):
            getattr(layer, name).extend(value)
        elif name in _V0_TRANSFORM:
            _put(layer.transform_param, _V0_TRANSFORM[name], value)
        elif name == "hdf5_output_param" and kind == "hdf5_output":
            layer.hdf5_output_param.CopyFrom(value)
        elif name == "pool" and kind == "pool":
            methods = layer.pooling_param.DESCRIPTOR.fields_by_name["pool"].enum_type.values_by_name
            layer.pooling_param.pool = methods[_enum_name(old, "pool")].number
        elif kind in takers.split():
            _put(getattr(layer, parameters), target, value)
        else:
            notes.append(
                f"layer {old.name!r}: {name} means nothing to a layer of type {kind!r} and is dropped, as in Caffe"
            )


# V1 -> current


def _upgrade_data_layers(net: Any) -> None:
    """Move scale, mean_file, crop_size and mirror of V1 data layers into their transform_param."""
    layers = [
        (layer, _DATA_LAYERS[kind]) for layer in net.layers if (kind := _enum_name(layer, "type")) in _DATA_LAYERS
    ]
    if not any(getattr(layer, name).HasField(f) for layer, name in layers for f in _TRANSFORM_FIELDS):
        return
    for layer, name in layers:
        parameters = getattr(layer, name)
        # Caffe leaves both messages behind in every data layer once one of them needs this.
        parameters.SetInParent()
        layer.transform_param.SetInParent()
        for f in _TRANSFORM_FIELDS:
            if parameters.HasField(f):
                setattr(layer.transform_param, f, getattr(parameters, f))
                parameters.ClearField(f)


def _upgrade_v1(net: Any, schema: Schema, notes: list[str]) -> None:
    for old in net.layers:
        _upgrade_v1_layer(old, net.layer.add(), schema, notes)
    notes.append(f"{len(net.layers)} layers upgraded from V1 (`layers {{ type: TYPE }}`)")
    net.ClearField("layers")


def _upgrade_v1_layer(old: Any, layer: Any, schema: Schema, notes: list[str]) -> None:
    _carry_unknown(old, layer, "V1LayerParameter", without="type")
    _upgrade_v1_type(old, layer, schema, notes)
    known = layer.DESCRIPTOR.fields_by_name
    for descriptor, value in old.ListFields():
        name = descriptor.name
        if name in ("blobs_lr", "weight_decay", "param", "blob_share_mode"):
            _upgrade_param_specs(name, value, old, layer)
        elif name == "type":
            pass
        elif name in known and _same_kind(descriptor, known[name]):
            _put(layer, name, value)
        else:
            for item in value if is_repeated(descriptor) else (value,):
                text = format_value(descriptor, item)
                keep_unknown_text(layer, Unknown(Kind.FIELD, "LayerParameter", name, text))
            notes.append(f"layer {old.name!r}: {name} has no place in a current layer and is kept as an unknown field")


def _upgrade_v1_type(old: Any, layer: Any, schema: Schema, notes: list[str]) -> None:
    if old.HasField("type"):
        layer.type = string_type(_enum_name(old, "type"), tuple(schema.layer_types))
        return
    text = next((u.text for u in unknown_fields_of(old) if u.name == "type"), None)
    if text is not None:
        bare = text.strip("\"'")
        layer.type = bare if text != bare else string_type(bare, tuple(schema.layer_types))
        notes.append(f"layer {old.name!r}: type {text} is no V1 type of dialect {schema.name}; read as {layer.type!r}")
        return
    number = next((e.data for e in UnknownFieldSet(old) if e.field_number == 5 and e.wire_type == 0), None)
    if number is not None:
        layer.type = f"V1 type {number}"
        notes.append(f"layer {old.name!r}: V1 type number {number} is none of dialect {schema.name}")


def _upgrade_param_specs(name: str, values: Iterable[Any], old: Any, layer: Any) -> None:
    for i, value in enumerate(values):
        while len(layer.param) <= i:
            layer.param.add()
        if name == "param":
            layer.param[i].name = value
        elif name == "blobs_lr":
            layer.param[i].lr_mult = value
        elif name == "weight_decay":
            layer.param[i].decay_mult = value
        else:
            mode = old.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number[value].name
            modes = layer.param[i].DESCRIPTOR.fields_by_name["share_mode"].enum_type.values_by_name
            layer.param[i].share_mode = modes[mode].number


# What the current generation has changed since


def _upgrade_inputs(net: Any, notes: list[str]) -> list[None]:
    """Turn the network's own inputs into an Input layer at the top; [None] if one was made."""
    names = list(net.input)
    listed = brief(", ".join(repr(name) for name in names), 200)
    shapes = list(net.input_shape)
    dims = list(net.input_dim)
    made: list[None] = []
    if shapes or dims:
        if not shapes:
            if len(dims) != 4 * len(names):
                raise NetworkError(
                    f"{len(names)} inputs ({listed}) need {4 * len(names)} input_dim, four for each, but "
                    f"{len(dims)} are given: {brief(str(dims))}. `input_shape {{ dim: ... }}` takes any number of axes"
                )
            shapes = [net.input_shape.add(dim=dims[4 * i : 4 * i + 4]) for i in range(len(names))]
        if len(shapes) != len(names):
            raise NetworkError(f"{len(names)} inputs ({listed}) but {len(shapes)} input_shape")
        layer = type(net)().layer.add(name="input", type="Input", top=names)
        layer.input_param.shape.extend(shapes)  # with what in them is no number, which is refused later
        _replace(net, "layer", [layer, *net.layer])
        made = [None]
        notes.append(f"input {listed} became an Input layer")
    else:
        # A network saved by an old Caffe: its weights matter, not its inputs. Caffe drops them too.
        notes.append(f"input {listed} has no shape and was dropped, as in Caffe")
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
    return made


def _upgrade_batch_norm(net: Any, notes: list[str]) -> None:
    """Hold BatchNorm's three blobs still: they are statistics, and old files had to say so for each."""
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            if any(spec.lr_mult or spec.decay_mult for spec in layer.param):
                notes.append(f"layer {layer.name!r}: lr_mult and decay_mult of a BatchNorm's statistics became 0")
            for spec in layer.param:
                spec.lr_mult = 0
                spec.decay_mult = 0


# Fields and unknown fields


def _put(message: Any, name: str, value: Any) -> None:
    """Set a field, whatever its kind; a single value is appended to a repeated field."""
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    if is_repeated(descriptor):
        many = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        target = getattr(message, name)
        target.extend(value if many else [value])
    elif descriptor.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def _replace(net: Any, name: str, layers: list[Any]) -> None:
    """Fill the field ``name`` with ``layers``, some of which may be its own."""
    holder = type(net)()
    getattr(holder, name).extend(layers)
    net.ClearField(name)
    getattr(net, name).extend(getattr(holder, name))


def _same_kind(one: Any, other: Any) -> bool:
    if one.message_type is not None or other.message_type is not None:
        return one.message_type is other.message_type and is_repeated(one) == is_repeated(other)
    return one.cpp_type == other.cpp_type and is_repeated(one) == is_repeated(other)


def _enum_name(message: Any, name: str) -> str:
    """Name of an enum field's value; its default if it is not set."""
    return message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number[getattr(message, name)].name


def _carry_unknown(old: Any, new: Any, generation: str, without: str = "") -> None:
    """Keep the unknown fields of ``old``, less the one named ``without``, in ``new``.

    A number would mean another field there, so it becomes a name.
    """
    for unknown in unknown_fields_of(old):
        if unknown.name and unknown.name != without:
            keep_unknown_text(new, unknown)
    left_out = old.DESCRIPTOR.fields_by_name[without].number if without else 0
    for entry in UnknownFieldSet(old):
        if entry.field_number == DOUBT_FIELD:
            keep_bytes(new, DOUBT_FIELD, entry.data)
        elif entry.field_number not in (TEXT_FIELD, left_out):
            value = quoted(entry.data.decode("latin-1")) if isinstance(entry.data, bytes) else str(entry.data)
            keep_unknown_text(new, Unknown(Kind.FIELD, generation, f"[{generation}.{entry.field_number}]", value))
