"""Whole small networks as a strategy of hypothesis: shapes, parameters, layers in place, shared weights, phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.drawn import formulas
from tests.drawn.sketch import Sketch

__all__ = ["networks"]

Draw: TypeAlias = st.DrawFn
# Adds a layer to a sketch that reads the blob, if it can.
Piece: TypeAlias = Callable[[Draw, Sketch, str], None]

_RULES = {
    "TEST": ("", "", "", "include { phase: TEST }", "exclude { phase: TRAIN }", "include { phase: TRAIN }"),
    "TRAIN": ("", "", "", "include { phase: TRAIN }", "exclude { phase: TEST }", "exclude { phase: TRAIN }"),
}


def _small(draw: Draw, most: int, least: int = 1) -> int:
    return draw(st.integers(least, most))


def _flag(draw: Draw) -> bool:
    return draw(st.booleans())


def _rule(draw: Draw, sketch: Sketch) -> str:
    return draw(st.sampled_from(_RULES[sketch.phase]))


def _names(draw: Draw, *shapes: tuple[int, ...]) -> tuple[str, list[str]]:
    """``param`` entries and the names of parameters in them: those of one shape are shared, or nothing is."""
    if not _flag(draw):
        return "", ["" for _ in shapes]
    names = ["w" + "x".join(map(str, shape)) for shape in shapes]
    return " ".join(f'param {{ name: "{name}" }}' for name in names), names


# Sums of products


def _convolution(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    if x.dim() != 4:
        return
    groups = draw(st.sampled_from([g for g in (1, 1, 2, 3) if x.shape[1] % g == 0]))
    up, bias = _flag(draw), _flag(draw)
    outputs = groups * _small(draw, 3)
    kernel, stride, pad = ((_small(draw, 3), _small(draw, 3)) for _ in range(3))
    pad, dilation = (pad[0] - 1, pad[1] - 1), _small(draw, 2)
    reach = [dilation * (k - 1) + 1 for k in kernel]
    sizes = [(s, p, r, size) for s, p, r, size in zip(stride, pad, reach, x.shape[2:], strict=True)]
    if any((s * (size - 1) + r - 2 * p if up else size + 2 * p - r + 1) < 1 for s, p, r, size in sizes):
        return
    shape = (x.shape[1], outputs // groups, *kernel) if up else (outputs, x.shape[1] // groups, *kernel)
    shapes: list[tuple[int, ...]] = [shape, (outputs,)][: 1 + bias]
    params, names = _names(draw, *shapes)
    weights = [sketch.weight(*shape, name=name) for shape, name in zip(shapes, names, strict=True)]
    run: Callable[..., torch.Tensor] = F.conv_transpose2d if up else F.conv2d
    text = (
        f"num_output: {outputs} bias_term: {str(bias).lower()} group: {groups} dilation: {dilation} "
        f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
        f"pad_h: {pad[0]} pad_w: {pad[1]}"
    )
    sketch.add(
        "Deconvolution" if up else "Convolution",
        [blob],
        lambda x, *w: run(x, *w, stride=stride, padding=pad, dilation=dilation, groups=groups),
        f"{params} convolution_param {{ {text} }}",
        rule=_rule(draw, sketch),
        weights=weights,
    )


def _inner_product(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    if x.dim() < 2:
        return
    axis, outputs = _small(draw, x.dim() - 1), _small(draw, 4)
    bias, transposed = _flag(draw), _flag(draw)
    inputs = x[(0,) * axis].numel()
    shapes: list[tuple[int, ...]] = [(inputs, outputs) if transposed else (outputs, inputs), (outputs,)]
    params, names = _names(draw, *shapes[: 1 + bias])
    weights = [sketch.weight(*shape, name=name) for shape, name in zip(shapes, names, strict=False)]
    sketch.add(
        "InnerProduct",
        [blob],
        lambda x, w, *b: F.linear(x.flatten(axis), w.t() if transposed else w, *b),
        f"{params} inner_product_param {{ num_output: {outputs} axis: {axis} bias_term: {str(bias).lower()} "
        f"transpose: {str(transposed).lower()} }}",
        rule=_rule(draw, sketch),
        weights=weights,
    )


# One value after the other

_NEURONS: dict[str, tuple[str, str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": ("ReLU", "", torch.relu),
    "leaky": ("ReLU", "relu_param { negative_slope: 0.25 }", lambda x: F.leaky_relu(x, 0.25)),
    "elu": ("ELU", "elu_param { alpha: 0.5 }", lambda x: F.elu(x, 0.5)),
    "sigmoid": ("Sigmoid", "", torch.sigmoid),
    "tanh": ("TanH", "", torch.tanh),
    "abs": ("AbsVal", "", torch.abs),
    "bnll": ("BNLL", "", F.softplus),
    "square": ("Power", "power_param { power: 2 scale: 0.5 shift: -0.25 }", lambda x: (0.5 * x - 0.25) ** 2),
    "line": ("Power", "power_param { scale: -2 shift: 0.5 }", lambda x: 0.5 - 2 * x),
    "exp": ("Exp", "exp_param { base: 2 scale: 0.5 shift: -1 }", lambda x: 2.0 ** (0.5 * x - 1)),
    "log": ("Log", "log_param { shift: 1500 }", lambda x: torch.log(x + 1500)),
}


def _neuron(draw: Draw, sketch: Sketch, blob: str) -> None:
    type_, more, compute = _NEURONS[draw(st.sampled_from(sorted(_NEURONS)))]
    in_place = _flag(draw) and type_ != "AbsVal"  # which Caffe refuses to do in place
    sketch.add(type_, [blob], compute, more, rule=_rule(draw, sketch), in_place=in_place)


def _dropout(draw: Draw, sketch: Sketch, blob: str) -> None:
    rule = _rule(draw, sketch) if sketch.phase == "TEST" else "exclude { phase: TRAIN }"  # there it draws
    sketch.add("Dropout", [blob], lambda x: x, rule=rule, in_place=_flag(draw))


def _prelu(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    if x.dim() < 2:
        return
    shared = _flag(draw)
    weight = sketch.weight(*(() if shared else (x.shape[1],)), low=-0.5)
    sketch.add(
        "PReLU",
        [blob],
        lambda x, w: torch.where(x > 0, x, x * w.view(-1, *(1 for _ in x.shape[2:]))),
        f"prelu_param {{ channel_shared: {str(shared).lower()} }}",
        rule=_rule(draw, sketch),
        in_place=_flag(draw),
        weights=[weight],
    )


def _scale(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    axis = _small(draw, x.dim() - 1, 0)
    axes = _small(draw, x.dim() - axis, 0)
    shape = tuple(x.shape[axis : axis + axes])
    wide = (*shape, *(1 for _ in x.shape[axis + axes :]))
    kind = draw(st.sampled_from(("Scale", "Scale with bias", "Bias")))
    field = "bias_param" if kind == "Bias" else "scale_param"
    weights = [sketch.weight(*shape, low=-0.5) for _ in range(1 + ("with" in kind))]
    sketch.add(
        kind.split()[0],
        [blob],
        lambda x, *w: x + w[0].view(wide) if kind == "Bias" else x * w[0].view(wide) + sum(b.view(wide) for b in w[1:]),
        f"{field} {{ axis: {axis} num_axes: {axes} {'bias_term: true' if 'with' in kind else ''} }}",
        rule=_rule(draw, sketch),
        in_place=_flag(draw),
        weights=weights,
    )


# Statistics


def _batch_norm(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    if x.dim() < 2:
        return
    told = draw(st.sampled_from(("", "use_global_stats: true", "use_global_stats: false")))
    batch = "false" in told or (not told and sketch.phase == "TRAIN")
    if batch and float(x.var([axis for axis in range(x.dim()) if axis != 1], unbiased=False).min()) < 1e-3:
        return  # noise of single precision over nearly nothing
    channels = x.shape[1]
    weights = [sketch.weight(channels), sketch.weight(channels, low=0.5), sketch.weight(1, low=0.5)]
    sketch.add(
        "BatchNorm",
        [blob],
        lambda x, mean, variance, factor: formulas.batch_norm(x, mean, variance, factor, batch, 0.01),
        f"batch_norm_param {{ eps: 0.01 {told} }}",
        rule=_rule(draw, sketch),
        in_place=_flag(draw),
        weights=weights,
    )


def _normalization(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    if x.dim() != 4:
        return
    kind = draw(st.sampled_from(("across", "within", "mvn")))
    size, flag, other = 2 * _small(draw, 3) - 1, _flag(draw), _flag(draw)
    if kind == "mvn":
        if float(x.var((1, 2, 3) if flag else (2, 3), unbiased=False).min()) < 1e-3:
            return
        text = f"across_channels: {str(flag).lower()} normalize_variance: {str(other).lower()} eps: 0.001"
        rule = _rule(draw, sketch)
        sketch.add("MVN", [blob], lambda x: formulas.mvn(x, flag, other, 1e-3), f"mvn_param {{ {text} }}", rule=rule)
        return
    text = f"local_size: {size} alpha: 0.5 beta: 0.75"
    if kind == "across":
        text += " k: 2"
        sketch.add("LRN", [blob], lambda x: formulas.lrn_across(x, size, 0.5, 0.75, 2), f"lrn_param {{ {text} }}")
    else:
        text += " norm_region: WITHIN_CHANNEL"
        sketch.add("LRN", [blob], lambda x: formulas.lrn_within(x, size, 0.5, 0.75), f"lrn_param {{ {text} }}")


def _softmax(draw: Draw, sketch: Sketch, blob: str) -> None:
    axis = _small(draw, sketch.values[blob].dim() - 1, 0)
    more = f"softmax_param {{ axis: {axis} }}"
    rule = _rule(draw, sketch)
    sketch.add("Softmax", [blob], lambda x: x.softmax(axis), more, rule=rule, in_place=_flag(draw))


def _pooling(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    if x.dim() != 4:
        return
    method = draw(st.sampled_from(("MAX", "AVE")))
    kernel, stride = ((_small(draw, 4), _small(draw, 3)) for _ in range(2))
    pad = (_small(draw, kernel[0] - 1, 0), _small(draw, kernel[1] - 1, 0))
    if _flag(draw):
        more = f"pool: {method} global_pooling: true"
        kernel, stride, pad = (x.shape[2], x.shape[3]), (1, 1), (0, 0)
    else:
        if any(size + 2 * p < k for size, k, p in zip(x.shape[2:], kernel, pad, strict=True)):
            return
        # Without padding, Caffe may take a window beyond the image, in which there is nothing to pool.
        if not any(pad) and any(
            (formulas.pooled_size(size, k, s, 0, False) - 1) * s >= size
            for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)
        ):
            return
        more = (
            f"pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
            f"pad_h: {pad[0]} pad_w: {pad[1]}"
        )
    sketch.add(
        "Pooling",
        [blob],
        lambda x: formulas.pooled(x, method, kernel, stride, pad),
        f"pooling_param {{ {more} }}",
        rule=_rule(draw, sketch),
    )


# Several blobs, other shapes


def _eltwise(draw: Draw, sketch: Sketch, blob: str) -> None:
    alike = [name for name, value in sketch.values.items() if value.shape == sketch.values[blob].shape]
    bottoms = [blob, *draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))]
    kind = draw(st.sampled_from(("SUM", "SUM with coeff", "PROD", "MAX")))
    factors = [float(draw(st.sampled_from((1, -1, 0.5, 0, 2)))) for _ in bottoms]
    more = f"operation: {kind.split()[0]} "
    if "coeff" in kind:
        more += " ".join(f"coeff: {factor}" for factor in factors)
    computes: dict[str, Callable[..., torch.Tensor]] = {
        "SUM": lambda *x: torch.stack(x).sum(0),
        "SUM with coeff": lambda *x: torch.stack([f * b for f, b in zip(factors, x, strict=True)]).sum(0),
        "PROD": lambda *x: torch.stack(x).prod(0),
        "MAX": lambda *x: torch.stack(x).amax(0),
    }
    sketch.add("Eltwise", bottoms, computes[kind], f"eltwise_param {{ {more} }}", rule=_rule(draw, sketch))


def _concat(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    axis = _small(draw, x.dim() - 1, 0)

    def others(shape: torch.Size) -> tuple[int, ...]:
        return (*shape[:axis], -1, *shape[axis + 1 :])

    alike = [n for n, v in sketch.values.items() if v.dim() == x.dim() and others(v.shape) == others(x.shape)]
    bottoms = [blob, *draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))]
    more = f"concat_param {{ axis: {axis} }}"
    sketch.add("Concat", bottoms, lambda *x: torch.cat(x, axis), more, rule=_rule(draw, sketch))


def _slice(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    axis = draw(st.sampled_from([k for k, size in enumerate(x.shape) if size > 1] or [-1]))
    if axis < 0:
        return
    point = _small(draw, x.shape[axis] - 1)
    sketch.add(
        "Slice",
        [blob],
        lambda x: x.tensor_split([point], axis),
        f"slice_param {{ axis: {axis} slice_point: {point} }}",
        tops=2,
        rule=_rule(draw, sketch),
    )


def _reshaped(draw: Draw, sketch: Sketch, blob: str) -> None:
    x = sketch.values[blob]
    kind = draw(st.sampled_from(("Flatten", "Reshape", "Tile", "Split", "Reduction")))
    axis = _small(draw, x.dim() - 1, 0)
    rule = _rule(draw, sketch)
    if kind == "Flatten":
        end = _small(draw, x.dim() - 1, axis)
        more = f"flatten_param {{ axis: {axis} end_axis: {end} }}"
        sketch.add(kind, [blob], lambda x: x.flatten(axis, end), more, rule=rule)
    elif kind == "Reshape":
        dims = (*(0 for _ in range(axis)), -1, 1)
        more = f"reshape_param {{ shape {{ {' '.join(f'dim: {dim}' for dim in dims)} }} }}"
        sketch.add(kind, [blob], lambda x: x.reshape(*x.shape[:axis], -1, 1), more, rule=rule)
    elif kind == "Tile":
        tiles = _small(draw, 3)
        repeats = [tiles if k == axis else 1 for k in range(x.dim())]
        sketch.add(
            kind, [blob], lambda x: x.repeat(repeats), f"tile_param {{ axis: {axis} tiles: {tiles} }}", rule=rule
        )
    elif kind == "Split":
        sketch.add(kind, [blob], lambda x: (x, x), tops=2, rule=rule)
    elif axis:  # a number alone has no axis that a layer could read
        operation = draw(st.sampled_from(("SUM", "ASUM", "SUMSQ", "MEAN")))
        before = {"ASUM": torch.abs, "SUMSQ": torch.square}.get(operation, lambda x: x)
        more = f"reduction_param {{ operation: {operation} axis: {axis} coeff: 0.5 }}"
        mean = operation == "MEAN"

        def reduced(x: torch.Tensor) -> torch.Tensor:
            flat = before(x).flatten(axis)
            return 0.5 * (flat.mean(-1) if mean else flat.sum(-1))

        sketch.add(kind, [blob], reduced, more, rule=rule)


_PIECES: tuple[Piece, ...] = (
    *(_convolution, _convolution, _inner_product, _neuron, _neuron, _dropout, _prelu, _scale, _batch_norm),
    *(_normalization, _softmax, _pooling, _eltwise, _concat, _slice, _reshaped),
)


@st.composite
def networks(draw: Draw, phases: tuple[str, ...] = ("TEST",), most: int = 8) -> Sketch:
    """A network of up to ``most`` layers, of one of ``phases``; each layer reads any blob that there is by then."""
    sketch = Sketch(draw(st.sampled_from(phases)), draw(st.integers(0, 2**20)))
    for _ in range(_small(draw, 2)):
        sketch.input(_small(draw, 3), _small(draw, 4), _small(draw, 7, 3), _small(draw, 8, 3))
    for _ in range(_small(draw, most)):
        # The last blob first: hypothesis makes what fails simpler by taking earlier choices, and chains are simple.
        names = [*reversed(sketch.values)]
        draw(st.sampled_from(_PIECES))(draw, sketch, draw(st.sampled_from(names)))
    assume(sketch.written)
    return sketch
