"""Our numbers against those of real Caffe: blob by blob, in execution order, in IEEE float32.

Two kinds of stored outputs are read. A *case* is a small network with everything needed to run it: inputs, weights,
outputs and gradients. A *reference* is what a whole model gave: inputs and blobs, large ones as fingerprints (mean,
standard deviation, least and greatest value, and the values at some positions).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..access import FileAccess
from ..errors import CaffeCompatError, FileError, UsageError
from ..formats.files import open_file
from ..network.graph import NetState, Node
from ..network.net import CaffeNet
from ..network.registry import Layer
from ..schema import dialect_names, load_schema, split_dialect
from ..schema.prototxt import parse_message
from ..schema.upgrade import upgrade_net

__all__ = [
    "LAYER_TOLERANCE",
    "NET_TOLERANCE",
    "BlobResult",
    "CaseResult",
    "Tolerance",
    "compare",
    "ieee_float32",
    "open_reference",
    "pick_group",
    "run_case",
    "run_cases",
    "verify_net",
]

# What a recorded array may hold; a file that declares more is lying.
MAX_VALUES = 2**28
# Groups in groups: a blob name has few slashes.
MAX_DEPTH = 32


@dataclass(frozen=True)
class Tolerance:
    """An array agrees if max |ours - reference| <= absolute + relative * max |reference|."""

    absolute: float
    relative: float


LAYER_TOLERANCE = Tolerance(1e-6, 1e-5)
NET_TOLERANCE = Tolerance(1e-5, 1e-4)


@dataclass(frozen=True)
class BlobResult:
    """One array compared.

    Attributes:
        name: the blob, or ``param/<layer>/<i>``, ``bottom_diff/<blob>`` and so on.
        count, shape: of our array.
        max_abs: the largest |ours - reference|. max_rel: the same over the largest |reference|.
        passed: whether it is within tolerance. problem: what else is wrong (shape, missing, not a number).
    """

    name: str
    count: int
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    passed: bool
    problem: str = ""


@dataclass
class CaseResult:
    """All arrays of one case or of one batch of a reference, in execution order.

    ``skipped`` names what was not compared and why; ``unsupported`` is set where the network could not be built.
    """

    name: str
    blobs: list[BlobResult] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unsupported: str = ""

    @property
    def passed(self) -> bool:
        return not self.unsupported and bool(self.blobs) and all(blob.passed for blob in self.blobs)

    @property
    def first_failure(self) -> BlobResult | None:
        """The first array in execution order that departs."""
        return next((blob for blob in self.blobs if not blob.passed), None)

    @property
    def worst(self) -> BlobResult | None:
        """The array with the largest relative error."""
        return max(self.blobs, key=lambda blob: blob.max_rel, default=None)


@contextlib.contextmanager
def ieee_float32() -> Iterator[None]:
    """Plain float32 arithmetic within: no TF32, no reduced-precision reductions, no autocast. Settings come back."""
    switches = _precision_switches()
    before = [getattr(owner, name) for owner, name, _ in switches]
    for owner, name, plain in switches:
        setattr(owner, name, plain)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _precision_switches() -> list[tuple[Any, str, Any]]:
    """Each setting of torch that trades precision for speed: where it is, its name, and its value for none of that."""
    backends: Any = torch.backends
    matmul, cudnn, mkldnn = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    switches = [
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
        (cudnn, "benchmark", False),
    ]
    if hasattr(backends, "fp32_precision"):
        # From 2.9 on each kind of operation has its own; reading the older ones fails once somebody has set these.
        kinds = (matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
        return switches + [(kind, "fp32_precision", "ieee") for kind in kinds]
    return [*switches, (matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]


def compare(name: str, ours: Tensor | np.ndarray | None, reference: np.ndarray, tolerance: Tolerance) -> BlobResult:
    """Compare two arrays: count, shape, then values in float64. NaN agrees only with NaN, infinity with itself."""
    if ours is None:
        return BlobResult(name, 0, (), float("inf"), float("inf"), False, "we have no such blob")
    mine, theirs = _on_cpu(ours), _on_cpu(reference)
    if mine.shape != theirs.shape:
        problem = f"shape {list(mine.shape)}, the reference has {list(theirs.shape)}"
        return BlobResult(name, mine.numel(), tuple(mine.shape), float("inf"), float("inf"), False, problem)
    return _compared(name, tuple(mine.shape), mine.numel(), mine, theirs, tolerance)


# Large blobs are compared in pieces of this many values: in float64 they stay in a core's cache, and torch starts no
# threads for them.
_PIECE = 2**15


def _on_cpu(x: Tensor | np.ndarray) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    values = np.asarray(x, np.float32 if x.dtype == np.float32 else np.float64, order="C")
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The values of ``x`` in float64, flat, in pieces that are only to be read."""
    for piece in x.reshape(-1).split(_PIECE):
        yield piece.double()


