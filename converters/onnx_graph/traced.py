"""Layers without a form of their own in ONNX: what torch does in them, operation by operation.

A layer is run once, and each operation of torch that it consists of has a translation in :mod:`.operations`. Sizes in
them are numbers. Where those of the bottoms vary, it is run for the larger input, too: numbers that differ between the
two runs are those that vary with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from caffe_compat.errors import LayerError, first_line
from caffe_compat.layers.bvlc.python_layer import Python
from caffe_compat.layers.forks.augmentation_cut import CutLessMean

from ..chance import draws
from ..unchecked import CHECK_LABELS
from .graph import Site
from .operations import Traced, translate
from .sizes import Size, Sizes, is_fixed

__all__ = ["emit_traced"]


# The latter looks whether its mean is learned still; then it changes it, which has no translation.
_MAY_LOOK = (*CHECK_LABELS, CutLessMean)


@dataclass
class _Operation:
    """One operation of torch: its name, and what it was given and made."""

    name: str
    arguments: Any
    keywords: Any
    made: list[Tensor]


class _ByValue(Exception):
    """A layer looks at a value to decide what it does."""


class _Outside(Exception):
    """A layer takes values out of torch."""


class _Chance(Exception):
    """A layer draws at random."""


class _Recorder(TorchDispatchMode):
    """Keeps what is run below. The tensors stay alive, so that none takes the identity of another.

    Attributes:
        follow: identities of the tensors that depend on the bottoms.
    """

    def __init__(self, bottoms: Sequence[Tensor], *, may_look: bool) -> None:
        super().__init__()
        self.may_look = may_look
        self.operations: list[_Operation] = []
        self.follow = {id(x) for x in bottoms}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if draws(func, args, kwargs):
            raise _Chance
        if name == "aten._local_scalar_dense.default":
            if not self.may_look:
                raise _ByValue
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        listed = result if isinstance(result, list | tuple) else [result]
        made = [x for x in listed if isinstance(x, Tensor)]
        if made:  # others tell a size or a type, which is a number by now
            self.operations.append(_Operation(name, args, kwargs or {}, made))
            if any(id(x) in self.follow for x in tree_leaves((args, kwargs))):
                self.follow.update(map(id, made))
        return result


class _Guard(TorchFunctionMode):
    """Sees values of the bottoms leave torch, where nothing that is done with them is recorded."""

    _WAYS = (Tensor.numpy, Tensor.tolist, Tensor.__array__)

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._WAYS and id(args[0]) in self.recorder.follow:
            raise _Outside
        return func(*args, **(kwargs or {}))


def emit_traced(site: Site) -> list[str]:
    """Put the layer into the graph as the operations that torch runs for it.

    Raises:
        LayerError: one of them has no translation, or the layer decides by values what it does.
    """
    if isinstance(site.module, Python):
        site.fail("runs Python code, which a file cannot hold")
    shapes = [_shape(sizes, larger=False) for sizes in site.bottom_sizes]
    plain = _record(site, shapes, seed=0)
    if _differ(plain, _record(site, shapes, seed=1)):
        site.fail("computes outside of torch, which a file cannot")
    varied = plain
    if not all(is_fixed(sizes) for sizes in site.bottom_sizes):
        varied = _record(site, [_shape(sizes, larger=True) for sizes in site.bottom_sizes], seed=0)
        if [op.name for op in plain.operations] != [op.name for op in varied.operations]:
            site.fail("does something else for inputs of another size, which a file cannot")
    return _Translation(site, plain, varied).results()


def _shape(sizes: Sizes, *, larger: bool) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else n.larger if larger else n.built for n in sizes)


@dataclass
class _Recorded:
    bottoms: list[Tensor]
    operations: list[_Operation]
    tops: list[Tensor]


def _record(site: Site, shapes: Sequence[tuple[int, ...]], *, seed: int) -> _Recorded:
    module = site.module
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    # Not zeros: a layer may look whether what it was given makes sense.
    generator = torch.Generator().manual_seed(seed)
    bottoms = [torch.rand(shape, generator=generator).to(device) for shape in shapes]
    recorder = _Recorder(bottoms, may_look=type(module) in _MAY_LOOK)
    try:
        with torch.no_grad(), recorder, _Guard(recorder):
            result = module(*bottoms)
    except LayerError as error:
        site.fail(f"cannot be run to see what it does: {error.detail}")
    except _Outside:
        site.fail("computes outside of torch, which a file cannot")
    except _Chance:
        site.fail("draws at random, anew in every pass, which no file repeats")
    except _ByValue:
        site.fail("decides by values what it does, which a file cannot")
    except Exception as error:  # a user's own layer may raise anything
        site.fail(f"cannot be run to see what it does: {first_line(error)}")
    return _Recorded(bottoms, recorder.operations, [result] if isinstance(result, Tensor) else list(result))


def _differ(first: _Recorded, second: _Recorded) -> bool:
    """Whether two runs on other values of the same sizes are made of other operations, numbers or constants."""
    if [op.name for op in first.operations] != [op.name for op in second.operations]:
        return True
    known = [{id(x) for x in run.bottoms} for run in (first, second)]
    for a, b in zip(first.operations, second.operations, strict=True):
        if not _same((a.arguments, a.keywords), (b.arguments, b.keywords), *known):
            return True
        for made, run in ((a.made, known[0]), (b.made, known[1])):
            run.update(id(x) for x in made)
    return any(not _same(x, y, *known) for x, y in zip(first.tops, second.tops, strict=True))


def _same(a: Any, b: Any, known: set[int], other: set[int]) -> bool:
    if isinstance(a, Tensor):
        if id(a) in known or id(b) in other:
            return id(a) in known and id(b) in other
        return a is b or torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y, known, other) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return all(_same(a[key], b[key], known, other) for key in a)
    return isinstance(a, torch.Generator) or bool(a == b) or (a != a and b != b)


class _Translation:
    """From the operations of a layer to the nodes of a graph."""

    def __init__(self, site: Site, plain: _Recorded, varied: _Recorded) -> None:
        self.site, self.plain, self.varied = site, plain, varied
        blobs = [*site.module.named_parameters(), *site.module.named_buffers()]
        self.names = {id(blob): name for name, blob in blobs}
        self.values = {
            id(tensor): Traced(name, tensor, other)
            for name, tensor, other in zip(site.bottoms, plain.bottoms, varied.bottoms, strict=True)
        }

    def results(self) -> list[str]:
        for operation, other in zip(self.plain.operations, self.varied.operations, strict=True):
            self._translate(operation, other)
        return [self._value(top, top).name for top in self.plain.tops]

    def _translate(self, operation: _Operation, other: _Operation) -> None:
        name = operation.name
        base = name.removeprefix("aten.").partition(".")[0]
        if base.endswith("_") and not base.startswith("_") and operation.made:
            # In place: the tensor is another value from now on. What shares its memory would have to be, too.
            base = base[:-1]
            self._check_alone(operation.made[0])
        arguments = self._paired(operation.arguments, other.arguments)
        keywords = self._paired(operation.keywords, other.keywords)
        made = [Traced("", a, b) for a, b in zip(operation.made, other.made, strict=True)]
        names = translate(self.site, base, made, arguments, keywords)
        for value, found in zip(made, names, strict=True):
            self.values[id(value.tensor)] = Traced(found, value.tensor, value.other)

    def _check_alone(self, tensor: Tensor) -> None:
        memory = tensor.untyped_storage().data_ptr()
        for value in self.values.values():
            if value.tensor is not tensor and value.tensor.untyped_storage().data_ptr() == memory:
                self.site.fail("writes into parts of a tensor, which a file cannot")

    def _value(self, tensor: Tensor, other: Tensor) -> Traced:
        found = self.values.get(id(tensor))
        if found is None:
            name = self.names.get(id(tensor))
            known = self.site.weight(name, tensor) if name else self.site.graph.constant(tensor.detach().cpu().numpy())
            found = self.values[id(tensor)] = Traced(known, tensor, other)
        return found

    def _paired(self, a: Any, b: Any) -> Any:
        """Arguments: a tensor as the value that it is, and a number that varies as a Size."""
        if isinstance(a, Tensor):
            return self._value(a, b)
        if isinstance(a, list | tuple):
            return [self._paired(x, y) for x, y in zip(a, b, strict=True)]
        if isinstance(a, dict):
            return {key: self._paired(a[key], b[key]) for key in a}
        if isinstance(a, int) and not isinstance(a, bool) and a != b:
            return Size(a, b)
        return a
