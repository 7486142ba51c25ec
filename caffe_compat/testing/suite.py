"""``parity.toml``: which models are tested, in which forms, and against what.

    [[models]]
    name = "open_nsfw"
    prototxt = "deploy.prototxt"
    weights = "resnet_50_1by2_nsfw.caffemodel"
    reference = "open_nsfw.h5"
    formats = ["net", "pt", "onnx"]
    optimize = [false, true]

Every combination is a test of its own. ``[tool.caffe_compat.parity]`` of a ``pyproject.toml`` holds the same. Reading
it imports no torch: pytest lists tests without running them.
"""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..formats.files import read_file
from ..parity.tolerance import NET_TOLERANCE, Tolerance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["NET", "PRECISIONS", "PT", "ParityTest", "exported_form", "read_suite"]

NET = "net"
"""The form of a model as it is loaded: nothing is written."""
PT = "pt"
"""The form of a model that was saved to a ``.pt`` and loaded again."""

# The usual suffixes of what load() takes; it goes by first bytes, so a file of any other name may be for it, too.
_LOADED = (".pt", ".pth", ".caffemodel", ".h5", ".prototxt", ".pbtxt", ".txt")
PRECISIONS = ("float32", "float16", "bfloat16")
_MATRIX = ("tolerance", "formats", "devices", "precisions", "optimize")
# What load() is told.
_LOADING = (
    *("phase", "level", "stages", "dialect", "input_shapes", "guess_shapes"),
    *("ignore_fields", "fill_missing", "root"),
)
_FILES = ("prototxt", "weights", "model", "reference", "inputs")
_LISTS = ("formats", "devices", "precisions", "optimize", "stages", "ignore_fields")
_KINDS: Mapping[str, tuple[type, str]] = {
    "fill_missing": (bool, "true or false"),
    "guess_shapes": (bool, "true or false"),
    "level": (int, "a whole number"),
    "input_shapes": (dict, "a table of shapes, data = [1, 3, 224, 224]"),
    "inputs": (dict, 'a table of files, data = "data.npy"'),
}


