"""Every reader, what to feed it with, and what has to hold of what it accepts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import h5py
import numpy as np
import torch

import caffe_compat
from caffe_compat.formats.arrays import read_npy, read_npz
from caffe_compat.formats.databases import open_database
from caffe_compat.formats.images import Mode, opencv, read_picture
from caffe_compat.formats.logs import read_log
from caffe_compat.formats.settings import read_settings
from caffe_compat.formats.weights import read_binaryproto, read_solverstate, read_weights, write_binaryproto
from caffe_compat.network.checkpoint import read_checkpoint
from caffe_compat.reports.inspection import inspect_file
from caffe_compat.reports.recorded import describe_recorded
from caffe_compat.reports.survey import survey_file
from caffe_compat.schema import load_schema
from caffe_compat.testing.suite import read_suite
from caffe_compat.training.data.lists import read_image_list
from caffe_compat.training.data.window_data import _read_windows
from caffe_compat.training.solver.settings import read_solver
from caffe_compat.training.solver.snapshot import _read_resume
from hpm.datasets.cdf import read_pose
from hpm.datasets.detections import read_detections
from hpm.datasets.mpii import read_mpii
from hpm.files.keypoints import read_boxes, read_keypoints
from hpm.files.lists import read_errors, read_list, read_refined, read_results
from hpm.files.projector_pickle import read_projector_pickle
from hpm.scaling import read_bounds, read_limbs
from tests.fuzz import mutators
from tests.fuzz.mutators import Mutator

__all__ = ["Target", "targets"]

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "reference_outputs"
FORMATS = REFERENCE / "formats"
HOSTILE = ROOT / "tests" / "hostile"


@dataclass(frozen=True)
class Target:
    """A reader. ``read`` raises CaffeCompatError for what it refuses, AssertionError if what it accepts is wrong."""

    name: str
    file: str
    read: Callable[[Path], object]
    mutate: Mutator
    seeds: Sequence[bytes]


def targets() -> list[Target]:
    """All of them; those of packages that are not installed are missing."""
    return [*_networks(), *_weights(), *_training(), *_arrays(), *_pictures(), *_poses()]


def _of(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def _networks() -> list[Target]:
    texts = [FORMATS / "v0net.prototxt", FORMATS / "v1net.prototxt", *HOSTILE.glob("*.prototxt")]
    texts.append(REFERENCE / "tiny_mask3d" / "deploy.prototxt")

    def network(path: Path) -> None:
        survey_file(path.parent, path.name, run=True)
        inspect_file(path)

    proto = b"""syntax = "proto2"; package caffe;
message LayerParameter { optional WarpParameter warp_param = 9001; }
message WarpParameter { enum Mode { A = 0; B = 7; } optional Mode mode = 1 [default = B]; repeated float x = 2; }"""
    suite = b"""[[model]]
prototxt = "a.prototxt"
weights = "a.caffemodel"
reference = "a.h5"
tolerance = 1e-5
devices = ["cpu"]
"""
    return [
        Target("prototxt", "a.prototxt", network, mutators.of_text, _of(*texts)),
        Target("proto", "a.proto", lambda path: load_schema(str(path)), mutators.of_text, [proto]),
        Target("parity-suite", "parity.toml", read_suite, mutators.of_text, [suite]),
        Target(
            "settings", "a.yml", lambda path: read_settings(path.read_text("utf-8", "replace"), str(path)),
            mutators.of_text, [b"TRAIN:\n  HAS_RPN: True\n  SCALES: [600, 800]\n  BBOX_STDS: (0.1, 0.2)\nEPS: 1e-14\n"],
        ),
    ]  # fmt: skip


def _weights() -> list[Target]:
    def weights(path: Path) -> None:
        inspect_file(path)
        with read_weights(path) as file:
            before = [[np.asarray(blob.data).tobytes() for blob in layer.blobs] for layer in file.layers]
        net = caffe_compat.load(FORMATS / "v1net.prototxt", path, fill_missing=True)
        net(data=torch.zeros(net.input_shapes["data"]))
        with read_weights(path) as file:
            assert [[np.asarray(blob.data).tobytes() for blob in layer.blobs] for layer in file.layers] == before

    def checkpoint(path: Path) -> None:
        read_checkpoint(path)
        net = caffe_compat.load(path)
        net.run({name: np.zeros(shape, np.float32) for name, shape in net.input_shapes.items()})

    def mean(path: Path) -> None:
        array = read_binaryproto(path)
        write_binaryproto(path.with_name("b"), array)
        np.testing.assert_array_equal(read_binaryproto(path.with_name("b")), array)

    binary = _of(*(FORMATS / f"v{k}net{kind}.caffemodel" for k in (0, 1) for kind in ("", ".upgraded")))
    binary += _of(*HOSTILE.glob("*.caffemodel"))
    hdf5 = _of(FORMATS / "v0net.caffemodel.h5", FORMATS / "v1net.caffemodel.h5")
    return [
        Target("caffemodel", "a.caffemodel", weights, mutators.of_wire, binary),
        Target("caffemodel.h5", "a.caffemodel.h5", weights, mutators.of_hdf5, hdf5),
        Target("pt", "a.pt", checkpoint, mutators.of_zip, [_a_checkpoint()]),
        Target("mean", "a.binaryproto", mean, mutators.of_wire, _of(FORMATS / "mean.binaryproto")),
    ]


@cache
def _a_checkpoint() -> bytes:
    packed = io.BytesIO()
    net = caffe_compat.load(FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        caffe_compat.save(net, f"{folder}/a.pt")
        packed.write(Path(folder, "a.pt").read_bytes())
    return packed.getvalue()


def _training() -> list[Target]:
    solvers = REFERENCE / "solvers"
    log = b"""I1123 10:00:00.000000 1 solver.cpp:218] Iteration 0 (0 iter/s, 0s/20 iters), loss = 2.5
