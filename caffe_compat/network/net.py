"""CaffeNet: a Caffe network as an ``nn.Module``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .. import layers as _layers  # noqa: F401  importing registers every layer
from ..access import FileAccess
from ..errors import (
    CaffeCompatError,
    InputShapeError,
    LayerError,
    NetworkError,
    UnknownLayerError,
    UsageError,
    WeightsError,
    first_line,
)
from ..formats.sizes import MAX_BLOB_AXES, MAX_BLOB_VALUES
from ..schema.params import NoSuchFieldError
from ..schema.unknown import unknown_fields_of
from .fillers import fill
from .graph import Graph, NetState, Node, phase_graph
from .names import layer_name
from .randomness import Randomness
from .registry import Layer, LayerSpec, LayerType, Shape, check_count, find_layer
from .rules import strange_phases

__all__ = ["CaffeNet", "ParamSpec"]

# A net without weights is filled by its fillers; a file that declares more than this is lying.
MAX_FILLED_BYTES = 8 * 2**30


@dataclass(frozen=True)
class ParamSpec:
    """How training treats one blob: multipliers of the learning rate and of the weight decay."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0


@dataclass(frozen=True)
class Step:
    """One layer to run: its module's name, the values it reads and makes, and those nobody needs afterwards."""

    module: str
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    stops_gradient: tuple[bool, ...]
    frees: tuple[int, ...]


