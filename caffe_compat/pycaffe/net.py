"""``caffe.Net``: pycaffe's interface over :class:`caffe_compat.CaffeNet`."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..formats.weights import read_weights
from ..layers.bvlc.python_layer import Python
from ..layers.bvlc.source import DummyData
from ..network.definition import read_definition
from ..network.filling import fill_net
from ..network.gradients import has_gradient
from ..network.graph import NetState
from ..network.registry import Shape
from ..training.data import MemoryData
from ..training.solver.snapshot import write_model
from .batching import count_of, joined, pieces
from .blob import BlobVec, NetBlob, ParamBlob, flush_parameters
from .building import Feed, SteppedNet, build, warn
from .contents import NetContents
from .parameters import copy_weights, require_hdf5, share_parameters
from .runtime import keep_freed_memory, runtime
from .steps import DummyDataStep, ModuleStep, PythonStep, SourceStep, SplitStep, Step
from .wiring import Wire, need_backward, wire

__all__ = ["TEST", "TRAIN", "Net", "phase_name"]

TRAIN, TEST = 0, 1
_PHASES = ("TRAIN", "TEST")


def phase_name(phase: int) -> str:
    """``"TRAIN"`` or ``"TEST"``. Raises UsageError."""
    if phase not in (TRAIN, TEST):
        raise UsageError(f"phase {phase!r}: caffe.TRAIN or caffe.TEST was expected")
    return _PHASES[phase]


class Net(NetContents):
    """A network with its blobs at hand.

        net = caffe.Net("deploy.prototxt", caffe.TEST, weights="weights.caffemodel")
        net.blobs["data"].data[...] = images
        probabilities = net.forward()["prob"]

    ``Net("deploy.prototxt", "weights.caffemodel", caffe.TEST)`` works too. Blobs that layers made are kept, and may be
    edited before a pass goes on from there. Layers read the files that they name, and write below the working folder.

    Args:
        network_file: a prototxt, or a caffemodel that carries its own network.
        phase: ``caffe.TRAIN`` or ``caffe.TEST``. level, stages: what include and exclude rules are matched against.
        weights: a caffemodel, binary or HDF5.

    Attributes:
        layers: the layers in order, with Caffe's Split layers; for a script's own layer its own object.
        times_shared: how often :meth:`share_with` gave it the memory of another net.

    Raises:
        CaffeCompatError: whatever real Caffe would abort for, naming file, layer and blob. What the setup of a script's
            own layer raises comes through as it is.
    """

    def __init__(
        self,
        network_file: str | os.PathLike[str],
        phase: int | str | os.PathLike[str],
        level: int | None = None,
        stages: Sequence[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(phase, (str, os.PathLike)):  # Net(network_file, weights, phase)
            if level is None:
                raise UsageError(
                    f"Net({os.fspath(network_file)!r}, {os.fspath(phase)!r}) does not say the phase: "
                    "Net(network_file, weights, caffe.TEST)"
                )
            weights, phase, level = phase, level, 0
        definition = read_definition(os.fspath(network_file), runtime.dialect, filled_from=weights)
        core, feeds = build(definition, NetState(phase_name(phase), level or 0, tuple(stages or ())))
        if weights is not None:
            with read_weights(Path(weights)) as opened:
                warn(fill_net(core, opened).warnings)
        core.materialize()
        self._set_up(core, feeds)
        self.start()

    @classmethod
    def over(cls, core: SteppedNet, feeds: Mapping[int, Feed]) -> Net:
        """The interface over a network of :func:`build`, which a solver may still have to fill: see :meth:`start`."""
        net = cls.__new__(cls)
        net._set_up(core, feeds)
        return net

    def _set_up(self, core: SteppedNet, feeds: Mapping[int, Feed]) -> None:
        keep_freed_memory()
        self._core, self._feeds = core, feeds
        self._device = torch.device("cpu")
        self._expected_pass = 0
        self.times_shared = 0
        self._calls: dict[str, list[Callable[[int], object]]] = {}
        shapes = {name: core.shapes[v] for v, name in enumerate(core.graph.blobs)}
        wires = wire(core)
        self._blob_by_name: OrderedDict[str, NetBlob] = OrderedDict()
        self._loss_weights: OrderedDict[str, float] = OrderedDict()
        self._param_blobs = {
            node.module_name: BlobVec(
                ParamBlob(core, node.module_name, name) for name in core.blobs_of(node.module_name)
            )
            for node in core.nodes_with_blobs()
        }
        runs_backward, needs = need_backward(core, wires)
        self._steps = [self._step(w, shapes, runs_backward[i], needs[i]) for i, w in enumerate(wires)]
        for node in core.nodes_with_blobs():
            for name, tensor in core.blobs_of(node.module_name).items():
                if tensor.is_leaf and isinstance(tensor, torch.nn.Parameter):
                    spec = core.param_specs[f"{node.module_name}.{name}"]
                    tensor.requires_grad_(has_gradient(core.message, spec.lr_mult))

    def _step(self, w: Wire, shapes: dict[str, Shape], runs_backward: bool, needs: Sequence[bool]) -> Step:
        bottoms = [self._blob_by_name[name] for name in w.bottoms]
        if w.node is None:
            shapes.update(dict.fromkeys(w.tops, shapes[w.bottoms[0]]))
        tops = []
        for name, weight in zip(w.tops, w.loss_weights, strict=True):
            if name not in self._blob_by_name:
                self._blob_by_name[name] = NetBlob(name, shapes[name], self._device)
            blob = self._blob_by_name[name]
            self._loss_weights[name] = weight
            if weight:
                blob.diff_array.tensor().fill_(weight)
            tops.append(blob)
        if w.node is None:
            return SplitStep(w, bottoms[0], tops, runs_backward, needs)
        if w.node in self._core.graph.sources:
            feed = self._feeds.get(w.node.index)
            return SourceStep(w, tops, None if feed is None else feed.read)
        module_name = w.node.module_name
        module = self._core.get_submodule(module_name)
        blobs = self._param_blobs.get(module_name, BlobVec())
        if isinstance(module, Python):
            return PythonStep(w, module.implementation, blobs, bottoms, tops, runs_backward, needs)
        kind = DummyDataStep if isinstance(module, DummyData) else ModuleStep
        return kind(w, self._core, module, blobs, bottoms, tops, runs_backward, needs)

    def start(self) -> None:
        """Once the parameters have memory: what Caffe's layers do when they are set up."""
        self._bind()
        for step in self._steps:
            if isinstance(step, DummyDataStep):
                with torch.no_grad():
                    step.forward()

    def _bind(self) -> None:
        for step in self._steps:
            if isinstance(step, PythonStep):
                step.bind()

    # Passes

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """Run the layers from ``start`` to ``end``, both included; all of them by default.

        Args:
            blobs: what to return besides the outputs (with ``end``: besides the tops of that layer).
            inputs: an array for every input of the net, or none at all to take what is in the blobs.

        Returns:
            Blobs by name: views, which the next pass changes.

        Raises:
            UsageError: no such layer, blob or input, or an array that does not fit. LayerError: a layer that fails.
        """
        first = 0 if start is None else self._layer_index(start)
        last = len(self._steps) - 1 if end is None else self._layer_index(end)
        wanted = [*(self.outputs if end is None else self.top_names[end]), *(blobs or ())]
        self._check_blobs(wanted)
        if inputs:
            self._fill("data", self.inputs, inputs)
        self._run_forward(first, last)
        return {name: self._blob_by_name[name].data for name in wanted}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **gradients: Any
    ) -> dict[str, np.ndarray]:
        """Run the layers' backward passes from ``start`` (by default the last) down to ``end``, both included.

        Args:
            diffs: what to return besides the inputs' (with ``end``: besides those of the bottoms of that layer).
            gradients: an array for every output of the net, or none at all to take what is in their ``diff``: for a
                loss its weight.

        Returns:
            Diffs by blob name: views, which the next pass changes.

        Raises:
            UsageError, LayerError: as :meth:`forward`.
        """
        first = len(self._steps) - 1 if start is None else self._layer_index(start)
        last = 0 if end is None else self._layer_index(end)
        wanted = [*(self.inputs if end is None else self.bottom_names[end]), *(diffs or ())]
        self._check_blobs(wanted)
        if gradients:
            self._fill("diff", self.outputs, gradients)
        self._backward(first, last)
        return {name: self._blob_by_name[name].diff for name in wanted}

    def _forward(self, start: int, end: int) -> float:
        """Run layers by number; the part of the loss that they make."""
        self._run_forward(start, end)
        loss = 0.0
        for step in self._steps[start : end + 1]:
            for blob, weight in zip(step.tops, step.wire.loss_weights, strict=True):
                if weight:
                    loss += weight * float(blob.data_array.tensor().sum())
        return loss

    def _run_forward(self, start: int, end: int) -> None:
        """Run layers by number, as a script asks: random draws follow :func:`set_random_seed`, not a solver's pass."""
        self._core.randomness.seed = None
        self._run(start, end)

    def _run(self, start: int, end: int) -> list[Tensor | None]:
        """Run layers by number; the values of the graph that they made."""
        self._check_range(start, end)
        self._prepare()
        values: list[Tensor | None] = [None] * len(self._core.graph.blobs)
        with torch.no_grad():
            for i in range(start, end + 1):
                self._call("before_forward", i)
                step = self._steps[i]
                tops = step.forward()
                if step.wire.node is not None:
                    for value, top in zip(step.wire.node.tops, tops, strict=True):
                        values[value] = top
                self._call("after_forward", i)
        for blob in self._blob_by_name.values():
            blob.data_array.publish()
        return values

    def _backward(self, start: int, end: int) -> None:
        """Run backward passes of layers by number, downwards."""
        self._check_range(end, start)
        self._prepare()
        with torch.no_grad():
            for i in range(start, end - 1, -1):
                self._call("before_backward", i)
                self._steps[i].backward()
                self._call("after_backward", i)
        for blob in self._blob_by_name.values():
            blob.publish_diff()

    def _prepare(self) -> None:
        """Bring everything to where computing happens now, and with it what scripts wrote to arrays."""
        flush_parameters()
        self.to_device(runtime.device)

    def to_device(self, device: torch.device) -> None:
        """Move parameters and blobs, if they are elsewhere. Parameters that another net uses part from it."""
        if device == self._device:
            return
        self._device = device
        self._core.to(device)
        for blob in self._blob_by_name.values():
            blob.move(device)
        for step in self._steps:
            step.forget()
            if isinstance(step, SplitStep):
                step.share()
        self._bind()

    def _layer_index(self, name: str) -> int:
        names = self._layer_names
        if name not in names:
            raise UsageError(f"no layer {name!r}; the net has {', '.join(names)}")
        return names.index(name)

    def _check_range(self, first: int, last: int) -> None:
        if not (first >= 0 and last < len(self._steps)):
            raise UsageError(f"layers {first} to {last}: the net has {len(self._steps)}, counted from 0")

    def _check_blobs(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._blob_by_name:
                raise UsageError(f"no blob {name!r}; the net has {', '.join(self._blob_by_name)}")

    def _fill(self, which: str, expected: Sequence[str], given: Mapping[str, Any]) -> None:
        kind = "inputs" if which == "data" else "outputs"
        if set(given) != set(expected):
            raise UsageError(
                f"arrays for {', '.join(given)} were given; the net's {kind} are {', '.join(expected) or 'none'}, and "
                "it takes all of them or none"
            )
        for name, values in given.items():
            blob, array = self._blob_by_name[name], np.asarray(values)
            if array.shape[:1] != blob.shape[:1]:
                raise UsageError(
                    f"blob {name!r} is given an array of shape {list(array.shape)}, its own is {list(blob.shape)}: not "
                    "the same batch size; reshape the blob first, or use forward_all"
                )
            try:
                getattr(blob, which)[...] = array
            except ValueError as error:
                raise UsageError(
                    f"blob {name!r} is given an array of shape {list(array.shape)}, its own is {list(blob.shape)}"
                ) from error

    # Callbacks

    def before_forward(self, call: Callable[[int], object]) -> None:
        """Have ``call`` called with the number of each layer before it runs."""
        self._calls.setdefault("before_forward", []).append(call)

    def after_forward(self, call: Callable[[int], object]) -> None:
        """Have ``call`` called with the number of each layer after it ran."""
        self._calls.setdefault("after_forward", []).append(call)

    def before_backward(self, call: Callable[[int], object]) -> None:
        """Have ``call`` called with the number of each layer before its backward pass."""
        self._calls.setdefault("before_backward", []).append(call)

    def after_backward(self, call: Callable[[int], object]) -> None:
        """Have ``call`` called with the number of each layer after its backward pass."""
        self._calls.setdefault("after_backward", []).append(call)

    def _call(self, when: str, layer: int) -> None:
        for call in self._calls.get(when, ()):
            call(layer)

    # Many batches

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """:meth:`forward` over any number of items, batch by batch; the last batch is filled up with zeros.

        Returns:
            Outputs, and ``blobs``, of all items by name: copies.

        Raises:
            UsageError: no arrays, or arrays of different lengths.
        """
        count = count_of(inputs)
        outs = []
        for batch in self._batch(inputs):
            out = self.forward(blobs=blobs, **batch)
            outs.append({name: x.copy() for name, x in out.items()})
        return joined(outs, count)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Forward and backward over any number of items.

        Args:
            arrays: for inputs of the net, and for gradients at its outputs.

        Returns:
            As :meth:`forward_all`: outputs and ``blobs``; diffs of the inputs and ``diffs``.
        """
        unknown = [name for name in arrays if name not in (*self.inputs, *self.outputs)]
        if unknown:
            raise UsageError(f"{', '.join(unknown)}: neither input nor output of the net")
        forward = self._batch({n: x for n, x in arrays.items() if n in self.inputs})
        backward = self._batch({n: x for n, x in arrays.items() if n in self.outputs})
        outs, grads = [], []
        for k in range(max(len(forward), len(backward))):
            out = self.forward(blobs=blobs, **(forward[k] if k < len(forward) else {}))
            outs.append({name: x.copy() for name, x in out.items()})
            grad = self.backward(diffs=diffs, **(backward[k] if k < len(backward) else {}))
            grads.append({name: x.copy() for name, x in grad.items()})
        count = count_of(arrays)
        return joined(outs, count), joined(grads, count)

    def _batch(self, arrays: Mapping[str, Any]) -> list[dict[str, Any]]:
        return pieces(arrays, next(iter(self._blob_by_name.values())).shape[0])

    # Shapes, weights

    def reshape(self) -> None:
        """Let the shapes of all blobs follow those of the inputs, without computing values.

        Raises:
            LayerError: a layer that cannot take its bottoms' new shapes.
        """
        flush_parameters()
        for step in self._steps:
            step.forget()
            step.reshape()

    def copy_from(self, weights: str | os.PathLike[str]) -> None:
        """Load a caffemodel, binary or HDF5, into the layers of the same names; arrays of parameters show it.

        Raises:
            FileError: it cannot be read. WeightsError: a layer with other blobs or shapes.

        Warns:
            CaffeCompatWarning: layers of the net that keep their values, and of the file that the net does not have.
        """
        flush_parameters()
        warn(copy_weights(self._core, weights))

    def load_hdf5(self, weights: str | os.PathLike[str]) -> None:
        """:meth:`copy_from`, of an HDF5 file.

        Raises:
            UsageError: the file is no HDF5. FileError, WeightsError: as :meth:`copy_from`.
        """
        require_hdf5(weights)
        self.copy_from(weights)

    def share_with(self, other: Net) -> None:
        """Use the parameters of another net in the layers of the same names: the same memory from now on.

        Raises:
            LayerError: a layer with other blobs or shapes there.
        """
        self._prepare()
        other._prepare()
        share_parameters(self._core, self._param_blobs, other._core)
        for step in self._steps:
            step.forget()
        self.times_shared += 1
        self._bind()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a binary caffemodel: the layers with their parameters. Raises FileError."""
        flush_parameters()
        write_model(Path(path), self._core, hdf5=False)

    def save_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters as HDF5. Raises FileError."""
        flush_parameters()
        write_model(Path(path), self._core, hdf5=True)

    def clear_param_diffs(self) -> None:
        """Set every parameter's diff to zero."""
        flush_parameters()
        for step in self._steps:
            for blob in step.blobs:
                blob.gradient().zero_()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Give the net's MemoryData layer, which must come first, its data (n, channels, height, width) and n labels.

        The memory is used as it is; n is a multiple of the batch size.

        Raises:
            UsageError: another first layer, or arrays that do not fit.
        """
        first = self._steps[0]
        feed = self._feeds.get(first.wire.node.index) if first.wire.node is not None else None
        if feed is None or not isinstance(feed.source, MemoryData):
            raise UsageError(
                f"the first layer is {first.name!r} ({first.type}); set_input_arrays needs a MemoryData layer"
            )
        for name, array in (("data", data), ("labels", labels)):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise UsageError(f"{name} must be a C-contiguous array of float32", layer=first.name)
        feed.source.set(data, labels)
        feed.position, feed.lacks_arrays = 0, False

    # For solvers

    def take_pass(self, index: int) -> dict[str, Tensor]:
        """A solver is about to run its pass number ``index``: data layers follow if it has jumped (after restoring).

        Returns:
            No inputs: the layers read their own.
        """
        for feed in self._feeds.values():
            feed.position += index - self._expected_pass
        self._expected_pass = index + 1
        return {}

    def run_all(self) -> list[Tensor | None]:
        """A whole forward pass; every value of the graph."""
        return self._run(0, len(self._steps) - 1)

    def backward_all(self) -> None:
        """A whole backward pass."""
        self._backward(len(self._steps) - 1, 0)
