"""Layers that remember."""

from __future__ import annotations

from caffe_compat.layers.bvlc.recurrent import LSTM

from .. import parts
from ..code import Call
from ..layers import Place, Written, written

__all__: list[str] = []


@written(LSTM)
def lstm(at: Place, module: LSTM) -> Written | None:
    if module.exposed or module.static:
        return None
    at.carried.add(parts.__name__, "CaffeLSTM")
    sizes = {"inputs": module.weight_x.shape[1], "size": module.size, "streams": len(module.get_buffer("hidden"))}
    member = Call("CaffeLSTM", [f"{name}={number}" for name, number in sizes.items()])
    return Written(at.call(), member, dict(module.named_parameters()), stateful=True)
