"""SmoothL1Loss, of which the forks have nine, and SmoothL1LossOHEM."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...network.shapes import four_axes
from ..bvlc.loss import normalization_mode, normalizer, same_batch, with_gradient
from ..precision import widened
from .families import DREADLORD

__all__ = ["Divisor", "SmoothL1Loss", "divided_by"]

# Fast R-CNN's, and SSD's after it: no parameters, and inside weights as a third bottom.
_PLAIN = (
    "rbgirshick/caffe-fast-rcnn@fast-rcnn",
    *DREADLORD,
    "BannyStone/Caffe",
    "BestSonny/SSTD",
    "ByeonghakYim/Hanyang_SSD",
    "CV-IP/3DObject-detection",
    "MVIG-SJTU/RMPE",
    "MhLiao/TextBoxes",
    "MhLiao/TextBoxes_plusplus",
    "NVIDIA/caffe",
    "bnkang/caffe-windows-for-fr",
    "choasup/caffe-yolo9000",
    "chuanqi305/ssd",
    "ducha-aiki/caffe",
    "eric612/Caffe-YOLOv3-Windows",
    "eric612/MobileNet-YOLO",
    "happynear/caffe-windows@master",
    "imistyrain/ssd",
    "leejang/two_stream_ssd_caffe",
    "lxx1991/caffe_mpi",
    "lzx1413/CAFFE_SSD",
    "sfzhang15/RefineDet",
    "tidsp/caffe-jacinto@caffe-0.16",
    "tidsp/caffe-jacinto@caffe-0.17",
    "weiliu89/caffe@ssd",
    "yjxiong/caffe",
    "yjxiong/caffe@interp",
    "zimenglan-sysu-512/pose_action_caffe",
)
# Faster R-CNN's: sigma, and inside and outside weights.
_FASTER = (
    "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445",
    "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup",
    "AlphaNext/CaffePlus",
    "AndreiBarsan/caffe-mnc",
    "BOBrown/caffe-ssd-microsoft",
    "GuohongWu/caffe-windows",
    "Microsoft/caffe",
    "bharatsingh430/py-R-FCN-multiGPU",
    "daijifeng001/caffe-mnc",
    "dlunion/CC4.0",
    "jolibrain/caffe",
    "leon-liangwu/MaskYolo_Caffe",
    "mahyarnajibi/caffe-ssh",
    "makefile/frcnn",
    "openvinotoolkit/training_toolbox_caffe",
    "peteanderson80/bottom-up-attention",
    "pulkitag/caffe",
    "rickyHong/caffe-rcnn-action-recognition",
    "sanghoon/caffe@dev_pvanet",
    "shenyunhang/caffe-wsl",
    "soeaver/py-RFCN-priv",
    "superxuang/caffe_3d_faster_rcnn",
    "tianzhi0549/CTPN",
    "tonghe90/textspotter",
    "torrvision/caffe-tvg",
    "unsky/FPN",
    "walkoncross/caffe",
    "zhaoweicai/mscnn",
)
# Their CPU code knows no outside weights; what is here is their CUDA code.
_CPU_WITHOUT_OUTSIDE = ("BOBrown/caffe-ssd-microsoft", "jolibrain/caffe")

# What a summed loss is divided by, from the first bottom and the weights.
Divisor = Callable[[Tensor, tuple[Tensor, ...]], float | Tensor]


def _examples(a: Tensor, weights: tuple[Tensor, ...]) -> float:
    return a.shape[0]


def _examples_or_one(a: Tensor, weights: tuple[Tensor, ...]) -> float:
    return max(1, a.shape[0])


def _positions(a: Tensor, weights: tuple[Tensor, ...]) -> float:
    return a.shape[0] * math.prod(a.shape[2:])


def _one(a: Tensor, weights: tuple[Tensor, ...]) -> float:
    return 1.0


def divided_by(spec: LayerSpec) -> Divisor:
    """What ``loss_param`` asks for: a mode of BVLC's, or the number in ``pre_fixed_normalizer``."""
    params = spec.params("loss_param")
    if params.has("normalization") and params.normalization == "PRE_FIXED":
        params.ignore("normalize")
        return partial(_fixed, max(1.0, params.pre_fixed_normalizer))
    return partial(_counted, normalization_mode(spec, "VALID"))


def _fixed(divisor: float, a: Tensor, weights: tuple[Tensor, ...]) -> float:
    return divisor


def _counted(mode: str, a: Tensor, weights: tuple[Tensor, ...]) -> Tensor | float:
    return normalizer(mode, a.shape[0], math.prod(a.shape[2:]), None)


