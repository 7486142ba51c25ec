"""What the pose system reads: the original's lists, arrays and pickles, data sets, detections; and what it exports."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from caffe_compat.formats.guarded import guarded
from hpm.datasets.cdf import read_pose
from hpm.datasets.detections import read_detections
from hpm.datasets.human36m import read_baseline, read_fetch, read_videopose
from hpm.datasets.kth_football import read_kth
from hpm.datasets.mpii import read_mpii
from hpm.files.exports import Motion, export_poses
from hpm.files.keypoints import read_boxes, read_keypoints
from hpm.files.lists import format_list_line, read_errors, read_list, read_refined, read_results
from hpm.files.projector_pickle import read_projector_pickle, write_projector_pickle
from hpm.projector import Affine, Projector
from hpm.scaling import read_bounds, read_limbs
from tests.fuzz import mutators
from tests.fuzz.target import HOSTILE, REFERENCE, Target, contents
from tests.hpm.datasets.human36m_files import Recordings

__all__ = ["poses"]


def poses() -> list[Target]:
    """All of them."""
    return [*_of_the_original(), *_of_detectors(), *_data_sets()]


def _of_the_original() -> list[Target]:
    chance = np.random.RandomState(0)
    rows = chance.uniform(0, 1, (2, 80))
    listed = "".join(format_list_line(f"a/{k}.jpg", row[:32], row[32:], k) for k, row in enumerate(rows)).encode()
    values = chance.uniform(-1, 1, (3, 48))
    results = "".join("," + ",".join(f"{v:.6g}" for v in row) + "\n" for row in values).encode()
    refined = results.replace(b"\n,", b"\n")[1:]
    limbs = b"0," + b",".join(b"%d.5" % (100 + k) for k in range(15))
    bounds = contents(REFERENCE / "max_min.csv")
    return [
        Target("pose-list", "a.txt", read_list, mutators.of_text, [listed]),
        Target("results", "a.csv", partial(read_results, width=48), mutators.of_text, [results]),
        Target("refined", "a.csv", _refined, mutators.of_text, [refined]),
        Target("errors", "a.csv", read_errors, mutators.of_text, [b"1.5,2.5,3.5\n4,5,6\n"]),
        Target("bounds", "a.csv", read_bounds, mutators.of_text, bounds),
        Target("limbs", "a.csv", read_limbs, mutators.of_text, [limbs]),
        Target("projector", "a.pkl", read_projector_pickle, mutators.of_bytes, [_made(_a_projector)]),
    ]


def _refined(path: Path) -> None:
    """Poses that were read leave as arrays, JSON and motions; arrays come back as they were."""
    found = read_refined(path)
    frames = found.reshape(len(found), -1, 3)
    for ending in (".npy", ".npz", ".csv", ".json", ".bvh", ".glb"):
        export_poses(frames, path.with_name(f"b{ending}"), Motion(fps=25, stage="refined"))
    np.testing.assert_array_equal(np.load(path.with_name("b.npy")), frames)


def _a_projector(folder: Path) -> Path:
    """Narrow: 5 and 7 values in the hidden layers."""
    shapes = ((5, 48), (48, 5), (7, 48), (7, 7), (7, 7), (32, 7))
    layers = (Affine(torch.ones(shape), torch.ones(shape[0])) for shape in shapes)
    write_projector_pickle(folder / "a.pkl", Projector(*layers))
    return folder / "a.pkl"


def _of_detectors() -> list[Target]:
    chance = np.random.RandomState(0)
    keypoints = io.BytesIO()
    np.save(keypoints, chance.uniform(0, 100, (5, 16, 2)))
    coco = json.dumps([{"image_id": k, "keypoints": chance.uniform(0, 9, 51).tolist(), "score": 1.0} for k in range(2)])
    detections = _made(lambda root: Recordings().detections(root / "data_2d_h36m_x.npz"))
    return [
        Target("keypoints", "a.npy", read_keypoints, mutators.of_bytes, [keypoints.getvalue()]),
        Target("keypoints-json", "a.json", read_keypoints, mutators.of_text, [coco.encode()]),
        Target("boxes", "a.csv", read_boxes, mutators.of_text, [b"1,2,30,40\n5,6,70,80\n"]),
        Target(
            "detections", "a.npz", read_detections, mutators.of_zip,
            [detections, *contents(HOSTILE / "npz_tokenerror.npz")],
        ),
    ]  # fmt: skip


def _data_sets() -> list[Target]:
    chance = np.random.RandomState(0)
    persons = json.dumps({"root": [{"img_paths": "a.jpg", "joint_self": chance.uniform(1, 9, (16, 3)).tolist()}]})
    fetch = "S1/Directions-1/annot.h5"
    baseline = "S1/MyPoses/3D_positions/Directions 1.h5"
    few = Recordings({("S1", "Directions 1"): 3})
    # A frame of a body that is a point, seen at (5, 7) by every camera.
    kth = {"positions2d.txt": b"5 7 " * 42, "positions3d.txt": b"0 " * 42, "cameras.txt": b"0 0 0 0 0 0 5 7 " * 3}
    return [
        Target("persons", "a.json", read_mpii, mutators.of_text, [persons.encode()]),
        Target("persons-mat", "a.mat", read_mpii, mutators.of_bytes, contents(*sorted(HOSTILE.glob("*.mat")))),
        Target("cdf", "a.cdf", lambda path: guarded(read_pose, str(path)), mutators.of_bytes, _cdfs()),
        Target(
            "videopose", "a.npz", lambda path: list(read_videopose(path)), mutators.of_zip, [_made(few.videopose)]
        ),
        Target(
            "baseline", baseline, lambda path: list(read_baseline(_root_of(path, baseline))), mutators.of_hdf5,
            [_made(lambda root: few.baseline(root) / baseline)],
        ),
        Target(
            "fetch", fetch, lambda path: list(read_fetch(_root_of(path, fetch))), mutators.of_hdf5,
            [_made(lambda root: few.fetch(root) / fetch), *contents(HOSTILE / "fetch_unsized.h5")],
        ),
        *(
            Target(
                f"kth-{name[:-4]}", name, lambda path: read_kth(path.parent), mutators.of_text, [content],
                {other: value for other, value in kth.items() if other != name},
            )
            for name, content in kth.items()
        ),
    ]  # fmt: skip


def _cdfs() -> list[bytes]:
    return contents(*sorted(HOSTILE.glob("*.cdf")))


def _root_of(path: Path, name: str) -> Path:
    return path.parents[name.count("/")]


def _made(write: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder)).read_bytes()
