"""What a picture that a network reads probably looks like: its channels, and its sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...schema.messages import LayerParameter
from ...schema.params import Params
from ..graph import Graph, Node
from ..guess import BlobShapes
from ..registry import Shape
from .flow import first_reader, steady_source
from .reading import batch_of, cuts_of, known_pictures, setting
from .walk import Walk

__all__ = ["Picture", "picture_of", "side_by_weights", "usual_sides"]

# The sides of pictures that published networks were trained on, the most common ones first.
_USUAL = (224, 227, 256, 300, 32, 28, 321, 299, 512, 64, 96, 112, 128, 368, 48, 24, 12, 448, 416, 600)
# Of clips: C3D's, which most networks of clips descend from.
_USUAL_OF_CLIPS = (112, 224, 128)
_FRAMES = 16
_LARGEST = 1 << 12
# Where so many sides fit, as behind a pooling of everything, the weights do not tell the side.
_TOO_MANY = 100
# Types that slide a kernel in three dimensions whatever their parameters say.
_OF_CLIPS = ("Convolution3D", "Pooling3D", "NdConvolution", "NdPooling", "CudnnNdConvolution", "CudnnNdPooling")
_OF_VIDEOS = "video_data_param"
# Settings of data layers that say how large pictures are, as heights and widths.
_SIZES = (
    ("crop_height", "crop_width"),
    ("crop_size", "crop_size"),
    ("new_height", "new_width"),
    ("height", "width"),
    ("resize_height", "resize_width"),
    ("max_size", "max_size"),
)


@dataclass(frozen=True)
class Picture:
    """An input that layers compute with.

    Attributes:
        axes: its shape; None for height and width where nothing tells them.
        why: what tells them; empty where nothing does.
    """

    axes: tuple[int | None, ...]
    why: str = ""

    @property
    def is_told(self) -> bool:
        """Whether its size is known."""
        return None not in self.axes

    def shape(self, side: int) -> Shape:
        """Its shape, as high and as wide as ``side`` where nothing tells."""
        return tuple(side if length is None else length for length in self.axes)


def usual_sides(picture: Picture) -> tuple[int, ...]:
    """The sides to try where nothing tells them, best first."""
    return _USUAL_OF_CLIPS if len(picture.axes) == 5 else _USUAL


def picture_of(graph: Graph, node: Node, value: int, blobs: BlobShapes) -> Picture:
    """What is known of an input ``value`` that source ``node`` brings."""
    layer, reader = node.message, first_reader(graph, value)
    batch = batch_of(layer)
    labels = setting(layer, "label_num")
    if labels and value in node.tops[1:2]:  # coordinates, which layers compute with as well
        return Picture((batch, labels), "label_num of its layer")
    if reader is not None and reader.type == "Embed":
        steady = steady_source(graph, reader.tops[0])
        if steady is not None and steady is not node:  # one of its items for each stream
            return Picture((batch, batch_of(steady.message)), f"steps, and streams as layer {steady.name!r} has items")
        return Picture((batch, 1), f"layer {reader.name!r} ({reader.type}) reads indices")
    if reader is not None and reader.type == "InnerProduct" and node.type == "HDF5Data" and blobs.get(reader.name):
        inputs = blobs[reader.name][0][-1]
        return Picture((batch, inputs), f"{reader.name} has {inputs} inputs")
    stacked = _stacked_frames(layer)
    clip = () if stacked else _frames(layer, reader)
    known = known_pictures(layer)
    told = next(_told_sizes(graph, node), None)
    channels = stacked or _channels_read(reader, blobs) or (known[0][0] if known else 0) or _channels_said(layer)
    if told is not None:
        return Picture((batch, channels, *clip, *told[0]), told[1])
    if known is not None and not clip:
        return Picture((batch, channels, *known[0][1:]), known[1])
    return Picture((batch, channels, *clip, None, None))


def _frames(layer: LayerParameter, reader: Node | None) -> tuple[int, ...]:
    """The axis of frames, if the layer that reads an input slides over it."""
    if reader is None:
        return ()
    if reader.type not in _OF_CLIPS and not setting(reader.message, "kernel_depth", "kernel_d", "kernel_l"):
        return ()
    return (setting(layer, "new_length", "length") or _FRAMES,)


def _stacked_frames(layer: LayerParameter) -> int:
    """The channels of videos whose frames, colours or both directions of flow, lie one behind the other; 0 of others.

    So they do in forks whose layer takes pieces of a video. Sources: yjxiong/caffe and BannyStone/Caffe,
    ``src/caffe/layers/video_data_layer.cpp`` and ``src/caffe/util/io.cpp``.
    """
    if layer.type != "VideoData" or _OF_VIDEOS not in layer.DESCRIPTOR.fields_by_name:
        return 0
    params = Params(getattr(layer, _OF_VIDEOS), _OF_VIDEOS)
    if not all(params.knows(name) for name in ("num_segments", "modality", "new_length")):
        return 0
    frames = int(params.new_length) * int(params.num_segments)
    if params.modality == "FLOW":
        return 2 * frames
    # One of several pictures each, where colours come before frames.
    step = int(params.step) if params.get("length_first", False) else 1
    return 3 * frames // max(step, 1)


def _told_sizes(graph: Graph, node: Node) -> Iterator[tuple[tuple[int, int], str]]:
    """Heights and widths, and what tells them: the layer itself, or one that brings the same blob in another phase."""
    for layer in (node.message, *(other for other in graph.message.layer if _brings_same(other, node.message))):
        for names in _SIZES:
            size = setting(layer, names[0]), setting(layer, names[1])
            if all(size):
                own = layer is node.message
                yield size, f"{names[0]} of its layer" if own else f"{names[0]} of its layer in another phase"


def _brings_same(other: LayerParameter, layer: LayerParameter) -> bool:
    return other != layer and not other.bottom and list(other.top[:1]) == list(layer.top[:1])


def _channels_read(reader: Node | None, blobs: BlobShapes) -> int:
    """How many channels the layer that reads an input must have; 0 if it takes any."""
    if reader is None:
        return 0
    if reader.type == "Slice":
        cuts = cuts_of(reader)
        return sum(cuts.lengths) if cuts.axis == 1 and cuts.points else 0
    stored = blobs.get(reader.name, ())
    if reader.type != "Convolution" or not stored or len(stored[0]) < 4:
        return 0
    return stored[0][1] * Params(reader.message.convolution_param, "convolution_param").group


def _channels_said(layer: LayerParameter) -> int:
    """One for grey pictures and three for others; a fork's own setting, or as many as there are mean values, win."""
    transform = layer.transform_param
    means = len(transform.mean_value)
    if layer.type.startswith("Flo"):  # optical flow: how far each pixel moves along either side
        return 2
    gray = transform.force_gray or setting(layer, "is_gray", "gray")
    return setting(layer, "channels") or (means if means in (1, 3) else 1 if gray else 3)


