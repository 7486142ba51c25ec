"""``hpm prepare``: data sets as people have them, as lists, bounds and square pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import click

from caffe_compat.cli.options import note
from caffe_compat.errors import UsageError

from ..datasets.human36m import find_reader, read_baseline, read_cdf, read_fetch, read_videopose
from ..datasets.kth import prepare_kth
from ..datasets.mpii import prepare_mpii
from ..datasets.prepare import PrepareOptions, prepare_human36m
from ..datasets.synthetic import SyntheticOptions, write
from ..datasets.views import View
from ..scaling import REFINEMENT_BOUNDS, read_bounds
from .options import Bars, protocol_option

__all__ = ["prepare"]

out_option = click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder to write to.")
size_option = click.option(
    "--image-size", default=368, show_default=True, type=click.IntRange(1), help="Side of the pictures, pixels."
)
margin_option = click.option(
    "--margin", default=0.125, show_default=True, help="Room about the joints, as a part of the crop's box."
)


@click.group()
def prepare() -> None:
    """Make lists, bounds and square pictures out of a data set."""


@prepare.command()
@click.argument("source", type=click.Path())
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "videopose", "cdf", "fetch", "baseline"]),
    default="auto",
    show_default=True,
    help="VideoPose3D's npz, the official CDF files, h36m-fetch, or 3d-pose-baseline.",
)
@click.option("--pose2d", type=click.Path(), help="VideoPose3D's data_2d_h36m_*.npz instead of projected 2D poses.")
@click.option("--videos", type=click.Path(file_okay=False), help="Folder with S1/Videos/*.mp4, to cut pictures from.")
@out_option
@protocol_option
@click.option("--every", default=5, show_default=True, type=click.IntRange(1), help="Keep one frame in so many.")
@size_option
@margin_option
@click.option("--bounds", type=click.Path(), help="Max-min CSV of another preparation, such as the weights' own.")
@click.option("--unscaled-test", is_flag=True, help="Leave the limbs of the test labels as they are.")
@click.option("--leave-out", multiple=True, metavar="VIEW", help="A view such as S11_Directions_1_54138969.")
def h36m(
    source: str,
    format_: str,
    pose2d: str | None,
    videos: str | None,
    out: str,
    protocol: str,
    every: int,
    image_size: int,
    margin: float,
    bounds: str | None,
    unscaled_test: bool,
    leave_out: tuple[str, ...],
) -> None:
    """Human3.6M from SOURCE: an npz file, or the folder of the subjects."""
    kind = find_reader(source) if format_ == "auto" else format_
    if pose2d is not None and kind != "videopose":
        raise UsageError(f"--pose2d belongs to VideoPose3D's npz; {source} is read as {kind}")
    if videos is not None and kind == "fetch":
        raise UsageError("h36m-fetch has pictures of its own; --videos would be ignored")
    views: Callable[[], Iterable[View]] = {
        "videopose": partial(read_videopose, source, pose2d, videos=videos),
        "cdf": partial(read_cdf, source, videos=videos),
        "baseline": partial(read_baseline, source, videos=videos),
        "fetch": partial(read_fetch, source),
    }[kind]
    options = PrepareOptions(
        protocol=int(protocol),
        every=every,
        image_size=image_size,
        margin=margin,
        scale_test=not unscaled_test,
        bounds=None if bounds is None else read_bounds(bounds),
        leave_out=leave_out,
    )
    written = 0

    with Bars() as bars:

        def progress(name: str) -> None:
            nonlocal written
            written += 1
            bars.show("views", written)

        done = prepare_human36m(views, out, options, progress)
    click.echo(f"read as {kind}: {done.train} training frames, {done.test} test frames, {done.pictures} pictures")
    if not done.pictures:
        note("no pictures were written: the lists name pictures that are not there (see --videos)")
    if done.missing:
        note(f"no test frames of {', '.join(done.missing)}")
    if done.outside > 0:
        note(f"labels reach beyond the bounds by up to {done.outside:.4g}")


@prepare.command()
@click.argument("annotation", type=click.Path())
@click.option("--images", required=True, type=click.Path(file_okay=False), help="Folder of the pictures.")
@out_option
@size_option
@margin_option
def mpii(annotation: str, images: str, out: str, image_size: int, margin: float) -> None:
    """MPII Human Pose from ANNOTATION: mpii_human_pose_v1_u12_1.mat, or json."""
    with Bars() as bars:
        done = prepare_mpii(annotation, images, out, image_size, margin, bars.of("persons"))
    click.echo(f"{done.persons} persons with all joints; {done.incomplete} lack some")
    if done.unreadable:
        note(f"{len(done.unreadable)} pictures cannot be read, the first is {done.unreadable[0]}")


@prepare.command()
@click.argument("folder", type=click.Path(file_okay=False))
@out_option
@size_option
@margin_option
@click.option("--bounds", type=click.Path(), help="Max-min CSV of the weights. [default: the original's]")
def kth(folder: str, out: str, image_size: int, margin: float, bounds: str | None) -> None:
    """KTH Multiview Football II from FOLDER: positions2d.txt, positions3d.txt, cameras.txt, and pictures."""
    chosen = REFINEMENT_BOUNDS if bounds is None else read_bounds(bounds)
    for path in prepare_kth(folder, out, chosen, image_size=image_size, margin=margin):
        click.echo(f"wrote {path}")


@prepare.command()
@out_option
@click.option("--image-size", default=64, show_default=True, type=click.IntRange(16), help="Side of the pictures.")
@click.option("--takes", default=3, show_default=True, type=click.IntRange(1), help="Of each action by each subject.")
@click.option("--frames", default=50, show_default=True, type=click.IntRange(1), help="Of each take and camera.")
@click.option("--singles", default=4000, show_default=True, type=click.IntRange(1), help="Pictures in place of MPII's.")
@click.option("--run", default=10, show_default=True, type=click.IntRange(1), help="Frames of a shuffled run.")
@click.option("--actions", default="", metavar="A,B", help="Kinds of motion; all if not given.")
@click.option("--seed", default=1, show_default=True)
def synthetic(
    out: str, image_size: int, takes: int, frames: int, singles: int, run: int, actions: str, seed: int
) -> None:
    """A made-up data set: articulated bodies that move, seen by four cameras."""
    options = SyntheticOptions(
        image_size=image_size,
        takes=takes,
        frames=frames,
        singles=singles,
        run=run,
        seed=seed,
        actions=tuple(name for name in actions.split(",") if name) or SyntheticOptions.actions,
    )
    with Bars() as bars:
        folder = write(options, out, bars.of("pictures"))
    click.echo(f"wrote {folder.root}")
