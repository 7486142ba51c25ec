"""What ``caffe-compat convert`` writes: which files, of which formats, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..conversion import Conversion, save
from ..errors import UsageError

if TYPE_CHECKING:
    from converters import Target

__all__ = ["Output", "format_options", "planned", "write_output"]

F = TypeVar("F", bound=Callable[..., Any])

# By the name of an option of a format, what the command line calls it.
_FLAGS = {
    "dtype": "--dtype",
    "dynamic_batch": "--dynamic-batch",
    "dynamic_size": "--dynamic-size",
    "embed_preprocess": "--embed-preprocess",
    "state": "--state",
    "preprocess": "--preprocess",
    "optimized": "--optimize",
    "computed": "--compute",
}
# What a .pt has a place for.
_OF_PT = ("dtype", "preprocess", "optimized", "computed")


class _Format(click.ParamType):
    """``pt``, or a format of :mod:`converters`, which is imported only if it is asked for."""

    name = "format"

    def get_metavar(self, *_: object, **__: object) -> str:
        from converters import targets

        return f"[{'|'.join(['pt', *(target.name for target in targets())])}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "pt":
            from converters import find_target

            find_target(value)
        return value


def format_options(command: F) -> F:
    """-o, --format, and what formats may be asked for."""
    for option in (
        click.option(
            "--state",
            type=click.Choice(["carry", "inputs", "reset"]),
            help="Recurrent state: carried from run to run, as inputs and outputs, or zero in every run.",
        ),
        click.option("--embed-preprocess", is_flag=True, help="Pixels go in; they become input inside of the file."),
        click.option("--outputs", metavar="BLOB,...", help="Stop at these blobs and leave out what they do not need."),
        click.option(
            "--dynamic-size", multiple=True, metavar="BLOB", help="An input of any height and width; may be repeated."
        ),
        click.option("--dynamic-batch", is_flag=True, help="Inputs of any number of items."),
        click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32"),
        click.option(
            "--format",
            "formats",
            multiple=True,
            type=_Format(),
            help="By default that of -o's suffix; may be repeated.",
        ),
        click.option("-o", "--output", "outputs_to", required=True, multiple=True, type=click.Path(), help="Where to."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Output:
    """One file to write.

    Attributes:
        path: where to. target: its format; None for a ``.pt``. options: what was asked for of it.
    """

    path: str
    target: Target | None
    options: dict[str, Any]

    @property
    def title(self) -> str:
        """What such a file is, in words."""
        return "a .pt" if self.target is None else self.target.title

    @property
    def paths(self) -> tuple[str, ...]:
        """The file, and those that are written beside it."""
        beside = () if self.target is None else self.target.beside
        return (self.path, *(str(Path(self.path).with_suffix(suffix)) for suffix in beside))

    def check(self) -> None:
        """Whether it can be written.

        Raises:
            UsageError: an option that has no place in it. MissingExtraError: a package is not installed.
        """
        known = _OF_PT if self.target is None else (*self.target.options, *self.target.keeps)
        for option in self.options:
            if option not in known:
                kept = "; --format pt keeps it" if option in _OF_PT else ""
                raise UsageError(f"{_FLAGS[option]} has no place in {self.title}{kept}")
        if self.target is not None:
            self.target.check(())


def planned(paths: Sequence[str], formats: Sequence[str], options: dict[str, Any]) -> list[Output]:
    """The files to write: one for each ``-o``, in the format beside it or by its suffix; several formats of one ``-o``
    go beside each other, under its name and their suffixes.

    Args:
        options: by the names that formats have for them, those that were asked for.

    Raises:
        UsageError: paths and formats that do not pair, two files of one name, or an option without a place.
    """
    if not formats:
        pairs = [(path, _by_suffix(path)) for path in paths]
    elif len(paths) == len(formats):
        pairs = [(path, _named(name)) for path, name in zip(paths, formats, strict=True)]
    elif len(paths) == 1:
        pairs = [(_under_suffix(paths[0], target), target) for target in map(_named, formats)]
    else:
        raise UsageError(f"{len(paths)} -o and {len(formats)} --format; give one -o, or one for each format")
    found = [Output(path, target, dict(options)) for path, target in pairs]
    seen: dict[Path, Output] = {}
    for output in found:
        output.check()
        for path in output.paths:
            other = seen.setdefault(Path(path).absolute(), output)
            if other is not output:
                raise UsageError(f"{other.title} and {output.title} would both be written to {path}; give each its -o")
    return found


def _named(name: str) -> Target | None:
    from converters import find_target

    return None if name == "pt" else find_target(name)


# Files of other programs: who names one wants that, not a .pt that is called so.
_FOREIGN = frozenset(
    (
        *(".caffe", ".ckpt", ".dlc", ".engine", ".gguf", ".h5", ".hdf5", ".keras", ".mlmodel", ".mlpackage", ".mnn"),
        *(".npz", ".param", ".pb", ".plan", ".pte", ".rknn", ".tflite", ".trt", ".uff"),
    )
)


def _by_suffix(path: str) -> Target | None:
    """The format whose suffix ``path`` has; a ``.pt`` where there is none such.

    Raises:
        UsageError: the suffix is that of a format that nothing here writes.
    """
    if path.lower().endswith(".pt"):
        return None
    from converters import targets

    fitting = [target for target in targets() if path.lower().endswith(target.suffix)]
    suffix = Path(path).suffix.lower()
    if not fitting and suffix in _FOREIGN:
        known = ", ".join(sorted(target.suffix for target in targets()))
        raise UsageError(
            f"nothing here writes {suffix} files as {path} is one; there are .pt, {known}; --format takes any name"
        )
    return max(fitting, key=lambda target: len(target.suffix), default=None)


def _under_suffix(path: str, target: Target | None) -> str:
    """``path`` with the format's suffix in place of a known one."""
    there = _by_suffix(path) if Path(path).suffix.lower() not in _FOREIGN else None
    old = there.suffix if there is not None else ".pt"
    stem = path[: -len(old)] if path.lower().endswith(old) else path
    return stem + (".pt" if target is None else target.suffix)


def write_output(conversion: Conversion, output: Output, outputs: Sequence[str]) -> tuple[str, ...]:
    """Write one file. Returns lines that the user should see.

    Args:
        outputs: blobs to stop at; empty for all that the net gives.

    Raises:
        CaffeCompatError: as ``save`` and ``converters.export`` raise.
    """
    # The conversion knows how pixels become input.
    options = {name: value for name, value in output.options.items() if name != "preprocess"}
    if output.target is None:
        part = replace(conversion, net=conversion.net.part(outputs)) if outputs else conversion
        save(part, output.path, **options)
        return ()
    from converters import export

    exported = export(conversion, output.path, output.target.name, outputs=outputs or None, **options)
    verified = exported.verification
    if verified is None:
        return exported.notes
    checked = f"runs in {verified.runtime}: {verified.blobs} blobs of {verified.inputs} off by {verified.worst_rel:.1e}"
    one_by_one = f", layer by layer, as rounding decides what {verified.apart} is" if verified.apart else ""
    return (f"{Path(output.path).name} {checked} at most{one_by_one}", *exported.notes)
