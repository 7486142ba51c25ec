"""Small layers of many forks that rearrange values: Axpy, Flip, Reorg, Reverse, ShuffleChannel, Transpose."""

from __future__ import annotations

from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..gradients import without_gradient
from .families import CAMBRICON

__all__ = [
    "Axpy",
    "Flip",
    "Reorg",
    "Reverse",
    "ShuffleChannel",
    "SpaceToDepth",
    "Transpose",
]

# Those that share a meaning, where other forks have another under the same name.
_AXPYS = (
    "NVIDIA/caffe",
    "tidsp/caffe-jacinto@caffe-0.17",
    "intel/caffe",
    "jolibrain/caffe",
    "happynear/caffe-windows",
    "dlunion/CC4.0",
    "lzx1413/CAFFE_SSD",
    "eric612/MobileNet-YOLO",
    "soeaver/py-RFCN-priv",
    "torrvision/caffe-tvg",
)
_REVERSES = (
    "jolibrain/caffe",
    "ChWick/caffe@warp-ctc",
    "dlunion/CC4.0",
    "makefile/frcnn",
    "MhLiao/TextBoxes_plusplus",
    "senlinuc/caffe_ocr",
    "tianzhi0549/CTPN",
    "yuqj1991/caffe_train",
)
_TRANSPOSES = (
    "tianzhi0549/CTPN",
    "dlunion/CC4.0",
    "makefile/frcnn",
    "senlinuc/caffe_ocr",
    "tonghe90/textspotter",
    "yuqj1991/caffe_train",
)
# The backward pass of these reads a buffer that nothing fills,
_REORGS = (
    "gklz1982/caffe-yolov2",
    "intel/caffe",
    "eric612/MobileNet-YOLO",
    "eric612/Caffe-YOLOv3-Windows",
    "choasup/caffe-yolo9000",
    *CAMBRICON,
)
# while this one's, on a CPU, is what it should be.
_DERIVED_REORGS = ("BirdeeChen/caffe_yolo_v2",)


def _not_in_place(spec: LayerSpec) -> None:
    if spec.bottoms[0] == spec.tops[0]:
        spec.fail("cannot run in place: the fork refuses it, or overwrites what it is about to read")


class Axpy(Layer):
    """a x + y, with one a for each channel of each example (squeeze-and-excitation networks).

    Args:
        axes: how many leading axes ``a`` has of its own.
    """

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return a.reshape(*x.shape[: self.axes], *[1] * (x.dim() - self.axes)) * x + y


@layer("Axpy", bottoms=3, tops=1, dialects=("BannyStone/Caffe",), verified=False)
def axpy_of_volumes(spec: LayerSpec) -> Layer:
    """One a for each frame of each channel."""
    images, channels, length, *_ = spec.volumes(1)
    spec.alike(1, 2)
    spec.shaped(0, f"images = {images}", f"channels = {channels}", f"length = {length}", 1, 1)
    return Axpy(3)


@layer("Axpy", bottoms=3, tops=1, dialects=_AXPYS)
def axpy(spec: LayerSpec) -> Layer:
    images, channels, *_ = spec.channels(1)
    spec.alike(1, 2)
    spec.shaped(0, f"images = {images}", f"channels = {channels}", ones=True)
    return Axpy()


class Reverse(Layer):
    """One axis backwards."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axis)


@layer("Reverse", bottoms=1, tops=1, dialects=_REVERSES)
def reverse(spec: LayerSpec) -> Layer:
    _not_in_place(spec)
    axis, rank = spec.params("reverse_param").axis, len(spec.bottom_shapes[0])
    if not 0 <= axis < rank:
        spec.fail(f"axis {axis} must be one of the {rank} of the bottom, counted from 0")
    return Reverse(axis)


class Flip(Layer):
    """Images (N, C, H, W) mirrored along ``axes``."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axes)


@layer("Flip", bottoms=1, tops=1)
def flip(spec: LayerSpec) -> Layer:
    _not_in_place(spec)
    params = spec.params("flip_param")
    spec.images()
    return Flip((2,) * params.flip_height + (3,) * params.flip_width)


