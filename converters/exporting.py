"""Exporting as a call: cut, write aside, verify in the format's own runtime, record that, put into place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_compat import CaffeNet, Conversion, UsageError
from caffe_compat.formats.files import staged_files
from caffe_compat.inference.optimization import InferenceNet
from caffe_compat.network.checkpoint import check_dtype

from .dynamic import dynamic_axes
from .pixels import pixels_of
from .precision import in_precision
from .registry import find_target, target_of
from .settled import check_settled
from .verification import Verification, verified

__all__ = ["Exported", "export"]


@dataclass(frozen=True)
class Exported:
    """What :func:`export` has written.

    >>> from converters import Exported
    >>> Exported(("net.onnx", "net.onnx.data"), None).files[0]
    'net.onnx'

    Attributes:
        files: names of the files, the one that was asked for first.
        verification: the comparison in the format's own runtime; None for a format that nothing runs.
        notes: what the user should know of the file.
    """

    files: tuple[str, ...]
    verification: Verification | None
    notes: tuple[str, ...] = ()


def export(
    model: CaffeNet | Conversion,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    outputs: Sequence[str] | None = None,
    **options: Any,
) -> Exported:
    """Write ``model`` in another format than the ``.pt``, whole or not at all, and only if its own runtime agrees.

    >>> import caffe_compat, converters, tempfile, torch
    >>> net = caffe_compat.load("reference_outputs/formats/v1net.prototxt", seed=1)
    >>> x = torch.rand(net.input_shapes["data"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = converters.export(net, f"{folder}/net.pt2")
    ...     program = torch.export.load(f"{folder}/net.pt2").module()
    >>> torch.allclose(program(data=x)["prob"], net(data=x)["prob"])
    True
    >>> exported.verification.inputs, exported.verification.worst_rel < 1e-5
    ('seeded inputs', True)

    Args:
        model: a net where its weights are, which stays as it was but for its recurrent state; of a conversion, what it
            knows besides goes into the file where the format has a place for it.
        format: the name of one of :func:`targets`; None goes by the suffix of ``path``.
        outputs: blob names to stop at: the file computes these and nothing that they do not need.
        options: those of the format, see :attr:`Target.options`; ``dtype`` is the precision of the weights.

    Raises:
        UsageError: no such format or option, or the net is an inference form or has no values yet. NetworkError: the
            network has something that the format cannot express. ParityError: the file does not give what the net
            gives. MissingExtraError: a package is not installed. FileError: ``path`` cannot be written.
    """
    found = target_of(path) if format is None else find_target(format)
    found.check(options)
    net = model.net if isinstance(model, Conversion) else model
    if isinstance(net, InferenceNet):
        raise UsageError("the inference form of a net suits this library alone; export the net it was made of")
    if outputs is not None:
        net = net.part(outputs)
    check_dtype(net, "float32")
    facts = {name: getattr(model, name) for name in found.keeps} if isinstance(model, Conversion) else {}
    asked = {**facts, **options}
    settings = found.settings(asked)
    axes = dynamic_axes(
        net,
        dynamic_batch=settings.get("dynamic_batch", False),
        dynamic_size=settings.get("dynamic_size", ()),
    )
    pixels = pixels_of(net, settings.get("preprocess")) if settings.get("embed_preprocess", False) else None
    if found.run is not None:
        check_settled(net)
    with staged_files(path) as stage:
        notes = tuple(found.write(net, stage, **asked) or ())
        verification = None
        if found.run is not None:
            report = model.report if isinstance(model, Conversion) else None
            plain = in_precision(net, "float32")
            verification = verified(found, plain, stage, settings, axes=axes, pixels=pixels, report=report)
            if found.annotate is not None:
                found.annotate(stage, "verification", json.dumps(verification.to_json()))
        others = sorted(set(os.listdir(os.path.dirname(stage))) - {os.path.basename(stage)})
    target = Path(path)
    return Exported((os.fspath(path), *(os.fspath(target.with_name(name)) for name in others)), verification, notes)
