"""Write the table of docs/python-layers.md: the Python classes that are built in.

.venv/bin/python scripts/python_layers.py
"""

from __future__ import annotations

from pathlib import Path

from caffe_compat import layers as _layers  # noqa: F401  registers what ships
from caffe_compat.network.python_registry import PythonType, python_types
from caffe_compat.network.registry import Count

PAGE = Path(__file__).parent.parent / "docs" / "python-layers.md"
HEAD = "| class | bottoms | tops | configuration of | |\n|---|---|---|---|---|\n"


def table() -> str:
    """A row for every meaning of every class."""
    return HEAD + "".join(map(_row, python_types()))


def _row(entry: PythonType) -> str:
    remarks = []
    if entry.shapes is not None:
        remarks.append("an input of the net")
    if not entry.verified:
        remarks.append("never compared with outputs of the original")
    project = entry.project.name if entry.project is not None else ""
    cells = (f"`{entry.full_name}`", _words(entry.bottoms), _words(entry.tops), project, "; ".join(remarks))
    return f"| {' | '.join(cells)} |\n"


def _words(count: Count) -> str:
    if isinstance(count, int):
        return str(count)
    return f"{count[0]} or more" if count[1] is None else f"{count[0]} to {count[1]}"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text[: text.index(HEAD)] + table(), encoding="utf-8")


if __name__ == "__main__":
    main()
