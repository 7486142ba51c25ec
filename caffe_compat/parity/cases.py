"""Cases: small networks with all it takes to run them, and what real Caffe made of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..access import FileAccess
from ..errors import CaffeCompatError, FileError, UsageError
from ..formats.hdf5 import Group, attribute, attribute_names, is_group, members, read_array
from ..network.gradients import starts_backward
from ..network.graph import NetState, Node
from ..network.net import CaffeNet
from ..network.python_config import configured
from ..network.registry import Layer
from ..schema import dialect_names, load_schema, split_dialect
from ..schema.prototxt import parse_message
from ..schema.upgrade import upgrade_net
from .compare import BlobResult, CaseResult, compare
from .precision import ieee_float32
from .reference_files import (
    blobs_below,
    named_arrays,
    open_recorded,
    params_below,
)
from .tolerance import LAYER_TOLERANCE, Tolerance

__all__ = ["blob_of_layer", "run_case", "run_cases"]


def run_cases(
    path: str | Path,
    names: Sequence[str] = (),
    device: torch.device | str = "cpu",
    *,
    gradients: bool = True,
    dialect: str | None = None,
) -> Iterator[CaseResult]:
    """Run the cases of a file, all or those whose name starts with one of ``names``.

    Args:
        dialect: as :func:`run_case` takes it.

    Raises:
        FileError: no such file, not HDF5, or no case in it. DialectError: no such dialect.
    """
    if dialect not in (None, "auto"):
        load_schema(*split_dialect(dialect))  # what is wrong with the name is no fault of the cases
    with open_recorded(path) as file:
        found = {
            key: entry
            for key, entry in members(file).items()
            if is_group(entry) and (not names or key.startswith(tuple(names)))
        }
        if not found:
            raise FileError(f"holds no case{' named ' + ', '.join(names) if names else ''}", path=str(path))
        for key, case in found.items():
            yield run_case(key, case, device, root=Path(path).parent, gradients=gradients, dialect=dialect)


def run_case(
    name: str,
    case: Group,
    device: torch.device | str = "cpu",
    *,
    root: Path | None = None,
    gradients: bool = True,
    dialect: str | None = None,
) -> CaseResult:
    """Build the case's network, run it forward and, where the case has gradients, backward, and compare everything.

    Args:
        root: folder of the files that the layers name.
        dialect: the fork whose meaning counts, instead of the one that the case's attribute ``dialect`` names;
            ``"auto"`` chooses by the network, as is done where the case has no such attribute.
    """
    result = CaseResult(name)
    try:
        with ieee_float32():
            _run_case(case, result, torch.device(device), root, gradients, dialect)
    except CaffeCompatError as error:
        result.unsupported = str(error)
    return result


def _run_case(
    case: Group,
    result: CaseResult,
    device: torch.device,
    root: Path | None,
    gradients: bool,
    dialect: str | None,
) -> None:
    prototxt = attribute(case, "prototxt")
    if prototxt is None:
        raise UsageError("the case has no attribute prototxt")
    chosen = _recorded_dialect(case) if dialect is None else dialect
    parsed = parse_message(
        str(prototxt),
        dialect=None if chosen == "auto" else chosen,
        path=result.name,
        blobs=lambda: Counter(layer for layer, _ in params_below(case, "param")),
    )
    message = upgrade_net(parsed.message, parsed.schema).message
    config = attribute(case, "cfg")
    if config is not None:
        message = configured(message, _told_config(str(config)))
    net = CaffeNet(
        message,
        NetState(str(attribute(case, "phase", "TEST"))),
        dialect=parsed.schema.name,
        files=FileAccess(root),
    )
    net.materialize(seed=0)
    net.randomness.seed = 0  # so that a case comes out the same whenever it runs
    # The recorders of Python layers seed numpy's own stream right before the pass.
    net.randomness.stream = np.random.RandomState(int(attribute(case, "numpy_seed", 11)))
    net.randomness.training = _training_at(case)
    _fill_from_case(net, case)
    net.to(device)
    bottoms = {
        name: torch.from_numpy(x.astype(np.float32)).to(device) for name, x in named_arrays(case, "bottom").items()
    }
    for x in bottoms.values():
        x.requires_grad_(True)
    values = net.values(bottoms)
    tolerance = LAYER_TOLERANCE
    last = {name: v for v, name in enumerate(net.graph.blobs)}
    for top, stored in sorted(named_arrays(case, "top").items(), key=lambda item: last.get(item[0], -1)):
        result.blobs.append(compare(top, values[last[top]] if top in last else None, stored, tolerance))
    for (layer, i), stored in _param_arrays(case, "param_after_forward").items():
        result.blobs.append(
            compare(f"param_after_forward/{layer}/{i}", blob_of_layer(net, layer, i), stored, tolerance)
        )
    for written in attribute_names(case):
        if written.startswith("file:"):
            result.blobs.append(_compare_text(written, net, str(attribute(case, written))))
    if gradients:
        _compare_gradients(case, net, values, bottoms, last, result, tolerance)
    elif blobs_below(case, "top_diff"):
        result.skipped.append("gradients were not asked for")


def _training_at(case: Group) -> tuple[int, int] | None:
    """The iteration that the case was recorded at, and the one at which its solver stopped; None without a solver."""
    told = [attribute(case, name) for name in ("solver_iteration", "solver_stop")]
    if None in told:
        return None
    if not all(isinstance(number, int | np.integer) for number in told) or not 0 <= told[0] < told[1]:
        raise UsageError(f"the case's attributes solver_iteration and solver_stop are {told[0]} and {told[1]}")
    return int(told[0]), int(told[1])


def _told_config(text: str) -> dict[str, Any]:
    """The settings of a Python layer's project that the case was recorded with."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the case's attribute cfg is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise UsageError(f"the case's attribute cfg is {text[:60]}; a mapping was expected")
    return told


