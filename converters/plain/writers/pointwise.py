"""Layers that work on values one by one, or along an axis."""

from __future__ import annotations

from caffe_compat.layers.bvlc.activation import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Exp,
    Log,
    Power,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
    Threshold,
)
from caffe_compat.layers.bvlc.elementwise import EltwiseMax, EltwiseProduct, EltwiseSum, Reduction, Softmax
from caffe_compat.layers.bvlc.prelu import PReLU

from ..code import Call
from ..layers import Place, Written, short, written

__all__: list[str] = []


@written(AbsVal)
def abs_val(at: Place, module: AbsVal) -> Written:
    return Written(f"{at.x}.abs()")


@written(BNLL)
def bnll(at: Place, module: BNLL) -> Written:
    return Written(at.call(), Call("nn.Softplus", ["beta=1.0", "threshold=50.0"]))


@written(Clip)
def clip(at: Place, module: Clip) -> Written | None:
    return Written(f"{at.x}.clamp({short(module.low)}, {short(module.high)})") if module.low <= module.high else None


@written(ELU)
def elu(at: Place, module: ELU) -> Written:
    return Written(at.call(), Call("nn.ELU", [] if module.alpha == 1 else [short(module.alpha)]))


@written(Exp)
def exp(at: Place, module: Exp) -> Written:
    power = _times(at.x, module.inner_scale)
    return Written(_times(f"torch.exp({power})", module.outer_scale))


@written(Log)
def log(at: Place, module: Log) -> Written:
    return Written(_times(f"torch.log({_affine(at.x, module.scale, module.shift)})", module.outer_scale))


@written(Power)
def power(at: Place, module: Power) -> Written | None:
    if module.power * module.scale == 0:
        return None
    inner = _affine(at.x, module.scale, module.shift)
    if module.power == 1:
        return Written(inner)
    return Written(f"{f'({inner})' if inner != at.x else inner}.pow({short(module.power)})")


@written(ReLU)
def relu(at: Place, module: ReLU) -> Written:
    slope = module.negative_slope
    return Written(at.call(), Call("nn.ReLU", []) if slope == 0 else Call("nn.LeakyReLU", [short(slope)]))


@written(Sigmoid)
def sigmoid(at: Place, module: Sigmoid) -> Written:
    return Written(at.call(), Call("nn.Sigmoid", []))


@written(Swish)
def swish(at: Place, module: Swish) -> Written:
    return Written(f"{at.x} * torch.sigmoid({_times(at.x, module.beta)})")


@written(TanH)
def tanh(at: Place, module: TanH) -> Written:
    return Written(at.call(), Call("nn.Tanh", []))


@written(Threshold)
def threshold(at: Place, module: Threshold) -> Written:
    return Written(f"({at.x} > {short(module.threshold)}).to({at.x}.dtype)")


@written(PReLU)
def prelu(at: Place, module: PReLU) -> Written:
    slope = module.slope.detach().reshape(-1)
    return Written(at.call(), Call("nn.PReLU", [str(slope.numel())]), {"weight": slope})


@written(Softmax)
def softmax(at: Place, module: Softmax) -> Written:
    return Written(at.call(), Call("nn.Softmax", [f"dim={module.axis}"]))


@written(EltwiseSum)
def eltwise_sum(at: Place, module: EltwiseSum) -> Written | None:
    first, *others = module.coefficients
    value = _times(at.x, first)
    for x, coefficient in zip(at.bottoms[1:], others, strict=True):
        if coefficient in (1, -1):
            value = f"{value} {'+' if coefficient == 1 else '-'} {x}"
        else:
            value = f"torch.add({value}, {x}, alpha={short(coefficient)})"
    return Written(value) if len(value) < 90 else None


@written(EltwiseProduct)
def eltwise_product(at: Place, module: EltwiseProduct) -> Written | None:
    value = " * ".join(at.bottoms)
    return Written(value) if len(value) < 90 else None


@written(EltwiseMax)
def eltwise_max(at: Place, module: EltwiseMax) -> Written | None:
    if len(at.bottoms) != 2:
        return None
    first, second = at.bottoms
    return Written(
        f"torch.where({first} > {second}, {first}, {second})",
        note="unlike torch.maximum, Caffe takes the second where the first is no number",
    )


@written(Reduction)
def reduction(at: Place, module: Reduction) -> Written:
    values = {"ASUM": f"{at.x}.abs()", "SUMSQ": f"{at.x}.square()"}.get(module.operation, at.x)
    axes = tuple(range(module.axis, len(at.shapes[0])))
    reduced = f"{values}.{'mean' if module.operation == 'MEAN' else 'sum'}({axes})"
    return Written(_times(reduced, module.coefficient))


def _times(value: str, factor: float) -> str:
    return value if factor == 1 else f"{value} * {short(factor)}"


def _affine(value: str, scale: float, shift: float) -> str:
    value = _times(value, scale)
    if shift == 0:
        return value
    return f"{value} - {short(-shift)}" if shift < 0 else f"{value} + {short(shift)}"
