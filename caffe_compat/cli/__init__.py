"""The command ``caffe-compat``: thin commands over public functions.

Exit status: 0 done, 1 numbers differ from the reference, 2 a user's error (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click

from ..errors import CaffeCompatError

__all__ = ["LazyGroup", "caffe", "main", "run_group"]

# Command -> the module that has it; nothing is imported before it is asked for.
_COMMANDS = {
    "capture-script": "tools",
    "convert": "convert",
    "device_query": "caffe_commands",
    "dialects": "tools",
    "inspect": "inspect",
    "layers": "tools",
    "plot-log": "training_tools",
    "run": "run",
    "shim": "training_tools",
    "survey": "tools",
    "test": "caffe_commands",
    "time": "caffe_commands",
    "train": "caffe_commands",
    "upgrade": "tools",
    "verify": "verify",
}


# torch has no exception of its own for this on the CPU.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for.

    Args:
        package: where the modules lie. modules: command -> the module that has it, under the command's name.
    """

    def __init__(self, *arguments: Any, package: str, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._package, self._modules = package, modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"{self._package}.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.command(cls=LazyGroup, package=__name__, modules=_COMMANDS, context_settings=_SETTINGS)
@click.version_option(package_name="caffe-compat", prog_name="caffe-compat")
def _group() -> None:
    """Bring Caffe models to PyTorch, and prove that the numbers are the same."""


def _complain(message: str, program: str = "caffe-compat") -> None:
    """One line, whatever a file put into a name: control characters would break it or reach the terminal."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    click.echo(f"{program}: error: {line}", err=True)


def caffe(arguments: Sequence[str]) -> None:
    """Run the command as Caffe's own program is called, ``caffe train -solver=...``, and exit."""
    from .caffe_commands import reordered

    try:
        words = reordered(arguments)
    except CaffeCompatError as error:
        _complain(str(error))
        sys.exit(2)
    main(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    run_group(_group, "caffe-compat", arguments)


def run_group(group: click.Command, program: str, arguments: Sequence[str] | None) -> NoReturn:
    """Run ``group`` as ``program`` and exit, with one line for each of a user's errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack the letters of a layer's name
    try:
        status = group.main(arguments, prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
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
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nothing is left to say
        status = 0
    parallel = sys.modules.get("caffe_compat.parallel")  # not there, torch neither, for commands that do without
    leave: Callable[[int], NoReturn] = sys.exit if parallel is None else parallel.finish
    leave(status if isinstance(status, int) else 0)
