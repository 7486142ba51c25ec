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

# Command -> the module that has it; nothing is imported before it is asked for.
_COMMANDS = {
    "coarse": "coarse",
    "convert": "convert",
    "evaluate": "evaluate",
    "predict": "predict",
    "prepare": "prepare",
    "refine": "refine",
    "train": "train",
    "verify": "verify",
    "visualize": "visualize",
}

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.command(cls=LazyGroup, package=__name__, modules=_COMMANDS, context_settings=_SETTINGS)
@click.version_option(package_name="caffe-compat", prog_name="hpm")
def _group() -> None:
    """The 3D Human Pose Machine: coarse 3D poses from images, refined by 2D poses."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    run_group(_group, "hpm", arguments)
