"""``hpm convert``."""

from __future__ import annotations

import click

from caffe_compat.cli.options import note, parse_pairs, say
from caffe_compat.cli.verify import load_inputs, print_report
from caffe_compat.errors import UsageError
from caffe_compat.parity.reference_files import split_reference
from caffe_compat.parity.report import Report

from ..drivers.conversion import Converted
from ..drivers.conversion import convert as convert_model
from .options import model_arguments

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
    if inputs and reference is None:
        raise UsageError(f"--input {inputs[0]} is for --reference")
    path, group = (None, "") if reference is None else split_reference(reference)
    done = convert_model(
        model,
        weights,
        output=output,
        reference=path,
        group=group,
        inputs=load_inputs(parse_pairs(inputs, "--input")),
        verified_by=verified_by,
        bounds=bounds,
        pose_blob=pose_blob,
    )
    if done.results:
        print_report(Report(tuple(done.results)), only_failures=True)
    if not done.written:
        note(f"hpm: error: {output} was not written: the net does not reproduce {reference}")
        return 1
    say(f"wrote {output}{_about(done)}")
    return 0


def _about(done: Converted) -> str:
    """What was written, in words."""
    bounds = "bounds unknown: see --bounds" if done.bounds is None else f"bounds: {done.bounds.source}"
    if done.kind == "pickle":
        return ""
    if done.kind == "projector":
        return f": correction module and projector, {'verified' if done.parity else 'unverified'}, {bounds}"
    record = done.parity
    shown = f"equal to {record.reference} in {record.blobs} blobs" if record else "unverified: see hpm verify"
    told = f", {bounds}" if done.dimensions == 3 else ""
    return f": {done.dimensions}D poses from blob {done.pose_blob}, {shown}{told}"
