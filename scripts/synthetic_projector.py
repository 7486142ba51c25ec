"""The projector of the network that ships, learned on from poses alone, without pictures.

The phases leave a projector that is as wrong about true poses as the coarse poses are, for it has seen only what
pictures showed. Where a pose of a made-up body lies in its crop is known exactly, for as many bodies as wanted, and so
it is for a pose that is a little off: the crop is the square about it. So the projector goes on learning from those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caffe_compat.formats.weights import read_weights, write_caffemodel
from hpm.datasets.synthetic import SyntheticOptions, sequences
from hpm.projector import LAYERS, Affine, Projector, project
from hpm.scaling import Bounds, denormalise
from hpm.skeleton import H36M16

# Bodies and motions of another seed than those that pictures show, and many of them; half a second apart.
POSES = SyntheticOptions(seed=3, subjects=tuple(f"P{k}" for k in range(20)), takes=20, frame_rate=2.0)
STEPS, BATCH, RATE, SEED = 2000, 256, 1e-3, 1
MARGIN = 0.125  # of the crop about a pose, as in square_crops
OWN_ERROR = 15.0  # mm that each joint of a coarse pose errs by itself, beside what all err together


@dataclass(frozen=True, eq=False)
class Frames:
    """What the network gives for n training frames, and the truth: (n, 48) each, normalised."""

    coarse: np.ndarray
    truth: np.ndarray


def trained(projector: Projector, bounds: Bounds, frames: Frames) -> Projector:
    """The projector after ``STEPS`` steps on made-up poses, with errors from none to those of ``frames`` and more."""
    seen = sequences(POSES, held_out=False)
    columns = [np.concatenate([getattr(s, name) for s in seen]) for name in ("labels", "points16", "per_mm")]
    pose, point, per_mm = (torch.tensor(column, dtype=torch.float32) for column in columns)
    wrong = denormalise(frames.coarse.astype(np.float64), bounds) - denormalise(frames.truth, bounds)
    errors = torch.tensor(wrong.reshape(-1, len(H36M16), 3), dtype=torch.float32)
    layers = [[part.clone().requires_grad_() for part in getattr(projector, name)] for name in LAYERS[2:]]
    adam = torch.optim.Adam([part for layer in layers for part in layer], RATE)
    random = torch.Generator().manual_seed(SEED)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        one = torch.randint(len(pose), (BATCH,), generator=random)
        error = errors[torch.randint(len(errors), (BATCH,), generator=random)]
        error = error + OWN_ERROR * torch.randn(error.shape, generator=random)
        error = 1.5 * torch.rand((BATCH, 1, 1), generator=random) * error
        error[:, 0] = 0  # the hip is the origin
        given = normalised(pose[one] + error, bounds)
        wanted = in_own_crop(point[one] + per_mm[one, None, None] * error[..., :2])
        now = replace(projector, **{name: Affine(*layer) for name, layer in zip(LAYERS[2:], layers, strict=True)})
        loss = (project(now, given) - wanted.flatten(1)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 500 == 0 or step == STEPS - 1:
            print(f"projector, step {step}: loss {loss.item():.6f}", flush=True)
    return replace(
        projector,
        **{name: Affine(*(p.detach() for p in layer)) for name, layer in zip(LAYERS[2:], layers, strict=True)},
    )


def normalised(pose: Tensor, bounds: Bounds) -> Tensor:
    """(n, 16, 3) mm to (n, 48)."""
    low, size = (torch.tensor(part, dtype=torch.float32) for part in (bounds.minimum, bounds.range))
    return (pose.flatten(1) - low) / size


def in_own_crop(points: Tensor) -> Tensor:
    """2D poses (n, 16, 2) in fractions of some square, in those of the square about each; see ``square_crops``."""
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    side = (high - low).amax(-1, keepdim=True) * (1 + 2 * MARGIN)
    return (points - (low + high) / 2) / side + 0.5


def write_with(projector: Projector, model: Path, target: Path) -> None:
    """The caffemodel ``model`` with another projector."""
    with read_weights(model) as weights:
        blobs = [
            [part.numpy() for part in getattr(projector, layer.name)]
            if layer.name in LAYERS
            else [np.array(blob.data) for blob in layer.blobs]
            for layer in weights.layers
        ]
        assert weights.structure is not None
        write_caffemodel(target, weights.structure, blobs)
