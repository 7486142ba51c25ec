"""A graph -> the modules of its layers, with the shape of every value. No blob gets memory, and no file is opened.

Shapes are found by running the layers on tensors without memory, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..access import FileAccess
from ..errors import (
    CaffeCompatError,
    DialectError,
    InputShapeError,
    LayerError,
    NetworkError,
    UnknownLayerError,
    first_line,
)
from ..formats.sizes import MAX_BLOB_AXES, MAX_BLOB_VALUES
from ..schema.choice import remaining_doubt
from ..schema.doubt import doubt_of
from ..schema.params import NoSuchFieldError
from .alike import Likeness, Mould, likeness_of
from .gradients import gradient_stops
from .graph import Graph, Node
from .in_place import REFUSED, unsafe_in_place
from .program import Program, Step
from .randomness import Randomness
from .registry import Layer, LayerSpec, LayerType, Shape, check_count, find_layer, layer_types
from .rules import strange_phases
from .shared_sums import MEMORY_SHARING, check_shared_sums
from .sharing import Holder, ParamSpec, Sharing, blob_names, get_tensor
from .spec import Around
from .surroundings import Surroundings
from .unread import IgnoredField, UnreadFields

__all__ = [
    "BuiltLayer",
    "BuiltNet",
    "Gradients",
    "build_layer",
    "build_modules",
    "plan",
    "without_memory",
]

Gradients: TypeAlias = Literal["caffe", "true"]


@dataclass
class BuiltLayer:
    """One layer: its module, what it was built from, and its tops, without memory."""

    module: nn.Module
    spec: LayerSpec
    entry: LayerType
    tops: tuple[Tensor, ...]
    notes: list[str]


@dataclass
class BuiltNet:
    """The layers of a graph.

    Attributes:
        modules: by name, in execution order.
        program: what runs them.
        loss_weights: value id -> weight in the net's loss.
        param_specs: full parameter name -> how training treats it.
        holders: who shares what (:attr:`.sharing.Sharing.holders`).
        warnings: what Caffe lets pass and a user should see. notes: what was done on the way, and which types of layers
            were never compared with Caffe.
        ignored: what the definition says and nothing reads.
    """

    modules: dict[str, nn.Module]
    program: Program
    loss_weights: dict[int, float]
    param_specs: dict[str, ParamSpec]
    holders: dict[str, list[Holder]]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: tuple[IgnoredField, ...] = ()


def build_modules(
    graph: Graph,
    *,
    ignore_fields: Collection[str] = (),
    gradients: Gradients = "caffe",
    allow_python: bool = False,
    randomness: Randomness | None = None,
    files: FileAccess | None = None,
    twins: bool = True,
) -> BuiltNet:
    """Build every layer that computes something.

    Args:
        ignore_fields: names of fields that may stand unread, see :mod:`.unread`.
        gradients, allow_python: as for :class:`.registry.LayerSpec`.
        randomness, files: what the layers draw from, read and write when they run.
        twins: whether layers that are alike get a module each. Who only looks at the modules can do without.

    Raises:
        NetworkError and its kinds: a layer cannot be built, or does not fit its bottoms. InputShapeError: an input
            has no shape. DialectError: see :func:`build_layer`.
    """
    unread = UnreadFields(graph.dialect, graph.state.phase, ignore_fields)
    unread.check_net(graph.message)
    warnings = check_shared_sums(graph, accepted=unread.accepts(MEMORY_SHARING)) + _check_inputs(graph, unread)
    shapes, notes = _input_shapes(graph)
    values = {v: without_memory(shape, graph.blobs[v]) for v, shape in shapes.items()}
    given = {"randomness": randomness or Randomness(), "files": files or FileAccess()}
    builder = _Builder(graph, unread, gradients, allow_python, Surroundings(graph, shapes), given, twins)
    modules: dict[str, nn.Module] = {}
    sharing = Sharing()
    loss_weights: dict[int, float] = {}
    unverified: set[str] = set()
    for node in graph.computed:
        built, said = builder.build(node, shapes, values)
        for value, top in zip(node.tops, built.tops, strict=True):
            values[value], shapes[value] = top, tuple(top.shape)
        modules[node.module_name] = built.module
        warnings += said
        notes += built.notes
        sharing.read(node, built.module)
        loss_weights.update(_loss_weights(node, built))
        if not built.entry.verified:
            unverified.add(node.type)
    if unverified:
        notes.append(
            "never compared with outputs of real Caffe, only built from the fork's source: "
            + ", ".join(sorted(unverified))
        )
    every_shape = tuple(shapes[v] for v in range(len(graph.blobs)))
    program = plan(graph, modules, every_shape, sharing.specs, loss_weights)
    warnings += [str(ignored) for ignored in unread.ignored]
    ignored = tuple(unread.ignored)
    return BuiltNet(modules, program, loss_weights, sharing.specs, sharing.holders, warnings, notes, ignored)


def plan(
    graph: Graph,
    modules: Mapping[str, nn.Module],
    shapes: tuple[Shape, ...],
    specs: Mapping[str, ParamSpec],
    loss_weights: Mapping[int, float],
) -> Program:
    """The program that runs the layers of ``graph`` as they are.

    Raises:
        LayerError: see :func:`.gradients.gradient_stops`.
    """
    stops = gradient_stops(graph, {name: blob_names(module) for name, module in modules.items()}, specs)
    steps = [
        Step(node.module_name, node.bottoms, node.tops, stop) for node, stop in zip(graph.computed, stops, strict=True)
    ]
    return Program.of(graph, shapes, steps, keeps=loss_weights)


# Inputs


def _input_shapes(graph: Graph) -> tuple[dict[int, Shape], list[str]]:
    """The shape of every input by value id, and notes on data layers that became inputs.

    Raises:
        InputShapeError: an input whose shape nobody tells. LayerError: a data layer with bottoms.
    """
    shapes: dict[int, Shape] = {}
    notes, untold = [], []
    for node in graph.sources:
        if node.bottoms:
            raise LayerError(f"takes exactly 0 bottoms, found {len(node.bottoms)}", layer=node.name, type=node.type)
        parts = []
        for name, value, shape in zip(node.message.top, node.tops, graph.source_shapes(node), strict=True):
            if shape is None:
                untold.append((name, node))
                continue
            shapes[value] = shape
            parts.append(f"{name}={','.join(map(str, shape))}")
            given = graph.given.get(name, shape)
            if len(given) != len(shape):
                notes.append(
                    f"input {name!r}: {','.join(map(str, given))} is the shape of one picture (channels, height, "
                    f"width); with the batch of the file it is {','.join(map(str, shape))}"
                )
        if node.type != "Input":
            notes.append(f"data layer {node.name!r} ({node.type}) became the input {' '.join(parts)}")
    if untold:
        inputs = ", ".join(f"{name} (layer {node.name!r}, {node.type})" for name, node in untold)
        example = " ".join(f"--input-shape {name}=N,C,H,W" for name, _ in untold)
        raise InputShapeError(f"the shape of input {inputs} is not in the file; pass {example}")
    return shapes, notes


def _check_inputs(graph: Graph, unread: UnreadFields) -> list[str]:
    """Warnings of strange rules.

    Raises:
        LayerError: an Input or data layer with a field that nobody reads.
    """
    warnings = []
    for layer in graph.message.layer:
        for phase in strange_phases(layer):
            warnings.append(
                f"layer {layer.name!r} ({layer.type}): a rule for phase {phase}, which Caffe does not have, never holds"
            )
    for node in graph.sources:
        unread.check_source(node.message)
    return warnings


def _warnings_of(built: BuiltLayer, unread: UnreadFields) -> list[str]:
    """What Caffe computes wrongly, and what the builder wants said.

    Raises:
        LayerError: the layer has a field that nobody reads, or Caffe refuses that it overwrites its bottom.
    """
    spec = built.spec
    unread.check_layer(spec.message, spec.read_fields(), spec.unread_inside())
    blob = unsafe_in_place(spec.type, spec.bottoms, spec.tops)
    if not blob:
        return spec.warnings
    if spec.type in REFUSED:
        spec.fail(f"writes over its bottom {blob!r}, which Caffe refuses; give the top another name")
    return [
        *spec.warnings,
        f"layer {spec.name!r} ({spec.type}): writes over its bottom {blob!r}: what Caffe itself computes then is "
        "undefined, here it is what the layer would compute elsewhere",
    ]


# Layer by layer


@dataclass
class _Builder:
    """Builds the layers of a graph one after the other: of those that are alike, the first; the others are its twins.

    Attributes:
        unread, gradients, allow_python, around: what layers are judged, built and surrounded by.
        given: what every layer of the net is given.
        twins: whether each layer gets a module of its own.
    """

    graph: Graph
    unread: UnreadFields
    gradients: Gradients
    allow_python: bool
    around: Surroundings
    given: Mapping[str, object]
    twins: bool
    _first: dict[Likeness, tuple[BuiltLayer, Mould]] = field(default_factory=dict)

    def build(
        self, node: Node, shapes: Mapping[int, Shape], values: Mapping[int, Tensor]
    ) -> tuple[BuiltLayer, list[str]]:
        """A layer, and warnings of it.

        Args:
            shapes, values: what is known so far, by value id.

        Raises:
            NetworkError and its kinds, DialectError: see :func:`build_layer`.
        """
        blobs = [self.graph.blobs[v] for v in (*node.bottoms, *node.tops)]
        likeness = likeness_of(node.message, [shapes[v] for v in node.bottoms], blobs)
        if likeness is not None and likeness in self._first:
            first, mould = self._first[likeness]
            if not self.twins:
                return first, []
            twin = mould.twin()
            vars(twin)["layer_name"] = node.name
            return BuiltLayer(twin, first.spec, first.entry, first.tops, []), []
        ignored = len(self.unread.ignored)
        self.around.asked = False
        built, warnings = self._build_alone(node, [values[v] for v in node.bottoms])
        said = warnings or built.notes or len(self.unread.ignored) > ignored  # and would have to be said of a twin
        if likeness is not None and built.entry.ships and not said and not self.around.asked:
            found = Mould.of(built.module)
            if found is not None:
                self._first[likeness] = (built, found)
        return built, warnings

    def _build_alone(self, node: Node, bottoms: Sequence[Tensor]) -> tuple[BuiltLayer, list[str]]:
        try:
            built = build_layer(
                node,
                self.graph,
                bottoms,
                gradients=self.gradients,
                allow_python=self.allow_python,
                around=self.around,
            )
        except LayerError:
            self.unread.check_spelling(node.message)  # a misspelt name is why something is missing
            raise
        if isinstance(built.module, Layer):
            vars(built.module).update(self.given)  # see Layer.__init__
        return built, _warnings_of(built, self.unread)


# One layer


def build_layer(
    node: Node,
    graph: Graph,
    bottoms: Sequence[Tensor],
    *,
    gradients: Gradients = "caffe",
    allow_python: bool = False,
    around: Around | None = None,
) -> BuiltLayer:
    """Build one layer of ``graph`` for ``bottoms`` without memory.

    Raises:
        NetworkError and its kinds: it cannot be built, or does not fit. DialectError: several forks of Caffe fit the
            file, and what they mean by the layer makes a difference here.
    """
    notes = _check_doubt(node, graph, [tuple(x.shape) for x in bottoms], gradients)
    entry = _find_layer(node, graph.dialect)
    spec = LayerSpec(
        name=node.name,
        type=node.type,
        phase=graph.state.phase,
        bottoms=tuple(node.message.bottom),
        tops=tuple(node.message.top),
        bottom_shapes=tuple(tuple(x.shape) for x in bottoms),
        dialect=graph.dialect,
        message=node.message,
        gradients=gradients,
        allow_python=allow_python,
        around=around,
    )
    module = _module(spec, entry)
    if isinstance(module, Layer):
        vars(module)["layer_name"] = node.name
    module.train(spec.phase == "TRAIN")
    tops = _infer_tops(module, spec, bottoms)
    if len(tops) != len(node.tops):
        spec.fail(f"makes {len(tops)} tops, the definition names {len(node.tops)}")
    for value, top in zip(node.tops, tops, strict=True):
        _checked_shape(tuple(top.shape), graph.blobs[value], spec)
    return BuiltLayer(module, spec, entry, tops, [*notes, *spec.notes])


def _check_doubt(node: Node, graph: Graph, shapes: Sequence[Shape], gradients: Gradients) -> list[str]:
    """A note if several forks fit the file, and by the layer mean what differs only where this net does not show it.

    Raises:
        DialectError: the net would show it.
    """
    doubt = doubt_of(node.message)
    if doubt is None or node.type not in layer_types():
        return []
    doubt = remaining_doubt(doubt, shapes, graph.dialect)
    if doubt is None or (doubt.gradient_only and gradients == "true"):
        return []
    text = f"layer {node.name!r} ({node.type}): {doubt.text}"
    # Only a net that Caffe runs backward needs to know the gradient.
    if not doubt.gradient_only or graph.state.phase == "TRAIN" or graph.message.force_backward:
        error = DialectError(text)
        error.choices, error.gradient_only = doubt.choices, doubt.gradient_only
        raise error
    return [text]


def _find_layer(node: Node, dialect: str) -> LayerType:
    if not node.type:
        raise LayerError("has no type", layer=node.name)
    try:
        return find_layer(node.type, dialect)
    except UnknownLayerError as error:
        error.within(layer=node.name)
        raise


def _module(spec: LayerSpec, entry: LayerType) -> nn.Module:
    for what, count, allowed in (("bottoms", len(spec.bottoms), entry.bottoms), ("tops", len(spec.tops), entry.tops)):
        expected = check_count(count, allowed)
        if expected is not None:
            detail = f"takes {expected} {what}, found {count}"
            raise LayerError(detail, layer=spec.name, type=spec.type, found=count, expected=expected)
    try:
        module = entry.build(spec)
    except CaffeCompatError:
        raise
    except NoSuchFieldError as error:
        spec.fail(f"{error}; another --dialect may fit")
    except (RuntimeError, OverflowError, ValueError, ArithmeticError) as error:
        spec.fail(f"cannot be built: {first_line(error)}")
    for name in blob_names(module):
        _checked_shape(tuple(get_tensor(module, name).shape), name, spec)
    return module


def _infer_tops(module: nn.Module, spec: LayerSpec, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tops for ``bottoms``, all without memory.

    Raises:
        LayerError: the layer does not fit them.
    """
    try:
        with torch.no_grad():
            result = module.infer(*bottoms) if isinstance(module, Layer) else _infer_foreign(module, bottoms)
    except CaffeCompatError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{n} {list(s)}" for n, s in zip(spec.bottoms, spec.bottom_shapes, strict=True))
        raise LayerError(
            f"does not fit its bottoms {shapes or '(none)'}: {first_line(error)}", layer=spec.name, type=spec.type
        ) from error
    tops = (result,) if isinstance(result, Tensor) else tuple(result)
    return tuple(top if top.is_meta else top.to("meta") for top in tops)


