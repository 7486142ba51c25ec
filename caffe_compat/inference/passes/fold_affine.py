"""Pass: BatchNorm, Scale, Bias and their like go into the weights of the layer before them."""

from __future__ import annotations

from typing import cast

from ..affine import affine_map
from ..folding import Kernel, can_fold, is_kernel
from ..plan import Group, Plan
from .base import Pass

__all__ = ["FOLD_AFFINE"]


def _fold_affine(plan: Plan) -> int:
    folded = 0
    for group in plan.walk():
        if not group.folds or len(group.bottoms) != 1 or len(group.tops) != 1:
            continue
        if group.affine is None and not is_kernel(plan.module(group)):
            group.affine = affine_map(plan.module(group), plan.rank(group.tops[0]))
            if group.affine is None:
                continue
        while (follower := plan.follower(group)) is not None and _fold(plan, group, follower):
            folded += 1
    return folded


def _fold(plan: Plan, group: Group, follower: Group) -> bool:
    """Make ``follower`` part of ``group`` if it scales and shifts, and that can be done together."""
    if len(follower.bottoms) != 1:
        return False
    rank = plan.rank(group.tops[0])
    affine = affine_map(plan.module(follower), rank)
    if affine is None:
        return False
    if group.affine is not None:
        affine = group.affine.then(affine)
    module = plan.module(group)
    if is_kernel(module) and not can_fold(cast(Kernel, module), affine, rank):
        return False
    group.affine = affine
    plan.take(group, follower)
    return True


FOLD_AFFINE = Pass(
    "fold-affine",
    changes=(
        "BatchNorm by its blobs, Scale, Bias, Power of 1 and Dropout that scales in testing go into weight and bias of "
        "the Convolution, Deconvolution or InnerProduct before them, or become one scaling with others of their kind"
    ),
    before="no sum and no ReLU was taken along: nothing can be folded behind them",
    after="where such a layer is left, somebody else sees what it reads, or the weights could not hold it",
    run=_fold_affine,
)
