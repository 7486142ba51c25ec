"""How long a 170 MB network takes to become an ONNX file that onnxruntime has run, and how much memory.

    python benchmarks/exporting.py [--frames 5]

In a process of its own each: this library's export with its verification, by seconds beyond importing torch; and, as a
peer, ``torch.onnx.export`` of the same net (by tracing), which verifies nothing. Peak memory is the maximum resident
set (Linux only), torch's own share of it beside.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = ("ours", "peer")


def task(name: str, prototxt: str, weights: str) -> None:
    """In a process of its own: import torch, export, print seconds and peak memory of both."""
    begun = time.perf_counter()
    import torch

    imported, own = time.perf_counter() - begun, peak_memory()
    begun = time.perf_counter()
    import caffe_compat

    target = Path(weights).with_suffix(f".{name}.onnx")
    net = caffe_compat.load(prototxt, weights)
    if name == "ours":
        import converters

        converters.export(net, target)
    else:
        inputs = tuple(torch.zeros(net.input_shapes[blob]) for blob in net.program.needed_inputs)
        torch.onnx.export(net.as_module(), inputs, str(target), dynamo=False)
    print(imported, own, time.perf_counter() - begun, peak_memory(), file=sys.__stdout__)


def peak_memory() -> float:
    """The maximum resident set of this process so far, in MB."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in TASKS:
        task(*sys.argv[1:])
        return 0
    from networks import pose_network, write_weights

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prototxt, weights = Path(folder, "deploy.prototxt"), Path(folder, "weights.caffemodel")
        text = pose_network(arguments.frames)
        prototxt.write_text(text)
        write_weights(text, weights)
        size = weights.stat().st_size / 2**20
        for name in TASKS:
            command = [sys.executable, __file__, name, str(prototxt), str(weights)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            imported, own, seconds, peak = map(float, done.stdout.split()[-4:])
            print(
                f"{name}: {seconds:.1f} s beyond importing torch ({imported:.1f} s); peak {peak:.0f} MB "
                f"({peak / size:.1f} times the file of {size:.0f} MB), of which torch has {own:.0f} MB"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
