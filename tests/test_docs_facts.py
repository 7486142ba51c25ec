"""What the pages say in numbers and lists is what the code has."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import torch

import caffe_compat
from caffe_compat.formats import limits
from caffe_compat.schema import dialect_names

ROOT = Path(__file__).parent.parent


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first_cells(text: str) -> list[str]:
    """The names in the first column of the tables in ``text``."""
    return re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)


def test_the_quick_start_is_lines_to_paste() -> None:
    """Continuous integration runs the second."""
    start = page("README.md").partition("## Quick start")[2].partition("\n## ")[0]
    commands = re.findall(r"^```sh\n(.*?)^```$", start, re.MULTILINE | re.DOTALL)
    assert [len(command.splitlines()) for command in commands] == [1, 1, 1]
    assert [command.split("&&")[0].strip() for command in commands[:2]] == ["sh scripts/setup.sh"] * 2
    assert commands[1].endswith("-m pytest -n auto --dist worksteal\n")
    assert set(re.findall(r"(?:scripts|reference_outputs)/[\w./]+", start)) <= {
        path.relative_to(ROOT).as_posix()
        for folder in ("scripts", "reference_outputs")
        for path in ROOT.glob(f"{folder}/**/*")
    }


def test_forks_are_counted() -> None:
    for name in ("CHANGELOG.md", "docs/forks.md"):
        assert re.findall(r"(\d+) forks", page(name)) == [str(len(dialect_names()) - 1)]


def test_the_table_of_limits_is_complete() -> None:
    listed = re.findall(r"^\| `(CAFFE_\w+)` \| .* \| 2\^(\d+) \|$", page("docs/security.md"), re.MULTILINE)
    known = [value for value in vars(limits).values() if isinstance(value, limits.Limit)]
    assert {name: 2 ** int(power) for name, power in listed} == {limit.variable: limit.default for limit in known}


def test_the_entries_of_a_pt_are_those_of_its_page(tmp_path: Path) -> None:
    net = caffe_compat.load(ROOT / "reference_outputs" / "formats" / "v1net.prototxt", seed=1)
    caffe_compat.save(net, tmp_path / "net.pt")
    stored = list(torch.load(tmp_path / "net.pt", weights_only=True))
    rows = [line for line in page("docs/pt-format.md").splitlines() if first_cells(line)]
    listed = [name for row in rows for name in first_cells(row) if name in stored or "may be missing" not in row]
    assert sorted(listed) == sorted(stored)


def test_the_citation_is_of_this_version() -> None:
    version = re.search(r"^version: (.*)$", page("CITATION.cff"), re.MULTILINE)
    assert version is not None
    assert version[1] == metadata.version("caffe-compat")
