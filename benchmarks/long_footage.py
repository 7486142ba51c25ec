"""The most memory that the pose system's commands take, by the number of frames, with the model that ships.

    python benchmarks/long_footage.py FOLDER [--frames 5000 --frames 20000] [--only predict]

Each command runs in a process of its own: ``predict`` on a list of pictures, the same with 2D poses that refine, and
``coarse`` and ``refine`` on a list with labels. The lists name the shipped pictures again and again. What is written
stays in FOLDER; ``predict`` writes a crop a frame.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from runtime_peer import peak_memory

import hpm
from caffe_compat import CaffeCompatWarning
from hpm.files.folders import DataFolder
from hpm.files.lists import read_list

SHIPPED = Path(__file__).parent.parent / "reference_outputs" / "synthetic_pose"
ACTION, SIDE = 13, 64
COMMANDS = ("predict", "predict, refined", "coarse", "refine")


def prepare(folder: Path, frames: int) -> None:
    """The model, a list of pictures, one with labels, and 2D poses in pixels."""
    model, shipped, data = folder / "pose.pt", DataFolder(SHIPPED / "data"), DataFolder(folder)
    if not model.exists():
        definition, weights = SHIPPED / "deploy.prototxt", SHIPPED / "synthetic_pose.caffemodel"
        hpm.convert(definition, weights, output=model, reference=SHIPPED / "outputs.h5", bounds=shipped.bounds)
    labels = shipped.ground_truth(ACTION)
    entries = read_list(labels)
    pictures = (f"{shipped.pictures / path}\n" for path in islice(cycle(entries.paths), frames))
    (folder / "frames.txt").write_text("".join(pictures))
    data.ground_truth(ACTION).parent.mkdir(parents=True, exist_ok=True)
    data.ground_truth(ACTION).write_text("".join(islice(cycle(labels.read_text().splitlines(keepends=True)), frames)))
    data.bounds.write_bytes(shipped.bounds.read_bytes())
    points = entries.pose2d.reshape(-1, 16, 2) * SIDE
    np.save(folder / "points.npy", np.resize(points, (frames, 16, 2)))


def run(command: str, folder: Path) -> None:
    """One command, in this process. The pictures jump where the list begins again, which is said to be doubtful."""
    warnings.simplefilter("ignore", CaffeCompatWarning)
    model, shown = folder / "pose.pt", SHIPPED / "data" / "h36m"
    actions: dict[str, Callable[[], object]] = {
        "predict": lambda: hpm.predict(folder / "frames.txt", model, folder / "out"),
        "predict, refined": lambda: hpm.predict(
            folder / "frames.txt", model, folder / "out", keypoints=folder / "points.npy"
        ),
        "coarse": lambda: hpm.coarse_files(model, folder, folder / "coarse", images=shown, actions=[ACTION]),
        "refine": lambda: hpm.refine_files(
            model, folder, folder / "refined", coarse=folder / "coarse", pose2d="gt", actions=[ACTION]
        ),
    }
    start = time.perf_counter()
    actions[command]()
    print(f"{command}: {peak_memory():.0f} MB, {time.perf_counter() - start:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, action="append", help="may be repeated")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="of the commands; may be repeated")
    parser.add_argument("--run", choices=COMMANDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.folder)
        return
    for frames in options.frames or [5_000, 20_000]:
        options.folder.mkdir(parents=True, exist_ok=True)
        prepare(options.folder, frames)
        print(f"{frames} frames", flush=True)
        for command in options.only or COMMANDS:
            subprocess.run([sys.executable, __file__, str(options.folder), "--run", command], check=True)


if __name__ == "__main__":
    main()
