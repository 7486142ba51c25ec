"""``caffe-compat run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import numpy as np
import torch

from ..errors import UsageError, located
from ..formats.arrays import write_npz
from ..formats.files import atomic_write
from ..formats.sniff import is_checkpoint, is_text
from ..inference.preprocess import Preprocess, load_input
from ..network.checkpoint import read_checkpoint
from ..network.loading import load
from ..network.net import CaffeNet
from .groups import network_options
from .options import check_output, device_option, parse_device, parse_pairs, say, warn
from .tables import print_table


@click.command()
@click.argument("model", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option("--input", "inputs", multiple=True, required=True, metavar="BLOB=FILE", help="An .npy array or an image.")
@click.option(
    "--preprocess", help="How pixels become input, e.g. order=bgr,mean=104:117:123,scale=1,resize=256x256,crop=224."
)
@click.option("-o", "--output", type=click.Path(), help="Write the blobs here, an .npz.")
@click.option("--blobs", default="", metavar="all|A,B", help="Which blobs; the outputs if not given.")
@click.option(
    "--top", type=click.IntRange(min=0), default=0, metavar="N", help="Show the N largest values of each output."
)
@network_options
@device_option
def run(
    model: str,
    weights: str | None,
    inputs: tuple[str, ...],
    preprocess: str | None,
    output: str | None,
    blobs: str,
    top: int,
    network: dict[str, Any],
    device: str,
) -> None:
    """Run MODEL (a .pt, or a prototxt and its WEIGHTS) once.

    A .pt may know its own preprocessing; --preprocess overrides it.
    """
    pairs = parse_pairs(inputs, "--input")
    if output is not None:
        check_output(output, [model, *([weights] if weights else []), *pairs.values()])
    net = load(model, weights, **network, seed=0).to(parse_device(device))
    how = Preprocess.from_text(preprocess) if preprocess else _stored_preprocess(model)
    given = _load_inputs(net, pairs, how)
    if weights is None and is_text(model) and net.nodes_with_blobs():
        warn([f"{model} came without weights: its layers have the values that their fillers draw"])
    wanted = blobs if blobs == "all" else [name for name in blobs.split(",") if name] or None
    values = {name: value.float().cpu() for name, value in net.run(given, blobs=wanted).items()}
    if output is not None:
        with located(path=output), atomic_write(output) as file:
            write_npz(file, {name: value.numpy() for name, value in values.items()})
    _print_values(values, top)


def _stored_preprocess(model: str) -> Preprocess | None:
    record = read_checkpoint(model).preprocess if is_checkpoint(model) else None
    with located(path=model):
        return Preprocess.from_record(record) if record else None


def _load_inputs(net: CaffeNet, paths: Mapping[str, str], how: Preprocess | None) -> dict[str, np.ndarray]:
    for name in paths:
        if name not in net.input_names:
            raise UsageError(f"--input {name}: the net's inputs are {', '.join(net.input_names)}")
    return {name: load_input(path, net.input_shapes[name], how) for name, path in paths.items()}


def _print_values(values: Mapping[str, torch.Tensor], top: int) -> None:
    rows = []
    for name, value in values.items():
        shape = "x".join(map(str, value.shape)) or "scalar"
        numbers = (
            [f"{float(x):.6g}" for x in (value.min(), value.max(), value.mean())] if value.numel() else ["", "", ""]
        )
        rows.append((name, shape, *numbers))
    print_table(("blob", "shape", "least", "greatest", "mean"), rows, right=("least", "greatest", "mean"))
    for name, value in values.items() if top > 0 else ():
        flat = value.flatten(1) if value.dim() > 1 else value.reshape(1, -1)
        for i, row in enumerate(flat):
            best, where = row.topk(min(top, row.numel()))
            listed = ", ".join(f"{int(k)}: {float(v):.6g}" for v, k in zip(best, where, strict=True))
            say(f"{name}[{i}]: {listed}")
