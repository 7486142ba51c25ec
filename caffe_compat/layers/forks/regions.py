"""Layers of R*CNN in pose_action_caffe: one primary region of each image, and the best of the others beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer

__all__ = ["CrossBlobsSum", "ExtractPrimary", "SecondaryRegionsOpScores"]


class CrossBlobsSum(Layer):
    """The sum of all bottoms, which have one shape. Source: the fork's ``cross_blobs_sum_layer.cpp``."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        total = bottoms[0]
        for bottom in bottoms[1:]:
            total = total + bottom
        return total


@layer("CrossBlobsSum", bottoms=(1, None), tops=1, verified=False)
def cross_blobs_sum(spec: LayerSpec) -> Layer:
    spec.alike()
    return CrossBlobsSum()


class ExtractPrimary(Layer):
    """Rows (images * regions, ...) -> the first row of each image (images, ...), and all the others in their order.

    While a net is set up, images may have one region only; then the second top has one row, which the fork never
    fills, either. Source: the fork's ``extract_primary_layer.cpp``.
    """

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, Tensor]:
        x = bottoms[0]
        return x[: self.images], x[: max(len(x) - self.images, 1)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) == self.images or len(x) % self.images:
            raise LayerError(
                f"{len(x)} rows were to be {self.images} images of at least 2 regions each",
                layer=self.layer_name,
                type="ExtractPrimary",
            )
        rows = x.reshape(self.images, -1, *x.shape[1:])
        return rows[:, 0], rows[:, 1:].flatten(0, 1)


@layer("ExtractPrimary", bottoms=(1, 2), tops=2, verified=False)
def extract_primary(spec: LayerSpec) -> Layer:
    if len(spec.bottoms) == 2:
        spec.fail("takes 1 bottom here: numbers of regions that a second one tells when the net runs are not supported")
    params = spec.params("extract_primary_param")
    rows, images = spec.bottom_shapes[0][0], params.ims_per_batch
    if images < 1 or rows % images:
        spec.fail(f"ims_per_batch is {images}; {rows} rows were to be that many images of equally many regions")
    return ExtractPrimary(images)


class SecondaryRegionsOpScores(Layer):
    """Scores (images * regions, ...) of regions -> those of each image (images, ...): their largest, sum or mean.

    With ``max``, a second top tells from which row each value is, and a third its index in all of the bottom. Where a
    second bottom tells the number of regions, all rows are one image's; 0 there stands for all. The fork's gradient of
    a sum is that of a mean. Source: the fork's ``secondary_regions_op_scores_layer.cpp``.
    """

    def __init__(self, regions: int, how: str, gradients: str, *, tops: int) -> None:
        super().__init__()
        self.regions = regions
        self.how = how
        self.gradients = gradients
        self.tops = tops

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._scored(bottoms[0])

    def forward(self, x: Tensor, *told: Tensor) -> Tensor | tuple[Tensor, ...]:
        if told and not bool(((told[0].trunc() == x.shape[0]) | (told[0].trunc() == 0)).all()):
            raise LayerError(
                f"its second bottom tells of {told[0].flatten().tolist()} regions; there are {x.shape[0]} rows",
                layer=self.layer_name,
                type="SecondaryRegionsOpScores",
            )
        return self._scored(x)

    def _scored(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        rows = x.reshape(-1, self.regions, *x.shape[1:])
        if self.how != "MAX":
            mean = rows.mean(1)
            if self.how == "AVE":
                return mean
            total = rows.sum(1)
            # The value of the sum, and the gradient of the mean.
            return total if self.gradients == "true" else mean + (total - mean).detach()
        best, region = rows.max(1)
        if self.tops == 1:
            return best
        row = region + torch.arange(len(rows), device=x.device).reshape(-1, *[1] * (x.dim() - 1)) * self.regions
        cells = torch.arange(best[0].numel(), device=x.device).reshape(best.shape[1:])
        tops = (best, row.to(x.dtype), (row * best[0].numel() + cells).to(x.dtype))
        return tops[: self.tops]


@layer("SecondaryRegionsOpScores", bottoms=(1, 2), tops=(1, 3), verified=False, unforced=(1,))
def secondary_regions_op_scores(spec: LayerSpec) -> Layer:
    params = spec.params("secondary_regions_op_scores_param")
    rows = spec.bottom_shapes[0][0]
    regions = rows if len(spec.bottoms) == 2 else params.n_secondary_regions
    params.ignore("n_secondary_regions")  # which a second bottom tells
    if params.has_scene_branch:
        regions -= 1
    if regions < 1 or rows % regions:
        spec.fail(f"{rows} rows were to be images of {regions} regions each")
    if params.op_scores != "MAX" and len(spec.tops) > 1:
        spec.fail(f"makes 1 top with op_scores {params.op_scores}, found {len(spec.tops)}: only MAX knows a row")
    return SecondaryRegionsOpScores(regions, params.op_scores, spec.gradients, tops=len(spec.tops))