def _compared(
    name: str, shape: tuple[int, ...], count: int, mine: Tensor, theirs: Tensor, tolerance: Tolerance
) -> BlobResult:
    max_abs, scale = 0.0, 0.0
    for a, b in zip(_pieces(mine), _pieces(theirs), strict=True):
        if not a.numel():
            continue
        difference, size = (a - b).abs().max().item(), b.abs().max().item()
        if not math.isfinite(difference) or not math.isfinite(size):
            same = (a == b) | (a.isnan() & b.isnan())
            difference = (a - b).abs().masked_fill(same, 0.0).max().item()
            size = b.abs().masked_fill(~b.isfinite(), 0.0).max().item()
        if not math.isfinite(difference):
            problem = "not a number where the reference has one"
            return BlobResult(name, count, shape, float("inf"), float("inf"), False, problem)
        max_abs, scale = max(max_abs, difference), max(scale, size)
    max_rel = max_abs / scale if scale else (0.0 if max_abs == 0 else float("inf"))
    return BlobResult(name, count, shape, max_abs, max_rel, max_abs <= tolerance.absolute + tolerance.relative * scale)


def compare_fingerprint(name: str, ours: Tensor | np.ndarray, stored: h5py.Group, tolerance: Tolerance) -> BlobResult:
    """Compare with a fingerprint: shape, the whole array if it is there, else values at positions and statistics."""
    shape = _stored_shape(stored)
    mine = _on_cpu(ours)
    if tuple(mine.shape) != shape:
        problem = f"shape {list(mine.shape)}, the reference has {list(shape)}"
        return BlobResult(name, mine.numel(), tuple(mine.shape), float("inf"), float("inf"), False, problem)
    parts = _own(stored)
    if "data" in parts:
        return compare(name, mine, _shaped(parts["data"], shape), tolerance)
    flat, count = mine.reshape(-1), mine.numel()
    mine_parts, their_parts = [], []
    if "values" in parts:
        if "positions" not in parts:
            raise UsageError(f"reference of {name}: it has values and no positions")
        positions = _array(parts["positions"]).astype(np.int64).ravel()
        if positions.size and (positions.min() < 0 or positions.max() >= count):
            raise UsageError(f"reference of {name}: a position lies outside its {count} values")
        mine_parts.append(flat[torch.from_numpy(positions)].double())
        their_parts.append(_on_cpu(_array(parts["values"])).double().reshape(-1))
    with _reading(stored):
        statistics = np.array(_attribute(stored, "mean_std_min_max", ()), np.float64).ravel()
    if statistics.size and count:
        mine_parts.append(_statistics(flat))
        their_parts.append(torch.from_numpy(statistics))
    if not mine_parts:
        return BlobResult(name, count, shape, 0.0, 0.0, count == 0, "" if count == 0 else "an empty fingerprint")
    our_values, their_values = torch.cat(mine_parts), torch.cat(their_parts)
    if len(our_values) != len(their_values):
        raise UsageError(f"reference of {name}: {len(their_values)} values are stored for {len(our_values)} places")
    return _compared(name, shape, count, our_values, their_values, tolerance)


