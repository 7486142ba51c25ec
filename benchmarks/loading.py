"""How fast a 170 MB caffemodel becomes views, a net and a .pt, and how much memory that takes.

    python benchmarks/loading.py [--opencv-python PATH] [--rounds 5]

Peers, by turns in the same run: protobuf's own parser with numpy and torch (read the file, parse it, copy every blob
into a tensor), ``torch.save`` of the same tensors, and, if a Python with ``opencv-python-headless<5`` is named by the
option or by OPENCV4_PYTHON, OpenCV's importer on the part of the network that it knows. Peak memory is the maximum
resident set of fresh processes (Linux only). Chains of 1,000, 2,000 and 4,000 layers show how reading grows, in seconds
of processor time: it is the work of one thread.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import chain, pose_network, trunk, write_weights
from peers import OpenCV, drop, fastest, verdict

import caffe_compat
from caffe_compat.formats.files import Checksum
from caffe_compat.formats.weights import read_weights
from caffe_compat.network.checkpoint import save_checkpoint
from caffe_compat.schema import load_schema

TASKS = ("import", "load", "convert")


def with_protobuf(weights: Path, message_class: Any) -> dict[str, list[torch.Tensor]]:
    message = message_class()
    message.ParseFromString(weights.read_bytes())
    return {
        layer.name: [torch.tensor(np.array(b.data, np.float32).reshape(tuple(b.shape.dim))) for b in layer.blobs]
        for layer in message.layer
        if layer.blobs
    }


def convert(prototxt: Path, weights: Path, output: Path) -> None:
    """As ``caffe-compat convert`` does it."""
    checksums = [Checksum(prototxt), Checksum(weights)]
    save_checkpoint(caffe_compat.load(prototxt, weights), output, sources=checksums)


def task(name: str, prototxt: str, weights: str) -> None:
    """In a process of its own: do one thing, print its peak memory in MB and its seconds."""
    start = time.perf_counter()
    if name == "load":
        caffe_compat.load(prototxt, weights)
    elif name == "convert":
        convert(Path(prototxt), Path(weights), Path(weights).with_suffix(".pt"))
    seconds = time.perf_counter() - start
    print(peak_memory(), seconds)


def peak_memory() -> float:
    """The maximum resident set of this process so far, in MB. (What getrusage says begins with the parent's.)"""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024


def peak(*command: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True)
    memory, seconds = done.stdout.split()
    return float(memory), float(seconds)


def reading_grows(folder: Path) -> bool:
    seconds = {}
    for layers in (1000, 2000, 4000):
        path = folder / f"chain{layers}.prototxt"
        path.write_text(chain(layers))
        seconds[layers] = fastest({"load": partial(processor_time, path)}, 3)["load"]
        size = path.stat().st_size / 1e3
        print(f"     a prototxt of {layers} layers ({size:.0f} kB) becomes a net in {seconds[layers]:.3f} s")
    good = verdict("four times the layers cost, times", seconds[4000] / seconds[1000], 5)
    # By size, between the chains.
    per_kb = seconds[2000] / ((folder / "chain2000.prototxt").stat().st_size / 1e3)
    return verdict("a prototxt of 300 kB becomes a net", 300 * per_kb, 0.5, " s") and good


def processor_time(prototxt: Path) -> float:
    # Python's collector of cycles visits all objects of the process again and again, whoever made them: not our growth.
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        caffe_compat.load(prototxt)
        return time.process_time() - start
    finally:
        gc.enable()


def main() -> int:
    if len(sys.argv) == 4 and sys.argv[1] in TASKS:
        task(*sys.argv[1:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--opencv-python", default=os.environ.get("OPENCV4_PYTHON"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
        prototxt.write_text(pose_network())
        write_weights(pose_network(), weights)
        size = weights.stat().st_size / 2**20
        tensors = caffe_compat.load(prototxt, weights).state_dict()
        message_class = load_schema().message("NetParameter")
        best = fastest(
            {
                "views": lambda: drop(read_weights(weights).layers),
                "load": lambda: drop(caffe_compat.load(prototxt, weights)),
                "protobuf + numpy": lambda: drop(with_protobuf(weights, message_class)),
                "convert": lambda: convert(prototxt, weights, folder / "net.pt"),
                "torch.save": lambda: torch.save(tensors, folder / "peer.pt"),
            },
            options.rounds,
        )
        print(f"{size:.0f} MB: " + ", ".join(f"{what} {seconds * 1e3:.1f} ms" for what, seconds in best.items()))
        good = verdict("to numpy views", best["views"] * 1e3, 50, " ms")
        good &= verdict("to a loaded CaffeNet", best["load"], 0.5, " s")
        good &= verdict("the same over protobuf + numpy, times", best["load"] / best["protobuf + numpy"], 1)
        good &= verdict("converted, times torch.save", best["convert"] / best["torch.save"], 3)
        if options.opencv_python:
            small, small_weights = folder / "trunk.prototxt", folder / "trunk.caffemodel"
            small.write_text(trunk())
            write_weights(trunk(), small_weights)
            part = small_weights.stat().st_size / 2**20
            with OpenCV(options.opencv_python, small, small_weights, (1, 3, 368, 368)) as peer:
                print(f"     OpenCV reads the trunk alone ({part:.0f} MB) in {peer.loaded:.3f} s")
        else:
            print("left out: OpenCV; name a Python with opencv-python-headless<5 by --opencv-python")
        torch_alone, _ = peak("-c", "import torch\n" + inspect.getsource(peak_memory) + "print(peak_memory(), 0)")
        for what in TASKS:
            memory, seconds = peak(__file__, what, str(prototxt), str(weights))
            print(f"     a fresh process, {what}: {memory:.0f} MB, {seconds:.2f} s after its imports")
            if what != "import":
                limit = torch_alone + 1.2 * size
                good &= verdict(f"{what}: peak memory, torch alone being {torch_alone:.0f} MB", memory, limit, " MB")
        good &= reading_grows(folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
