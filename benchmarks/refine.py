"""How long refinement takes a frame, next to a plain autograd port of the original and the products it cannot avoid.

    python benchmarks/refine.py [--frames 256] [--rounds 5] [--cores 2] [--device cpu]

Full-size layers (hidden width 1024) with seeded weights. Faithful mode, the autograd port and the projector's four
matrix-vector products of 1024 x 1024 run on one core; independent mode runs on ``--cores`` with ``--frames`` frames at
once. Everything is timed in turns, round after round, and the best round of each counts, so that a busy machine
troubles all alike. Targets: faithful under 1.5 ms, independent at least 5 times faster than that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hpm.projector import RELU_SCALE, Affine, ProjectionLoss, Projector, correct, project
from hpm.refine import Refiner, RefineSettings

WIDTH = 1024


def seeded_projector(width: int = WIDTH) -> Projector:
    """Weights of the size that a trained network has."""
    random = torch.Generator().manual_seed(0)

    def affine(outputs: int, inputs: int) -> Affine:
        weight = torch.randn(outputs, inputs, generator=random) * (2 / inputs) ** 0.5
        return Affine(weight, torch.rand(outputs, generator=random) * 0.2 - 0.1)

    shapes = (width, 48), (48, width), (width, 48), (width, width), (width, width), (32, width)
    return Projector(*(affine(*shape) for shape in shapes))


def autograd_port(projector: Projector, coarse: Tensor, pose2d: Tensor) -> Tensor:
    """Faithful refinement as one would write it first: autograd and Adam over the four arrays, a frame at a time.

    Adam is spelled out, as TensorFlow adds epsilon before the bias correction and torch.optim.Adam after it.
    """
    loss = ProjectionLoss(coarse.device, coarse.dtype)
    start = [part for layer in (projector.change_tmp, projector.change) for part in layer]
    moved = [torch.nn.Parameter(part.clone()) for part in start]
    layers = Affine(*moved[:2]), Affine(*moved[2:])
    current = Projector(*layers, projector.project_1, projector.project_2, projector.project_3, projector.project_2d)
    first, second = ([torch.zeros_like(part) for part in start] for _ in range(2))
    updates, poses = 0, []
    for x, y in zip(coarse.split(1), pose2d.split(1), strict=True):
        for _ in range(2):
            pose = correct(current, x)
            lowered = loss(project(current, pose, RELU_SCALE), loss.target(y)).sum()
            gradients = torch.autograd.grad(lowered, moved)
            updates += 1
            rate = 0.00015 * (1 - 0.999**updates) ** 0.5 / (1 - 0.9**updates)
            with torch.no_grad():
                for parameter, gradient, m, v in zip(moved, gradients, first, second, strict=True):
                    m.lerp_(gradient, 0.1)
                    v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                    parameter.addcdiv_(m, v.sqrt().add_(1e-8), value=-rate)
        poses.append(pose.detach())
        with torch.no_grad():
            for parameter, value in zip(moved, start, strict=True):
                parameter.copy_(value)
    return torch.cat(poses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device, frames = torch.device(arguments.device), arguments.frames
    projector = seeded_projector().to(device)
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(frames, 48, generator=random).to(device)
    pose2d = torch.rand(frames, 32, generator=random).to(device)
    faithful = Refiner(projector, RefineSettings("faithful"), device=device)
    independent = Refiner(projector, RefineSettings("independent"), device=device)
    square = [layer.weight for layer in (projector.project_2, projector.project_3)]
    vector = torch.rand(WIDTH, device=device)

    def run_faithful() -> Tensor:
        faithful.reset()
        return faithful.refine(coarse, pose2d).pose

    def products() -> None:
        for _ in range(frames):
            for matrix in square:
                torch.mv(matrix, vector)
                torch.mv(matrix.T, vector)

    # In double precision: in single, rounding alone can put a ReLU or a bone on the other side of its kink.
    exact, few = projector.to(dtype=torch.float64), slice(0, 32)
    ours = Refiner(exact, device=device, dtype=torch.float64).refine(coarse[few].double(), pose2d[few].double()).pose
    apart = (ours - autograd_port(exact, coarse[few].double(), pose2d[few].double())).abs().max().item()
    # Name, what runs, on how many cores, frames a run.
    runs: list[tuple[str, Callable[[], object], int, int]] = [
        ("autograd port", lambda: autograd_port(projector, coarse[:32], pose2d[:32]), 1, min(frames, 32)),
        ("four products", products, 1, frames),
        ("faithful", run_faithful, 1, frames),
        ("independent", lambda: independent.refine(coarse, pose2d), 1, frames),
        ("independent", lambda: independent.refine(coarse, pose2d), arguments.cores, frames),
    ]
    best = dict.fromkeys(((name, cores) for name, _, cores, _ in runs), float("inf"))
    for _ in range(arguments.rounds + 1):
        for name, work, cores, count in runs:
            torch.set_num_threads(cores)
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[name, cores] = min(best[name, cores], (time.perf_counter() - began) / count * 1000)
    print(f"{frames} frames, {device}; faithful and autograd port differ by {apart:.1e} (normalised, float64)")
    for (name, cores), ms in best.items():
        print(
            f"{name:14} {cores} core{'s' * (cores > 1):1}  {ms:7.3f} ms/frame"
            f"  {best['autograd port', 1] / ms:5.1f} x the port  {best['faithful', 1] / ms:5.1f} x faithful"
        )


if __name__ == "__main__":
    main()
