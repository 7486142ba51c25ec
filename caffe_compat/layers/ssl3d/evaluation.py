"""Layers of the 3Dpose_ssl fork that measure poses and write them to text files.

Files are written as the fork writes them, to the byte. They are started anew by the first pass of a newly built layer
and of one whose :meth:`reset_state` was called, unless the fork appends.
"""

from __future__ import annotations

import logging
from typing import NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import FileError
from ...formats.cxx_numbers import cxx_number, cxx_rows
from ...network.registry import Layer, LayerSpec, layer
from ..autograd import Context
from ..compiling import outside_graphs
from .pose import FORK, pose_rows, refuse, required_params

__all__ = ["MPJPEEvaluation", "PosePDJAccuracy", "SavePath", "read_bounds"]

_log = logging.getLogger(__name__)

# Where each joint of a 17-joint pose hangs, for poses stored relative to the parent joint.
_PARENTS_OF_17 = (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)

# The fork keeps the hip's range, 0 by definition, from being empty.
_HIP_RANGE = 0.000001


class _Context(Context, Protocol):
    owner: Layer


class _NoBackward(torch.autograd.Function):
    """The identity on ``measure``; a backward pass that reaches it is an error, as in the fork."""

    @staticmethod
    def forward(ctx: _Context, prediction: Tensor, target: Tensor, measure: Tensor, owner: Layer) -> Tensor:
        ctx.owner = owner
        return measure.clone()

    @staticmethod
    def backward(ctx: _Context, weight: Tensor) -> NoReturn:
        raise refuse(ctx.owner, "only measures and has no backward pass; give it loss_weight: 0 where the net trains")


def _measured(prediction: Tensor, target: Tensor, measure: Tensor, owner: Layer) -> Tensor:
    """``measure`` as the top of an evaluation layer."""
    if torch.compiler.is_compiling():
        return measure  # a compiler looks at the backward pass even of what nobody derives
    result: Tensor = _NoBackward.apply(prediction, target, measure, owner)
    return result


def _exact(x: Tensor) -> np.ndarray:
    """The values of ``x`` in single precision at least."""
    values: np.ndarray = x.detach().to(torch.promote_types(x.dtype, torch.float32)).cpu().numpy()
    return values


def read_bounds(data: bytes, path: str) -> np.ndarray:
    """The bounds of a max-min file, (2, values) float32: maximum, then minimum; the first three maxima raised by 1e-6.

    Args:
        data: lines of numbers parted by commas, at least two.

    Raises:
        FileError: it holds something else.
    """
    lines = data.decode("ascii", errors="replace").split()
    if len(lines) < 2:
        raise FileError(f"has {len(lines)} lines; the maxima and the minima, a line each, were expected", path=path)
    try:
        rows = [np.array([float(value) for value in line.split(",")]) for line in lines[:2]]
    except ValueError as error:
        raise FileError(f"lines of numbers parted by commas were expected: {error}", path=path) from error
    if len(rows[0]) != len(rows[1]) or len(rows[0]) < 3:
        raise FileError(f"has {len(rows[0])} maxima and {len(rows[1])} minima", path=path)
    bounds = np.stack(rows).astype(np.float32)
    bounds[0, :3] = (bounds[0, :3].astype(np.float64) + _HIP_RANGE).astype(np.float32)
    return bounds


