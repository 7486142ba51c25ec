"""V1 layers (2014; ``layers { type: CONVOLUTION }``) -> current ones, by Caffe's ``upgrade_proto.cpp``."""

from __future__ import annotations

from google.protobuf.unknown_fields import UnknownFieldSet

from . import Schema, is_repeated
from .enums import enum_name, enum_number, enum_of
from .fields import carry_unknown, put, same_kind
from .messages import LayerParameter, NetParameter, V1LayerParameter
from .printing import format_value
from .unknown import Kind, Unknown, keep_unknown_text, unknown_fields_of
from .v1_types import string_type

__all__ = ["upgrade_v1"]

_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_DATA_LAYERS = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}


def upgrade_v1(net: NetParameter, schema: Schema, notes: list[str]) -> None:
    """Replace V1 layers by current ones."""
    _upgrade_data_layers(net)
    for old in net.layers:
        _upgrade_layer(old, net.layer.add(), schema, notes)
    notes.append(f"{len(net.layers)} layers upgraded from V1 (`layers {{ type: TYPE }}`)")
    net.ClearField("layers")


def _upgrade_data_layers(net: NetParameter) -> None:
    """Move scale, mean_file, crop_size and mirror of V1 data layers into their transform_param."""
    layers = [(layer, _DATA_LAYERS[kind]) for layer in net.layers if (kind := enum_name(layer, "type")) in _DATA_LAYERS]
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


def _upgrade_layer(old: V1LayerParameter, layer: LayerParameter, schema: Schema, notes: list[str]) -> None:
    carry_unknown(old, layer, "V1LayerParameter", without="type")
    _upgrade_type(old, layer, schema, notes)
    _upgrade_param_specs(old, layer)
    known = layer.DESCRIPTOR.fields_by_name
    for descriptor, value in old.ListFields():
        name = descriptor.name
        if name in ("blobs_lr", "weight_decay", "param", "blob_share_mode", "type"):
            continue
        if name in known and same_kind(descriptor, known[name]):
            put(layer, name, value)
        else:
            for item in value if is_repeated(descriptor) else (value,):
                text = format_value(descriptor, item)
                keep_unknown_text(layer, Unknown(Kind.FIELD, "LayerParameter", name, text))
            notes.append(f"layer {old.name!r}: {name} has no place in a current layer and is kept as an unknown field")


def _upgrade_type(old: V1LayerParameter, layer: LayerParameter, schema: Schema, notes: list[str]) -> None:
    if old.HasField("type"):
        layer.type = string_type(enum_name(old, "type"), tuple(schema.layer_types))
        return
    text = next((u.text for u in unknown_fields_of(old) if u.name == "type"), None)
    if text is not None:
        bare = text.strip("\"'")
        layer.type = bare if text != bare else string_type(bare, tuple(schema.layer_types))
        said = f"type {text} is no V1 type of dialect {schema.name}, and Caffe refuses such a file"
        notes.append(f"layer {old.name!r}: {said}; read as {layer.type!r}")
        return
    number = next((e.data for e in UnknownFieldSet(old) if e.field_number == 5 and e.wire_type == 0), None)
    if number is not None:
        layer.type = f"V1 type {number}"
        notes.append(f"layer {old.name!r}: V1 type number {number} is none of dialect {schema.name}")


def _upgrade_param_specs(old: V1LayerParameter, layer: LayerParameter) -> None:
    """Gather what V1 has in four lists: names, how strict sharing is, rates and decays."""
    count = max(len(old.param), len(old.blob_share_mode), len(old.blobs_lr), len(old.weight_decay))
    specs = [layer.param.add() for _ in range(count)]
    for spec, name in zip(specs, old.param, strict=False):
        spec.name = name
    modes = enum_of(old, "blob_share_mode").values_by_number
    for spec, mode in zip(specs, old.blob_share_mode, strict=False):
        spec.share_mode = enum_number(spec, "share_mode", modes[mode].name)
    for spec, rate in zip(specs, old.blobs_lr, strict=False):
        spec.lr_mult = rate
    for spec, decay in zip(specs, old.weight_decay, strict=False):
        spec.decay_mult = decay
