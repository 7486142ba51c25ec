"""A picture's maps for each of its detections, and of the maps of each detection that of its class.

What networks for instances of torrvision/caffe-tvg do about their conditional random field. Source: its
``box_features_layer.cpp``, ``channel_select_layer.cpp`` and ``detection.hpp``. A detection is six numbers: class, left,
top, right, bottom, score; all but the last are cut off to whole numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..exporting import insist
from ..precision import widened

__all__ = ["BoxFeatures", "ChannelSelect"]

_FORK = "torrvision/caffe-tvg"


class BoxFeatures(Layer):
    """Maps (1, C, H, W) and detections (1, D, ...) give (D + 1, C, H, W).

    First come the maps times ``background``, then for each detection what lies in its box, borders included, times
    e^s / (e^s + e^(1 - s)) for a score of s, with zeros beside it.
    """

    def __init__(self, background: float) -> None:
        super().__init__()
        self.background = background

    def forward(self, maps: Tensor, detections: Tensor) -> Tensor:
        rows = detections.detach().reshape(-1, 6)
        left, top, right, bottom = rows[:, 1:5].trunc().unbind(1)
        x = torch.arange(maps.shape[3], device=maps.device)
        y = torch.arange(maps.shape[2], device=maps.device)
        across = (x >= left[:, None]) & (x <= right[:, None])
        down = (y >= top[:, None]) & (y <= bottom[:, None])
        inside = (down[:, :, None] & across[:, None, :])[:, None]
        factors = torch.sigmoid(2 * widened(rows[:, 5]) - 1).to(maps.dtype).reshape(-1, 1, 1, 1)
        return torch.cat([maps * self.background, torch.where(inside, maps * factors, 0)])


class ChannelSelect(Layer):
    """Maps (B, C, H, W) and detections (1, D, ...), with D < B, give (B, 1, H, W).

    Of the first maps that is channel 0, of each after it the channel that is the class of its detection; of those that
    have none it is 0.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0][:, :1]

    def forward(self, maps: Tensor, detections: Tensor) -> Tensor:
        classes = detections.detach().reshape(-1, 6)[:, 0].trunc()
        channels = maps.shape[1]
        insist(
            ((classes >= 0) & (classes < channels)).all(),
            f"a detection has a class that is none of the {channels} channels",
            layer=self.layer_name,
            type="ChannelSelect",
        )
        wanted = torch.cat([classes.new_zeros(1), classes]).long()
        count = len(wanted)
        chosen = maps[:count].gather(1, wanted.reshape(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:]))
        return torch.cat([chosen, torch.zeros_like(maps[count:, :1])])


def _detections(spec: LayerSpec) -> int:
    """How many there are."""
    _, count, *_ = spec.shaped(1, 1, "detections", ...)
    spec.as_many(1, (count, 6), "six numbers for each detection")
    return count


@layer("BoxFeatures", bottoms=2, tops=1, unforced=(1,), dialects=(_FORK,), verified=False)
def box_features(spec: LayerSpec) -> Layer:
    spec.shaped(0, 1, "channels", "height", "width")
    _detections(spec)
    params = spec.params("box_term_param")
    # Of BoxTerm; and on a CPU it computes the same.
    params.ignore("detection_box_input_dir", "detection_pixel_input_dir", "is_no_rescore_baseline", "force_cpu")
    if not params.is_background_det:
        params.ignore("background_det_score")
        return BoxFeatures(0.0)
    return BoxFeatures(params.background_det_score)


@layer("ChannelSelect", bottoms=2, tops=1, unforced=(1,), dialects=(_FORK,), verified=False)
def channel_select(spec: LayerSpec) -> Layer:
    masks, count = spec.images()[0], _detections(spec)
    if count >= masks:
        spec.misfit(
            0, f"({count + 1} or more, channels, height, width), for {count} detections and what is behind them"
        )
    return ChannelSelect()
