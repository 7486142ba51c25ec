"""LABEL_DROPOUT: of what is not a joint, only some places take part in learning heat maps of joints."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["LabelDropout"]


class LabelDropout(Layer):
    """Maps (N, C, H, W) at the places that are chosen, and the labels at the others, so that these cost nothing.

    In each map all places labelled 1 are chosen, and so many times ``ratio`` of those labelled 0: the largest values of
    these are shuffled, of which a share ``hard`` is chosen and a share ``drawn`` may be, if it is drawn from the next
    of them and all smaller ones. Where places labelled 0 are too few, all are. Draws are this library's, not the
    fork's. Source: xiaolonw/caffe-3dnormal_joint_pose, ``label_dropout_layer.cpp``.
    """

    def __init__(self, ratio: float, hard: float, drawn: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.hard = hard
        self.drawn = drawn

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        labels = labels.detach().reshape(x.shape).to(x.dtype)
        generator = self.randomness.generator(self.layer_name, "cpu")
        chosen = [
            self._chosen(values, own, generator)
            for values, own in zip(x.detach().flatten(2).flatten(0, 1), labels.flatten(2).flatten(0, 1), strict=True)
        ]
        mask = torch.stack(chosen).reshape(x.shape) if chosen else torch.zeros_like(x, dtype=torch.bool)
        return torch.where(mask, x, labels)

    def _chosen(self, values: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Which places of one map, (H W,)."""
        chosen = labels == 1
        others = (labels == 0).nonzero().flatten()
        wanted = _part(int(chosen.sum()), self.ratio)
        if wanted >= len(others):
            return chosen | (labels == 0)

        def shuffled(places: Tensor) -> Tensor:
            return places[torch.randperm(len(places), generator=generator).to(places.device)]

        # The smallest first; of equal ones, in their order.
        order = others[values[others].abs().argsort(stable=True)]
        small, large = order[: len(others) - wanted], shuffled(order[len(others) - wanted :])
        hard, drawn = _part(wanted, self.hard), _part(wanted, self.drawn)
        rest = shuffled(torch.cat([small, large[hard : hard + drawn]]))
        chosen[torch.cat([large[:hard], rest[:drawn]])] = True
        return chosen


def _part(count: int, share: float) -> int:
    """As the fork computes it: in single precision, cut off."""
    return int(np.float32(count) * np.float32(share))


@layer(
    "LABEL_DROPOUT",
    bottoms=2,
    tops=1,
    dialects=("xiaolonw/caffe-3dnormal_joint_pose",),
    verified=False,
    unforced=(1,),
)
def label_dropout(spec: LayerSpec) -> Layer:
    params, shape = spec.params("label_drop_param"), spec.images()
    spec.as_many(1, shape, "a label for each place")
    shares = (params.drop_neg_ratio, params.hard_ratio, params.rand_ratio)
    if min(shares) < 0 or shares[1] + shares[2] > 1:
        spec.fail(
            f"drop_neg_ratio {shares[0]:g}, hard_ratio {shares[1]:g} and rand_ratio {shares[2]:g}: none below 0, and "
            "the latter two at most 1 together, were expected"
        )
    return LabelDropout(*shares)
