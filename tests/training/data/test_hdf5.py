"""HDF5Data, and the file that an HDF5Output layer writes."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.errors import FileError, LayerError
from caffe_compat.formats.hdf5_writing import RowFile
from caffe_compat.training.data.source import Source
from tests.training.data.helpers import source_of


def write(path: Path, first: int, rows: int, dtype: str = "f4") -> None:
    """Data (rows, 2, 3) and labels that count from ``first``."""
    labels = np.arange(first, first + rows)
    with h5py.File(path, "w") as file:
        file["data"] = (labels[:, None, None] * 100 + np.arange(6).reshape(2, 3)).astype(dtype)
        file["label"] = labels.astype("i8")


def net(settings: str = "batch_size: 4") -> str:
    return (
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" '
        f'hdf5_data_param {{ source: "list.txt" {settings} }} }}'
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of 3, 5 and 2 rows."""
    for name, first, rows, dtype in (("a", 0, 3, "f4"), ("b", 3, 5, "f8"), ("c", 8, 2, "u1")):
        write(tmp_path / f"{name}.h5", first, rows, "f4" if dtype == "u1" else dtype)
    (tmp_path / "list.txt").write_text("a.h5\r\nb.h5 c.h5\n")
    return tmp_path


def labels(source: Source, batches: range) -> list[int]:
    return [int(x) for k in batches for x in source.batch(k)["label"]]


def test_file_after_file_and_round_again(folder: Path) -> None:
    source = source_of(net(), folder)
    assert source.shapes() == {"data": (4, 2, 3), "label": (4,)}
    assert labels(source, range(5)) == [*range(10), *range(10)]
    batch = source.batch(1)
    assert batch["data"].dtype == torch.float32
    expected = batch["label"].numpy()[:, None, None] * 100 + np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(batch["data"], expected)


def test_shuffled_files_stay_together(folder: Path) -> None:
    source = source_of(net("batch_size: 5 shuffle: true"), folder)
    epochs = [labels(source, range(k, k + 2)) for k in range(0, 12, 2)]
    file_of = [0] * 3 + [1] * 5 + [2] * 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
        files = [file_of[row] for row in epoch]
        assert sum(a != b for a, b in pairwise(files)) == 2  # three runs
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert len({file_of[epoch[0]] for epoch in epochs}) > 1
    assert labels(source_of(net("batch_size: 5 shuffle: true"), folder), range(6, 8)) == epochs[3]


def test_ranks_take_turns_row_by_row(folder: Path) -> None:
    source = source_of(net("batch_size: 3"), folder, "TRAIN", rank=1, world_size=2)
    assert labels(source, range(2)) == [1, 3, 5, 7, 9, 1]


def test_bad_files(folder: Path) -> None:
    with h5py.File(folder / "c.h5", "a") as file:
        del file["label"]
    with pytest.raises(FileError, match=r"c.h5: has no data set 'label', only data"):
        source_of(net(), folder)
    write(folder / "c.h5", 0, 4)
    with h5py.File(folder / "c.h5", "a") as file:
        del file["label"]
        file["label"] = np.zeros(5)
    with pytest.raises(FileError, match=r"c.h5: has data sets of 4 and 5 rows"):
        source_of(net(), folder)
    with h5py.File(folder / "c.h5", "w") as file:
        file["data"], file["label"] = np.zeros((2, 3, 2)), np.zeros(2)
    with pytest.raises(FileError, match=r"c.h5: rows of 'data' have shape \[3, 2\], the first file's \[2, 3\]"):
        source_of(net(), folder)
    with h5py.File(folder / "c.h5", "w") as file:
        file["data"] = ["text"]
    with pytest.raises(FileError, match=r"c.h5: data set 'data' .* holds no rows of numbers"):
        source_of(net(), folder)
    (folder / "c.h5").write_bytes((folder / "a.h5").read_bytes()[:900])
    with pytest.raises(FileError, match=r"c.h5: cannot be read as HDF5"):
        source_of(net(), folder)
    (folder / "c.h5").unlink()
    with pytest.raises(FileError, match=r"list.txt: line 2: there is no file .*c.h5"):
        source_of(net(), folder)
    (folder / "list.txt").write_text("\n")
    with pytest.raises(FileError, match=r"list.txt: is empty"):
        source_of(net(), folder)


