"""What a builder is given: a layer's names and parameters, its bottoms' shapes, and words for what does not fit.

    @layer("Correlation", bottoms=2, tops=1)
    def correlation(spec: LayerSpec) -> Layer:
        images, channels, height, width = spec.images(0)
        spec.alike()

Whether the shapes are such as a layer can take is asked in one vocabulary (:meth:`LayerSpec.images`,
:meth:`~LayerSpec.shaped`, :meth:`~LayerSpec.alike` and their kin), so that the same mistake is told in the same words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from ..errors import LayerError
from ..schema import split_dialect
from ..schema.messages import LayerParameter
from ..schema.params import Params, Unread, unread_fields
from ..schema.which_meaning import meaning_of
from .shapes import FILLED, IMAGES, PIXELS, VOLUMES, Axis, Lines, Shape, described, fits, four_axes

__all__ = ["Around", "LayerSpec"]


class Around(Protocol):
    """The net that a layer stands in (:class:`.surroundings.Surroundings`)."""

    def picture(self) -> tuple[int, int] | None:
        """Height and width of the net's first input with four axes; None if there is none."""

    def lines(self, start: str, end: str) -> Lines:
        """Where a cell of blob ``start`` lies in blob ``end``."""


@dataclass
class LayerSpec:
    """What a builder may look at.

    >>> from caffe_compat.schema import load_schema
    >>> message = load_schema().message("LayerParameter")(name="cut", type="Crop")
    >>> spec = LayerSpec("cut", "Crop", "TEST", ("x", "like"), ("y",), ((1, 3, 8, 8), (1, 3, 4, 4)), "bvlc", message)
    >>> spec.params("crop_param").axis, spec.axis(-1, rank=4)
    (2, 3)
    >>> spec.fail("the first bottom is smaller than the second")
    Traceback (most recent call last):
    caffe_compat.errors.LayerError: layer 'cut' (Crop): the first bottom is smaller than the second
    >>> images, channels, height, width = spec.images(0)
    >>> spec.shaped(1, "images", 2, ...)
    Traceback (most recent call last):
    caffe_compat.errors.LayerError: ... bottom 'like' has shape [1, 3, 4, 4]; (images, 2, ...) was expected
    >>> spec.alike()
    Traceback (most recent call last):
    caffe_compat.errors.LayerError: ... bottom 'like' has shape [1, 3, 4, 4]; [1, 3, 8, 8], as 'x' has, was expected

    Attributes:
        name, type: of the layer, as in the file.
        phase: ``"TRAIN"`` or ``"TEST"``.
        bottoms, tops: blob names. bottom_shapes: shapes in the same order.
        dialect: name of the schema in force (``"bvlc"``, ``"chanyn/3Dpose_ssl"``, several joined by ``+``).
        message: the ``LayerParameter``.
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        allow_python: whether ``Python`` layers may import and run the code they name.
        around: the net, for the few layers that look beyond their bottoms; None where there is none.
        warnings, notes: what the builder wants the user to know, added by :meth:`warn` and :meth:`note`.
    """

    name: str
    type: str
    phase: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    bottom_shapes: tuple[Shape, ...]
    dialect: str
    message: LayerParameter
    gradients: str = "caffe"
    allow_python: bool = False
    around: Around | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _read: dict[str, Params] = field(default_factory=dict)

    def params(self, name: str) -> Params:
        """The parameter message in field ``name``, with defaults if the file has none."""
        if name not in self._read:
            if name not in self.message.DESCRIPTOR.fields_by_name:
                self.fail(
                    f"the schema {self.dialect} has no field {name}; pass the dialect that defines type {self.type}"
                )
            self._read[name] = Params(getattr(self.message, name), name)
        return self._read[name]

    def fail(self, message: str) -> NoReturn:
        """Raise :class:`LayerError` with the layer's name and type in front."""
        raise LayerError(message, layer=self.name, type=self.type)

    def warn(self, message: str) -> None:
        """Tell the user something that does not keep the layer from being built."""
        self.warnings.append(f"layer {self.name!r} ({self.type}): {message}")

    def note(self, message: str) -> None:
        """Say what was done, where there is nothing to worry about."""
        self.notes.append(f"layer {self.name!r} ({self.type}): {message}")

    def means(self, fork: str) -> bool:
        """Whether the dialect in force means by this type what ``fork`` does (:mod:`..schema.meanings`)."""
        found = (meaning_of(self.type, one) for one in split_dialect(self.dialect))
        return next((meaning for meaning in found if meaning is not None), None) == meaning_of(self.type, fork)

    def knows(self, name: str) -> bool:
        """Whether the schema in force has field ``name`` (``"smooth_l1_loss_param"``) for a layer's parameters."""
        return name in self.message.DESCRIPTOR.fields_by_name

    def axis(self, value: int, rank: int, what: str = "axis") -> int:
        """``value`` as an index into ``rank`` axes, negative ones counted from the end (Caffe's CanonicalAxisIndex)."""
        if not -rank <= value < rank:
            self.fail(f"{what} {value} is out of range for {rank} axes")
        return value % rank if rank else 0

    def misfit(self, index: int, expected: str) -> NoReturn:
        """Refuse the shape of a bottom. ``expected`` is what would do, in the singular, where no pattern says it."""
        shape = self.bottom_shapes[index]
        detail = f"bottom {self.bottoms[index]!r} has shape {list(shape)}; {expected} was expected"
        raise LayerError(detail, layer=self.name, type=self.type, found=shape, expected=expected)

    def shaped(self, index: int, *axes: Axis, ones: bool = False) -> Shape:
        """The shape of a bottom that must have these axes, in the notation of :mod:`.shapes`.

        ``ones`` allows more axes of length 1 behind them, which the four axes of Caffe's first blobs leave.
        """
        shape = self.bottom_shapes[index]
        if not fits(shape, axes, ones=ones):
            self.misfit(index, described(axes))
        return shape

    def images(self, index: int = 0, *, pixels: bool = False, filled: bool = False) -> Shape:
        """(images, channels, height, width) of a bottom.

        With ``pixels``, heights and widths of 0 are refused; with ``filled``, every size of 0 is.
        """
        return self.shaped(index, *(FILLED if filled else PIXELS if pixels else IMAGES))

    def volumes(self, index: int = 0) -> Shape:
        """(images, channels, length, height, width) of a bottom."""
        return self.shaped(index, *VOLUMES)

    def images_or_volumes(self, index: int = 0) -> Shape:
        """(images, channels, height, width) of a bottom, or (images, channels, length, height, width)."""
        shape = self.bottom_shapes[index]
        if not fits(shape, IMAGES) and not fits(shape, VOLUMES):
            self.misfit(index, f"{described(IMAGES)} or {described(VOLUMES)}")
        return shape

    def channels(self, index: int = 0) -> Shape:
        """(images, channels, ...) of a bottom."""
        return self.shaped(index, "images", "channels", ...)

    def vector(self, index: int, length: Axis = "examples") -> Shape:
        """The shape of a bottom with one number for each example, whatever axes of length 1 lie behind."""
        return self.shaped(index, length, ones=True)

    def rows(self, index: int, rows: Axis, values: Axis) -> tuple[int, int]:
        """How many rows of how many values a bottom has: its first axis, and all others together."""
        shape = self.bottom_shapes[index]
        flat = (*shape[:1], *([math.prod(shape[1:])] if shape else []))
        if not fits(flat, (rows, values)):
            self.misfit(index, described((rows, values)))
        return flat[0], flat[1]

    def four_axes(self, index: int = 0) -> Shape:
        """A bottom's shape as :func:`.shapes.four_axes` has it; more axes are refused (``Blob::LegacyShape``)."""
        shape = self.bottom_shapes[index]
        if len(shape) > 4:
            self.misfit(index, "a blob of at most 4 axes")
        return four_axes(shape)

    def alike(self, *indices: int) -> Shape:
        """The shape that these bottoms (all, if none is named) must have in common: that of the first of them."""
        first, *others = indices or range(len(self.bottoms))
        shape = self.bottom_shapes[first]
        for index in others:
            if self.bottom_shapes[index] != shape:
                self.misfit(index, f"{list(shape)}, as {self.bottoms[first]!r} has,")
        return shape

    def as_many(self, index: int, sizes: Shape, what: str) -> Shape:
        """The shape of a bottom of any axes that must have as many values as a blob of ``sizes``.

        Args:
            what: one of the values, for the error (``"a label for each position"``).
        """
        if math.prod(self.bottom_shapes[index]) != math.prod(sizes):
            self.misfit(index, f"{what}, {list(sizes)},")
        return self.bottom_shapes[index]

    def one_top_each(self, bottoms: int | None = None) -> None:
        """Refuse other than one top for each bottom, or for each of the first few of them."""
        count = len(self.bottoms) if bottoms is None else bottoms
        if len(self.tops) != count:
            self.fail(f"has {len(self.tops)} tops for {count} bottoms; one for each was expected")

    def read_fields(self) -> frozenset[str]:
        """The fields of the layer's message that the builder read."""
        return frozenset(self._read)

    def unread_inside(self) -> list[Unread]:
        """What the file sets in the parameter messages that the builder read, and that it did not read."""
        return [unread for params in self._read.values() for unread in unread_fields(params)]

    def check_all_read(self) -> None:
        """Refuse parameters that the builder did not honour."""
        for unread in self.unread_inside():
            self.fail(f"parameter {unread} is not supported")