def _recorded_dialect(case: Group) -> str:
    """The fork that the case was recorded with; ``"auto"`` if it does not say."""
    recorded = str(attribute(case, "dialect", "auto"))
    # A file of cases is data: it may name a dialect that ships, not a file to read.
    if recorded != "auto" and not set(split_dialect(recorded)) <= set(dialect_names()):
        raise UsageError(f"the case's attribute dialect names {recorded!r}, which is none that ships; pass --dialect")
    return recorded


def _compare_gradients(
    case: Group,
    net: CaffeNet,
    values: Sequence[Tensor | None],
    bottoms: Mapping[str, Tensor],
    last: Mapping[str, int],
    result: CaseResult,
    tolerance: Tolerance,
) -> None:
    stored_bottoms, stored_params = named_arrays(case, "bottom_diff"), _param_arrays(case, "param_diff")
    if not stored_bottoms and not stored_params:
        return
    tops, diffs = [], []
    for name, diff in named_arrays(case, "top_diff").items():
        top = values[last[name]] if name in last else None
        if top is None or diff.shape != top.shape:
            ours = "the network has no such blob" if top is None else f"the blob has {list(top.shape)}"
            raise UsageError(f"the case has top_diff/{name} of shape {list(diff.shape)}; {ours}")
        if top.requires_grad and starts_backward(net.message, net.loss_weights.get(last[name], 0)):
            tops.append(top)
            diffs.append(torch.from_numpy(diff.astype(np.float32)).to(top.device))
    unknown = stored_bottoms.keys() - bottoms.keys()
    if unknown:
        raise UsageError(f"the case has bottom_diff/{min(unknown)}, but no bottom/{min(unknown)}")
    wanted = {f"bottom_diff/{name}": bottoms[name] for name in stored_bottoms}
    wanted |= {f"param_diff/{layer}/{i}": blob_of_layer(net, layer, i) for layer, i in stored_params}
    learned = {key: tensor for key, tensor in wanted.items() if tensor.requires_grad}
    found: dict[str, Tensor | None] = {}
    if tops and learned:
        found = dict(
            zip(learned, torch.autograd.grad(tops, list(learned.values()), diffs, allow_unused=True), strict=True)
        )
    references = {f"bottom_diff/{n}": x for n, x in stored_bottoms.items()}
    references |= {f"param_diff/{layer}/{i}": x for (layer, i), x in stored_params.items()}
    filled = {
        name for node, module in _computed_nodes(net) if module.forward_fills_diff for name in node.message.bottom
    }
    for key, reference in references.items():
        if key.removeprefix("bottom_diff/") in filled and not reference.any():
            # Recorders clear diffs before the backward pass; what such a layer then computes is always zero.
            result.skipped.append(f"{key}: recorded after the diffs were cleared that the layer's backward pass reads")
            continue
        grad = found.get(key)
        # Where no gradient arrives, Caffe's diff stays zero.
        result.blobs.append(compare(key, torch.zeros_like(wanted[key]) if grad is None else grad, reference, tolerance))


def _computed_nodes(net: CaffeNet) -> Iterator[tuple[Node, Layer]]:
    for node in net.graph.nodes:
        if node not in net.graph.sources:
            module = net.get_submodule(node.module_name)
            if isinstance(module, Layer):
                yield node, module


def _compare_text(name: str, net: CaffeNet, expected: str) -> BlobResult:
    written = {Path(path).name: text for path, text in net.files.written.items()}
    text = written.get(name.removeprefix("file:"))
    problem = "" if text == expected else ("not written" if text is None else "another text")
    return BlobResult(name, len(text or ""), (), 0.0, 0.0, not problem, problem)


def _param_arrays(case: Group, key: str) -> dict[tuple[str, int], np.ndarray]:
    return {place: read_array(entry) for place, entry in params_below(case, key).items()}


def _fill_from_case(net: CaffeNet, case: Group) -> None:
    for (layer, i), stored in _param_arrays(case, "param").items():
        node = next((n for n in net.nodes_with_blobs() if n.name == layer), None)
        blobs = list(net.blobs_of(node.module_name)) if node else []
        if node is None or i >= len(blobs):
            raise UsageError(f"the case has weights param/{layer}/{i}, which the network does not")
        net.assign_blob(node.module_name, blobs[i], torch.from_numpy(stored.astype(np.float32)))


def blob_of_layer(net: CaffeNet, layer: str, i: int) -> Tensor:
    """Blob ``i`` of the first layer called ``layer``. Raises UsageError if there is none."""
    node = next((n for n in net.nodes_with_blobs() if n.name == layer), None)
    if node is None or i >= len(net.blobs_of(node.module_name)):
        raise UsageError(f"the reference has blob {i} of layer {layer!r}, which the network does not")
    return list(net.blobs_of(node.module_name).values())[i]
