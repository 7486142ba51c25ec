"""Errors of 3D poses, from their definitions.

Poses are (frames, joints, 3) in mm, prediction first. Functions called ``..._per_frame`` give one value per frame;
the others their mean. The original's measure is ``mpjpe``: all 16 joints, the hip included, no alignment.

All raise UsageError of shapes that do not fit each other, of no frames, and of joints that are not finite: a NaN is no
error of a pose, and no measure here knows how to count it.
"""

from __future__ import annotations

import numpy as np

from caffe_compat.errors import UsageError

from .skeleton import KTH14, Skeleton

__all__ = [
    "PCP_PARTS",
    "acceleration_error",
    "auc",
    "mpjpe",
    "mpjpe_per_frame",
    "mpjpe_per_joint",
    "mpjve",
    "n_mpjpe",
    "n_mpjpe_per_frame",
    "p_mpjpe",
    "p_mpjpe_per_frame",
    "pck",
    "pcp",
    "procrustes",
]


def mpjpe_per_frame(pose_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """(frames,): mean distance of the joints. Ionescu et al., Human3.6M, TPAMI 2014.

    Example:
        >>> truth = np.zeros((1, 16, 3))
        >>> pose = truth.copy()
        >>> pose[0, 0] = 3, 4, 0  # one joint of sixteen, 5 mm off
        >>> mpjpe_per_frame(pose, truth).tolist()
        [0.3125]
    """
    return _distances(pose_mm, truth_mm).mean(1)


def mpjpe(pose_mm: np.ndarray, truth_mm: np.ndarray) -> float:
    """Mean per-joint position error, mm.

    Example:
        >>> truth = np.zeros((1, 16, 3))
        >>> pose = truth.copy()
        >>> pose[0, 0] = 3, 4, 0  # one joint of sixteen, 5 mm off
        >>> mpjpe(pose, truth)
        0.3125
    """
    return float(mpjpe_per_frame(pose_mm, truth_mm).mean())


def procrustes(pose_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """Each frame of ``pose_mm`` moved, turned and scaled to lie as close to ``truth_mm`` as it can; never mirrored.

    The least-squares similarity of Umeyama, TPAMI 1991. A pose whose joints all coincide has no
    size or direction: it becomes the centre of the truth.

    Example:
        >>> truth = np.array([[[0.0, 0, 0], [100, 0, 0], [0, 200, 0]]])
        >>> pose = 0.5 * truth[..., [1, 0, 2]] * [-1, 1, 1] + 7  # turned, half as large, elsewhere
        >>> np.allclose(procrustes(pose, truth), truth)
        True
    """
    pose, truth = _checked(pose_mm, truth_mm)
    centre, goal = pose.mean(1, keepdims=True), truth.mean(1, keepdims=True)
    x, y = pose - centre, truth - goal
    u, d, vt = np.linalg.svd(np.swapaxes(y, 1, 2) @ x)
    sign = np.ones_like(d)
    sign[:, -1] = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    rotation = (u * sign[:, None, :]) @ vt
    size = np.square(x).sum((1, 2))
    scale = np.divide((d * sign).sum(1), size, out=np.zeros_like(size), where=size > 0)
    return scale[:, None, None] * (x @ np.swapaxes(rotation, 1, 2)) + goal


def p_mpjpe_per_frame(pose_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """(frames,): MPJPE after ``procrustes`` of each frame. Martinez et al., ICCV 2017.

    Example:
        >>> truth = np.array([[[0.0, 0, 0], [100, 0, 0], [0, 200, 0]]])
        >>> pose = 0.5 * truth[..., [1, 0, 2]] * [-1, 1, 1] + 7  # turned, half as large, elsewhere
        >>> p_mpjpe_per_frame(pose, truth).round(6).tolist()
        [0.0]
    """
    return mpjpe_per_frame(procrustes(pose_mm, truth_mm), truth_mm)


def p_mpjpe(pose_mm: np.ndarray, truth_mm: np.ndarray) -> float:
    """MPJPE after Procrustes alignment of each frame, mm.

    Example:
        >>> truth = np.array([[[0.0, 0, 0], [100, 0, 0], [0, 200, 0]]])
        >>> pose = 0.5 * truth[..., [1, 0, 2]] * [-1, 1, 1] + 7  # turned, half as large, elsewhere
        >>> round(p_mpjpe(pose, truth), 6), round(mpjpe(pose, truth), 1)
        (0.0, 111.9)
    """
    return float(p_mpjpe_per_frame(pose_mm, truth_mm).mean())


def n_mpjpe_per_frame(pose_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """(frames,): MPJPE after scaling each frame about the origin by <pose, truth> / <pose, pose>.

    The least-squares scale, as in Rhodin et al., CVPR 2018 (NMPJPE). Poses are hip-centred.

    Example:
        >>> truth = np.array([[[0.0, 0, 0], [100, 0, 0]], [[0, 0, 0], [0, 300, 0]]])
        >>> n_mpjpe_per_frame(0.5 * truth, truth).tolist(), mpjpe_per_frame(0.5 * truth, truth).tolist()
        ([0.0, 0.0], [25.0, 75.0])
    """
    pose, truth = _checked(pose_mm, truth_mm)
    size = np.square(pose).sum((1, 2))
    scale = np.divide((pose * truth).sum((1, 2)), size, out=np.zeros_like(size), where=size > 0)
    return mpjpe_per_frame(scale[:, None, None] * pose, truth)


def n_mpjpe(pose_mm: np.ndarray, truth_mm: np.ndarray) -> float:
    """MPJPE after scaling each frame, mm.

    Example:
        >>> truth = np.array([[[0.0, 0, 0], [100, 0, 0]], [[0, 0, 0], [0, 300, 0]]])
        >>> n_mpjpe(0.5 * truth, truth), mpjpe(0.5 * truth, truth)
        (0.0, 50.0)
    """
    return float(n_mpjpe_per_frame(pose_mm, truth_mm).mean())


def mpjve(pose_mm: np.ndarray, truth_mm: np.ndarray, starts: np.ndarray | None = None) -> float:
    """Mean per-joint velocity error, mm per frame: MPJPE of first differences. Pavllo et al., CVPR 2019.

    Args:
        starts: (frames,) booleans, True where a sequence starts: the step into that frame does not count. None for one
            sequence.

    Returns:
        NaN if no two frames follow one another.

    Example:
        >>> truth = np.zeros((3, 1, 3))
        >>> pose = truth + [[[0, 0, 5]], [[0, 0, 5]], [[0, 0, 9]]]  # 5 mm off, then 9
        >>> mpjve(pose, truth), mpjve(pose, truth, np.array([True, False, True]))
        (2.0, 0.0)
    """
    pose, truth = _checked(pose_mm, truth_mm)
    error = np.linalg.norm(np.diff(pose, axis=0) - np.diff(truth, axis=0), axis=-1)
    if starts is not None:
        if starts.shape != (len(pose),):
            raise UsageError(f"starts of shape {starts.shape} for {len(pose)} frames")
        error = error[~np.asarray(starts, bool)[1:]]
    return float(error.mean()) if error.size else float("nan")


def acceleration_error(pose_mm: np.ndarray, truth_mm: np.ndarray, starts: np.ndarray | None = None) -> float:
    """Mean per-joint acceleration error, mm per frame squared: MPJPE of second differences. Kanazawa et al., CVPR 2019.

    Args:
        starts: (frames,) booleans, True where a sequence starts: three frames count only if they are of one. None for
            one sequence.

    Returns:
        NaN if no three frames follow one another.

    Example:
        >>> truth = np.zeros((3, 1, 3))
        >>> pose = truth + [[[0, 0, 5]], [[0, 0, 5]], [[0, 0, 9]]]
        >>> acceleration_error(pose, truth), acceleration_error(pose + pose, truth)
        (4.0, 8.0)
    """
    pose, truth = _checked(pose_mm, truth_mm)
    error = np.linalg.norm(np.diff(pose, 2, axis=0) - np.diff(truth, 2, axis=0), axis=-1)
    if starts is not None:
        if starts.shape != (len(pose),):
            raise UsageError(f"starts of shape {starts.shape} for {len(pose)} frames")
        begins = np.asarray(starts, bool)
        error = error[~(begins[1:-1] | begins[2:])]
    return float(error.mean()) if error.size else float("nan")


def mpjpe_per_joint(pose_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """(joints,): the mean distance of each joint over the frames, mm.

    Example:
        >>> truth = np.zeros((2, 3, 3))
        >>> pose = truth.copy()
        >>> pose[0, 1] = 3, 4, 0
        >>> mpjpe_per_joint(pose, truth).tolist()
        [0.0, 2.5, 0.0]
    """
    return _distances(pose_mm, truth_mm).mean(0)


def pck(pose_mm: np.ndarray, truth_mm: np.ndarray, threshold_mm: float = 150.0) -> float:
    """The share of joints, 0 to 1, at most ``threshold_mm`` from where they should be. Mehta et al., 3DV 2017.

    Example:
        >>> truth = np.zeros((1, 4, 3))
        >>> pose = truth.copy()
        >>> pose[0, :, 1] = 0, 75, 150, 151
        >>> pck(pose, truth), pck(pose, truth, threshold_mm=74)
        (0.75, 0.25)
    """
    if not threshold_mm >= 0:
        raise UsageError(f"threshold {threshold_mm} mm; 0 or more was expected")
    return float((_distances(pose_mm, truth_mm) <= threshold_mm).mean())


def auc(pose_mm: np.ndarray, truth_mm: np.ndarray) -> float:
    """The mean of ``pck`` over thresholds 0, 5, ..., 150 mm: the area under its curve. Mehta et al., 3DV 2017.

    Example:
        >>> truth = np.zeros((1, 4, 3))
        >>> pose = truth.copy()
        >>> pose[0, :, 1] = 0, 75, 150, 151
        >>> auc(pose, truth)  # of 31 thresholds, the joints are within 31, 16, 1 and none
        0.3870967741935484
    """
    distances = _distances(pose_mm, truth_mm)
    return float(np.mean([(distances <= threshold).mean() for threshold in range(0, 151, 5)]))


# Parts of KTH Football II as its papers report them; each is a (joint, joint) on the left and on the right.
PCP_PARTS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "upper arms": (("LShoulder", "LElbow"), ("RShoulder", "RElbow")),
    "lower arms": (("LElbow", "LWrist"), ("RElbow", "RWrist")),
    "upper legs": (("LHip", "LKnee"), ("RHip", "RKnee")),
    "lower legs": (("LKnee", "LFoot"), ("RKnee", "RFoot")),
}


def pcp(
    pose_mm: np.ndarray, truth_mm: np.ndarray, joints: Skeleton = KTH14, alpha: float = 0.5, *, strict: bool = False
) -> dict[str, float]:
    """Percentage of correct parts, 0 to 1, of each of ``PCP_PARTS`` and of ``all``.

    A part with ends s, e is correct if (|s - s'| + |e - e'|) / 2 <= alpha |s - e|, s and e the truth: Burenius et al.,
    CVPR 2013. With ``strict`` each end must be within alpha |s - e| of its place.

    Example:
        >>> truth = np.zeros((1, 14, 3))
        >>> truth[0, :, 2] = 100 * np.arange(14)
        >>> pose = truth.copy()
        >>> pose[0, KTH14.index("LFoot"), 0] = 101  # the lower leg, 100 mm long, is off by 50.5 on average
        >>> pcp(pose, truth)["lower legs"], pcp(pose, truth)["all"]
        (0.5, 0.875)
    """
    if not alpha >= 0:
        raise UsageError(f"alpha {alpha}; a part of a bone's length, 0 or more, was expected")
    distances = _distances(pose_mm, truth_mm)
    truth = np.asarray(truth_mm, np.float64)
    if distances.shape[1] != len(joints):
        raise UsageError(f"poses of {distances.shape[1]} joints; {joints.name} has {len(joints)}")
    correct = {}
    for part, sides in PCP_PARTS.items():
        hits = []
        for names in sides:
            a, b = (joints.index(name) for name in names)
            ends = distances[:, [a, b]]
            error = ends.max(1) if strict else ends.mean(1)
            hits.append(error <= alpha * np.linalg.norm(truth[:, a] - truth[:, b], axis=-1))
        correct[part] = float(np.mean(hits))
    return {**correct, "all": float(np.mean(list(correct.values())))}


def _checked(pose: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in double precision. Raises UsageError if they cannot be compared."""
    if pose.shape != truth.shape or pose.ndim != 3 or pose.shape[-1] != 3 or not len(pose):
        raise UsageError(f"poses {pose.shape} and truth {truth.shape}; both should be (frames, joints, 3), not empty")
    both = np.asarray(pose, np.float64), np.asarray(truth, np.float64)
    for what, values in zip(("poses", "true poses"), both, strict=True):
        bad = np.argwhere(~np.isfinite(values).all(-1))
        if len(bad):
            frame, joint = bad[0]
            raise UsageError(
                f"{what} with {len(bad)} joints that are not finite, the first is joint {joint} of frame {frame}"
            )
    return both


def _distances(pose: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(frames, joints), mm."""
    ours, theirs = _checked(pose, truth)
    return np.linalg.norm(ours - theirs, axis=-1)