@dataclass(frozen=True)
class SmoothL1Settings:
    """Parameters of :class:`SmoothL1Loss`.

    Attributes:
        square: sigma squared. turn: where the loss turns linear, if not at 1 / sigma squared. With such a turn other
            than 1 the slope jumps.
        outside: place of the outside weights among the weights; None for none. The inside weights, if there are any,
            are the first.
        absolute: it is the sizes of the products with the outside weights that are summed; the gradient knows no such.
        followed: the gradient has the inside weights as a factor, as the derivative has.
        divisor: what the loss is divided by. backward: what its gradient is, if that is something else.
    """

    divisor: Divisor = _examples
    backward: Divisor | None = None
    square: float = 1.0
    turn: float | None = None
    inside: bool = True
    outside: int | None = None
    absolute: bool = False
    followed: bool = False


class SmoothL1Loss(Layer):
    """Sum of f(w (a - b)) v over all values, divided by a number.

    f(d) is sigma^2 d^2 / 2 for |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). Bottoms are a, b, and weights: w (inside)
    and v (outside), either of them or both. A second top is f summed over the channels.
    """

    def __init__(self, settings: SmoothL1Settings, gradients: str, *, tops: int) -> None:
        super().__init__()
        self.settings = settings
        self.gradients = gradients
        self.with_sums = tops > 1

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a = bottoms[0]
        loss = a.new_empty(())
        return (loss, a.new_empty(self._positions(a))) if self.with_sums else loss

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        s = self.settings
        weights = tuple(weight.detach().reshape(a.shape) for weight in weights)
        inside = weights[0] if weights and s.inside else None
        outside = None if s.outside is None or s.outside >= len(weights) else weights[s.outside]
        difference = widened(a) - widened(b).reshape(a.shape)
        scaled = difference if inside is None else difference * inside
        turn = 1 / s.square if s.turn is None else s.turn
        near = scaled.abs() < turn
        errors = torch.where(
            near, 0.5 * s.square * scaled * scaled, scaled.abs() - (turn - 0.5 * s.square * turn * turn)
        )
        if outside is not None:
            errors = errors * outside
        loss = (errors.abs() if s.absolute else errors).sum() / s.divisor(a, weights)
        stated = s.backward is not None or s.absolute or (inside is not None and not s.followed)
        if stated and self.gradients != "true":

            def gradient() -> Tensor:
                slopes = torch.where(near, s.square * scaled, scaled.sign())
                for factor in (inside if s.followed else None, outside):
                    slopes = slopes if factor is None else slopes * factor
                return slopes / (s.backward or s.divisor)(a, weights)

            loss = with_gradient(loss, difference, gradient)
        loss = loss.to(a.dtype)
        if not self.with_sums:
            return loss
        return loss, errors.sum(1).reshape(self._positions(a)).detach().to(a.dtype)

    @staticmethod
    def _positions(a: Tensor) -> tuple[int, ...]:
        count, _, height, width = four_axes(tuple(a.shape))
        return count, 1, height, width


def _smooth_l1(spec: LayerSpec, settings: SmoothL1Settings) -> Layer:
    same_batch(spec)
    first = spec.four_axes(0)
    for index in range(1, len(spec.bottoms)):
        if spec.four_axes(index) != first:
            spec.misfit(index, f"{list(first)}, as {spec.bottoms[0]!r} has,")
    return SmoothL1Loss(settings, spec.gradients, tops=len(spec.tops))


@layer("SmoothL1Loss", bottoms=(2, 3), tops=(0, 1), loss=True, unforced=(), dialects=_PLAIN)
def smooth_l1_loss(spec: LayerSpec) -> Layer:
    """The gradient lacks the inside weights (which were made for 0 and 1)."""
    return _smooth_l1(spec, SmoothL1Settings())


@layer("SmoothL1Loss", bottoms=(2, 4), tops=(0, 1), loss=True, unforced=(), dialects=_FASTER)
def smooth_l1_loss_faster(spec: LayerSpec) -> Layer:
    if len(spec.bottoms) == 4 and any(fork in spec.dialect.split("+") for fork in _CPU_WITHOUT_OUTSIDE):
        spec.warn(f"these are the numbers of {spec.dialect} on a GPU; its CPU code leaves the outside weights out")
    return _smooth_l1(spec, _with_sigma(spec, _examples))