def _infer_foreign(module: nn.Module, bottoms: Sequence[Tensor]) -> Any:
    """Run a module that is no :class:`Layer`, whose tensors may have memory and values already, without memory."""
    own = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return torch.func.functional_call(module, own, tuple(bottoms))


def without_memory(shape: Shape, name: str) -> Tensor:
    """A blob, by its name, that only has a shape.

    Raises:
        NetworkError: Caffe allows no such shape.
    """
    return torch.empty(_checked_shape(shape, name), device="meta")


def _checked_shape(shape: Shape, name: str, spec: LayerSpec | None = None) -> Shape:
    where: Mapping[str, Any] = {"layer": spec.name, "type": spec.type} if spec else {}
    if len(shape) > MAX_BLOB_AXES:
        raise NetworkError(f"blob {name!r} has {len(shape)} axes; Caffe's limit is {MAX_BLOB_AXES}", **where)
    # An axis of length 0 hides no other one.
    if any(dim < 0 for dim in shape) or math.prod(max(dim, 1) for dim in shape) > MAX_BLOB_VALUES:
        raise NetworkError(f"blob {name!r} of shape {list(shape)}: Caffe's limit is {MAX_BLOB_VALUES} values", **where)
    return shape


def _loss_weights(node: Node, built: BuiltLayer) -> dict[int, float]:
    """The weight of each top that counts in the net's loss."""
    weights: Sequence[float] = node.message.loss_weight[:]
    if not weights and not built.entry.is_loss:
        return {}
    if weights and len(weights) != len(node.tops):
        built.spec.fail(
            f"has {len(weights)} loss weights for {len(node.tops)} tops; none, or one for each, was expected"
        )
    if not weights and built.entry.is_loss:
        weights = (1.0,) + (0.0,) * (len(node.tops) - 1)
    return {v: w for v, w in zip(node.tops, weights, strict=bool(weights)) if w != 0}
