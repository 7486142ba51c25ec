"""Networks as pictures: layers are boxes, blobs octagons. Needs Graphviz (its program ``dot``), except for text."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..display import shown
from ..errors import MissingExtraError, UsageError
from ..extras import require
from ..formats.files import atomic_write
from ..schema.messages import LayerParameter, NetParameter
from .proto import caffe_pb2

__all__ = [
    "choose_color_by_layertype",
    "dot_text",
    "draw_net",
    "draw_net_to_file",
    "get_edge_label",
    "get_layer_label",
    "get_layer_lr_mult",
    "get_pooling_types_dict",
    "get_pydot_graph",
]

_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
_COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
_OTHER, _IN_PLACE, _BLOB = "#6495ED", "#90EE90", "#E0E0E0"


def get_pooling_types_dict() -> dict[int, str]:
    """Number of a pooling method -> its name."""
    return {
        value.number: name for name, value in caffe_pb2.PoolingParameter.PoolMethod.DESCRIPTOR.values_by_name.items()
    }


def get_edge_label(layer: LayerParameter) -> str:
    """What a layer's tops are labelled with: the batch size, the number of outputs, or nothing."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def get_layer_lr_mult(layer: LayerParameter) -> tuple[float, float]:
    """The learning-rate multipliers of weights and biases. Raises ValueError for a layer of another kind."""
    if layer.type not in _LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    rates = [spec.lr_mult for spec in layer.param]
    if len(rates) > 2:
        raise ValueError(f"layer {layer.name}: {len(rates)} learning rate multipliers; two were expected")
    first, second = (*rates, 1.0, 1.0)[:2]
    return first, second


def get_layer_label(layer: LayerParameter, rankdir: str, display_lrm: bool = False) -> str:
    """Name, type and geometry of a layer: on one line where the picture runs down, else one below the other."""
    kind = layer.type
    if kind == "Pooling":
        kind += " " + get_pooling_types_dict()[layer.pooling_param.pool]
    parts = [shown(layer.name), f"({shown(kind)})"]
    if layer.type == "Pooling":
        p = layer.pooling_param
        parts += [f"kernel size: {p.kernel_size}", f"stride: {p.stride}", f"pad: {p.pad}"]
    elif layer.type in ("Convolution", "Deconvolution"):
        c = layer.convolution_param
        kernel, stride, pad = (list(values) for values in (c.kernel_size, c.stride, c.pad))
        parts += [f"kernel size: {(kernel or [1])[0]}", f"stride: {(stride or [1])[0]}", f"pad: {(pad or [0])[0]}"]
    if display_lrm and layer.type in _LEARNING:
        rates = get_layer_lr_mult(layer)
        if any(rates):
            parts.append(f"lr mult: {rates[0]:.1f}, {rates[1]:.1f}")
    return (" " if rankdir in ("TB", "BT") else "\n").join(parts)


def choose_color_by_layertype(layertype: str) -> str:
    """The colour of a layer's box."""
    return _COLORS.get(layertype, _OTHER)


def _layers_of(net: NetParameter, phase: int | None) -> Iterator[LayerParameter]:
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise ValueError(f"layer {layer.name} has both include and exclude specified.")
        if phase is not None:
            if layer.include and all(rule.phase != phase for rule in layer.include):
                continue
            if any(rule.phase == phase for rule in layer.exclude):
                continue
        yield layer


def dot_text(
    caffe_net: NetParameter,
    rankdir: str = "LR",
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> str:
    """The picture of a ``NetParameter`` in Graphviz's language.

    Args:
        rankdir: ``LR`` from left to right, ``TB`` down, ``BT`` up.
        label_edges: write numbers of outputs beside the arrows.
        phase: ``caffe.TRAIN`` or ``caffe.TEST`` leaves out layers of the other phase. display_lrm: show learning-rate
            multipliers.
    """
    nodes: dict[str, str] = {}
    edges: list[str] = []
    for layer in _layers_of(caffe_net, phase):
        in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
        color = _IN_PLACE if in_place else choose_color_by_layertype(layer.type)
        box = _node(f"{layer.name}_{layer.type}")
        nodes[box] = f"label={_quoted(get_layer_label(layer, rankdir, display_lrm))}, shape=box, {_filled(color)}"
        for name in (*layer.bottom, *layer.top):
            nodes[_node(f"{name}_blob")] = f"label={_quoted(shown(name))}, shape=octagon, {_filled(_BLOB)}"
        edges += [f"{_node(f'{name}_blob')} -> {box};" for name in layer.bottom]
        label = get_edge_label(layer) if label_edges else ""
        edges += [f"{box} -> {_node(f'{name}_blob')} [label={_quoted(label)}];" for name in layer.top]
    lines = [f"rankdir={rankdir};", *(f"{name} [{style}];" for name, style in nodes.items()), *edges]
    return f"digraph {_node(caffe_net.name or 'Net')} {{\n" + "".join(f"{line}\n" for line in lines) + "}\n"


def _filled(color: str) -> str:
    return f'style=filled, fillcolor="{color}"'


def _node(name: str) -> str:
    """What a node is called: one line, and another one for every name."""
    return _quoted(shown(name.replace("\\", "\\\\")))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def get_pydot_graph(
    caffe_net: NetParameter, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """The picture as a ``pydot`` graph. Raises MissingExtraError without that package."""
    pydot = require("pydot", "draw")
    return pydot.graph_from_dot_data(dot_text(caffe_net, rankdir, label_edges, phase, display_lrm))[0]


def draw_net(
    caffe_net: NetParameter, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The picture as the bytes of a file of format ``ext``; ``raw`` and ``dot`` are Graphviz's language itself.

    Raises:
        MissingExtraError: Graphviz is not installed. UsageError: it does not know the format.
    """
    text = dot_text(caffe_net, rankdir, True, phase, display_lrm).encode()
    if ext in ("raw", "dot", "gv"):
        return text
    program = shutil.which("dot")
    if program is None:
        raise MissingExtraError(
            f"drawing a .{ext} needs Graphviz's program dot, which is not on the PATH (apt install graphviz, brew "
            "install graphviz); ext='dot' gives the text that it draws"
        )
    done = subprocess.run([program, f"-T{ext}"], input=text, capture_output=True, check=False)
    if done.returncode != 0:
        raise UsageError(f"dot cannot draw a .{ext}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def draw_net_to_file(
    caffe_net: NetParameter,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write the picture to a file whose extension says the format; see :func:`draw_net`."""
    path = Path(filename)
    picture = draw_net(caffe_net, rankdir, path.suffix[1:], phase, display_lrm)
    with atomic_write(path) as file:
        file.write(picture)
