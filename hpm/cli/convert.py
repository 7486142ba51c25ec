"""``hpm convert``."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_compat.cli.options import note, parse_pairs
from caffe_compat.cli.verify import load_inputs, print_results, split_reference
from caffe_compat.errors import UsageError
from caffe_compat.formats.sniff import is_checkpoint
from caffe_compat.network.checkpoint import read_checkpoint

from ..files.checkpoint_extras import check_agreement, stored_bounds
from ..files.pickles import is_pickle, read_projector_pickle, write_projector_pickle
from ..networks.projector_network import projector_of, save_projector
from ..parity_gate import parity_of, verified_pickle
from ..projector import POSE_3D
from ..scaling import Bounds
from .options import given_bounds, model_arguments, open_machine

__all__ = ["convert"]


@click.command()
@model_arguments
@click.option("-o", "--output", required=True, type=click.Path(), help="A .pt, or a .pkl of the original's 12 arrays.")
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of real Caffe to check against.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option("--verified-by", type=click.Path(), help="Of a pickle: a verified .pt with the same arrays.")
@click.option(
    "--bounds",
    metavar="CSV|published",
    help="Max-min CSV of the training data, which the .pt then holds; published are those of the released model. "
    "[default: those that MODEL holds]",
)
def convert(
    model: str,
    weights: str | None,
    pose_blob: str | None,
    output: str,
    reference: str | None,
    inputs: tuple[str, ...],
    verified_by: str | None,
    bounds: str | None,
) -> int:
    """Convert MODEL and WEIGHTS to a .pt, or to the pickle of 12 arrays that the original refines with.

    MODEL is a prototxt with its WEIGHTS, a caffemodel that carries its own network, or a .pt; or a pickle, whose .pt
    holds the correction module and projector alone.
    """
    ending = Path(output).suffix.lower()
    if ending not in (".pt", ".pkl"):
        raise UsageError(f"-o {output}: a name that ends in .pt or .pkl was expected")
    for source in (model, weights):
        if source is not None and Path(output).exists() and Path(source).exists() and Path(output).samefile(source):
            raise UsageError(f"-o {output} would overwrite {source}, which is read")
    if inputs and reference is None:
        raise UsageError(f"--input {inputs[0]} is for --reference")
    chosen = given_bounds(bounds)
    if ending == ".pkl" and chosen is not None:
        raise UsageError(f"-o {output}: a pickle holds the 12 arrays alone, no --bounds")
    if is_pickle(model):
        if ending == ".pkl" or weights is not None or reference is not None:
            raise UsageError(f"{model} is a pickle; it becomes a .pt and takes neither WEIGHTS nor --reference")
        projector = read_projector_pickle(model) if verified_by is None else verified_pickle(model, verified_by)
        judge = None if verified_by is None else read_checkpoint(verified_by)
        parity = None if judge is None else parity_of(judge)
        if judge is not None and verified_by is not None:
            own = stored_bounds(judge, verified_by)
            check_agreement(verified_by, own, chosen)
            chosen = chosen or own
        save_projector(projector, output, sources=[model], parity=parity, bounds=chosen)
        checked = "verified" if parity else "unverified"
        click.echo(f"wrote {output}: correction module and projector, {checked}, {_told(chosen)}")
        return 0
    if verified_by is not None:
        raise UsageError("--verified-by is for pickles")
    if ending == ".pkl" and is_checkpoint(model) and reference is None:
        # A .pt of the projector alone is no pose machine.
        write_projector_pickle(output, projector_of(model))
        click.echo(f"wrote {output}")
        return 0
    machine = open_machine(model, weights, pose_blob)
    if chosen is not None:
        machine.bounds = chosen
    if reference is not None:
        path, group = split_reference(reference)
        results = machine.verify(path, group, load_inputs(parse_pairs(inputs, "--input")))
        print_results(results, only_failures=True)
        if not all(result.passed for result in results):
            note(f"hpm: error: {output} was not written: the net does not reproduce {reference}")
            return 1
    if ending == ".pkl":
        write_projector_pickle(output, machine.projector)
        click.echo(f"wrote {output}")
        return 0
    machine.save(output)
    record = machine.parity
    shown = f"equal to {record.reference} in {record.blobs} blobs" if record else "unverified: see hpm verify"
    told = f", {_told(machine.known_bounds)}" if machine.values == POSE_3D else ""
    click.echo(f"wrote {output}: {machine.values // 16}D poses from blob {machine.pose_blob}, {shown}{told}")
    return 0


def _told(bounds: Bounds | None) -> str:
    return "bounds unknown: see --bounds" if bounds is None else f"bounds: {bounds.source}"