@dataclass(frozen=True)
class ParityTest:
    """One test: a model in one form, on one device, in one precision.

    Attributes:
        name: of the model. place: where the suite says it, for messages.
        model: path of a prototxt, of a ``.pt``, of a caffemodel that carries its network, or of an exported file.
        weights: of a prototxt. reference: ``FILE`` or ``FILE:GROUP``. inputs: ``.npy`` files by blob name.
        form: ``net``, ``pt`` or the name of an output format. device, precision, optimized: how it runs.
        tolerance: what counts as equal. options: what :func:`caffe_compat.load` is told besides.
    """

    name: str
    place: str
    model: str
    weights: str | None
    reference: str
    form: str
    device: str
    precision: str
    optimized: bool
    tolerance: Tolerance
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether :attr:`model` was exported already: the test runs that very file."""
        return exported_form(self.model) is not None

    @property
    def writes(self) -> bool:
        """Whether running it writes a file: its form is not the one that is there."""
        return self.form != NET and not self.is_file

    @property
    def id(self) -> str:
        """``name[form-device-precision]``, with ``-optimized`` for the inference form."""
        parts = [self.form, self.device, self.precision, *(["optimized"] if self.optimized else [])]
        return f"{self.name}[{'-'.join(parts)}]"


def read_suite(path: str | os.PathLike[str]) -> tuple[ParityTest, ...]:
    """The tests that a ``parity.toml`` asks for, or the table ``[tool.caffe_compat.parity]`` of a ``pyproject.toml``.

    Paths in it are relative to its folder. No file that it names is opened.

    Raises:
        FileError: it cannot be read. UsageError: no TOML, no models, a key that there is not (with the near one), a
            value of another kind, two tests of one name, or a precision without a tolerance.
    """
    where = os.fspath(path)
    try:
        content = tomllib.loads(read_file(where).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise UsageError(f"no TOML: {error}", path=where) from error
    table: Any = content
    if Path(where).name == "pyproject.toml":
        for key in ("tool", "caffe_compat", "parity"):
            table = table.get(key) if isinstance(table, dict) else None
        if table is None:
            raise UsageError("has no table [tool.caffe_compat.parity]", path=where)
    tests = tuple(_Reader(where).tests(table))
    seen: set[str] = set()
    for test in tests:
        if test.id in seen:
            raise UsageError(f"two tests are called {test.id}; give the models names of their own", path=where)
        seen.add(test.id)
    return tests


def exported_form(model: str) -> str | None:
    """The output format whose suffix ``model`` has, if another runtime runs such files; None of what load() takes."""
    name = Path(model).name.lower()
    if name.endswith(_LOADED):
        return None
    from converters import targets  # a name that tells nothing is not worth the import

    return next((target.name for target in targets() if target.run is not None and name.endswith(target.suffix)), None)


class _Reader:
    """Reads one file; errors say where."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = Path(path).parent

    def fail(self, what: str) -> UsageError:
        return UsageError(what, path=self.path)

    def tests(self, table: Any) -> Iterator[ParityTest]:
        if not isinstance(table, dict):
            raise self.fail("[tool.caffe_compat.parity] is no table")
        self._check_keys(table, ("models", *_MATRIX), "the suite")
        models = table.get("models")
        if not isinstance(models, list) or not models or not all(isinstance(model, dict) for model in models):
            raise self.fail("has no models; each is a table [[models]] with prototxt, weights and reference")
        defaults = {key: table[key] for key in _MATRIX if key in table}
        for i, model in enumerate(models):
            yield from self._of_model(defaults, model, f"models[{i}]")

    def _of_model(self, defaults: Mapping[str, Any], entry: Mapping[str, Any], place: str) -> Iterator[ParityTest]:
        self._check_keys(entry, ("name", *_FILES, *_MATRIX, *_LOADING), place)
        if ("model" in entry) == ("prototxt" in entry):
            raise self.fail(f"{place} needs a prototxt (with weights), or a model: a .pt or an exported file")
        if ("prototxt" in entry) != ("weights" in entry):
            raise self.fail(f"{place}: prototxt and weights go together")
        if "reference" not in entry:
            raise self.fail(f"{place} has no reference, the file that the capture script wrote")
        self._check_kinds({**defaults, **entry}, place)
        model = entry.get("model", entry.get("prototxt"))
        name = entry.get("name", Path(model).stem)
        place = f"{place} ({name})"
        exported = exported_form(model)
        if exported:
            for key in ("formats", "devices", "precisions", "optimize", *_LOADING):
                if key in entry:
                    raise self.fail(f"{place}: {model} was exported already; {key} would be ignored")
            defaults = {key: value for key, value in defaults.items() if key == "tolerance"}
        entry = {**defaults, **entry}
        for form, device, precision, optimized in itertools.product(
            [exported] if exported else entry.get("formats", [NET]),
            entry.get("devices", ["cpu"]),
            entry.get("precisions", ["float32"]),
            entry.get("optimize", [False]),
        ):
            if precision not in PRECISIONS:
                raise self.fail(f"{place}: no precision {precision!r}; there are {', '.join(PRECISIONS)}")
            yield ParityTest(
                name=name,
                place=place,
                model=self._path(model),
                weights=self._path(entry["weights"]) if "weights" in entry else None,
                reference=self._path(entry["reference"]),
                form=form,
                device=device,
                precision=precision,
                optimized=optimized,
                tolerance=self._tolerance(entry.get("tolerance"), precision, place),
                inputs={blob: self._path(file) for blob, file in entry.get("inputs", {}).items()},
                options=self._loading(entry),
            )

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def _loading(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        options = {key: entry[key] for key in _LOADING if key in entry}
        if "root" in options:
            options["root"] = self._path(options["root"])
        if "input_shapes" in options:
            options["input_shapes"] = {blob: tuple(shape) for blob, shape in options["input_shapes"].items()}
        return options

    def _tolerance(self, value: Any, precision: str, place: str) -> Tolerance:
        """One number is relative to the largest value of the reference, with a tenth of it added for all sizes."""
        if isinstance(value, dict):
            self._check_keys(value, PRECISIONS, f"{place}: tolerance")
            value = value.get(precision)
        elif precision != "float32":
            value = None
        if value is None:
            if precision == "float32":
                return NET_TOLERANCE
            raise self.fail(f"{place}: {precision} has no tolerance; for example tolerance = {{ {precision} = 0.02 }}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise self.fail(f"{place}: tolerance {value!r}; a number from 0, less than 1, was expected")
        return Tolerance.of(value)

    def _check_keys(self, table: Mapping[str, Any], known: Sequence[str], place: str) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known)}"
                raise self.fail(f"{place} has no key {key!r}{hint}")

    def _check_kinds(self, entry: Mapping[str, Any], place: str) -> None:
        for key, value in entry.items():
            if key == "tolerance":
                continue
            if key in _LISTS:
                kind, what = (bool, "true and false") if key == "optimize" else (str, "names")
                if not isinstance(value, list) or not value or not all(isinstance(item, kind) for item in value):
                    raise self.fail(f"{place}: {key} = {value!r}; a list of {what} was expected")
                if len({*value}) != len(value):
                    raise self.fail(f"{place}: {key} = {value!r} has something twice")
                continue
            wanted, what = _KINDS.get(key) or (str, "a text")
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise self.fail(f"{place}: {key} = {value!r}; {what} was expected")
            if key == "input_shapes":
                self._check_shapes(entry[key], place)
            if key == "inputs" and not all(isinstance(file, str) for file in entry[key].values()):
                raise self.fail(f"{place}: inputs = {value!r}; a table of files was expected")

    def _check_shapes(self, shapes: Mapping[str, Any], place: str) -> None:
        for blob, shape in shapes.items():
            if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
                raise self.fail(f"{place}: the shape {shape!r} of {blob!r} is no list of lengths")
