"""``hpm verify``."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_compat.cli.options import device_option, note, parse_device, parse_pairs
from caffe_compat.cli.verify import load_inputs, print_results, split_reference
from caffe_compat.errors import UsageError
from caffe_compat.formats.sniff import is_checkpoint

from ..drivers.released import verify_released
from ..files.checkpoint_extras import check_agreement
from ..model import PoseMachine
from .options import (
    Bars,
    actions_option,
    bounds_option,
    choose_bounds,
    data_folder,
    given_bounds,
    model_arguments,
    open_machine,
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
    if (reference is None) == (released_coarse is None):
        raise UsageError("pass either --reference FILE[:GROUP] or --released-coarse DIR")
    if released_coarse is not None and data_dir is None:
        raise UsageError("--released-coarse needs the lists of the frames it was made of: pass --data-dir")
    if reference is not None and (data_dir is not None or images is not None):
        raise UsageError("--data-dir and --images are for --released-coarse; --reference holds its own frames")
    if released_coarse is not None and inputs:
        raise UsageError(f"--input {inputs[0]} is for --reference")
    target = output or (model if is_checkpoint(model) else None)
    if target is None:
        raise UsageError("where to? Pass -o MODEL.pt for the model with its record")
    data = None if data_dir is None else data_folder(data_dir, protocol)
    machine = open_machine(model, weights, pose_blob).to(parse_device(device))
    own = machine.known_bounds
    if data is not None:
        machine.bounds, _ = choose_bounds(bounds, data, model, own)
    elif (chosen := given_bounds(bounds)) is not None:
        check_agreement(model, own, chosen)
        machine.bounds = chosen
    if reference is not None:
        path, group = split_reference(reference)
        results = machine.verify(path, group, load_inputs(parse_pairs(inputs, "--input")))
    else:
        assert data is not None
        assert released_coarse is not None
        with Bars() as bars:
            results = verify_released(
                machine,
                data.ground_truth,
                images or data.root / "h36m",
                released_coarse,
                actions=parse_actions(actions),
                frames=frames,
                window=window,
                progress=bars.actions(data),
            )
    print_results(results, only_failures=False, every_blob=False)
    if not all(result.passed for result in results):
        _withdraw(machine, model, target)
        return 1
    if bounds is None and not machine.has_correction:
        machine.bounds = own  # those of the data folder were needed for nothing that was compared
    machine.save(target)
    click.echo(f"wrote {target} with its parity record")
    return 0


def _withdraw(machine: PoseMachine, model: str, target: str) -> None:
    """Take the record out of ``target`` if it holds these weights, which have just been shown to depart."""
    for path in dict.fromkeys((target, model)):
        if not Path(path).exists() or not is_checkpoint(path):
            continue
        claims = PoseMachine.from_pretrained(path)
        if claims.parity is None or claims.fingerprint() != machine.fingerprint():
            continue
        if path == target:
            before, claims.parity = claims.parity.reference, None
            claims.save(path)
            note(f"{path} no longer holds its parity record (of {before}): the model departs from this reference")
        else:
            note(f"{path} still holds its parity record (of {claims.parity.reference}); verify without -o withdraws it")
