"""Weights of a file -> blobs of a net, each one accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError, located
from ..formats.blob_proto import BlobView
from ..formats.caffemodel import LayerRecord
from ..formats.weights import WeightsFile
from .net import CaffeNet
from .registry import Layer, Shape
from .sharing import get_tensor

__all__ = ["FillReport", "fill_net", "listed", "shape_fits", "sizes_fit"]

COPIED_AT_ONCE = 1 << 18  # values: 1 MB, which is in the processor's cache when it is looked at again


@dataclass
class FillReport:
    """What became of every blob.

    Attributes:
        filled: layers that got weights.
        modules: their modules' names, which are unique: of layers of one name, the first alone gets weights.
        initial: layers with blobs that the file has none for: they keep initial values.
        leftover: layers of the file with blobs that the net does not use.
        warnings: the last two, and weights that are no numbers, in words.
    """

    filled: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    initial: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _holders: dict[int, str] = field(default_factory=dict)  # where a blob lies in memory -> the layer that filled it

    def note_shared(self, layer: str, name: str, blob: Tensor, values: Tensor, path: str) -> None:
        """Say that the file has ``values`` for a ``blob`` that a layer above, which shares it, has filled with others.

        Caffe copies layer by layer into the memory that both look at (``Net::CopyTrainedLayersFrom``).
        """
        above = None if blob.is_meta else self._holders.get(blob.data_ptr(), layer)
        if above not in (None, layer) and not _same_bits(blob, values):
            self.warnings.append(
                f"{path} has different values for layers {above!r} and {layer!r}, which share the blob {name}; those "
                f"of {layer!r}, the later ones, count for both, as in Caffe"
            )

    def note_filled(self, layer: str, blob: Tensor) -> None:
        """Remember which layer filled a blob."""
        if blob.numel():
            self._holders[blob.data_ptr()] = layer

    @property
    def lacking(self) -> str:
        """The layers of ``initial`` in words, and why one may be among them although the file has its name."""
        again = [name for name in dict.fromkeys(self.initial) if name in self.filled]
        why = f" (of several named {' or '.join(map(repr, again))}, the first gets the file's)" if again else ""
        return listed(self.initial) + why


def fill_net(net: CaffeNet, weights: WeightsFile) -> FillReport:
    """Copy weights into ``net`` by layer name, as Caffe does: of layers of one name, the first gets them.

    The pages of the file are given back blob by blob, so memory holds the weights once.

    Raises:
        WeightsError: a layer with another number of blobs, or a blob of another shape.
    """
    report = FillReport()
    by_name: dict[str, str] = {}
    for node in net.graph.computed:
        by_name.setdefault(node.name, node.module_name)
    for record in weights.layers:
        if not record.blobs:
            continue
        module_name = by_name.get(record.name)
        if module_name is None:
            report.leftover.append(record.name)
            continue
        with located(path=weights.path, layer=record.name):
            _fill_layer(net, module_name, record, weights, report)
        if module_name in report.modules:
            report.warnings.append(f"{weights.path} has layer {record.name!r} twice; the last one counts, as in Caffe")
        report.modules.add(module_name)
        report.filled.append(record.name)
    report.initial = [
        node.name
        for node in net.nodes_with_blobs()
        if node.module_name not in report.modules and not _shares_all(net, node.module_name)
    ]
    if report.initial:
        report.warnings.append(
            f"{weights.path} has no weights for {report.lacking}: they keep their initial values, as in Caffe"
        )
    if report.leftover:
        report.warnings.append(f"{weights.path} has weights for {listed(report.leftover)}, which the net does not use")
    return report


def _fill_layer(net: CaffeNet, module_name: str, record: LayerRecord, weights: WeightsFile, report: FillReport) -> None:
    targets = net.blobs_of(module_name)
    names = list(targets)
    module = net.get_submodule(module_name)
    order: Sequence[int] = range(len(record.blobs))
    if isinstance(module, Layer):
        order = module.stored_order([blob.shape for blob in record.blobs])
    # Caffe leaves shared blobs out of HDF5.
    shorter_is_shared = weights.kind == "hdf5" and len(record.blobs) < len(names)
    if len(record.blobs) != len(names) and not shorter_is_shared:
        raise WeightsError(
            f"has {len(record.blobs)} blobs, the net needs {len(names)} ({', '.join(names) or 'none'})",
            found=len(record.blobs),
            expected=len(names),
        )
    for name, i in zip(names, order, strict=False):
        blob, target = record.blobs[i], tuple(targets[name].shape)
        if blob.is_empty:
            if weights.kind == "hdf5":
                continue
            raise WeightsError(f"the file declares shape {list(blob.shape)} and holds no values", index=i)
        if not shape_fits(blob.shape, target, any_axes_of_one=isinstance(module, Layer) and module.any_axes_of_one):
            if not isinstance(module, Layer) or name not in module.any_size or not sizes_fit(blob.shape, target):
                raise WeightsError(
                    f"the file has shape {list(blob.shape)}, the net needs {list(target)}",
                    blob=name,
                    index=i,
                    found=blob.shape,
                    expected=target,
                )
            blob = replace(blob, shape=target, data=module.resized(name, blob.data, target))
        try:
            tensor, finite = _copied(blob, target, weights)
        except RuntimeError as error:  # torch has no MemoryError on the CPU
            raise WeightsError(f"no memory for its shape {list(target)}", blob=name, index=i) from error
        if not finite and bool(np.isfinite(blob.data).all()):
            raise WeightsError("the file's float64 holds numbers beyond float32", blob=name, index=i)
        if not finite:
            report.warnings.append(
                f"{weights.path}: layer {record.name!r}, blob {i} ({name}) holds values that are not finite (NaN or "
                "infinity)"
            )
        report.note_shared(record.name, name, targets[name], tensor, weights.path)
        if targets[name].is_meta:
            net.assign_blob(module_name, name, tensor)
        else:
            # It has memory already, which an optimizer or somebody's array may hold on to.
            with torch.no_grad():
                targets[name].copy_(tensor)
        report.note_filled(record.name, get_tensor(module, name))


def shape_fits(found: Shape, needed: Shape, *, any_axes_of_one: bool = False) -> bool:
    """Equal, or the four axes of an old file, of which the leading ones may be 1.

    Args:
        any_axes_of_one: axes of length 1 do not count.
    """
    if any_axes_of_one:
        return [n for n in found if n != 1] == [n for n in needed if n != 1]
    return found == needed or (len(found) == 4 and len(needed) < 4 and found == (1,) * (4 - len(needed)) + needed)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two blobs hold the same values: NaN is the same as NaN here."""
    left, right = (x.detach().cpu().float().reshape(-1).view(torch.int32) for x in (one, other))
    return torch.equal(left, right)


