"""Python classes that are built in: when they are taken, what a network with them says, and their configuration."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import caffe_compat
from caffe_compat.cli import main
from caffe_compat.errors import FileError, InputShapeError, LayerError, UsageError
from caffe_compat.layers.bvlc import python_layer
from caffe_compat.layers.bvlc.python_layer import Blob, PythonLayer, register_python_layer
from caffe_compat.network import python_registry
from caffe_compat.network.definition import read_definition
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.python_registry import Project, PythonSettings, PythonType
from caffe_compat.network.registry import Layer, LayerSpec
from caffe_compat.schema.prototxt import parse_message

ROOT = Path(__file__).parents[3]
OTHERS = Project(
    "them/others", "others.config", {"TRAIN.RATE": 0.5, "COUNT": 3, "DEEP": False, "SIZES": (1.0,)}, {"DIR"}
)
DATA = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'


class Scaled(Layer):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def scaled(spec: LayerSpec, settings: PythonSettings) -> Layer:
    assert settings.config(OTHERS, "COUNT") in (3, 4)
    return Scaled(settings.number("factor", 1) * settings.config(OTHERS, "TRAIN.RATE"))


def wide(spec: LayerSpec, settings: PythonSettings) -> Layer:
    return Scaled(settings.number("factor"))


def read(settings: PythonSettings, tops: Any) -> Any:
    return [(settings.whole("batch", 1), 3), None][: len(tops)]


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    python_registry.python_types()  # brings those that ship, which register once
    monkeypatch.setattr(python_layer, "_ADMITTED", {})
    monkeypatch.setattr(python_registry, "_TYPES", dict(python_registry._TYPES))
    python_registry.python_layer("others.scaled", "Scaled", bottoms=1, tops=1, project=OTHERS)(scaled)
    python_registry.python_layer("others.scaled", "Wide", bottoms=1, tops=1, verified=False)(wide)
    python_registry.python_source("others.read", "Read", tops=(1, 2), project=OTHERS)(read)


def python(cls: str = "Scaled", told: str = "", *, bottoms: str = 'bottom: "x"', tops: str = 'top: "y"') -> str:
    module = "others.read" if cls == "Read" else "others.scaled"
    params = f'module: "{module}" layer: "{cls}" param_str: "{told}"'
    return f'{DATA} layer {{ name: "l" type: "Python" {bottoms} {tops} python_param {{ {params} }} }}'


def net(text: str, **options: Any) -> CaffeNet:
    return CaffeNet(parse_message(text).message, **options).materialize()


def test_a_class_that_is_built_in_needs_no_code_and_says_so() -> None:
    built = net(python(told="factor: 3"))
    assert built(x=torch.ones(1, 2))["y"].tolist() == [[1.5, 1.5]]
    assert built.notes == [
        "layer 'l' (Python): others.scaled.Scaled is built in: no code of the network's is run; of them/others's "
        "configuration it has the defaults"
    ]
    assert net(python(told="cfg: {TRAIN: {RATE: 2}, COUNT: 4}")).notes[0].endswith("it has COUNT 4, TRAIN.RATE 2")
    assert net(python("Wide", "factor: 2")).notes == [
        "layer 'l' (Python): others.scaled.Wide is built in: no code of the network's is run",
        "layer 'l' (Python): others.scaled.Wide was never compared with outputs of the original",
    ]
    again = pickle.loads(pickle.dumps(built))
    assert torch.equal(again(x=torch.ones(1, 2))["y"], copy.deepcopy(built)(x=torch.ones(1, 2))["y"])


class Theirs(PythonLayer):
    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(1, 2)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].data[...] = -1 if self.param_str == self.param_str_ else 0


def test_the_users_own_class_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "__init__.py").write_text("")
    (tmp_path / "others" / "scaled.py").write_text("from test_python_registry import Theirs as Scaled")
    monkeypatch.setitem(sys.modules, "test_python_registry", sys.modules[__name__])
    x = torch.ones(1, 2)
    assert net(python(), allow_python=True)(x=x)["y"].tolist() == [[0.5, 0.5]]  # there is no such module
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert net(python())(x=x)["y"].tolist() == [[0.5, 0.5]]
        assert "others" not in sys.modules
        assert net(python(), allow_python=True)(x=x)["y"].tolist() == [[-1, -1]]
        assert net(python())(x=x)["y"].tolist() == [[-1, -1]]  # now it is imported
    finally:
        for name in ("others", "others.scaled"):
            sys.modules.pop(name, None)
    register_python_layer("Scaled")(Theirs)
    assert net(python())(x=x)["y"].tolist() == [[-1, -1]]


def test_a_class_of_ones_own_may_read_data(monkeypatch: pytest.MonkeyPatch) -> None:
    text = python("Read", bottoms="")
    assert net(text).input_names == ("x", "y")
    brought = types.ModuleType("others.read")
    brought.Read = Theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "others.read", brought)
    assert net(text).input_names == ("x",)
    assert net(text)(x=torch.ones(1, 2))["y"].tolist() == [[-1, -1]]


def test_a_configuration_that_is_imported_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "others.config", types.ModuleType("others.config"))
    with pytest.raises(LayerError, match=r"the module 'others.config' is imported, .*--python-config"):
        net(python())


def test_sources_are_inputs() -> None:
    built = net(python("Read", "batch: 5", bottoms=""))
    assert built.input_shapes == {"x": (1, 2), "y": (5, 3)}
    assert built.notes == ["data layer 'l' (Python) became the input y=5,3"]
    with pytest.raises(InputShapeError, match=r"shape of input z .layer 'l', Python. is not in the file"):
        net(python("Read", bottoms="", tops='top: "y" top: "z"'))
    with pytest.raises(LayerError, match=r"others.read.Read takes 0 bottoms and 1 to 2 tops, found 1 and 1"):
        net(python("Read"))
    with pytest.raises(LayerError, match="param_str says 'size', which this layer does not know; it reads batch"):
        net(python("Read", "size: 5", bottoms=""))
    with pytest.raises(LayerError, match="batch is 'x'; a whole number from 1 on was expected"):
        net(python("Read", "batch: x", bottoms=""))


def test_meanings_of_a_name_differ_in_bottoms_and_tops() -> None:
    def two(spec: LayerSpec, settings: PythonSettings) -> Layer:
        return Scaled(7)

    python_registry.python_layer("others.scaled", "Scaled", bottoms=1, tops=2)(two)
    assert net(python())(x=torch.ones(1, 2))["y"].tolist() == [[0.5, 0.5]]
    with pytest.raises(LayerError, match="makes 1 tops, the definition names 2"):
        net(python(tops='top: "y" top: "z"'))
    with pytest.raises(LayerError, match="Scaled takes 1 bottoms and 1 tops or 1 bottoms and 2 tops, found 2 and 1"):
        net(python(bottoms='bottom: "x" bottom: "x"'))
    with pytest.raises(LayerError, match=r"others.scaled.Scaled is registered twice"):
        python_registry.python_layer("others.scaled", "Scaled", bottoms=1, tops=2)(two)


def settings(text: str) -> PythonSettings:
    return PythonSettings(text, layer="l")


def test_settings() -> None:
    told = settings("{a: 2, b: [1, 2.5], c: word, d: 3.5, cfg: {COUNT: 7, TRAIN: {RATE: 1}, SIZES: [2, 3]}}")
    assert (told.whole("a"), told.numbers("b"), told.word("c"), told.number("d")) == (2, (1, 2.5), "word", 3.5)
    assert (told.whole("x", 4), told.numbers("a"), told.get("y", None)) == (4, (2,), None)
    assert [told.config(OTHERS, key) for key in OTHERS.defaults] == [1.0, 7, False, (2, 3)]
    assert told.differing == "TRAIN.RATE 1, COUNT 7, SIZES [2, 3]"
    told.check_all_read()
    for read, problem in (
        (lambda: told.word("a"), "a is 2; a text was expected"),
        (lambda: told.numbers("b", count=3), r"b is \[1, 2.5\]; 3 numbers were expected"),
        (lambda: told.number("c"), "c is 'word'; a number was expected"),
        (lambda: told.whole("a", least=3), "a is 2; a whole number from 3 on was expected"),
        (lambda: told.get("z"), r"param_str has no 'z', which this layer needs \(it has a, b, c, d, cfg\)"),
        (lambda: settings("cfg: {DEEP: 1}").config(OTHERS, "DEEP"), "cfg: DEEP is 1; True or False was expected"),
        (lambda: settings("cfg: {COUNT: 1.5}").config(OTHERS, "COUNT"), "cfg: COUNT is 1.5; a whole number"),
        (lambda: settings("cfg: {SIZES: 3}").config(OTHERS, "SIZES"), "cfg: SIZES is 3; a list of numbers"),
    ):
        with pytest.raises(LayerError, match=f"layer 'l' .Python.: {problem}"):
            read()


def test_a_configuration_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, config = tmp_path / "net.prototxt", tmp_path / "config.yml"
    path.write_text(python(told="factor: 3"))
    config.write_text("DIR: /tmp\nTRAIN:\n  RATE: 4\nCOUNT: 4")
    given: tuple[Any, ...] = (config, str(config), {"TRAIN": {"RATE": 4}}, {"TRAIN.RATE": 4, "DIR": "x"})
    for told in given:
        built = caffe_compat.load(path, python_config=told)
        assert built(x=torch.ones(1, 2))["y"].tolist() == [[12, 12]]
    # What the layer itself says stays, and a file that is written from it has all there is to know.
    path.write_text(python(told="factor: 3\\ncfg: {TRAIN.RATE: 5}"))
    message = read_definition(path, python_config=config).message
    assert CaffeNet(message)(x=torch.ones(1, 2))["y"].tolist() == [[15, 15]]
    with pytest.raises(SystemExit):
        main(["inspect", str(path), "--python-config", str(config)])
    told = "no code of the network's is run; of them/others's configuration it has COUNT 4, TRAIN.RATE 5"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"TRAIN": {"PACE": 1}}, "the configuration has TRAIN.PACE, which is no key of them/others"),
        ({"COUNT": "many"}, "the configuration has 'many' for COUNT; a whole number was expected"),
    ],
)
def test_configurations_that_make_no_sense(tmp_path: Path, config: Any, problem: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(python())
    with pytest.raises(UsageError, match=problem):
        caffe_compat.load(path, python_config=config)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path, config = tmp_path / "net.prototxt", tmp_path / "config.yml"
    path.write_text(python())
    for text, problem in ((b"- 1", "is no configuration"), (b"\xff\xfe", "is no text"), (b"a: *x", "line 1: ")):
        config.write_bytes(text)
        with pytest.raises(FileError, match=f"config.yml: {problem}"):
            caffe_compat.load(path, python_config=config)
    with pytest.raises(FileError, match=r"absent\.yml"):
        caffe_compat.load(path, python_config=tmp_path / "absent.yml")
    config.write_text("COUNT: 4")
    path.write_text(DATA + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    with pytest.raises(UsageError, match=r"config\.yml: .*built in, and the network has none"):
        caffe_compat.load(path, python_config=config)
    path.write_text(python(told="["))
    with pytest.raises(UsageError, match=r"layer .l. .Python.: cannot be configured: param_str: "):
        caffe_compat.load(path, python_config=config)


def test_every_class_is_sound() -> None:
    types_ = [entry for entry in python_registry.python_types() if not entry.module.startswith("others.")]
    assert {"rpn.proposal_layer.ProposalLayer", "roi_data_layer.layer.RoIDataLayer"} <= {t.full_name for t in types_}
    for entry in types_:
        assert isinstance(entry, PythonType)
        assert (entry.build is None) != (entry.shapes is None)
        known = entry.project.defaults if entry.project else {}
        assert not set(known) & set(entry.project.elsewhere if entry.project else ())


def test_the_page_lists_every_class() -> None:
    spec = importlib.util.spec_from_file_location("python_layers", ROOT / "scripts" / "python_layers.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    ours = "".join(line for line in script.table().splitlines(keepends=True) if "`others." not in line)
    page = (ROOT / "docs" / "python-layers.md").read_text(encoding="utf-8")
    assert page.endswith(ours), "run scripts/python_layers.py"
