"""Layers whose tops come from outside the net: ``Input``, the data layers, and the Python classes that read data.

A net never opens a file, so a data layer is an input of the shape that its parameters tell, or that the user gives.
"""

from __future__ import annotations

from ..errors import LayerError, UsageError
from ..schema.messages import LayerParameter
from .python_registry import PythonSettings, PythonType, brings_data, find_python
from .registry import Shape, is_registered

__all__ = ["is_source", "told_shapes", "with_batch"]

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
# Data layers of MS-CNN and Cascade R-CNN: their parameters, the rates by which maps of labels are smaller than
# pictures, whether halves of that are rounded up or all is cut off, and how many numbers a true box has. Sources:
# zhaoweicai/mscnn, ``image_gt_data_layer.cpp``, and zhaoweicai/cascade-rcnn, ``detection_data_layer.cpp``.
_OF_FIELDS = {
    "ImageGtData": ("image_gt_data_param", "downsample_rate", False, 7),
    "DetectionData": ("detection_data_param", "stride", True, 8),
}
# Fields with a picture's width and height, the last that a file has first.
_SIZES_OF_FIELDS = (
    ("crop_width", "crop_height"),
    ("crop_short_size", "crop_long_size"),
    ("resize_width", "resize_height"),
    ("short_size", "long_size"),
)


def is_source(layer: LayerParameter, *, allow_python: bool = False) -> bool:
    """Whether ``layer`` (a ``LayerParameter``) brings data in: a data layer, or an unknown one without bottoms.

    Args:
        allow_python: whether a ``Python`` layer may be a class of the user's that reads data itself.
    """
    if layer.type == "Input" or layer.type in _PARAMS:
        return True
    if layer.type == "Python" and not layer.bottom:
        from ..layers.bvlc.python_layer import takes_own  # pycaffe's layers, which few nets have

        names = (layer.python_param.module, layer.python_param.layer)
        return brings_data(*names) and takes_own(*names, allow_python=allow_python)
    return not layer.bottom and bool(layer.top) and not is_registered(layer.type)


def told_shapes(layer: LayerParameter) -> list[Shape | None]:
    """One shape for each top of a source (a ``LayerParameter``), None where its own parameters do not tell.

    Raises:
        UsageError: an Input layer with neither one shape nor one for each top. LayerError: a Python layer with settings
            or a number of tops that do not fit its class.
    """
    entry = find_python(layer) if layer.type == "Python" else None
    if entry is not None:
        told = _python_shapes(layer, entry)
    else:
        told = _input_shapes(layer) if layer.type == "Input" else _data_shapes(layer)
    count = len(layer.top)
    return [*told, *[None] * count][:count]


def with_batch(layer: LayerParameter, given: Shape, told: Shape | None) -> Shape:
    """The shape that a user gives for a top of a source, with the batch of the layer where only a picture's was given.

    Args:
        given: as the user has it: channels, height and width stand for pictures of a batch. told: as the layer has it.
    """
    if len(given) != 3:
        return given
    if told is not None:
        return (told[0], *given) if len(told) == 4 else given
    pictures = layer.type in _PARAMS and layer.type != "HDF5Data"
    return (getattr(layer, _PARAMS[layer.type]).batch_size or 1, *given) if pictures else given


def _input_shapes(layer: LayerParameter) -> list[Shape | None]:
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    if len(shapes) == 1:
        return [shapes[0]] * len(layer.top)
    if shapes and len(shapes) != len(layer.top):
        raise UsageError(
            f"{len(shapes)} shapes for {len(layer.top)} tops; one, or one for each, was expected",
            layer=layer.name,
            type=layer.type,
        )
    return list(shapes)


def _python_shapes(layer: LayerParameter, entry: PythonType) -> list[Shape | None]:
    settings = PythonSettings(layer.python_param.param_str, layer=layer.name)
    assert entry.shapes is not None
    try:
        shapes = entry.shapes(settings, tuple(layer.top))
    except LayerError as error:
        error.within(layer=layer.name, type=layer.type)
        raise
    settings.check_all_read()
    return list(shapes)


def _data_shapes(layer: LayerParameter) -> list[Shape | None]:
    """Shapes of (data, label) as far as the parameters tell."""
    known = layer.DESCRIPTOR.fields_by_name
    if layer.type in _OF_FIELDS and _OF_FIELDS[layer.type][0] in known:
        return _shapes_of_fields(layer)
    field = _PARAMS.get(layer.type)
    if field is None or field not in known:
        return []
    params, transform = getattr(layer, field), layer.transform_param
    batch = params.batch_size
    if layer.type == "MemoryData":
        return [(batch, params.channels, params.height, params.width), (batch,)]
    crop = transform.crop_size or getattr(params, "crop_size", 0)
    size = (crop, crop) if crop else (getattr(params, "new_height", 0), getattr(params, "new_width", 0))
    gray = transform.force_gray or not getattr(params, "is_color", True)
    data = (batch, 1 if gray else 3, *size) if all(size) and layer.type != "HDF5Data" else None
    # The 3Dpose_ssl fork's image layers have labels of ``label_dim`` values, everyone else's are one number.
    labels = (batch, params.label_dim) if "label_dim" in params.DESCRIPTOR.fields_by_name else (batch,)
    return [data, labels if layer.type != "HDF5Data" else None]


def _shapes_of_fields(layer: LayerParameter) -> list[Shape | None]:
    """Pictures, a map of labels for each kind of field, and the true boxes, of which there is one at first."""
    field, rates, rounded, numbers = _OF_FIELDS[layer.type]
    params = getattr(layer, field)
    has = [pair for pair in _SIZES_OF_FIELDS if all(n in params.DESCRIPTOR.fields_by_name for n in pair)]
    size = next(
        ((getattr(params, w), getattr(params, h)) for w, h in has if getattr(params, w) * getattr(params, h)), None
    )
    if size is None:
        return []  # each picture has its own
    width, height = size
    labels: list[Shape | None] = [
        (params.batch_size, 2 + params.coord_num, *((2 * n + rounded * rate) // (2 * rate) for n in (height, width)))
        for rate in getattr(params, rates)
        if rate
    ]
    return [(params.batch_size, 3, height, width), *labels, (1, numbers, 1, 1)]
