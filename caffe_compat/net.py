"""CaffeNet: a Caffe network as an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import layers as _layers  # noqa: F401  importing registers every layer
from .access import FileAccess
from .errors import CaffeCompatError, LayerError, NetworkError, UsageError, WeightsError
from .fillers import fill
from .graph import Graph, NetState, Node, build_graph
from .randomness import Randomness
from .registry import Layer, LayerSpec, LayerType, Shape, check_count, find_layer
from .sources import input_shapes as _input_shapes
from .sources import is_source
from .unknown import unknown_fields_of

__all__ = ["CaffeNet", "ParamSpec"]

# A net without weights is filled by its fillers; a file that declares more than this is lying.
MAX_FILLED_BYTES = 8 * 2**30
# A blob larger than this cannot be meant.
MAX_BLOB_BYTES = 64 * 2**30


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

    Args:
        message: a current-generation ``NetParameter`` (see :func:`caffe_compat.upgrade.upgrade_net`).
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
        notes: what was done on the way (data layers that became inputs).

    Raises:
        NetworkError and its kinds: the network cannot be built. UsageError: an input has no shape.
    """

    graph: Graph
    shapes: tuple[Shape, ...]
    dialect: str
    message: Any
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
        self.message = message
        self.dialect = dialect
        self.randomness = Randomness()
        self.files = files or FileAccess()
        self.warnings, self.notes = [], []
        self.loss_weights, self.param_specs = {}, {}
        self._sharers: dict[str, list[tuple[nn.Module, str]]] = {}  # full name -> everyone who holds that tensor
        self._check_unknown(message, "the network")
        state = state or NetState()
        stages = (*state.stages, *(s for s in message.state.stage if s not in state.stages))
        self.graph = build_graph(message, NetState(state.phase, state.level, stages), is_source, _RESERVED, path)
        shapes, notes = _input_shapes(self.graph, input_shapes or {})
        self.notes += notes
        self._build(shapes, gradients, allow_python)
        self._steps = self._plan()
        self.train(state.phase == "TRAIN")

    # Building

    def _build(self, shapes: dict[int, Shape], gradients: str, allow_python: bool) -> None:
        values = {v: torch.empty(_checked_shape(s, self.graph.blobs[v]), device="meta") for v, s in shapes.items()}
        owners: dict[str, tuple[nn.Module, str, str]] = {}
        for node in self.graph.nodes:
            if node in self.graph.sources:
                continue
            entry = find_layer(node.type, self.dialect)
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
        self.shapes = tuple(tuple(values[v].shape) for v in range(len(self.graph.blobs)))

    def _build_layer(self, node: Node, spec: LayerSpec, entry: LayerType) -> nn.Module:
        for what, count, allowed in (("bottoms", len(spec.bottoms), entry.bottoms), ("tops", len(spec.tops), entry.tops)):
            expected = check_count(count, allowed)
            if expected is not None:
                spec.fail(f"takes {expected} {what}, found {count}")
        try:
            module = entry.build(spec)
        except CaffeCompatError:
            raise
        except (RuntimeError, OverflowError, ValueError, ArithmeticError) as error:
            spec.fail(f"cannot be built: {_first_line(error)}")
        spec.check_all_read()
        self._check_unknown(node.message, f"layer {node.name!r} ({node.type})")
        for descriptor, _ in node.message.ListFields():
            name = descriptor.name
            if name.endswith("_param") and name not in spec._read and name not in ("transform_param", "quantization_param"):
                self.warnings.append(f"layer {node.name!r} ({node.type}): {name} means nothing to this type; Caffe ignores it too")
        if isinstance(module, Layer):
            module.layer_name = node.name
            module.randomness, module.files = self.randomness, self.files
        return module.train(spec.phase == "TRAIN")

    def _infer(self, node: Node, spec: LayerSpec, module: nn.Module, bottoms: list[Tensor]) -> tuple[Tensor, ...]:
        """Shapes by running on tensors without memory."""
        try:
            with torch.no_grad():
                result = module.infer(*bottoms) if isinstance(module, Layer) else module(*bottoms)
        except CaffeCompatError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{n} {list(s)}" for n, s in zip(spec.bottoms, spec.bottom_shapes, strict=True))
            raise LayerError(
                f"layer {node.name!r} ({node.type}): does not fit its bottoms {shapes or '(none)'}: {_first_line(error)}",
                layer=node.name,
            ) from error
        tops = (result,) if isinstance(result, Tensor) else tuple(result)
        if len(tops) > len(node.tops) and not node.tops:
            tops = ()  # a loss without a top still counts in Caffe, under a name nobody can ask for
        if len(tops) != len(node.tops):
            spec.fail(f"makes {len(tops)} tops, the definition names {len(node.tops)}")
        for name, top in zip(spec.tops, tops, strict=True):
            _checked_shape(tuple(top.shape), name, node)
        return tuple(top.to("meta") for top in tops)

    def _check_unknown(self, message: Any, what: str) -> None:
        """A value that does not fit its field is fatal; a field that no schema knows is only worth a warning."""
        for unknown in unknown_fields_of(message):
            if unknown.reason.startswith("value"):
                raise NetworkError(f"{what}: {unknown}")
            self.warnings.append(f"{what}: {unknown} is ignored")

    def _read_param_specs(
        self, node: Node, spec: LayerSpec, module: nn.Module, owners: dict[str, tuple[nn.Module, str, str]]
    ) -> None:
        """lr_mult and decay_mult of every blob, and blobs shared by name."""
        names = blob_names(module)
        if len(node.message.param) > len(names):
            spec.fail(f"has {len(node.message.param)} param entries for {len(names)} blobs")
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
                owners[entry.name] = (module, name, full)
                continue
            owner, owner_name, owner_full = owners[entry.name]
            _share(owner, owner_name, module, name, permissive=entry.share_mode == 1, spec=spec)
            sharers = self._sharers.setdefault(owner_full, [(owner, owner_name)])
            sharers.append((module, name))
            self._sharers[full] = sharers
            self.param_specs[full] = self._merged_spec(spec, entry, owner_full)

    def _merged_spec(self, spec: LayerSpec, entry: Any, owner: str) -> ParamSpec:
        """Sharers may leave multipliers to the owner, but not contradict it (Caffe's rule)."""
        merged = self.param_specs[owner]
        for field in ("lr_mult", "decay_mult"):
            if entry.HasField(field) and getattr(entry, field) != getattr(merged, field):
                spec.fail(
                    f"param {entry.name!r} has {field} {getattr(entry, field):g}, but {owner}, which shares it, has "
                    f"{getattr(merged, field):g}"
                )
        return merged

    def _read_loss_weights(self, node: Node, spec: LayerSpec, entry: LayerType) -> None:
        weights = tuple(node.message.loss_weight)
        if weights and len(weights) != len(node.tops):
            spec.fail(f"has {len(weights)} loss weights for {len(node.tops)} tops; none, or one for each, was expected")
        if not weights and entry.is_loss:
            weights = (1.0,) + (0.0,) * (len(node.tops) - 1)
        self.loss_weights.update({v: w for v, w in zip(node.tops, weights, strict=False) if w != 0})

    def _plan(self) -> tuple[Step, ...]:
        last_read: dict[int, int] = {}
        computed = [node for node in self.graph.nodes if node not in self.graph.sources]
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
                    f"layer {node.name!r} ({node.type}): propagate_down has {len(down)} values for {len(node.bottoms)} bottoms",
                    layer=node.name,
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
        return {name: getattr(module, name) for name in blob_names(module)}

    def nodes_with_blobs(self) -> list[Node]:
        """The layers that own blobs, in execution order."""
        return [n for n in self.graph.nodes if n not in self.graph.sources and blob_names(self.get_submodule(n.module_name))]

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
                blob = getattr(module, name)
                if not blob.is_meta:
                    continue
                if id(blob) not in made:
                    filler = module.fillers.get(name) if isinstance(module, Layer) else None
                    tensor = torch.zeros(blob.shape, device=device)
                    if filler is not None:
                        fill(tensor, filler, randomness.generator(f"{node.name}/{name}", device))
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
        old = getattr(self.get_submodule(module_name), name)
        if old.shape != tensor.shape:
            raise WeightsError(
                f"layer {module_name!r}, blob {name}: shape {list(tensor.shape)} was given, {list(old.shape)} is needed"
            )
        new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        holders = self._sharers.get(f"{module_name}.{name}", [(self.get_submodule(module_name), name)])
        for module, key in holders:
            _set_tensor(module, key, new)

    # Running

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The output blobs by name.

        Args:
            inputs: one tensor per input blob, on the net's device.
        """
        values = self._execute(self._given(inputs), keep=False)
        return {self.graph.blobs[v]: _present(values[v]) for v in self.graph.outputs}

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
            name: torch.as_tensor(np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x).to(device, dtype)
            for name, x in (inputs or {}).items()
        }
        with torch.no_grad():
            values = self._execute(self._given(given), keep=blobs is not None)
        return {name: _present(values[v]) for name, v in wanted.items()}

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
            if x.dim() != len(self.shapes[value]):
                raise UsageError(f"input {name!r} has shape {list(x.shape)}, the net was built for {list(self.shapes[value])}")
            values[value] = x
        needed = [name for name in missing if self._is_read(name)]
        if needed or left:
            names = ", ".join(self.input_names)
            found = f"missing {', '.join(needed)}" if needed else f"no input {', '.join(left)}"
            raise UsageError(f"{found}; the net's inputs are {names or 'none'}")
        return values

    def _is_read(self, name: str) -> bool:
        """Whether a layer, or the caller, needs input ``name``: labels that no layer of the phase reads may be left out."""
        value = next(v for v in self.graph.inputs if self.graph.blobs[v] == name)
        return value not in self.graph.outputs

    def _execute(self, values: list[Tensor | None], *, keep: bool) -> list[Tensor | None]:
        for step in self._steps:
            bottoms = [values[v] for v in step.bottoms]
            if any(step.stops_gradient):
                bottoms = [b.detach() if stop else b for b, stop in zip(bottoms, step.stops_gradient, strict=True)]
            module = getattr(self, step.module)
            if torch.compiler.is_compiling():
                result = module(*bottoms)
            else:
                try:
                    result = module(*bottoms)
                except CaffeCompatError:
                    raise
                except (RuntimeError, IndexError, ValueError) as error:
                    raise LayerError(self._failure(step, bottoms, error), layer=step.module) from error
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

    def _failure(self, step: Step, bottoms: Sequence[Tensor | None], error: Exception) -> str:
        shapes = ", ".join(
            f"{self.graph.blobs[v]} {list(b.shape) if b is not None else '(absent)'}"
            for v, b in zip(step.bottoms, bottoms, strict=True)
        )
        kind = next(n.type for n in self.graph.nodes if n.module_name == step.module)
        return f"layer {step.module!r} ({kind}) failed on bottoms {shapes or '(none)'}: {_first_line(error)}"

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

    def extra_repr(self) -> str:
        return f"{self.message.name!r}, phase={self.graph.state.phase}, dialect={self.dialect}"


_RESERVED = frozenset(dir(nn.Module())) | frozenset(dir(CaffeNet)) | frozenset(CaffeNet.__annotations__) | {"_steps", "_sharers"}


def blob_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and buffers that are a layer's blobs, in Caffe's order."""
    if isinstance(module, Layer):
        return module.blob_names
    return tuple(name for name, _ in module.named_parameters(recurse=True))


