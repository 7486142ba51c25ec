"""The command ``caffe-compat``: thin commands over public functions.

Exit status: 0 done, 1 numbers differ from the reference, 2 a user's error (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

import click

from ..errors import CaffeCompatError

__all__ = ["caffe", "main"]

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


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="caffe-compat", prog_name="caffe-compat")
def _group() -> None:
    """Bring Caffe models to PyTorch, and prove that the numbers are the same."""


def _complain(message: str) -> None:
    """One line, whatever a file put into a name: control characters would break it or reach the terminal."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    click.echo(f"caffe-compat: error: {line}", err=True)


def caffe(arguments: Sequence[str]) -> None:
    """Run the command as Caffe's own program is called, ``caffe train -solver=...``, and exit."""
    from .caffe_commands import reordered

    try:
        words = reordered(arguments)
    except CaffeCompatError as error:
        _complain(str(error))
        sys.exit(2)
    sys.argv[1:] = words  # for processes that are started with the same arguments
    main(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack the letters of a layer's name
    try:
        status = _group.main(arguments, prog_name="caffe-compat", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = 2
    except click.exceptions.Abort:
        status = 130
    except KeyboardInterrupt:
        status = 130
    except CaffeCompatError as error:
        _complain(str(error))
        status = 2
    except MemoryError:
        _complain("not enough memory")
        status = 2
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        _complain("not enough memory")
        status = 2
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nothing is left to say
        status = 0
    sys.exit(status if isinstance(status, int) else 0)
