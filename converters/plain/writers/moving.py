"""Layers that move values without computing."""

from __future__ import annotations

from caffe_compat.layers.bvlc.shape import (
    BatchReindex,
    Concat,
    Crop,
    Flatten,
    Reshape,
    Silence,
    Slice,
    Split,
    Tile,
)
from caffe_compat.layers.forks.ssd import Permute

from ..code import Call, collection
from ..layers import Place, Written, written

__all__: list[str] = []


@written(Concat)
def concat(at: Place, module: Concat) -> Written:
    if len(at.bottoms) == 1:
        return Written(at.x)
    return Written(Call("torch.cat", [collection(at.bottoms, "[]"), str(module.axis)]))


@written(Slice)
def slice_(at: Place, module: Slice) -> Written | None:
    if at.tops == 1:
        return Written(at.x)
    if module.points:
        return Written(f"{at.x}.tensor_split({module.points}, {module.axis})")
    if module.axis == 0:
        return None  # chunk would cut a batch that is no multiple into pieces of other sizes
    return Written(f"{at.x}.chunk({module.count}, {module.axis})")


@written(Split)
def split(at: Place, module: Split) -> Written:
    return Written(at.x if at.tops == 1 else ", ".join([at.x] * at.tops))


@written(Reshape)
def reshape(at: Place, module: Reshape) -> Written:
    rank = len(at.shapes[0])
    sizes = [f"{at.x}.shape[{axis}]" for axis in range(rank)]
    new = [sizes[module.start + i] if dim == 0 else str(dim) for i, dim in enumerate(module.dims)]
    top = [*sizes[: module.start], *new, *sizes[module.end :]]
    return Written(Call(f"{at.x}.reshape", top or ["()"]))


@written(Flatten)
def flatten(at: Place, module: Flatten) -> Written:
    start, end = module.start, module.end
    if start > end:
        return Written(f"{at.x}.unsqueeze({start})")
    return Written(f"{at.x}.flatten({start})" if end == len(at.shapes[0]) - 1 else f"{at.x}.flatten({start}, {end})")


@written(Crop)
def crop(at: Place, module: Crop) -> Written:
    x, reference = at.bottoms
    cuts = [
        f".narrow({axis}, {offset}, {reference}.shape[{axis}])"
        for axis, offset in enumerate(module.offsets, module.axis)
    ]
    return Written(x + "".join(cuts))


@written(Tile)
def tile(at: Place, module: Tile) -> Written:
    times = (str(module.tiles if axis == module.axis else 1) for axis in range(len(at.shapes[0])))
    return Written(f"{at.x}.repeat({', '.join(times)})")


@written(Silence)
def silence(at: Place, module: Silence) -> Written:
    return Written("")


@written(BatchReindex)
def batch_reindex(at: Place, module: BatchReindex) -> Written:
    x, index = at.bottoms
    return Written(f"{x}.index_select(0, {index}.to(torch.int64))")


@written(Permute)
def permute(at: Place, module: Permute) -> Written:
    return Written(f"{at.x}.permute({', '.join(map(str, module.order))}).contiguous()")
