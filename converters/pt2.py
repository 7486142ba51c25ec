"""``torch.export`` programs (``.pt2``): they run with torch alone, without this library."""

from __future__ import annotations

from pathlib import Path

import torch

from caffe_compat.checkpoint import DTYPES
from caffe_compat.errors import NetworkError, UsageError
from caffe_compat.files import atomic_write
from caffe_compat.net import CaffeNet

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
        raise NetworkError(f"torch.export cannot follow the net: {str(error).splitlines()[0]}") from error


def write(net: CaffeNet, path: str | Path, *, dtype: str = "float32") -> None:
    """Export ``net`` and write it to ``path``, whole or not at all; its weights are stored as ``dtype``.

    Raises:
        UsageError: not a dtype. NetworkError: see :func:`export`. FileError: ``path`` cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: one of {', '.join(DTYPES)} was expected")
    program = export(net.to(DTYPES[dtype]))
    with atomic_write(path) as file:
        torch.export.save(program, file)