class Transpose(Layer):
    """The axes in another order: axis i of the top is axis ``order[i]`` of the bottom."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order).contiguous()


@layer("Transpose", bottoms=1, tops=1, dialects=_TRANSPOSES)
def transpose(spec: LayerSpec) -> Layer:
    _not_in_place(spec)
    rank, order = len(spec.bottom_shapes[0]), spec.params("transpose_param").dim
    if sorted(order) != list(range(rank)):
        spec.fail(f"dim {list(order)} must name each of the {rank} axes of the bottom once")
    return Transpose(order)


class ShuffleChannel(Layer):
    """Channels of ``group`` groups dealt out in turn: the first of each group, then the second of each, and so on."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.group, -1)).transpose(1, 2).flatten(1, 2)


@layer("ShuffleChannel", bottoms=1, tops=1)
def shuffle_channel(spec: LayerSpec) -> Layer:
    _not_in_place(spec)
    shape, group = spec.channels(), spec.params("shuffle_channel_param").group
    if group < 1 or shape[1] % group:
        spec.fail(f"group {group} must divide the channels of the bottom {list(shape)}")
    return ShuffleChannel(group)


class Reorg(Layer):
    """Blocks of ``stride`` x ``stride`` cells become channels, in the order of YOLO v2's ``reorg``; or the reverse.

    The order is not that of space-to-depth: as in Darknet, the map is first read as one of C / stride^2 channels and
    stride times the size.

    Args:
        derived: False gives no gradient: the backward pass of most forks reads a buffer that nothing fills.
    """

    def __init__(self, stride: int, *, back: bool, derived: bool) -> None:
        super().__init__()
        self.stride = stride
        self.back = back
        self.derived = derived

    def forward(self, x: Tensor) -> Tensor:
        return self._dealt(x) if self.derived else without_gradient(self._dealt(x), x)

    def _dealt(self, x: Tensor) -> Tensor:
        s = self.stride
        images, channels, height, width = x.shape
        few = channels // (s * s)
        if self.back:
            blocks = x.reshape(images, s, s, few, height, width).permute(0, 3, 4, 1, 5, 2)
            return blocks.reshape(images, few, height * s, width * s)
        blocks = x.reshape(images, few, height, s, width, s).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(images, channels * s * s, height // s, width // s)


@layer("Reorg", bottoms=1, tops=1, dialects=_REORGS)
def reorg(spec: LayerSpec) -> Layer:
    return _reorg(spec, derived=spec.gradients == "true")


@layer("Reorg", bottoms=1, tops=1, dialects=_DERIVED_REORGS)
def derived_reorg(spec: LayerSpec) -> Layer:
    return _reorg(spec, derived=True)


def _reorg(spec: LayerSpec, *, derived: bool) -> Layer:
    _not_in_place(spec)
    shape, params = spec.images(), spec.params("reorg_param")
    if params.stride < 1:
        spec.fail("needs a stride of at least 1")
    s, back = params.stride, params.get("reverse", False)
    if shape[1] % (s * s) or (not back and (shape[2] % s or shape[3] % s)):
        spec.fail(
            f"stride {s} does not fit the bottom {list(shape)}: its square must divide the channels, and, unless in "
            "reverse, it the height and the width"
        )
    return Reorg(s, back=back, derived=derived)


class SpaceToDepth(Layer):
    """Blocks of ``stride`` x ``stride`` cells become channels, those of a channel side by side; the rest is left out.

    The GPU code of Wulingtian/yolov5_caffe, ``reorg_layer.cu``, which its networks run with: its CPU code orders
    channels another way, and leaves out all images but the first. Neither has a backward pass that reads the top's.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        s, (images, channels, height, width) = self.stride, x.shape
        rows, columns = height // s, width // s
        blocks = x[:, :, : rows * s, : columns * s].reshape(images, channels, rows, s, columns, s)
        return blocks.permute(0, 1, 3, 5, 2, 4).reshape(images, channels * s * s, rows, columns)


@layer("Reorg", bottoms=1, tops=1, dialects=("Wulingtian/yolov5_caffe",), verified=False)
def space_to_depth(spec: LayerSpec) -> Layer:
    _not_in_place(spec)
    shape, params = spec.images(), spec.params("reorg_param")
    if not params.has("stride") or not 1 <= params.stride <= min(shape[2:]):
        spec.fail(f"needs a stride of at least 1 that fits into the bottom {list(shape)}")
    if params.reverse:
        spec.fail("reverse: true is not supported: the fork's code on a GPU does not honour it")
    spec.note("Reorg orders channels as the fork does on a GPU; on a CPU it has another order")
    return SpaceToDepth(params.stride)
