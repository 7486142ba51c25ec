"""Export a sample of the networks of a folder to ONNX, and see that they run equal in onnxruntime.

    python scripts/sample_exports.py FOLDER --count 100

Networks are taken in an order drawn from --seed until --count of them were built; those that cannot be built, or have
inputs without a shape, are passed by. Weights are drawn, too, so that values neither vanish nor explode. What does not
go out is listed with the reason; the exit status is 1 if less than --least of the networks went out and ran equal.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import caffe_compat
import converters
from caffe_compat import CaffeCompatError, CaffeNet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with prototxt files, searched with its folders")
    parser.add_argument("--list", type=Path, help="a file with the beginnings of the names to take, one a line")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.97)
    parser.add_argument("--largest", type=float, default=100, help="pass by networks of more million weights")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.rglob("*.prototxt"))
    if arguments.list is not None:
        wanted = tuple(arguments.list.read_text().split())
        paths = [path for path in paths if path.name.startswith(wanted)]
    random.Random(arguments.seed).shuffle(paths)
    results: Counter[str] = Counter()
    for path in paths:
        if results["equal"] + results["not"] >= arguments.count:
            break
        started = time.perf_counter()
        kind, reason = exported(path, arguments.largest * 1e6)
        results[kind] += 1
        if kind != "passed by":
            print(f"{kind:>9} {time.perf_counter() - started:6.1f} s  {path.name}  {reason}", flush=True)
    tried = results["equal"] + results["not"]
    share = results["equal"] / tried if tried else 0.0
    print(f"{results['equal']} of {tried} went out and ran equal ({share:.1%}); {results['passed by']} passed by")
    return int(share < arguments.least)


def exported(path: Path, largest: float) -> tuple[str, str]:
    """``"equal"``, ``"not"`` with the reason, or ``"passed by"``."""
    try:
        net = caffe_compat.load(path, seed=0)
    except CaffeCompatError as error:
        return "passed by", str(error)
    if sum(tensor.numel() for tensor in net.state_dict().values()) > largest:
        return "passed by", "too large"
    fill(net)
    try:
        with tempfile.TemporaryDirectory() as folder:
            exported_ = converters.export(net, f"{folder}/net.onnx")
    except CaffeCompatError as error:
        return "not", str(error)
    assert exported_.verification is not None
    return "equal", f"off by {exported_.verification.worst_rel:.1e}"


def fill(net: CaffeNet) -> None:
    """Weights that keep the size of values, statistics around 1, everything else small."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator)
            last = name.rpartition(".")[2]
            if last in ("variance", "scale_factor", "slope", "scale") or (last == "weight" and tensor.dim() < 2):
                tensor.copy_(1 + 0.1 * drawn.clamp(-3, 3))
            elif tensor.dim() > 1:
                tensor.copy_(drawn * math.sqrt(1 / max(1, tensor[0].numel())))
            else:
                tensor.copy_(0.1 * drawn)


if __name__ == "__main__":
    sys.exit(main())
