"""Pictures of people with Gaussian maps of their parts: what the heat-map pre-training learns from.

This stands in for the ``CPMData`` layer of the CPM release's Caffe, which 3Dpose_ssl names but does not have. What is
chosen, and where it comes from:

- from the network's definition (``transform_param`` of ``pose_train_test_from_release``): crops of 368 and maps of
  46 by 46 (stride 8); sigma 7 of the parts' maps; a person's size 1.171 in units of MPII's scale, half of the time with
  a factor between 0.8 and 1.2; turned by up to 40 degrees; the centre in the middle of the crop
  (``center_perterb_max`` 0); no CLAHE; and, by its Slice and its losses, which 15 maps each stage learns;
- from that Caffe (github.com/shihenw/caffe, commit d154e896: the defaults of ``TransformationParameter`` in
  caffe.proto, and data_transformer.cpp): sigma 21 of the centre's map; mirrored half of the time; 14 parts in the order
  of :data:`PARTS` and the background, 1 minus the greatest of the parts; first the maps of the person in the centre,
  then those of everybody; the maps' formula and where they end; scaled, turned, cropped, then mirrored; grey 128 beyond
  the picture; (v - 128) / 256; hidden parts have maps, parts beyond the picture have none;
- from the release's scripts (github.com/shihenw/convolutional-pose-machines-release, ``training/genJSON.m``): the
  centre is MPII's ``objpos``, the size its ``scale``, and every annotated person of a training picture has its turn.

The method is S. Wei and others, "Convolutional Pose Machines", CVPR 2016. The release's own networks (``genProto.py``)
vary every person's size, between 0.7 and 1.3; the definition at hand wins.

What differs: the picture is scaled, turned, cropped and mirrored by one cubic interpolation instead of by several, the
person's centre is not rounded to a whole pixel before the crop, and people come in a new order in every epoch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.images import opencv, read_picture
from caffe_compat.network.registry import Shape
from caffe_compat.schema import load_schema
from caffe_compat.training.data.order import Cursor, draw
from caffe_compat.training.data.source import Empty, Folder, Setup, Source, Values

from ..skeleton import MPII16, swap_sides
from .mpii import MpiiPerson, read_mpii

__all__ = ["PARTS", "HeatMapOptions", "HeatMaps", "View", "augment", "gaussian", "label_maps"]

PARTS = (
    *("HeadTop", "UpperNeck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist"),
    *("RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot"),
)
"""The 14 parts in the order of their maps, by the names of :data:`hpm.skeleton.MPII16`. The background follows them."""

STRIDE = 8
_OF_MPII = [MPII16.joints.index(name) for name in PARTS]
_GRAY = 128
# Beyond it a map is zero: exp(-4.6052) is a hundredth.
_FURTHEST_EXPONENT = 4.6052
# The release's crops are of this side; smaller ones show the same part of the world.
_RELEASED_SIZE = 368


@dataclass(frozen=True)
class HeatMapOptions:
    """Where people come from and how they are varied; the numbers are those of the network's definition.

    Attributes:
        annotation: the release's .mat or a json that :func:`.mpii.read_mpii` reads. pictures: the folder of its
            pictures. Both are relative to the folder of the data.
        sigma, sigma_centre: standard deviations of the parts' maps and of the centre's, in pixels of the crop.
        target: the size of a person after scaling, as MPII's ``scale`` (200 pixels) in a crop of 368.
        scale_probability, scale_range: how often, and between which factors, that size is varied.
        max_degrees: a person is turned by an angle between this and its opposite.
        flip_probability: how often a person is mirrored.

    Raises:
        UsageError: a number out of its range.
    """

    annotation: str = "MPII/mpii_human_pose_v1_u12_1.mat"
    pictures: str = "MPII/images"
    sigma: float = 7.0
    sigma_centre: float = 21.0
    target: float = 1.171
    scale_probability: float = 0.5
    scale_range: tuple[float, float] = (0.8, 1.2)
    max_degrees: float = 40.0
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.scale_range
        if not (min(self.sigma, self.sigma_centre, self.target) > 0 and 0 < low <= high and self.max_degrees >= 0):
            raise UsageError("sigmas, target and scale_range are above 0 and in order, max_degrees is 0 or more")
        for name in ("scale_probability", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; 0 to 1 was expected")


# Maps


def gaussian(points: ArrayLike, size: int, stride: int, sigma: float) -> np.ndarray:
    """One map for each point: (..., 2) pixels (x, y) to (..., size / stride, size / stride).

    Cell k of an axis stands at pixel ``stride * k + stride / 2 - 0.5``, the middle of its pixels. Its value is
    exp(-d^2 / (2 sigma^2)), d the distance of cell and point in pixels, and zero where that exponent is beyond 4.6052.
    """
    at = np.asarray(points, np.float64)
    cells = stride * np.arange(size // stride) + stride / 2 - 0.5
    x, y = ((cells - at[..., k, None]) ** 2 for k in (0, 1))
    exponent = (y[..., :, None] + x[..., None, :]) / (2 * sigma**2)
    return np.where(exponent > _FURTHEST_EXPONENT, 0.0, np.exp(-exponent))


def label_maps(people: np.ndarray, shown: np.ndarray, size: int, stride: int, sigma: float) -> np.ndarray:
    """The label of a picture: 15 maps of the first person, then 15 of everybody, each 14 parts and the background.

    People's maps of a part add up, to 1 at most. The background is 1 minus the greatest of the parts.

    Args:
        people: (people, 14, 2), pixels of the crop, :data:`PARTS`. shown: (people, 14), which parts get a map.

    Returns:
        (30, size / stride, size / stride)
    """
    each = gaussian(people, size, stride, sigma) * shown[:, :, None, None]
    halves = []
    for parts in (each[0], np.minimum(each.sum(0), 1)):
        halves += [parts, 1 - parts.max(0, keepdims=True)]
    return np.concatenate(halves)


# Augmentation


@dataclass(frozen=True, eq=False)
class View:
    """How the picture is brought into the crop: ``matrix`` (2, 3) on its pixels (x, y, 1), and whether mirrored."""

    matrix: np.ndarray
    flipped: bool

    def points(self, points: np.ndarray) -> np.ndarray:
        """Where points (..., 2) of the picture lie in the crop."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2])

    def person(self, points: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A person in MPII's order, (16, 2) and (16,), as :data:`PARTS` in the crop; a mirrored left is a right."""
        moved, seen = self.points(points), shown
        if self.flipped:
            moved, seen = swap_sides(moved, MPII16), seen[list(MPII16.swaps)]
        return moved[_OF_MPII], seen[_OF_MPII]

    def picture(self, picture: np.ndarray, size: int) -> np.ndarray:
        """The crop (size, size, 3) of a picture (height, width, 3); grey, 128, beyond its edges."""
        cv2 = opencv()
        return np.asarray(
            cv2.warpAffine(
                picture,
                self.matrix,
                (size, size),
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(_GRAY,) * 3,
            )
        )


def augment(centre: np.ndarray, scale: float, size: int, options: HeatMapOptions, draws: Sequence[float]) -> View:
    """A view of the person about ``centre`` (2,), whom MPII's ``scale`` describes, in a crop of ``size`` pixels.

    Args:
        draws: four numbers from 0 to 1: whether the size varies, by which factor, the angle, whether it is mirrored.
    """
    varies, factor, turn, mirror = draws
    low, high = options.scale_range
    zoom = options.target / scale * size / _RELEASED_SIZE
    if varies < options.scale_probability:
        zoom *= low + (high - low) * factor
    angle = math.radians((2 * turn - 1) * options.max_degrees)
    linear = zoom * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = np.column_stack([linear, size / 2 - linear @ centre])
    flipped = mirror < options.flip_probability
    if flipped:
        matrix[0] *= -1
        matrix[0, 2] += size - 1
    return View(matrix, flipped)


# Batches


class HeatMaps(Source):
    """Batches ``data`` and ``label`` of ``pose_train_test_from_release``, a function of seed, rank and index alone.

    Every person of the annotation with a centre and a scale takes a turn in the middle; everybody whom it has in that
    picture is in the maps of everybody. A part gets a map if it is annotated, hidden or not, and within the picture.

    - ``data`` (batch, 4, size, size): the crop, BGR, (v - 128) / 256, and the map of the person's centre;
    - ``label`` (batch, 30, size / 8, size / 8): :func:`label_maps`.

    Args:
        root: the folder that the paths in ``options`` are relative to.
        size: side of the crops, pixels. batch: people per batch.
        shuffle: False takes people in the annotation's order.

    Raises:
        FileError: the annotation cannot be read, or a picture that it names is not there.
        UsageError: nobody in it has a centre, a scale and a part; a size that 8 does not divide.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        options: HeatMapOptions,
        *,
        size: int,
        batch: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if size % STRIDE:
            raise UsageError(f"pictures of {size} pixels; a multiple of {STRIDE} was expected")
        folder = Folder(Path(root).resolve(), confined=False)
        setup = Setup(
            name="data",
            key="data",
            type="HeatMaps",
            tops=("data", "label"),
            message=load_schema().message("LayerParameter")(name="data", type="HeatMaps"),
            phase="TRAIN",
            folder=folder,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        super().__init__(setup)
        self._options, self._size, self._batch = options, size, batch
        annotation, self._pictures = folder.root / options.annotation, folder.root / options.pictures
        self._people = read_mpii(annotation)
        self._of_picture: dict[str, list[int]] = {}
        for k, person in enumerate(self._people):
            self._of_picture.setdefault(person.image, []).append(k)
        self._centred = [k for k, person in enumerate(self._people) if _can_be_centred(person)]
        if not self._centred:
            raise UsageError(
                f"none of {len(self._people)} people has a centre, a scale and a part; MPII's .mat has "
                "objpos and scale, a json objpos and scale_provided, or center and scale",
                path=str(annotation),
            )
        if len(self._centred) < len(self._people):
            left = len(self._people) - len(self._centred)
            setup.note(f"{left} of {len(self._people)} people lack a centre, a scale or parts: nobody looks at them")
        self._check_pictures()
        self._cursor = Cursor(
            len(self._centred),
            batch,
            shuffle=setup.stream("shuffle") if shuffle else None,
            rank=rank,
            world_size=world_size,
        )
        self._draws = setup.stream("augment")

    def _check_pictures(self) -> None:
        wanted = {self._people[k].image for k in self._centred}
        missing = sorted(name for name in wanted if not (self._pictures / name).is_file())
        if missing:
            raise FileError(
                f"{len(missing)} of {len(wanted)} pictures that the annotation names are not there",
                path=str(self._pictures / missing[0]),
            )

    def shapes(self) -> dict[str, Shape]:
        cells = self._size // STRIDE
        return {
            "data": (self._batch, 4, self._size, self._size),
            "label": (self._batch, 2 * (len(PARTS) + 1), cells, cells),
        }

    def read(self, index: int, empty: Empty) -> dict[str, Values]:
        tops = {top: empty(shape, torch.float32) for top, shape in self.shapes().items()}
        samples, positions = self._cursor.samples(index).tolist(), self._cursor.positions(index).tolist()
        for row, (sample, position) in enumerate(zip(samples, positions, strict=True)):
            made = self._sample(self._centred[sample], position)
            for top, array in zip(tops.values(), made, strict=True):
                top[row] = torch.from_numpy(array)
        return {top: Values(tensor) for top, tensor in tops.items()}

    def _sample(self, k: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Person ``k``: (4, size, size) and (30, size / 8, size / 8)."""
        options, size, person = self._options, self._size, self._people[k]
        # For the type checker: those who lack them are not among the centred.
        assert person.centre is not None
        assert person.scale is not None
        picture = read_picture(self._pictures / person.image, "color")
        # The upper 53 bits: as many as a float holds.
        draws = [(bits >> 11) / 2**53 for bits in draw(self._draws, position)]
        view = augment(person.centre, person.scale, size, options, draws)
        others = [other for other in self._of_picture[person.image] if other != k]
        limit = np.array(picture.shape[1::-1])
        people = []
        for one in (person, *(self._people[other] for other in others)):
            within = ((one.points >= 0) & (one.points < limit)).all(1)
            people.append(view.person(one.points, one.present & within))
        label = label_maps(
            np.stack([points for points, _ in people]),
            np.stack([shown for _, shown in people]),
            size,
            STRIDE,
            options.sigma,
        )
        data = np.empty((4, size, size), np.float32)
        data[:3] = (view.picture(picture, size).transpose(2, 0, 1).astype(np.float32) - _GRAY) / 256
        data[3] = gaussian(view.points(person.centre), size, 1, options.sigma_centre)
        return data, label.astype(np.float32)


def _can_be_centred(person: MpiiPerson) -> bool:
    return person.centre is not None and person.scale is not None and bool(person.present[_OF_MPII].any())
