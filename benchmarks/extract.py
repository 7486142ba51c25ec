"""How much of what a machine could do an extraction does: where decoding is the limit, and where the net is.

    python benchmarks/extract.py [--rounds 40]

Decoding: JPEGs of photographic texture, 500 x 375, resized to 256 x 256 and cut to 227 x 227, as a plain loop over
``cv2.imread`` and ``cv2.resize``, and as an extraction's worker reads them into its batch. Computing: the convolutions
of a network of the size of AlexNet, as ``optimize()`` gives it alone, and as an extraction runs it (what it adds is
taking batches from the loader, collecting rows, and writing shards). Both by turns, in processor time of one thread, so
that a busy machine troubles both alike; medians, and the quarters between which half of the rounds lie.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from networks import write_weights
from peers import verdict
from torch import Tensor

from caffe_compat import load
from caffe_compat.extraction.images import find_images
from caffe_compat.extraction.reading import BatchReader
from caffe_compat.extraction.shards import ShardStore
from caffe_compat.extraction.work import Work
from caffe_compat.inference.preprocess import Preprocess

BATCH = 8
HOW = Preprocess(resize=(256, 256), crop=(227, 227), mean=(104.0, 117.0, 123.0))
NET = """
name: "five convolutions"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 8 dim: 3 dim: 227 dim: 227 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 96 kernel_size: 11 stride: 4 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 256 pad: 2 kernel_size: 5 group: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "conv3" type: "Convolution" bottom: "pool2" top: "conv3"
  convolution_param { num_output: 384 pad: 1 kernel_size: 3 } }
layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3" }
layer { name: "conv4" type: "Convolution" bottom: "conv3" top: "conv4"
  convolution_param { num_output: 384 pad: 1 kernel_size: 3 group: 2 } }
layer { name: "relu4" type: "ReLU" bottom: "conv4" top: "conv4" }
layer { name: "conv5" type: "Convolution" bottom: "conv4" top: "conv5"
  convolution_param { num_output: 256 pad: 1 kernel_size: 3 group: 2 } }
layer { name: "pool5" type: "Pooling" bottom: "conv5" top: "pool5" pooling_param { pool: AVE global_pooling: true } }
"""


def generate(folder: Path, count: int) -> list[str]:
    """JPEGs with detail at every scale, as photographs have; returns their paths."""
    paths = []
    for k in range(count):
        random = np.random.RandomState(k)
        image = np.zeros((375, 500, 3), np.float32)
        for cells, strength in ((4, 60), (16, 35), (64, 18), (375, 6)):
            noise = random.standard_normal((cells, cells, 3)).astype(np.float32) * strength
            image += cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC)
        paths.append(str(folder / f"{k:03d}.jpg"))
        cv2.imwrite(paths[-1], np.clip(image + 128, 0, 255).astype(np.uint8))
    return paths


def plain(paths: Sequence[str]) -> None:
    """Decoding and resizing, and nothing else."""
    for path in paths:
        image = cv2.imread(path)
        assert image is not None
        cv2.resize(image, (256, 256))


def spread(costs: Sequence[float]) -> str:
    """Median and quarters of seconds, as images a second."""
    low, middle, high = statistics.quantiles(costs, n=4)
    return f"{BATCH / middle:8.1f} images/s of one core (half of the rounds: {BATCH / high:.1f} to {BATCH / low:.1f})"


def decoding(folder: Path, rounds: int) -> bool:
    """Whether a worker reaches 95% of plain OpenCV."""
    paths = generate(folder, 8 * BATCH)
    rows = find_images(folder)
    batches = list(range(len(rows) // BATCH))
    reader = BatchReader(rows, HOW, (BATCH, 3, 227, 227), batches)
    memory = {shape: torch.empty(shape, dtype=torch.uint8) for shape in reader.shapes().values()}
    peer, ours = [], []
    for k in range(rounds):
        index = k % len(batches)
        start = time.process_time()
        plain(paths[index * BATCH : (index + 1) * BATCH])
        between = time.process_time()
        reader.read(index, lambda shape, dtype: memory[shape])
        peer.append(between - start)
        ours.append(time.process_time() - between)
    print("decoding\n  plain OpenCV ", spread(peer), "\n  a worker     ", spread(ours))
    return verdict(
        "a worker's rate, of plain OpenCV's", statistics.median(peer) / statistics.median(ours), 0.95, least=True
    )


def computing(folder: Path, rounds: int) -> bool:
    """Whether an extraction reaches 97% of the net alone."""
    (folder / "net.prototxt").write_text(NET)
    write_weights(NET, folder / "net.caffemodel")
    net = load(folder / "net.prototxt", folder / "net.caffemodel").part(["pool5"]).optimize()
    rows = find_images(folder)
    work = Work(net, rows, HOW, BATCH, 4, np.dtype(np.float32))
    read = [work.reader([0]).batch(0)] * work.per_shard
    pixels = read[0]["pixels"]
    ours, peer = [], []
    store = ShardStore(str(folder / "parts"), {"benchmark": 1})
    with torch.no_grad():
        net(data=pixels)
        for k in range(max(4, rounds // work.per_shard)):
            start = time.process_time()
            for _ in range(work.per_shard):
                net(data=pixels)
            between = time.process_time()
            batches: list[Mapping[str, Tensor]] = list(read)
            store.add(k, work.compute(0, iter(batches)))
            peer.append((between - start) / work.per_shard)
            ours.append((time.process_time() - between) / work.per_shard)
    store.remove()
    print("computing\n  optimize()   ", spread(peer), "\n  an extraction", spread(ours))
    return verdict("its rate, of the net's alone", statistics.median(peer) / statistics.median(ours), 0.97, least=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (decoding, computing):
            part(folder, arguments.rounds)


if __name__ == "__main__":
    main()