def _statistics(x: Tensor) -> Tensor:
    """Mean, standard deviation (of the population), least and greatest value of a flat tensor, in float64.

    Piece by piece, each around its own mean, put together by the formula of Chan, Golub and LeVeque (1979).
    """
    counts, means, squares = [], [], []
    buffer = torch.empty(min(_PIECE, x.numel()), dtype=torch.float64)
    for piece in x.split(_PIECE):
        values = buffer[: piece.numel()].copy_(piece)
        mean = values.mean()
        values.sub_(mean)
        counts.append(piece.numel())
        means.append(mean)
        squares.append(values.dot(values))
    count, piece_means = torch.tensor(counts, dtype=torch.float64), torch.stack(means)
    mean = (count * piece_means).sum() / x.numel()
    square = (torch.stack(squares).sum() + (count * (piece_means - mean).square()).sum()) / x.numel()
    least, greatest = x.aminmax()
    return torch.stack([mean, square.sqrt(), least.double(), greatest.double()])


# Cases


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
    with open_reference(path) as file:
        found = {
            key: entry
            for key, entry in _own(file).items()
            if isinstance(entry, h5py.Group) and (not names or key.startswith(tuple(names)))
        }
        if not found:
            raise FileError(f"holds no case{' named ' + ', '.join(names) if names else ''}", path=str(path))
        for key, case in found.items():
            yield run_case(key, case, device, root=Path(path).parent, gradients=gradients, dialect=dialect)


def run_case(
    name: str,
    case: h5py.Group,
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
    case: h5py.Group,
    result: CaseResult,
    device: torch.device,
    root: Path | None,
    gradients: bool,
    dialect: str | None,
) -> None:
    prototxt = _attribute(case, "prototxt")
    if prototxt is None:
        raise UsageError("the case has no attribute prototxt")
    chosen = _recorded_dialect(case) if dialect is None else dialect
    parsed = parse_message(_text(prototxt), dialect=None if chosen == "auto" else chosen, path=result.name)
    message = upgrade_net(parsed.message, parsed.schema).message
    net = CaffeNet(
        message,
        NetState(_text(_attribute(case, "phase", "TEST"))),
        dialect=parsed.schema.name,
        files=FileAccess(root),
    )
    net.materialize(seed=0)
    _fill_from_case(net, case)
    net.to(device)
    bottoms = {name: torch.from_numpy(x.copy()).to(device) for name, x in _named(case, "bottom").items()}
    for x in bottoms.values():
        x.requires_grad_(True)
    values = net.values(bottoms)
    tolerance = LAYER_TOLERANCE
    last = {name: v for v, name in enumerate(net.graph.blobs)}
    for top, stored in sorted(_named(case, "top").items(), key=lambda item: last.get(item[0], -1)):
        result.blobs.append(compare(top, values[last[top]] if top in last else None, stored, tolerance))
    for (layer, i), stored in _stored_params(case, "param_after_forward").items():
        result.blobs.append(compare(f"param_after_forward/{layer}/{i}", _blob(net, layer, i), stored, tolerance))
    for attribute in _attribute_names(case):
        if attribute.startswith("file:"):
            result.blobs.append(_compare_text(attribute, net, _text(_attribute(case, attribute))))
    if gradients:
        _compare_gradients(case, net, values, bottoms, last, result, tolerance)
    elif _children(case, "top_diff"):
        result.skipped.append("gradients were not asked for")


def _recorded_dialect(case: h5py.Group) -> str:
    """The fork that the case was recorded with; ``"auto"`` if it does not say."""
    recorded = _text(_attribute(case, "dialect", "auto"))
    # A file of cases is data: it may name a dialect that ships, not a file to read.
    if recorded != "auto" and not set(split_dialect(recorded)) <= set(dialect_names()):
        raise UsageError(f"the case's attribute dialect names {recorded!r}, which is none that ships; pass --dialect")
    return recorded


def _compare_gradients(
    case: h5py.Group,
    net: CaffeNet,
    values: Sequence[Tensor | None],
    bottoms: Mapping[str, Tensor],
    last: Mapping[str, int],
    result: CaseResult,
    tolerance: Tolerance,
) -> None:
    stored_bottoms, stored_params = _named(case, "bottom_diff"), _stored_params(case, "param_diff")
    if not stored_bottoms and not stored_params:
        return
    tops, diffs = [], []
    for name, diff in _named(case, "top_diff").items():
        top = values[last[name]] if name in last else None
        if top is None or diff.shape != top.shape:
            ours = "the network has no such blob" if top is None else f"the blob has {list(top.shape)}"
            raise UsageError(f"the case has top_diff/{name} of shape {list(diff.shape)}; {ours}")
        # Without force_backward Caffe runs no layer backward that no loss depends on.
        counts = net.message.force_backward or last[name] in net.loss_weights
        if top.requires_grad and counts:
            tops.append(top)
            diffs.append(torch.from_numpy(diff.copy()).to(top.device))
    unknown = stored_bottoms.keys() - bottoms.keys()
    if unknown:
        raise UsageError(f"the case has bottom_diff/{min(unknown)}, but no bottom/{min(unknown)}")
    wanted = {f"bottom_diff/{name}": bottoms[name] for name in stored_bottoms}
    wanted |= {f"param_diff/{layer}/{i}": _blob(net, layer, i) for layer, i in stored_params}
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


