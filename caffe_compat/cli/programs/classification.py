"""``classification deploy.prototxt network.caffemodel mean.binaryproto labels.txt img.jpg``: the C++ example."""

from __future__ import annotations

import torch

from ...tools.classification import classify
from ..options import say
from .common import usage

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    if len(words) != 5:
        return usage("classification deploy.prototxt network.caffemodel mean.binaryproto labels.txt img.jpg")
    say(f"---------- Prediction for {words[4]} ----------")
    device = "cuda" if torch.cuda.is_available() else "cpu"  # Caffe's, too, takes a GPU where it was built for one
    model, weights, mean, labels, image = words
    for prediction in classify(model, weights, mean, labels, image, device=device):
        say(f'{prediction.value:.4f} - "{prediction.label}"')
    return 0
