"""Joint orders: frozen, named, with the joint that each hangs from.

A skeleton's root is its own parent. Nothing guesses an order from the number of joints: two orders of 16 joints are in
use here, and 17 joints may be COCO's or Human3.6M's.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_compat.errors import UsageError

__all__ = [
    "BODY25",
    "COCO17",
    "COCO133",
    "H36M16",
    "H36M17",
    "H36M32",
    "HALPE26",
    "KTH14",
    "MEDIAPIPE33",
    "MPII16",
    "SKELETONS",
    "Skeleton",
    "skeleton",
]


@dataclass(frozen=True)
class Skeleton:
    """One joint order. ``parents[k]`` is the joint that joint ``k`` hangs from; the root's parent is itself.

    Example:
        >>> len(H36M16), H36M16.joints[H36M16.root], H36M16.index("Thorax")
        (16, 'Hip', 8)
        >>> [H36M16.joints[k] for k in H36M16.swaps][:4]
        ['Hip', 'LHip', 'LKnee', 'LFoot']
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints) or len(self.parents) != len(self.joints):
            raise UsageError(f"skeleton {self.name}: {len(self.joints)} joint names, {len(self.parents)} parents")

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def root(self) -> int:
        """The joint that is its own parent."""
        return next(k for k, parent in enumerate(self.parents) if parent == k)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(child, parent) of every joint but the root."""
        return tuple((k, parent) for k, parent in enumerate(self.parents) if parent != k)

    @property
    def downward(self) -> tuple[tuple[int, int], ...]:
        """The bones with every parent before its children, as a walk from the root needs them."""
        done, order, left = {self.root}, [], list(self.bones)
        while left:
            ready = [bone for bone in left if bone[1] in done]
            order += ready
            done.update(child for child, _ in ready)
            left = [bone for bone in left if bone[0] not in done]
        return tuple(order)

    @property
    def swaps(self) -> tuple[int, ...]:
        """For each joint, the joint of the other side; a joint in the middle is its own."""
        return tuple(self.joints.index(_OTHER_SIDE.get(name[0], name[0]) + name[1:]) for name in self.joints)

    def index(self, joint: str) -> int:
        """Where ``joint`` stands. Raises UsageError for a name that this skeleton does not have."""
        if joint not in self.joints:
            raise UsageError(f"skeleton {self.name} has no joint {joint!r}; it has {', '.join(self.joints)}")
        return self.joints.index(joint)


# The first letter of a joint says its side; joints in the middle begin with neither letter.
_OTHER_SIDE = {"L": "R", "R": "L"}


def _skeleton(name: str, joints: str, parents: str) -> Skeleton:
    return Skeleton(name, tuple(joints.split()), tuple(int(k) for k in parents.split()))


H36M16 = _skeleton(
    "H36M16",
    "Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Head LShoulder LElbow LWrist RShoulder RElbow RWrist",
    "0 0 1 2 0 4 5 0 7 8 8 10 11 8 13 14",
)
"""The order of every file of this data set: lists, CSV files, networks. From the original's own code."""

H36M17 = _skeleton(
    "H36M17",
    "Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Nose Head LShoulder LElbow LWrist RShoulder RElbow RWrist",
    "0 0 1 2 0 4 5 0 7 8 9 8 11 12 8 14 15",
)
"""The 17 joints of Human3.6M that most papers use: 0 1 2 3 6 7 8 12 13 14 15 17 18 19 25 26 27 of the 32.

As 3d-pose-baseline (``data_utils.py``) names them, and VideoPose3D (``h36m_dataset.py``) keeps them.
"""

H36M32 = _skeleton(
    "H36M32",
    "Hip RHip RKnee RFoot RToe RToeTip LHip LKnee LFoot LToe LToeTip SpineBase Spine Thorax Nose Head "
    "LCollar LShoulder LElbow LWrist LThumbBase LThumb LHand LHandTip "
    "RCollar RShoulder RElbow RWrist RThumbBase RThumb RHand RHandTip",
    "0 0 1 2 3 4 0 6 7 8 9 0 11 12 13 14 12 16 17 18 19 20 19 22 12 24 25 26 27 28 27 30",
)
"""All joints of Human3.6M's motion capture: parents and sides as in VideoPose3D (``h36m_dataset.py``).

3d-pose-baseline (``data_utils.py``) has names for the 17 that move; the other names are ours.
"""

MPII16 = _skeleton(
    "MPII16",
    "RFoot RKnee RHip LHip LKnee LFoot Hip Thorax UpperNeck HeadTop RWrist RElbow RShoulder LShoulder LElbow LWrist",
    "1 2 6 6 3 4 6 6 7 8 11 12 8 8 13 14",
)
"""MPII Human Pose: joint ids 0 to 15 of its annotation, as its README lists them; it calls the feet ankles.

Stacked Hourglass gives joints in this order, too (3d-pose-baseline's ``SH_NAMES``).
"""

