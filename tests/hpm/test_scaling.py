"""Bounds, units, limb lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat import NetState
from caffe_compat.access import FileAccess
from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.cxx_numbers import cxx_rows
from caffe_compat.network.definition import read_definition
from caffe_compat.network.loading import build_net
from hpm.scaling import (
    REFINEMENT_BOUNDS,
    Bounds,
    bone_lengths,
    bone_variation,
    bounds_difference,
    bounds_of,
    centre_on_root,
    denormalise,
    denormalise_as_layers,
    normalise,
    or_built_in,
    order_suspicion,
    read_bounds,
    scale_limbs,
    write_bounds,
)
from hpm.skeleton import H36M16, H36M17


def _poses(frames: int = 6) -> np.ndarray:
    return centre_on_root(np.random.RandomState(0).uniform(-900, 900, (frames, 16, 3)))


def test_caffe_raises_the_first_three_maxima(reference: Path) -> None:
    bounds = read_bounds(reference / "max_min.csv")
    assert bounds.maximum[:4].tolist() == [1e-6, 1e-6, 1e-6, 834.888726]
    assert bounds.minimum[:4].tolist() == [0, 0, 0, -487.944860]
    assert bounds.maximum.shape == (48,)


def test_refinement_bounds() -> None:
    assert REFINEMENT_BOUNDS.maximum[:3].tolist() == [1e-4] * 3
    assert REFINEMENT_BOUNDS.range[3] == pytest.approx(134.0503767 + 134.0504526)
    assert REFINEMENT_BOUNDS.maximum[21] == 238.4541163
    assert REFINEMENT_BOUNDS.minimum[-2] == -1015.279911


def test_normalise_by_hand() -> None:
    # (v - minimum) / (maximum - minimum): the middle of the range of the right hip's x is 0.5.
    pose = REFINEMENT_BOUNDS.minimum.copy()
    pose[3] = (134.0503767 - 134.0504526) / 2
    normalised = normalise(pose, REFINEMENT_BOUNDS)
    assert normalised[3] == pytest.approx(0.5)
    assert np.count_nonzero(normalised) == 1


def test_round_trip_keeps_shape_and_kind(device: torch.device) -> None:
    poses = _poses()
    there = normalise(poses, REFINEMENT_BOUNDS)
    assert there.shape == (6, 16, 3)
    np.testing.assert_allclose(denormalise(there, REFINEMENT_BOUNDS), poses, atol=1e-9)
    flat = normalise(poses.reshape(6, 48), REFINEMENT_BOUNDS)
    np.testing.assert_array_equal(flat.reshape(6, 16, 3), there)
    tensor = torch.tensor(poses, dtype=torch.float64, device=device)
    ours = normalise(tensor, REFINEMENT_BOUNDS)
    assert ours.device == tensor.device
    np.testing.assert_allclose(ours.cpu().numpy(), there, rtol=1e-12)
    with pytest.raises(UsageError, match=r"48 values do not fit poses of shape \(6, 17, 3\)"):
        normalise(np.zeros((6, 17, 3)), REFINEMENT_BOUNDS)


def test_bounds_file_round_trip(tmp_path: Path) -> None:
    poses = _poses()
    bounds = bounds_of(poses, "poses")
    write_bounds(tmp_path / "b.csv", bounds)
    again = read_bounds(tmp_path / "b.csv")
    np.testing.assert_array_equal(again.maximum, bounds.maximum)
    np.testing.assert_array_equal(again.minimum, bounds.minimum)
    assert (tmp_path / "b.csv").read_text().startswith("0.0,0.0,0.0,")
    values = normalise(poses, bounds)[:, 1:]
    assert values.min() == pytest.approx(0)
    assert values.max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,0\n0,0,0\n", "line 1: 3 values; H36M16 has 16 joints, so 48 belong here"),
        (",".join(["0"] * 51) + "\n" + ",".join(["0"] * 51), "line 1: 51 values"),
        ("1," * 47 + "1\n" + "0," * 47 + "0\n", "it should be the hip at the origin"),
        ("0,0,0," + "5," * 44 + "5\n", "1 lines of numbers"),
        ("0,0,0," + "5," * 44 + "5\n" + "0,0,0," + "1," * 44 + "x\n", "line 2: numbers parted by commas"),
        ("0,0,0," + "5," * 44 + "5\n" + "0,0,0," + "1," * 44 + "6\n", "value 48 has maximum 5.0 and minimum 6.0"),
        ("0,0,0," + "5," * 44 + "nan\n" + "0,0,0," + "1," * 44 + "6\n", "not finite"),
    ],
)
def test_bad_bounds_are_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(FileError, match=message) as caught:
        read_bounds(tmp_path / "b.csv")
    assert str(caught.value).startswith(str(tmp_path / "b.csv"))


def test_bounds_of_17_joints(tmp_path: Path) -> None:
    rows = [[0.0] * 3 + [9.0] * 48, [0.0] * 3 + [-9.0] * 48]
    (tmp_path / "b.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    assert read_bounds(tmp_path / "b.csv", H36M17).range[3] == 18


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ([0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 2, 3, 4, 5, 6], "LHip reaches 598 mm from the hip, RKnee only 494 mm"),
        ([0, 1, 2, 3, 7, 8, 9, 4, 5, 6, 10, 11, 12, 13, 14, 15], "one of RHip and LHip reaches 134 mm"),
        ([0, 3, 2, 1, 6, 5, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15], "RHip reaches 943 mm from the hip, RKnee only 535 mm"),
        (
            [0, 1, 2, 3, 4, 5, 6, 9, 8, 7, 10, 11, 12, 13, 14, 15],
            "Spine reaches 709 mm from the hip, Thorax only 494 mm",
        ),
    ],
)
def test_bounds_in_another_joint_order_are_suspect(order: list[int], reason: str) -> None:
    maximum, minimum = (
        values.reshape(16, 3)[order].ravel() for values in (REFINEMENT_BOUNDS.maximum, REFINEMENT_BOUNDS.minimum)
    )
    found = order_suspicion(Bounds(maximum, minimum, "another order"))
    assert found is not None
    assert reason in found


def test_bounds_in_the_right_order_are_not_suspect(reference: Path) -> None:
    shipped = read_bounds(reference / "synthetic_pose" / "data" / "16point_mean_limb_scaled_max_min.csv")
    assert order_suspicion(REFINEMENT_BOUNDS) is None
    assert order_suspicion(shipped) is None


def test_scaled_limbs_have_the_lengths_and_keep_their_directions() -> None:
    poses = _poses()
    lengths = bone_lengths(poses).mean(0)
    assert lengths[0] == 0
    assert lengths[2] == pytest.approx(np.linalg.norm(poses[:, 2] - poses[:, 1], axis=-1).mean())
    scaled = scale_limbs(poses, lengths)
    np.testing.assert_allclose(bone_lengths(scaled), np.tile(lengths, (6, 1)))
    np.testing.assert_array_equal(scaled[:, 0], poses[:, 0])
    for child, parent in H36M16.bones:
        before, after = (p[:, child] - p[:, parent] for p in (poses, scaled))
        cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
        np.testing.assert_allclose(cosine, 1)
    assert bone_variation(scaled).max() < 1e-12
    assert bone_variation(poses).min() > 0.05
    # Already scaled: nothing changes.
    np.testing.assert_allclose(scale_limbs(scaled, lengths), scaled, atol=1e-9)


def test_a_bone_without_direction_is_an_error() -> None:
    poses = _poses()
    poses[4, 9] = poses[4, 8]
    with pytest.raises(UsageError, match="frame 4: Thorax and Head are at the same place"):
        scale_limbs(poses, np.ones(16))


def test_centring() -> None:
    poses = np.random.RandomState(1).uniform(-1, 1, (2, 3, 16, 3))
    centred = centre_on_root(poses)
    assert not centred[..., 0, :].any()
    np.testing.assert_allclose(centred[..., 5, :], poses[..., 5, :] - poses[..., 0, :])
    torch.testing.assert_close(centre_on_root(torch.tensor(poses)), torch.tensor(centred))


def test_how_bounds_differ() -> None:
    maximum, minimum = REFINEMENT_BOUNDS.maximum.copy(), REFINEMENT_BOUNDS.minimum.copy()
    maximum[:3] = 1e-6  # as Caffe's layers have it
    assert bounds_difference(REFINEMENT_BOUNDS, near := Bounds(maximum, minimum, "near")) is None
    assert or_built_in(near) is REFINEMENT_BOUNDS
    minimum = minimum.copy()
    minimum[4] -= 0.02
    minimum[10] -= 0.05
    other = Bounds(maximum, minimum, "other")
    assert bounds_difference(REFINEMENT_BOUNDS, other) == "RFoot's minimum of y is -690.71 mm there, -690.76 mm here"
    assert or_built_in(other) is other


@pytest.mark.parametrize("published", [True, False])
def test_what_the_layers_write_to_the_last_digit(published: bool, reference: Path, tmp_path: Path) -> None:
    """Against MPJPEEvaluation, whose files are those of real Caffe byte for byte."""
    if published:
        write_bounds(tmp_path / "max_min.csv", REFINEMENT_BOUNDS)
    else:
        (tmp_path / "max_min.csv").write_bytes((reference / "max_min.csv").read_bytes())
    files = FileAccess(tmp_path)
    text = """
        layer { name: "a" type: "Input" top: "a" top: "b"
                input_param { shape { dim: 50 dim: 48 } shape { dim: 50 dim: 48 } } }
        layer { name: "e" type: "MPJPEEvaluation" bottom: "a" bottom: "b" top: "e"
                mpjpe_param { scale: 1 sample_num: 1000 save_filepath: "out.csv" max_min_source: "max_min.csv" } }"""
    (tmp_path / "net.prototxt").write_text(text)
    definition = read_definition(str(tmp_path / "net.prototxt"))
    net, _ = build_net(definition, None, state=NetState("TEST"), files=files, seed=0)
    poses = np.random.RandomState(1).uniform(-0.2, 1.2, (50, 48)).astype(np.float32)
    net.run({"a": poses, "b": poses})
    bounds = or_built_in(read_bounds(tmp_path / "max_min.csv"))
    assert (bounds is REFINEMENT_BOUNDS) == published
    rows = cxx_rows(denormalise_as_layers(poses, bounds), ",")
    assert files.written["out.csv"] == "".join(f"{k},{row}\n" for k, row in enumerate(rows, 1))
