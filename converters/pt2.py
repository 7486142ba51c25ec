"""``torch.export`` programs (``.pt2``): they run with torch alone, without this library."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from caffe_compat.errors import NetworkError, first_line
from caffe_compat.formats.files import atomic_write
from caffe_compat.network.checkpoint import DTYPES, check_dtype
from caffe_compat.network.net import CaffeNet

from .registry import target

__all__ = ["program_of", "write"]


def program_of(net: CaffeNet) -> torch.export.ExportedProgram:
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
        raise NetworkError(f"torch.export cannot follow the net: {first_line(error)}") from error


@target(
    "pt2",
    suffix=".pt2",
    title="a torch.export program",
    cannot=(
        "inputs of other shapes than the net was built for",
        "layers that run Python code, touch files, or decide shapes by values",
        "preprocessing, sources and parity record",
    ),
)
def write(net: CaffeNet, path: str | Path, *, dtype: str = "float32") -> None:
    """Export ``net`` and write it to ``path``, whole or not at all; its weights are stored as ``dtype``.

    Raises:
        UsageError: not a dtype, or weights that it cannot hold. NetworkError: see :func:`program_of`. FileError:
            ``path`` cannot be written.
    """
    check_dtype(net, dtype)
    as_asked = net if net.device_and_dtype()[1] == DTYPES[dtype] else copy.deepcopy(net).to(DTYPES[dtype])
    program = program_of(as_asked)
    with atomic_write(path) as file:
        torch.export.save(program, file)