class MPJPEEvaluation(Layer):
    """Mean per-joint position error of two (frames, 3 joints) poses over joints and frames; writes the first pose.

    Each frame becomes a line ``index,v1,v2...``. With a max-min file both are measured in its units (millimetres). The
    index, and the mean that is logged, start again after ``sample_num`` frames.

    The fork scales and projects its bottoms in place, which other layers may see if ``scale`` is not 1 or
    ``need_project`` is set; here bottoms stay as they are.

    Args:
        scale: factor of both poses before anything else.
        project: poses hold joints relative to their parents, which are added up first.
        bounds_path: the max-min file, or None for poses that are not normalised.
    """

    # Not whether the file was started: a run that resumes starts it anew, as the fork does.
    counts = ("frames", "error_sum")

    def __init__(self, path: str, sample_num: int, scale: float, project: bool, bounds_path: str | None) -> None:
        super().__init__()
        self.path = path
        self.sample_num = sample_num
        self.scale = scale
        self.project = project
        self.bounds_path = bounds_path
        self._bounds: np.ndarray | None = None
        self.reset_state()

    def reset_state(self) -> None:
        """Start counting, and the file, anew."""
        self.frames, self.error_sum, self._started = 0, 0.0, False

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        a, b = pose_rows(prediction, self).detach(), pose_rows(target, self, "its second bottom").detach()
        self._check(a, b)
        if self.project:
            a, b = self._projected(a), self._projected(b)
        a, b = a * self.scale, b * self.scale
        square = (a - b).square()
        if self.bounds_path is not None:
            span = self._span(square)
            square = square * (span * span)
        joints = a.shape[1] // 3
        errors = square[:, : 3 * joints].reshape(-1, joints, 3).sum(2).sqrt().mean(1)
        self._record(a, errors)
        return _measured(prediction, target, errors.mean().to(prediction.dtype), self)

    def infer(self, *bottoms: Tensor) -> Tensor:
        a, b = pose_rows(bottoms[0], self), pose_rows(bottoms[1], self, "its second bottom")
        self._check(a, b)
        return bottoms[0].new_empty(())

    def _check(self, a: Tensor, b: Tensor) -> None:
        if a.shape != b.shape or a.shape[1] < 3:
            raise refuse(self, f"compares poses of 3 values per joint; found {list(a.shape)} and {list(b.shape)}")
        if self.project and a.shape[1] // 3 > len(_PARENTS_OF_17):
            raise refuse(self, f"need_project knows {len(_PARENTS_OF_17)} joints; found {a.shape[1] // 3}")

    def _projected(self, pose: Tensor) -> Tensor:
        """Joint positions from offsets to the parent joint, added from the hip outward."""
        count = pose.shape[1] // 3
        joints = list(pose[:, : 3 * count].split(3, 1))
        for joint in range(1, count):
            joints[joint] = joints[joint] + joints[_PARENTS_OF_17[joint]]
        return torch.cat([*joints, pose[:, 3 * count :]], 1)

    def _span(self, like: Tensor) -> Tensor:
        """Maximum less minimum of every value."""
        bounds = self._load_bounds()
        if bounds.shape[1] != like.shape[1]:
            raise refuse(self, f"{self.bounds_path} bounds {bounds.shape[1]} values, the poses have {like.shape[1]}")
        return torch.as_tensor(bounds[0] - bounds[1]).to(like.device)

    @outside_graphs
    def _load_bounds(self) -> np.ndarray:
        assert self.bounds_path is not None
        if self._bounds is None:
            self._bounds = read_bounds(self.files.read(self.bounds_path, self.layer_name), self.bounds_path)
        return self._bounds

    @outside_graphs
    def _record(self, poses: Tensor, errors: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # torch.export is tracing: a graph of tensor operations writes no files
        values = _exact(poses)
        if self.bounds_path is not None:
            bounds = self._load_bounds()
            values = values * (bounds[0] - bounds[1]) + bounds[1]
        lines = "".join(f"{i},{row}\n" for i, row in enumerate(cxx_rows(values, ","), self.frames + 1))
        self.files.write(self.path, lines, self.layer_name, append=self._started)
        self._started = True
        self.frames += len(values)
        self.error_sum += float(errors.sum())
        if self.frames >= self.sample_num:
            mean = self.error_sum / max(self.frames, 1)
            _log.info("layer %r: MPJPE %g over %d frames", self.layer_name, mean, self.frames)
            self.frames, self.error_sum = 0, 0.0


@layer("MPJPEEvaluation", bottoms=2, tops=1, loss=True, unforced=(0, 1))
def mpjpe_evaluation(spec: LayerSpec) -> Layer:
    params = spec.params("mpjpe_param")
    bounds_path = params.max_min_source if params.max_min_normalize else None
    if bounds_path == "":
        spec.fail("max_min_normalize is on (its default) and max_min_source names no file; name one or switch it off")
    params.ignore("max_min_source")  # means nothing without max_min_normalize
    if not params.save_filepath:
        spec.fail("save_filepath is empty; the layer cannot do without a file to write")
    return MPJPEEvaluation(params.save_filepath, params.sample_num, params.scale, params.need_project, bounds_path)


class SavePath(Layer):
    """Writes (frames, values) to a text file, a line ``,v1,v2...`` per frame."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.reset_state()

    def reset_state(self) -> None:
        """Start the file anew."""
        self._started = False

    def forward(self, x: Tensor) -> tuple[()]:
        rows = pose_rows(x, self)
        if not x.is_meta:
            self._write(rows)
        return ()

    @outside_graphs
    def _write(self, rows: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # torch.export is tracing: a graph of tensor operations writes no files
        lines = "".join(f",{row}\n" for row in cxx_rows(_exact(rows), ","))
        self.files.write(self.path, lines, self.layer_name, append=self._started)
        self._started = True


@layer("SavePath", bottoms=1, tops=0, unforced=(0,))
def save_path(spec: LayerSpec) -> Layer:
    path = spec.params("save_path_param").save_path
    if not path:
        spec.fail("save_path is empty; the layer cannot do without a file to write")
    return SavePath(path)


class PosePDJAccuracy(Layer):
    """Squared difference of two (frames, 2 joints) poses, summed, per frame; appends it to a log at every pass.

    After ``images_num`` frames it appends the rate of detected joints to a second file: for each threshold, how often
    each joint lay no further from the truth than that fraction of the torso (shoulder to hip). Frames of the same pass
    beyond them are not counted. A joint with a negative true coordinate is not detected, nor is any joint of a frame
    whose torso has one.

    The logs' ``iter`` and ``learn_lr`` are 0: the fork prints two numbers there that none of its code sets.
    """

    counts = ("frames", "_hits")

    def __init__(
        self,
        *,
        accuracy_path: str,
        log_path: str,
        images_num: int,
        factor: float,
        factors: int,
        shoulder: int,
        hip: int,
    ) -> None:
        super().__init__()
        self.accuracy_path = accuracy_path
        self.log_path = log_path
        self.images_num = images_num
        self.thresholds = np.arange(1, factors + 1, dtype=np.float32) * np.float32(factor)
        self.shoulder = shoulder
        self.hip = hip
        self.reset_state()

    def reset_state(self) -> None:
        """Start counting anew; the files are only ever appended to."""
        self.frames = 0
        self._hits: np.ndarray | int = 0

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        a, b = pose_rows(prediction, self).detach(), pose_rows(target, self, "its second bottom").detach()
        self._check(a, b)
        loss = (a - b).square().sum() / a.shape[0]
        self._record(loss, self._detected(a, b))
        return _measured(prediction, target, loss.reshape(1, 1, 1, 1), self)

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(pose_rows(bottoms[0], self), pose_rows(bottoms[1], self, "its second bottom"))
        return bottoms[0].new_empty(1, 1, 1, 1)

    def _check(self, a: Tensor, b: Tensor) -> None:
        if a.shape != b.shape or a.shape[1] == 0 or a.shape[1] % 2 != 0:
            raise refuse(self, f"compares poses of 2 values per joint; found {list(a.shape)} and {list(b.shape)}")
        joints = a.shape[1] // 2
        if not (0 <= self.shoulder < joints and 0 <= self.hip < joints):
            raise refuse(self, f"shoulder_id {self.shoulder} or hip_id {self.hip} is none of {joints} joints (from 0)")

    def _detected(self, a: Tensor, b: Tensor) -> Tensor:
        """(frames, thresholds, joints): whether each joint counts as detected."""
        found, truth = a.reshape(a.shape[0], -1, 2), b.reshape(b.shape[0], -1, 2)
        shoulder, hip = truth[:, self.shoulder], truth[:, self.hip]
        torso = (shoulder - hip).square().sum(1).sqrt()
        valid = ~((shoulder < 0) | (hip < 0)).any(1)
        distance = (found - truth).square().sum(2).sqrt()
        distance = torch.where((truth < 0).any(2), torso.unsqueeze(1) + 1, distance)
        limits = torso.unsqueeze(1) * torch.as_tensor(self.thresholds).to(torso.device)
        return (distance.unsqueeze(1) <= limits.unsqueeze(2)) & valid[:, None, None]

    @outside_graphs
    def _record(self, loss: Tensor, detected: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # torch.export is tracing: a graph of tensor operations writes no files
        self.files.write(self.log_path, f"iter: 0, loss: {cxx_number(float(loss))}\n", self.layer_name, append=True)
        counted = detected[: self.images_num - self.frames]
        self._hits = self._hits + counted.sum(0).cpu().numpy()
        self.frames += len(counted)
        if self.frames >= self.images_num:
            self.files.write(self.accuracy_path, self._report(np.asarray(self._hits)), self.layer_name, append=True)
            self.reset_state()

    def _report(self, hits: np.ndarray) -> str:
        # Single precision in the fork's order of operations, so that the digits agree.
        rates = (hits / self.images_num).astype(np.float32)
        means = (np.cumsum(rates, axis=1, dtype=np.float32)[:, -1] / np.float64(rates.shape[1])).astype(np.float32)
        text = "\niter: 0\nlearn_lr: 0\n"
        for threshold, mean, row in zip(self.thresholds.tolist(), means.tolist(), cxx_rows(rates, " "), strict=True):
            entries = [f"{i}th: {rate}" for i, rate in enumerate(row.split(), 1)]
            lines = [", ".join(entries[i : i + 10]) for i in range(0, len(entries), 10)]
            joints = ", \n".join(lines)
            text += f"acc_factor: {cxx_number(threshold)} \naccuracy: {cxx_number(mean)}\n{joints}\n"
        return text + "\n\n"


@layer("PosePDJAccuracy", bottoms=2, tops=1, dialects=(FORK,))
def pose_pdj_accuracy(spec: LayerSpec) -> Layer:
    needed = ("acc_factor", "acc_factor_num", "images_num", "acc_path", "acc_name", "log_name", "shoulder_id", "hip_id")
    params = required_params(spec, "pose_pdj_accuracy_param", *needed)
    factor, factors = params.acc_factor, params.acc_factor_num
    if not 0 < factor <= 1 or not 0 < factors < int(1 / factor):
        spec.fail(
            f"acc_factor {factor:g} with acc_factor_num {factors}: a fraction of the torso, and fewer of them than "
            "make a whole torso, were expected"
        )
    if params.images_num < 1:
        spec.fail(f"images_num is {params.images_num}; the number of frames to measure was expected")
    return PosePDJAccuracy(
        accuracy_path=params.acc_path + params.acc_name,
        log_path=params.acc_path + params.log_name,
        images_num=params.images_num,
        factor=factor,
        factors=factors,
        shoulder=params.shoulder_id,
        hip=params.hip_id,
    )
