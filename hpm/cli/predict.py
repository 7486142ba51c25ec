"""``hpm predict``."""

from __future__ import annotations

from typing import Any

import click

from caffe_compat.cli.groups import gathered
from caffe_compat.cli.options import device_option, parse_device, say

from ..bridging import Bridging
from ..detectors import KINDS, Detector, open_detector
from ..drivers.predict import predict as predict_poses
from ..files.motions import BVH_NAMES
from ..people import People
from ..skeleton import SKELETONS
from .options import Bars, optimize_option

__all__ = ["predict"]


def _outputs(
    overlay: str | None, truth: str | None, exports: tuple[str, ...], smooth: float, fps: float | None, bvh_names: str
) -> dict[str, Any]:
    return {
        "overlay": overlay,
        "truth": truth,
        "exports": exports,
        "smooth": smooth,
        "fps": fps,
        "bvh_names": bvh_names,
    }


def _bridging(confidence: float, bridge: int) -> Bridging:
    return Bridging(confidence, bridge)


bridging_options = gathered(
    "bridging",
    _bridging,
    click.option(
        "--confidence",
        default=Bridging.threshold,
        show_default=True,
        type=click.FloatRange(0),
        help="From which a joint counts as seen.",
    ),
    click.option(
        "--bridge",
        default=Bridging.longest,
        show_default=True,
        type=click.IntRange(0),
        help="Frames over which joints that are not seen are bridged, at most.",
    ),
)


detector_options = gathered(
    "detector",
    open_detector,
    click.option(
        "--detect",
        "kind",
        type=click.Choice(KINDS),
        default="none",
        show_default=True,
        help="Find 2D poses, with networks of MediaPipe's (.tflite) or RTMDet and RTMPose (.onnx).",
    ),
    click.option("--person-model", type=click.Path(), help="File of the network that finds people."),
    click.option("--pose-model", type=click.Path(), help="File of the network that finds their joints."),
)


def _found(keypoints: str | None, joints: str | None, people: People) -> dict[str, Any]:
    return {"keypoints": keypoints, "joints": joints, "people": people}


class _PeopleType(click.ParamType):
    """``largest``, ``all`` or a number."""

    name = "largest|all|N"

    def convert(self, value: People | str, param: click.Parameter | None, ctx: click.Context | None) -> People:
        if isinstance(value, int):
            return value
        if value == "largest":
            return "largest"
        if value == "all":
            return "all"
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r}: largest, all or a number from 1 was expected", param, ctx)
        return int(value)


found_options = gathered(
    "found",
    _found,
    click.option(
        "--keypoints",
        type=click.Path(),
        help="What a 2D detector found: mmpose's, AlphaPose's, MediaPipe's or COCO's .json, OpenPose's folder, "
        "VideoPose3D's .npz, or a .npy (frames, joints, 2, or 3 with confidences), pixels.",
    ),
    click.option(
        "--joints",
        type=click.Choice(list(SKELETONS)),
        help="Their order. [default: what the file tells; H36M16 in a .npy]",
    ),
    click.option(
        "--people",
        type=_PeopleType(),
        default="largest",
        show_default=True,
        help="Whose poses: of several, each has a folder of its own below --save.",
    ),
)
output_options = gathered(
    "outputs",
    _outputs,
    click.option(
        "--overlay", type=click.Path(), help="Also draw, whole frames beside the poses: .png, .mp4, .gif or .html."
    ),
    click.option("--truth", type=click.Path(), help="Ground truth for the drawing: .npy (frames, 16, 3), mm."),
    click.option(
        "--export",
        "exports",
        multiple=True,
        type=click.Path(),
        help="Also write the refined poses, else the coarse ones, in mm: .npy, .csv, .json, "
        "VideoPose3D's .npz; .bvh and .glb for animation programs.",
    ),
    click.option(
        "--bvh-names",
        type=click.Choice(BVH_NAMES),
        default="bones",
        show_default=True,
        help="Of a .bvh's nodes: LHip_LKnee, or LeftUpLeg as animation programs call it.",
    ),
    click.option("--smooth", default=0.0, show_default=True, help="Average overlay and exports over so many frames."),
    click.option("--fps", type=float, help="Speed of overlay and exports. [default: the video's, 10 of pictures]"),
)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.option("--model", required=True, type=click.Path(), help="A .pt; refinement asks for a verified one.")
@click.option("--save", required=True, type=click.Path(file_okay=False), help="Folder for crops and poses.")
@click.option("--boxes", type=click.Path(), help="x,y,width,height a line (or .npy): one for all, or one a frame.")
@found_options
@detector_options
@bridging_options
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Keep one frame in so many.")
@click.option(
    "--window", default=5, show_default=True, type=click.IntRange(1), help="Frames that the network sees together."
)
@click.option("--mode", type=click.Choice(["faithful", "independent"]), default="faithful", show_default=True)
@click.option(
    "--allow-unverified", is_flag=True, help="Refine with a model that was not shown to give the same numbers."
)
@output_options
@click.option(
    "--bounds",
    metavar="CSV|published",
    help="Max-min CSV of the training data. [default: the model's own; those of the released model]",
)
@optimize_option
@device_option
def predict(
    sources: tuple[str, ...],
    model: str,
    save: str,
    boxes: str | None,
    found: dict[str, Any],
    detector: Detector | None,
    bridging: Bridging,
    every: int,
    window: int,
    mode: Any,
    allow_unverified: bool,
    outputs: dict[str, Any],
    bounds: str | None,
    optimize: bool,
    device: str,
) -> None:
    """3D poses of people in SOURCES: a video, a folder of pictures, pictures, or their paths in a .txt.

    Crops are squares about --boxes, else about 2D poses, else whole frames. With 2D poses, from --keypoints or found by
    --detect, poses are refined.
    Boxes and keypoints count the frames that --every keeps. A frame with too few joints gets no pose; frames.csv says
    what each pose rests on.
    """
    with Bars() as bars:
        done = predict_poses(
            sources,
            model,
            save,
            boxes=boxes,
            **found,
            detector=detector,
            bridging=bridging,
            every=every,
            window=window,
            mode=mode,
            allow_unverified=allow_unverified,
            **outputs,
            bounds=bounds,
            optimize=optimize,
            device=parse_device(device),
            progress=bars.show,
        )
    for each in (done, *done.others):
        footage = each.footage
        written = map(str, [footage.root, *each.exports, *([] if each.overlay is None else [each.overlay])])
        say(f"{footage.frames} frames, {'refined' if footage.refined else 'coarse'}; wrote {', '.join(written)}")
