"""What a definition may ask of memory: batches, and how far they are read ahead."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat.errors import FileError
from caffe_compat.formats.limits import BATCH
from caffe_compat.training.data import Loader
from tests.training.data.helpers import source_of

BILLIONS = 2**31 - 1
HDF5 = 'hdf5_data_param {{ source: "list.txt" batch_size: {} }}'
MEMORY = "memory_data_param {{ batch_size: {} channels: 1 height: 1 width: 1 }}"


def layer(kind: str, params: str) -> str:
    return f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {params} }}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = np.zeros((4, 1000), np.float32), np.zeros(4, np.float32)
    (tmp_path / "list.txt").write_text("a.h5")
    return tmp_path


@pytest.mark.parametrize(("kind", "params"), [("HDF5Data", HDF5), ("MemoryData", MEMORY)])
def test_a_batch_that_no_machine_holds(kind: str, params: str, folder: Path) -> None:
    message = rf"layer 'd' \({kind}\): a batch of {BILLIONS} samples takes .* more than the limit .*{BATCH.variable}"
    with pytest.raises(FileError, match=message):
        source_of(layer(kind, params.format(BILLIONS)), folder)


def test_a_batch_of_large_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = layer("HDF5Data", HDF5.format(10))
    monkeypatch.setenv(BATCH.variable, "40000")
    with pytest.raises(FileError, match=r"a batch of shape \[10, 1000\] and \[10\] takes 40,040 bytes"):
        source_of(text, folder)
    monkeypatch.setenv(BATCH.variable, "40040")
    assert source_of(text, folder).batch(0)["data"].shape == (10, 1000)


def test_batches_read_ahead_fit_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(layer("HDF5Data", HDF5.format(2)), folder)
    source.prefetch = BILLIONS
    monkeypatch.setenv(BATCH.variable, "100000")
    with Loader([source], workers=1, stop=3) as loader:
        assert len(loader._workers[0]._memory) == 100_000 // (8000 + 64)
        assert [batch["data"].shape for batch in loader] == [(2, 1000)] * 3


def test_rows_without_values_have_no_number(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("data", (2**60, 0), "f4")
        file.create_dataset("label", (2**60, 0), "f4")
    with pytest.raises(FileError, match=r"a\.h5: rows of 'data' of shape \[0\] hold no values"):
        source_of(layer("HDF5Data", HDF5.format(2)), folder)
