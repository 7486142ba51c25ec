"""What the documentation says is so: links lead somewhere, examples run, commands, options and names exist.

In a Markdown file, a block marked ``python run`` is run, those of a page one after the other with the same names, in a
folder where ``reference_outputs/`` is; then the commands in blocks marked ``sh run``. Other Python blocks need files of
the reader's own and are only compiled. A block that begins with the comment ``# name.py`` or ``// name.proto`` is saved
under that name first.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import click
import numpy as np
import pytest
import torch

import caffe_compat.cli
import hpm.cli
from hpm.drivers.predict import predict

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[!.]*/README.md")]
}
GROUPS = {"caffe-compat": caffe_compat.cli._group, "hpm": hpm.cli._group}
PACKAGES = ("caffe_compat", "converters", "hpm")
_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")


def blocks(page: str) -> list[tuple[str, str]]:
    """What stands behind the opening of each fenced block (``python run``), and its text."""
    return [(found[1].strip(), found[2]) for found in _FENCE.finditer(PAGES[page])]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", PAGES[page])


def test_the_pages_are_found() -> None:
    assert {
        "README.md",
        "CHANGELOG.md",
        "docs/README.md",
        "docs/layers.md",
        "reference_outputs/README.md",
    } <= PAGES.keys()


# Links


def anchors(text: str) -> set[str]:
    """The anchors that code hosts give to headings."""
    titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert dead == []


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/README.md"]))
    assert listed == {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}


# Examples


def compiled(text: str, name: str) -> CodeType:
    return compile(text, name, "exec", dont_inherit=True)


@pytest.mark.parametrize("page", PAGES)
def test_python_is_python(page: str) -> None:
    for kind, text in blocks(page):
        assert kind.split()[:1] != ["py"], "say python"
        if kind.startswith("python"):
            compiled(text, page)


@pytest.mark.slow
def test_examples_run(tmp_path: Path) -> None:
    """All in one process: what takes time is importing torch."""
    (tmp_path / "reference_outputs").symlink_to(ROOT / "reference_outputs")
    programs, commands = [], []
    for page in PAGES:
        for _, text in blocks(page):
            if (named := re.match(r"(?:#|//) ([\w.]+\.(?:py|proto))\n", text)) is not None:
                (tmp_path / named[1]).write_text(text)
        if program := "\n".join(text for kind, text in blocks(page) if kind == "python run"):
            programs.append((page, program))
        commands += [shlex.split(text) for kind, text in blocks(page) if kind == "sh run"]
    assert len(programs) > 4
    code = f"for page, text in {programs!r}:\n    exec(compile(text, page, 'exec'), {{'__name__': page}})"
    run([sys.executable, "-c", code], tmp_path)
    for command, *arguments in commands:
        run([sys.executable, "-m", command.replace("-", "_"), *arguments], tmp_path)


def run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr


# Commands and options


def command_lines(page: str) -> Iterator[list[str]]:
    """Our commands in a page, in words."""
    lines = [line for kind, text in blocks(page) if kind.startswith("sh") for line in text.splitlines()]
    for text in [*lines, *_CODE.findall(prose(page))]:
        for part in re.split(r"&&|\||;|>", text):
            words = part.split()
            if words[:1] and words[0].rpartition("/")[2] in GROUPS:
                yield [words[0].rpartition("/")[2], *words[1:]]


def options_of(command: click.Command) -> set[str]:
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}


def unknown_in(words: list[str]) -> list[str]:
    """What of a command line our commands do not know."""
    program, *rest = words
    command: click.Command = GROUPS[program]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0).rstrip(",")
        found = command.get_command(click.Context(command), name)
        if found is None:
            return [name]
        command = found
    known = options_of(command) | ({"--version"} if command is GROUPS[program] else set())
    caffes = {name.lstrip("-") for name in known}
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    # Caffe's own flags may be written with one dash.
    return [o for o in options if o not in known and not (is_caffes(command) and o.lstrip("-") in caffes)]


def is_caffes(command: click.Command) -> bool:
    return type(command).__name__ == "CaffeCommand"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    assert {" ".join(words): bad for words in command_lines(page) if (bad := unknown_in(words))} == {}


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("caffe-compat covert x", ["covert"]),
        ("caffe-compat convert a b --refrence c", ["--refrence"]),
        ("caffe-compat convert -solver=x", ["-solver"]),
        ("caffe-compat train -solver=x --gpu 0", []),
        ("hpm prepare h36m x --out y --every 5", []),
        ("hpm prepare h37m x", ["h37m"]),
    ],
)
def test_what_is_no_command_is_seen(line: str, bad: list[str]) -> None:
    assert unknown_in(line.split()) == bad


def all_commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from all_commands(found)


@pytest.mark.parametrize("page", PAGES)
def test_options_named_alone_exist(page: str) -> None:
    ours = {option for group in GROUPS.values() for command in all_commands(group) for option in options_of(command)}
    scripts = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    scripts += (ROOT / "caffe_compat" / "resources" / "capture_reference.py").read_text()
    named = {code.split()[0].partition("=")[0] for code in _CODE.findall(prose(page)) if code.startswith("--")}
    assert {option for option in named - ours if f'"{option}"' not in scripts} == set()


@pytest.mark.parametrize(("program", "page"), [("caffe-compat", "README.md"), ("hpm", "docs/pose-system.md")])
def test_every_command_is_shown(program: str, page: str) -> None:
    group = GROUPS[program]
    names = group.list_commands(click.Context(group))
    assert [name for name in names if not re.search(rf"[`|] ?({program} )?{name}\b", PAGES[page])] == []


# Names and files


def resolved(name: str) -> Any:
    """What a dotted name means; raises if it means nothing."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = (
                value.__dataclass_fields__[part]
                if part in getattr(value, "__dataclass_fields__", ())
                else getattr(value, part)
            )
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES)
def test_names_of_python_mean_something(page: str) -> None:
    lost = []
    for code in _CODE.findall(prose(page)):
        found = re.match(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?![\w/])", code)
        if found is None or re.search(r"\.(py|proto|pt|h5)$", found[1]):
            continue
        try:
            resolved(found[1])
        except (AttributeError, ModuleNotFoundError, KeyError):
            lost.append(found[1])
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_project_are_there(page: str) -> None:
    folders = ("benchmarks", "caffe_compat", "converters", "docs", "hpm", "reference_outputs", "scripts", "tests")
    named = [code for code in _CODE.findall(prose(page)) if re.fullmatch(rf"({'|'.join(folders)})/[\w./-]*", code)]
    here = [code for code in named if not (ROOT / code).exists() and not ((ROOT / page).parent / code).exists()]
    assert here == []


