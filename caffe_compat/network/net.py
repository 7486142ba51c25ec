"""CaffeNet: a Caffe network as an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..access import FileAccess
from ..errors import DialectError, LayerError, NetworkError, UsageError, WeightsError
from ..inference.engines import TORCH
from ..inference.reduced import FLOAT32
from ..schema.messages import NetParameter
from .building import BuiltNet, Gradients, build_modules
from .fillers import fill
from .graph import NetState, Node, phase_graph
from .guess import Guess
from .names import layer_name
from .parts import part_of
from .program import present
from .randomness import Randomness
from .registry import Layer, Shape
from .running import ProgramNet
from .sharing import ParamSpec, blob_names, get_tensor, set_tensor
from .unread import IgnoredField

if TYPE_CHECKING:
    from ..inference.optimization import InferenceNet

__all__ = ["CaffeNet", "ParamSpec"]

# A net without weights is filled by its fillers; a file that declares more than this is lying.
MAX_FILLED_BYTES = 8 * 2**30


class CaffeNet(ProgramNet):
    """A Caffe network, one child module per layer under the layer's own name.

    ``net(x)`` or ``net(data=x)`` returns the output blobs by name; :meth:`run` returns any blobs. Build one with
    :func:`caffe_compat.load`.

    >>> import caffe_compat
    >>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
    >>> x = torch.ones(net.input_shapes["data"])
    >>> net(x)["prob"].shape, net.conv1.weight.shape
    (torch.Size([2, 10]), torch.Size([6, 1, 3, 3]))
    >>> list(net.run({"data": x}, blobs="all"))
    ['data', 'conv1', 'norm1', 'pool1', 'up', 'ip', 'tanh', 'cat', 'prob']

    Args:
        message: a current-generation ``NetParameter`` (see :func:`caffe_compat.schema.upgrade.upgrade_net`).
        state: phase, level and stages that include and exclude rules are matched against.
        dialect: name of the schema that ``message`` is bound to.
        input_shapes: by blob name; they win over what the definition says.
        ignore_fields: names of fields that may stand in the definition although nothing here reads them. Without that,
            one that is not known to be harmless is an error.
        files: what layers may read and write when they run; nothing by default.
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        allow_python: whether ``Python`` layers may import and run the code they name.
        twins: whether layers that are alike get a module each; without, the net is only to be looked at.

    Attributes:
        graph: the layers of this phase, wired.
        shapes: the shape of every value of the graph.
        loss_weights: value id -> weight in the net's loss.
        param_specs: full parameter name -> :class:`ParamSpec`.
        ignored: what the definition says and nothing reads: known to be harmless, or accepted by ``ignore_fields``.
        guessed: the inputs whose shape neither a file nor the user told, and why they have the one they have.
        unfilled: layers that hold initial values where weights were to be had from a file.
        Others: as for :class:`.running.ProgramNet`.

    Raises:
        NetworkError and its kinds: the network cannot be built. UsageError: an input has no shape. DialectError: the
            forks that fit differ in a layer.
    """

    loss_weights: dict[int, float]
    param_specs: dict[str, ParamSpec]
    ignored: tuple[IgnoredField, ...]
    unfilled: tuple[str, ...] = ()
    guessed: tuple[Guess, ...] = ()

    def __init__(
        self,
        message: NetParameter,
        state: NetState | None = None,
        *,
        dialect: str = "bvlc",
        input_shapes: Mapping[str, Shape] | None = None,
        ignore_fields: Collection[str] = (),
        files: FileAccess | None = None,
        gradients: Gradients = "caffe",
        allow_python: bool = False,
        path: str | None = None,
        twins: bool = True,
    ) -> None:
        super().__init__()
        self.randomness, self.files = Randomness(), files or FileAccess()
        try:
            graph = phase_graph(message, state, dialect, input_shapes, allow_python=allow_python)
            built = build_modules(
                graph,
                ignore_fields=ignore_fields,
                gradients=gradients,
                allow_python=allow_python,
                randomness=self.randomness,
                files=self.files,
                twins=twins,
            )
        except (NetworkError, UsageError, DialectError) as error:
            error.within(path=path)
            raise
        self._adopt(built)
        self.training = graph.state.phase == "TRAIN"  # as each layer was told when it was built

    def _adopt(self, built: BuiltNet) -> None:
        self.program, self.warnings, self.notes = built.program, built.warnings, built.notes
        self.loss_weights, self.param_specs = built.loss_weights, built.param_specs
        self.ignored = built.ignored
        self._sharers = built.holders
        for name, module in built.modules.items():
            self.add_module(name, module)

    # Blobs

    def blobs_of(self, module_name: str) -> dict[str, Tensor]:
        """The blobs of one layer in Caffe's order, by parameter name."""
        module = self.get_submodule(module_name)
        return {name: get_tensor(module, name) for name in blob_names(module)}

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
                blob = get_tensor(module, name)
                if not blob.is_meta:
                    continue
                if id(blob) not in made:
                    tensor = _initial(node, name, module, blob, randomness, device)
                    made[id(blob)] = nn.Parameter(tensor) if isinstance(blob, nn.Parameter) else tensor
                set_tensor(module, name, made[id(blob)])
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
        old = get_tensor(self.get_submodule(module_name), name)
        if old.shape != tensor.shape:
            raise WeightsError(
                f"shape {list(tensor.shape)} was given, {list(old.shape)} is needed",
                layer=layer_name(module_name),
                blob=name,
                found=tuple(tensor.shape),
                expected=tuple(old.shape),
            )
        holders = self._sharers.get(f"{module_name}.{name}", [(self.get_submodule(module_name), name)])
        owned = get_tensor(*holders[0])
        tensor = tensor.reshape(owned.shape)  # under PERMISSIVE sharing the owner's shape is another one
        new = nn.Parameter(tensor, requires_grad=owned.requires_grad) if isinstance(owned, nn.Parameter) else tensor
        for module, key in holders:
            set_tensor(module, key, new)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CaffeNet:
        """What ``.to()`` and its kin do, keeping what is shared shared: torch would copy a buffer once per holder."""
        super()._apply(fn, recurse)
        for holders in self._sharers.values():
            tensor = get_tensor(*holders[0])
            for module, key in holders[1:]:
                set_tensor(module, key, tensor)
        return self

    # Training

    def loss(self, values: Sequence[Tensor | None]) -> Tensor:
        """The weighted sum of the losses among ``values``.

        Raises:
            NetworkError: the net has no loss.
        """
        terms = [weight * present(values[v]).sum() for v, weight in self.loss_weights.items()]
        if not terms:
            raise NetworkError(f"the net has no loss in phase {self.graph.state.phase}")
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def param_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """The parameters in groups, as optimizers of ``torch.optim`` take them, with Caffe's multipliers applied.

        Blobs with ``lr_mult: 0`` are in none, so they stay what they are; one that layers share is there once. A
        scheduler moves the rates of all groups alike. With a constant rate, ``SGD`` takes Caffe's own steps.

        Fine-tuning in a plain loop, with data of one's own:

        >>> import caffe_compat
        >>> folder = "reference_outputs/solvers"
        >>> net = caffe_compat.load(f"{folder}/small.prototxt", f"{folder}/adam_iter_10.caffemodel", phase="train")
        >>> optimizer = torch.optim.SGD(net.param_groups(lr=0.1, weight_decay=5e-4), momentum=0.9)
        >>> generator = torch.Generator().manual_seed(2)
        >>> images, labels = torch.randn(6, 3, 6, 6, generator=generator), torch.arange(6) % 5
        >>> losses = []
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     loss = net.loss(net.values({"x": images, "t": labels.float()}))
        ...     loss.backward()
        ...     optimizer.step()
        ...     losses.append(loss.item())
        >>> losses[-1] < losses[0] / 10
        True
        >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in net.param_groups(0.1, 5e-4)]
        [(0.1, 0.0005, 1), (0.2, 0.0, 1), (0.05, 0.001, 1), (0.1, 0.0, 1)]

        What a user puts in the place of a layer is in a group too, with multipliers of 1, as here for nine new classes:
        ``net.ip = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))``.

        Args:
            lr: the learning rate, Caffe's ``base_lr``. weight_decay: the rate of decay, Caffe's ``weight_decay``.

        Returns:
            Groups with ``params``, ``lr`` and ``weight_decay``, and the multipliers as ``lr_mult`` and ``decay_mult``.
        """
        groups: dict[ParamSpec, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            spec = self.param_specs.get(name, ParamSpec())
            if spec.lr_mult != 0:
                groups.setdefault(spec, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": lr * spec.lr_mult,
                "weight_decay": weight_decay * spec.decay_mult,
                "lr_mult": spec.lr_mult,
                "decay_mult": spec.decay_mult,
            }
            for spec, parameters in groups.items()
        ]

    # Other nets made of this one

    def part(self, outputs: Sequence[str], inputs: Sequence[str] | None = None) -> CaffeNet:
        """A net of the layers that some blobs depend on, with the same blobs, and with recurrent state of its own.

        Args:
            outputs: blob names. inputs: blob names at which the part begins; by default inputs of this net. They become
                inputs of the part.

        Raises:
            UsageError: blobs that there are not, or that cannot be had from ``inputs`` alone.
        """
        net = CaffeNet.__new__(CaffeNet)
        nn.Module.__init__(net)
        net.randomness, net.files = self.randomness, self.files
        modules = {node.module_name: self.get_submodule(node.module_name) for node in self.graph.computed}
        whole = BuiltNet(modules, self.program, self.loss_weights, self.param_specs, self._sharers)
        whole.warnings, whole.notes, whole.ignored = self.warnings, self.notes, self.ignored
        piece = self.program.part(outputs, inputs)
        net._adopt(part_of(whole, piece, shared=(self.randomness, self.files)))
        names = {node.name for node in piece.nodes()}
        net.unfilled = tuple(name for name in self.unfilled if name in names)
        net.guessed = tuple(guess for guess in self.guessed if guess.blob in net.input_names)
        net.training = self.training
        net.reset_state()
        return net

    def optimize(
        self, passes: Sequence[str] | None = None, *, engine: str = TORCH, dtype: str = FLOAT32
    ) -> InferenceNet:
        """A copy that gives the same outputs faster and can do nothing else, see :mod:`caffe_compat.inference`.

        >>> import caffe_compat
        >>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
        >>> net.optimize().engine
        'torch'
        >>> fastest = net.optimize(engine="auto")
        >>> fastest.engine == fastest.choice.engine
        True

        Args:
            passes: names of what is to be done, out of :data:`caffe_compat.inference.passes.PASSES`; all by default.
            engine: what runs it: ``"torch"``; another runtime that is installed (``"onnxruntime"``, ``"openvino"``), on
                the CPU in single precision; ``"plain"``, the layers one by one; or ``"auto"``, the fastest of them,
                measured here and now on inputs of the shapes that the net was built for, of those that give the net's
                numbers.
            dtype: ``"bfloat16"`` computes what takes most of the time in it, where the processor can (engines torch and
                openvino, and auto); inputs and outputs stay float32, and :attr:`.InferenceNet.reduced` says how far
                each output is off.

        Raises:
            UsageError: a net of phase TRAIN or in training mode, or without weights; a pass, an engine or a dtype that
                there is not; passes for another engine than torch, or with another dtype; a net that the engine cannot
                have; a processor without bfloat16. MissingExtraError: the engine is not installed. NetworkError: it
                cannot run the net. ParityError: it gives something else than the net, on seeded inputs.
        """
        # Imported here: most nets are never optimised, and what it takes is a third of what loading imports.
        from ..inference.choosing import choose, in_engine
        from ..inference.optimization import optimize
        from ..inference.passes import PASSES, find_passes

        if engine == TORCH and dtype == FLOAT32:
            return optimize(self, PASSES if passes is None else find_passes(passes))
        if passes is not None:
            what = f"engine {engine!r} has its own" if engine != TORCH else f"for dtype {dtype!r} all are needed"
            raise UsageError(f"passes are what is done for torch; {what}")
        return choose(self, dtype) if engine == "auto" else in_engine(self, engine, dtype)


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
    elif isinstance(module, Layer):
        module.start_blob(name, tensor)
    return tensor
