"""Python layers that everybody has: classes of well-known projects, by module and class, that are built in here.

    @python_layer("rpn.proposal_layer", "ProposalLayer", bottoms=3, tops=(1, 2), project=FASTER_RCNN)
    def proposal_layer(spec: LayerSpec, settings: PythonSettings) -> Layer:
        return ProposalLayer(settings.whole("feat_stride"), ...)

A network names such a class in ``python_param``, and with it a program that it came from. Its ``param_str`` are the
layer's own settings; a project's layers share a configuration, too, which the program held in a module of its own. Here
every layer takes the project's defaults, and what ``cfg`` in its ``param_str`` has instead, where
:func:`.python_config.configured` puts what a user gives. No code of the network's is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import FileError, LayerError
from ..formats.settings import named_settings, read_settings
from ..schema.messages import LayerParameter
from .registry import Count, LayerSpec, Shape, check_count
from .shipped import LAYERS, bring_all, bring_python_classes, bring_type

__all__ = [
    "Project",
    "PythonSettings",
    "PythonType",
    "brings_data",
    "configured_type",
    "find_python",
    "is_built_in",
    "project_of",
    "python_layer",
    "python_source",
    "python_types",
]

# The entry of ``param_str`` with what differs from a project's defaults.
CONFIG = "cfg"


@dataclass(frozen=True)
class Project:
    """Programs whose Python layers share a configuration.

    Attributes:
        name: the repository that the defaults are of.
        module: what their programs import the configuration as.
        defaults: the keys that layers here read, with dots for levels (``TRAIN.RPN_BATCHSIZE``), and their values.
        elsewhere: keys that the configuration has as well, for what is done outside the network.
        textual: the configuration has texts for numbers, and for lists of them with commas.
    """

    name: str
    module: str
    defaults: Mapping[str, Any]
    elsewhere: Collection[str] = ()
    textual: bool = False

    def plain(self, key: str, value: object) -> Any:
        """What the configuration's ``value`` stands for, as far as it can be read as what ``key`` has by default."""
        default = self.defaults[key]
        if not (self.textual and isinstance(value, str)):
            return value
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            return value
        if isinstance(default, tuple):
            return numbers
        if len(numbers) > 1:
            return value
        whole = int(numbers[0]) if numbers[0].is_integer() else numbers[0]
        return bool(whole) if isinstance(default, bool) and whole in (0, 1) else whole


