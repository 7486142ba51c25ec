"""``hpm verify``."""

from __future__ import annotations

import click

from caffe_compat.cli.options import device_option, note, parse_device, parse_pairs, say
from caffe_compat.cli.verify import load_inputs, print_report
from caffe_compat.errors import UsageError
from caffe_compat.parity.reference_files import split_reference
from caffe_compat.parity.report import Report

from ..drivers.verify import verify as verify_model
from .options import (
    Bars,
    actions_option,
    bounds_option,
    data_folder,
    model_arguments,
    parse_actions,
    protocol_option,
)

__all__ = ["verify"]


@click.command()
@model_arguments
@click.option("--reference", metavar="FILE[:GROUP]", help="Recorded outputs of MODEL in real Caffe.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=FILE.npy", help="An input that the reference lacks.")
@click.option("--released-coarse", type=click.Path(file_okay=False), help="Folder of the authors' result<k>_norm.csv.")
@click.option("--data-dir", type=click.Path(file_okay=False), help="For --released-coarse: folder with gt/test.")
@click.option("--images", type=click.Path(file_okay=False), help="Folder of the pictures. [default: DATA/h36m]")
@click.option("--frames", default=200, show_default=True, type=click.IntRange(1), help="Of each action, at most.")
@click.option("--window", default=5, show_default=True, type=click.IntRange(1), help="Batch of the predictions.")
@protocol_option
@actions_option
@bounds_option
@click.option(
    "-o", "--output", type=click.Path(), help="Where to write the .pt with its record. [default: MODEL, if a .pt]"
)
@device_option
def verify(
    model: str,
    weights: str | None,
    pose_blob: str | None,
    reference: str | None,
    inputs: tuple[str, ...],
    released_coarse: str | None,
    data_dir: str | None,
    images: str | None,
    frames: int,
    window: int,
    protocol: str,
    actions: str,
    bounds: str | None,
    output: str | None,
    device: str,
) -> int:
    """Show that MODEL gives the original's numbers, and record it in the .pt, as refinement asks for.

    Against --reference, outputs recorded in real Caffe, or --released-coarse, the predictions that the authors publish.
    Exit status 1 if anything departs; then nothing is written, but a record that the .pt holds from an earlier check is
    withdrawn.
    """
    if inputs and released_coarse is not None:
        raise UsageError(f"--input {inputs[0]} is for --reference")
    data = None if data_dir is None else data_folder(data_dir, protocol)
    path, group = (None, "") if reference is None else split_reference(reference)
    with Bars() as bars:
        done = verify_model(
            model,
            weights,
            reference=path,
            group=group,
            inputs=None if path is None else load_inputs(parse_pairs(inputs, "--input")),
            released_coarse=released_coarse,
            data=data,
            images=images,
            actions=parse_actions(actions),
            frames=frames,
            window=window,
            bounds=bounds,
            output=output,
            pose_blob=pose_blob,
            device=parse_device(device),
            progress=None if data is None else bars.actions(data),
            tell=note,
        )
    print_report(Report(tuple(done.results)), only_failures=False, every_blob=False)
    for one in done.withdrawals:
        of = f"of {one.reference}"
        if one.withdrawn:
            note(f"{one.path} no longer holds its parity record ({of}): the model departs from this reference")
        else:
            note(f"{one.path} still holds its parity record ({of}); verify without -o withdraws it")
    if done.ok:
        say(f"wrote {done.output} with its parity record")
    return 0 if done.ok else 1
