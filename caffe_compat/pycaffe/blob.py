"""Blobs as scripts see them: numpy arrays over the memory that layers compute with.

On the CPU ``blob.data`` is the tensor's own memory: reading copies nothing, and what is written is what the next layer
reads. Layers make new tensors in every pass, while a script may hold on to an array it was given before and expect it
to follow. So a blob remembers (weakly) the array it handed out, and only if somebody still holds that one, a pass
copies its result there. On another device an array is a copy, brought back before the device computes again.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Callable, Sequence
from typing import NoReturn, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..layers.bvlc.python_layer import Blob
from ..network.net import CaffeNet
from ..network.registry import Shape

__all__ = ["Array", "BlobVec", "NetBlob", "ParamBlob", "flush_parameters", "is_host"]


_HOSTS = frozenset({"cpu"})


def is_host(tensor: Tensor) -> bool:
    """Whether numpy can look at the memory of ``tensor`` as it is."""
    return tensor.device.type in _HOSTS


class Array:
    """A tensor and the numpy array handed out of it.

    Attributes:
        borrowed: the memory also belongs to another blob, so that it must be copied before anybody may write to it.
    """

    __slots__ = ("__weakref__", "_memory", "_pending", "_released", "_tensor", "_view", "_viewed", "borrowed")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._memory: Tensor | None = None  # flat: what it had room for, once it has been made smaller
        self.borrowed = False
        self._released = tensor.device
        self._view: weakref.ref[np.ndarray] | None = None
        self._viewed: Tensor | None = None  # what the view was taken of
        self._pending: np.ndarray | None = None  # off the CPU: handed out, and maybe written to

    @property
    def shape(self) -> Shape:
        return tuple(self._tensor.shape)

    def tensor(self) -> Tensor:
        """What layers read."""
        if self._pending is not None:
            # Through .data: a backward pass shall not refuse what was changed; it means the memory, as in Caffe.
            self._tensor.data.copy_(torch.from_numpy(self._pending))
            self._pending = None
        return self._tensor

    def put(self, tensor: Tensor, *, borrowed: bool = False) -> None:
        """A layer's result, or other memory."""
        self._tensor, self.borrowed, self._pending = tensor, borrowed, None

    def release(self) -> None:
        """Let go of memory that is about to be replaced, so that what replaces it may take its place."""
        if self._view is None or self._view() is None:
            self._released = self._tensor.device
            self.put(torch.empty(self._tensor.shape, device="meta"))
            self._view = self._viewed = None

    def restore(self) -> None:
        """Nothing replaced it: it is zero now."""
        if self._tensor.is_meta:
            self.put(torch.zeros(self._tensor.shape, device=self._released))

    def numpy(self) -> np.ndarray:
        """The values as float32, to read and to write."""
        held = self._view() if self._view is not None else None
        if held is not None and self._viewed is self._tensor and is_host(self._tensor):
            return held
        if held is not None and held.shape == self.shape:
            return self._into(held)
        if is_host(self._tensor):
            tensor = self._tensor.to(torch.float32).contiguous()
            if self.borrowed and tensor.data_ptr() == self._tensor.data_ptr():
                tensor = tensor.clone()
            view = tensor.numpy()
            self._tensor = self._viewed = tensor
            self.borrowed = False
        else:
            view = torch.empty(self.shape).copy_(self._tensor).numpy()
            self._pending = view
        self._view = weakref.ref(view)
        return view

    def _into(self, held: np.ndarray) -> np.ndarray:
        """Bring the values into an array that somebody holds."""
        if self._pending is not None:
            return held
        # Not Tensor.copy_: a layer that kept this memory for its backward pass means whatever is in it, as in Caffe.
        np.copyto(held, self._tensor.cpu().numpy())
        if is_host(self._tensor):
            self._tensor = self._viewed = torch.from_numpy(held)
            self.borrowed = False
        else:
            self._pending = held
        return held

    def publish(self) -> None:
        """After a pass on the CPU: let an array that somebody holds show the new values."""
        if self._view is None:
            return
        if self._view() is None:
            self._view = self._viewed = None
        elif is_host(self._tensor):
            self.numpy()

    @property
    def is_held(self) -> bool:
        """Whether somebody holds an array over this very memory."""
        return self._viewed is self._tensor and self._view is not None and self._view() is not None

    def reshape(self, shape: Shape) -> None:
        """Another shape. Values stay where they are while there is room, those that the shape leaves out too, as in
        Caffe: a blob that shrinks and grows again has them back. Beyond its room it becomes zero.
        """
        if shape == self.shape:
            return
        tensor = self.tensor()
        flat, count = tensor.reshape(-1), math.prod(shape)
        memory = self._memory
        if memory is None or memory.numel() <= flat.numel():
            memory = flat.clone() if self.borrowed else flat
        elif memory.data_ptr() != flat.data_ptr():  # a layer's result came in between
            memory.data[: flat.numel()].copy_(flat)
        if count > memory.numel():
            self._memory = None
            self.put(tensor.new_zeros(shape))
        else:
            self._memory = memory
            self.put(memory[:count].view(shape))

    def move(self, device: torch.device) -> None:
        """To another device."""
        self.put(self.tensor().to(device))
        if self._memory is not None:
            self._memory = self._memory.to(device)


