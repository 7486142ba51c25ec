"""The ``.pt`` that ``caffe-compat convert`` writes: plain tensors, numbers and strings, nothing that could run.

format        "caffe-compat"
version       1
network       prototxt text of the whole definition, current generation
dialect       name of the schema the text is bound to
dialect_text  text of that schema if it is a user's own .proto file, else None
state         {"phase", "level", "stages"}
outputs       names of the blobs that the net gives, where these are not those that no layer reads; may be missing
input_shapes  {blob: [dims]}
dtype         "float32", "float16" or "bfloat16": precision of the floating-point weights (running statistics, which
              half precision cannot hold, stay float32)
optimized     whether loading should give the inference form (see CaffeNet.optimize)
state_dict    {"conv1.weight": tensor, ...} under the layers' own names
sources       [{"name", "sha256"}] of the files it was made from
preprocess    how pixels become input, or None (see caffe_compat.inference.preprocess)
parity        what was verified, or None (see caffe_compat.parity.record)
extra         {name: tensor or string} of the program that wrote it, such as units of the outputs; may be missing
written_by    versions of this library and of torch
ignored       [{"layer", "type", "field", "reason", "accepted"}]: fields without effect; may be missing
unfilled      names of layers that the weights file had nothing for; may be missing
guessed       [{"blob", "shape", "why"}]: inputs whose shape no file told; may be missing
engine        what runs the inference form (see CaffeNet.optimize), "auto" included; "torch" where it is missing
choice        what was measured for "auto", and where (see caffe_compat.inference.choice), or None; may be missing
reduced       {"dtype", "off"}: what the inference form computes in where that is not float32, and how far each output
              is off (see caffe_compat.inference.reduced), or None; may be missing
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import torch

from ..access import FileAccess
from ..errors import CaffeCompatError, FileError, UsageError, first_line, located
from ..formats.files import Checksum, atomic_write, open_file
from ..formats.sink import Sink
from ..inference.engines import TORCH
from ..inference.reduced import FLOAT32
from ..parity.record import ParityRecord, versions
from ..schema import portable_dialect
from ..schema.printing import format_message
from ..schema.prototxt import parse_message
from .checkpoint_entries import DTYPES, Checkpoint, checked
from .names import under_names
from .net import CaffeNet

__all__ = [
    "DTYPES",
    "Checkpoint",
    "check_dtype",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]

FORMAT = "caffe-compat"
VERSION = 1


def save_checkpoint(
    net: CaffeNet,
    path: str | Path,
    *,
    sources: Sequence[str | Path | Checksum | Mapping[str, str]] = (),
    preprocess: Mapping[str, Any] | None = None,
    parity: ParityRecord | None = None,
    extra: Mapping[str, torch.Tensor | str] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    optimized: bool | str = False,
    computed: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Write ``net`` to ``path``, whole or not at all.

    Args:
        sources: the files it was made from; their checksums, which may be under way already, are recorded. An entry of
            :attr:`Checkpoint.sources` is recorded as it is.
        extra: what else to keep with the model; it comes back as :attr:`Checkpoint.extra` and means nothing here.
        dtype: precision that floating-point weights are stored in (but see ``Layer.single_precision``).
        optimized: whether loading gives the inference form, or the engine that it gives it in; with ``"auto"`` the
            engines are measured now, and loading takes the fastest without measuring again where the processor and the
            runtimes are the same. What is stored is ``net`` itself all the same.
        computed: what the inference form computes in; how far that is off is measured now.

    Raises:
        FileError: a source cannot be read, or ``path`` cannot be written. UsageError: ``net`` is an inference form
            itself, or shall become one and is of phase TRAIN; or it has no weights yet, or some that ``dtype`` cannot
            hold; or the engine is none. MissingExtraError, NetworkError: the engine is not installed, or cannot run
            ``net``.
    """
    if optimized and net.graph.state.phase != "TEST":
        raise UsageError("only a net of phase TEST has an inference form; convert it with phase test")
    wide = check_dtype(net, dtype)
    engine = optimized if isinstance(optimized, str) else TORCH
    if computed != FLOAT32 and not optimized:
        raise UsageError(f"{computed} is what an inference form computes in; ask for one (optimized)")
    form = net.optimize(engine=engine, dtype=computed) if (engine, computed) != (TORCH, FLOAT32) else None
    choice, reduced = (None, None) if form is None else (form.choice, form.reduced)
    checksums = [source if isinstance(source, Checksum | Mapping) else Checksum(source) for source in sources]
    dialect, dialect_text = portable_dialect(net.dialect)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "network": format_message(net.message),
        "dialect": dialect,
        "dialect_text": dialect_text,
        "state": {**asdict(net.graph.state), "stages": list(net.graph.state.stages)},
        "input_shapes": {name: list(shape) for name, shape in net.input_shapes.items()},
        "outputs": None if net.program.outputs == net.graph.outputs else list(net.output_names),
        "dtype": dtype,
        "optimized": bool(optimized),
        "state_dict": _as_stored(net, DTYPES[dtype], wide),
        "sources": [
            dict(sum_) if isinstance(sum_, Mapping) else {"name": Path(sum_.path).name, "sha256": sum_.hexdigest()}
            for sum_ in checksums
        ],
        "preprocess": dict(preprocess) if preprocess else None,
        "parity": asdict(parity) if parity else None,
        "extra": {
            name: value if isinstance(value, str) else _cast(value, value.dtype)
            for name, value in (extra or {}).items()
        },
        "written_by": versions(),
        "ignored": [asdict(ignored) for ignored in net.ignored],
        "unfilled": list(net.unfilled),
        "guessed": [{**asdict(guess), "shape": list(guess.shape)} for guess in net.guessed],
        "engine": engine,
        "choice": choice.to_record() if choice is not None else None,
        "reduced": reduced.to_record() if reduced is not None else None,
    }
    with atomic_write(path) as file:
        sink = Sink(file)
        torch.save(content, sink)  # type: ignore[arg-type]  # which asks for no more than Sink has
        sink.check()