# The walks


def walk(package: str) -> list[str]:
    """The functions of a walk in docs/architecture.md, by their full names."""
    start, end = f"<!-- walk: {package} -->", "<!-- /walk -->"
    table = PAGES["docs/architecture.md"].partition(start)[2].partition(end)[0]
    return [f"{package}.{name}" for name in re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)]


def first_calls(action: Callable[[], object], names: list[str]) -> list[str]:
    """``names`` in the order in which ``action`` calls them for the first time."""
    codes = {getattr(resolved(name), "__func__", resolved(name)).__code__: name for name in names}
    found: dict[str, None] = {}

    def seen(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in codes:
            found.setdefault(codes[frame.f_code])

    sys.setprofile(seen)
    try:
        action()
    finally:
        sys.setprofile(None)
    return list(found)


def test_a_weight_walks_as_the_page_says() -> None:
    tiny = ROOT / "reference_outputs" / "tiny_mask3d"

    def action() -> None:
        net = caffe_compat.load(tiny / "deploy.prototxt", tiny / "tiny_mask3d.caffemodel")
        net(data=torch.zeros(4, 3, 64, 64), clip=torch.ones(4, 1))

    names = walk("caffe_compat")
    assert len(names) > 15
    assert first_calls(action, names) == names


@pytest.mark.filterwarnings("ignore::caffe_compat.errors.CaffeCompatWarning")  # the 2D poses here are made up
def test_a_frame_walks_as_the_page_says(tmp_path: Path) -> None:
    shipped = ROOT / "reference_outputs" / "synthetic_pose"
    machine = hpm.PoseMachine.from_caffe(shipped / "deploy.prototxt", shipped / "synthetic_pose.caffemodel")
    machine.save(tmp_path / "pose.pt")
    pictures = sorted((shipped / "data/h36m/images/S9_Walking_1_cam1").iterdir())[:5]
    keypoints = np.random.RandomState(0).uniform(10, 60, (5, 16, 2))

    def action() -> None:
        predict(
            pictures,
            tmp_path / "pose.pt",
            tmp_path / "out",
            keypoints=keypoints,
            allow_unverified=True,
            exports=[tmp_path / "out.npy"],
        )

    names = walk("hpm")
    assert len(names) > 15
    assert first_calls(action, names) == names
