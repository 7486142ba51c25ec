"""What a failing parity test shows: where the numbers part first, the worst of them, and how to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ..display import shown
from ..parity.report import Report
from .suite import NET, PT, ParityTest

__all__ = ["explain", "reproduce"]

_ROWS = 10


def explain(test: ParityTest, report: Report, makers: Mapping[str, Sequence[str]]) -> str:
    """Lines of text: the first blob that departs and its layer, a table of the worst, the command line.

    Args:
        makers: blob name -> name and type of each layer that writes it.
    """
    lines = [f"{test.id} does not give what {test.reference} holds"]
    first = report.first_departing
    if first is not None:
        shape = "x".join(map(str, first.shape)) or "scalar"
        by = f", written by {', then '.join(makers[first.name])}" if makers.get(first.name) else ""
        lines.append(f"the first blob in execution order that departs is {first.name!r}, {shape}{by}")
        allowed = f"off by {first.max_rel:.1e} of the largest value, where {test.tolerance.relative:.0e} is allowed"
        lines.append(f"it is {first.problem or allowed}")
    table = report.table(every_blob=False, only_failures=True, most=_ROWS)
    return "\n".join([*map(shown, lines), "", table, f"To see it again: {shown(reproduce(test))}"])


def reproduce(test: ParityTest) -> str:
    """The command line that makes the same comparison."""
    parts = ["caffe-compat", "verify", test.model, *([test.weights] if test.weights else [])]
    parts += ["--reference", test.reference]
    for blob, file in test.inputs.items():
        parts += ["--input", f"{blob}={file}"]
    if test.form not in (NET, PT) and not test.is_file:
        parts += ["--format", test.form]
    elif test.form == PT:
        parts += ["--format", PT]
    if test.device != "cpu":
        parts += ["--device", test.device]
    if test.precision != "float32":
        parts += ["--dtype", test.precision]
    if test.optimized:
        parts += ["--optimize"]
    parts += ["--tolerance", f"{test.tolerance.relative:g}", *_loading(test)]
    return shlex.join(parts)


def _loading(test: ParityTest) -> list[str]:
    parts: list[str] = []
    for key, value in test.options.items():
        if key == "input_shapes":
            for blob, shape in value.items():
                parts += ["--input-shape", f"{blob}={','.join(map(str, shape))}"]
        elif key in ("stages", "ignore_fields"):
            for item in value:
                parts += [{"stages": "--stage", "ignore_fields": "--ignore-field"}[key], item]
        elif key == "fill_missing":
            parts += ["--fill-missing"] if value else []
        else:
            parts += [f"--{key}", str(value)]
    return parts
