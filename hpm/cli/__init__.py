"""The command ``hpm``: thin commands over the library.

Exit status: 0 done, 1 something could not be done or numbers differ from the reference, 2 a user's error (one line on
stderr), 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from caffe_compat.cli import LazyGroup, run_group

__all__ = ["main"]

# Command -> the module that has it, and what the list of commands says of it. Nothing is imported before it is asked
# for; a test compares the words with the command's own.
_COMMANDS = {
    "coarse": ("coarse", "Predict the poses of the actions' lists with MODEL (a .pt, or a prototxt and its WEIGHTS)."),
    "convert": (
        "convert",
        "Convert MODEL and WEIGHTS to a .pt, or to the pickle of 12 arrays that the original refines with.",
    ),
    "evaluate": (
        "evaluate",
        "Errors per action of the coarse, corrected and refined poses: MPJPE, P-MPJPE, N-MPJPE, MPJVE, PCK, AUC.",
    ),
    "predict": (
        "predict",
        "3D poses of people in SOURCES: a video, a folder of pictures, pictures, or their paths in a .txt.",
    ),
    "prepare": ("prepare", "Make lists, bounds and square pictures out of a data set."),
    "refine": ("refine", "Refine the coarse poses of all actions by their 2D poses."),
    "train": (
        "train",
        "Train PHASE, or go on from its last snapshot in --out; all is the four phases after the 2D pre-training.",
    ),
    "verify": (
        "verify",
        "Show that MODEL gives the original's numbers, and record it in the .pt, as refinement asks for.",
    ),
    "visualize": ("visualize", "Picture with 2D skeleton, ground truth, coarse and refined 3D poses side by side."),
}

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.command(cls=LazyGroup, package=__name__, commands=_COMMANDS, context_settings=_SETTINGS)
@click.version_option(package_name="caffe-compat", prog_name="hpm")
def _group() -> None:
    """The 3D Human Pose Machine: coarse 3D poses from images, refined by 2D poses."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    run_group(_group, "hpm", arguments)