def _share(owner: nn.Module, owner_name: str, module: nn.Module, name: str, *, permissive: bool, spec: LayerSpec) -> None:
    """Make blob ``name`` of ``module`` the very tensor of its owner."""
    source, target = getattr(owner, owner_name), getattr(module, name)
    if source.shape == target.shape:
        _set_tensor(module, name, source)
        return
    if not permissive or source.numel() != target.numel():
        spec.fail(
            f"blob {name} of shape {list(target.shape)} shares its parameter with one of shape {list(source.shape)}"
            + ("" if permissive else "; share_mode: PERMISSIVE would allow other shapes of the same count")
        )
    spec.fail(f"blob {name} shares its parameter under another shape ({list(source.shape)}), which is not supported")


def _set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, own = name.rpartition(".")
    target = module.get_submodule(owner) if owner else module
    if own in target._parameters:
        target._parameters[own] = tensor  # type: ignore[assignment]
    else:
        target._buffers[own] = tensor


def _checked_shape(shape: Shape, name: str, node: Node | None = None) -> Shape:
    count = 1
    for dim in shape:
        count *= dim
    if count * 4 > MAX_BLOB_BYTES or any(dim < 0 for dim in shape):
        where = f"layer {node.name!r} ({node.type}): " if node else ""
        raise NetworkError(f"{where}blob {name!r} of shape {list(shape)} cannot be meant")
    return shape


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise UsageError("a blob was asked for that this run did not compute: an input was left out")
    return value


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