# By the weights


def side_by_weights(graph: Graph, judge: Node, expected: int, attempt: Callable[[int], Walk]) -> int | None:
    """The side of pictures for which a layer has as many inputs as its weights; None if none has, or nearly all have.

    The number of inputs grows with the side, so the sides that fit lie together; among them are preferred those that
    leave no remainder where kernels stride, and then the usual ones.

    Args:
        judge: the layer, an InnerProduct. expected: how many inputs its weights have.
        attempt: walks the network up to it with a side.
    """
    place = graph.computed.index(judge)

    def inputs(side: int) -> int:
        """How many it has; none where pictures are too small to get there."""
        found = attempt(side)
        if found.mismatch is not None and found.mismatch.node is judge:
            return found.mismatch.found[-1]
        return expected if found.reached > place else 0

    least = _first_side(lambda side: inputs(side) >= expected)
    if inputs(least) != expected:
        return None
    beyond = _first_side(lambda side: inputs(side) > expected)
    if beyond - least > _TOO_MANY:
        return None
    rank = {side: place for place, side in enumerate(_USUAL)}
    return min(
        range(least, beyond),
        key=lambda side: (_remainders(graph, attempt(side), place), rank.get(side, len(rank)), side),
    )


def _first_side(holds: Callable[[int], bool]) -> int:
    """The first side from which on something holds."""
    low, high = 1, _LARGEST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _remainders(graph: Graph, found: Walk, end: int) -> int:
    """How many of the first ``end`` layers leave pixels over where their kernel strides."""
    count = 0
    for node in graph.computed[:end]:
        shape = found.shapes.get(node.bottoms[0]) if node.bottoms else None
        if node.type not in ("Convolution", "Pooling") or shape is None:
            continue
        layer = node.message
        kernel, stride, pad = (setting(layer, name, f"{name}_h") for name in ("kernel_size", "stride", "pad"))
        count += kernel > 0 and (shape[-1] + 2 * pad - kernel) % (stride or 1) != 0
    return count
