"""What every data layer has in common."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ...errors import FileAccessError, FileError, LayerError, UsageError, located
from ...formats.limits import BATCH
from ...network.registry import Shape
from ...schema.messages import LayerParameter
from ...schema.params import Params, unread_fields
from .order import stream

__all__ = ["Empty", "Folder", "Setup", "Source", "Values"]

# Makes the memory that a batch is written into: ``torch.empty``, or a place in shared memory.
Empty = Callable[[Shape, torch.dtype], Tensor]

# What the least sample takes: its number and its place in lists.
_BYTES_OF_A_SAMPLE = 64

# Deprecated twins of transform_param's fields, which current layers of Caffe never read.
_MOVED_TO_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")


@dataclass(frozen=True)
class Values:
    """What a source reads, before the arithmetic: pixels stay bytes, a quarter of the memory to move about.

    Attributes:
        tensor: (N, ...), uint8 or float32. mean: one for each index of axis 1, or none. scale: a factor.
    """

    tensor: Tensor
    mean: tuple[float, ...] = ()
    scale: float = 1.0

    def finish(self, device: torch.device | str = "cpu") -> Tensor:
        """``(tensor - mean) * scale`` as a float32 tensor of its own, on ``device``."""
        own = self.tensor.to(device).to(torch.float32)
        if own.data_ptr() == self.tensor.data_ptr():
            own = own.clone()
        if self.mean:
            own.sub_(torch.tensor(self.mean, device=device).view(-1, *[1] * (own.dim() - 2)))
        return own.mul_(self.scale) if self.scale != 1 else own


@dataclass(frozen=True)
class Folder:
    """Where a network's relative paths start, and whether paths may leave it."""

    root: Path
    confined: bool

    def locate(self, name: str, layer: str) -> str:
        """The path of the file that ``layer`` calls ``name``.

        Raises:
            FileAccessError: it lies outside the root, and nobody allowed that.
        """
        path = os.path.join(str(self.root), name)
        if self.confined:
            try:
                real = os.path.realpath(path)
            except ValueError as error:
                raise FileError(str(error), path=path, layer=layer) from error
            if not Path(real).is_relative_to(self.root):
                raise FileAccessError(f"reads {name!r}, which lies outside the allowed folder {self.root}", layer=layer)
        return path


@dataclass
class Setup:
    """What a data layer is built from.

    Attributes:
        key: the layer's unique name within its net, which its random draws depend on.
        message: the ``LayerParameter``.
        phase: ``"TRAIN"`` or ``"TEST"``.
    """

    name: str
    key: str
    type: str
    tops: tuple[str, ...]
    message: LayerParameter
    phase: str
    folder: Folder
    seed: int
    rank: int = 0
    world_size: int = 1
    notes: list[str] = field(default_factory=list)
    random: bool = False
    _read: dict[str, Params] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, object]:
        # For the way to a worker process: messages of private schemas cannot be pickled, and building is over by then.
        return {**self.__dict__, "message": None, "_read": {}}

    def fail(self, message: str) -> NoReturn:
        """Raise :class:`LayerError` with the layer's name and type in front."""
        raise LayerError(message, layer=self.name, type=self.type)

    def note(self, message: str) -> None:
        """Tell the user something, with the layer's name and type in front."""
        self.notes.append(f"layer {self.name!r} ({self.type}): {message}")

    def params(self, name: str) -> Params:
        """The parameter message in field ``name``."""
        if name not in self._read:
            if name not in self.message.DESCRIPTOR.fields_by_name:
                self.fail(f"the dialect has no field {name}; pass the dialect that defines type {self.type}")
            self._read[name] = Params(getattr(self.message, name), name)
        return self._read[name]

    def stream(self, *words: object) -> int:
        """The key of a random stream of this layer's own."""
        self.random = True
        return stream(self.seed, self.phase, self.key, *words)

    def batch_size(self, params: Params) -> int:
        """The batch size, which must be positive, and of no more samples than a batch may have bytes."""
        if params.batch_size < 1:
            self.fail(f"batch_size is {params.batch_size}; a positive number is needed")
        with located(layer=self.name, type=self.type):
            BATCH.check(params.batch_size * _BYTES_OF_A_SAMPLE, f"a batch of {params.batch_size} samples")
        return int(params.batch_size)

    def check_tops(self, least: int, most: int) -> None:
        """Refuse another number of tops."""
        if not least <= len(self.tops) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            self.fail(f"makes {wanted} tops, the definition names {len(self.tops)}")

    def ignore_moved(self, params: Params, names: Sequence[str] = _MOVED_TO_TRANSFORM) -> None:
        """Note settings that Caffe reads from transform_param only."""
        for name in names:
            if params.has(name):
                self.note(f"{params._path}.{name} has no effect, as in Caffe; the field of transform_param has")

    def check_all_read(self) -> None:
        """Refuse parameters that nobody honoured."""
        for params in self._read.values():
            for path in unread_fields(params):
                self.fail(f"parameter {path} is not supported")


class Source(ABC):
    """The tops of one data layer, batch by batch.

    ``batch`` depends on nothing but the seed, the rank and the index, so a run that resumes at batch k reads what the
    uninterrupted one would have read.

    Attributes:
        name, type: of the layer. tops: the blobs it makes, in order.
        seed: what the random draws depend on.
        notes: what a user should know: settings without effect, a seed drawn here.
        prefetch: how many batches the definition wants ready ahead.
        max_workers: how many processes may read at the same time; None for any number.
        byte_tops: the tops that are read as bytes.
    """

    prefetch = 4
    max_workers: int | None = None
    byte_tops: tuple[str, ...] = ()

    def __init__(self, setup: Setup) -> None:
        self.name, self.type, self.tops = setup.name, setup.type, setup.tops
        self.seed, self.notes, self._setup = setup.seed, setup.notes, setup

    @property
    def random(self) -> bool:
        """Whether anything is drawn at all."""
        return self._setup.random

    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """The shape of every top. Without a fixed image size it is the first batch's; later ones may differ."""

    def check_batch(self) -> None:
        """Refuse batches that take more memory than the limit. Raises FileError."""
        shapes = self.shapes()
        told = " and ".join(str(list(shape)) for shape in shapes.values())
        with located(layer=self.name, type=self.type):
            BATCH.check(sum(4 * math.prod(shape) for shape in shapes.values()), f"a batch of shape {told}")

    @abstractmethod
    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        """Batch ``index`` of this rank, in memory that ``empty`` makes; what :meth:`batch` finishes. For loaders."""

    def batch(self, index: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tops of batch ``index`` (how many batches this rank took before it), float32 on ``device``.

        With iter_size k, iteration i takes the batches i * k to i * k + k - 1.

        Raises:
            FileError: what is to be read is missing or damaged; it names the file, and the line of the list.
        """
        if index < 0:
            raise UsageError(f"batch {index}: batches count from 0")
        return {top: values.finish(device) for top, values in self.read(index, _fresh).items()}


def _fresh(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)