class CaffeNet(nn.Module):
    """A Caffe network, one child module per layer under the layer's own name.

    ``net(data=x)`` returns the output blobs by name; :meth:`run` returns any blobs. Build one with
    :func:`caffe_compat.load`.

    >>> import caffe_compat
    >>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
    >>> x = torch.ones(net.input_shapes["data"])
    >>> net(data=x)["prob"].shape, net.conv1.weight.shape
    (torch.Size([2, 10]), torch.Size([6, 1, 3, 3]))
    >>> list(net.run({"data": x}, blobs="all"))
    ['data', 'conv1', 'norm1', 'pool1', 'up', 'ip', 'tanh', 'cat', 'prob']

    Args:
        message: a current-generation ``NetParameter`` (see :func:`caffe_compat.schema.upgrade.upgrade_net`).
        state: phase, level and stages that include and exclude rules are matched against.
        dialect: name of the schema that ``message`` is bound to.
        input_shapes: by blob name; they win over what the definition says.
        files: what layers may read and write when they run; nothing by default.
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        allow_python: whether ``Python`` layers may import and run the code they name.

    Attributes:
        graph: the layers of this phase, wired.
        shapes: the shape of every value of the graph.
        loss_weights: value id -> weight in the net's loss.
        param_specs: full parameter name -> :class:`ParamSpec`.
        warnings: what Caffe lets pass and a user should see.
        notes: what was done on the way (data layers that became inputs), and which layer types were never compared with
            Caffe.

    Raises:
        NetworkError and its kinds: the network cannot be built. UsageError: an input has no shape.
    """

    graph: Graph
    shapes: tuple[Shape, ...]
    dialect: str
    loss_weights: dict[int, float]
    param_specs: dict[str, ParamSpec]
    warnings: list[str]
    notes: list[str]
    randomness: Randomness
    files: FileAccess

    def __init__(
        self,
        message: Any,
        state: NetState | None = None,
        *,
        dialect: str = "bvlc",
        input_shapes: Mapping[str, Shape] | None = None,
        files: FileAccess | None = None,
        gradients: Literal["caffe", "true"] = "caffe",
        allow_python: bool = False,
        path: str | None = None,
    ) -> None:
        super().__init__()
        self.dialect = dialect
        self.randomness = Randomness()
        self.files = files or FileAccess()
        self.warnings, self.notes = [], []
        self.loss_weights, self.param_specs = {}, {}
        self._sharers: dict[str, list[tuple[nn.Module, str]]] = {}  # full name -> everyone who holds that tensor
        try:
            self._check_unknown(message, "the network")
            self.graph = phase_graph(message, state, dialect, input_shapes)
            self._check_inputs()
            shapes, notes = _input_shapes(self.graph)
            self.notes += notes
            self._build(shapes, gradients, allow_python)
            self._steps = self._plan()
        except (NetworkError, UsageError) as error:
            error.within(path=path)
            raise
        self.train(self.graph.state.phase == "TRAIN")

    @property
    def message(self) -> Any:
        """The definition (a ``NetParameter``), of all phases."""
        return self.graph.message

    # Building

    def _build(self, shapes: dict[int, Shape], gradients: str, allow_python: bool) -> None:
        values = {v: torch.empty(_checked_shape(s, self.graph.blobs[v]), device="meta") for v, s in shapes.items()}
        owners: dict[str, _Owner] = {}
        unverified: set[str] = set()
        for node in self.graph.computed:
            entry = self._find_layer(node)
            if not entry.verified:
                unverified.add(node.type)
            spec = LayerSpec(
                name=node.name,
                type=node.type,
                phase=self.graph.state.phase,
                bottoms=tuple(node.message.bottom),
                tops=tuple(node.message.top),
                bottom_shapes=tuple(tuple(values[v].shape) for v in node.bottoms),
                dialect=self.dialect,
                message=node.message,
                gradients=gradients,
                allow_python=allow_python,
            )
            module = self._build_layer(node, spec, entry)
            tops = self._infer(node, spec, module, [values[v] for v in node.bottoms])
            values.update(zip(node.tops, tops, strict=True))
            self.add_module(node.module_name, module)
            self._read_param_specs(node, spec, module, owners)
            self._read_loss_weights(node, spec, entry)
        if unverified:
            self.notes.append(
                "never compared with outputs of real Caffe, only built from the fork's source: "
                + ", ".join(sorted(unverified))
            )
        self.shapes = tuple(tuple(values[v].shape) for v in range(len(self.graph.blobs)))

    def _find_layer(self, node: Node) -> LayerType:
        if not node.type:
            raise LayerError("has no type", layer=node.name)
        try:
            return find_layer(node.type, self.dialect)
        except UnknownLayerError as error:
            error.within(layer=node.name)
            raise

    def _build_layer(self, node: Node, spec: LayerSpec, entry: LayerType) -> nn.Module:
        for what, count, allowed in (
            ("bottoms", len(spec.bottoms), entry.bottoms),
            ("tops", len(spec.tops), entry.tops),
        ):
            expected = check_count(count, allowed)
            if expected is not None:
                spec.fail(f"takes {expected} {what}, found {count}")
        try:
            module = entry.build(spec)
        except CaffeCompatError:
            raise
        except NoSuchFieldError as error:
            spec.fail(f"{error}; another --dialect may fit")
        except (RuntimeError, OverflowError, ValueError, ArithmeticError) as error:
            spec.fail(f"cannot be built: {first_line(error)}")
        self.warnings += spec.warnings
        for name in blob_names(module):
            _checked_shape(tuple(_get_tensor(module, name).shape), name, node)
        spec.check_all_read()
        self._check_unknown(node.message, f"layer {node.name!r} ({node.type})")
        for descriptor, _ in node.message.ListFields():
            name = descriptor.name
            if (
                name.endswith("_param")
                and name not in spec._read
                and name not in ("transform_param", "quantization_param")
            ):
                self.warnings.append(
                    f"layer {node.name!r} ({node.type}): {name} means nothing to this type; Caffe ignores it too"
                )
        if isinstance(module, Layer):
            module.layer_name = node.name
            module.randomness, module.files = self.randomness, self.files
        return module.train(spec.phase == "TRAIN")

    def _infer(self, node: Node, spec: LayerSpec, module: nn.Module, bottoms: list[Tensor]) -> tuple[Tensor, ...]:
        """Shapes by running on tensors without memory."""
        try:
            with torch.no_grad():
                result = module.infer(*bottoms) if isinstance(module, Layer) else _infer_foreign(module, bottoms)
        except CaffeCompatError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{n} {list(s)}" for n, s in zip(spec.bottoms, spec.bottom_shapes, strict=True))
            raise LayerError(
                f"does not fit its bottoms {shapes or '(none)'}: {first_line(error)}",
                layer=node.name,
                type=node.type,
            ) from error
        tops = (result,) if isinstance(result, Tensor) else tuple(result)
        if len(tops) != len(node.tops):
            spec.fail(f"makes {len(tops)} tops, the definition names {len(node.tops)}")
        for value, top in zip(node.tops, tops, strict=True):
            _checked_shape(tuple(top.shape), self.graph.blobs[value], node)
        return tuple(top.to("meta") for top in tops)

    def _check_unknown(self, message: Any, what: str) -> None:
        """A value that does not fit its field is fatal; a field that no schema knows is only worth a warning."""
        for unknown in unknown_fields_of(message):
            if unknown.is_wrong_value:
                raise NetworkError(f"{what}: {unknown}")
            self.warnings.append(f"{what}: {unknown} is ignored")

    def _check_inputs(self) -> None:
        for layer in self.message.layer:
            for phase in strange_phases(layer):
                self.warnings.append(
                    f"layer {layer.name!r} ({layer.type}): a rule for phase {phase}, which Caffe does not have, never "
                    "holds"
                )
        for node in self.graph.sources:
            if node.type == "Input":
                params = node.message.input_param
                for message in (node.message, params, *params.shape):
                    self._check_unknown(message, f"layer {node.name!r} (Input)")

    def _read_param_specs(self, node: Node, spec: LayerSpec, module: nn.Module, owners: dict[str, _Owner]) -> None:
        """lr_mult and decay_mult of every blob, and blobs shared by name."""
        names = blob_names(module)
        if len(node.message.param) > len(names):
            spec.fail(f"has {len(node.message.param)} param entries for {len(names)} blobs")
        for i, entry in enumerate(node.message.param):
            self._check_unknown(entry, f"layer {node.name!r} ({node.type}): param {i}")
        for i, name in enumerate(names):
            entry = node.message.param[i] if i < len(node.message.param) else None
            full = f"{node.module_name}.{name}"
            if entry is None:
                self.param_specs[full] = ParamSpec()
                continue
            self.param_specs[full] = ParamSpec(entry.lr_mult, entry.decay_mult)
            if not entry.name:
                continue
            if entry.name not in owners:
                told = {field for field in ("lr_mult", "decay_mult") if entry.HasField(field)}
                owners[entry.name] = _Owner(module, name, [full], told)
                continue
            owner = owners[entry.name]
            holders = self._sharers.setdefault(owner.sharers[0], [(owner.module, owner.blob)])
            if _share(owner, module, name, permissive=entry.share_mode == 1, spec=spec):
                holders.append((module, name))
            self._sharers[full] = holders
            owner.sharers.append(full)
            self._merge_specs(spec, entry, owner)

    def _merge_specs(self, spec: LayerSpec, entry: Any, owner: _Owner) -> None:
        """Caffe's rule: of layers that share a blob, the first to give a multiplier sets it; none may contradict."""
        merged = self.param_specs[owner.sharers[0]]
        for field in ("lr_mult", "decay_mult"):
            if not entry.HasField(field):
                continue
            value = getattr(entry, field)
            if field in owner.told and value != getattr(merged, field):
                spec.fail(
                    f"param {entry.name!r} has {field} {value:g}, but {owner.sharers[0]}, which shares it, has "
                    f"{getattr(merged, field):g}"
                )
            owner.told.add(field)
            merged = replace(merged, **{field: value})
        self.param_specs.update(dict.fromkeys(owner.sharers, merged))

    def _read_loss_weights(self, node: Node, spec: LayerSpec, entry: LayerType) -> None:
        weights = tuple(node.message.loss_weight)
        if weights and len(weights) != len(node.tops):
            spec.fail(f"has {len(weights)} loss weights for {len(node.tops)} tops; none, or one for each, was expected")
        if not weights and entry.is_loss:
            weights = (1.0,) + (0.0,) * (len(node.tops) - 1)
        self.loss_weights.update({v: w for v, w in zip(node.tops, weights, strict=bool(weights)) if w != 0})

    def _plan(self) -> tuple[Step, ...]:
        last_read: dict[int, int] = {}
        computed = self.graph.computed
        for i, node in enumerate(computed):
            for value in (*node.bottoms, *node.tops):
                last_read[value] = i
        kept = {*self.graph.outputs, *self.loss_weights}
        frees: list[list[int]] = [[] for _ in computed]
        for value, i in last_read.items():
            if value not in kept:
                frees[i].append(value)
        stops = self._gradient_stops(computed)
        return tuple(
            Step(node.module_name, node.bottoms, node.tops, stop, tuple(done))
            for node, stop, done in zip(computed, stops, frees, strict=True)
        )

    def _gradient_stops(self, nodes: Sequence[Node]) -> list[tuple[bool, ...]]:
        """Which bottoms get no gradient: those with ``propagate_down: false``. ``force_backward`` overrides that, as in
        Caffe, except into layers that do not allow it, unless a learned blob above needs the gradient anyway.
        """
        needed: set[int] = set()  # values with a learned blob above them
        stops = []
        for node in nodes:
            module = self.get_submodule(node.module_name)
            down = list(node.message.propagate_down) or [True] * len(node.bottoms)
            if len(down) != len(node.bottoms):
                raise LayerError(
                    f"propagate_down has {len(down)} values for {len(node.bottoms)} bottoms",
                    layer=node.name,
                    type=node.type,
                )
            if self.message.force_backward:
                allowed = getattr(module, "allow_force_backward", True)
                stops.append(tuple(not (allowed or v in needed) for v in node.bottoms))
            else:
                stops.append(tuple(not d for d in down))
            learned = any(self.param_specs[f"{node.module_name}.{n}"].lr_mult != 0 for n in blob_names(module))
            if learned or any(v in needed and d for v, d in zip(node.bottoms, down, strict=True)):
                needed.update(node.tops)
        return stops

    # Blobs

    def blobs_of(self, module_name: str) -> dict[str, Tensor]:
        """The blobs of one layer in Caffe's order, by parameter name."""
        module = self.get_submodule(module_name)
        return {name: _get_tensor(module, name) for name in blob_names(module)}

    def nodes_with_blobs(self) -> list[Node]:
        """The layers that own blobs, in execution order."""
        return [n for n in self.graph.computed if blob_names(self.get_submodule(n.module_name))]

    def materialize(self, seed: int | None = None, device: torch.device | str = "cpu") -> CaffeNet:
        """Give memory to every blob that has none yet, with the values of its filler (zero without one).

        Raises:
            NetworkError: the definition declares more than a machine holds.
        """
        needed = sum(p.numel() * 4 for p in (*self.parameters(), *self.buffers()) if p.is_meta)
        if needed > MAX_FILLED_BYTES:
            raise NetworkError(f"the definition declares {needed / 2**30:.0f} GiB of blobs; that cannot be meant")
        made: dict[int, Tensor] = {}
        randomness = Randomness(seed)
        for node in self.nodes_with_blobs():
            module = self.get_submodule(node.module_name)
            for name in blob_names(module):
                blob = _get_tensor(module, name)
                if not blob.is_meta:
                    continue
                if id(blob) not in made:
                    tensor = _initial(node, name, module, blob, randomness, device)
                    made[id(blob)] = nn.Parameter(tensor) if isinstance(blob, nn.Parameter) else tensor
                _set_tensor(module, name, made[id(blob)])
        self._materialize_rest(device)
        self.reset_state()
        return self

    def _materialize_rest(self, device: torch.device | str) -> None:
        """State buffers that shape inference left on the meta device."""
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer is not None and buffer.is_meta:
                    setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))

    def assign_blob(self, module_name: str, name: str, tensor: Tensor) -> None:
        """Make ``tensor`` the blob ``name`` of a layer, and of every layer that shares it. The net owns it from now on.

        Raises:
            WeightsError: another shape was expected.
        """
        old = _get_tensor(self.get_submodule(module_name), name)
        if old.shape != tensor.shape:
            raise WeightsError(
                f"shape {list(tensor.shape)} was given, {list(old.shape)} is needed",
                layer=layer_name(module_name),
                blob=name,
                found=tuple(tensor.shape),
                expected=tuple(old.shape),
            )
        holders = self._sharers.get(f"{module_name}.{name}", [(self.get_submodule(module_name), name)])
        owned = _get_tensor(*holders[0])
        tensor = tensor.reshape(owned.shape)  # under PERMISSIVE sharing the owner's shape is another one
        new = nn.Parameter(tensor, requires_grad=owned.requires_grad) if isinstance(owned, nn.Parameter) else tensor
        for module, key in holders:
            _set_tensor(module, key, new)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CaffeNet:
        """What ``.to()`` and its kin do, keeping what is shared shared: torch would copy a buffer once per holder."""
        super()._apply(fn, recurse)
        for holders in self._sharers.values():
            tensor = _get_tensor(*holders[0])
            for module, key in holders[1:]:
                _set_tensor(module, key, tensor)
        return self

    # Running

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The output blobs by name.

        Args:
            inputs: one tensor per input blob, on the net's device.
        """
        values = self._execute(self._given(inputs), keep=False)
        return {self.graph.blobs[v]: _present(values[v]) for v in self.graph.outputs if self._is_there(v, values)}

    def run(
        self, inputs: Mapping[str, Any] | None = None, blobs: Literal["all"] | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Run once without gradients and return blobs by name, in execution order.

        Args:
            inputs: a numpy array or tensor per input blob; converted to the net's device and precision.
            blobs: ``"all"``, names, or None for the outputs. A blob that later layers overwrite in place shows its last
                value, as in Caffe.

        Raises:
            UsageError: inputs or blobs that the net does not have. LayerError: a layer that fails, by name.
        """
        wanted = self._wanted(blobs)
        device, dtype = self.device_and_dtype()
        given = {
            # Torch takes no array that must not be written to, such as a mapped file.
            name: torch.as_tensor(np.require(x, None, ("C", "W")) if isinstance(x, np.ndarray) else x).to(device, dtype)
            for name, x in (inputs or {}).items()
        }
        with torch.no_grad():
            values = self._execute(self._given(given), keep=blobs is not None)
        named = blobs is not None and blobs != "all"
        return {name: _present(values[v]) for name, v in wanted.items() if named or self._is_there(v, values)}

    def _is_there(self, value: int, values: Sequence[Tensor | None]) -> bool:
        """False for an input that no layer reads and that was left out."""
        return values[value] is not None or value not in self.graph.inputs

    def values(self, inputs: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Every value of the graph, in order, with gradients where asked for. For training and for checks."""
        return self._execute(self._given(inputs), keep=True)

    def loss(self, values: Sequence[Tensor | None]) -> Tensor:
        """The weighted sum of the losses among ``values``.

        Raises:
            NetworkError: the net has no loss.
        """
        terms = [weight * _present(values[v]).sum() for v, weight in self.loss_weights.items()]
        if not terms:
            raise NetworkError(f"the net has no loss in phase {self.graph.state.phase}")
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def _given(self, inputs: Mapping[str, Tensor]) -> list[Tensor | None]:
        values: list[Tensor | None] = [None] * len(self.graph.blobs)
        left = dict(inputs)
        missing = []
        for value in self.graph.inputs:
            name = self.graph.blobs[value]
            if name not in left:
                missing.append(name)
                continue
            x = left.pop(name)
            if not isinstance(x, Tensor):
                raise UsageError(f"input {name!r} is a {type(x).__name__}, not a tensor; net.run() takes arrays too")
            if x.dim() != len(self.shapes[value]):
                raise UsageError(
                    f"input {name!r} has shape {list(x.shape)}, the net was built for {list(self.shapes[value])}"
                )
            values[value] = x
        needed = [name for name in missing if self._is_read(name)]
        if needed or left:
            names = ", ".join(self.input_names)
            found = f"missing {', '.join(needed)}" if needed else f"no input {', '.join(left)}"
            raise UsageError(f"{found}; the net's inputs are {names or 'none'}")
        return values

    def _is_read(self, name: str) -> bool:
        """Whether a layer needs input ``name``: labels that no layer of the phase reads may be left out."""
        value = next(v for v in self.graph.inputs if self.graph.blobs[v] == name)
        return value not in self.graph.outputs

    def _execute(self, values: list[Tensor | None], *, keep: bool) -> list[Tensor | None]:
        for step in self._steps:
            bottoms = [values[v] for v in step.bottoms]
            if any(step.stops_gradient):
                pairs = zip(bottoms, step.stops_gradient, strict=True)
                bottoms = [b.detach() if stop and b is not None else b for b, stop in pairs]
            module = getattr(self, step.module)
            if torch.compiler.is_compiling():
                result = module(*bottoms)
            else:
                try:
                    result = module(*bottoms)
                except CaffeCompatError:
                    raise
                except Exception as error:  # a user's own layer may raise anything
                    raise self._failure(step, bottoms, error) from error
            if isinstance(result, Tensor):
                if step.tops:
                    values[step.tops[0]] = result
            else:
                for value, top in zip(step.tops, result, strict=True):
                    values[value] = top
            if not keep:
                for value in step.frees:
                    values[value] = None
        return values

    def _failure(self, step: Step, bottoms: Sequence[Tensor | None], error: Exception) -> LayerError:
        shapes = ", ".join(
            f"{self.graph.blobs[v]} {list(b.shape) if b is not None else '(absent)'}"
            for v, b in zip(step.bottoms, bottoms, strict=True)
        )
        kind = next(n.type for n in self.graph.nodes if n.module_name == step.module)
        return LayerError(
            f"failed on bottoms {shapes or '(none)'}: {first_line(error)}", layer=layer_name(step.module), type=kind
        )

    def _wanted(self, blobs: Literal["all"] | Sequence[str] | None) -> dict[str, int]:
        if blobs is None:
            return {self.graph.blobs[v]: v for v in self.graph.outputs}
        last = {name: v for v, name in enumerate(self.graph.blobs)}
        if blobs == "all":
            return {name: last[name] for name in sorted(last, key=last.__getitem__)}
        for name in blobs:
            if name not in last:
                raise UsageError(f"no blob {name!r}; the net has {', '.join(last)}")
        return {name: last[name] for name in blobs}

    def device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the weights are and their precision; (cpu, float32) for a net without any."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
        return torch.device("cpu"), torch.float32

    @property
    def input_names(self) -> tuple[str, ...]:
        """Blob names of the inputs."""
        return tuple(self.graph.blobs[v] for v in self.graph.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Blob names of the outputs."""
        return tuple(self.graph.blobs[v] for v in self.graph.outputs)

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """The shapes the net was built for. Other batch sizes, and image sizes where the layers allow, work too."""
        return {self.graph.blobs[v]: self.shapes[v] for v in self.graph.inputs}

    def reset_state(self) -> None:
        """Forget what earlier runs left behind: recurrent state, running counts."""
        for module in self.modules():
            if isinstance(module, Layer):
                module.reset_state()

    def optimize(self) -> CaffeNet:
        """A copy that gives the same outputs faster and can do nothing else, see :mod:`.optimization`.

        Raises:
            UsageError: a net of phase TRAIN or in training mode, or without weights.
        """
        from ..inference.optimization import optimize  # which is built on this module

        return optimize(self)

    def extra_repr(self) -> str:
        return f"{self.message.name!r}, phase={self.graph.state.phase}, dialect={self.dialect}"


def _input_shapes(graph: Graph) -> tuple[dict[int, Shape], list[str]]:
    """The shape of every input by value id, and notes on data layers that became inputs.

    Raises:
        UsageError: an input whose shape nobody tells. LayerError: a data layer with bottoms.
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
            if any(dim < 0 for dim in shape):
                raise UsageError(
                    f"input {name!r} has a negative dimension: {list(shape)}", layer=node.name, type=node.type
                )
            shapes[value] = shape
            parts.append(f"{name}={','.join(map(str, shape))}")
        if node.type != "Input":
            notes.append(f"data layer {node.name!r} ({node.type}) became the input {' '.join(parts)}")
    if untold:
        inputs = ", ".join(f"{name} (layer {node.name!r}, {node.type})" for name, node in untold)
        example = " ".join(f"--input-shape {name}=N,C,H,W" for name, _ in untold)
        raise InputShapeError(f"the shape of input {inputs} is not in the file; pass {example}")
    return shapes, notes


def blob_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and buffers that are a layer's blobs, in Caffe's order."""
    if isinstance(module, Layer):
        return module.blob_names
    return tuple(name for name, _ in module.named_parameters(recurse=True))


@dataclass
class _Owner:
    """The first layer with a named param: its blob, everyone who shares it, and the multipliers somebody gave."""

    module: nn.Module
    blob: str
    sharers: list[str]
    told: set[str]


def _share(owner: _Owner, module: nn.Module, name: str, *, permissive: bool, spec: LayerSpec) -> bool:
    """Make blob ``name`` of ``module`` its owner's tensor; False if it is a reshaped view of that instead."""
    source, target = _get_tensor(owner.module, owner.blob), _get_tensor(module, name)
    if source.shape == target.shape:
        _set_tensor(module, name, source)
        return True
    if not permissive or source.numel() != target.numel():
        spec.fail(
            f"blob {name} of shape {list(target.shape)} shares its parameter with one of shape {list(source.shape)}"
            + ("" if permissive else "; share_mode: PERMISSIVE would allow other shapes of the same count")
        )
    _view_reshaped(owner, module, name)
    return False


def _view_reshaped(owner: _Owner, module: nn.Module, name: str) -> None:
    """Replace a blob by a property that reshapes its owner's: one tensor, one gradient, one entry in the state dict."""
    path, _, own = name.rpartition(".")
    target = module.get_submodule(path) if path else module
    shape = tuple(getattr(target, own).shape)
    target._parameters.pop(own, None)
    target._buffers.pop(own, None)
    # In the instance, where a copy of the net finds the copied owner; the net already has it as a submodule.
    target.__dict__.setdefault("_views", {})[own] = (owner.module, owner.blob, shape)

    def view(self: nn.Module) -> Tensor:
        holder, blob, shape = self.__dict__["_views"][own]
        return _get_tensor(holder, blob).view(shape)

    kind = type(target)
    target.__class__ = type(kind.__name__, (kind,), {own: property(view), "__module__": kind.__module__})


def _initial(
    node: Node, name: str, module: nn.Module, blob: Tensor, randomness: Randomness, device: torch.device | str
) -> Tensor:
    """A blob with its filler's values."""
    where = {"layer": node.name, "type": node.type, "blob": name}
    try:
        tensor = torch.zeros(blob.shape, device=device)
    except RuntimeError as error:  # torch has no MemoryError on the CPU
        raise NetworkError(f"no memory for {blob.numel() * 4 / 2**30:.1f} GiB").within(**where) from error
    filler = module.fillers.get(name) if isinstance(module, Layer) else None
    if filler is not None:
        try:
            fill(tensor, filler, randomness.generator(f"{node.name}/{name}", device))
        except UsageError as error:
            raise LayerError(error.detail).within(**where) from error
    return tensor


def _infer_foreign(module: nn.Module, bottoms: list[Tensor]) -> Any:
    """Run a module that is no :class:`Layer`, whose tensors may have memory and values already, without memory."""
    own = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return torch.func.functional_call(module, own, tuple(bottoms))


def _get_tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, own = name.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner) if owner else module, own)
    return tensor


def _set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, own = name.rpartition(".")
    target = module.get_submodule(owner) if owner else module
    if own in target._parameters:
        target._parameters[own] = tensor  # type: ignore[assignment]
    else:
        target._buffers[own] = tensor


def _checked_shape(shape: Shape, name: str, node: Node | None = None) -> Shape:
    where: dict[str, Any] = {"layer": node.name, "type": node.type} if node else {}
    if len(shape) > MAX_BLOB_AXES:
        raise NetworkError(f"blob {name!r} has {len(shape)} axes; Caffe's limit is {MAX_BLOB_AXES}", **where)
    # An axis of length 0 hides no other one.
    if any(dim < 0 for dim in shape) or math.prod(max(dim, 1) for dim in shape) > MAX_BLOB_VALUES:
        raise NetworkError(f"blob {name!r} of shape {list(shape)}: Caffe's limit is {MAX_BLOB_VALUES} values", **where)
    return shape


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise UsageError("a blob was asked for that this run did not compute: an input was left out")
    return value
