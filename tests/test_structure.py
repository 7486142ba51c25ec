"""The shape of the code: imports point one way, public names are exact and documented."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

import caffe_compat
from caffe_compat import errors

ROOT = Path(caffe_compat.__file__).parent.parent
PACKAGES = ("caffe_compat", "converters", "hpm")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "resources" not in path.parts
}


@functools.cache
def imported(name: str, path: Path, *, everywhere: bool = False) -> frozenset[str]:
    """Modules that module ``name`` imports when it is imported; with ``everywhere``, also those inside functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text()), everywhere):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            modules = {f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in MODULES}
            found |= modules
            if len(modules) < len(node.names):  # something of the package itself, too
                found.add(source)
    return frozenset(found)


def _statements(tree: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        yield node
        for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if for_types and not everywhere:  # what only type checkers read is not imported
            continue
        if everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(node, everywhere)


def within(names: Set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(package + ".")}


def test_there_are_modules() -> None:
    assert len(MODULES) > 150
    assert "caffe_compat.network.net" in imported("caffe_compat", MODULES["caffe_compat"], everywhere=True)
    assert "caffe_compat.network.registry" in imported(
        "caffe_compat.layers.bvlc.lrn", MODULES["caffe_compat.layers.bvlc.lrn"]
    )


# Who may import whom: a module imports from its own floor and from those below (above in this list). A room stands for
# all its modules, except for those that are listed themselves. A module that is not listed fails the test.
FLOORS = (
    ("collector", "display"),
    ("errors",),
    ("access", "extras", "formats", "parity.compare", "parity.precision", "parity.record", "parity.tolerance"),
    ("schema",),
    ("network", "network.randomness", "network.plugins", "network.rules", "network.names"),
    ("network.registry", "network.fillers"),
    ("network.guess",),
    ("network.python_registry",),
    ("layers",),
    ("network.definition", "network.sources", "network.python_config"),
    ("network.graph",),
    ("network.alike", "network.sharing", "network.program", "network.surroundings"),
    ("network.gradients", "network.running", "network.positional", "network.shared_sums"),
    ("network.building",),
    ("network.parts",),
    ("inference",),
    ("network.net",),
    ("network.filling", "network.checkpoint", "network.checkpoint_entries", "network.guessing"),
    ("network.loading", "parity", "training"),
    ("reports", "conversion", "tools", "extraction"),
    ("",),
    ("pycaffe", "testing", "cli", "__main__"),
)
FLOORS_OF_HPM = (
    ("arrays", "joint_orders", "skeleton", "bridging", "people", "scaling", "metrics", "limbs"),
    ("projector", "moments", "refine", "measured", "network_input"),
    ("files", "networks"),
    ("datasets", "detectors", "visualize", "parity_gate"),
    ("model", "streaming"),
    ("drivers",),
    ("",),
    ("cli", "__main__"),
)
# The converters lie on caffe_compat, the pose system on both; only command lines and tests of
# parity may look up, to find a format.
ALL_FLOORS = (
    *(tuple(f"caffe_compat.{n}" if n else "caffe_compat" for n in names) for names in FLOORS[:-1]),
    ("converters",),
    tuple(f"caffe_compat.{n}" for n in FLOORS[-1]),
    *(tuple(f"hpm.{n}" if n else "hpm" for n in names) for names in FLOORS_OF_HPM),
)
_ROOFS = ("caffe_compat", "hpm")  # the front doors: they stand for themselves, not for what lies in the package


@functools.cache
def floor(name: str) -> int:
    """The floor of a module; -1 if it is not listed."""
    part = name
    while part:
        for number, names in enumerate(ALL_FLOORS):
            if part in names and (part == name or part not in _ROOFS):
                return number
        part = part.rpartition(".")[0]
    return -1


def climbs(name: str, path: Path) -> set[tuple[str, str]]:
    """The imports of a module, inside functions too, that lead to a higher floor."""
    ours = {other for other in imported(name, path, everywhere=True) if other.partition(".")[0] in PACKAGES}
    return {(name, other) for other in ours if floor(other) > floor(name)}


def test_every_module_is_on_a_floor() -> None:
    assert [name for name in MODULES if floor(name) < 0] == []


def test_imports_point_one_way() -> None:
    assert [climb for name, path in MODULES.items() for climb in climbs(name, path)] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("caffe_compat.formats.wire", "from ..network import net"),
        ("caffe_compat.errors", "from .formats.files import open_file"),
        ("caffe_compat.schema.upgrade", "def f():\n    from ..network.registry import layer"),
        ("caffe_compat.layers.bvlc.lrn", "class A:\n    def f(self):\n        import caffe_compat.network.net"),
        ("caffe_compat.parity.cases", "from .. import load"),
        ("caffe_compat.network.loading", "if True:\n    import converters.pt2"),
        ("caffe_compat.inference.optimization", "def f():\n    from ..network.net import CaffeNet"),
        ("caffe_compat.pycaffe.io", "import hpm"),
        ("hpm.skeleton", "from .model import PoseMachine"),
        ("hpm.files.lists", "def f():\n    from ..cli.options import open_machine"),
        ("hpm.model", "from hpm import cli"),
        ("converters.pt2", "from caffe_compat.cli import main"),
    ],
)
def test_a_planted_climb_is_seen(name: str, line: str, tmp_path: Path) -> None:
    planted = tmp_path / MODULES[name].name
    planted.write_text(f"{MODULES[name].read_text()}\n{line}\n")
    assert climbs(name, planted)


