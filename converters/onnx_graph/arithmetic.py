"""Operations of torch that compute value by value, or along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .operations import Axes, Given, Operation, Traced, Translate, common_kind, translates

__all__: list[str] = []

_UNARY = {
    "abs": "Abs",
    "acos": "Acos",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}


def _unary(type_: str) -> Translate:
    def translate(o: Operation, x: Traced, **_: object) -> str:
        return o.op(type_, o.given(x, o.top.kind))

    return translate


for _name, _type in _UNARY.items():
    translates(_name)(_unary(_type))


def _binary(type_: str) -> Translate:
    def translate(o: Operation, a: Given, b: Given) -> str:
        kind = o.top.kind
        return o.op(type_, o.given(a, kind), o.given(b, kind))

    return translate


for _name, _type in {"mul": "Mul", "maximum": "Max", "minimum": "Min"}.items():
    translates(_name)(_binary(_type))


@translates("add")
def add(o: Operation, a: Given, b: Given, alpha: float = 1) -> str:
    kind = o.top.kind
    more = o.given(b, kind)
    return o.op("Add", o.given(a, kind), more if alpha == 1 else o.op("Mul", more, o.constant(alpha, kind)))


@translates("sub")
def sub(o: Operation, a: Given, b: Given, alpha: float = 1) -> str:
    kind = o.top.kind
    less = o.given(b, kind)
    return o.op("Sub", o.given(a, kind), less if alpha == 1 else o.op("Mul", less, o.constant(alpha, kind)))


@translates("rsub")
def rsub(o: Operation, a: Given, b: Given, alpha: float = 1) -> str:
    return sub(o, b, a, alpha)


@translates("div", "true_divide")
def div(o: Operation, a: Given, b: Given, rounding_mode: str | None = None) -> str:
    kind = o.top.kind
    if rounding_mode is not None and kind.kind == "i":
        return floor_divide(o, a, b)
    y = o.op("Div", o.given(a, kind), o.given(b, kind))
    return y if rounding_mode is None else o.op("Floor", y)


@translates("floor_divide")
def floor_divide(o: Operation, a: Given, b: Given) -> str:
    kind = o.top.kind
    if kind.kind != "i":
        return o.op("Floor", o.op("Div", o.given(a, kind), o.given(b, kind)))
    # Division of whole numbers goes towards zero in ONNX: take the rest away first.
    x, y = o.given(a, kind), o.given(b, kind)
    return o.op("Div", o.op("Sub", x, o.op("Mod", x, y)), y)


@translates("remainder")
def remainder(o: Operation, a: Given, b: Given) -> str:
    kind = o.top.kind
    x, y = o.given(a, kind), o.given(b, kind)
    if kind.kind == "i":
        return o.op("Mod", x, y)
    return o.op("Sub", x, o.op("Mul", o.op("Floor", o.op("Div", x, y)), y))


@translates("pow")
def pow_(o: Operation, a: Given, b: Given) -> str:
    kind = o.top.kind
    x = o.given(a, kind)
    return o.op("Mul", x, x) if isinstance(b, int | float) and b == 2 else o.op("Pow", x, o.given(b, kind))


@translates("square")
def square(o: Operation, x: Traced) -> str:
    return o.op("Mul", x.name, x.name)


@translates("rsqrt")
def rsqrt(o: Operation, x: Traced) -> str:
    return o.op("Reciprocal", o.op("Sqrt", o.given(x, o.top.kind)))


@translates("log2")
def log2(o: Operation, x: Traced) -> str:
    return o.op("Mul", o.op("Log", x.name), o.constant(1 / np.log(2), x.kind))


@translates("trunc")
def trunc(o: Operation, x: Traced) -> str:
    return o.op("Mul", o.op("Sign", x.name), o.op("Floor", o.op("Abs", x.name)))


@translates("expm1")
def expm1(o: Operation, x: Traced) -> str:
    return o.op("Sub", o.op("Exp", x.name), o.constant(1, x.kind))


@translates("log1p")
def log1p(o: Operation, x: Traced) -> str:
    return o.op("Log", o.op("Add", x.name, o.constant(1, x.kind)))


def _compared(type_: str, *, negated: bool = False) -> Translate:
    def translate(o: Operation, a: Given, b: Given) -> str:
        kind = common_kind(a, b)
        if kind == np.bool_ and type_ != "Equal":
            kind = np.dtype(np.int64)
        y = o.op(type_, o.given(a, kind), o.given(b, kind))
        return o.op("Not", y) if negated else y

    return translate


for _name, _type in {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}.items():
    translates(_name)(_compared(_type))
translates("ne")(_compared("Equal", negated=True))


def _logical(type_: str) -> Translate:
    def translate(o: Operation, a: Given, b: Given) -> str:
        kind = np.dtype(np.bool_)
        return o.op(type_, o.given(a, kind), o.given(b, kind))

    return translate


for _name, _type in {"and": "And", "or": "Or", "xor": "Xor"}.items():
    translates(f"logical_{_name}", f"bitwise_{_name}", f"__{_name}__")(_logical(_type))


@translates("logical_not", "bitwise_not")
def logical_not(o: Operation, x: Traced) -> str:
    return o.op("Not", o.given(x, np.dtype(np.bool_)))


@translates("isnan")
def isnan(o: Operation, x: Traced) -> str:
    return o.op("IsNaN", x.name)


@translates("where")
def where(o: Operation, condition: Traced, a: Given, b: Given) -> str:
    kind = o.top.kind
    return o.op("Where", condition.name, o.given(a, kind), o.given(b, kind))


@translates("masked_fill")
def masked_fill(o: Operation, x: Traced, mask: Traced, value: Given) -> str:
    return o.op("Where", mask.name, o.given(value, x.kind), x.name)


def _clamp(o: Operation, x: Traced, low: Given | None, high: Given | None) -> str:
    kind, y = o.top.kind, o.given(x, o.top.kind)
    y = y if low is None else o.op("Max", y, o.given(low, kind))
    return y if high is None else o.op("Min", y, o.given(high, kind))


translates("clamp")(
    lambda o, x, low=None, high=None, min=None, max=None: _clamp(
        o, x, min if low is None else low, max if high is None else high
    )
)
translates("clamp_min")(lambda o, x, low: _clamp(o, x, low, None))
translates("clamp_max")(lambda o, x, high: _clamp(o, x, None, high))
translates("hardtanh")(lambda o, x, low=-1.0, high=1.0: _clamp(o, x, low, high))


@translates("relu6")
def relu6(o: Operation, x: Traced) -> str:
    return _clamp(o, x, 0, 6)


@translates("leaky_relu")
def leaky_relu(o: Operation, x: Traced, slope: float = 0.01) -> str:
    return o.op("LeakyRelu", x.name, alpha=slope)


@translates("elu")
def elu(o: Operation, x: Traced, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> str:
    if scale != 1 or inner != 1:
        o.site.fail("an ELU with scales")
    return o.op("Elu", x.name, alpha=alpha)


@translates("softplus")
def softplus(o: Operation, x: Traced, beta: float = 1, threshold: float = 20) -> str:
    return o.op("Softplus", x.name)


@translates("_softmax", "softmax")
def softmax(o: Operation, x: Traced, axis: int, *_: object) -> str:
    return o.op("Softmax", x.name, axis=axis)


@translates("_log_softmax", "log_softmax")
def log_softmax(o: Operation, x: Traced, axis: int, *_: object) -> str:
    return o.op("LogSoftmax", x.name, axis=axis)


# Along axes


def _reduced(type_: str) -> Translate:
    def translate(o: Operation, x: Traced, axes: Axes = None, keep: bool = False, **_: object) -> str:
        kind = o.top.kind if type_ in ("ReduceSum", "ReduceMean", "ReduceProd") else x.kind
        return o.op(type_, o.given(x, kind), o.ints(o.axes(axes, x.rank)), keepdims=int(keep))

    return translate


for _name, _type in {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "prod": "ReduceProd",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
}.items():
    translates(_name)(_reduced(_type))


def _of_truths(type_: str) -> Translate:
    def translate(o: Operation, x: Traced, axes: Axes = None, keep: bool = False) -> str:
        truths = o.given(Traced(o.given(x, np.dtype(np.bool_)), x.tensor.bool(), x.other.bool()), np.dtype(np.int64))
        y = o.op(type_, truths, o.ints(o.axes(axes, x.rank)), keepdims=int(keep))
        return o.site.cast(y, np.bool_)

    return translate


translates("any")(_of_truths("ReduceMax"))
translates("all")(_of_truths("ReduceMin"))


def _extreme(reduce: str, place: str, both: str) -> Translate:
    def translate(o: Operation, x: Traced, axis: int | Traced | None = None, keep: bool = False) -> str | Sequence[str]:
        if isinstance(axis, Traced):
            return o.op(both, x.name, axis.name)
        if axis is None:
            return o.op(reduce, x.name, o.ints(list(range(x.rank))), keepdims=0)
        values = o.op(reduce, x.name, o.ints([axis % x.rank]), keepdims=int(keep))
        return [values, o.op(place, x.name, axis=axis, keepdims=int(keep))]

    return translate


translates("max")(_extreme("ReduceMax", "ArgMax", "Max"))
translates("min")(_extreme("ReduceMin", "ArgMin", "Min"))


@translates("argmax")
def argmax(o: Operation, x: Traced, axis: int | None = None, keep: bool = False) -> str:
    if axis is None:
        o.site.fail("the largest of all values")
    kind = np.dtype(np.float32) if x.kind.kind == "b" or x.kind == np.uint8 else x.kind
    return o.op("ArgMax", o.given(x, kind), axis=axis, keepdims=int(keep))


@translates("var")
def var(o: Operation, x: Traced, axes: Axes = None, correction: float = 1, keepdim: bool = False) -> str:
    listed = o.axes(axes, x.rank)
    sizes = [x.sizes[axis] for axis in listed]
    if correction and not all(isinstance(n, int) for n in sizes):
        o.site.fail("an unbiased variance over a size that varies")
    centred = o.op("Sub", x.name, o.op("ReduceMean", x.name, o.ints(listed), keepdims=1))
    found = o.op("ReduceMean", o.op("Mul", centred, centred), o.ints(listed), keepdims=int(keepdim))
    count = int(np.prod([n for n in sizes if isinstance(n, int)]))
    return found if not correction else o.op("Mul", found, o.constant(count / (count - correction), x.kind))


@translates("linalg_vector_norm")
def linalg_vector_norm(o: Operation, x: Traced, order: float = 2, axes: Axes = None, keep: bool = False) -> str:
    if order not in (1, 2):
        o.site.fail(f"a norm of order {order:g}")
    return o.op(f"ReduceL{order:g}", x.name, o.ints(o.axes(axes, x.rank)), keepdims=int(keep))


@translates("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    o: Operation,
    x: Traced,
    goal: Traced,
    weight: Traced | None = None,
    positive: Traced | None = None,
    reduction: int = 1,
) -> str:
    if weight is not None or positive is not None:
        o.site.fail("a weighted cross entropy")
    # max(x, 0) - x goal + log(1 + exp(-|x|))
    rest = o.op("Softplus", o.op("Neg", o.op("Abs", x.name)))
    y = o.op("Sub", o.op("Relu", x.name), o.op("Mul", x.name, o.given(goal, x.kind)))
    y = o.op("Add", y, rest)
    if reduction == 0:
        return y
    return o.op("ReduceMean" if reduction == 1 else "ReduceSum", y, o.ints(list(range(x.rank))), keepdims=0)


@translates("cumsum")
def cumsum(o: Operation, x: Traced, axis: int, **_: object) -> str:
    return o.op("CumSum", o.given(x, o.top.kind), o.constant(axis, np.int64))


@translates("sort")
def sort(o: Operation, x: Traced, *args: Any, **named: Any) -> list[str]:
    rest = [a for a in args if not isinstance(a, bool)]
    bools = [a for a in args if isinstance(a, bool)]
    axis = named.get("dim", rest[0] if rest else -1)
    descending = named.get("descending", bools[-1] if bools else False)
    count = o.site.size(x.sizes[axis])
    return o.site.ops("TopK", x.name, count, outputs=2, axis=axis, largest=int(descending), sorted=1)


@translates("argsort")
def argsort(o: Operation, x: Traced, *args: Any, **named: Any) -> str:
    return sort(o, x, *args, **named)[1]


@translates("topk")
def topk(o: Operation, x: Traced, count: int, axis: int = -1, largest: bool = True, sorted_: bool = True) -> list[str]:
    return o.site.ops("TopK", x.name, o.ints([count]), outputs=2, axis=axis, largest=int(largest), sorted=1)
