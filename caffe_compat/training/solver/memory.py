"""What networks remember from pass to pass and no weight holds: recurrent state, and what layers have counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import WeightsError
from ...network.names import under_names
from ...network.net import CaffeNet
from ...network.registry import Layer

__all__ = ["NetMemory", "label_of", "labelled", "net_state", "restore_net_state", "under_label"]

# By name.
NetMemory = Mapping[str, np.ndarray]


def net_state(net: CaffeNet) -> dict[str, np.ndarray]:
    """What ``net`` remembers from pass to pass: recurrent state, and what its layers have counted."""
    buffers = {name: buffer.detach().cpu().numpy() for name, buffer in _state_buffers(net).items()}
    return buffers | {name: np.asarray(getattr(module, own)) for name, (module, own) in _counts(net).items()}


def _state_buffers(net: CaffeNet) -> dict[str, Tensor]:
    """Buffers that are no blobs and not empty."""
    blobs = {id(blob) for node in net.nodes_with_blobs() for blob in net.blobs_of(node.module_name).values()}
    return {name: buffer for name, buffer in net.named_buffers() if id(buffer) not in blobs and buffer.numel()}


def _counts(net: CaffeNet) -> dict[str, tuple[Layer, str]]:
    """The module and the attribute of everything that a layer counts."""
    layers = [(name, module) for name, module in net.named_modules() if isinstance(module, Layer)]
    return {f"{name}.{own}": (module, own) for name, module in layers for own in module.counts}


def restore_net_state(net: CaffeNet, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Put remembered state back. The number of streams (axis 0) may differ from what the net was built for.

    Raises:
        WeightsError: another net's state.
    """
    buffers, counts = _state_buffers(net), _counts(net)
    arrays = under_names(arrays, (*buffers, *counts))
    odd = ", ".join(sorted(arrays.keys() ^ (buffers.keys() | counts.keys())))
    if odd:
        raise WeightsError(f"does not fit the net: {odd} is only on one side", path=str(path))
    for name, (counter, own) in counts.items():
        setattr(counter, own, arrays[name].copy() if arrays[name].ndim else arrays[name].item())
    for name, old in buffers.items():
        array = arrays[name]
        if array.ndim != old.dim() or tuple(array.shape[1:]) != tuple(old.shape[1:]):
            raise WeightsError(f"{name} has shape {list(array.shape)}, the net needs {list(old.shape)}", path=str(path))
        owner, _, own = name.rpartition(".")
        module = net.get_submodule(owner) if owner else net
        module._buffers[own] = torch.from_numpy(array.copy()).to(old.device, old.dtype)


def label_of(rank: int) -> str:
    """What begins the names of what a process's trained net remembers."""
    return f"train:{rank}" if rank else "train"


def labelled(memory: NetMemory, label: str) -> dict[str, np.ndarray]:
    """What one net remembers, named so that it can lie beside what others do."""
    return {f"{label}/{name}": array for name, array in memory.items()}


def under_label(buffers: NetMemory, label: str) -> NetMemory:
    """What :func:`labelled` named, out of everything that ``buffers`` holds."""
    start = f"{label}/"
    return {name.removeprefix(start): array for name, array in buffers.items() if name.startswith(start)}