def _compare_text(attribute: str, net: CaffeNet, expected: str) -> BlobResult:
    written = {Path(path).name: text for path, text in net.files.written.items()}
    text = written.get(attribute.removeprefix("file:"))
    problem = "" if text == expected else ("not written" if text is None else "another text")
    return BlobResult(attribute, len(text or ""), (), 0.0, 0.0, not problem, problem)


def _fill_from_case(net: CaffeNet, case: h5py.Group) -> None:
    for (layer, i), stored in _stored_params(case, "param").items():
        node = next((n for n in net.nodes_with_blobs() if n.name == layer), None)
        blobs = list(net.blobs_of(node.module_name)) if node else []
        if node is None or i >= len(blobs):
            raise UsageError(f"the case has weights param/{layer}/{i}, which the network does not")
        net.assign_blob(node.module_name, blobs[i], torch.from_numpy(stored.astype(np.float32)))


def _blob(net: CaffeNet, layer: str, i: int) -> Tensor:
    node = next((n for n in net.nodes_with_blobs() if n.name == layer), None)
    if node is None or i >= len(net.blobs_of(node.module_name)):
        raise UsageError(f"the reference has blob {i} of layer {layer!r}, which the network does not")
    return list(net.blobs_of(node.module_name).values())[i]


# References of whole models

_SPLIT = re.compile(r"_split_\d+$")


def verify_net(
    net: CaffeNet,
    reference: h5py.Group,
    inputs: Mapping[str, np.ndarray] | None = None,
    tolerance: Tolerance = NET_TOLERANCE,
) -> list[CaseResult]:
    """Run ``net`` on the inputs of ``reference`` and compare every blob that both have.

    A reference is a group with ``blob/<name>`` (arrays or fingerprints), or one such group ``batch_<k>`` per batch;
    batches run one after the other with recurrent state carried. Inputs are looked for in ``bottom/``, beside ``blob/``
    and in it.

    Args:
        inputs: by name, for references that do not hold them whole; they serve every batch.

    Raises:
        UsageError: no blobs, or an input that is nowhere to be found.
    """
    batches = [
        (int(key[6:]), key, entry)
        for key, entry in _own(reference).items()
        if re.fullmatch(r"batch_[0-9]{1,9}", key) and isinstance(entry, h5py.Group)
    ]
    whole = (_name_of(reference, str(reference.name).strip("/") or "reference"), reference)
    groups = [(key, entry) for _, key, entry in sorted(batches, key=lambda batch: batch[0])] or [whole]
    was_training = net.training
    results = []
    net.reset_state()
    with ieee_float32():
        for name, group in groups:
            result = CaseResult(name)
            results.append(result)
            given = {
                i: _input(net, i, group, inputs or {})
                for i in net.input_names
                if _is_needed(net, i, group, inputs or {})
            }
            values = net.run(given, blobs="all" if len(given) == len(net.input_names) else _computed(net, given))
            stored = {**_children(group, "blob"), **_children(group, "top")}
            if not stored:
                stored = {k: v for k, v in _children(group, "").items() if k not in ("bottom", "param")}
            _compare_blobs(net, values, stored, result, tolerance)
            for layer, i, array in _params_anywhere(group):
                result.blobs.insert(
                    0, _compare_any(f"param/{layer}/{i}", _blob(net, layer, i), array, Tolerance(0.0, 1e-6))
                )
    net.reset_state()
    net.train(was_training)
    return results