I1123 10:00:00.000000 1 solver.cpp:237]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I1123 10:00:00.000000 1 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I1123 10:00:01.000000 1 solver.cpp:330] Iteration 0, Testing net (#0)
I1123 10:00:01.000000 1 solver.cpp:397]     Test net output #0: accuracy = 0.5
"""
    windows = b"# 0\na.png\n3\n20\n20\n2\n1 0.9 2 2 10 10\n0 0.1 3 3 12 12\n"
    facts = json.dumps({"version": 2, "seed": 1, "losses": [1.0], "smoothed_loss": 1.0}).encode()
    packed = io.BytesIO()
    np.savez(packed, facts=np.frombuffer(facts, np.uint8))
    resume = [packed.getvalue(), *_of(*HOSTILE.glob("resume_*.npz"))]
    states = _of(*sorted(solvers.glob("*.solverstate")))
    found = [
        Target("solver", "a.prototxt", read_solver, mutators.of_text, _of(*sorted(solvers.glob("*.prototxt")))),
        Target("solverstate", "a.solverstate", read_solverstate, mutators.of_wire, states),
        Target(
            "solverstate.h5", "a.solverstate.h5", read_solverstate, mutators.of_hdf5,
            _of(*solvers.glob("*.solverstate.h5")),
        ),
        Target("resume", "a.npz", lambda path: _read_resume(path, path), mutators.of_zip, resume),
        Target("log", "a.log", read_log, mutators.of_text, [log]),
        Target(
            "image-list", "a.txt", lambda path: read_image_list(str(path), None), mutators.of_text,
            [b"a.png 1\nb c.jpg 0\n"],
        ),
        Target("windows", "a.txt", lambda path: _read_windows(str(path), 0.5, 0.5), mutators.of_text, [windows]),
    ]  # fmt: skip
    try:
        import lmdb  # noqa: F401
    except ImportError:
        return found

    def database(path: Path) -> None:
        records = open_database(str(path), "LMDB")
        for k in range(len(records.keys)):
            records.get(k)
        records.close()

    seeds = _of(FORMATS / "datum_lmdb" / "data.mdb", *HOSTILE.glob("*.mdb"))
    return [*found, Target("lmdb", "data.mdb", database, mutators.of_bytes, seeds)]


def _arrays() -> list[Target]:
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.arange(6.0).reshape(2, 3))
    np.savez_compressed(npz, a=np.arange(6), b=np.ones((2, 2), np.float32))

    def recording(path: Path) -> None:
        describe_recorded(path)
        caffe_compat.verify(_net(), path)

    return [
        Target("npy", "a.npy", read_npy, mutators.of_bytes, [npy.getvalue()]),
        Target("npz", "a.npz", read_npz, mutators.of_zip, [npz.getvalue(), *_of(HOSTILE / "npz_tokenerror.npz")]),
        Target("reference", "a.h5", recording, mutators.of_hdf5, [_small_reference()]),
    ]


@cache
def _net() -> caffe_compat.network.net.CaffeNet:
    return caffe_compat.load(FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel")


@cache
def _small_reference() -> bytes:
    packed = io.BytesIO()
    net = _net()
    given = {name: np.ones(shape, np.float32) for name, shape in net.input_shapes.items()}
    with h5py.File(packed, "w") as file:
        for name, value in given.items():
            file[f"inputs/{name}"] = value
        for name, tensor in net.run(given).items():
            file[f"blobs/{name}"] = tensor.numpy()
    return packed.getvalue()


def _pictures() -> list[Target]:
    cv2 = opencv()
    picture = np.random.RandomState(0).randint(0, 256, (13, 17, 3)).astype(np.uint8)
    picture = cv2.resize(picture, (68, 52))
    kinds = (".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm", ".jp2", ".hdr", ".pfm", ".ras")
    encoded: list[bytes] = []
    for kind in kinds:
        value = picture.astype(np.float32) / 255 if kind in (".hdr", ".pfm") else picture
        done, data = cv2.imencode(kind, value)
        if done:
            encoded.append(data.tobytes())
    encoded += _of(HOSTILE / "png_20s_2GB.png")
    modes: tuple[Mode, ...] = ("color", "gray", "native")

    def read(path: Path) -> None:
        for mode in modes:
            found = read_picture(path, mode)
            assert found.ndim == 3

    return [Target("picture", "a", read, mutators.of_bytes, encoded)]


def _poses() -> list[Target]:
    chance = np.random.RandomState(0)
    row = " ".join(f"{value:.4f}" for value in chance.uniform(0, 1, 80))
    poses = f"a/000001.jpg {row} 0\na/000002.jpg {row} 0\n".encode()
    results = "".join(",".join(f"{v:.6g}" for v in chance.uniform(-1, 1, 48)) + "\n" for _ in range(3)).encode()
    keypoints = io.BytesIO()
    np.save(keypoints, chance.uniform(0, 100, (5, 16, 2)))
    coco = json.dumps([{"image_id": k, "keypoints": chance.uniform(0, 9, 51).tolist(), "score": 1.0} for k in range(2)])
    persons = json.dumps({"root": [{"img_paths": "a.jpg", "joint_self": chance.uniform(1, 9, (16, 3)).tolist()}]})
    bounds = REFERENCE / "max_min.csv"
    pickled = sorted((REFERENCE / "synthetic_pose").rglob("*.pkl"))
    return [
        Target("pose-list", "a.txt", read_list, mutators.of_text, [poses]),
        Target("results", "a.csv", partial(read_results, width=48), mutators.of_text, [results]),
        Target("refined", "a.csv", read_refined, mutators.of_text, [results]),
        Target("errors", "a.csv", read_errors, mutators.of_text, [b"1.5\n2.5\n"]),
        Target("bounds", "a.csv", read_bounds, mutators.of_text, _of(bounds)),
        Target("limbs", "a.csv", read_limbs, mutators.of_text, _of(bounds)),
        Target("keypoints", "a.npy", read_keypoints, mutators.of_bytes, [keypoints.getvalue()]),
        Target("keypoints-json", "a.json", read_keypoints, mutators.of_text, [coco.encode()]),
        Target("boxes", "a.csv", read_boxes, mutators.of_text, [b"1,2,30,40\n5,6,70,80\n"]),
        Target("detections", "a.npz", read_detections, mutators.of_zip, _of(HOSTILE / "npz_tokenerror.npz")),
        Target("persons", "a.json", read_mpii, mutators.of_text, [persons.encode()]),
        Target("persons-mat", "a.mat", read_mpii, mutators.of_bytes, _of(*HOSTILE.glob("*.mat"))),
        Target("cdf", "a.cdf", _cdf, mutators.of_bytes, _of(*HOSTILE.glob("*.cdf"))),
        Target("projector", "a.pkl", read_projector_pickle, mutators.of_bytes, _of(*pickled) or [_a_pickle()]),
    ]


def _cdf(path: Path) -> None:
    from caffe_compat.formats.guarded import guarded

    guarded(read_pose, str(path))


def _a_pickle() -> bytes:
    import pickle

    chance = np.random.RandomState(0)
    return pickle.dumps({f"w{k}": chance.uniform(-1, 1, (4, 3)) for k in range(3)}, protocol=2)