@layer("SmoothL1Loss", bottoms=(2, 4), tops=(0, 1), loss=True, unforced=(), dialects=("intel/caffe",))
def smooth_l1_loss_intel(spec: LayerSpec) -> Layer:
    """As on a CPU: without loss_param.normalization NONE the loss is that of an example, whatever else it says."""
    params = spec.params("loss_param")
    params.ignore("normalize")
    return _smooth_l1(spec, _with_sigma(spec, _one if params.normalization == "NONE" else _examples))


@layer("SmoothL1Loss", bottoms=(2, 4), tops=(0, 2), loss=True, unforced=(), dialects=("zhaoweicai/cascade-rcnn",))
def smooth_l1_loss_cascade(spec: LayerSpec) -> Layer:
    return _smooth_l1(spec, _with_sigma(spec, _examples_or_one))


def _with_sigma(spec: LayerSpec, divisor: Divisor) -> SmoothL1Settings:
    sigma = spec.params("smooth_l1_loss_param").sigma
    if len(spec.bottoms) == 3:
        spec.fail("takes inside and outside weights or none of both, but there is one bottom of weights")
    if sigma == 0:
        spec.fail("sigma is 0; 1 / sigma^2 is where the loss turns linear")
    return SmoothL1Settings(divisor, square=sigma * sigma, outside=1, followed=True)


@layer("SmoothL1Loss", bottoms=(2, 3), tops=(0, 2), loss=True, unforced=(), dialects=("daijifeng001/caffe-rfcn",))
def smooth_l1_loss_rfcn(spec: LayerSpec) -> Layer:
    return _smooth_l1(spec, SmoothL1Settings(divided_by(spec)))


@layer("SmoothL1LossOHEM", bottoms=(2, 3), tops=(0, 2), loss=True, unforced=())
def smooth_l1_loss_ohem(spec: LayerSpec) -> Layer:
    return _smooth_l1(spec, SmoothL1Settings(divided_by(spec)))


@layer(
    "SmoothL1Loss",
    bottoms=(2, 3),
    tops=(0, 1),
    loss=True,
    unforced=(),
    dialects=("ShaoqingRen/caffe", "aharley/segaware"),
)
def smooth_l1_loss_ren(spec: LayerSpec) -> Layer:
    """The first Faster R-CNN, in Matlab: for each position of each example."""
    return _smooth_l1(spec, SmoothL1Settings(_positions))


@layer("SmoothL1Loss", bottoms=(2, 3), tops=(0, 1), loss=True, unforced=(), dialects=("happynear/caffe-windows",))
def smooth_l1_loss_windows(spec: LayerSpec) -> Layer:
    """With a turn_point other than 1, the slope jumps there."""
    return _smooth_l1(spec, SmoothL1Settings(turn=spec.params("smoothl1_param").turn_point))


@layer("SmoothL1Loss", bottoms=(2, 3), tops=(0, 1), loss=True, unforced=(), dialects=("yuqj1991/caffe_train",))
def smooth_l1_loss_yuqj(spec: LayerSpec) -> Layer:
    """The weights are outside ones."""
    return _smooth_l1(spec, SmoothL1Settings(inside=False, outside=0, absolute=True))


@layer(
    "SmoothL1Loss",
    bottoms=(2, 4),
    tops=(0, 1),
    loss=True,
    unforced=(),
    dialects=("foss-for-synopsys-dwc-arc-processors/synopsys-caffe",),
)
def smooth_l1_loss_synopsys(spec: LayerSpec) -> Layer:
    """SSD's and Faster R-CNN's in one: abssum, the default, takes the former's sum and gradient."""
    params = spec.params("smooth_l1_loss_param")
    if params.sigma == 0:
        spec.fail("sigma is 0; 1 / sigma^2 is where the loss turns linear")
    settings = SmoothL1Settings(
        square=params.sigma * params.sigma, outside=1, absolute=params.abssum, followed=not params.abssum
    )
    return _smooth_l1(spec, settings)


@layer("SmoothL1Loss", bottoms=3, tops=(0, 1), loss=True, unforced=(), dialects=("eldar/deepcut-cnn",))
def smooth_l1_loss_deepcut(spec: LayerSpec) -> Layer:
    """Divided by the sum of the weights; the gradient, by at least 100. If they sum to 0, Caffe's top is that of the
    pass before, here 0.
    """
    return _smooth_l1(spec, SmoothL1Settings(_weight_or_infinite, _weight_or_hundred))


def _weight(weights: tuple[Tensor, ...]) -> Tensor:
    """Their sum, cut off to a whole number."""
    return weights[0].abs().sum().trunc()


def _weight_or_infinite(a: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    return torch.where(_weight(weights) == 0, torch.inf, _weight(weights))


def _weight_or_hundred(a: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    return _weight(weights).clamp_min(100)
