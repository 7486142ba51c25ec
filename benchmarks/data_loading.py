"""How fast one core loads images, next to what OpenCV alone needs to decode and resize them.

    python benchmarks/data_loading.py [--images 64] [--seconds 10]

Generates 368x368 JPEGs of photographic texture, reads them as an ImageData layer does (list, decode, resize to
368x368, subtract a mean, scale, float32 planes) and as a plain loop over ``cv2.imread`` and ``cv2.resize``, in turns so
that a busy machine troubles both alike, each on one core. The target is a rate within 10% of plain OpenCV's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from caffe_compat.data import Loader, Source, make_sources
from caffe_compat.graph import NetState, build_graph
from caffe_compat.prototxt import parse_message
from caffe_compat.sources import is_source

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
    """Seconds an image of decoding and resizing only."""
    began = time.perf_counter()
    for path in paths:
        cv2.resize(cv2.imread(path), (SIZE, SIZE))
    return (time.perf_counter() - began) / len(paths)


def source_seconds(source: Source, start: int, batches: int, memory: list[torch.Tensor]) -> float:
    """Seconds an image of reading whole batches into memory that is used again, as a worker process does."""
    began = time.perf_counter()
    for index in range(start, start + batches):
        slots = iter(memory)
        source.batch(index, lambda shape, slots=slots: next(slots))  # type: ignore[misc]
    return (time.perf_counter() - began) / (batches * BATCH)


def loader_seconds(source: Source, start: int, batches: int, copy: bool) -> float:
    """Seconds an image of one worker process, whose batches the caller takes as fast as they come."""
    with Loader([source], start=start, workers=1, copy=copy) as loader:
        next(loader)
        began = time.perf_counter()
        for _ in range(batches):
            next(loader)
        return (time.perf_counter() - began) / (batches * BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = generate(folder, arguments.images)
        size = sum(Path(path).stat().st_size for path in paths) / len(paths)
        graph = build_graph(parse_message(NET).message, NetState("TRAIN"), is_source)
        (source,) = make_sources(graph, root=folder, seed=0)
        memory = [torch.empty(shape) for shape in source.shapes().values()]
        batches = max(1, len(paths) // BATCH)
        rounds: dict[str, list[float]] = {"plain OpenCV": [], "source": [], "worker": [], "worker, copied": []}
        plain_seconds(paths), source_seconds(source, 0, batches, memory)
        end = time.monotonic() + arguments.seconds
        k = 0
        while time.monotonic() < end:
            k += 1
            rounds["plain OpenCV"].append(plain_seconds(paths))
            rounds["source"].append(source_seconds(source, k * batches, batches, memory))
            rounds["worker"].append(loader_seconds(source, k * batches, batches, copy=False))
            rounds["worker, copied"].append(loader_seconds(source, k * batches, batches, copy=True))
    print(f"{len(paths)} JPEGs of {SIZE}x{SIZE}, {size / 1024:.0f} KiB each, {k} rounds, one core each")
    plain = rounds["plain OpenCV"]
    for label, seconds in rounds.items():
        share = statistics.median(p / s for p, s in zip(plain, seconds, strict=True))
        print(f"{label:15} {1 / statistics.median(seconds):7.0f} images/s (median)  {share:6.1%} of plain OpenCV's rate")


if __name__ == "__main__":
    main()
