"""``hpm prepare``: data sets as people have them, as lists, bounds and square pictures."""

from __future__ import annotations

from typing import Any

import click

from caffe_compat.cli.groups import gathered
from caffe_compat.cli.options import note, say
from caffe_compat.errors import UsageError

from ..datasets.prepare import Prepared
from ..datasets.synthetic import SyntheticOptions
from ..drivers import prepare as datasets
from ..skeleton import SKELETONS
from .options import Bars, protocol_option

__all__ = ["prepare"]

out_option = click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder to write to.")


def _margin(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 <= value <= 10:
        raise UsageError(f"--margin {value:g}; a number from 0 to 10 was expected")
    return value


def _crop(image_size: int, margin: float) -> dict[str, Any]:
    return {"image_size": image_size, "margin": margin}


# How pictures are cut, as every data set of pictures takes it.
crop_options = gathered(
    "crop",
    _crop,
    click.option(
        "--image-size", default=368, show_default=True, type=click.IntRange(1), help="Side of the pictures, pixels."
    ),
    click.option(
        "--margin",
        default=0.125,
        show_default=True,
        callback=_margin,
        help="Room about the joints, as a part of the crop's box.",
    ),
)


@click.group()
def prepare() -> None:
    """Make lists, bounds and square pictures out of a data set."""


@prepare.command()
@click.argument("source", type=click.Path())
@click.option(
    "--format",
    "format_",
    type=click.Choice(datasets.FORMATS),
    default="auto",
    show_default=True,
    help="VideoPose3D's npz, the official CDF files, h36m-fetch, or 3d-pose-baseline.",
)
@click.option(
    "--pose2d",
    type=click.Path(),
    help="A detector's 2D poses, for hpm refine --pose2d hourglass: VideoPose3D's data_2d_h36m_*.npz, or a folder with "
    "S1/StackedHourglass/*.h5. Labels keep the 2D poses of SOURCE, or projected ones.",
)
@click.option(
    "--pose2d-order", type=click.Choice(list(SKELETONS)), help="Joint order of an npz whose metadata do not tell."
)
@click.option("--videos", type=click.Path(file_okay=False), help="Folder with S1/Videos/*.mp4, to cut pictures from.")
@out_option
@protocol_option
@click.option("--every", default=5, show_default=True, type=click.IntRange(1), help="Keep one frame in so many.")
@crop_options
@click.option("--bounds", metavar="CSV|published", help="Max-min CSV of another preparation, such as the weights' own.")
@click.option(
    "--limbs", type=click.Path(), help="Bone lengths of another preparation: its 16point_mean_limb_lengths.csv."
)
@click.option("--unscaled-test", is_flag=True, help="Leave the limbs of the test labels as they are.")
@click.option(
    "--leave-out",
    multiple=True,
    metavar="VIEW",
    help="A view such as S11_Directions_54138969, a performance such as S11_Directions_1, or a subject.",
)
def h36m(
    source: str,
    format_: Any,
    pose2d: str | None,
    pose2d_order: str | None,
    videos: str | None,
    out: str,
    protocol: str,
    every: int,
    crop: dict[str, Any],
    bounds: str | None,
    limbs: str | None,
    unscaled_test: bool,
    leave_out: tuple[str, ...],
) -> None:
    """Human3.6M from SOURCE: an npz file, or the folder of the subjects.

    Crops of views that are done are kept when the command runs again.
    """
    with Bars() as bars:
        prepared = datasets.human36m(
            source,
            out,
            format=format_,
            protocol=int(protocol),
            pose2d=pose2d,
            pose2d_order=pose2d_order,
            videos=videos,
            every=every,
            bounds=bounds,
            limbs=limbs,
            scale_test=not unscaled_test,
            leave_out=leave_out,
            progress=bars.show,
            **crop,
        )
    _tell(prepared, every)


def _tell(prepared: datasets.Human36MPrepared, every: int) -> None:
    done = prepared.done
    frames = f"{done.train} training frames, {done.test} test frames"
    say(f"read as {prepared.format}: {frames}, {done.pictures} pictures")
    if done.kept:
        say(f"{done.kept} pictures were kept from an earlier run")
    say(_about_bones(done))
    for line in _remarks(done, every):
        note(line)
    if prepared.unused:
        note(f"nothing was called {', '.join(prepared.unused)}, to be left out")


def _about_bones(done: Prepared) -> str:
    """How much bone lengths vary, in one line: what was read, and what was written."""
    read = [
        f"{bones.variation:.1%} in {which}"
        for which, bones in (("training", done.train_bones), ("test", done.test_bones))
        if bones.frames
    ]
    labels = f"test labels vary by {done.label_bones.variation:.1%}" if done.label_bones.frames else "no test labels"
    return f"bone lengths vary by up to {' and '.join(read)} poses; labels scaled to {done.scaled_to}, {labels}"


def _remarks(done: Prepared, every: int) -> list[str]:
    """What a user should know of what was prepared."""
    found = []
    if not done.pictures:
        found.append("no pictures were written: the lists name pictures that are not there (see --videos)")
    elif done.pictures < done.train + done.test:
        found.append(f"{done.train + done.test - done.pictures} frames of the lists have no pictures")
    if done.absent:
        found.append(f"not in the source: {', '.join(done.absent)}")
    if done.missing:
        found.append(f"no test frames of {', '.join(done.missing)}")
    if done.sampled:
        found.append(f"{done.sampled} views hold a choice of frames already, not one in {every}; all of it was kept")
    if done.stale:
        found.append(f"left from an earlier run, not written by this one: {', '.join(map(str, done.stale))}")
    if done.outside > 1e-6:
        found.append(f"labels reach beyond the bounds by up to {done.outside:.4g} of their range")
    return found


@prepare.command()
@click.argument("annotation", type=click.Path())
@click.option("--images", required=True, type=click.Path(file_okay=False), help="Folder of the pictures.")
@out_option
@crop_options
def mpii(annotation: str, images: str, out: str, crop: dict[str, Any]) -> None:
    """MPII Human Pose from ANNOTATION: mpii_human_pose_v1_u12_1.mat, or json."""
    with Bars() as bars:
        done = datasets.mpii(annotation, images, out, progress=bars.of("persons"), **crop)
    say(f"wrote {done.folder.mpii_list}: {done.persons} persons with all joints; {done.incomplete} lack some")
    if done.missing:
        note(f"{len(done.missing)} pictures are not there, the first is {done.missing[0]}")


@prepare.command()
@click.argument("folder", type=click.Path(file_okay=False))
@out_option
@crop_options
@click.option("--bounds", metavar="CSV|published", help="Max-min CSV of the weights.  [default: published]")
@click.option("--limbs", type=click.Path(), help="Bone lengths of the weights' labels. [default: Human3.6M's means]")
@click.option("--keep-proportions", is_flag=True, help="Bring positions to mm by one factor, not bone by bone.")
def kth(
    folder: str, out: str, crop: dict[str, Any], bounds: str | None, limbs: str | None, keep_proportions: bool
) -> None:
    """KTH Multiview Football II from FOLDER: positions2d.txt, positions3d.txt, cameras.txt, and pictures."""
    with Bars() as bars:
        done = datasets.kth(
            folder,
            out,
            bounds=bounds,
            limbs=limbs,
            keep_proportions=keep_proportions,
            progress=bars.of("pictures"),
            **crop,
        )
    for path in done.lists:
        say(f"wrote {path}: {done.frames} frames")
    say(f"{done.pictures} pictures; bone lengths vary by up to {done.variation:.1%}")
    if not done.pictures:
        note(f"no pictures were written: there is no {folder}/Camera 1/00001.png; the lists name pictures not there")


def _made_up(name: str) -> dict[str, Any]:
    """The library's default as the option's."""
    return {"default": getattr(SyntheticOptions, name), "show_default": True}


@prepare.command()
@out_option
@click.option("--image-size", type=click.IntRange(16), help="Side of the pictures.", **_made_up("image_size"))
@click.option("--takes", type=click.IntRange(1), help="Of each action by each subject.", **_made_up("takes"))
@click.option("--frames", type=click.IntRange(1), help="Of each take and camera.", **_made_up("frames"))
@click.option("--test-frames", type=click.IntRange(1), help="Of the held-out subject's.", **_made_up("test_frames"))
@click.option("--singles", type=click.IntRange(1), help="Pictures in place of MPII's.", **_made_up("singles"))
@click.option("--run", type=click.IntRange(1), help="Frames of a shuffled run.", **_made_up("run"))
@click.option("--actions", default="", metavar="A,B", help="Kinds of motion; all if not given.")
@click.option("--seed", type=int, **_made_up("seed"))
def synthetic(
    out: str,
    image_size: int,
    takes: int,
    frames: int,
    test_frames: int,
    singles: int,
    run: int,
    actions: str,
    seed: int,
) -> None:
    """A made-up data set: articulated bodies that move, seen by four cameras."""
    options = SyntheticOptions(
        image_size=image_size,
        takes=takes,
        frames=frames,
        test_frames=test_frames,
        singles=singles,
        run=run,
        seed=seed,
        actions=tuple(name for name in actions.split(",") if name) or SyntheticOptions.actions,
    )
    with Bars() as bars:
        folder = datasets.synthetic(out, options, progress=bars.of("pictures"))
    say(f"wrote {folder.root}")
