"""``torch.export`` programs (``.pt2``): they run with torch alone, without this library."""

from __future__ import annotations

from pathlib import Path

import torch

from caffe_compat.errors import NetworkError
from caffe_compat.formats.files import atomic_write
from caffe_compat.network.checkpoint import DTYPES, check_dtype
from caffe_compat.network.net import CaffeNet

__all__ = ["export", "write"]


def export(net: CaffeNet) -> torch.export.ExportedProgram:
    """``net`` as a program for the shapes it was built for.

    The program takes the inputs by blob name and returns the outputs by blob name, like the net. Recurrent state is
    part of the program and carries from call to call.

    Raises:
        NetworkError: a layer does something that torch.export cannot follow (a Python layer, files, values that decide
            shapes).
    """
    device, dtype = net.device_and_dtype()
    inputs = {name: torch.zeros(shape, device=device, dtype=dtype) for name, shape in net.input_shapes.items()}
    net.reset_state()
    try:
        with torch.no_grad():
            return torch.export.export(net, args=(), kwargs=inputs, strict=False)
    except Exception as error:  # torch.export raises whatever the tracing raised
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise NetworkError(f"torch.export cannot follow the net: {reason}") from error


def write(net: CaffeNet, path: str | Path, *, dtype: str = "float32") -> None:
    """Export ``net`` and write it to ``path``, whole or not at all; its weights are stored as ``dtype``.

    Raises:
        UsageError: not a dtype, or weights that it cannot hold. NetworkError: see :func:`export`. FileError: ``path``
            cannot be written.
    """
    check_dtype(net, dtype)
    program = export(net.to(DTYPES[dtype]))
    with atomic_write(path) as file:
        torch.export.save(program, file)