def test_no_transformation(folder: Path) -> None:
    with pytest.raises(LayerError, match="does not transform"):
        source_of(net().replace("hdf5_data_param", "transform_param { scale: 2 } hdf5_data_param"), folder)


def arrays(data: torch.Tensor, label: torch.Tensor) -> dict[str, np.ndarray]:
    return {"data": data.cpu().numpy(), "label": label.cpu().numpy()}


def test_output_and_back(tmp_path: Path, device: torch.device) -> None:
    data, label = torch.arange(2.0 * 3 * 4).view(2, 3, 4).to(device), torch.tensor([5.0, 6.0], device=device)
    with RowFile(tmp_path / "out.h5") as output:
        output.write(arrays(data, label))
        output.write(arrays(data + 100, label + 10))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["data"].shape == (4, 3, 4, 1)
        assert file["label"].shape == (4, 1, 1, 1)
        assert file["data"].dtype == np.float32
        np.testing.assert_array_equal(file["data"][2:, :, :, 0], (data + 100).cpu())
        np.testing.assert_array_equal(file["label"][:, 0, 0, 0], [5, 6, 15, 16])
    (tmp_path / "list.txt").write_text("out.h5")
    np.testing.assert_array_equal(source_of(net(), tmp_path).batch(0)["data"][:2, :, :, 0], data.cpu())


def test_output_that_does_not_fit(tmp_path: Path) -> None:
    with RowFile(tmp_path / "out.h5") as output:
        with pytest.raises(FileError, match="equally many rows"):
            output.write(arrays(torch.zeros(2, 3), torch.zeros(3)))
        with pytest.raises(FileError, match="5 axes"):
            output.write(arrays(torch.zeros(2, 1, 1, 1, 1), torch.zeros(2)))
        output.write(arrays(torch.zeros(2, 3), torch.zeros(2)))
        with pytest.raises(FileError, match=r"rows of shape \[4, 1, 1\] after \[3, 1, 1\]"):
            output.write(arrays(torch.zeros(2, 4), torch.zeros(2)))
    with pytest.raises(FileError, match="cannot be written"):
        RowFile(tmp_path / "nowhere" / "out.h5")


OUTPUT_ON_A_FULL_DISK = """
import resource, sys, numpy as np
from caffe_compat.formats.hdf5_writing import RowFile
from caffe_compat.errors import FileError
output = RowFile("out.h5")
output.write({"data": np.ones((4, 3)), "label": np.ones(4)})
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        output.write({"data": np.ones((4000, 3)), "label": np.ones(4000)})
    except FileError as error:
        print(error)
output.close()
"""


def test_output_on_a_full_disk(tmp_path: Path) -> None:
    """One error, nothing from the library that writes the file, and no half of it left."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", OUTPUT_ON_A_FULL_DISK],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * "out.h5: cannot be written as HDF5: File too large\n"
    assert not (tmp_path / "out.h5").exists()


def test_output_replaces_its_own_file_alone(tmp_path: Path) -> None:
    path, rows = tmp_path / "out.h5", arrays(torch.ones(2, 3), torch.ones(2))
    write(path, 0, 3)  # data and label, as a data set for training may be called
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"out\.h5: exists and was not written by an HDF5Output layer"):
        RowFile(path)
    assert path.read_bytes() == before
    path.unlink()
    for _ in range(2):
        with RowFile(path) as output:
            output.write(rows)
    with h5py.File(path) as file:
        assert file["data"].shape == (2, 3, 1, 1)
    for name, content in (("net.prototxt", b"layer {}"), ("cut.h5", path.read_bytes()[:900]), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match="is not overwritten"):
            RowFile(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
