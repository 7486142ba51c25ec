"""The vocabulary in which builders ask for shapes: what each word takes, and what it says of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from caffe_compat.errors import LayerError
from caffe_compat.network.shapes import Axis, Shape, described, fits
from caffe_compat.network.spec import LayerSpec
from caffe_compat.schema import load_schema


def spec_of(*shapes: Shape, tops: int = 1) -> LayerSpec:
    message = load_schema().message("LayerParameter")(name="l", type="T")
    names = tuple(f"b{i}" for i in range(len(shapes)))
    return LayerSpec("l", "T", "TEST", names, tuple(f"t{i}" for i in range(tops)), shapes, "bvlc", message)


@pytest.mark.parametrize(
    ("shape", "axes", "fit"),
    [
        ((), (), True),
        ((), ("n",), False),
        ((3,), (), False),
        ((3, 5), ("n", 5), True),
        ((3, 4), ("n", 5), False),
        ((3, 5, 1), ("n", 5), False),
        ((3, 5, 2), ("n", 5, ...), True),
        ((3,), ("n", "values", ...), False),
        ((0, 5), ("n > 0", 5), False),
        ((1, 5), ("n > 0", 5), True),
        ((2, 5), ("n >= 2", 5), True),
        ((1, 5), ("n >= 2", 5), False),
        ((12, 5), ("n = 12", 5), True),
        ((2, 5), ("n = 12", 5), False),
        ((2,), ("boxes of one image = 2",), True),
    ],
)
def test_axes(shape: Shape, axes: tuple[Axis, ...], fit: bool) -> None:
    assert fits(shape, axes) is fit


@pytest.mark.parametrize(
    ("shape", "axes", "fit"),
    [
        ((3, 5, 1, 1), ("n", 5), True),
        ((3, 5, 1, 2), ("n", 5), False),
        ((3, 5, 0), ("n", 5), False),
        ((3,), ("n", 5), False),
        ((3, 5), ("n", 5), True),
        ((4, 5, 1), ("n = 3", 5), False),
    ],
)
def test_axes_of_one_may_follow(shape: Shape, axes: tuple[Axis, ...], fit: bool) -> None:
    assert fits(shape, axes, ones=True) is fit


@pytest.mark.parametrize("axis", ["n >", "n < 2", "n=2", "n = x", "", "n = -1"])
def test_a_misspelt_axis_is_an_error_of_the_builder(axis: str) -> None:
    with pytest.raises(ValueError, match="neither a name nor"):
        fits((2,), (axis,))


def test_axes_are_told_as_they_are_asked_for() -> None:
    assert described(("images = 2", "channels", 7, "width > 0", ...)) == "(images = 2, channels, 7, width > 0, ...)"
    assert described(("labels",)) == "(labels,)"


REFUSALS: dict[str, tuple[Callable[[LayerSpec], object], LayerSpec, str]] = {
    "images": (LayerSpec.images, spec_of((2, 3, 5)), "'b0' has shape [2, 3, 5]; (images, channels, height, width)"),
    "pixels": (
        lambda spec: spec.images(pixels=True),
        spec_of((2, 3, 5, 0)),
        "'b0' has shape [2, 3, 5, 0]; (images, channels, height > 0, width > 0)",
    ),
    "volumes": (
        lambda spec: spec.volumes(1),
        spec_of((), (2, 3, 5, 4)),
        "'b1' has shape [2, 3, 5, 4]; (images, channels, length, height, width)",
    ),
    "filled": (
        lambda spec: spec.images(filled=True),
        spec_of((0, 3, 5, 4)),
        "'b0' has shape [0, 3, 5, 4]; (images > 0, channels > 0, height > 0, width > 0)",
    ),
    "images or volumes": (
        LayerSpec.images_or_volumes,
        spec_of((2, 3, 5)),
        "'b0' has shape [2, 3, 5]; (images, channels, height, width) or (images, channels, length, height, width)",
    ),
    "rows": (lambda spec: spec.rows(0, "boxes", 5), spec_of((3, 2, 2)), "'b0' has shape [3, 2, 2]; (boxes, 5)"),
    "rows of nothing": (lambda spec: spec.rows(0, "boxes", 1), spec_of(()), "'b0' has shape []; (boxes, 1)"),
    "channels": (LayerSpec.channels, spec_of((2,)), "'b0' has shape [2]; (images, channels, ...)"),
    "vector": (lambda spec: spec.vector(1), spec_of((2,), (2, 3)), "'b1' has shape [2, 3]; (examples,)"),
    "vector of a length": (
        lambda spec: spec.vector(0, "labels = 4"),
        spec_of((3, 1)),
        "'b0' has shape [3, 1]; (labels = 4,)",
    ),
    "four axes": (
        LayerSpec.four_axes,
        spec_of((2, 3, 1, 4, 5)),
        "'b0' has shape [2, 3, 1, 4, 5]; a blob of at most 4 axes",
    ),
    "alike": (
        LayerSpec.alike,
        spec_of((2, 3), (2, 3), (3, 2)),
        "'b2' has shape [3, 2]; [2, 3], as 'b0' has,",
    ),
    "two alike": (
        lambda spec: spec.alike(1, 2),
        spec_of((2, 3), (2, 4), (3, 2)),
        "'b2' has shape [3, 2]; [2, 4], as 'b1' has,",
    ),
    "as many": (
        lambda spec: spec.as_many(1, (2, 3), "a label for each value"),
        spec_of((2, 3), (5,)),
        "'b1' has shape [5]; a label for each value, [2, 3],",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_one_wording(name: str) -> None:
    ask, spec, found = REFUSALS[name]
    with pytest.raises(LayerError, match=re.escape(f"layer 'l' (T): bottom {found} was expected") + "$"):
        ask(spec)


def test_what_fits_is_given_back() -> None:
    spec = spec_of((2, 3, 5, 4), (2, 3, 5, 4), (2, 1, 1), (2, 3, 1, 5, 4), (120,))
    assert spec.images() == spec.images(1, pixels=True) == spec.channels(0) == spec.alike(0, 1) == (2, 3, 5, 4)
    assert spec.vector(2) == spec.vector(2, 2) == (2, 1, 1)
    assert spec.four_axes(2) == (2, 1, 1, 1)
    assert spec.rows(0, "images = 2", "values") == (2, 60)
    assert spec.rows(4, "rows", 1) == (120, 1)
    assert spec.images_or_volumes(3) == spec.volumes(3) == (2, 3, 1, 5, 4)
    assert spec.as_many(4, (2, 3, 5, 4), "a label for each value") == (120,)
    assert spec.shaped(-1, "values") == (120,)


def test_one_top_each() -> None:
    spec_of((1,), (1,), tops=2).one_top_each()
    spec_of((1,), (1,), (1,), tops=2).one_top_each(2)
    with pytest.raises(LayerError, match="has 1 tops for 2 bottoms; one for each was expected"):
        spec_of((1,), (1,)).one_top_each()
