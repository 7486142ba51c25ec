"""What trainings read and leave: solvers, states, logs, lists, data bases, arrays, pictures, videos."""

from __future__ import annotations

import io
import json
import re
import tempfile
from pathlib import Path

import h5py
import numpy as np

from caffe_compat.extraction.shards import ShardStore
from caffe_compat.formats.arrays import read_npy, read_npz
from caffe_compat.formats.database_writing import new_database
from caffe_compat.formats.databases import Backend, open_database
from caffe_compat.formats.images import Mode, opencv, read_picture
from caffe_compat.formats.log_tables import read_log_tables
from caffe_compat.formats.logs import read_log
from caffe_compat.formats.videos import frames_per_second, video_frames
from caffe_compat.formats.weights import read_solverstate
from caffe_compat.schema import load_schema
from caffe_compat.training.data.datum import image_of, raw_datum
from caffe_compat.training.data.lists import read_image_list
from caffe_compat.training.data.window_data import _read_windows
from caffe_compat.training.solver.settings import read_solver
from caffe_compat.training.solver.snapshot import _read_resume, read_snapshot
from tests.fuzz import mutators
from tests.fuzz.target import FORMATS, HOSTILE, REFERENCE, Target, contents
from tests.training.data.helpers import source_of
from tests.training.solver.recorded import recorded_case

__all__ = ["data"]

_LOG = b"""I1123 10:00:00.000000 1 solver.cpp:280] Solving tiny
I1123 10:00:00.000000 1 solver.cpp:218] Iteration 0 (0 iter/s, 0s/20 iters), loss = 2.5
I1123 10:00:00.000000 1 solver.cpp:237]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I1123 10:00:00.000000 1 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I1123 10:00:01.000000 1 solver.cpp:330] Iteration 0, Testing net (#0)
I1123 10:00:01.000000 1 solver.cpp:397]     Test net output #0: accuracy = 0.5
"""


def data() -> list[Target]:
    """All of them; those of packages that are not installed are missing."""
    return [*_trainings(), *_lists(), *_databases(), *_arrays(), *_pictures()]


def _trainings() -> list[Target]:
    solvers = REFERENCE / "solvers"
    with tempfile.TemporaryDirectory() as folder:
        state = recorded_case("adam", Path(folder)).snapshot()
        assert state is not None
        resume = contents(*sorted(Path(folder).glob("*.resume.npz")), *sorted(HOSTILE.glob("resume_*.npz")))
    states = contents(*sorted(solvers.glob("*.solverstate")))
    hdf5 = contents(*sorted(solvers.glob("*.solverstate.h5")))
    model = (FORMATS / "v1net.caffemodel").read_bytes()
    named = {name.decode() for state in states for name in re.findall(rb"[\w.]+\.caffemodel", state)}
    beside = dict.fromkeys(sorted(named), model)
    return [
        Target("solver", "a.prototxt", read_solver, mutators.of_text, contents(*sorted(solvers.glob("*.prototxt")))),
        Target("solverstate", "a.solverstate", read_solverstate, mutators.of_wire, states),
        Target("solverstate.h5", "a.solverstate.h5", read_solverstate, mutators.of_hdf5, hdf5),
        Target("snapshot", "a.solverstate", read_snapshot, mutators.of_wire, states, beside),
        Target("resume", "a.npz", lambda path: _read_resume(path, path), mutators.of_zip, resume),
        Target("log", "a.log", read_log, mutators.of_text, [_LOG]),
        Target("log-tables", "a.log", read_log_tables, mutators.of_text, [_LOG]),
    ]


def _lists() -> list[Target]:
    windows = b"# 0\na.png\n3\n20\n20\n2\n1 0.9 2 2 10 10\n0 0.1 3 3 12 12\n"
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        file["data"] = np.arange(60, dtype="f4").reshape(10, 2, 3)
        file["label"] = np.arange(10)
    return [
        Target(
            "image-list", "a.txt", lambda path: read_image_list(str(path), None), mutators.of_text,
            [b"a.png 1\nb c.jpg 0\n"],
        ),
        Target("windows", "a.txt", lambda path: _read_windows(str(path), 0.5, 0.5), mutators.of_text, [windows]),
        Target(
            "image-data", "list.txt", _image_data, mutators.of_text, [b"a.png 1\nb.png 0\n"], _two_pictures(),
            names_files=True,
        ),
        Target(
            "hdf5-data", "a.h5", _hdf5_data, mutators.of_hdf5,
            [packed.getvalue(), *contents(HOSTILE / "hdf5_external_storage.h5")], {"list.txt": b"a.h5\n"},
        ),
    ]  # fmt: skip


def _two_pictures() -> dict[str, bytes]:
    found = {}
    for k, name in enumerate(("a.png", "b.png")):
        picture = np.random.RandomState(k).randint(0, 256, (6, 9, 3)).astype(np.uint8)
        found[name] = opencv().imencode(".png", picture)[1].tobytes()
    return found


