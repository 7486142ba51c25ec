"""The shape of the code: imports point one way, public names are exact and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import caffe_compat

ROOT = Path(caffe_compat.__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "caffe_compat").rglob("*.py"))
    if "resources" not in path.parts
}


def imported(name: str, path: Path, *, everywhere: bool = False) -> set[str]:
    """Modules that module ``name`` imports when it is imported; with ``everywhere``, also those inside functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text()), everywhere):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.add(source)
            found.update(f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in MODULES)
    return found


def _statements(tree: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        yield node
        if everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(node, everywhere)


def within(names: set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(package + ".")}


def test_there_are_modules() -> None:
    assert len(MODULES) > 40
    assert "caffe_compat.net" in imported("caffe_compat", MODULES["caffe_compat"])
    assert "caffe_compat.registry" in imported("caffe_compat.layers.lrn", MODULES["caffe_compat.layers.lrn"])


@pytest.mark.parametrize("name", MODULES)
def test_the_library_knows_neither_the_pose_system_nor_the_converters(name: str) -> None:
    assert not within(imported(name, MODULES[name], everywhere=True), "hpm")
    assert not within(imported(name, MODULES[name]), "converters")
    if not name.startswith("caffe_compat.cli"):
        assert not within(imported(name, MODULES[name], everywhere=True), "converters")


def _stage(name: str) -> int:
    """How far down the stream a module lies; none may import from further down."""
    for stage, names in enumerate(STREAM):
        if any(name == f"caffe_compat.{n}" or name.startswith(f"caffe_compat.{n}.") for n in names):
            return stage
    return -1


# bytes -> wire / prototxt -> schema -> upgrade -> layers -> net -> checkpoint, parity -> command line
STREAM = (
    ("errors", "cxx_format", "imagesize"),
    ("files", "access", "extras", "unknown", "textformat", "randomness"),
    ("wire", "schema"),
    ("prototxt", "weights", "params"),
    ("upgrade", "fillers", "registry"),
    ("definition", "graph", "layers", "preprocess", "plugins"),
    ("sources",),
    ("net", "optimization"),
    ("checkpoint", "filling", "parity", "cost"),
    ("loading", "inspection", "survey"),
    ("cli", "__main__"),
)


@pytest.mark.parametrize("name", [name for name in MODULES if _stage(name) >= 0])
def test_imports_point_one_way(name: str) -> None:
    later = {other for other in imported(name, MODULES[name], everywhere=True) if _stage(other) > _stage(name)}
    assert later == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("caffe_compat.layers.")])
def test_layers_know_no_net(name: str) -> None:
    forbidden = ("net", "graph", "definition", "loading", "checkpoint", "parity", "solver", "cli", "prototxt")
    assert not within(imported(name, MODULES[name], everywhere=True), *(f"caffe_compat.{n}" for n in forbidden))


def test_the_wire_needs_no_protobuf_and_the_text_no_torch() -> None:
    assert not within(
        imported("caffe_compat.wire", MODULES["caffe_compat.wire"], everywhere=True), "google", "torch", "h5py"
    )
    for name in ("textformat", "prototxt", "upgrade", "weights", "schema.infer"):
        full = f"caffe_compat.{name}"
        assert not within(imported(full, MODULES[full], everywhere=True), "torch"), name


def test_only_the_command_line_uses_its_tools() -> None:
    for name, path in MODULES.items():
        if not name.startswith("caffe_compat.cli"):
            assert not within(imported(name, path, everywhere=True), "click", "rich"), name


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


def test_importing_stays_out_of_other_peoples_way() -> None:
    """Nothing in protobuf's global pool, where a real caffe_pb2 may live, and nothing imported that is not needed."""
    code = """
import sys
import caffe_compat
from caffe_compat.schema import load_schema
load_schema(); load_schema("chanyn/3Dpose_ssl")
from google.protobuf import descriptor_pool, descriptor_pb2
pool = descriptor_pool.Default()
for name in ("caffe.NetParameter", "caffe.LayerParameter", "NetParameter"):
    try:
        pool.FindMessageTypeByName(name)
        print("registered", name)
    except KeyError:
        pass
own = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
own.message_type.add(name="NetParameter").field.add(name="mine", number=1, type=5, label=1)
pool.Add(own) if hasattr(pool, "Add") else pool.AddSerializedFile(own.SerializeToString())
print(*[m for m in ("hpm", "converters", "click", "rich", "cv2", "matplotlib", "scipy", "onnx") if m in sys.modules])
"""
    assert _run(code).split() == []


def test_public_names_are_exact() -> None:
    expected = [
        *("CaffeCompatError", "CaffeCompatWarning", "CaffeNet", "FileAccess", "Layer", "LayerSpec", "NetState"),
        *("layer", "load"),
    ]
    assert sorted(caffe_compat.__all__) == sorted(expected)
    here = {
        n
        for n, v in vars(caffe_compat).items()
        if not n.startswith("_") and not inspect.ismodule(v) and n != "annotations"
    }
    assert here == set(expected)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_and_public_name_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        own = getattr(value, "__module__", "").startswith("caffe_compat")
        if own and (inspect.isclass(value) or inspect.isfunction(value)):
            assert inspect.getdoc(value), f"{name}.{public}"


def test_no_module_hides() -> None:
    """Every module can be imported from a fresh start, whatever was imported before."""
    names = [
        name
        for _, name, _ in pkgutil.iter_modules([str(ROOT / "caffe_compat")], "caffe_compat.")
        if "__main__" not in name
    ]
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(len(sys.argv) - 1)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *reversed(names)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.strip() == str(len(names)), result.stderr
