"""Joint orders, conversions, flips, and signs of exchanged sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import UsageError
from hpm.skeleton import (
    COCO17,
    H36M16,
    H36M17,
    H36M32,
    KTH14,
    MPII16,
    SKELETONS,
    conversion,
    convert,
    flip_image,
    left_right_suspect,
    skeleton,
    swap_sides,
)

# A person who stands facing the camera of H36M16 (x right, y down, z away), 1.7 m tall, knees bent towards it.
STANDING = np.array(
    [
        (0, 0, 0),
        (-130, 0, 0),
        (-140, 430, -120),
        (-140, 880, 0),
        (130, 0, 0),
        (140, 430, -120),
        (140, 880, 0),
        (0, -230, 0),
        (0, -480, 0),
        (0, -680, -20),
        (150, -450, 0),
        (280, -250, 30),
        (300, 0, -40),
        (-150, -450, 0),
        (-280, -250, 30),
        (-300, 0, -40),
    ],
    float,
)


def _numbered(joints: int) -> np.ndarray:
    """Every joint k at (k, 100 + k), so that the result tells where each came from."""
    return np.stack([np.arange(joints), 100.0 + np.arange(joints)], -1)


def test_order_of_the_files() -> None:
    assert H36M16.parents == (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14)
    assert H36M16.swaps == (0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 13, 14, 15, 10, 11, 12)
    assert [len(SKELETONS[name]) for name in SKELETONS] == [16, 17, 32, 16, 17, 14, 25, 26, 133, 33]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # Hips, knees, feet, shoulders, elbows, wrists and eyes, right before left, as their sources number them.
        ("BODY25", "9 12 10 13 11 14 2 5 3 6 4 7 15 16"),
        ("HALPE26", "12 11 14 13 16 15 6 5 8 7 10 9 2 1"),
        ("COCO133", "12 11 14 13 16 15 6 5 8 7 10 9 2 1"),
        ("MEDIAPIPE33", "24 23 26 25 28 27 12 11 14 13 16 15 5 2"),
    ],
)
def test_orders_of_detectors(name: str, numbers: str) -> None:
    order = SKELETONS[name]
    parts = ("Hip", "Knee", "Foot", "Shoulder", "Elbow", "Wrist", "Eye")
    assert [order.index(side + part) for part in parts for side in "RL"] == [int(k) for k in numbers.split()]
    assert len(order.downward) == len(order) - 1  # all hang together
    swaps = order.swaps
    assert [swaps[k] for k in swaps] == list(range(len(order)))
    to = conversion(order, H36M16)
    pose = to(_numbered(len(order)))
    for joint in ("RKnee", "LKnee", "LWrist"):
        assert pose[H36M16.index(joint), 0] == order.index(joint)
    halfway = (pose[H36M16.index("Hip")] + pose[H36M16.index("Thorax")]) / 2
    np.testing.assert_allclose(pose[H36M16.index("Spine")], halfway)


def test_hands_and_face_of_the_whole_body() -> None:
    """COCO-WholeBody: the feet from 17, the face from 23, the left hand from 91, the right from 112."""
    order = SKELETONS["COCO133"]
    assert [order.index(name) for name in ("LBigToe", "RHeel", "LHand0", "RHand20")] == [17, 22, 91, 132]
    face = {
        23: 39,
        40: 49,
        54: 58,
        59: 68,
        71: 77,
        78: 82,
        80: 80,
        83: 87,
        31: 31,
        85: 85,
    }  # pairs of the 68, and the middle
    assert {k: order.swaps[k] for k in face} == face
    assert [order.joints[order.parents[order.index(f"LHand{k}")]] for k in (0, 1, 4, 5)] == [
        "LWrist",
        "LHand0",
        "LHand3",
        "LHand0",
    ]


def test_published_orders() -> None:
    """As their sources list them, in their words."""
    kth = "R Ankle, R Knee, R Hip, L Hip, L Knee, L Ankle, R Wrist, R Elbow, R Shoulder, L Shoulder, L Elbow, L Wrist"
    mpii = "r ankle, r knee, r hip, l hip, l knee, l ankle, pelvis, thorax, upper neck, head top, r wrist, r elbow, "
    mpii += "r shoulder, l shoulder, l elbow, l wrist"
    coco = "nose, left_eye, right_eye, left_ear, right_ear, left_shoulder, right_shoulder, left_elbow, right_elbow, "
    coco += "left_wrist, right_wrist, left_hip, right_hip, left_knee, right_knee, left_ankle, right_ankle"
    for joints, listed in ((KTH14, f"{kth}, Bottom Head, Top Head"), (MPII16, mpii), (COCO17, coco)):
        ours = [name.lower() for name in joints.joints]
        for name, theirs in zip(ours, listed.lower().split(", "), strict=True):
            words = theirs.replace("ankle", "foot").replace("pelvis", "hip").replace("_", " ").split()
            side = words.pop(0)[0] if words[0] in ("l", "r", "left", "right") else ""
            assert name in (side + "".join(words), "".join(reversed(words)))
    # VideoPose3D's skeleton of 32 joints.
    left, right = [6, 7, 8, 9, 10, *range(16, 24)], [1, 2, 3, 4, 5, *range(24, 32)]
    assert [k for k, name in enumerate(H36M32.joints) if name.startswith("L")] == left
    assert [k for k, name in enumerate(H36M32.joints) if name.startswith("R")] == right
    assert H36M32.parents[1:] == (
        *(0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 12),
        *(16, 17, 18, 19, 20, 19, 22, 12, 24, 25, 26, 27, 28, 27, 30),
    )


@pytest.mark.parametrize("name", SKELETONS)
def test_skeletons_are_trees_with_two_sides(name: str) -> None:
    joints = skeleton(name)
    assert [k for k, parent in enumerate(joints.parents) if k == parent] == [joints.root]
    assert sorted(child for child, _ in joints.downward) == [k for k in range(len(joints)) if k != joints.root]
    seen = {joints.root}
    for child, parent in joints.downward:
        assert parent in seen
        seen.add(child)
    for k, other in enumerate(joints.swaps):
        assert joints.swaps[other] == k
        assert (k == other) == (joints.joints[k][0] not in "LR")
        # The tree is symmetric, so a bone's mirror image is a bone.
        if joints.parents[k] not in (joints.root, k) and joints is not COCO17:
            assert joints.swaps[joints.parents[k]] == joints.parents[other]


def test_mpii_to_files() -> None:
    pose = convert(_numbered(16), MPII16, H36M16)
    assert pose[:, 0].tolist() == [6, 2, 1, 0, 3, 4, 5, 7, 8, 9, 13, 14, 15, 12, 11, 10]
    np.testing.assert_array_equal(convert(pose, H36M16, MPII16), _numbered(16))


def test_h36m_to_files() -> None:
    to_17 = convert(_numbered(32), H36M32, H36M17)
    assert to_17[:, 0].tolist() == [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    assert conversion(H36M17, H36M16).dropped == ("Nose",)
    np.testing.assert_array_equal(convert(to_17, H36M17, H36M16), np.delete(to_17, 9, 0))
    np.testing.assert_array_equal(convert(_numbered(32), H36M32, H36M16), np.delete(to_17, 9, 0))


def test_coco_and_kth_average_what_they_lack() -> None:
    coco = convert(_numbered(17), COCO17, H36M16)
    assert coco[[0, 7, 8, 9], 0].tolist() == [11.5, (11 + 12 + 5 + 6) / 4, 5.5, 1.5]
    assert conversion(COCO17, H36M16).dropped == ("Nose", "LEar", "REar")
    assert conversion(COCO17, H36M16).averaged["Hip"] == ("LHip", "RHip")
    kth = convert(_numbered(14), KTH14, H36M16)
    assert kth[:, 0].tolist() == [2.5, 2, 1, 0, 3, 4, 5, (2.5 + 12) / 2, 12, 13, 9, 10, 11, 8, 7, 6]
    assert conversion(H36M16, KTH14).dropped == ("Hip", "Spine")
    np.testing.assert_array_equal(convert(kth, H36M16, KTH14), _numbered(14))


def test_conversion_keeps_kind_and_ignores_dropped_joints(device: torch.device) -> None:
    pose = torch.arange(2 * 32 * 3, dtype=torch.float32, device=device).reshape(2, 32, 3)
    pose[:, 4] = float("nan")
    converted = convert(pose, H36M32, H36M16)
    assert converted.shape == (2, 16, 3)
    assert converted.dtype == torch.float32
    assert converted.device == pose.device
    assert converted.isfinite().all()
    coco = torch.rand(5, 17, 2, device=device)
    np.testing.assert_allclose(
        convert(coco, COCO17, H36M16).cpu().numpy(), convert(coco.cpu().numpy(), COCO17, H36M16), rtol=1e-6
    )


def test_undefined_conversions_and_wrong_shapes_are_errors() -> None:
    with pytest.raises(UsageError, match="no conversion from COCO17 to KTH14 is defined; defined are H36M32 to"):
        convert(_numbered(17), COCO17, KTH14)
    with pytest.raises(UsageError, match=r"\(..., 17, 2 or 3\) was expected for H36M17, found \(16, 2\)"):
        convert(_numbered(16), H36M17, H36M16)
    with pytest.raises(UsageError, match="unknown joint order 'H36M'; known: H36M16"):
        skeleton("H36M")


def test_flip_turns_x_round_and_exchanges_sides() -> None:
    flipped = flip_image(STANDING[None, :, :2] / 2000 + 0.5, H36M16, width=1.0)[0]
    # The standing body is symmetric but for its joints' sides.
    np.testing.assert_allclose(flipped, STANDING[:, :2] / 2000 + 0.5)
    pose = torch.tensor(STANDING + np.arange(16)[:, None])
    again = flip_image(flip_image(pose, H36M16), H36M16)
    torch.testing.assert_close(again, pose)
    assert flip_image(pose, H36M16)[4].tolist() == [-pose[1, 0], pose[1, 1], pose[1, 2]]


def _turned(frames: int) -> np.ndarray:
    """The standing body turned about the vertical, each frame farther."""
    angle = 0.1 + np.linspace(0, 2 * np.pi, frames, endpoint=False)
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros(frames), np.ones(frames)
    rotation = np.stack([np.stack(r, -1) for r in ((c, o, s), (o, i, o), (-s, o, c))], -2)
    return STANDING @ np.swapaxes(rotation, 1, 2)


def test_good_poses_raise_no_suspicion() -> None:
    pose = _turned(40)
    assert not left_right_suspect(pose, H36M16).suspect
    assert not left_right_suspect(pose[..., :2], H36M16).suspect
    assert left_right_suspect(pose, H36M16).knees_backwards == (0, 40)


def test_exchanged_sides_are_suspected() -> None:
    pose = _turned(40)
    evidence = left_right_suspect(swap_sides(pose, H36M16), H36M16)
    assert evidence.knees_backwards == (40, 40)
    assert evidence.reasons == ("in 40 of 40 frames knees bend backwards",)
    mirrored = pose * np.array([-1, 1, 1])
    assert left_right_suspect(mirrored, H36M16).suspect


def test_arms_exchanged_against_legs_are_suspected_in_pictures() -> None:
    pose = _turned(40)[..., :2]
    pose[:, [10, 11, 12, 13, 14, 15]] = pose[:, [13, 14, 15, 10, 11, 12]]
    hits, frames = left_right_suspect(pose, H36M16).arms_against_legs
    assert hits == frames >= 30


def test_comparison_with_a_reference() -> None:
    pose = _turned(12)[..., :2]
    swapped = swap_sides(pose, H36M16)
    evidence = left_right_suspect(swapped, H36M16, pose + 5)
    assert evidence.fits_when_swapped == (12, 12)
    assert not left_right_suspect(pose, H36M16, pose + 5).suspect
    together = left_right_suspect(swapped[:7], H36M16, pose[:7]) + left_right_suspect(swapped[7:], H36M16, pose[7:])
    assert together.fits_when_swapped == (12, 12)


def test_few_frames_say_nothing() -> None:
    assert not left_right_suspect(swap_sides(_turned(9), H36M16), H36M16).suspect
