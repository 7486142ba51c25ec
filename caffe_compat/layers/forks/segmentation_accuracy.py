"""SegAccuracy of DeepLab: how well maps of classes agree with the labels, over all pixels seen."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["SegAccuracy"]


class SegAccuracy(Layer):
    """Scores (N, C, H, W) and labels (N, 1, H, W) -> (1, 1, 1, 3): the rate of right pixels, the mean over the classes
    seen of how many of their pixels are right, and the mean over all classes of intersection over union.

    Of equal scores the last class counts; a class without any pixel has a union of 1. Labels to ignore and those that
    are no class do not count. Unless ``anew``, pixels of all passes count (:meth:`reset_state` forgets them).
    Source: aharley/segaware, ``seg_accuracy_layer.cpp`` and ``confusion_matrix.cpp``.
    """

    counts = ("matrix",)

    def __init__(self, classes: int, ignored: tuple[int, ...], *, anew: bool) -> None:
        super().__init__()
        self.classes = classes
        self.ignored = ignored
        self.anew = anew
        self.reset_state()

    def reset_state(self) -> None:
        """Forget the pixels seen."""
        self.matrix = torch.zeros(self.classes, self.classes, dtype=torch.float64).numpy()

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 3)

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.anew:
            self.reset_state()
        guess = self.classes - 1 - scores.flip(1).argmax(1)
        truth = labels[:, 0].long()
        counts = (truth >= 0) & (truth < self.classes)
        for label in self.ignored:
            counts &= truth != label
        pairs = truth[counts] * self.classes + guess[counts]
        seen = torch.bincount(pairs, minlength=self.classes**2).reshape(self.classes, -1)
        self.matrix = self.matrix + seen.cpu().double().numpy()
        return scores.new_tensor(_rates(torch.from_numpy(self.matrix))).reshape(1, 1, 1, 3)


def _rates(matrix: Tensor) -> list[float]:
    """Of pixels by (truth, guess): accuracy, mean recall, mean intersection over union; 0 where nothing is."""
    right, true, guessed = matrix.diag(), matrix.sum(1), matrix.sum(0)
    union = true + guessed - right
    recalls = (right / true)[true > 0]
    overlap = torch.where(union == right, 1, right / union)
    accuracy = right.sum() / matrix.sum().clamp_min(1)
    return [float(accuracy), float(recalls.mean()) if len(recalls) else 0.0, float(overlap.mean())]


@layer("SegAccuracy", bottoms=2, tops=1, dialects=("aharley/segaware",), verified=False, unforced=(0, 1))
def seg_accuracy(spec: LayerSpec) -> Layer:
    images, classes, height, width = spec.images(0)
    spec.shaped(1, f"images = {images}", 1, f"height = {height}", f"width = {width}")
    params = spec.params("seg_accuracy_param")
    if params.has("metric"):
        params.ignore("metric")  # the fork computes all three, whichever it says
    return SegAccuracy(classes, params.ignore_label, anew=bool(params.get("reset", True)))
