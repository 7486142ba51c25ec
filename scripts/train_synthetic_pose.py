"""Make the data, train the small pose network that ships, measure it and store it with a test set and its outputs.

    .venv/bin/python scripts/train_synthetic_pose.py WORK_FOLDER [--ship]

The original's four phases on top of the 2D pre-training; then the network as a whole once more, for long and with
the pictures of more bodies; then the projector, from poses alone.

Two hours of one core (20 minutes of them the phases), and a part of another to read pictures ahead; less than half
of that on a fast one. A run that was stopped goes on from its last snapshot. ``--ship`` writes
``reference_outputs/synthetic_pose``; without it everything stays in WORK_FOLDER.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import synthetic_projector
import torch
from plain_pose_network import record

from caffe_compat.network.loading import build_net
from caffe_compat.schema.printing import format_message
from caffe_compat.training.data.images import read_image
from caffe_compat.training.solver import Event
from caffe_compat.training.solver.events import IterationShown
from hpm.datasets.layout import TrainingFolder
from hpm.datasets.synthetic import SyntheticOptions, write
from hpm.drivers.training import TrainingOptions, train_phase
from hpm.files.folders import ACTIONS
from hpm.files.lists import PoseList, format_list_line, read_list
from hpm.metrics import mpjpe
from hpm.networks import NetworkOptions, define
from hpm.projector import Projector
from hpm.refine import Refiner, RefineSettings
from hpm.scaling import Bounds, denormalise, normalise, read_bounds

SHIPPED = Path(__file__).parent.parent / "reference_outputs" / "synthetic_pose"
DATA = SyntheticOptions()
# Another body, other motions and backgrounds. The recipe was chosen with the errors of the held-out subject of DATA in
# sight; those of this one were looked at only when it stood.
UNSEEN = replace(DATA, seed=77, takes=1, singles=10)
WINDOW = 5
SEED = 1

NETWORK = NetworkOptions(
    image_size=DATA.image_size,
    channels=(8, 16, 32, 64, 32, 96),
    hidden=192,
    projector=640,
    batch=25,  # five runs of five frames: one window at a time, as the original, is too noisy for so few steps
    mpii_batch=5,
    test_batch=WINDOW,
    shuffle=False,  # the list of runs is shuffled already, and batches have to begin where runs do
    train_list="h36m/16skel_train_runs.txt",
)
PICTURES = replace(NETWORK, batch=16, shuffle=True, train_list="h36m/17skel_train_2d.txt")
# The projector needs many steps more than it needs many pictures in each.
FEW = replace(NETWORK, batch=10)

# Three to forty times the original's rates, falling to zero, for tens to hundreds of times fewer steps. The correction
# module and the projector begin with the original's small weights: training reaches few of the directions that a pose
# can move in, and in the others a projector that began with large ones keeps its random answers, which mislead the
# refinement. Their first rate is low because 0.001 leaves a tenth of the projector's units alive.
RECIPE = {
    "train_test_cpm": TrainingOptions(PICTURES, iterations=5000, learning_rate=5e-4, initial="scaled"),
    "2d_to_3d": TrainingOptions(NETWORK, iterations=6000, learning_rate=1e-3, initial="scaled"),
    "3d_to_2d": TrainingOptions(FEW, iterations=8000, learning_rate=3e-4),
    "finetune_whole": TrainingOptions(NETWORK, iterations=4000, learning_rate=4e-4),
    "mask3d": TrainingOptions(NETWORK, iterations=8000, learning_rate=4e-4),
}
# Then the whole network goes on learning: after the phases the frames that it was trained on are still off by 54 mm.
# With the pictures of more bodies, those of others profit as much.
MORE = replace(DATA, seed=2, subjects=tuple(f"T{k}" for k in range(1, 11)), takes=8, test_frames=1, singles=1)
BOTH = "h36m/16skel_train_both.txt"
LONGER = TrainingOptions(replace(NETWORK, train_list=BOTH), iterations=24000, learning_rate=5e-4)
# Frames of the list of runs that show the projector how coarse poses err.
FRAMES = 2000
COMMON: dict[str, Any] = {"schedule": "linear", "snapshot": 1000, "display": 100}

# Of the 2D poses that refine, standard deviations in pixels of a crop as large as the original's.
NOISE, FULL_SIDE = (0, 2, 5), 368

# What ships for tests: these actions, the first frames of the pictures of these cameras.
TEST_ACTIONS, TEST_FRAMES, TEST_CAMERAS = (2, 8, 13), 20, ("cam1", "cam3")


def main(work: Path, ship: bool) -> None:
    torch.set_num_threads(1)
    data, unseen = made(DATA, work / "data"), made(UNSEEN, work / "unseen")
    seconds: dict[str, int] = {}
    model: Path | None = None
    for phase, options in RECIPE.items():
        model, seconds[phase] = train(phase, options, data, work / "run")
    list_both(data, made(MORE, work / "more"))
    model, seconds["finetune_whole, longer"] = train("finetune_whole", LONGER, data, work / "longer", model)
    start = time.process_time()
    model = improve(model, data, work / "improved.caffemodel")
    seconds["projector, longer"] = round(time.process_time() - start)
    measured = {
        "processor_seconds": seconds,
        "mm": measure(model, data, data),
        "mm_of_unseen_subject": measure(model, data, unseen),
    }
    if ship:
        shipped = store(data, model)
        measured["mm_of_test_set"] = measure(model, data, shipped)
        (SHIPPED / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


def train(
    phase: str, options: TrainingOptions, data: TrainingFolder, out: Path, weights: Path | None = None
) -> tuple[Path, int]:
    """The trained model, and the processor time in seconds of the run that finished it."""
    start, noted = time.process_time(), out / f"{phase}.seconds"
    model = train_phase(
        phase, data.root, out, weights, options=replace(options, **COMMON), seed=SEED, workers=1, observer=show
    )
    assert model is not None
    if not noted.exists():
        noted.write_text(f"{time.process_time() - start:.0f}")
    return model, int(noted.read_text())


def improve(model: Path, data: TrainingFolder, target: Path) -> Path:
    """``model`` with the projector of :mod:`synthetic_projector`."""
    bounds, entries = read_bounds(data.bounds), read_list(data.runs_list, need_3d=True)
    assert entries.pose3d is not None
    assert entries.clip is not None
    shown, clip = pictures(data.h36m, entries, FRAMES), entries.clip[:FRAMES].astype(np.float32)
    coarse, _, projector = predict(model, shown, clip)
    frames = synthetic_projector.Frames(coarse, entries.pose3d[:FRAMES].astype(np.float64))
    synthetic_projector.write_with(synthetic_projector.trained(projector, bounds, frames), model, target)
    return target


def made(options: SyntheticOptions, root: Path) -> TrainingFolder:
    """The data set, which is made once."""
    whole = root.with_name(f"{root.name} is whole")
    if not whole.exists():
        write(options, root)
        whole.touch()
    return TrainingFolder(root)


def list_both(data: TrainingFolder, more: TrainingFolder) -> None:
    """A list of the runs of both data sets, shuffled, labels by the bounds of the first."""
    own, theirs = read_bounds(data.bounds), read_bounds(more.bounds)
    lines, entries = data.runs_list.read_text().splitlines(keepends=True), read_list(more.runs_list, need_3d=True)
    assert entries.pose3d is not None
    assert entries.clip is not None
    poses = normalise(denormalise(entries.pose3d.astype(np.float64), theirs), own)
    names = [f"../../{more.root.name}/h36m/{name}" for name in entries.paths]
    lines += map(format_list_line, names, entries.pose2d, poses, entries.clip.astype(int))
    runs = [lines[k : k + DATA.run] for k in range(0, len(lines), DATA.run)]
    order = np.random.default_rng((SEED, 7)).permutation(len(runs))
    (data.root / BOTH).write_text("".join(line for k in order for line in runs[k]))


def show(event: Event) -> None:
    if isinstance(event, IterationShown):
        print(f"iteration {event.iteration}: loss {event.loss:.5f}", flush=True)


# Measuring


def pictures(folder: Path, entries: PoseList, count: int | None = None) -> np.ndarray:
    """(frames, 3, size, size) as the networks take them, of the first ``count``."""
    frames = np.stack([read_image(str(folder / name), color=True) for name in entries.paths[:count]])
    return (frames.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 256


def predict(model: Path, data: np.ndarray, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, Projector]:
    """``3dpredict`` and ``change`` of one list, window by window with carried state, and the projector."""
    net, _ = build_net(define("deploy", NETWORK), model)
    coarse, change = [], []
    with torch.no_grad():
        for start in range(0, len(data), WINDOW):
            inputs = {"data": data[start : start + WINDOW], "clip": clip[start : start + WINDOW, None]}
            blobs = net.run(inputs, blobs=["3dpredict", "change"])
            coarse.append(blobs["3dpredict"].numpy())
            change.append(blobs["change"].numpy())
    return np.concatenate(coarse), np.concatenate(change), Projector.from_state(net.state_dict())


def millimetres(pose: np.ndarray, bounds: Bounds) -> np.ndarray:
    return denormalise(pose.astype(np.float64), bounds).reshape(-1, 16, 3)


def measure(model: Path, trained: TrainingFolder, tested: TrainingFolder) -> dict[str, dict[str, float]]:
    """MPJPE of the held-out subject by action, mm. The mean pose is of training.

    Refinement gets the true 2D poses, and with normally distributed noise of :data:`NOISE` pixels.
    """
    bounds, label_bounds = read_bounds(trained.bounds), read_bounds(tested.bounds)
    labels = read_list(trained.train_list, need_3d=True).pose3d
    assert labels is not None
    mean = millimetres(labels, bounds).mean(0)
    table: dict[str, dict[str, float]] = {}
    for number, action in ACTIONS.items():
        path = tested.test_data().ground_truth(number)
        if not path.exists():
            continue
        entries = read_list(path, need_3d=True)
        assert entries.pose3d is not None
        assert entries.clip is not None
        truth = millimetres(entries.pose3d, label_bounds)
        coarse, change, projector = predict(model, pictures(tested.h36m, entries), entries.clip.astype(np.float32))
        poses = {"mean pose": np.broadcast_to(mean, truth.shape)}
        poses |= {"coarse": millimetres(coarse, bounds), "change": millimetres(change, bounds)}
        chance = np.random.default_rng(number)
        for pixels in NOISE:
            seen = entries.pose2d + chance.normal(0, pixels / FULL_SIDE, entries.pose2d.shape)
            for mode in ("faithful", "independent"):
                refiner = Refiner(projector, RefineSettings(mode=mode), bounds=bounds)
                refined = refiner.refine(coarse, seen.astype(np.float32))
                poses[f"{mode}, {pixels} px" if pixels else mode] = millimetres(refined.pose, bounds)
        table[action] = {name: round(mpjpe(pose, truth), 2) for name, pose in poses.items()}
    names = next(iter(table.values()))
    table["average"] = {name: round(float(np.mean([row[name] for row in table.values()])), 2) for name in names}
    return table


# Shipping


def store(data: TrainingFolder, model: Path) -> TrainingFolder:
    """Write the model, its definition, outputs computed by plain numpy, and a test set, whose folder it returns."""
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shipped = TrainingFolder(SHIPPED / "data")
    shipped.h36m.mkdir(parents=True)
    shutil.copyfile(model, SHIPPED / "synthetic_pose.caffemodel")
    (SHIPPED / "deploy.prototxt").write_text(format_message(define("deploy", NETWORK).message))
    for bounds in (shipped.bounds, shipped.test_data().bounds):
        shutil.copyfile(data.bounds, bounds)
    for number in TEST_ACTIONS:
        lines = data.test_data().ground_truth(number).read_text().splitlines(keepends=True)
        kept = [line for camera in TEST_CAMERAS for line in [x for x in lines if f"_{camera}/" in x][:TEST_FRAMES]]
        target = shipped.test_data().ground_truth(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(kept))
        for name in read_list(target).paths:
            (shipped.h36m / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data.h36m / name, shipped.h36m / name)
    entries = read_list(shipped.test_data().ground_truth(TEST_ACTIONS[-1]))
    assert entries.clip is not None
    frames, clip = pictures(shipped.h36m, entries), entries.clip[:, None]
    first = [(frames[k : k + WINDOW], clip[k : k + WINDOW]) for k in (0, WINDOW)]
    record(
        SHIPPED / "outputs.h5",
        SHIPPED / "synthetic_pose.caffemodel",
        first,
        "plain numpy in double precision (scripts/plain_pose_network.py)",
    )
    return shipped


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--ship" in sys.argv[2:])
