"""The projector and the correction module of the network that ships, made from poses alone, without pictures.

The four phases leave a projector that is as wrong about true poses as the coarse poses are, for it has seen only what
pictures showed. Where a pose of a made-up body lies in its crop is known exactly, for as many bodies as wanted, and so
it is for a pose that is a little off: the crop is the square about it. So the projector goes on learning from those.

The correction module's output is to be the coarse pose until 2D poses pull at it, and then to move the way that coarse
poses err. Adam moves each of its hidden units by the same amount, whatever the gradient's size, so where an update
takes the pose is a matter of the directions that the units stand for: they are drawn from the errors on training
frames. How far it goes is a matter of their length, which is chosen on training frames, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caffe_compat.formats.weights import read_weights, write_caffemodel
from hpm.datasets.synthetic import SyntheticOptions, sequences
from hpm.metrics import mpjpe
from hpm.projector import LAYERS, Affine, Projector, project
from hpm.refine import Refiner, RefineSettings
from hpm.scaling import Bounds, denormalise
from hpm.skeleton import H36M16

# Bodies and motions of another seed than those that pictures show, and many of them; half a second apart.
POSES = SyntheticOptions(seed=3, subjects=tuple(f"P{k}" for k in range(20)), takes=20, frame_rate=2.0)
STEPS, BATCH, RATE, SEED = 2000, 256, 1e-3, 1
MARGIN = 0.125  # of the crop about a pose, as in square_crops
# Of a coarse pose's error, what each joint has of its own, mm; and the share of directions that lie anywhere.
OWN_ERROR, ANYWHERE = 15.0, 0.3
# Lengths of the hidden units' directions that are tried.
LENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


@dataclass(frozen=True, eq=False)
class Frames:
    """What the network gives for n training frames, and the truth.

    Attributes:
        coarse: (n, 48), normalised. truth: (n, 48), normalised. pose2d: (n, 32), fractions of the crop's side.
    """

    coarse: np.ndarray
    truth: np.ndarray
    pose2d: np.ndarray


def improved(projector: Projector, bounds: Bounds, frames: Frames) -> Projector:
    """The projector trained on, before it a correction module that moves poses by what ``frames`` err."""
    torch.manual_seed(SEED)
    return corrected(trained(projector, bounds, frames), bounds, frames)


# The projector


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


# The correction module


def corrected(projector: Projector, bounds: Bounds, frames: Frames) -> Projector:
    """The module whose directions are drawn from the errors of ``frames``, of the length that refines those best."""
    error = frames.coarse.astype(np.float64) - frames.truth
    covariance = error.T @ error / len(error)
    anywhere = ANYWHERE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance + anywhere)
    root = vectors * np.sqrt(values)
    directions = root @ np.random.default_rng(SEED).standard_normal((len(root), len(projector.change_tmp.bias)))
    found = [(after(module(projector, length * directions, frames), bounds, frames), length) for length in LENGTHS]
    print("refined training frames by length of the directions:", found, flush=True)
    return module(projector, min(found)[1] * directions, frames)


def module(projector: Projector, directions: np.ndarray, frames: Frames) -> Projector:
    """With the columns of ``directions`` (48, hidden) as the weights of ``change``, and the coarse pose as its output.

    The hidden units read the pose by the pseudo-inverse, and their biases keep them above zero for coarse poses.
    """
    reading = np.linalg.pinv(directions)
    read = frames.coarse.astype(np.float64) @ reading.T
    bias = 0.25 * np.ptp(read, axis=0) - read.min(0)
    parts = (reading, bias), (directions, -directions @ bias)
    change_tmp, change = (Affine(*(torch.tensor(part, dtype=torch.float32) for part in pair)) for pair in parts)
    return replace(projector, change_tmp=change_tmp, change=change)


def after(projector: Projector, bounds: Bounds, frames: Frames) -> float:
    """MPJPE in mm of ``frames`` after the original's refinement by true 2D poses: the mean of both modes."""

    def millimetres(pose: np.ndarray) -> np.ndarray:
        return denormalise(pose.astype(np.float64), bounds).reshape(-1, len(H36M16), 3)

    modes = [Refiner(projector, RefineSettings(mode=mode), bounds=bounds) for mode in ("faithful", "independent")]
    refined = [refiner.refine(frames.coarse, frames.pose2d.astype(np.float32)).pose for refiner in modes]
    return float(np.mean([mpjpe(millimetres(pose), millimetres(frames.truth)) for pose in refined]))


def write_with(projector: Projector, model: Path, target: Path) -> None:
    """The caffemodel ``model`` with another correction module and projector."""
    with read_weights(model) as weights:
        blobs = [
            [part.numpy() for part in getattr(projector, layer.name)]
            if layer.name in LAYERS
            else [np.array(blob.data) for blob in layer.blobs]
            for layer in weights.layers
        ]
        assert weights.structure is not None
        write_caffemodel(target, weights.structure, blobs)
