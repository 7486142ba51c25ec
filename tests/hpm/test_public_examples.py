"""Every public name of hpm has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

import hpm
from hpm.datasets.synthetic import SyntheticOptions, write
from tests.hpm.datasets.human36m_files import Recordings

MODULES = ("hpm", "hpm.metrics", "hpm.skeleton", "hpm.drivers.prepare")


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module offers that can have a docstring of its own."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            yield f"{module.__name__}.{name}", value


NAMES = dict(pair for name in MODULES for pair in _public(importlib.import_module(name)))


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples speak of, from the small network that ships."""
    place, shipped = tmp_path_factory.mktemp("examples"), reference / "synthetic_pose"
    for name, source in (
        ("deploy.prototxt", "deploy.prototxt"),
        ("mask3d.caffemodel", "synthetic_pose.caffemodel"),
        ("recorded.h5", "outputs.h5"),
    ):
        shutil.copy(shipped / source, place / name)
    shutil.copytree(shipped / "data", place / "data")
    model, data = place / "mask3d.pt", place / "data"
    hpm.convert(
        place / "deploy.prototxt",
        place / "mask3d.caffemodel",
        output=model,
        reference=place / "recorded.h5",
        bounds=data / "16point_mean_limb_scaled_max_min.csv",
    )
    hpm.coarse_files(model, data, place / "coarse", actions=[13])
    hpm.refine_files(model, data, place / "refined", coarse=place / "coarse", pose2d="gt", actions=[13])
    shutil.copytree(next(data.glob("h36m/images/S9_Walking_1_cam1")), place / "walk")
    few = SyntheticOptions(
        subjects=("S1",), takes=1, frames=4, test_frames=1, run=2, singles=2, image_size=56, actions=("Walking",)
    )
    write(few, place / "made")
    Recordings({("S1", "Walking 1"): 11, ("S9", "Walking 1"): 11}).videopose(place)
    _write_mpii(place)
    _write_kth(place / "football")
    return place


def _write_mpii(place: Path) -> None:
    joints = np.random.default_rng(0).uniform(50, 250, (16, 2)).tolist()
    entry = {"image": "a.jpg", "joints": joints, "joints_vis": [1] * 16}
    (place / "train.json").write_text(json.dumps([entry]))
    (place / "mpii").mkdir()
    cv2.imwrite(str(place / "mpii" / "a.jpg"), np.full((300, 300, 3), 80, np.uint8))


def _write_kth(place: Path) -> None:
    rng = np.random.default_rng(0)
    pose, cameras = rng.uniform(0, 1, (2, 14, 3)), rng.uniform(1, 80, (2, 3, 2, 4))
    points = np.einsum("tcij,tnj->tcni", cameras[..., :3], pose) + cameras[:, :, None, :, 3]
    place.mkdir()
    for name, values in (("positions2d", points), ("positions3d", pose), ("cameras", cameras.swapaxes(2, 3))):
        np.savetxt(place / f"{name}.txt", values.ravel())


@pytest.mark.parametrize("name", NAMES)
def test_it_has_an_example_that_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    value, out = NAMES[name], io.StringIO()
    globs = {**vars(inspect.getmodule(value)), "hpm": hpm, "np": np}
    found = [test for test in doctest.DocTestFinder().find(value, name, globs=globs) if test.examples]
    assert found, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in found:
        runner.run(test, out=out.write, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, out.getvalue()


def test_what_is_public() -> None:
    assert {name.rpartition(".")[0] for name in NAMES} == set(MODULES)
    assert os.environ.get("PYTHONOPTIMIZE", "0") in ("", "0", "1")  # docstrings are there
