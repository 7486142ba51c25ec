"""A released model: caffemodel and pickle hold the same weights, and the model gives its recorded outputs.

The authors' files cannot be had here. With their paths in the environment they are checked as the small model is:

    HPM_PROTOTXT     the definition (tools_deploy.prototxt)
    HPM_CAFFEMODEL   the weights (mask3d)
    HPM_PICKLE       the 12 arrays that the original refines with
    HPM_REFERENCE    FILE[:GROUP] of recorded outputs of real Caffe: batch_<k>/data, clip and blob/<name>
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from caffe_compat.parity.reference_files import split_reference
from hpm.files.projector_pickle import read_projector_pickle, write_projector_pickle
from hpm.model import PoseMachine
from hpm.parity_gate import read_projector
from hpm.projector import LAYERS

VARIABLES = ("HPM_PROTOTXT", "HPM_CAFFEMODEL", "HPM_PICKLE", "HPM_REFERENCE")


class Release(NamedTuple):
    machine: PoseMachine
    pickled: Path
    reference: str


@pytest.fixture(params=["small", "released"])
def release(request: pytest.FixtureRequest, reference: Path, tmp_path: Path) -> Release:
    if request.param == "released":
        given = [os.environ.get(name) for name in VARIABLES]
        if not all(given):
            pytest.skip(f"set {', '.join(VARIABLES)} to check the authors' files")
        prototxt, caffemodel, pickled, recorded = map(str, given)
        return Release(PoseMachine.from_caffe(prototxt, caffemodel), Path(pickled), recorded)
    folder = reference / "tiny_mask3d"
    machine = PoseMachine.from_caffe(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    write_projector_pickle(tmp_path / "refine.pkl", machine.projector)
    return Release(machine, tmp_path / "refine.pkl", str(folder / "tiny_mask3d.h5"))


def test_pickle_and_caffemodel_hold_the_same_weights(release: Release) -> None:
    ours, theirs = release.machine.projector.arrays(), read_projector_pickle(release.pickled).arrays()
    differ = [LAYERS[k // 2] for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not np.array_equal(a, b)]
    assert differ == []


def test_the_model_gives_its_recorded_outputs_and_refines(release: Release, tmp_path: Path) -> None:
    results = release.machine.verify(*split_reference(release.reference))
    assert [(r.name, r.first_failure) for r in results if not r.passed] == []
    release.machine.save(tmp_path / "model.pt")
    read_projector(release.pickled, verified_by=tmp_path / "model.pt")
