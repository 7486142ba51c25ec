"""``caffe.Detector``: a net that classifies windows of images (R-CNN)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import MissingExtraError, UsageError
from .classifier import transformer_for
from .io import load_image, resize_image
from .net import TEST, Net

__all__ = ["Detector"]


class Detector(Net):
    """A net for classifying windows of images.

    Args:
        mean, input_scale, raw_scale, channel_swap: see :class:`caffe.io.Transformer`.
        context_pad: how many pixels of the net's input, on each side, show what surrounds the window.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer_for(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Set ``context_pad``, and with it what surrounds a window beyond the border of its image: the mean."""
        name = self.inputs[0]
        channels, *size = self.blobs[name].shape[1:]
        self.crop_dims = np.array([*size, channels])
        self.context_pad = context_pad
        if context_pad:
            self.crop_mean = np.zeros(self.crop_dims, np.float32)
            mean = self.transformer.mean.get(name)
            if mean is not None:
                order = self.transformer.channel_swap.get(name, range(channels))
                pixels = mean[np.argsort(order)].transpose(1, 2, 0) / self.transformer.raw_scale.get(name, 1)
                self.crop_mean[...] = pixels

    def detect_windows(self, images_windows: Iterable[tuple[str, Sequence[Any]]]) -> list[dict[str, Any]]:
        """Classify windows.

        Args:
            images_windows: pairs of an image's filename and its windows (ymin, xmin, ymax, xmax).

        Returns:
            For each window ``{"window", "prediction", "filename"}``.
        """
        pairs = [(filename, list(windows)) for filename, windows in images_windows]
        crops = []
        for filename, windows in pairs:
            image = load_image(filename)
            crops += [self.crop(image, window) for window in windows]
        if not crops:
            return []
        name = self.inputs[0]
        batch: Any = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = iter(self.forward_all(**{name: batch})[self.outputs[0]])
        return [
            {"window": window, "prediction": next(predictions), "filename": filename}
            for filename, windows in pairs
            for window in windows
        ]

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """Classify the windows that selective search proposes.

        Raises:
            MissingExtraError: the package ``selective_search_ijcv_with_python`` is not there.
        """
        try:
            selective_search = import_module("selective_search_ijcv_with_python")
        except ImportError as error:
            raise MissingExtraError(
                "this needs selective_search_ijcv_with_python (github.com/sergeyk/selective_search_ijcv_with_python, "
                "which runs in MATLAB) on the Python path; any other windows work with detect_windows"
            ) from error
        names = [os.path.abspath(name) for name in image_fnames]
        windows = selective_search.get_windows(names, cmd="selective_search_rcnn")
        return self.detect_windows(zip(names, windows, strict=True))

    def crop(self, im: np.ndarray, window: Any) -> np.ndarray:
        """A window (ymin, xmin, ymax, xmax) of an image (H, W, channels); with its context if that was configured.

        Raises:
            UsageError: the window holds no pixel.
        """
        ymin, xmin, ymax, xmax = (int(x) for x in window)
        inner = im[ymin:ymax, xmin:xmax]
        if inner.size == 0:
            raise UsageError(
                f"window {(ymin, xmin, ymax, xmax)} has no pixel of an image of {im.shape[0]} x {im.shape[1]}"
            )
        if not self.context_pad:
            return inner
        # The window grows so that, resized to the net's input, context_pad pixels on each side lie around it.
        size = int(self.crop_dims[1])
        half = np.array([ymax - ymin + 1, xmax - xmin + 1]) / 2.0
        centre = np.array([ymin, xmin]) + half
        grown = half * size / (size - 2.0 * self.context_pad)
        low, high = np.round(centre - grown), np.round(centre + grown)
        scale = size / (high - low + 1)
        offset = np.round(np.maximum(0, -low) * scale).astype(int)
        # What lies beyond the image's border stays mean.
        limit = np.array(im.shape[:2])
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
        inside = np.minimum(np.round((high - low + 1) * scale).astype(int), size - offset)
        context = im[int(low[0]) : int(high[0]), int(low[1]) : int(high[1])]
        out = self.crop_mean.copy()
        out[offset[0] : offset[0] + inside[0], offset[1] : offset[1] + inside[1]] = resize_image(context, inside)
        return out