def check_dtype(net: CaffeNet, dtype: str) -> frozenset[str]:
    """The entries of the state dict that ``net`` keeps in float32 whatever its precision.

    Raises:
        UsageError: not a dtype, or one in which a weight would become infinite; or a blob has no values yet.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: one of {', '.join(DTYPES)} was expected")
    wide = frozenset(
        f"{path}.{name}" for path, module in net.named_modules() for name in getattr(module, "single_precision", ())
    )
    largest = torch.finfo(DTYPES[dtype]).max
    for name, tensor in net.state_dict().items():
        if tensor.is_meta:
            raise UsageError(f"the net has no values for {name} yet; load weights, or call net.materialize() first")
        if dtype == "float32" or name in wide or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        peak = tensor.abs().nan_to_num(0.0, 0.0, 0.0).amax()
        if peak > largest:
            hint = "; use bfloat16" if dtype == "float16" else ""
            raise UsageError(f"{name} holds {float(peak):g}, and {dtype} ends at {largest:g}{hint}")
    return wide


def _as_stored(net: CaffeNet, dtype: torch.dtype, wide: frozenset[str]) -> dict[str, torch.Tensor]:
    """The tensors of ``net`` as its file holds them; one that several layers share is written once."""
    made: dict[tuple[Any, ...], torch.Tensor] = {}
    stored = {}
    for name, tensor in net.state_dict().items():
        kind = torch.float32 if name in wide else dtype
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, kind)
        if not tensor.numel() or place not in made:
            made[place] = _cast(tensor, kind)
        stored[name] = made[place]
    return stored


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A plain tensor on the CPU; ``dtype`` is for those that hold fractions."""
    tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
    # torch writes whole storages: a slice must not drag along what it was cut from.
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The contents of a ``.pt``, checked for form; no code in it can run.

    Raises:
        FileError: not a file of ours, of a later version, damaged, or with something in it that is not plain data.
    """
    name = str(path)
    try:
        with open_file(path) as file:
            _check_archive(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CaffeCompatError:
        raise
    except Exception as error:  # damage makes torch raise nearly anything
        raise FileError(f"cannot be read as a .pt of plain tensors: {first_line(error)}", path=name) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError("was not written by caffe-compat convert", path=name)
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise FileError(f"has format version {version}; this release reads version {VERSION}", path=name)
    return checked(content, name)


def _check_archive(file: BinaryIO) -> None:
    """Refuse archives that unpack to more than they hold, or whose checksums (torch looks at none) are wrong."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(e.filename.endswith("/archive_format") or e.filename == "archive_format" for e in entries):
            raise FileError("is a torch.export program (.pt2): torch.export.load runs it", path=file.name)
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
            raise ValueError("its entries are compressed or overlap, which torch never writes")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")


def load_checkpoint(
    path: str | Path,
    *,
    root: str | Path | None = None,
    gradients: Literal["caffe", "true"] = "caffe",
    allow_python: bool = False,
) -> CaffeNet:
    """The net in a ``.pt``, as it was converted: same phase, precision and, if that was asked for, inference form.

    That form is an :class:`caffe_compat.inference.optimization.InferenceNet`, which runs like a :class:`CaffeNet` and
    refuses what it cannot do.

    Raises:
        FileError: see :func:`read_checkpoint`; or tensors that do not fit the network stored beside them.
    """
    content = read_checkpoint(path)
    parsed = parse_message(content.network, dialect=content.dialect, path=str(path))
    net = CaffeNet(
        parsed.message,
        content.state,
        dialect=parsed.schema.name,
        input_shapes=content.input_shapes,
        ignore_fields=content.accepted_fields,
        files=FileAccess(root),
        gradients=gradients,
        allow_python=allow_python,
        path=str(path),
    )
    if content.outputs is not None:
        with located(path=str(path)):
            net.program = net.program.returning(content.outputs)
    net.unfilled, net.guessed = content.unfilled, content.guessed
    expected = net.state_dict()
    stored = under_names(content.state_dict, expected)
    missing, extra = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    if missing or extra:
        found = [f"lacks {n}" for n in sorted(missing)] + [f"has {n} too many" for n in sorted(extra)]
        raise FileError(f"its tensors do not fit its network: {', '.join(found[:5])}", path=str(path))
    for name, tensor in stored.items():
        if expected[name].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, its network needs {list(expected[name].shape)}"
            raise FileError(f"tensor {name} has shape {shapes}", path=str(path))
        if not tensor.is_floating_point() and tensor.dtype != expected[name].dtype:
            kinds = f"{tensor.dtype}, its network needs {expected[name].dtype}"
            raise FileError(f"tensor {name} holds {kinds}", path=str(path))
    for name, tensor in stored.items():
        module, _, blob = name.rpartition(".")
        net.assign_blob(module, blob, tensor)
    net.materialize()
    if content.dtype != "float32":
        net.to(DTYPES[content.dtype])
    if not content.optimized:
        return net
    from ..inference.choosing import as_chosen  # not for a net that is not optimised: see CaffeNet.optimize

    computed = FLOAT32 if content.reduced is None else content.reduced.dtype
    return cast(CaffeNet, as_chosen(net, content.engine, content.choice, computed))
