"""Option ``embed_preprocess``: pixels as they are decoded go in, and become input by the first operations of the file.

The pixels are uint8 (images, height, width, channels), red first, or of one channel for a model of gray pictures: what
most libraries hand out. A resize is bilinear between the centres of pixels, as OpenCV's, which
computes in whole numbers and is off by less than one of 255 for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caffe_compat.errors import UsageError
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.net import CaffeNet

__all__ = ["Pixels", "pixels_of"]


@dataclass(frozen=True, eq=False)
class Pixels:
    """From pixels to the input of a net: resize, crop, order of the channels, mean, scale.

    Attributes:
        blob: the input. size: (height, width) of the pixels that go in; None for any, where they are resized.
        resize: (height, width) or None. crop: (top, left, height, width) or None.
        reverse: whether the model wants blue first. mean: (channels, 1, 1) or (channels, height, width), or None.
        scale: factor after the mean.
    """

    blob: str
    channels: int
    size: tuple[int, int] | None
    resize: tuple[int, int] | None
    crop: tuple[int, int, int, int] | None
    reverse: bool
    mean: np.ndarray | None
    scale: float

    def apply(self, pixels: Tensor) -> Tensor:
        """(images, height, width, channels), uint8 -> (images, channels, height', width'), float32."""
        x = pixels.permute(0, 3, 1, 2).float()
        if self.resize is not None:
            x = torch.nn.functional.interpolate(x, self.resize, mode="bilinear", align_corners=False)
        if self.crop is not None:
            top, left, height, width = self.crop
            x = x[:, :, top : top + height, left : left + width]
        if self.reverse:
            x = x.flip(1)
        if self.mean is not None:
            x = x - torch.from_numpy(self.mean).to(x.device)
        return x if self.scale == 1 else x * self.scale


def pixels_of(net: CaffeNet, preprocess: Preprocess | None) -> Pixels:
    """How pixels become the input of ``net`` that is a picture.

    Raises:
        UsageError: it is not known how, no input is a picture, or sizes do not fit.
    """
    if preprocess is None:
        raise UsageError("embed_preprocess needs to know how pixels become input: pass preprocess, too")
    pictures = [
        name
        for name, shape in net.input_shapes.items()
        if name in net.program.needed_inputs and len(shape) == 4 and shape[1] == preprocess.channels
    ]
    if not pictures:
        raise UsageError(
            f"embed_preprocess: no input has {preprocess.channels} channels, as order={preprocess.channel_order} gives"
        )
    name = pictures[0]
    size = net.input_shapes[name][2:]
    full = preprocess.resize or (size if preprocess.crop is None else None)
    crop = None
    if preprocess.crop is not None:
        if full is None:
            raise UsageError("embed_preprocess: a crop needs a resize before it, so that its place is known")
        height, width = preprocess.crop
        crop = ((full[0] - height) // 2, (full[1] - width) // 2, height, width)
    made = full if crop is None else crop[2:]
    if tuple(made or ()) != tuple(size):
        raise UsageError(f"embed_preprocess: the picture becomes {made}, input {name!r} takes {tuple(size)}")
    mean = None
    if preprocess.mean is not None:
        mean = np.broadcast_to(np.asarray(preprocess.mean, np.float32), (preprocess.channels,)).reshape(-1, 1, 1)
    elif preprocess.mean_image is not None:
        # One item, all mean: what is subtracted from a picture of zeros.
        plain = Preprocess(preprocess.channel_order, None, preprocess.mean_image, 1.0, None, preprocess.crop)
        mean = -plain.apply(np.zeros((*(full or size), preprocess.channels), np.uint8))
    return Pixels(
        name,
        preprocess.channels,
        None if preprocess.resize is not None else (int(size[0]), int(size[1])),
        preprocess.resize,
        crop,
        preprocess.channel_order == "bgr",
        None if mean is None else np.array(mean, np.float32),
        preprocess.scale,
    )