def _compare_blobs(
    net: CaffeNet, values: Mapping[str, Tensor], stored: Mapping[str, Any], result: CaseResult, tolerance: Tolerance
) -> None:
    for name, ours in values.items():
        if name in stored:
            result.blobs.append(_compare_any(name, ours, stored[name], tolerance))
        elif name not in net.input_names:
            result.skipped.append(f"{name}: not in the reference")
    for name in stored:
        if name not in values:
            if _SPLIT.search(name):
                continue  # copies that Caffe makes of a blob with several readers
            result.blobs.append(BlobResult(name, 0, (), float("inf"), float("inf"), False, "we have no such blob"))


def _compare_any(name: str, ours: Tensor, stored: Any, tolerance: Tolerance) -> BlobResult:
    if isinstance(stored, h5py.Group):
        return compare_fingerprint(name, ours, stored, tolerance)
    return compare(name, ours, _array(stored), tolerance)


def _is_needed(net: CaffeNet, name: str, group: h5py.Group, inputs: Mapping[str, np.ndarray]) -> bool:
    return net._is_read(name) or _find_input(net, name, group, inputs) is not None


def _computed(net: CaffeNet, given: Mapping[str, Any]) -> list[str]:
    left_out = set(net.input_names) - set(given)
    return [name for name in dict.fromkeys(net.graph.blobs) if name not in left_out]


