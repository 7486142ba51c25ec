"""``pytest --parity``: what it collects, and what a failing test shows."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

import converters
from caffe_compat import load, verify
from caffe_compat.cli import main
from tests.networks import write_weights

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
FORMATS = ROOT / "reference_outputs" / "formats"

SUITE = """
[[models]]
name = "v1"
prototxt = "v1net.prototxt"
weights = "v1net.caffemodel"
reference = "formats.h5:v1net"
"""


class KeptModules:
    """What runs in this process import stays imported, but for the modules of the projects that they test.

    pytester takes it out of ``sys.modules`` after each run, and once more after the test; an extension module, such as
    numpy's, then refuses to be loaded a second time, or ends the process.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}

    def pytest_unconfigure(self) -> None:
        """As a plugin of a run: remember what is there when it ends."""
        self.take()

    def take(self) -> None:
        self._modules |= sys.modules

    def put_back(self, folder: Path) -> None:
        """All but what lies below ``folder``."""
        for name, module in self._modules.items():
            if not str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                sys.modules.setdefault(name, module)


KEPT = KeptModules()


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptModules]:
    yield KEPT
    KEPT.put_back(tmp_path_factory.getbasetemp())


@pytest.fixture
def pytester(kept: KeptModules, pytester: pytest.Pytester) -> Iterator[pytest.Pytester]:
    """pytest's own, whose end takes no module away: ``kept`` ends later."""
    yield pytester
    kept.take()


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a model, its reference and a parity.toml."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("v1net.prototxt", "v1net.caffemodel"):
        shutil.copy(FORMATS / name, pytester.path)
    shutil.copy(FORMATS.parent / "formats.h5", pytester.path)
    pytester.path.joinpath("parity.toml").write_text(SUITE)
    return pytester


def run(project: pytest.Pytester, *arguments: str, alone: bool = False) -> pytest.RunResult:
    """Run pytest there: in this process, which has torch, or in one of its own."""
    # Where the distribution is installed, pytest finds the plugin by itself.
    installed = metadata.entry_points(group="pytest11", name="caffe-compat")
    words = (*(() if installed else ("-p", "caffe_compat_pytest")), "-p", "no:cacheprovider", *arguments)
    if alone:
        return project.runpytest_subprocess(*words)
    try:
        return project.runpytest_inprocess(*words, plugins=[KEPT])
    finally:
        KEPT.put_back(project.path)


def extend(project: pytest.Pytester, *lines: str) -> None:
    with project.path.joinpath("parity.toml").open("a") as file:
        file.write("\n".join([*lines, ""]))


def test_a_model_in_several_forms(project: pytest.Pytester) -> None:
    extend(project, 'formats = ["net", "pt"]', "optimize = [false, true]")
    result = run(project, "--parity", "parity.toml", "-v")
    result.assert_outcomes(passed=4)
    for form in ("net-cpu-float32", "net-cpu-float32-optimized", "pt-cpu-float32", "pt-cpu-float32-optimized"):
        result.stdout.fnmatch_lines([f"parity.toml::v1[[]{form}[]] PASSED*"])


