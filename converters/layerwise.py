"""Where a file departs because rounding decides: each layer of the net on what the file itself computed.

Some layers make a jump of a last bit: two boxes of almost equal scores change places, a box overlaps a better one by
almost the threshold, a value is rounded to the next step. Two runtimes then give results far apart although neither is
wrong, and the results of the whole net say nothing. What says something is every layer by itself: the net is written
once more with all its blobs as outputs, and each of its layers, given what the file has for its bottoms, has to make
what the file has for its tops.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caffe_compat.errors import ParityError
from caffe_compat.layers.forks.ssd import DetectionOutput
from caffe_compat.layers.forks.ssd_extended import DetectionOutputExtended
from caffe_compat.layers.forks.yolo import YoloDetectionOutput, Yolov3DetectionOutput
from caffe_compat.network.graph import Node
from caffe_compat.network.net import CaffeNet
from caffe_compat.parity.compare import BlobResult, compare
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.parity.tolerance import Tolerance

from .calls import Call
from .registry import Target
from .state import set_states

__all__ = ["layer_by_layer"]

# Layers whose tops are lists of rows (image, label, score, box ...), and the columns that these are ordered by.
_LISTS: dict[type[nn.Module], tuple[int, ...]] = {
    DetectionOutput: (0, 1, 2),
    DetectionOutputExtended: (0, 1, 2),
    YoloDetectionOutput: (2,),
    Yolov3DetectionOutput: (2,),
}
# With more values than this in its blobs, a net is not followed: they would not fit into memory.
_LARGEST = 2**29


def layer_by_layer(
    target: Target, net: CaffeNet, settings: Mapping[str, Any], calls: Sequence[Call], tolerance: Tolerance
) -> list[BlobResult]:
    """Every blob of ``net`` in a file like the one that was written, compared with what its layer makes of the file's.

    Args:
        settings: what the file was written with. calls: what it is given. tolerance: of a single layer.

    Raises:
        ParityError: a layer departs, by name; or the net is too large to be followed.
    """
    whole = net.part(_made(net))
    if sum(math.prod(whole.shapes[v]) for v in whole.program.outputs) > _LARGEST:
        raise ParityError("it is too large to be followed layer by layer")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"every{target.suffix}")
        target.write(whole, path, **settings)
        made = target.run_beside(path, [call.inputs for call in calls], whole.state_dict())
    results: list[BlobResult] = []
    for call, found in zip(calls, made, strict=True):
        set_states(whole, call.state)
        with ieee_float32(), _following(whole, found, results, tolerance):
            whole.run(call.fed)
    whole.reset_state()
    return results


def _made(net: CaffeNet) -> list[str]:
    """The blobs that layers make, in execution order, without those that an input of the same name stands for."""
    blobs, inputs = net.graph.blobs, set(net.input_names)
    return list(dict.fromkeys(blobs[v] for node in net.program.nodes() for v in node.tops if blobs[v] not in inputs))


def _in_order_of(
    found: np.ndarray | None, expected: np.ndarray, tolerance: Tolerance, ordered: tuple[int, ...]
) -> np.ndarray:
    """Rows (image, label, score, box ...) in the order of those in ``found``, as far as their scores are all but equal.

    Scores are results of exponentials, whose last bit is each runtime's own; it decides which of two rows comes first.

    Args:
        ordered: the columns that rows are ordered by, which have to agree in every place.
    """
    if found is None or found.shape != expected.shape or not expected.size:
        return expected
    rows, theirs = (x.reshape(-1, expected.shape[-1]) for x in (expected, found))
    allowed = tolerance.absolute + tolerance.relative * np.abs(rows).max(0)
    by = list(ordered)
    if (np.abs(rows - theirs)[:, by] > allowed[by]).any():
        return expected
    left = np.ones(len(rows), bool)
    order = []
    for row in theirs:
        fits = left & (np.abs(rows - row) <= allowed).all(1)
        if not fits.any():
            return expected
        order.append(int(fits.argmax()))
        left[order[-1]] = False
    return rows[order].reshape(expected.shape)


@contextmanager
def _following(
    net: CaffeNet, found: Mapping[str, np.ndarray], results: list[BlobResult], tolerance: Tolerance
) -> Iterator[None]:
    """Within, each layer of ``net`` is compared with ``found``, and the layers after it go on from that."""
    shown = dict(zip(net.program.outputs, net.output_names, strict=True))

    def hook_of(node: Node) -> Any:
        def hook(module: nn.Module, bottoms: tuple[Tensor, ...], made: Tensor | Sequence[Tensor]) -> Any:
            tops = [made] if isinstance(made, Tensor) else list(made)
            for i, value in enumerate(node.tops[: len(tops)]):
                if value in shown:
                    name = shown[value]
                    expected = tops[i].float().cpu().numpy()
                    if type(module) in _LISTS:
                        expected = _in_order_of(found.get(name), expected, tolerance, _LISTS[type(module)])
                    result = compare(name, found.get(name), expected, tolerance)
                    if not result.passed:
                        departs = result.problem or f"is off by {result.max_rel:.1e} of the largest value"
                        raise ParityError(
                            f"given what the file has, it departs: {departs}", layer=node.name, type=node.type
                        )
                    results.append(result)
                    tops[i] = torch.from_numpy(np.array(found[name])).to(tops[i])
            return tops[0] if isinstance(made, Tensor) else tops

        return hook

    handles = [net.get_submodule(n.module_name).register_forward_hook(hook_of(n)) for n in net.program.nodes()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
