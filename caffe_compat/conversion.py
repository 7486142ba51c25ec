"""Conversion as a call: read, build, fill and compare; then write a ``.pt``."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from .access import FileAccess
from .collector import collecting_later
from .errors import UsageError
from .formats.files import Checksum
from .formats.sniff import is_text
from .inference.preprocess import Preprocess
from .network.checkpoint import save_checkpoint
from .network.definition import Definition, read_definition
from .network.filling import FillReport
from .network.graph import NetState
from .network.loading import build_net
from .network.net import CaffeNet
from .network.python_config import PythonConfig
from .network.registry import Shape
from .parity.record import ParityRecord, fingerprint
from .parity.report import Report
from .parity.verification import verify

__all__ = ["Conversion", "convert", "save"]


@dataclass(frozen=True)
class Conversion:
    """A network that was read, built and filled, and what there is to say about it.

    >>> import caffe_compat
    >>> formats = "reference_outputs/formats"
    >>> conversion = caffe_compat.convert(f"{formats}/v0net.prototxt", f"{formats}/v0net.caffemodel")
    >>> conversion.definition.schema.name, conversion.filled.filled, conversion.warnings
    ('bvlc', ['conv1', 'fc'], ())
    >>> print(conversion.notes[0])
    padding layer 'pad1' (pad 2) became the pad of 'conv1'

    Attributes:
        net: the network, where its weights are.
        definition: the network as its file defines it, with its dialect and the reason for that.
        filled: which layers got weights, which kept initial values, and which of the file's no layer wanted.
        preprocess: how pixels become input, if it was given or a data layer of the definition says it.
        report: the comparison with a reference, if there was one; everything in it is within tolerance.
        sources: the files that it was made of, with their checksums.
    """

    net: CaffeNet
    definition: Definition
    filled: FillReport
    preprocess: Preprocess | None = None
    report: Report | None = None
    sources: tuple[Checksum, ...] = ()
    _record: ParityRecord | None = None
    _verified_weights: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What Caffe lets pass and a user should see: layers without weights, unknown fields, values that are none."""
        return (*self.definition.warnings, *self.net.warnings, *self.filled.warnings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done on the way: upgrades, data layers that became inputs, layers never compared with Caffe."""
        return (*self.definition.notes, *self.net.notes)

    @property
    def parity(self) -> ParityRecord | None:
        """What the net was compared with; None if it was not, or if its weights have changed since."""
        if self._record is not None and fingerprint(self.net.state_dict()) != self._verified_weights:
            return None
        return self._record

    def checked(self, reference: str | os.PathLike[str], *, inputs: Mapping[str, Any] | None = None) -> Conversion:
        """This conversion with the :attr:`report` of a comparison. Arguments and errors as of :func:`convert`."""
        report = verify(self.net, reference, inputs=inputs)
        record = report.record()
        return replace(self, report=report, _record=record, _verified_weights=fingerprint(self.net.state_dict()))


@collecting_later
def convert(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    reference: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, Any] | None = None,
    preprocess: Preprocess | str | None = None,
    phase: str = "test",
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    guess_shapes: bool = False,
    ignore_fields: Collection[str] = (),
    fill_missing: bool = False,
    root: str | Path | None = None,
    gradients: Literal["caffe", "true"] = "caffe",
    allow_python: bool = False,
    python_config: PythonConfig | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = 0,
) -> Conversion:
    """Read a network and its weights, and compare it with what real Caffe computed; :func:`save` writes the ``.pt``.

    >>> import caffe_compat, tempfile
    >>> tiny = "reference_outputs/tiny_mask3d/tiny_mask3d"
    >>> conversion = caffe_compat.convert(
    ...     "reference_outputs/tiny_mask3d/deploy.prototxt", f"{tiny}.caffemodel", reference=f"{tiny}.h5"
    ... )
    >>> conversion.parity.blobs, conversion.parity.device, conversion.warnings
    (78, 'cpu', ())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     caffe_compat.save(conversion, f"{folder}/tiny_mask3d.pt")
    ...     net = caffe_compat.load(f"{folder}/tiny_mask3d.pt")
    >>> net.input_shapes["data"]
    (4, 3, 64, 64)

    Args:
        model: a prototxt, or a caffemodel that carries its own network.
        weights: a ``.caffemodel`` or ``.caffemodel.h5``; of a prototxt they are needed.
        reference: the file that the capture script wrote, or ``FILE:GROUP``.
        inputs: arrays by blob name, for a reference that does not hold them whole.
        preprocess: how pixels become input, or its text form (``"order=bgr,mean=104:117:123,resize=224x224"``).
        phase, level, stages, dialect, input_shapes, guess_shapes, root, gradients, allow_python, python_config, seed:
            as :func:`load` takes them.
        ignore_fields, fill_missing: likewise; the ``.pt`` says what was let pass.
        device: where the net goes, and is compared.

    Raises:
        ParityError: the net does not reproduce the reference; ``.report`` names the first blob that departs.
        UsageError: a prototxt without weights, inputs without a reference, or as :func:`verify`.
        CaffeCompatError: one of its kinds, naming the file, layer and blob at fault.
    """
    if weights is None:
        if is_text(model):
            raise UsageError(f"{os.fspath(model)} is a prototxt; pass its weights (.caffemodel or .caffemodel.h5) too")
        weights = model
    if inputs and reference is None:
        raise UsageError(f"the input {next(iter(inputs))} is for a reference, and none is given")
    sources = tuple(Checksum(path) for path in dict.fromkeys([os.fspath(model), os.fspath(weights)]))
    definition = read_definition(os.fspath(model), dialect, filled_from=weights, python_config=python_config)
    net, filled = build_net(
        definition,
        os.fspath(weights),
        state=NetState(phase.upper(), level, tuple(stages)),
        input_shapes=input_shapes,
        guess_shapes=guess_shapes,
        ignore_fields=ignore_fields,
        fill_missing=fill_missing,
        files=FileAccess(root),
        gradients=gradients,
        allow_python=allow_python,
        seed=seed,
    )
    known = Preprocess.from_text(preprocess) if isinstance(preprocess, str) else preprocess
    known = _preprocess_of(net) if known is None else known
    conversion = Conversion(net.to(device), definition, filled, known, sources=sources)
    return conversion if reference is None else conversion.checked(reference, inputs=inputs)


def save(
    model: CaffeNet | Conversion,
    path: str | os.PathLike[str],
    *,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    optimized: bool | str = False,
    computed: Literal["float32", "bfloat16"] = "float32",
    preprocess: Preprocess | None = None,
) -> None:
    """Write a ``.pt`` that :func:`load` reads, whole or not at all: plain tensors and strings, nothing that could run.

    Of a :class:`Conversion` it keeps the preprocessing, the files' checksums and the parity record, unless the weights
    have changed since. The net stays where it is.

    >>> import caffe_compat, tempfile
    >>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     caffe_compat.save(net, f"{folder}/net.pt", dtype="bfloat16")
    ...     caffe_compat.load(f"{folder}/net.pt").conv1.weight.dtype
    torch.bfloat16

    Args:
        dtype: precision that floating-point weights are stored in, and the net has when it is loaded.
        optimized: whether loading gives the inference form (``net.optimize()``), or in which engine (``"auto"``).
        computed: what that form computes in.
        preprocess: how pixels become input; of a conversion, instead of what it knows.

    Raises:
        FileError: ``path`` cannot be written, or a source cannot be read. UsageError: ``net`` is an inference form
            itself, or shall become one and is of phase TRAIN; or it has weights that ``dtype`` cannot hold.
    """
    conversion = model if isinstance(model, Conversion) else None
    known = preprocess or (conversion.preprocess if conversion is not None else None)
    save_checkpoint(
        model.net if isinstance(model, Conversion) else model,
        os.fspath(path),
        sources=() if conversion is None else conversion.sources,
        preprocess=None if known is None else known.to_record(),
        parity=None if conversion is None else conversion.parity,
        dtype=dtype,
        optimized=optimized,
        computed=computed,
    )


def _preprocess_of(net: CaffeNet) -> Preprocess | None:
    """What a data layer of the definition says; None where there is none, or none that stands alone."""
    for node in net.graph.sources:
        if node.message.HasField("transform_param"):
            return Preprocess.from_transform_param(node.message.transform_param)
    return None
