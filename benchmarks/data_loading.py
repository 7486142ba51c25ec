"""How fast one core loads images, next to what OpenCV alone needs to decode and resize them.

    python benchmarks/data_loading.py [--images 64] [--rounds 200]

Generates 368x368 JPEGs of photographic texture and reads them in turns, batch by batch, so that a busy machine troubles
both alike: as a plain loop over ``cv2.imread`` and ``cv2.resize``, and as the worker process of a loader reads for an
ImageData layer (list, decode, resize to 368x368, planes). The subtraction of the mean and the scaling come on top, in
the process or on the device that trains, and are told apart. Rates are images per second of processor time, which is
what one core gives. The target is a worker's rate within 10% of plain OpenCV's.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from caffe_compat.network.graph import NetState, phase_graph
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.training.data import Loader, Source, make_sources

SIZE = 368
BATCH = 8
NET = f"""
layer {{
  name: "data" type: "ImageData" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 mean_value: 128 }}
  image_data_param {{ source: "list.txt" batch_size: {BATCH} new_height: {SIZE} new_width: {SIZE} shuffle: true }}
}}
"""


def generate(folder: Path, count: int) -> list[str]:
    """JPEGs with detail at every scale, as photographs have; returns their paths."""
    paths = []
    for k in range(count):
        random = np.random.RandomState(k)
        image = np.zeros((SIZE, SIZE, 3), np.float32)
        for cells, strength in ((4, 60), (16, 35), (64, 18), (SIZE, 6)):
            noise = random.standard_normal((cells, cells, 3)).astype(np.float32) * strength
            image += cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        paths.append(str(folder / f"{k}.jpg"))
        cv2.imwrite(paths[-1], np.clip(image + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    (folder / "list.txt").write_text("".join(f"{k}.jpg {k}\n" for k in range(count)))
    return paths


def plain_seconds(paths: list[str]) -> float:
    """Processor seconds an image of decoding and resizing only."""
    began = time.process_time()
    for path in paths:
        image = cv2.imread(path)
        assert image is not None
        cv2.resize(image, (SIZE, SIZE))
    return (time.process_time() - began) / len(paths)


def source_seconds(source: Source, index: int, memory: torch.Tensor) -> tuple[float, float]:
    """Processor seconds an image to read a batch into memory that is used again, as a worker does, and to finish it."""
    began = time.process_time()
    values = source.read(index, lambda shape, dtype: memory.view(dtype).view(shape))
    read = time.process_time()
    for value in values.values():
        value.finish()
    return (read - began) / BATCH, (time.process_time() - read) / BATCH


def worker_seconds(source: Source, batches: int) -> float:
    """Processor seconds of one worker process that reads some batches, all in all."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Loader([source], stop=batches, workers=1) as loader:
        for _ in loader:
            pass
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = generate(folder, arguments.images)
        size = sum(Path(path).stat().st_size for path in paths) / len(paths)
        graph = phase_graph(parse_message(NET).message, NetState("TRAIN"))
        (source,) = make_sources(graph, root=folder, seed=0)
        memory = torch.empty(source.shapes()["data"], dtype=torch.uint8)
        plain, read, finish = [], [], []
        for k in range(arguments.rounds):
            batch = [paths[int(label)] for label in source.batch(k)["label"]]
            plain.append(plain_seconds(batch))
            seconds = source_seconds(source, k, memory)
            read.append(seconds[0])
            finish.append(seconds[1])
        start = worker_seconds(source, 1)
        worker = (worker_seconds(source, 1 + arguments.rounds) - start) / (arguments.rounds * BATCH)
    baseline = statistics.median(plain)
    print(f"{len(paths)} JPEGs of {SIZE}x{SIZE}, {size / 1024:.0f} KiB each, {arguments.rounds} batches of {BATCH}")
    for label, cost in (
        ("plain OpenCV", baseline),
        ("reading a batch", statistics.median(read)),
        ("a worker, running", worker),
    ):
        print(f"{label:17} {1 / cost:6.0f} images/s and core, {baseline / cost:6.1%} of plain OpenCV")
    print(f"mean and scale take {statistics.median(finish) * 1e6:.0f} us an image where the batch is used")


if __name__ == "__main__":
    main()
