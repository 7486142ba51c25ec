"""The output formats, each registered by the file that writes it.

    @target("npz", suffix=".npz", title="a numpy archive", cannot=("the network itself",))
    def write(net: CaffeNet, path: str, *, dtype: str = "float32", sources: Sequence[Checksum] = ()) -> None:
        ...

The function writes ``net`` to ``path``, whole or not at all, and leaves ``net`` as it was, but for its recurrent state,
which is forgotten. It may return lines that the user should see. Its keyword arguments are what may be asked for (or
with ``options_of`` those of another format's function, to which it hands them on); anything else is refused before work
begins. Those that are called like facts of a :class:`caffe_compat.Conversion` (``preprocess``, ``sources``,
``parity``) come from it unless they are given. What a format needs beyond torch it imports when it writes: this package
is imported to see what formats there are.

Some options mean the same in every format that has them, and have a file each: ``dtype`` (:mod:`.precision`),
``dynamic_batch`` and ``dynamic_size`` (:mod:`.dynamic`), ``embed_preprocess`` (:mod:`.pixels`), ``state``
(:mod:`.state`). ``outputs`` is an option of :func:`converters.export` itself.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from caffe_compat.errors import UsageError
from caffe_compat.extras import require

__all__ = ["Arrays", "Target", "find_target", "target", "target_of", "targets"]

# What a conversion knows and a format may keep.
_FACTS = ("preprocess", "sources", "parity")

Write: TypeAlias = Callable[..., Iterable[str] | None]
Arrays: TypeAlias = Mapping[str, np.ndarray]
Run: TypeAlias = Callable[[str, Sequence[Arrays]], Sequence[Arrays]]
RunSharing: TypeAlias = Callable[[str, Sequence[Arrays], Mapping[str, Tensor]], Sequence[Arrays]]


@dataclass(frozen=True)
class Target:
    """An output format.

    >>> import converters
    >>> pt2 = converters.find_target("pt2")
    >>> pt2.suffix, pt2.title, pt2.options[:2]
    ('.pt2', 'a torch.export program', ('dtype', 'dynamic_batch'))
    >>> pt2.check(["embed_preprocess"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    caffe_compat.errors.UsageError: embed_preprocess has no place in a torch.export program, which takes dtype, ...

    Attributes:
        name: what ``--format`` calls it. suffix: of its files, with the dot. title: what such a file is, in words.
        write: ``write(net, path, **options)``. options_of: the function whose keyword arguments are the options:
            ``write``, unless that hands them on to another.
        needs: package -> the optional dependency of this distribution that installs it (``caffe-compat[...]``).
        cannot: what such a file has no way to hold, in words.
        run: ``run(path, runs)`` runs the file in the format's own runtime, once for each of ``runs``, one after the
            other: inputs by blob name, float32 (but pixels uint8), give outputs by blob name. That is how a file is
            verified before it takes its place. None for a format that nothing runs.
        run_sharing: as ``run``, given the weights that memory holds, by name, too: those that the file has byte by
            byte, a runtime need not load again.
        runtime: the name of that, with its version. exact: whether it has to give the very bits that the net gives on
            the CPU, where the weights are stored as they are.
        beside: suffixes of what is always written beside the file, in place of its own.
        annotate: ``annotate(path, key, text)`` adds an entry to the metadata of a file that was just written.
    """

    name: str
    suffix: str
    title: str
    write: Write
    options_of: Write
    needs: Mapping[str, str]
    cannot: tuple[str, ...]
    run: Run | None = None
    run_sharing: RunSharing | None = None
    runtime: Callable[[], str] = lambda: ""
    annotate: Callable[[str, str, str], None] | None = None
    exact: bool = False
    beside: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """What may be asked for."""
        return tuple(self._defaults())

    @property
    def keeps(self) -> tuple[str, ...]:
        """Which facts of a conversion are stored, of ``preprocess``, ``sources`` and ``parity``."""
        return tuple(name for name in _FACTS if name in self.options)

    def run_beside(self, path: str, runs: Sequence[Arrays], held: Mapping[str, Tensor]) -> Sequence[Arrays]:
        """Run a file while memory holds the weights that it was written from."""
        if self.run_sharing is not None:
            return self.run_sharing(path, runs, held)
        assert self.run is not None
        return self.run(path, runs)

    def settings(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``options`` with the defaults of those that were not given."""
        return self._defaults() | dict(options)

    def _defaults(self) -> dict[str, Any]:
        parameters = inspect.signature(self.options_of).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def check(self, options: Iterable[str]) -> None:
        """Whether a file can be written with these options on this machine.

        Raises:
            UsageError: an option that the format does not have. MissingExtraError: a package is not installed.
        """
        for option in options:
            if option not in self.options:
                known = ", ".join(self.options) or "no options"
                raise UsageError(f"{option} has no place in {self.title}, which takes {known}")
        for package, extra in self.needs.items():
            require(package, extra)


_TARGETS: dict[str, Target] = {}


_W = TypeVar("_W", bound=Write)


def target(
    name: str,
    *,
    suffix: str,
    title: str,
    options_of: Write | None = None,
    needs: Mapping[str, str] | None = None,
    cannot: Sequence[str] = (),
    run: Run | None = None,
    run_sharing: RunSharing | None = None,
    runtime: Callable[[], str] | None = None,
    annotate: Callable[[str, str, str], None] | None = None,
    exact: bool = False,
    beside: Sequence[str] = (),
) -> Callable[[_W], _W]:
    """Register the function that writes a format; the arguments are the attributes of :class:`Target`.

    >>> import converters
    >>> @converters.target("pt2", suffix=".ep", title="a program")
    ... def write(net, path): ...
    Traceback (most recent call last):
    ValueError: format 'pt2' is registered twice

    Raises:
        ValueError: the name or the suffix is taken.
    """

    def register(write: _W) -> _W:
        if name in _TARGETS or name == "pt":
            raise ValueError(f"format {name!r} is registered twice")
        if suffix in (".pt", *(other.suffix for other in _TARGETS.values())):
            raise ValueError(f"suffix {suffix!r} is registered twice")
        named = runtime or (lambda: "")
        needed, cannot_ = dict(needs or {}), tuple(cannot)
        _TARGETS[name] = Target(
            *(name, suffix, title, write, options_of or write, needed, cannot_),
            *(run, run_sharing, named, annotate, exact, tuple(beside)),
        )
        return write

    return register


def targets() -> tuple[Target, ...]:
    """Every format, by name.

    >>> import converters
    >>> "pt2" in [target.name for target in converters.targets()]
    True
    """
    return tuple(_TARGETS[name] for name in sorted(_TARGETS))


def find_target(name: str) -> Target:
    """The format called ``name``.

    >>> import converters
    >>> converters.find_target("pt2").suffix
    '.pt2'

    Raises:
        UsageError: there is none; it lists those that there are.
    """
    if name not in _TARGETS:
        raise UsageError(f"no format {name!r}; {_listed()}")
    return _TARGETS[name]


def target_of(path: str | os.PathLike[str]) -> Target:
    """The format whose suffix the name of ``path`` has. Raises UsageError if there is none such.

    >>> import converters.registry
    >>> converters.registry.target_of("model.ONNX").name
    'onnx'
    """
    name = Path(path).name.lower()
    # The longest suffix first: x.caffemodel.h5 is no x.h5.
    for found in sorted(_TARGETS.values(), key=lambda found: -len(found.suffix)):
        if name.endswith(found.suffix):
            return found
    raise UsageError(f"the name of {os.fspath(path)} tells no format; {_listed()}")


def _listed() -> str:
    known = ", ".join(f"{found.name} ({found.suffix})" for found in targets())
    return f"known are {known}; caffe_compat.save writes a .pt"
