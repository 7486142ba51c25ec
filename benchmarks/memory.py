"""The most memory that loading, optimizing and running a network takes, in a process that does nothing else.

    python benchmarks/memory.py NETWORK ENGINE [--threads 2] [--batch 1] [--size PIXELS]

Prints MB. ``inference.py --memory`` runs it for every engine, next to onnxruntime alone.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from classics import CLASSICS, net_of
from runtime_peer import peak_memory
from torch import Tensor

import caffe_compat
from caffe_compat.network.running import ProgramNet
from converters.samples import sample_inputs


def opened(options: argparse.Namespace) -> tuple[ProgramNet, dict[str, Tensor]]:
    """The network in its engine, and inputs. What it was made from is forgotten."""
    net = net_of(CLASSICS[options.network], options.batch, options.size)
    return net.optimize(engine=options.engine), {n: torch.from_numpy(x) for n, x in sample_inputs(net).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=CLASSICS)
    parser.add_argument("engine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", caffe_compat.CaffeCompatWarning)
    form, inputs = opened(options)
    with torch.no_grad():
        for _ in range(3):
            form(**inputs)
    print(peak_memory())


if __name__ == "__main__":
    main()