COCO17 = _skeleton(
    "COCO17",
    "Nose LEye REye LEar REar LShoulder RShoulder LElbow RElbow LWrist RWrist LHip RHip LKnee RKnee LFoot RFoot",
    "0 0 0 1 2 0 0 5 6 7 8 5 6 11 12 13 14",
)
"""COCO keypoints: ``categories[0].keypoints`` of its person_keypoints json; COCO calls the feet ankles."""

KTH14 = _skeleton(
    "KTH14",
    "RFoot RKnee RHip LHip LKnee LFoot RWrist RElbow RShoulder LShoulder LElbow LWrist HeadBottom HeadTop",
    "1 2 12 12 3 4 7 8 12 12 9 10 12 12",
)
"""KTH Multiview Football II: landmarks 1 to 14 of ``readme.txt`` in its ``code3d.zip``; it calls the feet ankles.

A body without a pelvis joint, so the bottom of the head is the root.
"""

BODY25 = _skeleton(
    "BODY25",
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist Hip RHip RKnee RFoot LHip LKnee LFoot "
    "REye LEye REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel",
    "1 8 1 2 3 1 5 6 8 8 9 10 8 12 13 0 0 15 16 14 19 14 11 22 11",
)
"""OpenPose's BODY_25: the keypoints of its ``doc/02_output.md``, which calls the hip MidHip and the feet ankles."""

HALPE26 = _skeleton(
    "HALPE26",
    "Nose LEye REye LEar REar LShoulder RShoulder LElbow RElbow LWrist RWrist LHip RHip LKnee RKnee LFoot RFoot "
    "HeadTop Neck Hip LBigToe RBigToe LSmallToe RSmallToe LHeel RHeel",
    "18 0 0 1 2 18 18 5 6 7 8 19 19 11 12 13 14 18 19 19 15 16 15 16 15 16",
)
"""AlphaPose's body with feet: the 26 keypoints of Halpe-FullBody's README; its first 17 are COCO's."""


def _whole_body() -> Skeleton:
    joints, parents = list(COCO17.joints), list(COCO17.parents)
    for side in "LR":
        joints += [f"{side}{part}" for part in ("BigToe", "SmallToe", "Heel")]
        parents += [COCO17.index(f"{side}Foot")] * 3
    joints += _face()
    parents += [COCO17.index("Nose")] * 68
    for side in "LR":
        wrist = len(joints)
        joints += [f"{side}Hand{k}" for k in range(21)]
        # Five fingers of four joints each, which begin at the wrist's own.
        parents += [COCO17.index(f"{side}Wrist"), *(wrist + k if k % 4 else wrist for k in range(20))]
    return Skeleton("COCO133", tuple(joints), tuple(parents))


def _face() -> list[str]:
    """The 68 joints of a face: jaw, brows, nose, eyes, mouth."""
    right = [*range(8), *range(17, 22), 31, 32, *range(36, 42), 48, 49, 50, 58, 59, 60, 61, 67]
    left = [*range(16, 8, -1), *range(26, 21, -1), 35, 34, 45, 44, 43, 42, 47, 46, 54, 53, 52, 56, 55, 64, 63, 65]
    names = {k: f"Face{k}" for k in range(68)}
    for one, other in zip(right, left, strict=True):
        names[one], names[other] = f"RFace{one}", f"LFace{one}"
    return [names[k] for k in range(68)]


COCO133 = _whole_body()
"""COCO-WholeBody: COCO's 17, six of the feet, 68 of the face, 21 of each hand (Jin et al., ECCV 2020, figure 2).

A joint of the face is called after its number there, the pairs of both sides after that of the right.
"""

MEDIAPIPE33 = _skeleton(
    "MEDIAPIPE33",
    "Nose LEyeInner LEye LEyeOuter REyeInner REye REyeOuter LEar REar LMouth RMouth LShoulder RShoulder LElbow RElbow "
    "LWrist RWrist LPinky RPinky LIndex RIndex LThumb RThumb LHip RHip LKnee RKnee LFoot RFoot LHeel RHeel LToe RToe",
    "0 0 1 2 0 4 5 3 6 0 0 0 0 11 12 13 14 15 16 15 16 15 16 11 12 23 24 25 26 27 28 27 28",
)
"""MediaPipe's pose landmarks: ``PoseLandmark`` of its solutions, which call the feet ankles and the toes foot index."""

SKELETONS: dict[str, Skeleton] = {
    s.name: s for s in (H36M16, H36M17, H36M32, MPII16, COCO17, KTH14, BODY25, HALPE26, COCO133, MEDIAPIPE33)
}


def skeleton(name: str) -> Skeleton:
    """The skeleton called ``name``. Raises UsageError for a name that is not known.

    Example:
        >>> skeleton("COCO17").joints[:3]
        ('Nose', 'LEye', 'REye')
    """
    if name not in SKELETONS:
        raise UsageError(f"unknown joint order {name!r}; known: {', '.join(SKELETONS)}")
    return SKELETONS[name]
