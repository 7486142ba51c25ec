"""PoseHeatMapLoss of pose_action_caffe, another than 3Dpose_ssl's: its factors count in the loss, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..gradients import with_slopes
from .pose_action import FORK

__all__ = ["Emphasis", "PoseHeatMapLoss"]

# A target above this is foreground.
_LEAST = 1e-4
_REQUIRED = ("fg_eof", "bg_eof", "loss_emphase_type", "prob_num", "heat_score_thres", "parts_err_num_thres")


@dataclass(frozen=True)
class Emphasis:
    """What the differences are multiplied by.

    Attributes:
        kind: 0 all by 1; 1 the foreground by 1, the background by 0; 2 the foreground by ``foreground``. In 3, 4 and 5
            each background value is kept, times ``background``, with probability ``ratio``; of the others, those
            predicted to be ``score`` or more are hard negatives and kept with probability 1 / ``spared``, and in 5
            surely if they are among the largest differences of their map, a share ``ratio`` of its cells; the rest is
            left out. The foreground counts ``foreground`` times in 4, and once in 3 and 5.
    """

    kind: int
    foreground: float
    background: float
    ratio: float
    score: float
    spared: int


class PoseHeatMapLoss(Layer):
    """The sum of the squared differences of predicted heat maps (N, joints, H, W) and true ones, each times a factor.

    The fork's gradient is the differences times their factors, by N, and times the third bottom (N, joints), if there
    is one: neither twice that nor the square of the factors. ``true_gradient`` gives the derivative of the sum, in
    which the third bottom has no part. Source: the fork's ``pose_heat_map_loss_layer.cpp``.
    """

    def __init__(self, emphasis: Emphasis, true_gradient: bool) -> None:
        super().__init__()
        self.emphasis = emphasis
        self.true_gradient = true_gradient

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(())

    def forward(self, prediction: Tensor, target: Tensor, *mask: Tensor) -> Tensor:
        differences = prediction - target
        differences = differences * self._factors(differences.detach(), prediction.detach(), target.detach())
        loss = differences.square().sum()
        if self.true_gradient:
            return loss
        slopes = differences.detach() / len(prediction)
        if mask:
            slopes = slopes * mask[0].detach().reshape(*slopes.shape[:2], 1, 1)
        stated = with_slopes(torch.zeros_like(slopes), (prediction, slopes), (target, -slopes))
        return loss.detach() + stated.sum()

    def _factors(self, differences: Tensor, prediction: Tensor, target: Tensor) -> Tensor:
        how = self.emphasis
        one = torch.ones_like(target)
        front = target > _LEAST
        if how.kind == 0:
            return one
        if how.kind == 1:
            return torch.where(front, one, 0)
        if how.kind == 2:
            return torch.where(front, how.foreground, one)
        generator = self.randomness.generator(self.layer_name, target.device)
        drawn, spared = (
            torch.rand(target.shape, generator=generator, device=target.device) < chance
            for chance in (how.ratio, 1 / how.spared)
        )
        hard = ~front & ~drawn & (prediction >= how.score)
        if how.kind == 5:
            spared = spared | self._hardest(differences, hard)
        behind = torch.where(drawn, how.background, torch.where(hard & spared, one, 0))
        return torch.where(front, how.foreground if how.kind == 4 else 1.0, behind)

    def _hardest(self, differences: Tensor, hard: Tensor) -> Tensor:
        """Where the largest differences of each map are, of those that are ``hard``."""
        values = torch.where(hard, differences, -torch.inf).flatten(2)
        rank = values.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        count = int(np.float32(values.shape[2]) * np.float32(self.emphasis.ratio))
        return (rank < count).reshape(hard.shape)


@layer("PoseHeatMapLoss", bottoms=(2, 3), tops=1, loss=True, unforced=(), dialects=(FORK,))
def pose_heat_map_loss(spec: LayerSpec) -> Layer:
    shape, params = spec.images(0, pixels=True), spec.params("pose_heat_map_loss_param")
    spec.alike(0, 1)
    if len(spec.bottoms) == 3:
        spec.shaped(2, f"images = {shape[0]}", f"joints = {shape[1]}", ones=True)
    missing = [name for name in _REQUIRED if not params.has(name)]
    if missing:
        spec.fail(f"needs {', '.join(missing)}; the fork has no default for it")
    if params.loss_emphase_type > 5:
        spec.fail(f"loss_emphase_type is {params.loss_emphase_type}; 0 to 5 exist")
    if params.prob_num < 1:
        spec.fail(f"prob_num is {params.prob_num}; at least 1 was expected")
    # The first is only shown, the others are read and never used.
    params.ignore("parts_err_num_thres", "heat_score_thres_arr", "hard_negative_filepath")
    emphasis = Emphasis(
        max(params.loss_emphase_type, 0),
        params.fg_eof,
        params.bg_eof,
        _ratio(spec, params, shape[2] * shape[3]),
        params.heat_score_thres,
        params.prob_num,
    )
    return PoseHeatMapLoss(emphasis, spec.gradients == "true")


def _ratio(spec: LayerSpec, params: Params, cells: int) -> float:
    """The probability with which a background value is kept: as the file has it, or of so many in a map."""
    if params.has("ratio") == params.has("bg_num"):
        spec.fail("needs ratio, a share of the background to keep, or bg_num, a number of places in a map, not both")
    ratio = float(params.ratio) if params.has("ratio") else int(params.bg_num) / cells
    if not 0 < ratio <= 1:
        spec.fail(f"a share {ratio:g} of the background would be kept; more than 0 and at most 1 was expected")
    return ratio
