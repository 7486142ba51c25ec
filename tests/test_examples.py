"""What a script writes: the examples in the documentation of every public name, and the front door as a whole."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import caffe_compat
import converters
from caffe_compat.network.registry import _TYPES

ROOT = Path(__file__).parent.parent
PUBLIC = [(package, name) for package in (caffe_compat, converters) for name in package.__all__]


def examples(package: ModuleType, name: str) -> list[doctest.DocTest]:
    """The examples of a public name and, of a class, of its own methods."""
    value = getattr(package, name)
    home = sys.modules[value.__module__]
    found = doctest.DocTestFinder(exclude_empty=True).find(value, name, module=home, globs=dict(vars(home)))
    return [test for test in found if test.examples]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=[f"{p.__name__}.{n}" for p, n in PUBLIC])
def test_examples_run(package: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the examples read what ships in reference_outputs/
    value = getattr(package, name)
    found = examples(package, name)
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        assert found, f"{package.__name__}.{name} has no example"
    report: list[str] = []
    monkeypatch.setattr("caffe_compat.network.registry._TYPES", {**_TYPES})
    for test in found:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=report.append)
        assert runner.summarize(verbose=False).failed == 0, "".join(report)


SCRIPT = """
import sys
import torch
import caffe_compat

tiny, out = "reference_outputs/tiny_mask3d", sys.argv[1]
conversion = caffe_compat.convert(
    f"{tiny}/deploy.prototxt", f"{tiny}/tiny_mask3d.caffemodel", reference=f"{tiny}/tiny_mask3d.h5"
)
print(conversion.report.summary())
caffe_compat.save(conversion, f"{out}/verified.pt")
net = caffe_compat.load(f"{out}/verified.pt")
assert caffe_compat.verify(net, f"{tiny}/tiny_mask3d.h5").ok
optimizer = torch.optim.SGD(net.param_groups(lr=1e-3, weight_decay=5e-4))
frames, clip = torch.rand(net.input_shapes["data"]), torch.ones(net.input_shapes["clip"])
torch.nn.functional.mse_loss(net(frames, clip)["project_2d"], torch.zeros(4, 32)).backward()
optimizer.step()
caffe_compat.save(net, f"{out}/tuned.pt")
report = caffe_compat.verify(f"{out}/tuned.pt", f"{tiny}/tiny_mask3d.h5")
print(report.ok, report.first_departing.name)
"""


@pytest.mark.slow
def test_a_script_of_twenty_lines(tmp_path: Path) -> None:
    """It converts, verifies, fine-tunes one step and saves through the front door alone."""
    assert len(SCRIPT.strip().splitlines()) <= 20
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    before, after = result.stdout.splitlines()
    assert before.startswith("2 of 2 passed, 78 blobs compared, worst relative error ")
    assert after == "False conv1_1"  # fine-tuned from the first layer on
