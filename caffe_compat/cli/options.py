"""Options, and lines of output, that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..display import shown, shown_lines
from ..errors import UsageError, first_line
from ..network.plugins import load_plugins

if TYPE_CHECKING:
    from ..network.registry import Shape

__all__ = [
    "check_output",
    "dialect_option",
    "guess_option",
    "load_plugins",
    "note",
    "parse_pairs",
    "parse_shapes",
    "plugin_option",
    "say",
    "say_lines",
    "shape_option",
    "state_options",
    "warn",
]

F = TypeVar("F", bound=Callable[..., Any])


def state_options(command: F) -> F:
    """--phase, --level and --stage: which layers of the definition to build."""
    for option in (
        click.option("--stage", "stages", multiple=True, metavar="S", help="A stage the net is in; may be repeated."),
        click.option(
            "--level", type=int, default=0, show_default=True, help="Level that include and exclude rules see."
        ),
        click.option("--phase", type=click.Choice(["test", "train"]), default="test", show_default=True),
    ):
        command = option(command)
    return command


dialect_option = click.option(
    "--dialect",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Fork of Caffe, or the path of its caffe.proto.",
)
shape_option = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="BLOB=N,C,H,W",
    help="Shape of an input, where the file does not tell it or another one is wanted; may be repeated.",
)
guess_option = click.option(
    "--guess-shapes",
    is_flag=True,
    help="Guess the shapes of inputs that neither the file nor --input-shape tells, and say what was guessed.",
)
plugin_option = click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(), help="Python file that registers layers; it is run."
)
root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False),
    help="Folder below which layers may read the files that they name.",
)
python_option = click.option(
    "--allow-python-layers", is_flag=True, help="Let Python layers import and run the code that the network names."
)
python_config_option = click.option(
    "--python-config",
    type=click.Path(),
    metavar="FILE",
    help="YAML with what Python layers that are built in have instead of their project's defaults.",
)
ignore_option = click.option(
    "--ignore-field",
    "ignore_fields",
    multiple=True,
    metavar="NAME",
    help="A field that the definition may have although nothing here reads it; may be repeated.",
)
fill_option = click.option(
    "--fill-missing",
    is_flag=True,
    help="Let layers that the weights have nothing for keep their initial values, as Caffe does.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...; auto is a GPU where there is one."
)


def check_output(output: str, read: Iterable[str]) -> None:
    """Raise UsageError if writing ``output`` would replace one of the files that are read."""
    for source in read:
        if os.path.exists(output) and os.path.exists(source) and Path(output).samefile(source):
            raise UsageError(f"-o {output} would overwrite {source}, which is read")


def parse_pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """``["data=x.npy"]`` -> ``{"data": "x.npy"}``. Raises UsageError for another form, or a name that comes twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} {text!r}: NAME=VALUE was expected")
        if name in pairs:
            raise UsageError(f"{option} {name} is given twice: {pairs[name]} and {value}")
        pairs[name] = value
    return pairs


def parse_shapes(texts: Iterable[str]) -> dict[str, Shape]:
    """``["data=1,3,224,224"]`` -> ``{"data": (1, 3, 224, 224)}``."""
    shapes: dict[str, Shape] = {}
    for name, value in parse_pairs(texts, "--input-shape").items():
        parts = value.replace("x", ",").split(",")
        if not all(re.fullmatch(r"[0-9]{1,18}", part.strip()) for part in parts):
            raise UsageError(f"--input-shape {name}={value}: whole numbers with commas between were expected")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def parse_device(text: str) -> Any:
    """A torch device that is there; ``auto`` is CUDA's where there is one, which is said, else the processor.

    Raises:
        UsageError: no such device.
    """
    import torch

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
        if text == "cuda":
            note("device: cuda; --device cpu computes on the processor")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {text}: {first_line(error)}") from error
    return device


# What commands print goes through the following, and nowhere else: a name out of a file stays on its line.


def say(text: str = "") -> None:
    """A line on stdout."""
    click.echo(shown(text))


def say_lines(text: str) -> None:
    """A text of several lines, which ends with a line break, on stdout."""
    click.echo(shown_lines(text), nl=False)


def note(text: str) -> None:
    """Something worth knowing, a line on stderr."""
    click.echo(shown(text), err=True)


def warn(texts: Iterable[str]) -> None:
    """Warnings, one line each, on stderr."""
    for text in texts:
        note(f"warning: {text}")
