"""Layers that give what the definition says, and those that do nothing outside of training."""

from __future__ import annotations

from caffe_compat.layers.bvlc.dropout import Dropout
from caffe_compat.layers.bvlc.source import DummyData
from caffe_compat.layers.forks.convolution import SpatialDropout

from ..code import Call, collection
from ..layers import Place, Written, short, written

__all__: list[str] = []


@written(DummyData)
def dummy_data(at: Place, module: DummyData) -> Written | None:
    if any(filler is not None and filler.type != "constant" for filler in module.tops_fillers):
        return None
    values = (0.0 if filler is None else filler.value for filler in module.tops_fillers)
    tops = [f"torch.full({tuple(shape)}, {short(x)})" for shape, x in zip(module.shapes, values, strict=True)]
    return Written(tops[0] if len(tops) == 1 else collection(tops))


@written(Dropout)
def dropout(at: Place, module: Dropout) -> Written:
    if module.scale_train:
        return Written(at.call(), Call("nn.Dropout", [short(module.ratio)]))
    return Written(f"{at.x} * {1 - module.ratio!r}", note="this fork scales when it tests, not when it trains")


@written(SpatialDropout)
def spatial_dropout(at: Place, module: SpatialDropout) -> Written:
    return Written(at.x)