class NetBlob(Blob):
    """A blob of a net. ``data_array`` is shared by the tops of a Split with its bottom."""

    def __init__(self, name: str, shape: Sequence[int], device: torch.device) -> None:
        self.name = name
        self.data_array = Array(torch.zeros(tuple(shape), device=device))
        self._diff_array: Array | None = None

    @property
    def shape(self) -> Shape:
        return self.data_array.shape

    def reshape(self, *shape: int) -> None:
        """Change the shape; the net's other blobs follow in :meth:`Net.reshape` or in the next forward pass.

        Raises:
            UsageError: a length that is negative or no integer.
        """
        self.data_array.reshape(_lengths(shape, f"blob {self.name!r}"))
        if self._diff_array is not None:
            self._diff_array.reshape(self.shape)

    @property
    def data(self) -> np.ndarray:
        """The values, float32: write with ``blob.data[...] =``."""
        return self.data_array.numpy()

    @property
    def diff_array(self) -> Array:
        """The gradient, zero until a backward pass fills it, in the shape of the data."""
        if self._diff_array is None:
            self._diff_array = Array(torch.zeros(self.shape, device=self.data_array._tensor.device))
        self._diff_array.reshape(self.shape)
        return self._diff_array

    @property
    def diff(self) -> np.ndarray:
        """The gradient, like ``data``."""
        return self.diff_array.numpy()

    def publish_diff(self) -> None:
        """After a backward pass; see :meth:`Array.publish`."""
        if self._diff_array is not None:
            self._diff_array.publish()

    def move(self, device: torch.device) -> None:
        """To another device."""
        self.data_array.move(device)
        if self._diff_array is not None:
            self._diff_array.move(device)


