"""What answers at once: commands that have no need of torch do not import it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_compat import cli
from hpm import cli as hpm_cli

REFERENCE = Path(__file__).parents[2] / "reference_outputs"

# Runs a command line and lists, as the last line on stderr, which of some packages it imported.
RUN = """
import importlib, sys
program, *arguments = sys.argv[1:]
try:
    importlib.import_module(f"{program}.cli").main(arguments)
except SystemExit as leaving:
    status = leaving.code
heavy = ("torch", "scipy", "h5py", "numpy", "google.protobuf", "rich")
print(status, *[name for name in heavy if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["caffe_compat", "--help"], set()),
        (["caffe_compat", "--version"], set()),
        (["hpm", "--help"], set()),
        (["hpm", "--version"], set()),
        (["caffe_compat", "capture-script"], set()),
        (["caffe_compat", "dialects"], {"google.protobuf"}),
        (["caffe_compat", "dialects", "weiliu89/caffe@ssd"], {"google.protobuf", "rich"}),
        (["caffe_compat", "upgrade", "v1net.prototxt"], {"google.protobuf"}),
        (["caffe_compat", "upgrade", "v1net.caffemodel"], {"google.protobuf", "numpy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_imported(arguments: list[str], allowed: set[str], tmp_path: Path) -> None:
    program, command, *more = arguments
    if command == "upgrade":
        more = [str(REFERENCE / "formats" / more[0]), str(tmp_path / "new")]
    result = subprocess.run(
        [sys.executable, "-c", RUN, program, command, *more], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout
    status, *imported = result.stderr.splitlines()[-1].split()
    assert status == "0"
    assert set(imported) <= allowed


@pytest.mark.parametrize("group", [cli, hpm_cli], ids=["caffe-compat", "hpm"])
def test_the_list_of_commands_says_what_the_commands_say(group: object) -> None:
    """The list is shown without importing the commands, so its words stand elsewhere; they must be the same."""
    for name, (module, text) in group._COMMANDS.items():  # type: ignore[attr-defined]
        command = getattr(
            importlib.import_module(f"{group.__name__}.{module}"),  # type: ignore[attr-defined]
            name.replace("-", "_"),
        )
        assert command.get_short_help_str(1000) == text
        assert command.name == name


@pytest.mark.slow
def test_loading_imports_nothing_that_few_networks_need() -> None:
    model = str(REFERENCE / "formats" / "v1net")
    code = f"""
import sys
import torch
before = set(sys.modules)
import caffe_compat
caffe_compat.load({model!r} + ".prototxt", {model!r} + ".caffemodel")
heavy = ("scipy", "h5py", "cv2", "rich", "click", "converters", "hpm", "torch._inductor")
print([name for name in heavy if name in set(sys.modules) - before])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.slow
def test_importing_parses_no_schema() -> None:
    """Layers are registered by what forks mean, which their lists of layer types tell: no message of any is read."""
    code = """
import caffe_compat
from caffe_compat import layers, schema
print(schema.read_dialect.cache_info().misses, schema._bvlc_file.cache_info().misses)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["0", "0"]