# Exporting a program of torch takes seconds.
@pytest.mark.parametrize("kind", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_an_exported_file_and_a_format(project: pytest.Pytester, kind: str) -> None:
    converters.export(load(FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel"), project.path / f"v1.{kind}")
    with h5py.File(project.path / "formats.h5") as file:
        np.save(project.path / "x.npy", np.array(file["v1net/input"]))
    extend(project, f'formats = ["{kind}"]', "[[models]]", 'name = "file"', f'model = "v1.{kind}"')
    extend(project, 'inputs = { data = "x.npy" }', 'reference = "formats.h5:v1net"')
    result = run(project, "--parity", "parity.toml", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [f"parity.toml::{name}[[]{kind}-cpu-float32[]] PASSED*" for name in ("v1", "file")],
    )


@pytest.mark.slow
def test_the_stored_networks(pytester: pytest.Pytester) -> None:
    run(pytester, "--parity", str(ROOT / "parity.toml")).assert_outcomes(passed=11)


def test_names_choose_and_reports_know_them(project: pytest.Pytester) -> None:
    extend(project, 'formats = ["net", "pt"]')
    result = run(project, "--parity", "parity.toml", "-k", "pt", "--junitxml", "report.xml")
    result.assert_outcomes(passed=1, deselected=1)
    report = project.path.joinpath("report.xml").read_text()
    assert 'name="v1[pt-cpu-float32]"' in report
    assert 'tests="1"' in report


@pytest.mark.slow  # three processes, two of which import torch
def test_in_several_processes(project: pytest.Pytester) -> None:
    extend(project, 'formats = ["net", "pt"]')
    run(project, "--parity", "parity.toml", "-n", "2", alone=True).assert_outcomes(passed=2)


def test_beside_a_projects_own_tests(project: pytest.Pytester) -> None:
    project.makepyfile(test_own="def test_own(): pass")
    run(project, "--parity=parity.toml").assert_outcomes(passed=2)
    run(project).assert_outcomes(passed=1)


def test_the_table_of_a_pyproject(project: pytest.Pytester) -> None:
    table = SUITE.replace("[[models]]", "[[tool.caffe_compat.parity.models]]")
    project.path.joinpath("pyproject.toml").write_text(table)
    run(project, "--parity").assert_outcomes(passed=1)


def change_weights(path: Path) -> None:
    """Make the weights of the first layer one hundredth larger."""
    net = load(path.with_suffix(".prototxt"), path)
    blobs = [
        (node.name, [blob.detach().numpy() for blob in net.blobs_of(node.module_name).values()])
        for node in net.nodes_with_blobs()
    ]
    blobs[0][1][0] *= 1.01
    write_weights(path, blobs)


def test_changed_weights(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    change_weights(project.path / "v1net.caffemodel")
    result = run(project, "--parity", "parity.toml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "v1[[]net-cpu-float32[]] does not give what *formats.h5:v1net holds",
            "the first blob in execution order that departs is 'conv1', 2x6x8x8, written by 'conv1' (Convolution), *",
            "it is off by 9.9e-03 of the largest value, where 1e-04 is allowed",
            "case * blob *",
            "*conv1 *FAIL*",
            "To see it again: caffe-compat verify *v1net.prototxt *v1net.caffemodel --reference *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    command = next(line for line in result.outlines if line.startswith("To see it again: ")).partition(": ")[2]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(shlex.split(command)[1:])
    assert exit.value.code == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_tolerance_of_ones_own(project: pytest.Pytester) -> None:
    change_weights(project.path / "v1net.caffemodel")
    extend(project, "tolerance = 0.05")
    run(project, "--parity", "parity.toml").assert_outcomes(passed=1)


def test_half_precision_says_how_far_off_it_may_be(project: pytest.Pytester) -> None:
    extend(project, 'precisions = ["float32", "bfloat16"]', "tolerance = { bfloat16 = 0.05 }")
    run(project, "--parity", "parity.toml").assert_outcomes(passed=2)
    extend(project, "[[models]]", 'model = "x.pt"', 'reference = "x.h5"', 'precisions = ["float16"]')
    result = run(project, "--parity", "parity.toml")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*models[[]1[]] (x): float16 has no tolerance; *"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('reference = "gone.h5"', "*gone.h5*No such file*"),
        ('weights = "gone.caffemodel"', "*gone.caffemodel*No such file*"),
        ('formats = ["onyx"]', "*no format 'onyx'*"),
    ],
)
def test_what_is_missing_is_one_line(project: pytest.Pytester, line: str, message: str) -> None:
    key = line.partition(" ")[0]
    text = "\n".join(row for row in SUITE.splitlines() if not row.startswith(key + " "))
    project.path.joinpath("parity.toml").write_text(f"{text}\n{line}\n")
    result = run(project, "--parity", "parity.toml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_suite_that_makes_no_sense(project: pytest.Pytester) -> None:
    extend(project, "tolerence = 1e-3")
    result = run(project, "--parity", "parity.toml")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*models[[]0[]] has no key 'tolerence'; did you mean 'tolerance'?*"])


def test_a_suite_that_is_not_there(project: pytest.Pytester) -> None:
    result = run(project, "--parity", "gone.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --parity gone.toml: no such file"])


def test_fixtures(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_own="""
        import torch

        def test_right(parity, caffe_net):
            net = caffe_net("v1net.prototxt", "v1net.caffemodel")
            assert caffe_net("v1net.prototxt", "v1net.caffemodel") is net
            assert parity(net, "formats.h5:v1net", tolerance=1e-5).ok
            parity(net.optimize(), "formats.h5:v1net")

        def test_wrong(parity, caffe_net):
            net = caffe_net("v1net.prototxt", "v1net.caffemodel")
            with torch.no_grad():
                net.conv1.weight.mul_(1.01)
            parity(net, "formats.h5:v1net")
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*conv1 *FAIL*"])


def test_it_does_nothing_unless_asked(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        """
        import sys

        def test_unrelated():
            heavy = ("torch", "numpy", "caffe_compat", "converters", "hpm")
            assert [name for name in heavy if name in sys.modules] == []
        """
    )
    run(pytester, alone=True).assert_outcomes(passed=1)


FOLDS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "scaled"
  scale_param { filler { type: "constant" value: 0.5 } } }
"""


def test_an_inference_form_is_compared_in_the_blobs_it_still_has(tmp_path: Path) -> None:
    tmp_path.joinpath("net.prototxt").write_text(FOLDS)
    net = load(tmp_path / "net.prototxt", seed=0)
    recorded = net.run({"data": np.random.RandomState(0).rand(2, 3, 6, 6)}, blobs="all")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for name, blob in recorded.items():
            file[f"blob/{name}"] = blob.numpy()
    assert [blob.name for blob in verify(net, tmp_path / "net.h5").blobs] == ["data", "conv", "scaled"]
    folded = verify(net.optimize(), tmp_path / "net.h5")
    assert folded.ok
    assert [blob.name for blob in folded.blobs] == ["data", "scaled"]
    assert folded.results[0].skipped == ["conv: folded into another layer"]
