"""Frames and clip values as a pose network takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from caffe_compat.errors import UsageError
from caffe_compat.formats.images import opencv

__all__ = ["MEAN", "SCALE", "clip_values", "network_input"]

# What the original's data layers make of a pixel: (v - 128) / 256.
MEAN, SCALE = 128.0, 1 / 256


def network_input(frames: Any, pixels: str, size: tuple[int, int]) -> Any:
    """(n, 3, height, width) in the network's units.

    Args:
        frames: ``"bgr"``: n pictures (height, width, 3), uint8, blue first, of any sizes, resized as Caffe's reader of
            images does; ``"preprocessed"``: an array or a tensor that is such input already.
        pixels: which of the two. size: height and width that the network takes.

    Raises:
        UsageError: frames of another form, or that are not finite.
    """
    height, width = size
    if pixels == "preprocessed":
        return _checked(frames, height, width)
    if pixels != "bgr":
        raise UsageError(f"pixels {pixels!r}: 'bgr' or 'preprocessed' was expected")
    pictures = [frame.detach().cpu().numpy() if isinstance(frame, Tensor) else frame for frame in frames]
    for picture in pictures:
        known = isinstance(picture, np.ndarray)
        if not known or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            found = f"{picture.shape} and {picture.dtype}" if known else f"type {type(picture).__name__}"
            raise UsageError(
                "frames of shape (n, height, width, 3) and type uint8, blue first, were expected, found a frame of "
                f"{found}; for (v - 128) / 256 say pixels='preprocessed'"
            )
    fitted = [p if p.shape[:2] == (height, width) else opencv().resize(p, (width, height)) for p in pictures]
    return (np.stack(fitted).transpose(0, 3, 1, 2).astype(np.float32) - np.float32(MEAN)) * np.float32(SCALE)


def _checked(frames: Any, height: int, width: int) -> np.ndarray | Tensor:
    if not isinstance(frames, (np.ndarray, Tensor)):
        raise UsageError(f"preprocessed frames in one array or tensor were expected, found {type(frames).__name__}")
    shape, floating = tuple(frames.shape), "float" in str(frames.dtype)
    if len(shape) != 4 or shape[1:] != (3, height, width) or not floating:
        raise UsageError(
            f"preprocessed frames of shape (n, 3, {height}, {width}) and a floating-point type were expected, "
            f"found {shape} and {frames.dtype}"
        )
    # The recurrent state would carry it on to all later frames.
    finite = frames.isfinite() if isinstance(frames, Tensor) else np.isfinite(frames)
    if not finite.all():
        raise UsageError("preprocessed frames with values that are not finite")
    return frames


def clip_values(clip: Any, count: int, *, fresh: bool) -> np.ndarray:
    """(count,) float32: 0 where a sequence starts, else 1.

    Args:
        clip: such values; None for one sequence, which starts with the first frame if ``fresh``.

    Raises:
        UsageError: other values, or another number.
    """
    if clip is None:
        starts = np.ones(count, np.float32)
        starts[:1] = 0 if fresh else 1
        return starts
    values = clip.detach().cpu().numpy() if isinstance(clip, Tensor) else np.asarray(clip)
    if values.size != count or not np.isin(values, (0, 1)).all():
        raise UsageError(f"clip of shape {values.shape} for {count} frames; one value each, 0 or 1, was expected")
    return values.reshape(-1).astype(np.float32)
