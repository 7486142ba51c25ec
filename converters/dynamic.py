"""Options ``dynamic_batch`` and ``dynamic_size``: inputs of other sizes than the net was built for.

Which layers allow that is found by building the net once more for other sizes: where a definition has numbers that tie
a size down (a Reshape's, say), the layer that has them says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from caffe_compat.errors import CaffeCompatError, LayerError, UsageError
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.registry import Shape
from caffe_compat.network.unread import ANY_FIELD

__all__ = ["Axes", "dynamic_axes", "other_shapes", "rebuilt"]

Axes: TypeAlias = dict[str, dict[int, str]]
"""By blob name of an input: axis -> the name of its size. Axes with one name are always of one size."""

# Inputs of layers that work through time: (steps, streams, ...).
_SEQUENCES = ("LSTM", "RNN", "Lstm")


def dynamic_axes(net: CaffeNet, *, dynamic_batch: bool = False, dynamic_size: Sequence[str] = ()) -> Axes:
    """The axes that these options make dynamic; empty where they ask for nothing.

    The batch is the first axis of the inputs, and the second, the streams, of those that a recurrent layer reads.
    Inputs of another number of items than the first input (regions, say) have a size of their own, unless a layer
    needs that number (one set of prior boxes, say).

    Args:
        dynamic_size: blob names of inputs (images, channels, height, width) whose height and width may vary.

    Raises:
        UsageError: a name that is no input, or one without a height and a width.
    """
    axes: Axes = {}
    shapes = {name: shape for name, shape in net.input_shapes.items() if name in net.program.needed_inputs}
    if dynamic_batch:
        places = {name: int(_is_sequence(net, name)) for name, shape in shapes.items() if len(shape) > 1}
        first = next((shapes[name][axis] for name, axis in places.items()), 0)
        for name, axis in places.items():
            if shapes[name][axis] == first:
                axes[name] = {axis: "batch"}
            elif _varies(net, own := {name: {axis: f"{name}_items"}}):
                axes |= own
    for name in dynamic_size:
        if name not in shapes:
            raise UsageError(f"no input {name!r} to be of any size; the net's inputs are {', '.join(shapes) or 'none'}")
        if len(shapes[name]) != 4:
            raise UsageError(f"input {name!r} has shape {list(shapes[name])}: no height and width to be of any size")
        axes.setdefault(name, {}).update({2: f"{name}_height", 3: f"{name}_width"})
    return axes


def other_shapes(net: CaffeNet, axes: Axes, more: int = 1) -> dict[str, Shape]:
    """Shapes of the inputs with the batch larger by ``more``, and heights and widths by 32 times that."""
    found = {}
    for name, shape in net.input_shapes.items():
        asked = axes.get(name, {})
        found[name] = tuple(
            size + (more if not asked[i].endswith(("_height", "_width")) else 32 * more) if i in asked else size
            for i, size in enumerate(shape)
        )
    return found


def rebuilt(net: CaffeNet, shapes: Mapping[str, Shape]) -> CaffeNet:
    """The net of the same definition for other shapes of its inputs, without weights, and with all blobs as outputs.

    Raises:
        LayerError: a layer allows no such inputs.
    """
    asked = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if shape != net.input_shapes[name])
    try:
        other = CaffeNet(
            net.message,
            net.graph.state,
            dialect=net.dialect,
            input_shapes=shapes,
            ignore_fields=(ANY_FIELD,),
            files=net.files,
        )
    except CaffeCompatError as error:
        raise LayerError(
            f"allows no other size, which was asked for; with the input {asked}: {error.detail}",
            layer=error.layer,
            type=error.type,
        ) from error
    for node in net.nodes_with_blobs():
        theirs = other.blobs_of(node.module_name)
        for blob, tensor in net.blobs_of(node.module_name).items():
            if theirs[blob].shape != tensor.shape:
                raise LayerError(
                    f"allows no other size, which was asked for: its {blob} is {list(tensor.shape)}, and with the "
                    f"input {asked} it would have to be {list(theirs[blob].shape)}",
                    layer=node.name,
                    type=node.type,
                )
    return other


def _varies(net: CaffeNet, axes: Axes) -> bool:
    try:
        rebuilt(net, other_shapes(net, axes))
    except LayerError:
        return False
    return True


def _is_sequence(net: CaffeNet, name: str) -> bool:
    value = next(v for v in net.program.inputs if net.graph.blobs[v] == name)
    reads = [node.type for node in net.graph.computed if value in node.bottoms]
    return any(type_ in _SEQUENCES for type_ in reads) and len(net.input_shapes[name]) > 1
