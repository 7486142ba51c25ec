"""CTCGreedyDecoder: the text that a recurrent network reads, from the probabilities of characters at each step."""

from __future__ import annotations

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer

__all__ = ["CTCGreedyDecoder"]


class CTCGreedyDecoder(Layer):
    """The most probable class of every step, without blanks and, if ``merge``, without repetitions of the step before.

    The bottom is (T, N, classes), the top (N, T, 1, 1): the classes left, and -1 behind them. With labels (N, L, ...)
    as second bottom, of which blanks and what follows a negative one do not count, the top is (1, 2, 1, 1): 1 less the
    mean edit distance over the longer length, and how many of the texts are right. An empty text that is read as one
    counts as near, not as right, as in the fork. There is no gradient.
    """

    def __init__(self, blank: int, *, merge: bool) -> None:
        super().__init__()
        self.blank = blank
        self.merge = merge

    def infer(self, *bottoms: Tensor) -> Tensor:
        x = bottoms[0]
        return x.new_empty(*((1, 2) if len(bottoms) == 2 else (x.shape[1], x.shape[0])), 1, 1)

    @torch.no_grad()
    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        steps, images = x.shape[:2]
        best = x.reshape(steps, images, -1).argmax(2).T
        counts = best != self.blank
        if self.merge:
            new = best[:, 1:] != best[:, :-1]
            counts = counts & torch.cat([torch.ones_like(counts[:, :1]), new], 1)
        if labels:
            texts = [row[kept].tolist() for row, kept in zip(best, counts, strict=True)]
            return x.new_tensor(self._accuracy(texts, labels[0].reshape(images, -1).tolist())).view(1, 2, 1, 1)
        # What does not count goes into one column more.
        places = torch.where(counts, counts.cumsum(1) - 1, steps)
        top = torch.full((images, steps + 1), -1, device=x.device).scatter(1, places, best)
        return top[:, :steps, None, None].to(x.dtype)

    def _accuracy(self, texts: list[list[int]], labels: list[list[float]]) -> tuple[float, float]:
        errors, right = 0.0, 0
        for text, numbers in zip(texts, labels, strict=True):
            end = next((i for i, number in enumerate(numbers) if number < 0), len(numbers))
            wanted = [label for label in (int(number + 0.5) for number in numbers[:end]) if label != self.blank]
            if text or wanted:
                distance = _edit_distance(wanted, text)
                errors += distance / max(len(wanted), len(text))
                right += distance == 0
        return 1 - errors / len(texts), right / len(texts)


def _edit_distance(a: list[int], b: list[int]) -> int:
    """How many insertions, deletions and replacements make ``b`` of ``a``."""
    before = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        row = [i]
        for j, right in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
        before = row
    return before[-1]


@layer(
    "CTCGreedyDecoder",
    bottoms=(1, 2),
    tops=1,
    dialects=("senlinuc/caffe_ocr", "yuqj1991/caffe_train"),
)
def ctc_greedy_decoder(spec: LayerSpec) -> Layer:
    params = spec.params("ctc_decoder_param")
    return _decoder(spec, params.blank_index, merge=params.ctc_merge_repeated)


@layer("CTCGreedyDecoder", bottoms=(1, 2), tops=1, dialects=("dlunion/CC4.0",))
def ctc_greedy_decoder_of_cc(spec: LayerSpec) -> Layer:
    """The same, but the blank is the one of the loss, and repetitions never count."""
    params = spec.params("ctc_loss_param")
    params.ignore("alphabet_size", "time_step")  # which are the loss's own
    return _decoder(spec, params.blank_label, merge=True)


def _decoder(spec: LayerSpec, blank: int, *, merge: bool) -> Layer:
    _, images, classes, *_ = spec.shaped(0, "steps > 0", "images > 0", "classes > 0", ones=True)
    if len(spec.bottoms) == 2:
        # One label for each image may do without an axis.
        labels = ("labels",) if spec.bottom_shapes[1][1:] else ()
        spec.shaped(1, f"images = {images}", *labels, ones=True)
    return CTCGreedyDecoder(blank if blank >= 0 else classes - 1, merge=merge)
