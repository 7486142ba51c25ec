"""Data, snapshots and disks that fail a training: one line that says which file and which line of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from caffe_compat.schema import load_schema
from caffe_compat.training.solver import read_snapshot
from tests.training.tiny_training import blobs, start, train, write_training

IMAGES = """
name: "images"
layer { name: "data" type: "ImageData" top: "x" top: "y"
  image_data_param { source: "list.txt" batch_size: 2 shuffle: true new_height: 6 new_width: 8 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "p"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "p" bottom: "y" top: "loss" }
"""
FORK = IMAGES.replace("batch_size: 2", "batch_size: 2 label_dim: 5").replace("SoftmaxWithLoss", "EuclideanLoss")
RECORDS = IMAGES.replace("ImageData", "Data").replace(
    'image_data_param { source: "list.txt" batch_size: 2 shuffle: true new_height: 6 new_width: 8 }',
    'data_param { source: "db" backend: LMDB batch_size: 2 }',
)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_images(folder: Path, labels: str = "{i}") -> None:
    rng = np.random.RandomState(0)
    for i in range(5):
        cv2.imwrite(str(folder / f"{i}.jpg"), rng.randint(0, 256, (20, 30, 3)).astype(np.uint8))
    (folder / "list.txt").write_text("".join(f"{i}.jpg {labels.format(i=i)}\n" for i in range(5)))


def write_records(folder: Path) -> None:
    rng = np.random.RandomState(0)
    with lmdb.open(str(folder / "db"), map_size=2**22) as env, env.begin(write=True) as records:
        for i in range(5):
            datum = load_schema().message("Datum")(channels=3, height=6, width=8, label=i)
            datum.data = rng.randint(0, 256, 3 * 6 * 8).astype(np.uint8).tobytes()
            records.put(f"{i:08d}".encode(), datum.SerializeToString())


def missing_image(folder: Path) -> None:
    (folder / "3.jpg").unlink()


def truncated_image(folder: Path) -> None:
    path = folder / "3.jpg"
    path.write_bytes(path.read_bytes()[:200])


def empty_list(folder: Path) -> None:
    (folder / "list.txt").write_text("\n")


def missing_list(folder: Path) -> None:
    (folder / "list.txt").unlink()


def no_label(folder: Path) -> None:
    text = (folder / "list.txt").read_text().replace("3.jpg 3", "3.jpg cat")
    (folder / "list.txt").write_text(text)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (missing_image, ["list.txt: line 4: image", "3.jpg"]),
        (truncated_image, ["list.txt: line 4: image", "3.jpg"]),
        (empty_list, ["list.txt: is empty"]),
        (missing_list, ["list.txt", "No such file"]),
        (no_label, ["list.txt: line 4: the label must be one whole number, found 'cat'"]),
    ],
)
def test_bad_lists_and_images(
    break_it: Callable[[Path], None],
    said: list[str],
    workers: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_training(tmp_path, "random_seed: 1", IMAGES)
    write_images(tmp_path)
    break_it(tmp_path)
    assert train("--workers", workers) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("caffe-compat: error: ")
    for words in said:
        assert words in error


def test_images_that_are_whole(tmp_path: Path) -> None:
    write_training(tmp_path, "random_seed: 1", IMAGES)
    write_images(tmp_path)
    assert train("--workers", "2") == 0


def test_a_wrong_number_of_labels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 base_lr: 1e-9", FORK)
    write_images(tmp_path, "{i},1,0.5,2,3")
    assert train() == 0
    text = (tmp_path / "list.txt").read_text()
    (tmp_path / "list.txt").write_text(text.replace("2,1,0.5,2,3", "2,1,0.5,2"))
    assert train() == 2
    assert "list.txt: line 3: 5 labels were expected (label_dim), found 4" in capfd.readouterr().err


@pytest.mark.slow
def test_a_corrupt_database(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1", RECORDS)
    write_records(tmp_path)
    assert train() == 0
    path = tmp_path / "db" / "data.mdb"
    whole = path.read_bytes()
    path.write_bytes(b"no database" * 1000)
    assert train() == 2
    assert "db" in capfd.readouterr().err.splitlines()[-1]
    path.write_bytes(whole)
    gc.collect()  # of the last training, which has the database open
    with lmdb.open(str(tmp_path / "db"), map_size=2**22) as env, env.begin(write=True) as records:
        records.put(b"00000003", b"\xff\xff no datum")
    assert train() == 2
    assert "00000003" in capfd.readouterr().err.splitlines()[-1]


def test_a_snapshot_of_another_network(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path, "random_seed: 1 max_iter: 1")
    assert train() == 0
    net = (tmp_path / "net.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(net.replace("num_output: 9", "num_output: 8"))
    assert train("-snapshot=snap_iter_1.solverstate") == 2
    assert "is a snapshot of another net" in capfd.readouterr().err
    (tmp_path / "net.prototxt").write_text(net.replace('"second"', '"third"'))
    assert train("-snapshot=snap_iter_1.solverstate") == 2
    assert "it has no layer 'third'" in capfd.readouterr().err
    (tmp_path / "net.prototxt").write_text(net)
    whole = (tmp_path / "snap_iter_1.solverstate").read_bytes()
    (tmp_path / "snap_iter_1.solverstate").write_bytes(whole[:-7])
    assert train("-snapshot=snap_iter_1.solverstate") == 2
    assert "snap_iter_1.solverstate" in capfd.readouterr().err.splitlines()[-1]


# From the fourth pass on, no file may grow beyond a few bytes: what a full disk does to a snapshot.
FULL_DISK = """
import resource
from caffe_compat.network.registry import Layer, layer

class Full(Layer):
    def forward(self, x):
        if not x.is_meta and self.randomness.iteration == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
        return x * 1

@layer("FullDisk", bottoms=1, tops=1)
def full(spec):
    return Full()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("form", "end"), [("BINARYPROTO", ""), ("HDF5", ".h5")])
def test_a_full_disk_leaves_the_last_snapshot_whole(form: str, end: str, tmp_path: Path) -> None:
    net = (
        'layer { name: "data" type: "HDF5Data" top: "x" top: "y" '
        'hdf5_data_param { source: "rows.txt" batch_size: 4 } } '
        'layer { name: "full" type: "FullDisk" bottom: "x" top: "z" } '
        'layer { name: "ip" type: "InnerProduct" bottom: "z" top: "p" inner_product_param { num_output: 7 } } '
        'layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "y" top: "loss" }'
    )
    write_training(tmp_path, f"random_seed: 1 snapshot: 3 snapshot_format: {form}", net)
    (tmp_path / "full.py").write_text(FULL_DISK)
    command = ("train", "-solver=solver.prototxt", "--workers=0", "--plugin=full.py")
    process = start(tmp_path, *command)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    last = error.splitlines()[-1]
    assert f"caffe-compat: error: snap_iter_6.caffemodel{end}: cannot be written: File too large" in last
    assert sorted(path.name for path in tmp_path.glob("*snap*")) == [
        f"snap_iter_3.caffemodel{end}",
        "snap_iter_3.resume.npz",
        f"snap_iter_3.solverstate{end}",
    ]
    snapshot = read_snapshot(f"snap_iter_3.solverstate{end}")
    assert snapshot.resume is not None
    assert [blob.shape for blob in blobs(snapshot.model)] == [(7, 15), (7,)] * 2