def sizes_fit(found: Shape, needed: Shape) -> bool:
    """Equal but for height and width, for a blob of any size."""
    return len(found) == len(needed) == 4 and found[:2] == needed[:2] and min(found[2:]) > 0


def _copied(blob: BlobView, shape: Shape, weights: WeightsFile) -> tuple[Tensor, bool]:
    """A blob's values in memory of their own, as float32, and whether all are finite.

    Piece by piece: each is looked at while it is in the processor's cache, and its pages of the file are given back.
    """
    tensor = torch.empty(shape, device="cpu")  # whatever the default device is: numpy writes into it
    source, target = blob.data.reshape(-1), tensor.view(-1).numpy()
    finite = True
    for start in range(0, target.size, COPIED_AT_ONCE):
        piece = target[start : start + COPIED_AT_ONCE]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is seen below
            np.copyto(piece, source[start : start + COPIED_AT_ONCE], casting="same_kind")
        weights.release(blob)
        finite = finite and bool(np.isfinite(piece).all())
    return tensor, finite


def _shares_all(net: CaffeNet, module_name: str) -> bool:
    """Whether another layer with weights owns every blob of this one."""
    return all(not blob.is_meta for blob in net.blobs_of(module_name).values())


def listed(names: Sequence[str], most: int = 8) -> str:
    """``layers 'a', 'b' and 3 more``"""
    shown = ", ".join(repr(name) for name in names[:most])
    kind = "layer " if len(names) == 1 else "layers "
    return kind + shown + (f" and {len(names) - most} more" if len(names) > most else "")
