"""``Python`` layers: layers that a network brings as Python code, run through pycaffe's interface.

A network names a module and a class in it. A module that the user has imported already is taken as it is. Importing
another one runs the model's code, so it happens only where the builder was told so (``allow_python``). Classes of
well-known projects are built in (:mod:`...network.python_registry`): where the user brings none, these are taken, and
no code of the model is run. A class can also be admitted by name, and nothing is imported:

    @register_python_layer("TimesTen")          # python_param { module: "my_layers" layer: "TimesTen" }
    class TimesTen(PythonLayer):
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)

        def forward(self, bottom, top):
            top[0].data[...] = 10 * bottom[0].data

        def backward(self, top, propagate_down, bottom):
            bottom[0].diff[...] = 10 * top[0].diff

As in pycaffe: ``phase`` (0 TRAIN, 1 TEST) and ``param_str`` are set before ``setup`` runs, once, when the net is
built; ``reshape`` runs before every ``forward``; ``setup`` may add parameters with ``self.blobs.add_blob(*shape)``.
Arrays are on the CPU and float32 whatever the net's precision, and copies: what a layer writes into a bottom's ``data``
reaches nobody, except where it runs in place. The ``diff`` arrays it is to fill are zero before ``backward``. (In the
nets of :mod:`caffe_compat.pycaffe` a layer works on the net's own blobs instead, as in Caffe.) A net with such layers
runs, trains and moves between devices, but cannot be exported.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...errors import LayerError
from ...network.python_registry import Project, PythonSettings, find_python, is_built_in
from ...network.registry import Layer, LayerSpec, Shape, layer
from ...schema import split_dialect
from ..autograd import Context
from ..compiling import outside_graphs

__all__ = ["Blob", "BlobList", "Phase", "Python", "PythonLayer", "register_python_layer", "takes_own"]

_PHASES = {"TRAIN": 0, "TEST": 1}
# Forks whose pycaffe exports Caffe's enum of phases, and hands it to Python layers.
_WITH_PHASE_NAMES = frozenset(
    (
        *("AndreiBarsan/caffe-mnc", "MhLiao/TextBoxes_plusplus", "rbgirshick/caffe-fast-rcnn@fast-rcnn-cleanup"),
        *("rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445", "shenyunhang/caffe-wsl"),
    )
)


class Blob:
    """An array and its gradient, as pycaffe shows them. Memory grows and is never given back, as in Caffe."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._data = self._diff = np.zeros(0, np.float32)
        self.reshape(*shape)

    def reshape(self, *shape: int) -> None:
        """Change the shape. Values stay where they are if there is room, else they become zero."""
        self._shape: Shape = tuple(operator.index(dim) for dim in shape)
        if any(dim < 0 for dim in self._shape):
            raise ValueError(f"a blob cannot have shape {list(self._shape)}")
        if self.count > self._data.size:
            self._data, self._diff = np.zeros(self.count, np.float32), np.zeros(self.count, np.float32)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def data(self) -> np.ndarray:
        """The values, a view: write with ``blob.data[...] =``."""
        return self._data[: self.count].reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The gradient, a view like ``data``."""
        return self._diff[: self.count].reshape(self._shape)

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        if len(self.shape) > 4:
            raise ValueError(f"a blob of shape {list(self.shape)} has no num, channels, height and width; use shape")
        return self.shape[axis] if axis < len(self.shape) else 1


class BlobList(list[Blob]):
    """The parameters of a layer."""

    def add_blob(self, *shape: int) -> None:
        """Append a blob of zeros."""
        self.append(Blob(shape))


class Phase(enum.IntEnum):
    """The phase as some forks hand it to their Python layers: a number whose text is its name.

    >>> str(Phase.TEST), Phase.TEST == 1
    ('TEST', True)
    """

    TRAIN = 0
    TEST = 1

    def __str__(self) -> str:
        return self.name


class PythonLayer:
    """Base of the classes that ``Python`` layers name; pycaffe's ``caffe.Layer``.

    Attributes:
        phase: 0 for TRAIN, 1 for TEST; under the forks that have names for it, a :class:`Phase`.
        param_str: ``python_param.param_str``. blobs: the parameters.
    """

    phase: int
    param_str: str
    type = "Python"

    def __init__(self, param: Any = None) -> None:
        self.blobs = BlobList()

    @property
    def param_str_(self) -> str:
        """``param_str`` by the name that it had before Caffe 1.0."""
        return self.param_str

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Called once, with the bottoms' shapes; may read ``param_str`` and add blobs."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give every top its shape."""
        raise NotImplementedError(f"{type(self).__name__} has no method reshape")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Fill every top's ``data``."""
        raise NotImplementedError(f"{type(self).__name__} has no method forward")

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Fill ``diff`` of the bottoms whose ``propagate_down`` is true, and of ``self.blobs``."""
        raise NotImplementedError(f"{type(self).__name__} has no method backward")


_Class = TypeVar("_Class", bound=type[PythonLayer])
_ADMITTED: dict[str, type[PythonLayer]] = {}


def register_python_layer(name: str) -> Callable[[_Class], _Class]:
    """Admit a class for every ``Python`` layer whose ``python_param.layer`` is ``name``, whatever module it names.

    Raises:
        LayerError: another class is admitted under that name, or this one is no :class:`PythonLayer`.
    """

    def register(cls: _Class) -> _Class:
        if not issubclass(cls, PythonLayer):
            raise LayerError(f"{cls.__name__} must derive from PythonLayer", type=name)
        if _ADMITTED.setdefault(name, cls) is not cls:
            raise LayerError(f"the Python layer {name!r} is registered twice", type=name)
        return cls

    return register


class _Context(Context, Protocol):
    module: Python
    run: int
    kinds: list[tuple[torch.device, torch.dtype]]


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, module: Python, *tensors: Tensor) -> tuple[Tensor, ...]:
        tops = module.run_forward(tensors[: module.bottom_count])
        ctx.module, ctx.run = module, module.runs
        ctx.kinds = [(t.device, t.dtype) for t in tensors]
        return tops

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *top_diffs: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        diffs = ctx.module.run_backward(ctx.run, top_diffs, needed)
        return (
            None,
            *(torch.tensor(d).to(*kind) if n else None for d, kind, n in zip(diffs, ctx.kinds, needed, strict=True)),
        )


class Python(Layer):
    """Runs a :class:`PythonLayer`, kept as ``implementation``; a top in place is its bottom's own blob."""

    _place: Tensor

    def __init__(
        self,
        implementation: PythonLayer,
        bottom_shapes: Sequence[Shape],
        top_count: int,
        in_place: frozenset[int],
    ) -> None:
        super().__init__()
        self.implementation = implementation
        self.bottom_count, self.top_count = len(bottom_shapes), top_count
        self.runs = 0
        self._bottoms = [Blob(shape) for shape in bottom_shapes]
        self._tops = [self._bottoms[i] if i in in_place else Blob() for i in range(top_count)]
        # Says where tops belong when there are no bottoms.
        self.register_buffer("_place", torch.zeros(()), persistent=False)
        implementation.setup(self._bottoms, self._tops)
        for i, blob in enumerate(implementation.blobs):
            # Unlike the blobs of other layers these have values from the start: setup may have filled them.
            self.register_parameter(f"blob_{i}", nn.Parameter(torch.tensor(blob.data)))
            self.blob_names = (*self.blob_names, f"blob_{i}")

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        for blob, bottom in zip(self._bottoms, bottoms, strict=True):
            blob.reshape(*bottom.shape)
            blob.data[...] = 0
        self.implementation.reshape(self._bottoms, self._tops)
        return tuple(torch.empty(top.shape, device="meta") for top in self._tops)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops: tuple[Tensor, ...] = _run(self, bottoms)
        return tops[0] if len(tops) == 1 else tops

    def run_forward(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``reshape`` and ``forward`` of the implementation: its tops, where the bottoms are."""
        self.runs += 1
        for blob, bottom in zip(self._bottoms, bottoms, strict=True):
            blob.reshape(*bottom.shape)
            blob.data[...] = _array(bottom)
        parameters = self.parameters_in_order()
        before = [_array(parameter) for parameter in parameters]
        for blob, values in zip(self.implementation.blobs, before, strict=True):
            blob.data[...] = values
        self.implementation.reshape(self._bottoms, self._tops)
        self.implementation.forward(self._bottoms, self._tops)
        for blob, values, parameter in zip(self.implementation.blobs, before, parameters, strict=True):
            if not np.array_equal(blob.data, values, equal_nan=True):
                with torch.no_grad():
                    parameter.copy_(torch.tensor(blob.data))
        place = bottoms[0] if bottoms else self._place
        return tuple(torch.tensor(top.data).to(place.device, place.dtype) for top in self._tops)

    def run_backward(self, run: int, top_diffs: Sequence[Tensor], needed: Sequence[bool]) -> list[np.ndarray]:
        """``backward`` of the implementation after its forward pass number ``run``: the diffs of bottoms and blobs.

        Raises:
            LayerError: other passes came in between; the implementation remembers only the last.
        """
        if run != self.runs:
            raise LayerError(
                "ran forward again before this backward pass, and a Python layer remembers only its last forward pass",
                layer=self.layer_name,
            )
        for blob, diff in zip(self._tops, top_diffs, strict=True):
            blob.diff[...] = _array(diff)
        filled = [*self._bottoms, *self.implementation.blobs]
        for blob in filled:
            if not any(blob is top for top in self._tops):
                blob.diff[...] = 0
        self.implementation.backward(self._tops, list(needed[: self.bottom_count]), self._bottoms)
        return [blob.diff for blob in filled]

    def parameters_in_order(self) -> list[Tensor]:
        """The blobs that ``setup`` added."""
        return [getattr(self, name) for name in self.blob_names]


# torch.compile must leave it alone: tracing would see numpy code that may do anything.
@outside_graphs
def _run(module: Python, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if torch.compiler.is_compiling():
        raise LayerError("a Python layer cannot be exported", layer=module.layer_name)
    if module.top_count == 0:
        return module.run_forward(bottoms)
    return _Call.apply(module, *bottoms, *module.parameters_in_order())


def _array(x: Tensor) -> np.ndarray:
    return x.detach().to("cpu", torch.float32).numpy()


def takes_own(module: str, name: str, *, allow_python: bool) -> bool:
    """Whether a class that is built in is taken: there is one, and the user neither admits, nor imports, another."""
    if not is_built_in(module, name) or name in _ADMITTED or module in sys.modules:
        return False
    return not (allow_python and _can_be_imported(module))


def _can_be_imported(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # there is no such package, or none of this kind
        return False


@layer("Python")
def python(spec: LayerSpec) -> nn.Module:
    params = spec.params("python_param")
    params.ignore("share_in_parallel")  # deprecated, about several GPUs in one process
    module, name = params.module, params.layer
    if takes_own(module, name, allow_python=spec.allow_python):
        return _build_own(spec, params.param_str)
    cls = _ADMITTED.get(name) or _import_class(spec, module, name)
    implementation = cls(spec.message)
    implementation.param_str = params.param_str
    implementation.phase = _phase_of(spec)
    in_place = frozenset(
        i for i, (top, bottom) in enumerate(zip(spec.tops, spec.bottoms, strict=False)) if top == bottom
    )
    return Python(implementation, spec.bottom_shapes, len(spec.tops), in_place)


def _phase_of(spec: LayerSpec) -> int:
    """The phase as a number, or as the fork's enum, which is one and has a name."""
    number = _PHASES[spec.phase]
    return Phase(number) if _WITH_PHASE_NAMES.intersection(split_dialect(spec.dialect)) else number


def _build_own(spec: LayerSpec, param_str: str) -> nn.Module:
    """The module of a class that is built in."""
    entry = find_python(spec.message)
    assert entry is not None
    if entry.build is None:
        spec.fail(f"{entry.full_name} brings data in and takes no bottoms, found {len(spec.bottoms)}")
    project = entry.project
    if project is not None and project.module in sys.modules:
        spec.fail(
            f"the module {project.module!r} is imported, and what its configuration says would not reach the "
            f"{entry.full_name} that is built in; run your own layers (--allow-python-layers), or do not import it and "
            "give the configuration with --python-config"
        )
    settings = PythonSettings(param_str, layer=spec.name)
    built = entry.build(spec, settings)
    settings.check_all_read()
    spec.note(f"{entry.full_name} is built in: no code of the network's is run{_configuration(project, settings)}")
    if not entry.verified:
        spec.note(f"{entry.full_name} was never compared with outputs of the original")
    return built


def _configuration(project: Project | None, settings: PythonSettings) -> str:
    if project is None:
        return ""
    return f"; of {project.name}'s configuration it has {settings.differing or 'the defaults'}"


def _import_class(spec: LayerSpec, module: str, name: str) -> type[PythonLayer]:
    if module not in sys.modules and not spec.allow_python:
        spec.fail(
            f"would import the module {module!r} and run its class {name!r}, code that comes with the model; if you "
            "trust it, allow that with --allow-python-layers (allow_python=True), or admit your own class with "
            f"register_python_layer({name!r})"
        )
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the model's code raises
        raise LayerError(
            f"importing module {module!r} failed: {type(error).__name__}: {error}",
            layer=spec.name,
            type=spec.type,
        ) from error
    if cls is None:
        spec.fail(f"the module {module!r} has no class {name!r}")
    if not (isinstance(cls, type) and issubclass(cls, PythonLayer)):
        spec.fail(f"{module}.{name} is not a class derived from caffe_compat.layers.bvlc.python_layer.PythonLayer")
    return cls
