"""The proposals of CTPN: upright strips of text, 16 pixels wide.

Source: tianzhi0549/CTPN, ``src/layers/text_proposal_layer.py``, ``src/anchor.py`` and ``src/other.py``, for Python 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec
from ..precision import widened

__all__ = ["TextProposalLayer"]

_HEIGHTS = (11, 16, 23, 33, 48, 68, 97, 139, 198, 283)
_BASE = 16
# Top and bottom about the first cell, whose middle is 7.5: whole halves, and whole numbers, cut off towards 0.
_TOPS = tuple(int((_BASE - 1) / 2 - height // 2) for height in _HEIGHTS)
_BOTTOMS = tuple(int((_BASE - 1) / 2 + height // 2) for height in _HEIGHTS)


class TextProposalLayer(Layer):
    """For each cell, row by row, ten strips (left, top, right, bottom) about it, and their scores (N, 1).

    Bottoms: scores (1, 20, H, W), of which the second ten count; for each of ten anchors the offset of its middle and
    the log of its height, both by the anchor's height, (1, 20, H, W); the image's height and width (1, 2 or more).
    Strips are cut off at the image. No gradient.

    Args:
        stride: pixels from cell to cell.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
        count = len(_HEIGHTS) * bottoms[0].shape[2] * bottoms[0].shape[3]
        return bottoms[0].new_empty(count, 4), bottoms[0].new_empty(count, 1)

    @torch.no_grad()
    def forward(self, scores: Tensor, offsets: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = scores.shape[2:]
        moves = widened(offsets)[0].unflatten(0, (len(_HEIGHTS), 2)).permute(2, 3, 0, 1)
        y = self.stride * torch.arange(height, device=moves.device)[:, None, None]
        x = (self.stride * torch.arange(width, device=moves.device)[None, :, None]).to(moves)
        first, last = (moves.new_tensor(ends) for ends in (_TOPS, _BOTTOMS))
        tall = last - first + 1
        own = moves[..., 1].exp() * tall
        top = moves[..., 0] * tall + (y + (first + last) / 2) - own / 2
        # The base anchor's left is -0.5 and its right 15.5, which become whole.
        strips = torch.stack([x.expand_as(top), top, (x + _BASE - 1).expand_as(top), top + own], -1).reshape(-1, 4)
        lasts = widened(image).reshape(-1)[[1, 0]] - 1
        strips = torch.minimum(strips.clamp_min(0), lasts.repeat(2)).to(scores.dtype)
        return strips, scores[0, len(_HEIGHTS) :].permute(1, 2, 0).reshape(-1, 1)


@python_layer("layers.text_proposal_layer", "ProposalLayer", bottoms=3, tops=2, verified=False)
def text_proposal_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
    _, _, height, width = spec.shaped(0, 1, 2 * len(_HEIGHTS), "height", "width")
    spec.shaped(1, 1, 2 * len(_HEIGHTS), f"height = {height}", f"width = {width}")
    spec.shaped(2, 1, "numbers >= 2", ones=True)
    return TextProposalLayer(settings.whole("feat_stride"))
