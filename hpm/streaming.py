"""Frames in any chunks, poses as soon as a window is full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from caffe_compat.errors import UsageError

from .measured import Unit
from .model import PoseMachine

__all__ = ["Stream"]


class Stream:
    """Coarse poses of frames that come in, equal to those that :meth:`PoseMachine.coarse` gives for all at once.

    The network sees windows of frames, so a frame's pose comes when its window is full: up to ``window`` - 1 frames
    late. The machine remembers the frames for the stream; run nothing else on it meanwhile.

    Args:
        machine: its recurrent state is forgotten when a stream begins.
        window: frames that the network sees together; see :meth:`PoseMachine.predict`.
        pixels, unit: see :meth:`PoseMachine.coarse`.

    Raises:
        UsageError: a window of no frames.

    Example:
        >>> from hpm.files.pictures import read_frames
        >>> machine = PoseMachine.from_pretrained("mask3d.pt")
        >>> frames = list(read_frames(["walk"]))  # 20 pictures
        >>> stream = Stream(machine, window=5)
        >>> [len(stream.push(chunk)) for chunk in (frames[:7], frames[7:11], frames[11:18])], len(stream.end())
        ([5, 5, 5], 3)
    """

    def __init__(
        self,
        machine: PoseMachine,
        window: int = 5,
        *,
        pixels: Literal["bgr", "preprocessed"] = "bgr",
        unit: Unit = "normalised",
    ) -> None:
        if window < 1:
            raise UsageError(f"window {window}; 1 frame or more was expected")
        self._machine, self._window, self._pixels, self._unit = machine, window, pixels, unit
        self._waiting: list[Any] = []
        machine.reset_state()

    def __len__(self) -> int:
        """Frames whose window is not full yet."""
        return len(self._waiting)

    def push(self, frames: np.ndarray | Tensor | Sequence[np.ndarray]) -> Any:
        """The poses (n, 16, 3) of all frames whose windows these frames fill, in order; n may be 0.

        Args:
            frames: any number, as :meth:`PoseMachine.predict` takes them. Poses are tensors if these are.

        Raises:
            UsageError: frames of another form.
        """
        waiting = [*self._waiting, *frames]
        ready = len(waiting) // self._window * self._window
        poses = self._poses(waiting[:ready])
        self._waiting = waiting[ready:]
        return poses

    def end(self) -> Any:
        """The poses of the last window, which may be shorter; the next frame begins a new sequence."""
        poses = self._poses(self._waiting)
        self._waiting = []
        self._machine.reset_state()
        return poses

    def _poses(self, frames: list[Any]) -> Any:
        given: Any = frames
        if frames and self._pixels == "preprocessed":
            given = torch.stack(frames) if isinstance(frames[0], Tensor) else np.stack(frames)
        found = self._machine.predict(given, None, self._window, pixels=self._pixels)
        return self._machine.in_unit(found.pose, self._unit)
