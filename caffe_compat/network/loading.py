"""load(): from files to a CaffeNet."""

from __future__ import annotations

import warnings as _warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..access import FileAccess
from ..collector import collecting_later
from ..errors import CaffeCompatWarning, UsageError, WeightsError
from ..formats.sniff import is_checkpoint, is_text
from ..formats.weights import read_weights
from .definition import Definition, read_definition
from .filling import FillReport, fill_net
from .graph import NetState
from .guessing import net_of
from .net import CaffeNet
from .python_config import PythonConfig
from .registry import Shape

__all__ = ["build_net", "load"]


@collecting_later
def load(
    model: str | Path,
    weights: str | Path | None = None,
    *,
    phase: str = "test",
    level: int = 0,
    stages: Sequence[str] = (),
    dialect: str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    guess_shapes: bool = False,
    ignore_fields: Collection[str] = (),
    fill_missing: bool = False,
    root: str | Path | None = None,
    gradients: Literal["caffe", "true"] = "caffe",
    allow_python: bool = False,
    python_config: PythonConfig | None = None,
    seed: int | None = None,
) -> CaffeNet:
    """A network ready to run: ``load("model.pt")`` or ``load("deploy.prototxt", "weights.caffemodel")``.

    >>> import caffe_compat, torch
    >>> formats = "reference_outputs/formats"
    >>> net = caffe_compat.load(f"{formats}/v1net.prototxt", f"{formats}/v1net.caffemodel")
    >>> net.input_shapes, net.output_names
    ({'data': (2, 3, 8, 8)}, ('prob',))
    >>> net(data=torch.zeros(2, 3, 8, 8))["prob"].shape
    torch.Size([2, 10])

    Args:
        model: a ``.pt`` of ``caffe-compat convert``, a prototxt, or a caffemodel that carries its own network.
        weights: a ``.caffemodel`` or ``.caffemodel.h5``; without it, a prototxt's blobs get their fillers' values.
        phase, level, stages: which layers of the definition to build. dialect: a fork's name; None finds it out.
        input_shapes: by blob name, for inputs whose shape the file does not tell, or another shape; without a batch, a
            data layer's counts. guess_shapes: whether shapes that nobody tells may be guessed (``net.guessed``).
        ignore_fields: names of fields that the definition may have although nothing here reads them.
        fill_missing: whether layers for which ``weights`` has none may keep their initial values.
        root: the folder below which layers may read the files they name; None forbids it.
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        allow_python: whether ``Python`` layers may import and run the code they name.
        python_config: what the Python layers that are built in have instead of their project's defaults: a YAML file as
            their programs read it, or a mapping.
        seed: of the fillers; None draws from torch's global generator.

    Raises:
        CaffeCompatError: one of its kinds, naming the file, layer and blob at fault.

    Warns:
        CaffeCompatWarning: what Caffe lets pass: blobs without layer, layers without blobs, values that are no numbers.
    """
    if is_checkpoint(model):
        from .checkpoint import load_checkpoint  # as much as all the rest of this library that a definition needs

        told = {"level": level, "stages": stages, "dialect": dialect, "input_shapes": input_shapes}
        told |= {"guess_shapes": guess_shapes, "ignore_fields": ignore_fields}
        told |= {"fill_missing": fill_missing, "python_config": python_config}
        _check_converted(model, weights, told)
        net = load_checkpoint(model, root=root, gradients=gradients, allow_python=allow_python)
        if phase.upper() not in ("TEST", net.graph.state.phase):
            raise UsageError(f"{model} was converted for phase {net.graph.state.phase}; {phase} would be ignored")
        return net
    if weights is None and not is_text(model):
        weights = model
    definition = read_definition(model, dialect, filled_from=weights, python_config=python_config)
    net, report = build_net(
        definition,
        weights,
        state=NetState(phase.upper(), level, tuple(stages)),
        input_shapes=input_shapes,
        guess_shapes=guess_shapes,
        ignore_fields=ignore_fields,
        fill_missing=fill_missing,
        files=FileAccess(root),
        gradients=gradients,
        allow_python=allow_python,
        seed=seed,
    )
    for text in (*definition.warnings, *net.warnings, *report.warnings):
        _warnings.warn(text, CaffeCompatWarning, stacklevel=2)
    return net


def _check_converted(model: str | Path, weights: str | Path | None, told: Mapping[str, object]) -> None:
    """Refuse what would be ignored, as ``model`` was converted already."""
    if weights is not None:
        raise UsageError(f"{model} holds its own weights; {weights} would be ignored")
    for what, value in told.items():
        if value:
            raise UsageError(f"{model} was converted with its own {what}; {what} {value} would be ignored")


def build_net(
    definition: Definition,
    weights: str | Path | None,
    *,
    state: NetState | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    guess_shapes: bool = False,
    ignore_fields: Collection[str] = (),
    fill_missing: bool = False,
    files: FileAccess | None = None,
    gradients: Literal["caffe", "true"] = "caffe",
    allow_python: bool = False,
    seed: int | None = None,
) -> tuple[CaffeNet, FillReport]:
    """Build ``definition``, fill it from ``weights`` and give every other blob its initial value.

    Raises:
        CaffeCompatError: as :func:`load`.
    """
    net = net_of(
        definition.message,
        state,
        dialect=definition.schema.name,
        input_shapes=input_shapes,
        guess_shapes=guess_shapes,
        weights=weights,
        ignore_fields=ignore_fields,
        files=files,
        gradients=gradients,
        allow_python=allow_python,
        path=definition.path,
        dialect_is_open=not definition.dialect_was_told,
    )
    report = FillReport()
    if weights is not None:
        with read_weights(weights) as opened:
            report = fill_net(net, opened)
        if report.initial and not fill_missing:
            raise WeightsError(
                f"has no weights for {report.lacking}, and what these compute would be made up; "
                "--fill-missing (fill_missing=True) lets them keep their initial values, as Caffe does",
                path=str(weights),
            )
    net.unfilled = tuple(report.initial)
    net.materialize(seed)
    return net, report
