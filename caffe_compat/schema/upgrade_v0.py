"""V0 layers (2013; ``layers { layer { type: "conv" } }``) -> V1 layers, by Caffe's ``upgrade_proto.cpp``."""

from __future__ import annotations

from ..errors import LayerError, NetworkError
from . import Schema
from .enums import enum_name, enum_number
from .fields import carry_unknown, put, replace
from .messages import NetParameter, V1LayerParameter
from .printing import quoted
from .unknown import Kind, Unknown, keep_unknown_text

__all__ = ["upgrade_v0"]

# V0 type -> (V1 type, the V1 layer's parameter message)
_TYPES = {
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
_FIELDS = {
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
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}


def upgrade_v0(net: NetParameter, schema: Schema, notes: list[str]) -> list[int]:
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
        _upgrade_layer(connection, layer, notes)
        net.layers[i].CopyFrom(layer)
    return origins


def _fold_padding(net: NetParameter, notes: list[str]) -> list[int]:
    """Give the pad of each V0 padding layer to the convolution or pooling layers that read it, and remove it."""
    producer: dict[str, V1LayerParameter] = {}
    kept: list[int] = []
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
    replace(net, "layers", [net.layers[i] for i in kept])
    return kept


def _upgrade_layer(connection: V1LayerParameter, layer: V1LayerParameter, notes: list[str]) -> None:
    old = connection.layer
    kind = old.type
    layer.bottom.extend(connection.bottom)
    layer.top.extend(connection.top)
    for descriptor, _ in connection.ListFields():
        if descriptor.name not in ("layer", "bottom", "top"):
            notes.append(f"layer {old.name!r}: {descriptor.name} beside a V0 layer is ignored, as in Caffe")
    carry_unknown(connection, layer, "V1LayerParameter")
    carry_unknown(old, layer, "V0LayerParameter")

    v1_type, parameters = _TYPES.get(kind, ("", ""))
    if v1_type:
        layer.type = enum_number(layer, "type", v1_type)
    elif kind:
        keep_unknown_text(layer, Unknown(Kind.ENUM_VALUE, "BVLC's V0 types", "type", quoted(kind)))
    for descriptor, value in old.ListFields():
        name = descriptor.name
        target, takers = _FIELDS.get(name, ("", ""))
        if name == "name":
            layer.name = old.name
        elif name == "type":
            pass
        elif name in ("blobs", "blobs_lr", "weight_decay"):
            getattr(layer, name).extend(value)
        elif name in _TRANSFORM:
            put(layer.transform_param, _TRANSFORM[name], value)
        elif name == "hdf5_output_param" and kind == "hdf5_output":
            put(layer, name, value)
        elif name == "pool" and kind == "pool":
            layer.pooling_param.pool = enum_number(layer.pooling_param, "pool", enum_name(old, "pool"))
        elif kind in takers.split():
            put(getattr(layer, parameters), target, value)
        else:
            notes.append(
                f"layer {old.name!r}: {name} means nothing to a layer of type {kind!r} and is dropped, as in Caffe"
            )
