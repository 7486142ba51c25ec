"""FLOWriter of FlowNet's forks: optical flow as ``.flo`` files, one for each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FileError, located
from ...formats.files import atomic_write, reason_of
from ...network.registry import Layer, LayerSpec, layer
from ..compiling import outside_graphs
from .flow import FLOWNETS

__all__ = ["FLOWriter", "flo_file"]


def flo_file(flow: np.ndarray) -> bytes:
    """A flow (2, H, W) as a Middlebury file: ``PIEH``, width, height, then both numbers of each pixel, row by row."""
    height, width = flow.shape[1:]
    return b"PIEH" + np.array([width, height], "<i4").tobytes() + flow.transpose(1, 2, 0).astype("<f4").tobytes()


class FLOWriter(Layer):
    """Writes each image's flow of (N, 2, H, W), whole or not at all.

    A file of an earlier pass with the same name is replaced; one that this layer did not write is an error, where the
    fork overwrites it. Where writing is not allowed, ``files.written`` has the size of a file in place of a text.
    Source: lmb-freiburg/flownet2, ``flowriter_layer.cpp`` and ``util/output.cpp``.

    Args:
        before, after: what a file's name has around the number of the pass and, of several images, that of the image;
            ``after`` is None for one file, ``before``, for all.
    """

    def __init__(self, before: str, after: str | None) -> None:
        super().__init__()
        self.before = before
        self.after = after
        self._own: set[Path] = set()

    def infer(self, *bottoms: Tensor) -> tuple[()]:
        return ()

    def forward(self, x: Tensor) -> tuple[()]:
        self._write(x)
        return ()

    @outside_graphs
    def _write(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # torch.export is tracing: a graph of tensor operations writes no files
        training = self.randomness.training
        count = self.randomness.iteration if training is None else training[0]
        for image, flow in enumerate(x.detach().to("cpu", torch.float32).numpy()):
            number = f"{count:07d}" + (f"({image:03d})" if len(x) > 1 else "")
            path = self.before if self.after is None else f"{self.before}{number}{self.after}"
            self._write_one(path, flo_file(flow))

    def _write_one(self, path: str, content: bytes) -> None:
        place = self.files.place_to_write(path, self.layer_name)
        if place is None:
            self.files.written[path] = f"{len(content)} bytes"
            return
        if place not in self._own and place.exists():
            raise FileError(
                "exists and was not written by this layer, so it is not overwritten; remove it, or write elsewhere",
                path=str(place),
                layer=self.layer_name,
            )
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"cannot be made: {reason_of(error)}", path=str(place.parent), layer=self.layer_name
            ) from error
        with located(layer=self.layer_name), atomic_write(place) as file:
            file.write(content)
        self._own.add(place)


@layer("FLOWriter", bottoms=1, tops=0, dialects=FLOWNETS, verified=False, unforced=(0,))
def flo_writer(spec: LayerSpec) -> Layer:
    if spec.images()[1] != 2:
        spec.misfit(0, "(images, 2, height, width)")
    params = spec.params("writer_param")
    params.ignore("normalize", "scale")  # of the writers of other files
    if params.has("file"):
        params.ignore("folder", "prefix", "suffix")
        if not params.file:
            spec.fail("writer_param.file is empty")
        return FLOWriter(params.file, None)
    if not params.folder:
        spec.fail("writer_param needs a folder for its files, or a file")
    return FLOWriter(f"{params.folder}/{params.prefix}", f"{params.suffix}.flo")
