"""Operations of torch that make, cut, join and reorder tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .operations import Axes, Given, Operation, Traced, translates
from .sizes import Size

__all__: list[str] = []

# The end of an axis, whatever its size.
_END = 2**62


@translates("alias", "clone", "contiguous", "detach", "lift_fresh_copy", "lift_fresh", "_conj")
def alias(o: Operation, x: Traced, **_: object) -> str:
    return x.name


@translates("copy")
def copy(o: Operation, target: Traced, source: Traced, *_: object) -> str:
    found = o.given(source, target.kind)
    return found if source.sizes == target.sizes else o.op("Expand", found, o.site.shape(target.sizes))


@translates("_to_copy", "to")
def to_copy(o: Operation, x: Traced, *_: object, **__: object) -> str:
    return o.given(x, o.top.kind)


@translates("view", "_unsafe_view", "reshape", "flatten", "unflatten", "_reshape_alias")
def view(o: Operation, x: Traced, *_: object) -> str:
    return o.site.reshape(x.name, x.sizes, o.top.sizes)


@translates("unsqueeze")
def unsqueeze(o: Operation, x: Traced, axis: int) -> str:
    return o.op("Unsqueeze", x.name, o.ints([axis % (x.rank + 1)]))


@translates("squeeze")
def squeeze(o: Operation, x: Traced, axes: Axes = None) -> str:
    return view(o, x) if o.top.sizes != x.sizes else x.name


@translates("permute")
def permute(o: Operation, x: Traced, order: Sequence[int]) -> str:
    return o.op("Transpose", x.name, perm=[axis % x.rank for axis in order])


@translates("transpose")
def transpose(o: Operation, x: Traced, a: int, b: int) -> str:
    order = list(range(x.rank))
    order[a], order[b] = order[b], order[a]
    return o.op("Transpose", x.name, perm=order)


@translates("t")
def t(o: Operation, x: Traced) -> str:
    return o.op("Transpose", x.name, perm=[1, 0]) if x.rank == 2 else x.name


@translates("expand")
def expand(o: Operation, x: Traced, *_: object, **__: object) -> str:
    return x.name if x.sizes == o.top.sizes else o.op("Expand", x.name, o.site.shape(o.top.sizes))


@translates("repeat")
def repeat(o: Operation, x: Traced, times: Sequence[int | Size]) -> str:
    more = len(times) - x.rank
    y = o.site.reshape(x.name, x.sizes, (*[1] * more, *x.sizes))
    return o.op("Tile", y, o.site.shape(list(times)))


@translates("slice")
def slice_(
    o: Operation,
    x: Traced,
    axis: int = 0,
    start: int | Size | None = None,
    end: int | Size | None = None,
    step: int = 1,
) -> str:
    starts = o.ints([0]) if start is None else o.site.size(start)
    ends = o.ints([_END]) if end is None else o.site.size(end)
    return o.op("Slice", x.name, starts, ends, o.ints([axis]), o.ints([step]))


@translates("narrow")
def narrow(o: Operation, x: Traced, axis: int, start: int, length: int | Size) -> str:
    end = Size(length.built + start, length.larger + start) if isinstance(length, Size) else start + length
    return slice_(o, x, axis, start, end)


@translates("select")
def select(o: Operation, x: Traced, axis: int, index: int) -> str:
    return o.op("Gather", x.name, o.constant(index, np.int64), axis=axis)


@translates("unbind")
def unbind(o: Operation, x: Traced, axis: int = 0) -> list[str]:
    return [select(o, x, axis, i) for i in range(len(o.made))]


@translates("split", "split_with_sizes", "chunk")
def split(o: Operation, x: Traced, sizes: Any = None, axis: int = 0) -> list[str]:
    if len(o.made) == 1:
        return [x.name]
    lengths = o.site.shape([part.sizes[axis] for part in o.made])
    return o.site.ops("Split", x.name, lengths, outputs=len(o.made), axis=axis)


@translates("cat")
def cat(o: Operation, parts: Sequence[Traced], axis: int = 0) -> str:
    # Torch lets a tensor of shape (0,) pass among others.
    there = [part for part in parts if part.tensor.dim() == o.top.rank]
    return o.op("Concat", *[o.given(part, o.top.kind) for part in there], axis=axis)


@translates("stack")
def stack(o: Operation, parts: Sequence[Traced], axis: int = 0) -> str:
    place = o.ints([axis % o.top.rank])
    return o.op("Concat", *[o.op("Unsqueeze", o.given(x, o.top.kind), place) for x in parts], axis=axis)


@translates("flip")
def flip(o: Operation, x: Traced, axes: Sequence[int]) -> str:
    if not axes:
        return x.name
    count = len(axes)
    return o.op(
        "Slice", x.name, o.ints([-1] * count), o.ints([-_END] * count), o.ints(list(axes)), o.ints([-1] * count)
    )


@translates("constant_pad_nd")
def constant_pad_nd(o: Operation, x: Traced, amounts: Sequence[int], value: float = 0) -> str:
    begins, ends = [0] * x.rank, [0] * x.rank
    for i in range(len(amounts) // 2):
        begins[-1 - i], ends[-1 - i] = amounts[2 * i], amounts[2 * i + 1]
    return o.op("Pad", x.name, o.ints([*begins, *ends]), o.constant(value, x.kind))


@translates("unfold")
def unfold(o: Operation, x: Traced, axis: int, size: int, step: int) -> str:
    length = x.sizes[axis]
    if isinstance(length, Size):
        o.site.fail("windows along an axis whose size varies")
    starts = np.arange(0, length - size + 1, step)
    y = o.op("Gather", x.name, o.ints(starts[:, None] + np.arange(size)), axis=axis)
    order = [i for i in range(x.rank + 1) if i != axis % x.rank + 1]
    return o.op("Transpose", y, perm=[*order, axis % x.rank + 1])


@translates("diag_embed")
def diag_embed(o: Operation, x: Traced) -> str:
    count = x.sizes[-1]
    if isinstance(count, Size):
        o.site.fail("puts values on a diagonal whose length varies")
    across = o.op("Unsqueeze", x.name, o.ints([-1]))
    return o.op("Where", o.site.graph.constant(np.eye(count, dtype=np.bool_)), across, o.constant(0, x.kind))


# Picking


@translates("index_select")
def index_select(o: Operation, x: Traced, axis: int, index: Traced) -> str:
    return o.op("Gather", x.name, o.given(index, np.dtype(np.int64)), axis=axis)


@translates("embedding")
def embedding(o: Operation, weight: Traced, index: Traced, *_: object) -> str:
    return o.op("Gather", weight.name, o.given(index, np.dtype(np.int64)), axis=0)


@translates("gather")
def gather(o: Operation, x: Traced, axis: int, index: Traced, **_: object) -> str:
    return o.op("GatherElements", x.name, o.given(index, np.dtype(np.int64)), axis=axis)


@translates("scatter")
def scatter(o: Operation, x: Traced, axis: int, index: Traced, source: Traced | float, **_: object) -> str:
    if isinstance(source, Traced):
        values = source.name
    else:
        values = o.op("Expand", o.constant(source, x.kind), o.site.shape(index.sizes))
    return o.op("ScatterElements", x.name, index.name, values, axis=axis)


@translates("index_add")
def index_add(o: Operation, x: Traced, axis: int, index: Traced, source: Traced, **_: object) -> str:
    if x.rank != 1:
        o.site.fail("adds up rows by their numbers")
    return o.op("ScatterElements", x.name, index.name, source.name, axis=axis, reduction="add")


@translates("index")
def index(o: Operation, x: Traced, places: Sequence[Traced | None]) -> str:
    given = [i for i, place in enumerate(places) if place is not None]
    if any(place is not None and place.kind == np.bool_ for place in places):
        o.site.fail("picks values by a mask, whose count a layer of its own would have to tell")
    if given != list(range(given[0], given[0] + len(given))):
        o.site.fail("picks values along axes that lie apart")
    first = given[0]
    listed = [p for p in places if p is not None]
    if len(given) == 1:
        return o.op("Gather", x.name, o.given(listed[0], np.dtype(np.int64)), axis=first)
    # (..., picked...) of the leading axes: bring those that are picked to the front.
    rest = [axis for axis in range(x.rank) if axis not in given]
    y = o.op("Transpose", x.name, perm=[*given, *rest]) if first else x.name
    shape = o.top.sizes[first : o.top.rank - (x.rank - first - len(given))]
    expanded = [
        o.op("Unsqueeze", o.op("Expand", o.given(p, np.dtype(np.int64)), o.site.shape(shape)), o.ints([len(shape)]))
        for p in listed
    ]
    found = o.op("GatherND", y, o.op("Concat", *expanded, axis=-1))
    if not first:
        return found
    picked = list(range(len(shape)))
    before = [len(shape) + i for i in range(first)]
    behind = [len(shape) + i for i in range(first, len(rest))]
    return o.op("Transpose", found, perm=[*before, *picked, *behind])


# Making


def _full(o: Operation, value: Given) -> str:
    kind = o.top.kind
    return o.op("Expand", o.given(value, kind), o.site.shape(o.top.sizes)) if o.top.rank else o.given(value, kind)


@translates("zeros", "zeros_like", "new_zeros")
def zeros(o: Operation, *_: object, **__: object) -> str:
    return _full(o, 0)


@translates("ones", "ones_like", "new_ones")
def ones(o: Operation, *_: object, **__: object) -> str:
    return _full(o, 1)


@translates("full")
def full(o: Operation, size: object, value: Given, **_: object) -> str:
    return _full(o, value)


@translates("full_like")
def full_like(o: Operation, x: Traced, value: Given, **_: object) -> str:
    return _full(o, value)


@translates("new_full")
def new_full(o: Operation, x: Traced, size: object, value: Given, **_: object) -> str:
    return _full(o, value)


@translates("fill")
def fill(o: Operation, x: Traced, value: Given) -> str:
    return _full(o, value)


@translates("zero")
def zero(o: Operation, x: Traced) -> str:
    return _full(o, 0)


@translates("scalar_tensor")
def scalar_tensor(o: Operation, value: Given, **_: object) -> str:
    return o.given(value, o.top.kind)


@translates("arange")
def arange(o: Operation, *numbers: Given, **_: object) -> str:
    start, end, step = {1: (0, *numbers, 1), 2: (*numbers, 1)}.get(len(numbers), numbers)
    kind = o.top.kind
    whole = all(isinstance(n, int | Size) for n in (start, end, step))
    counted = np.dtype(np.int64) if whole else kind
    y = o.op("Range", *[o.given(n, counted) for n in (start, end, step)])
    return y if counted == kind else o.site.cast(y, kind)


@translates("linspace")
def linspace(o: Operation, *_: object, **__: object) -> str:
    if o.top.tensor.shape != o.top.other.shape:
        o.site.fail("evenly spaced numbers whose count varies")
    return o.site.graph.constant(o.top.tensor.cpu().numpy())


@translates("empty", "empty_like", "new_empty")
def empty(o: Operation, *_: object, **__: object) -> str:
    return _full(o, 0)