class PythonSettings:
    """What a Python layer is told: by its ``param_str``, and by its project's configuration.

    Attributes:
        text: ``param_str`` as it stands.
    """

    def __init__(self, text: str, *, layer: str, type: str = "Python") -> None:
        self.text = text
        self._layer, self._type = layer, type
        self._read: set[str] = set()
        self._differing: dict[str, object] = {}
        self._mapping: dict[str, Any] | None = None

    @property
    def mapping(self) -> dict[str, Any]:
        """``param_str`` as a mapping; empty if it says nothing.

        Raises:
            LayerError: it is none.
        """
        if self._mapping is None:
            try:
                found = read_settings(self.text)
            except FileError as error:
                raise self._error(f"param_str: {error}") from error
            named = {} if found is None else named_settings(found)
            if named is None:
                raise self._error(f"param_str {self.text[:60]!r}: a mapping was expected, as 'feat_stride': 16")
            self._mapping = named
        return self._mapping

    def has(self, name: str) -> bool:
        """Whether ``param_str`` says anything of ``name``."""
        return name in self.mapping

    def get(self, name: str, default: object = ...) -> Any:
        """What ``param_str`` says of ``name``.

        Raises:
            LayerError: nothing, and there is no default.
        """
        self._read.add(name)
        if name not in self.mapping and default is ...:
            there = ", ".join(self.mapping) or "nothing"
            raise self._error(f"param_str has no {name!r}, which this layer needs (it has {there})")
        return self.mapping.get(name, default)

    def whole(self, name: str, default: object = ..., least: int = 1) -> int:
        """A whole number from ``least`` on."""
        value = self.get(name, default)
        if type(value) is not int or value < least:
            raise self._error(f"{name} is {value!r}; a whole number from {least} on was expected")
        return value

    def number(self, name: str, default: object = ...) -> float:
        """A number."""
        value = self.get(name, default)
        if not _is_number(value):
            raise self._error(f"{name} is {value!r}; a number was expected")
        return float(value)

    def numbers(self, name: str, default: object = ..., *, count: int | None = None) -> tuple[float, ...]:
        """Several numbers, ``count`` of them; a single one is one of several."""
        value = self.get(name, default)
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not values or not all(map(_is_number, values)) or count not in (None, len(values)):
            raise self._error(f"{name} is {value!r}; {count or 'some'} numbers were expected")
        return values

    def word(self, name: str, default: object = ...) -> str:
        """A text."""
        value = self.get(name, default)
        if not isinstance(value, str):
            raise self._error(f"{name} is {value!r}; a text was expected")
        return value

    def config(self, project: Project, key: str) -> Any:
        """What the configuration says under ``key``: the layer's own ``cfg``, else the project's default."""
        self._read.add(CONFIG)
        given = flat_config(self.mapping.get(CONFIG) or {})
        if key not in given:
            return project.defaults[key]
        default = project.defaults[key]
        value = project.plain(key, given[key])
        problem = config_problem(value, default)
        if problem:
            raise self._error(f"{CONFIG}: {key} is {value!r}; {problem} was expected")
        self._differing[key] = value
        return tuple(value) if isinstance(default, tuple) else type(default)(value)

    @property
    def differing(self) -> str:
        """What was asked of the configuration and is not left to the defaults, in words."""
        return ", ".join(f"{key} {value}" for key, value in self._differing.items())

    def check_all_read(self) -> None:
        """Refuse what ``param_str`` says and nobody asked for.

        Raises:
            LayerError: there is such a thing.
        """
        unread = [name for name in (self._mapping or {}) if name not in self._read]
        if unread:
            read = ", ".join(sorted(self._read - {CONFIG})) or "nothing"
            raise self._error(f"param_str says {unread[0]!r}, which this layer does not know; it reads {read}")

    def _error(self, problem: str) -> LayerError:
        return LayerError(problem, layer=self._layer, type=self._type)


def flat_config(config: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """A configuration with dots for levels.

    >>> flat_config({"TRAIN": {"HAS_RPN": True}, "TEST.NMS": 0.3})
    {'TRAIN.HAS_RPN': True, 'TEST.NMS': 0.3}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flat_config(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_problem(value: object, default: object) -> str | None:
    """None if ``value`` may stand for ``default``, else what was to be expected, in words."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, int):
        return None if type(value) is int else "a whole number"
    if isinstance(default, float):
        return None if _is_number(value) else "a number"
    several = isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_number, value))
    return None if several else "a list of numbers"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


Builder = Callable[[LayerSpec, PythonSettings], nn.Module]
SourceShapes = Callable[[PythonSettings, Sequence[str]], Sequence[Shape | None]]


@dataclass(frozen=True)
class PythonType:
    """A class that is built in. Of ``build`` and ``shapes`` it has one: a source of data is an input here.

    Attributes:
        module, name: as ``python_param`` has them.
        bottoms, tops: how many it takes. project: whose configuration it reads.
        verified: False where no output of the original was at hand to compare with; a net with such a layer says so.
    """

    module: str
    name: str
    bottoms: Count
    tops: Count
    build: Builder | None = None
    shapes: SourceShapes | None = None
    project: Project | None = None
    verified: bool = True

    @property
    def full_name(self) -> str:
        """``rpn.proposal_layer.ProposalLayer``."""
        return f"{self.module}.{self.name}"


# By module and class, the meanings of that name: they differ in how many bottoms or tops they take.
_TYPES: dict[tuple[str, str], tuple[PythonType, ...]] = {}


