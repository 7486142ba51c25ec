"""Options that belong together: a command gets what they say as one argument.

@click.command()
@click.argument("model")
@network_options
def run(model: str, network: dict[str, Any]) -> None:
    net = load(model, **network)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ..network.plugins import load_plugins
from .options import (
    dialect_option,
    fill_option,
    guess_option,
    ignore_option,
    parse_shapes,
    plugin_option,
    python_config_option,
    python_option,
    root_option,
    shape_option,
    state_options,
)

__all__ = ["definition_options", "gathered", "network_options"]

F = TypeVar("F", bound=Callable[..., Any])


def gathered(name: str, made: Callable[..., object], *options: Callable[[F], F]) -> Callable[[F], F]:
    """Adds ``options`` to a command, which gets argument ``name``: what ``made`` makes of them.

    >>> point = gathered("point", complex, click.option("--real", type=int), click.option("--imag", type=int))
    >>> @click.command()
    ... @point
    ... def show(point):
    ...     print(point)
    >>> show(["--imag", "2", "--real", "1"], standalone_mode=False)
    (1+2j)

    Args:
        made: its parameters are called as those of the options; further ones keep their defaults.
    """
    taken = tuple(inspect.signature(made).parameters)

    def add(command: F) -> F:
        """Adds the options to a command."""

        @functools.wraps(command)
        def with_group(*args: object, **given: object) -> object:
            group = made(**{key: given.pop(key) for key in taken if key in given})
            return command(*args, **{name: group}, **given)

        # Click keeps the options of a function in an attribute of it, which wraps() has taken over.
        decorated: Any = with_group
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return add


def _definition(
    phase: str,
    level: int,
    stages: tuple[str, ...],
    dialect: str,
    input_shapes: tuple[str, ...],
    guess_shapes: bool,
    ignore_fields: tuple[str, ...],
    python_config: str | None,
    plugins: tuple[str, ...],
) -> dict[str, Any]:
    load_plugins(plugins)
    return {
        "phase": phase,
        "level": level,
        "stages": stages,
        "dialect": None if dialect == "auto" else dialect,
        "input_shapes": parse_shapes(input_shapes),
        "guess_shapes": guess_shapes,
        "ignore_fields": ignore_fields,
        "python_config": python_config,
    }


def _network(
    fill_missing: bool, root: str | None, allow_python_layers: bool, definition: dict[str, Any]
) -> dict[str, Any]:
    return {**definition, "fill_missing": fill_missing, "root": root, "allow_python": allow_python_layers}


# How a definition is read: what inspect_file() and load() take by these names. Plugins are loaded with it.
definition_options = gathered(
    "definition",
    _definition,
    state_options,
    dialect_option,
    shape_option,
    guess_option,
    ignore_option,
    python_config_option,
    plugin_option,
)
# And how a net is made of it: what load() and convert() take.
network_options = gathered("network", _network, definition_options, fill_option, root_option, python_option)
