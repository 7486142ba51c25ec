"""Layers whose tops come from outside the net: ``Input`` and the data layers.

A net never opens a file, so a data layer is an input of the shape that its parameters tell, or that the user gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from .graph import Graph, Node
from .registry import Shape, layer_types

__all__ = ["input_shapes", "is_source", "told_shapes"]

# Field with the layer's own parameters, and whether its labels are vectors under the fork that has ``label_dim``.
_PARAMS = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "ImageDataLstm": "image_data_lstm_param",
    "ImageDataSelf": "image_data_self_param",
    "WindowData": "window_data_param",
    "MemoryData": "memory_data_param",
    "HDF5Data": "hdf5_data_param",
}


def is_source(layer: Any) -> bool:
    """Whether ``layer`` (a ``LayerParameter``) brings data in: a data layer, or an unknown one without bottoms."""
    if layer.type == "Input" or layer.type in _PARAMS:
        return True
    return not layer.bottom and bool(layer.top) and layer.type not in layer_types()


def input_shapes(graph: Graph, given: Mapping[str, Shape]) -> tuple[dict[int, Shape], list[str]]:
    """The shape of every input by value id, and notes on data layers that became inputs.

    Args:
        given: shapes by blob name; they win over what the file says.

    Raises:
        UsageError: an input whose shape nobody tells, or a given name that is no input.
    """
    inputs = {graph.blobs[value] for value in graph.inputs}
    for name in given:
        if name not in inputs:
            raise UsageError(
                f"--input-shape names {name!r}, which is no input of the net ({', '.join(sorted(inputs))})"
            )
    shapes: dict[int, Shape] = {}
    notes, untold = [], []
    for node in graph.sources:
        told = told_shapes(node)
        parts = []
        for i, value in enumerate(node.tops):
            name = graph.blobs[value]
            shape = given.get(name, told[i] if i < len(told) else None)
            if shape is None:
                untold.append(f"{name} (layer {node.name!r}, {node.type})")
                continue
            if any(dim < 0 for dim in shape):
                raise UsageError(
                    f"layer {node.name!r} ({node.type}): input {name!r} has a negative dimension: {list(shape)}"
                )
            shapes[value] = shape
            parts.append(f"{name}={','.join(map(str, shape))}")
        if node.type != "Input":
            notes.append(f"data layer {node.name!r} ({node.type}) became the input {' '.join(parts)}")
    if untold:
        example = " ".join(f"--input-shape {text.split(' (')[0]}=N,C,H,W" for text in untold)
        raise UsageError(f"the shape of input {', '.join(untold)} is not in the file; pass {example}")
    return shapes, notes


def told_shapes(node: Node) -> list[Shape | None]:
    """Shapes of a source's tops as far as its own parameters tell; shorter than its tops where they tell less."""
    return _input_layer_shapes(node) if node.type == "Input" else _data_layer_shapes(node)


def _input_layer_shapes(node: Node) -> list[Shape | None]:
    shapes = [tuple(shape.dim) for shape in node.message.input_param.shape]
    if len(shapes) == 1:
        return [shapes[0]] * len(node.tops)
    if shapes and len(shapes) != len(node.tops):
        raise UsageError(
            f"layer {node.name!r} (Input): {len(shapes)} shapes for {len(node.tops)} tops; one, or one for each, "
            "was expected"
        )
    return list(shapes)


def _data_layer_shapes(node: Node) -> list[Shape | None]:
    """Shapes of (data, label) as far as the parameters tell."""
    field = _PARAMS.get(node.type)
    if field is None or field not in node.message.DESCRIPTOR.fields_by_name:
        return []
    params, transform = getattr(node.message, field), node.message.transform_param
    batch = params.batch_size
    if node.type == "MemoryData":
        return [(batch, params.channels, params.height, params.width), (batch,)]
    crop = transform.crop_size or getattr(params, "crop_size", 0)
    size = (crop, crop) if crop else (getattr(params, "new_height", 0), getattr(params, "new_width", 0))
    gray = transform.force_gray or not getattr(params, "is_color", True)
    data = (batch, 1 if gray else 3, *size) if all(size) and node.type != "HDF5Data" else None
    # The 3Dpose_ssl fork's image layers have labels of ``label_dim`` values, everyone else's are one number.
    labels = (batch, params.label_dim) if "label_dim" in params.DESCRIPTOR.fields_by_name else (batch,)
    return [data, labels if node.type != "HDF5Data" else None]