def test_a_module_without_a_floor_is_seen() -> None:
    assert floor("caffe_compat.somewhere") == floor("hpm.somewhere") == floor("elsewhere") == -1


def test_no_circles() -> None:
    """No module needs itself, however long the way round."""
    graph = {name: imported(name, path, everywhere=True) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()
    while ready := [name for name, others in graph.items() if name not in done and others - {name} <= done]:
        done.update(ready)
    assert graph.keys() - done == set()


def test_the_library_imports_no_converter_until_asked() -> None:
    for name, path in MODULES.items():
        if name.startswith("caffe_compat"):
            assert not within(imported(name, path), "converters", "hpm"), name


def test_the_wire_needs_no_protobuf_and_the_text_no_torch() -> None:
    assert not within(
        imported("caffe_compat.formats.wire", MODULES["caffe_compat.formats.wire"], everywhere=True),
        "google",
        "torch",
        "h5py",
    )
    for name in ("formats.textformat", "schema.prototxt", "schema.upgrade", "formats.weights", "schema.infer"):
        full = f"caffe_compat.{name}"
        assert not within(imported(full, MODULES[full], everywhere=True), "torch"), name


def test_only_the_command_line_uses_its_tools() -> None:
    for name, path in MODULES.items():
        if not name.startswith(("caffe_compat.cli", "hpm.cli")):
            assert not within(imported(name, path, everywhere=True), "click", "rich"), name


def glued(path: Path) -> list[int]:
    """Lines where the text of an error is put together or cut apart, which its own attributes make needless."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign):
            targets = [target for target in node.targets if isinstance(target, ast.Attribute)]
            found += [node.lineno for target in targets if target.attr == "args" and _is_error(target.value)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CUTTERS:
            text = node.func.value
            if isinstance(text, ast.Call) and isinstance(text.func, ast.Name) and text.func.id == "str":
                found += [node.lineno for argument in text.args if _is_error(argument)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ERRORS and node.args:
            found += [node.lineno] * (_PLACE.match(_source(node.args[0])) is not None)
    return found


_CUTTERS = ("partition", "rpartition", "removeprefix", "removesuffix", "split", "startswith")
_ERRORS = frozenset(name for name in errors.__all__ if name.endswith("Error"))
# A place in front of a detail: "{path}: ", "line {number}: ", "layer {name!r} ({type}): ".
_PLACES = ("file", "folder", "model", "name", "path", "place", "root", "source", "weights", "where")
_PLACE = re.compile(
    r"(\{place\}|(layer|line|record|person|picture|frame|blob|action) \{\w*\})( \([^)]*\))?(, blob [^:]*)?: "
    r"|layer \{\w*\}( \([^)]*\))? "
)


def _is_error(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("error", "e", "exc", "exception", "err")


def _source(text: ast.expr) -> str:
    """A string with ``{}`` where it puts in something, ``{place}`` where that is called like a place."""
    parts = []
    for part in text.values if isinstance(text, ast.JoinedStr) else [text]:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            called = ast.unparse(part.value).rpartition(".")[2]
            parts.append("{place}" if called in _PLACES and part.conversion == -1 else "{}")
    return "".join(parts)


def test_no_error_is_glued() -> None:
    assert {name: lines for name, path in MODULES.items() if (lines := glued(path))} == {}


@pytest.mark.parametrize(
    "line",
    [
        'error.args = (f"{path}: {error}",)',
        'reason = str(error).removeprefix("x: ")',
        'raise LayerError(f"layer {name!r}: is odd", layer=name)',
        'raise FileError(f"line {n}: odd", path=path)',
        'raise UsageError(f"{path}: odd")',
        'raise WeightsError(f"layer {name!r} has no blobs")',
        'raise LayerError(f"layer {name!r} ({kind}), blob {blob}: odd")',
    ],
)
def test_planted_glue_is_seen(line: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(line)
    assert glued(planted) == [1]


# Who may write to a terminal, function by function; each passes its text through caffe_compat.display or is no text.
OUTLETS = {
    "caffe_compat.cli": {"_complain", "show"},
    "caffe_compat.cli.options": {"note", "say", "say_lines"},
    "caffe_compat.cli.tables": {"print_table"},
    "caffe_compat.cli.caffe_log": {"line"},
    "caffe_compat.cli.glog": {"log"},
    "caffe_compat.pycaffe.__main__": {"main"},
    "caffe_compat.pycaffe.runtime": {"log"},
    "caffe_compat.reports.survey": {"_serve"},  # to its parent process
    "converters.pt2": {"_quiet_failure"},  # torch's own words, held back meanwhile
}


def outlets(path: Path) -> set[str]:
    """Functions of a module that write to a terminal."""
    found: set[str] = set()
    text = path.read_text()
    if not _WRITES.search(text):  # which is most of them, told apart at once
        return found
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef):
            inner = {id(node) for child in ast.walk(function) if child is not function for node in _own(child)}
            for node in _own(function):
                if id(node) not in inner and isinstance(node, ast.Call) and _WRITES.fullmatch(ast.unparse(node.func)):
                    found.add(function.name)
    return found


_WRITES = re.compile(
    r"print|click\.(echo|secho)|sys\.(stdout|stderr)(\.buffer)?\.write|(self\._)?console\.print|_Console\(.*\)\.print"
)


def _own(function: ast.AST) -> Iterator[ast.AST]:
    if isinstance(function, ast.FunctionDef):
        for statement in function.body:
            yield from ast.walk(statement)


def test_what_users_see_has_few_ways_out() -> None:
    assert {name: found for name, path in MODULES.items() if (found := outlets(path))} == OUTLETS


def test_a_planted_outlet_is_seen(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    print(1)\ndef g():\n    def h():\n        click.echo('x')\n    return h\n")
    assert outlets(planted) == {"f", "h"}


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
    errors = {n for n in caffe_compat.errors.__all__ if inspect.isclass(getattr(caffe_compat.errors, n))}
    expected = {
        *("CaffeNet", "Conversion", "FileAccess", "Layer", "LayerSpec", "NetState", "Report"),
        *("convert", "layer", "load", "save", "verify"),
        *errors,
    }
    assert set(caffe_compat.__all__) == expected
    assert caffe_compat.__all__ == sorted(caffe_compat.__all__)
    for name in ("cli", "layers", "network", "parity", "pycaffe"):  # no room may take the place of a name
        importlib.import_module(f"caffe_compat.{name}")
    values = {name: getattr(caffe_compat, name) for name in dir(caffe_compat) if not name.startswith("_")}
    aside = {"TYPE_CHECKING", "Any", "annotations"}
    assert {name for name, value in values.items() if not inspect.ismodule(value)} - aside == expected
    with pytest.raises(AttributeError, match="module 'caffe_compat' has no attribute 'lod'"):
        _ = caffe_compat.lod


@pytest.mark.slow
def test_public_names_come_when_they_are_asked_for() -> None:
    code = """
import sys
import caffe_compat
before = "torch" in sys.modules
from caffe_compat import *
print(before, load.__module__, CaffeNet.__name__, "torch" in sys.modules)
"""
    assert _run(code).split() == ["False", "caffe_compat.network.loading", "CaffeNet", "True"]


@pytest.mark.slow
def test_a_layer_of_ones_own_meets_those_that_ship() -> None:
    """A second ReLU is refused where it is registered, whatever was imported before."""
    code = """
from caffe_compat import LayerError, layer
try:
    layer("ReLU")(print)
except LayerError as error:
    print(error)
"""
    assert _run(code).strip() == "layer type 'ReLU' is registered twice"


def test_every_module_and_public_name_is_documented() -> None:
    for name in MODULES:
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        assert module.__doc__, name
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            own = getattr(value, "__module__", "").startswith(PACKAGES)
            if own and (inspect.isclass(value) or inspect.isfunction(value)):
                assert inspect.getdoc(value), f"{name}.{public}"


@pytest.mark.slow
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
