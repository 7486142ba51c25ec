"""``docs/pose.ipynb``: a notebook of format 4 whose names exist, and whose cells run from the first to the last."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "pose.ipynb"
CONTENT: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS: list[dict[str, Any]] = CONTENT["cells"]


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _of_kind(kind: str) -> list[tuple[str, str]]:
    """Id and source of each cell of a kind."""
    return [(cell["id"], _source(cell)) for cell in CELLS if cell["cell_type"] == kind]


def test_it_is_a_notebook_without_outputs() -> None:
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
    assert CONTENT.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert CONTENT["metadata"]["kernelspec"].keys() == {"display_name", "language", "name"}
    own: dict[str, dict[str, Any]] = {"code": {"outputs": [], "execution_count": None}, "markdown": {}}
    for cell in CELLS:
        rest = {name: cell[name] for name in cell.keys() - {"cell_type", "id", "source"}}
        assert rest == {"metadata": {}, **own[cell["cell_type"]]}
        lines = cell["source"]
        assert all(isinstance(line, str) and line.count("\n") == line.endswith("\n") for line in lines)
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    # As tools write it, so that a change shows as the lines that changed.
    assert NOTEBOOK.read_text(encoding="utf-8") == json.dumps(CONTENT, indent=1, ensure_ascii=False) + "\n"


def test_links_lead_somewhere() -> None:
    links = [link for _, text in _of_kind("markdown") for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


def _dotted(node: ast.expr) -> list[str]:
    """``hpm.metrics.mpjpe`` in parts; nothing of what is no such name."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return [*before, node.attr]
    return []


def _imported(tree: ast.Module) -> dict[str, Any]:
    """What the imports of a program bind; raises of names that there are not."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                module = importlib.import_module(each.name)
                found[each.asname or each.name] = module
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            module = importlib.import_module(node.module)
            found |= {each.asname or each.name: getattr(module, each.name) for each in node.names}
    return found


def _calls(tree: ast.Module, names: dict[str, Any]) -> Iterator[tuple[str, Any, list[str]]]:
    """Calls of what was imported: the name, what it means, and the keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (parts := _dotted(node.func)) and parts[0] in names:
            value = names[parts[0]]
            for part in parts[1:]:
                value = getattr(value, part)
            yield ".".join(parts), value, [each.arg for each in node.keywords if each.arg is not None]


def test_its_names_and_their_arguments_exist() -> None:
    tree = ast.parse("\n".join(text for _, text in _of_kind("code")))
    called = 0
    for name, value, keywords in _calls(tree, _imported(tree)):
        if name.startswith("hpm."):
            called += 1
            assert [word for word in keywords if word not in inspect.signature(value).parameters] == [], name
    assert called > 8


@pytest.mark.slow
def test_it_runs(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    (tmp_path / "reference_outputs").symlink_to(reference)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")  # where Jupyter opens it
    names: dict[str, Any] = {"__name__": "__main__"}
    for identity, text in _of_kind("code"):
        exec(compile(text, identity, "exec"), names)
    names["plt"].close("all")
    written = {path.name for path in (tmp_path / "pose_notebook").iterdir()}
    assert {"pose.pt", "walk.html", "walk.npz", "walk.glb", "walk.bvh"} <= written
    mpjpe, truth = names["hpm"].metrics.mpjpe, names["truth"]
    assert mpjpe(names["refined"], truth) < mpjpe(names["coarse"], truth) < 65
    assert "<iframe srcdoc=" in names["Page"](names["predicted"].overlay)._repr_html_()
    said = capsys.readouterr().out
    for row in ("4,bridged,RWrist,,", "10,seen,,,reprojection sides", "13,seen,,,"):
        assert f"\n{row}\n" in said
    assert len(re.findall(r"^1[4-9],none,", said, re.MULTILINE)) == 6
