"""The classes of one image, as Caffe's C++ example ``classification`` finds them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import UsageError
from ..formats.files import read_file
from ..formats.images import opencv, read_picture
from ..formats.sniff import decode_text
from ..formats.weights import read_binaryproto
from ..network.loading import load

__all__ = ["Prediction", "classify"]


@dataclass(frozen=True)
class Prediction:
    """A class and what the net's output gives it."""

    label: str
    value: float


def classify(
    model: str | Path,
    weights: str | Path,
    mean: str | Path,
    labels: str | Path,
    image: str | Path,
    *,
    most: int = 5,
    device: torch.device | str = "cpu",
) -> list[Prediction]:
    """The best classes of the image, best first.

    The image is resized to the net's input, and the mean of each channel of the mean file is taken from its pixels.

    Args:
        mean: a ``.binaryproto``. labels: a text with the name of a class a line, in the order of the output.

    Raises:
        UsageError: a net with several inputs or outputs or an input that is no image, or a mean or labels that do not
            fit it. FileError: a file that cannot be read.
    """
    net = load(model, weights, seed=0).to(device)
    if len(net.input_names) != 1 or len(net.output_names) != 1:
        found = f"{len(net.input_names)} inputs and {len(net.output_names)} outputs"
        raise UsageError(f"the net has {found}; one of each was expected", path=os.fspath(model))
    shape = net.input_shapes[net.input_names[0]]
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise UsageError(f"the net's input has shape {list(shape)}; an image of 1 or 3 channels was expected")
    averages = _channel_means(os.fspath(mean), shape[1])
    names = [line.rstrip("\r") for line in decode_text(read_file(labels), os.fspath(labels)).split("\n")]
    names = names[:-1] if names[-1] == "" else names
    pixels = _brought_into_form(read_picture(image, "native"), shape[1], shape[2:])
    given = (pixels - averages).transpose(2, 0, 1)[np.newaxis]
    (output,) = net.run({net.input_names[0]: given}).values()
    values = output[0].float().cpu().numpy().ravel()
    channels = output.shape[1] if output.dim() > 1 else 1
    if len(names) != channels:
        raise UsageError(f"{len(names)} labels for {channels} outputs", path=os.fspath(labels))
    best = np.argsort(-values[:channels], kind="stable")[:most]
    return [Prediction(names[i], float(values[i])) for i in best]


def _channel_means(path: str, channels: int) -> np.ndarray:
    """The mean pixel of a mean image: (channels,), float32."""
    mean = read_binaryproto(path)
    planes = mean[0] if mean.ndim == 4 else mean
    if planes.shape[0] != channels:
        raise UsageError(f"has {planes.shape[0]} channels, the net's input {channels}", path=path)
    return planes.reshape(channels, -1).astype(np.float64).mean(axis=1).astype(np.float32)


def _brought_into_form(pixels: np.ndarray, channels: int, size: tuple[int, ...]) -> np.ndarray:
    """Pixels of an image of any kind as (height, width, channels), float32, in the net's size."""
    cv2 = opencv()
    found = pixels.shape[2]
    turns = {
        (3, 1): cv2.COLOR_BGR2GRAY,
        (4, 1): cv2.COLOR_BGRA2GRAY,
        (4, 3): cv2.COLOR_BGRA2BGR,
        (1, 3): cv2.COLOR_GRAY2BGR,
    }
    if (found, channels) in turns:
        pixels = cv2.cvtColor(pixels, turns[found, channels])
    elif found != channels:
        raise UsageError(f"the image has {found} channels, the net takes {channels}")
    if pixels.shape[:2] != size:
        pixels = cv2.resize(pixels, size[::-1])
    return pixels.reshape(*size, channels).astype(np.float32)
