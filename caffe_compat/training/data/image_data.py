"""ImageData, and the fork 3Dpose_ssl's ImageDataLstm and ImageDataSelf: images named by a list."""

from __future__ import annotations

import os
from typing import NoReturn

import numpy as np
import torch

from ...errors import FileError
from ...network.registry import Shape
from .images import read_image
from .lists import read_image_list
from .order import Cursor, draw
from .source import Empty, Setup, Source, Values
from .transformer import DataTransformer

__all__ = ["ImageData", "ImageDataLstm", "ImageDataSelf"]


class ImageData(Source):
    """Images of a list in order, or shuffled anew for every pass.

    Where the dialect has ``label_dim``, labels are (N, label_dim) and ``is_shuffle_batch`` (default true) starts every
    batch at a random line; in BVLC's Caffe labels are (N,).

    Processes that train together take turns batch by batch. Real Caffe lets each of them walk the whole list and warns
    that they then read the same images.
    """

    param_field = "image_data_param"
    shuffles = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        params = setup.params(self.param_field)
        setup.check_tops(1, 2)
        self.batch_size = setup.batch_size(params)
        self.height, self.width, self.color = params.new_height, params.new_width, params.is_color
        if (self.height > 0) != (self.width > 0):
            setup.fail("new_height and new_width are needed together")
        self.transformer = DataTransformer(setup)
        self.byte_tops = self.tops[:1] if self.transformer.mean is None else ()
        if self.transformer.decode_mode != "native":
            setup.note("force_color and force_gray have no effect on a list of images, as in Caffe; is_color decides")
        setup.ignore_moved(params)
        self._vector_labels = params.knows("label_dim")
        if self._vector_labels and params.label_dim < 1:
            setup.fail(f"label_dim is {params.label_dim}; a positive number is needed")
        self._folder = setup.folder
        self._root_folder = params.root_folder
        list_path = setup.folder.locate(params.source, self.name)
        self.list = read_image_list(list_path, params.label_dim if self._vector_labels else None)
        shuffle = params.shuffle
        if shuffle and not self.shuffles:
            setup.note("shuffle has no effect on this type, as in the fork's Caffe")
            shuffle = False
        self.starts_anywhere = params.knows("is_shuffle_batch") and params.is_shuffle_batch
        start = 0
        if params.rand_skip:
            start = draw(setup.stream("rand_skip"), 0)[0] % params.rand_skip
            if start >= len(self.list):
                setup.fail(f"rand_skip skips {start} lines, {list_path} has only {len(self.list)}")
        self.cursor = Cursor(
            len(self.list),
            self.batch_size,
            start=start,
            shuffle=setup.stream("shuffle") if shuffle else None,
            jump=setup.stream("jump") if self.starts_anywhere else None,
            rank=setup.rank,
            world_size=setup.world_size,
        )

    def shapes(self) -> dict[str, Shape]:
        if self.height:
            size = (self.height, self.width, 3 if self.color else 1)
            try:
                data = self.transformer.output_shape(*size)
            except FileError as error:
                self._setup.fail(f"a resized image {error.detail}")
        else:
            first = self.cursor.first()
            image = self._read(first)
            try:
                data = self.transformer.output_shape(*image.shape)
            except FileError as error:
                self._refuse(first, error)
        label = (self.batch_size, self.list.label_dim) if self.list.label_dim else (self.batch_size,)
        return dict(zip(self.tops, ((self.batch_size, *data), label), strict=False))

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        samples: list[int] = self.cursor.samples(index).tolist()
        tops = [
            self.transformer(
                (self._read(i) for i in samples),
                self.cursor.positions(index).tolist(),
                empty,
                lambda i, error: self._refuse(samples[i], error),
            )
        ]
        if len(self.tops) > 1:
            labels = self._labels(np.array([self.list.labels(i) for i in samples], np.float32))
            tops.append(Values(torch.from_numpy(labels)))
        return dict(zip(self.tops, tops, strict=True))

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        """The batch's labels from what its lines say: (N,) or (N, label_dim) float32."""
        return labels

    def _path(self, i: int) -> str:
        # Caffe joins the two as they stand; a root_folder without a final slash is part of the file's name.
        return self._folder.locate(self._root_folder + self.list.name(i), self.name)

    def _read(self, i: int) -> np.ndarray:
        try:
            return read_image(self._path(i), color=self.color, height=self.height, width=self.width)
        except FileError as error:
            self._refuse(i, error)

    def _refuse(self, i: int, error: FileError) -> NoReturn:
        path, root = self._path(i), self._root_folder
        if root and not root.endswith("/") and not os.path.exists(path):
            joined = self._folder.locate(f"{root}/{self.list.name(i)}", self.name)
            if os.path.exists(joined):
                error = FileError(f"{error.detail} (root_folder {root!r} lacks its final slash)", path=error.path)
        self.list.fail(i, path, error)


class ImageDataLstm(ImageData):
    """The fork's layer for sequences: the last label tells whether a frame goes on from the one before.

    A batch that starts anywhere begins a sequence, so its first frame's last label is 0.
    """

    param_field = "image_data_lstm_param"

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        if self.starts_anywhere:
            labels[0, -1] = 0
        return labels


class ImageDataSelf(ImageData):
    """The fork's layer that divides its labels (pixels) by ``new_height``. It never shuffles its list."""

    param_field = "image_data_self_param"
    shuffles = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if not self.height:
            setup.fail("divides its labels by new_height, which is not given")

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        return labels / np.float32(self.height)
