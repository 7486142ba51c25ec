"""TEST phases of three pose networks, batch after batch with carried state, against what the original computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet
from caffe_compat.access import FileAccess
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.parity.compare import compare
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.parity.tolerance import NET_TOLERANCE
from hpm.networks import NetworkOptions, define
from tests.hpm.seeded import seeded_net

# Recorded group, our network, and the CSV files by the name they were recorded under.
RUNS = {
    "mask3d_test": ("mask3d", {"unnorm_csv": "mask3d_test_unnorm.csv", "change_csv": "mask3d_test_change_unnorm.csv"}),
    "template_16_merge": (
        "template_16_merge",
        {f"{kind}_csv": f"template_16_merge_{kind}.csv" for kind in ("norm", "unnorm")}
        | {"change_csv": "template_16_merge_change_unnorm.csv"},
    ),
    "bilstm_test": ("2d_to_3d", {}),
}


def _net(name: str, reference: Path, device: torch.device) -> CaffeNet:
    network, files = RUNS[name]
    options = NetworkOptions(image_size=64, bounds="max_min.csv", **files)  # type: ignore[arg-type]  # names of files alone
    return seeded_net(define(network, options), files=FileAccess(reference)).to(device)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_batches_with_carried_state(reference: Path, name: str, device: torch.device) -> None:
    net = _net(name, reference, device)
    with open_hdf5(reference / "hpm_test_phase.h5") as file, ieee_float32():
        group = file[name]
        batches = sorted(group)
        assert batches == [f"batch_{k}" for k in range(len(batches))]
        assert len(batches) >= 2
        for batch in batches:
            stored = {blob: np.asarray(group[batch][blob]) for blob in group[batch]}
            label = np.concatenate(
                [stored[part].reshape(len(stored["data"]), -1) for part in ("label2d", "label3d", "clip")], 1
            )
            values = net.run({"data": stored["data"], "label_clip": label}, blobs=list(stored))
            results = [compare(f"{batch}/{blob}", values[blob], x, NET_TOLERANCE) for blob, x in stored.items()]
            assert [(r.name, r.max_abs, r.problem) for r in results if not r.passed] == []
        expected = {key[5:]: str(text) for key, text in group.attrs.items() if key.startswith("file:")}
    for path, text in expected.items():
        _compare_csv(path, net.files.written[path], text)


def _compare_csv(path: str, ours: str, theirs: str) -> None:
    """The same layout line by line, millimetres within 0.02, normalised values within 1e-5."""
    our_rows, their_rows = ([line.split(",") for line in text.splitlines()] for text in (ours, theirs))
    assert [row[0] for row in our_rows] == [row[0] for row in their_rows]
    assert {len(row) for row in our_rows + their_rows} == {49}
    assert ours.endswith("\n") == theirs.endswith("\n")
    our_values, their_values = (np.array([row[1:] for row in rows], float) for rows in (our_rows, their_rows))
    tolerance = 1e-5 if path.endswith("_norm.csv") else 0.02
    assert np.abs(our_values - their_values).max() <= tolerance


def test_state_and_counts_carry_between_batches(reference: Path) -> None:
    """The test above would not notice if the state were reset and the recorded run had been too."""
    net = _net("mask3d_test", reference, torch.device("cpu"))
    with open_hdf5(reference / "hpm_test_phase.h5") as file:
        batch = file["mask3d_test/batch_1"]
        label = np.concatenate([np.asarray(batch[part]).reshape(4, -1) for part in ("label2d", "label3d", "clip")], 1)
        values = net.run({"data": np.asarray(batch["data"]), "label_clip": label}, blobs=["lstm1"])
        assert not compare("lstm1", values["lstm1"], np.asarray(batch["lstm1"]), NET_TOLERANCE).passed