def python_layer(
    module: str,
    name: str,
    *,
    bottoms: Count,
    tops: Count,
    project: Project | None = None,
    verified: bool = True,
) -> Callable[[Builder], Builder]:
    """Register a builder for class ``name`` of ``module``; the arguments are as :class:`PythonType` has them.

    Two projects may have a class of one name that takes other bottoms or tops; each is registered.

    Raises:
        LayerError: the class is registered already.
    """

    def register(build: Builder) -> Builder:
        _add(PythonType(module, name, bottoms, tops, build=build, project=project, verified=verified))
        return build

    return register


def python_source(
    module: str, name: str, *, tops: Count, project: Project | None = None
) -> Callable[[SourceShapes], SourceShapes]:
    """Register a class that reads data: its tops are inputs of the net, of the shapes that the function tells.

    The function takes the settings and the names of the tops, and returns a shape, or None, for each.

    Raises:
        LayerError: the class is registered already.
    """

    def register(shapes: SourceShapes) -> SourceShapes:
        _add(PythonType(module, name, 0, tops, shapes=shapes, project=project))
        return shapes

    return register


def _add(entry: PythonType) -> None:
    made = entry.build or entry.shapes
    if made is not None and not made.__module__.startswith(f"{LAYERS}."):
        bring_python_classes()  # so that a class that ships is not registered a second time unseen
    others = _TYPES.get((entry.module, entry.name), ())
    if any((other.bottoms, other.tops) == (entry.bottoms, entry.tops) for other in others):
        raise LayerError(f"the Python layer {entry.full_name} is registered twice", type="Python")
    _TYPES[entry.module, entry.name] = (*others, entry)


# Layers in C++ that read a program's configuration as its Python layers do.
_CONFIGURED: dict[str, Project] = {}


def configured_type(type: str, project: Project) -> None:
    """Have layers of this type read the configuration of ``project``: from ``cfg`` in their ``python_param.param_str``.

    Caffe has the field for every layer, and no fork reads it here.
    """
    _CONFIGURED[type] = project


def project_of(message: LayerParameter) -> Project | None:
    """Whose configuration a layer reads.

    Raises:
        LayerError: as for :func:`find_python`.
    """
    if message.type == "Python":
        entry = find_python(message)
        return None if entry is None else entry.project
    bring_type(message.type)
    return _CONFIGURED.get(message.type)


def is_built_in(module: str, name: str) -> bool:
    """Whether a class is built in under these names."""
    bring_python_classes()
    return (module, name) in _TYPES


def brings_data(module: str, name: str) -> bool:
    """Whether the class that is built in under these names is a source."""
    bring_python_classes()
    return any(entry.shapes is not None for entry in _TYPES.get((module, name), ()))


def find_python(message: LayerParameter) -> PythonType | None:
    """The class that a layer of type Python names, if it is built in.

    Raises:
        LayerError: it is, but none of its meanings takes that many bottoms or tops.
    """
    bring_python_classes()
    params = message.python_param
    entries = _TYPES.get((params.module, params.layer), ())
    counts = {"bottoms": len(message.bottom), "tops": len(message.top)}
    for entry in entries:
        if all(check_count(count, getattr(entry, what)) is None for what, count in counts.items()):
            return entry
    if not entries:
        return None
    wanted = " or ".join(" and ".join(f"{_words(getattr(entry, what))} {what}" for what in counts) for entry in entries)
    raise LayerError(
        f"{entries[0].full_name} takes {wanted}, found {counts['bottoms']} and {counts['tops']}",
        layer=message.name,
        type=message.type,
    )


def _words(count: Count) -> str:
    return str(count) if isinstance(count, int) else check_count(-1, count) or "any"


def python_types() -> tuple[PythonType, ...]:
    """Every class that is built in, in all its meanings, sorted by name."""
    bring_all()
    return tuple(entry for _, entries in sorted(_TYPES.items()) for entry in entries)
