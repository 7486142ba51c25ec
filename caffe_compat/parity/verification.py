"""``verify``: a whole model against what real Caffe computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UsageError
from ..formats.sniff import is_text
from ..network.loading import load
from ..network.running import ProgramNet
from .record import IEEE
from .reference import verify_net
from .reference_files import open_recorded, pick_group, split_reference
from .report import Report
from .tolerance import NET_TOLERANCE, Tolerance

__all__ = ["verify"]


def verify(
    model: ProgramNet | str | os.PathLike[str],
    reference: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Any] | None = None,
    tolerance: Tolerance | float = NET_TOLERANCE,
) -> Report:
    """Compare ``model`` with recorded outputs of real Caffe, blob by blob, in execution order, in IEEE float32.

    It runs where it is, in phase and precision as it is; its recurrent state is forgotten.

    >>> import caffe_compat
    >>> formats = "reference_outputs/formats"
    >>> net = caffe_compat.load(f"{formats}/v1net.prototxt", f"{formats}/v1net.caffemodel")
    >>> caffe_compat.verify(net, "reference_outputs/formats.h5:v1net").ok
    True
    >>> with torch.no_grad():
    ...     _ = net.up.weight.mul_(1.01)
    >>> caffe_compat.verify(net, "reference_outputs/formats.h5:v1net").first_departing.name
    'up'

    Args:
        model: a net, or the path of a ``.pt`` or of a caffemodel that carries its own network. Of an inference form
            the blobs that it still has are compared, and no weights.
        reference: the file that the capture script wrote, or ``FILE:GROUP``; of several groups one must be named.
        inputs: arrays by blob name, for references that do not hold them whole; they serve every batch.
        tolerance: an array agrees if max |ours - reference| <= absolute + relative * max |reference|. A number is the
            relative part, with a tenth of it for the absolute one.

    Raises:
        FileError: ``model`` or ``reference`` cannot be read. UsageError: several groups, or an input that is nowhere to
            be found; or ``model`` is a prototxt, which has no weights. CaffeCompatError: ``model`` cannot be loaded.
    """
    if isinstance(model, str | os.PathLike):
        if is_text(model):
            raise UsageError("a prototxt has no weights; load it with them and pass the net", path=os.fspath(model))
        net: ProgramNet = load(os.fspath(model))
    else:
        net = model
    path, group = split_reference(reference)
    with open_recorded(path) as file:
        results = verify_net(net, pick_group(file, group), inputs, Tolerance.of(tolerance))
    device, dtype = net.device_and_dtype()
    precision = IEEE if dtype == torch.float32 else str(dtype).removeprefix("torch.")
    return Report(tuple(results), path, group, str(device), precision)
