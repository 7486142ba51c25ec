"""Export a sample of the networks of a folder to ONNX, and see that they run equal in onnxruntime.

    python scripts/sample_exports.py FOLDER --count 100

Networks are taken in an order drawn from --seed until --count of them were built; those that cannot be built, or have
inputs without a shape, are passed by. Batches are cut down to two items where the definition allows. Weights are drawn,
too, so that values neither vanish nor explode. What does not go out is listed with the reason; the exit status is 1 if
less than --least of the networks went out and ran equal. "by layer" are those of them in which rounding decides: what
runs equal there is each layer, given what the file has.
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

import converters
from caffe_compat import CaffeCompatError, CaffeNet
from caffe_compat.network.definition import Definition, read_definition


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
        if results["equal"] + results["by layer"] + results["not"] >= arguments.count:
            break
        started = time.perf_counter()
        kind, reason = exported(path, arguments.largest * 1e6)
        results[kind] += 1
        if kind != "passed by":
            print(f"{kind:>9} {time.perf_counter() - started:6.1f} s  {path.name}  {reason}", flush=True)
    good = results["equal"] + results["by layer"]
    tried = good + results["not"]
    share = good / tried if tried else 0.0
    print(
        f"{good} of {tried} went out and ran equal ({share:.1%}), {results['by layer']} of them by layer; "
        f"{results['passed by']} passed by"
    )
    return int(share < arguments.least)


def exported(path: Path, largest: float) -> tuple[str, str]:
    """``"equal"``, ``"by layer"``, ``"not"`` with the reason, or ``"passed by"``."""
    try:
        definition = read_definition(path)
        net = small(definition)
        if sum(tensor.numel() for tensor in net.state_dict().values()) > largest:
            return "passed by", "too large"
        net.materialize(0)
    except CaffeCompatError as error:
        return "passed by", str(error)
    fill(net)
    try:
        with tempfile.TemporaryDirectory() as folder:
            exported_ = converters.export(net, f"{folder}/net.onnx")
    except CaffeCompatError as error:
        return "not", str(error)
    verification = exported_.verification
    assert verification is not None
    return "by layer" if verification.apart else "equal", f"off by {verification.worst_rel:.1e} {verification.apart}"


def small(definition: Definition) -> CaffeNet:
    """The network, without memory, with at most two items in its batch if its definition allows that."""
    net = CaffeNet(definition.message, dialect=definition.schema.name, path=definition.path)
    batch = {shape[0] for shape in net.input_shapes.values() if len(shape) == 4}
    if len(batch) != 1 or max(batch) <= 2:
        return net
    shapes = {name: (2, *shape[1:]) for name, shape in net.input_shapes.items() if shape[0] in batch and len(shape) > 1}
    try:
        return CaffeNet(definition.message, dialect=definition.schema.name, path=definition.path, input_shapes=shapes)
    except CaffeCompatError:
        return net


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