class ParamBlob(Blob):
    """A parameter of a layer: views of the network's own tensors, and of their gradients.

    ``diff`` keeps adding up over backward passes until it is cleared, as in Caffe.

    Attributes:
        when_reshaped: called when the shape has changed.
    """

    def __init__(self, core: CaffeNet, module_name: str, name: str) -> None:
        self._core, self._module_name, self._name = core, module_name, name
        self._mirrors: dict[str, Array] = {}
        self._grad: Tensor | None = None
        self.when_reshaped: Callable[[], None] | None = None

    def tensor(self) -> Tensor:
        """The network's tensor."""
        return self._core.blobs_of(self._module_name)[self._name]

    def owner(self) -> Tensor:
        """The tensor that holds the memory: another one where layers share it in several shapes."""
        tensor = self.tensor()
        return tensor if tensor.is_leaf or tensor._base is None else tensor._base

    @property
    def shape(self) -> Shape:
        return tuple(self.tensor().shape)

    def reshape(self, *shape: int) -> None:
        """Change the shape, to save other parameters than the layer has. It cannot compute with them.

        Values stay where they are if there is room, else they become zero; the gradient becomes zero.

        Raises:
            UsageError: a length that is negative or no integer, or layers of the net share the parameter.
        """
        what = f"layer {self._module_name!r}, blob {self._name}"
        lengths = _lengths(shape, what)
        if lengths == self.shape:
            return
        flush_parameters()
        owner = self.owner()
        held = [t for n in self._core.nodes_with_blobs() for t in self._core.blobs_of(n.module_name).values()]
        if sum(tensor.data_ptr() == owner.data_ptr() for tensor in held) > 1:
            raise UsageError(f"shared by several layers, it cannot be reshaped to {list(lengths)}", path=what)
        flat, count = owner.detach().reshape(-1), math.prod(lengths)
        owner.data = (flat[:count] if count <= flat.numel() else flat.new_zeros(count)).view(lengths)
        owner.grad = self._grad = None
        if self.when_reshaped is not None:
            self.when_reshaped()

    @property
    def data(self) -> np.ndarray:
        """The values, float32: write with ``blob.data[...] =``."""
        return self._numpy("data", self.tensor().detach())

    @property
    def diff(self) -> np.ndarray:
        """The gradient, like ``data``."""
        return self._numpy("diff", self.gradient())

    def _numpy(self, which: str, tensor: Tensor) -> np.ndarray:
        if is_host(tensor):
            return tensor.numpy()
        self._mirrors[which] = mirror = _mirror_of(tensor)
        return mirror.numpy().reshape(tensor.shape)

    def gradient(self) -> Tensor:
        """The memory that gradients add up in. It stays the same, whoever sets ``.grad`` to None in between."""
        tensor, owner = self.tensor(), self.owner()
        if not isinstance(owner, nn.Parameter):
            if self._grad is None or self._grad.shape != tensor.shape or self._grad.device != tensor.device:
                self._grad = torch.zeros_like(tensor)
            return self._grad
        if owner.grad is None:
            if self._grad is None or self._grad.shape != owner.shape or self._grad.device != owner.device:
                self._grad = torch.zeros_like(owner)
            else:
                self._grad.zero_()
            owner.grad = self._grad
        self._grad = owner.grad
        return self._grad.view(tensor.shape)


class BlobVec(list[ParamBlob]):
    """The parameters of a layer."""

    def __setitem__(self, index: SupportsIndex | slice, value: object) -> NoReturn:
        """Raises UsageError: the net would go on with the blob that it has. Caffe's raises, too."""
        raise UsageError("a layer keeps its blobs; write to their values: net.params['conv1'][0].data[...] = array")


# Off the CPU, layers and nets that share a parameter share the array that stands for it too.

_MIRRORS: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()  # by address of the memory
_TOUCHED: set[Array] = set()  # handed out, and maybe written to


def _mirror_of(tensor: Tensor) -> Array:
    mirror = _MIRRORS.get(tensor.data_ptr())
    if mirror is None or mirror.shape != (tensor.numel(),):
        mirror = _MIRRORS[tensor.data_ptr()] = Array(tensor.view(-1))
    _TOUCHED.add(mirror)
    return mirror


def _lengths(shape: Sequence[int], what: str) -> Shape:
    try:
        lengths = tuple(operator.index(dim) for dim in shape)
    except TypeError as error:
        raise UsageError(
            f"{what} cannot have shape {list(shape)}: an integer for each axis is needed (in Python 3, a // b divides "
            "integers)"
        ) from error
    if any(dim < 0 for dim in lengths):
        raise UsageError(f"{what} cannot have shape {list(lengths)}")
    return lengths


def flush_parameters() -> None:
    """Off the CPU: bring what scripts wrote to arrays of parameters, of any net, back to the device."""
    for mirror in _TOUCHED:
        mirror.tensor()
    _TOUCHED.clear()
