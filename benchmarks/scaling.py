"""What a second worker brings: extraction on Ray, and training under torchrun.

    python benchmarks/scaling.py [--rounds 3] [--images 768] [--steps 30]

Extraction: JPEGs, decoded and run through the convolutions of a network of the size of AlexNet, on a Ray of one core
and on one of two. Training: a small convolutional net on batches that it makes up, so many a process, with gradients
exchanged after each iteration; the time of an iteration is that of a long run less that of a short one. Both by
turns; medians of the rounds and their range. Efficiency is the rate of two over twice that of one, on an idle machine
with two cores or more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import ray
import torch
from extract import HOW, NET, generate
from networks import write_weights

from caffe_compat import CaffeNet, load
from caffe_compat.extraction import extract, find_images

SHARD = 32
TRAINED = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 16 dim: 3 dim: 64 dim: 64 } shape { dim: 16 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 3 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 64 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 64 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool" type: "Pooling" bottom: "conv2" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" display: 0 snapshot_after_train: false max_iter: {}\n'


def extracting(net: CaffeNet, images: Path, folder: Path, workers: int) -> float:
    """Images a second on a Ray of ``workers`` cores, which have their net by then."""
    rows = find_images(images)
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        for round_ in ("first", "timed"):
            start = time.perf_counter()
            extract(net, rows, folder / f"{round_}.npy", preprocess=HOW, batch=8, shard=SHARD, ray="")
            took = time.perf_counter() - start
            for path in folder.glob(f"{round_}.npy*"):
                path.unlink()
    finally:
        ray.shutdown()
    return len(rows) / took


def training(folder: Path, workers: int, steps: int) -> float:
    """Images a second that ``workers`` processes learn from."""
    (folder / "net.prototxt").write_text(TRAINED)
    took = []
    for iterations in (2, 2 + steps):
        (folder / "solver.prototxt").write_text(SOLVER.format(iterations))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        command += ["-m", "caffe_compat", "train", "-solver=solver.prototxt", "--workers=0"]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=_one_thread())
        took.append(time.perf_counter() - start)
    return workers * 16 * steps / (took[1] - took[0])


def _one_thread() -> dict[str, str]:

    return {**os.environ, "OMP_NUM_THREADS": "1"}


def report(name: str, measure: Callable[[int], float], rounds: int) -> None:
    """Measure one and two workers by turns, and print rates and efficiency."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in rates.items():
            found.append(measure(workers))
    for workers, found in rates.items():
        print(
            f"{name}, {workers} worker{'s' * (workers > 1)}: {statistics.median(found):.1f} images/s "
            f"({min(found):.1f} to {max(found):.1f})"
        )
    each = [two / one / 2 for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"{name}: efficiency of two {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), Path(name, "images")
        images.mkdir()
        generate(images, arguments.images)
        (folder / "net.prototxt").write_text(NET)
        write_weights(NET, folder / "net.caffemodel")
        net = load(folder / "net.prototxt", folder / "net.caffemodel").part(["pool5"])
        report("extraction", lambda workers: extracting(net, images, folder, workers), arguments.rounds)
        report("training", lambda workers: training(folder, workers, arguments.steps), arguments.rounds)


if __name__ == "__main__":
    main()
