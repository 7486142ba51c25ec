"""How long a training step of mask3d takes: 64x64, 8 images, the network in full size.

    python benchmarks/training.py [--steps 20] [--device cpu] [--bfloat16]

Trains on the images of ``reference_outputs/train_data`` as ``caffe-compat train`` does: data, forward, backward,
clipping, Adam. Real Caffe (the 3Dpose_ssl fork, CPU, OpenBLAS) took 0.87 s a step; the target on the same kind of
machine is below 0.4 s. On a machine with other work, look at the least.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from caffe_compat.schema import load_schema
from caffe_compat.training.session import open_solver
from caffe_compat.training.solver import Solver, SolverSettings, parse_solver
from caffe_compat.training.solver.settings import NetSource
from hpm.networks import DIALECT, NetworkOptions, mask3d

DATA = Path(__file__).parent.parent / "reference_outputs" / "train_data"
CAFFE_SECONDS, TARGET_SECONDS = 0.87, 0.4
OPTIONS = NetworkOptions(
    image_size=64,
    train_list="h36m_list.txt",
    mpii_list="mpii_list.txt",
    h36m_root="./",
    mpii_root="./",
    bounds="max_min.csv",
)
SOLVER = """
net: "in Python" type: "Adam" base_lr: 1e-5 momentum: 0.9 momentum2: 0.999 lr_policy: "fixed" clip_gradients: 5
max_iter: 1000000 snapshot_prefix: "none" random_seed: 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    settings = replace(
        parse_solver(SOLVER), train=NetSource("mask3d", None, mask3d(OPTIONS), load_schema(DIALECT), "TRAIN")
    )
    with tempfile.TemporaryDirectory() as name:
        data = shutil.copytree(DATA, Path(name) / "data")  # the network writes there
        run(settings, data, arguments)


def run(settings: SolverSettings, data: Path, arguments: argparse.Namespace) -> None:
    """Train, and print what a step takes."""
    with open_solver(settings, base=data, device=arguments.device, workers=1, bfloat16=arguments.bfloat16) as solver:
        parts = Parts(solver)
        solver.step(3)
        parts.seconds.clear()
        wall, cpu = [], []
        for _ in range(arguments.steps):
            began, used = parts.now(), time.process_time()
            solver.step(1)
            wall.append(parts.now() - began)
            cpu.append(time.process_time() - used)
        count = sum(blob.tensor.numel() for blob in solver.learnable)
    print(f"mask3d, {count / 1e6:.1f} million weights, {arguments.device}, {torch.get_num_threads()} threads")
    print(
        f"step    median {statistics.median(wall):.3f} s, least {min(wall):.3f} s, {min(cpu):.3f} s of processor time"
    )
    for name, taken in parts.seconds.items():
        print(f"  {name:<8} median {statistics.median(taken):.3f} s, least {min(taken):.3f} s")
    verdict = "met" if min(wall) < TARGET_SECONDS else "missed"
    print(f"real Caffe {CAFFE_SECONDS} s; target below {TARGET_SECONDS} s: {verdict}")


class Parts:
    """Clocks around what a step is made of."""

    def __init__(self, solver: Solver) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._device = solver.device
        solver.batches = self._timed("data", solver.batches)
        forward = self._timed("forward", solver.model.forward)
        solver.model.forward = forward
        solver.optimizer.step = self._timed("update", solver.optimizer.step)  # type: ignore[method-assign]

    def now(self) -> float:
        """The time, once the device has done its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _timed(self, name: str, function: Callable) -> Callable:
        def run(*args: object, **kwargs: object) -> object:
            began = self.now()
            result = function(*args, **kwargs)
            self.seconds.setdefault(name, []).append(self.now() - began)
            return result

        return run


if __name__ == "__main__":
    main()
