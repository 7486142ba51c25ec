"""The command ``caffe-compat``: thin commands over public functions.

Exit status: 0 done, 1 numbers differ from the reference, 2 a user's error (one line on stderr), 130 interrupted, 141
whoever read our output has gone.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from ..display import shown
from ..errors import CaffeCompatError, CaffeCompatWarning

__all__ = ["LazyGroup", "caffe", "main", "program", "run_group"]

# Command -> the module that has it, and what the list of commands says of it. Nothing is imported before it is asked
# for; a test compares the words with the command's own.
_COMMANDS = {
    "capture-script": (
        "capture",
        "Print a script that records outputs where real Caffe still lives (Python 2.7 to 3, any fork's pycaffe).",
    ),
    "convert": (
        "convert",
        "Convert MODEL (a prototxt, or a caffemodel with its own network) and WEIGHTS to a verified .pt, or to others.",
    ),
    "device_query": ("caffe_commands", "Show what the GPUs can do."),
    "dialects": ("dialects", "List the known forks of Caffe; with NAME, the layer types that one adds."),
    "extract": (
        "extract",
        "Write blobs of MODEL (a .pt, or a prototxt and its WEIGHTS) for any number of images, resumably.",
    ),
    "images-to-db": (
        "databases",
        "Put the images of LIST, lines of a file name and a label, into a new database DB, as convert_imageset does.",
    ),
    "inspect": (
        "inspect",
        "Show what is in prototxt, caffemodel, .caffemodel.h5, .pt, solverstate and binaryproto files.",
    ),
    "layers": ("coverage", "List the layer types that can be built."),
    "log": (
        "training_tools",
        "Write the tables of LOG, of iterations and of tests, into FOLDER as CSV, as Caffe's parse_log.py does.",
    ),
    "mean": (
        "databases",
        "Compute the mean image of DB, and write it to OUTPUT, a .binaryproto, as compute_image_mean does.",
    ),
    "plot-log": (
        "training_tools",
        "Draw the losses and outputs in LOG, the log of a training with Caffe or with this.",
    ),
    "reference": (
        "reference",
        "Describe FILE of recorded outputs: its networks and cases, and what they were recorded with.",
    ),
    "run": ("run", "Run MODEL (a .pt, or a prototxt and its WEIGHTS) once."),
    "shim": (
        "shim",
        "Put Caffe's programs into FOLDER, run by this installation, for scripts that call Caffe's own.",
    ),
    "survey": ("coverage", "How many of the prototxt files below FOLDER can be read and built, and why not."),
    "test": ("caffe_commands", "Score a model on its own test data."),
    "time": ("caffe_commands", "Measure how long every layer takes."),
    "train": ("caffe_commands", "Train a network, or go on from a snapshot."),
    "upgrade": (
        "upgrade",
        "Bring OLD (prototxt, solver or caffemodel of any age) to the current generation and write it to NEW.",
    ),
    "verify": ("verify", "Compare with recorded outputs of real Caffe, blob by blob."),
}

# What a shell reports of a program that SIGPIPE ended.
_READER_GONE = 141

# torch has no exception of its own for this on the CPU.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for.

    Args:
        package: where the modules lie.
        commands: command -> the module that has it, under the command's name, and the command's short help, so that the
            list of commands can be shown without importing any.
    """

    def __init__(self, *arguments: Any, package: str, commands: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._package, self._lazy = package, commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module = importlib.import_module(f"{self._package}.{self._lazy[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = {name: click.Command(name, help=text) for name, (_, text) in self._lazy.items()}
        click.Group(commands=names).format_commands(ctx, formatter)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.command(cls=LazyGroup, package=__name__, commands=_COMMANDS, context_settings=_SETTINGS)
@click.version_option(package_name="caffe-compat", prog_name="caffe-compat")
def _group() -> None:
    """Bring Caffe models to PyTorch, and prove that the numbers are the same."""


def _complain(message: str, program: str = "caffe-compat") -> None:
    """One line, whatever a file put into a name."""
    click.echo(shown(f"{program}: error: {message}"), err=True)


def caffe(arguments: Sequence[str]) -> NoReturn:
    """Run the command as Caffe's own program is called, ``caffe train -solver=...``, and exit."""
    from .caffe_commands import reordered

    try:
        words = reordered(arguments)
    except CaffeCompatError as error:
        _complain(str(error))
        sys.exit(2)
    main(words)


def program(name: str, arguments: Sequence[str]) -> NoReturn:
    """Run one of Caffe's programs, ``convert_imageset -gray root/ list.txt db``, and exit. ``caffe`` is one of them."""
    from . import programs

    if name == "caffe":
        caffe(arguments)
    _finish(name, lambda: programs.run(name, arguments))


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Show the library's warnings as the command shows its own, every one of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CaffeCompatWarning)
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, CaffeCompatWarning):
                click.echo(shown(f"warning: {message}"), err=True)
            else:
                before(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _drop_output() -> None:
    """Let what is still buffered go nowhere: Python would try, and complain, once more when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    run_group(_group, "caffe-compat", arguments)


def run_group(group: click.Command, program: str, arguments: Sequence[str] | None) -> NoReturn:
    """Run ``group`` as ``program`` and exit, with one line for each of a user's errors."""
    _finish(program, lambda: group.main(arguments, prog_name=program, standalone_mode=False))


def _finish(program: str, do: Callable[[], object]) -> NoReturn:
    """Exit with the status that ``do`` returns, or after one line for a user's error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack the letters of a layer's name
    try:
        with _warnings_on_one_line():
            status = do()
    except click.UsageError as error:
        if error.message.startswith("Usage:"):  # a group that was called without a command shows its help
            error.show()
        else:
            where = f" ({error.ctx.command_path} --help)" if error.ctx else ""
            _complain(f"{error.format_message().rstrip('.')}{where}", program)
        status = 2
    except click.ClickException as error:
        _complain(error.format_message(), program)
        status = 2
    except click.exceptions.Abort:
        status = 130
    except KeyboardInterrupt:
        status = 130
    except CaffeCompatError as error:
        _complain(str(error), program)
        status = 2
    except MemoryError:
        _complain("not enough memory", program)
        status = 2
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        _complain("not enough memory", program)
        status = 2
    except OSError as error:  # files have errors of their own: this is our output
        if error.errno != errno.EPIPE:
            _complain(f"the output cannot be written: {error.strerror}", program)
        status = _READER_GONE if error.errno == errno.EPIPE else 2
        _drop_output()
    except SystemExit:
        if not type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            raise
        status = _READER_GONE  # which click has noticed
    parallel = sys.modules.get(
        "caffe_compat.training.parallel"
    )  # not there, torch neither, for commands that do without
    leave: Callable[[int], NoReturn] = sys.exit if parallel is None else parallel.finish
    leave(status if isinstance(status, int) else 0)