def _image_data(path: Path) -> None:
    text = 'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "list.txt" } }'
    source = source_of(text, path.parent)
    assert source.batch(0)["data"].shape[1:] == source.shapes()["data"][1:]


def _hdf5_data(path: Path) -> None:
    text = (
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" '
        'hdf5_data_param { source: "list.txt" batch_size: 4 } }'
    )
    source = source_of(text, path.parent)
    for k in range(4):
        assert source.batch(k)["data"].shape == source.shapes()["data"]


# Data bases


def _databases() -> list[Target]:
    raw = raw_datum(np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8), 3)
    encoded = load_schema().message("Datum")(encoded=True, data=_two_pictures()["a.png"], label=1)
    seeds = [raw, encoded.SerializeToString(), *contents(HOSTILE / "datum_2GB.datum")]
    found = [Target("datum", "a", _datum, mutators.of_wire, seeds)]
    for backend in ("LMDB", "LEVELDB"):
        found += _database(backend, raw)
    return found


def _database(backend: Backend, record: bytes) -> list[Target]:
    """One for each file of such a data base that is not a lock or a log of what was done."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            with new_database(f"{folder}/db", backend) as writer:
                for k in range(40):
                    writer.put(f"{k:08d}".encode(), record)
            files = {f"db/{path.name}": path.read_bytes() for path in Path(folder, "db").iterdir()}
    except ImportError:  # MissingExtraError is one
        return []

    def read(path: Path) -> None:
        records = open_database(str(path.parent), backend)
        for k in range(len(records.keys)):
            records.get(k)
        records.close()

    targets = []
    for name, content in files.items():
        if content and "LOG" not in name and "lock" not in name.lower():
            beside = {other: data for other, data in files.items() if other != name}
            seeds = [content]
            if backend == "LMDB":
                seeds += contents(FORMATS / "datum_lmdb" / "data.mdb", *sorted(HOSTILE.glob("*.mdb")))
            kind = name.rpartition("/")[2].partition("-")[0].lower()
            label = "lmdb" if backend == "LMDB" else f"leveldb-{kind}"
            targets.append(Target(label, name, read, mutators.of_bytes, seeds, beside))
    return targets


def _datum(path: Path) -> None:
    from google.protobuf.message import DecodeError

    try:
        datum = load_schema().message("Datum").FromString(path.read_bytes())
    except DecodeError:  # said with the place of the record by who reads it
        return
    modes: tuple[Mode, ...] = ("color", "native")
    for mode in modes:
        assert image_of(datum, mode).ndim == 3


# Arrays and pictures


def _arrays() -> list[Target]:
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.arange(6.0).reshape(2, 3))
    np.savez_compressed(npz, a=np.arange(6), b=np.ones((2, 2), np.float32))
    line = json.dumps({"shard": 0, "sha256": "0" * 64, "bad": [[1, "a.png", "damaged"]]}).encode() + b"\n"

    def shards(path: Path) -> None:
        with ShardStore(str(path.parent), {"job": 1}) as store:
            for number in store.done:
                store.read(number, ["x"])
            list(store.bad())

    return [
        Target("npy", "a.npy", read_npy, mutators.of_bytes, [npy.getvalue()]),
        Target("npz", "a.npz", read_npz, mutators.of_zip, [npz.getvalue(), *contents(HOSTILE / "npz_tokenerror.npz")]),
        Target("shards", "s/done.jsonl", shards, mutators.of_text, [line], {"s/job.json": b'{"job": 1}'}),
        Target("shards-job", "s/job.json", shards, mutators.of_text, [b'{"job": 1}']),
    ]


def _pictures() -> list[Target]:
    cv2 = opencv()
    picture = np.random.RandomState(0).randint(0, 256, (13, 17, 3)).astype(np.uint8)
    picture = cv2.resize(picture, (68, 52))
    kinds = (".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm", ".jp2", ".hdr", ".pfm", ".ras")
    encoded: list[bytes] = []
    for kind in kinds:
        value = picture.astype(np.float32) / 255 if kind in (".hdr", ".pfm") else picture
        done, packed = cv2.imencode(kind, value)
        if done:
            encoded.append(packed.tobytes())
    encoded += contents(HOSTILE / "png_20s_2GB.png")
    modes: tuple[Mode, ...] = ("color", "gray", "native")

    def read(path: Path) -> None:
        for mode in modes:
            assert read_picture(path, mode).ndim == 3

    def watch(path: Path) -> None:
        frames_per_second(path)
        for decode in video_frames(path):
            assert decode().ndim == 3

    return [
        Target("picture", "a", read, mutators.of_bytes, encoded),
        Target("video", "a.avi", watch, mutators.of_bytes, _videos(picture)),
    ]


def _videos(picture: np.ndarray) -> list[bytes]:
    cv2 = opencv()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for ending, code in (("avi", "MJPG"), ("mp4", "mp4v")):
            path = Path(folder, f"a.{ending}")
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25.0, (68, 52))
            for k in range(4):
                writer.write(np.roll(picture, k))
            writer.release()
            found += contents(path)
    return found
