"""The configuration that the Python layers of a project share, where a user gives another one than the defaults.

It becomes a part of the definition: of each layer's ``param_str``, under ``cfg``. So a ``.pt``, a pickle and a
converted network have it without more ado.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import FileError, LayerError, UsageError
from ..formats.files import read_file
from ..formats.limits import PROTOTXT
from ..formats.settings import named_settings, read_settings
from ..schema.messages import LayerParameter, NetParameter
from .python_registry import CONFIG, Project, PythonSettings, config_problem, flat_config, project_of

__all__ = ["PythonConfig", "configured", "read_config"]

# A file, or what one says.
PythonConfig: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]


def configured(message: NetParameter, config: PythonConfig | None) -> NetParameter:
    """``message``, or a copy in which the layers that are built in have ``config``.

    What a layer's own ``param_str`` says under ``cfg`` stays.

    Args:
        config: keys and values as the project's program reads them, nested or with dots, or a YAML file of these.

    Raises:
        FileError: the file cannot be read. UsageError: no layer reads a configuration, or a key or a value is none of
            its project's.
    """
    if config is None:
        return message
    path = None if isinstance(config, Mapping) else str(config)
    flat = flat_config(config if isinstance(config, Mapping) else read_config(config))
    out = type(message)()
    out.CopyFrom(message)
    projects = {}
    for layer in out.layer:
        project = project_of(layer)
        if project is not None:
            projects[project.name] = project
            _configure(layer, {key: value for key, value in flat.items() if key in project.defaults})
    if not projects:
        raise UsageError("a configuration is for Python layers that are built in, and the network has none", path=path)
    for key, value in flat.items():
        _check(key, value, list(projects.values()), path)
    return out


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        FileError: it cannot be read, or is none.
    """
    try:
        text = read_file(path, PROTOTXT).decode()
    except UnicodeDecodeError:
        raise FileError("is no text", path=str(path)) from None
    try:
        found = json.loads(text, strict=False)  # a text may go on on the next line
    except (ValueError, RecursionError):
        found = named_settings(read_settings(text, str(Path(path))))
    found = found if isinstance(found, dict) else None
    if found is None:
        raise FileError("is no configuration: a mapping was expected, as TRAIN: {HAS_RPN: True}", path=str(path))
    return found


def _configure(layer: LayerParameter, config: Mapping[str, object]) -> None:
    try:
        told = PythonSettings(layer.python_param.param_str, layer=layer.name).mapping
    except LayerError as error:
        raise UsageError(f"cannot be configured: {error.detail}", layer=layer.name, type=layer.type) from error
    if config:
        own = flat_config(told.get(CONFIG) or {})
        layer.python_param.param_str = json.dumps({**told, CONFIG: {**config, **own}}, ensure_ascii=False)


def _check(key: str, value: object, projects: list[Project], path: str | None) -> None:
    known = {name: project for project in projects for name in project.defaults}
    if key in known:
        problem = config_problem(known[key].plain(key, value), known[key].defaults[key])
        if problem:
            raise UsageError(f"the configuration has {value!r} for {key}; {problem} was expected", path=path)
    elif not any(key in project.elsewhere for project in projects):
        names = " and ".join(project.name for project in projects)
        raise UsageError(f"the configuration has {key}, which is no key of {names}", path=path)