def _input(net: CaffeNet, name: str, group: h5py.Group, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    found = _find_input(net, name, group, inputs)
    if found is None:
        raise UsageError(
            f"the reference does not hold input {name!r} whole"
            + (f" (it says: {_text(hint)})" if (hint := _attribute(group, "input")) is not None else "")
            + f"; pass it with --input {name}=FILE.npy"
        )
    shape = net.input_shapes[name]
    per_item = int(np.prod(shape[1:]))
    # Axes of length 1 are often dropped when arrays are recorded.
    fits = found.ndim != len(shape) and shape and per_item and found.size % per_item == 0
    return found.reshape(-1, *shape[1:]) if fits else found


def _find_input(net: CaffeNet, name: str, group: h5py.Group, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if name in inputs:
        return np.asarray(inputs[name], np.float32)
    blobs = _children(group, "blob")
    beside = _own(group)
    candidates = [_children(group, "bottom").get(name), beside.get(name), blobs.get(name)]
    if len(net.input_names) == 1:
        candidates.append(beside.get("input"))
    for entry in candidates:
        if isinstance(entry, h5py.Dataset):
            return _array(entry)
        if isinstance(entry, h5py.Group) and "data" in _own(entry) and "shape" in _attribute_names(entry):
            return _shaped(entry["data"], _stored_shape(entry))
    return None


# HDF5


def pick_group(file: h5py.File, name: str = "") -> h5py.Group:
    """The reference called ``name`` in ``file``; without a name, the only one there is.

    Raises:
        FileError: no such group. UsageError: there are several.
    """
    groups = {key: entry for key, entry in _own(file).items() if isinstance(entry, h5py.Group)}
    if name:
        found: Any = file
        for part in name.strip("/").split("/"):
            found = _own(found).get(part) if isinstance(found, h5py.Group) else None
        if not isinstance(found, h5py.Group):
            raise FileError(
                f"has no group {name!r}; it has {', '.join(list(groups)[:10]) or 'none'}", path=file.filename
            )
        return found
    if "blob" in groups or any(key.startswith("batch_") for key in groups):
        return file
    if len(groups) != 1:
        listed = ", ".join(list(groups)[:10]) or "(none)"
        raise UsageError(f"{file.filename} has {len(groups)} groups: pass {file.filename}:GROUP with one of {listed}")
    return next(iter(groups.values()))


@contextlib.contextmanager
def open_reference(path: str | Path) -> Iterator[h5py.File]:
    """Open a file of recorded outputs for reading. Raises FileError."""
    open_file(path).close()  # says clearly what is wrong with a path
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise FileError(f"is no HDF5 file ({str(error).splitlines()[0]})", path=str(path)) from error
    with file:
        yield file


@contextlib.contextmanager
def _reading(entry: Any) -> Iterator[None]:
    """What h5py raises on a damaged file depends on the byte that is wrong; here it is a FileError."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        name, path = _place(entry)
        raise FileError(f"{name} cannot be read: {reason}", path=path) from error


def _place(entry: Any) -> tuple[str, str | None]:
    """The name of ``entry`` and the path of its file, as far as a damaged file tells."""
    try:
        return str(entry.name), str(entry.file.filename)
    except Exception:  # as above
        return "an entry", None


def _own(group: h5py.Group) -> dict[str, Any]:
    """What lies in ``group`` itself, not behind a soft link or in another file."""
    with _reading(group):
        return {n: group[n] for n in group if isinstance(group.get(n, getlink=True), h5py.HardLink)}


def _attribute(entry: Any, name: str, default: Any = None) -> Any:
    with _reading(entry):
        return entry.attrs.get(name, default)


def _attribute_names(entry: Any) -> list[str]:
    with _reading(entry):
        return list(entry.attrs)


def _array(dataset: h5py.Dataset) -> np.ndarray:
    with _reading(dataset):
        plain = isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "fiu" and dataset.dtype.itemsize <= 8
        plain = plain and not dataset.is_virtual and not dataset.external and dataset.shape is not None
        size = dataset.size if plain else 0
        held = dataset.id.get_storage_size() if plain else 0
    if not plain:
        raise UsageError(f"{dataset.name} is no plain array of numbers")
    if size > MAX_VALUES or (size > 4096 and held * 1000 < dataset.nbytes):
        raise UsageError(f"{dataset.name} declares {size} values that the file does not hold")
    with _reading(dataset):
        return np.asarray(dataset[()])


def _stored_shape(group: h5py.Group) -> tuple[int, ...]:
    with _reading(group):
        return tuple(int(n) for n in np.atleast_1d(_attribute(group, "shape")))


def _shaped(dataset: h5py.Dataset, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(dataset)
    with _reading(dataset):
        return array.reshape(shape)


def _children(group: h5py.Group, key: str) -> dict[str, Any]:
    """Arrays and fingerprints below ``key`` by blob name; blob names with a slash are nested groups."""
    found: dict[str, Any] = {}

    def visit(parent: h5py.Group, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UsageError(f"{parent.name}: groups are nested deeper than {MAX_DEPTH}, or in a circle")
        for name, child in _own(parent).items():
            if isinstance(child, h5py.Dataset) or "shape" in _attribute_names(child):
                found[_name_of(child, prefix + name)] = child
            elif isinstance(child, h5py.Group):
                visit(child, f"{prefix}{name}/", depth + 1)

    start = _own(group).get(key) if key else group
    if isinstance(start, h5py.Group):
        visit(start, "", 0)
    return found


def _name_of(entry: Any, default: str) -> str:
    name = _attribute(entry, "name")
    return default if name is None else _text(name)


def _named(case: h5py.Group, key: str) -> dict[str, np.ndarray]:
    return {name: _array(entry) for name, entry in _children(case, key).items()}


def _stored_params(case: h5py.Group, key: str) -> dict[tuple[str, int], np.ndarray]:
    return {_layer_and_index(name): _array(entry) for name, entry in _children(case, key).items()}


def _params_anywhere(group: h5py.Group) -> Iterator[tuple[str, int, Any]]:
    for name, entry in _children(group, "param").items():
        yield (*_layer_and_index(name), entry)


def _layer_and_index(name: str) -> tuple[str, int]:
    layer, _, index = name.rpartition("/")
    if not re.fullmatch("[0-9]{1,6}", index):
        raise UsageError(f"{name!r}: <layer>/<blob number> was expected")
    return layer, int(index)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _main(arguments: Sequence[str]) -> int:
    """Cases of a file as a short table: ``python -m caffe_compat.verify.parity cases.h5 [Type ...]``."""
    failed = 0
    total = 0
    for result in run_cases(arguments[0], arguments[1:]):
        total += 1
        worst = result.worst
        state = "ok  " if result.passed else "FAIL"
        failed += not result.passed
        print(
            f"{state} {result.name:36} {f'worst {worst.name} {worst.max_rel:.1e}' if worst else ''} "
            f"{result.unsupported}"
        )
        for blob in result.blobs:
            if not blob.passed:
                print(f"       {blob.name}: max abs {blob.max_abs:.3g} max rel {blob.max_rel:.3g} {blob.problem}")
    print(f"{total - failed} of {total} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    import sys

    raise SystemExit(_main(sys.argv[1:]))
