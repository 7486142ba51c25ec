"""A projector with seeded weights, and refinement as autograd does it, for tests."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hpm.projector import LAYERS, RELU_SCALE, Affine, ProjectionLoss, Projector, correct, project
from hpm.refine import RefineSettings
from hpm.scaling import REFINEMENT_BOUNDS
from tests.hpm.seeded import param_value


@functools.cache
def seeded_projector(hidden: int = 1024, wide: int = 1024) -> Projector:
    """Weights by the recipe of reference_outputs/README.md."""
    shapes = (hidden, 48), (48, hidden), (wide, 48), (wide, wide), (wide, wide), (32, wide)
    return Projector(
        *(
            Affine(torch.from_numpy(param_value(name, 0, s)), torch.from_numpy(param_value(name, 1, s[:1])))
            for name, s in zip(LAYERS, shapes, strict=True)
        )
    )


def autograd_refine(projector: Projector, settings: RefineSettings, coarse: Tensor, pose2d: Tensor) -> list[Tensor]:
    """The pose (frames, 48) of each step's forward pass, by autograd and Adam as TensorFlow writes it.

    A step that moved the torso by less than ``stop_mm`` is a frame's last; its pose stands for those of later steps.
    """
    loss = ProjectionLoss(coarse.device, coarse.dtype)
    names = LAYERS if settings.update_projector else LAYERS[:2]
    start = [part for name in names for part in getattr(projector, name)]
    moved = [part.clone().requires_grad_() for part in start]
    layers = {name: Affine(moved[2 * k], moved[2 * k + 1]) for k, name in enumerate(names)}
    current = Projector(**{name: layers.get(name, getattr(projector, name)) for name in LAYERS})
    first, second, updates = [], [], 0
    poses: list[list[Tensor]] = [[] for _ in range(settings.steps)]
    for k, (x, y) in enumerate(zip(coarse.split(1), pose2d.split(1), strict=True)):
        if k == 0 or settings.mode == "independent":
            first, second = ([torch.zeros_like(part) for part in start] for _ in range(2))
            updates = 0
        for step in range(settings.steps):
            pose = correct(current, x)
            poses[step].append(pose.detach())
            gradients = torch.autograd.grad(loss(project(current, pose, RELU_SCALE), loss.target(y)).sum(), moved)
            updates += 1
            rate = settings.learning_rate * (1 - 0.999**updates) ** 0.5 / (1 - 0.9**updates)
            with torch.no_grad():
                for parameter, gradient, m, v in zip(moved, gradients, first, second, strict=True):
                    m.mul_(0.9).add_(gradient, alpha=0.1)
                    v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                    parameter.addcdiv_(m, v.sqrt() + 1e-8, value=-rate)
            if (
                settings.stop_mm is not None
                and step
                and _moved_mm(*poses[step][-1:], *poses[step - 1][-1:]) < settings.stop_mm
            ):
                for later in poses[step + 1 :]:
                    later.append(pose.detach())
                break
        with torch.no_grad():
            for parameter, value in zip(moved, start, strict=True):
                parameter.copy_(value)
    return [torch.cat(step) for step in poses]


def _moved_mm(pose: Tensor, other: Tensor) -> float:
    """The farthest that pelvis, shoulders or hips of one frame (1, 48) moved."""
    moved = (pose - other) * torch.tensor(REFINEMENT_BOUNDS.range, dtype=pose.dtype)
    return float(moved.reshape(16, 3)[[0, 10, 13, 4, 1]].norm(dim=-1).max())
