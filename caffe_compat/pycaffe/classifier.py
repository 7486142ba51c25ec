"""``caffe.Classifier``: a net that takes images and averages over crops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .io import Transformer, oversample, resize_image
from .net import TEST, Net

__all__ = ["Classifier", "transformer_for"]


def transformer_for(
    net: Net,
    mean: np.ndarray | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """The transformer of images for a net's first input; None leaves a step out."""
    name = net.inputs[0]
    transformer = Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer


class Classifier(Net):
    """A net for classifying images.

    Args:
        image_dims: height and width that images are resized to before cropping; the net's own by default.
        mean, input_scale, raw_scale, channel_swap: see :class:`caffe.io.Transformer`.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer_for(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class probabilities (N, classes) of N images (H, W, channels).

        Args:
            oversample: average over the corners, the centre and their mirror images; else the centre only.
        """
        resized = np.stack([resize_image(image, self.image_dims) for image in inputs])
        crops = _ten_crops(resized, self.crop_dims) if oversample else self._centres(resized)
        name = self.inputs[0]
        batch: Any = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(**{name: batch})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape(len(predictions) // 10, 10, -1).mean(1)
        return predictions

    def _centres(self, images: np.ndarray) -> np.ndarray:
        top, left = ((self.image_dims - self.crop_dims) / 2.0).astype(int)
        return images[:, top : top + self.crop_dims[0], left : left + self.crop_dims[1]]


_ten_crops = oversample
