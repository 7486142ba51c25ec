"""Layers that normalise."""

from __future__ import annotations

import math

import numpy as np

from caffe_compat.layers.bvlc.batch_norm import BatchNorm
from caffe_compat.layers.bvlc.lrn import AcrossChannels, WithinChannel
from caffe_compat.layers.bvlc.mvn import MVN
from caffe_compat.layers.bvlc.scale import Scale
from caffe_compat.layers.forks.normalize import Normalize

from .. import parts
from ..code import Call
from ..layers import Place, Written, short, written

__all__: list[str] = []


@written(BatchNorm)
def batch_norm(at: Place, module: BatchNorm) -> Written | None:
    rank = len(at.shapes[0])
    of_the_batch = module.use_global_stats is False
    if of_the_batch or module.weight is not None or module.bias is not None or not 2 <= rank <= 5:
        return None
    # As the layer does it when it runs: 1 / 0 becomes 0, and a NaN stays one.
    factor = module.divisor().detach().reciprocal().nan_to_num(math.nan, 0.0, 0.0)
    tensors = {"running_mean": module.mean.detach() * factor, "running_var": module.variance.detach() * factor}
    member = Call(
        f"nn.BatchNorm{max(rank - 2, 1)}d",
        [
            str(len(module.mean)),
            *([] if short(module.eps) == "1e-05" else [f"eps={short(module.eps)}"]),
            "affine=False",
        ],
    )
    note = "Caffe stores sums and what to divide them by, which is done here; scale and shift are a layer of their own"
    return Written(at.call(), member, tensors, note)


@written(Scale)
def scale(at: Place, module: Scale) -> Written | None:
    weight = module._parameters.get("weight")
    if len(at.bottoms) != 1 or weight is None or weight.dim() != 1 or module.trailing != len(at.shapes[0]) - 2:
        return None
    at.carried.add(parts.__name__, "ChannelScale")
    member = Call("ChannelScale", [str(len(weight)), *(["bias=False"] if module.bias is None else [])])
    return Written(at.call(), member, dict(module.named_parameters()))


@written(AcrossChannels)
def across_channels(at: Place, module: AcrossChannels) -> Written:
    at.carried.add(parts.__name__, "LRN")
    alpha = short(module.alpha)
    if np.float32(float(alpha) / module.size) != np.float32(module.alpha / module.size):
        alpha = repr(module.alpha)  # what goes into single precision is the quotient
    settings = (f"alpha={alpha}", f"beta={short(module.beta)}", f"k={short(module.k)}")
    return Written(at.call(), Call("LRN", [str(module.size), *settings]))


@written(WithinChannel)
def within_channel(at: Place, module: WithinChannel) -> Written:
    at.carried.add(parts.__name__, "LRNWithinChannel")
    settings = (f"alpha={short(module.alpha)}", f"beta={short(module.beta)}")
    return Written(at.call(), Call("LRNWithinChannel", [str(module.size), *settings]))


@written(MVN)
def mvn(at: Place, module: MVN) -> Written:
    at.carried.add(parts.__name__, "MVN")
    arguments = [f"axes={module.axes}", f"eps={short(module.eps)}", f"divide={module.divide}"]
    return Written(at.call(), Call("MVN", arguments))


@written(Normalize)
def normalize(at: Place, module: Normalize) -> Written:
    at.carried.add(parts.__name__, "Normalize")
    scale = module.scale.detach()
    arguments = [f"{tuple(scale.shape)}", f"eps={short(module.eps)}", f"across={module.across}"]
    return Written(at.call(), Call("Normalize", arguments), {"scale": scale})
