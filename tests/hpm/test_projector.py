"""The correction module and projector against what real Caffe computed, and the loss against autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat.errors import WeightsError
from caffe_compat.formats.hdf5 import open_hdf5
from hpm.projector import LAYERS, Affine, ProjectionLoss, Projector, correct, project
from tests.hpm.seeded import param_value


def test_blobs_of_real_caffe(reference: Path, device: torch.device) -> None:
    folder = reference / "tiny_mask3d"
    net = caffe_compat.load(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    projector = Projector.from_state(net.state_dict()).to(device)
    with open_hdf5(folder / "tiny_mask3d.h5") as file:
        blobs = {
            name: torch.tensor(np.asarray(file[f"batch_1/blob/{name}"])).to(device)
            for name in ("3dpredict", "change", "project_2d")
        }
    change = correct(projector, blobs["3dpredict"])
    torch.testing.assert_close(change, blobs["change"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(project(projector, blobs["change"]), blobs["project_2d"], rtol=1e-5, atol=1e-6)


def test_loss_by_hand() -> None:
    loss = ProjectionLoss(dtype=torch.float64)
    zero = loss.target(torch.zeros(1, 32, dtype=torch.float64))
    pose = torch.zeros(2, 32, dtype=torch.float64)
    # The left wrist (joint 12) at x = 3: its point is off by 3, the bone to the elbow too, and it has no child.
    pose[0, 24] = 3
    # The spine (joint 7) does not count, wherever it is; nor does the bone from the thorax to it.
    pose[1, 14:16] = 100
    assert loss(pose, zero).tolist() == [(9 + 9) / 32, 0]
    # The thorax (joint 8) at y = 2: its point, the bone to joint 7 and those to joints 9, 10 and 13.
    pose = torch.zeros(1, 32, dtype=torch.float64)
    pose[0, 17] = 2
    assert loss(pose, zero).tolist() == [(4 + 4 * 4) / 32]
    # A bone is an absolute difference: pointing the other way costs nothing but the points.
    assert loss(-pose, loss.target(pose)).tolist() == [16 / 32]


def test_gradient_is_that_of_autograd(device: torch.device) -> None:
    loss = ProjectionLoss(device, torch.float64)
    draw = torch.Generator().manual_seed(0)
    pose, goal = (torch.rand(5, 32, generator=draw, dtype=torch.float64).to(device) for _ in range(2))
    target = loss.target(goal)
    pose.requires_grad_()
    loss(pose, target).sum().backward()
    torch.testing.assert_close(loss.gradient(pose.detach(), target), pose.grad)


def test_arrays_round_trip_and_bad_shapes() -> None:
    shapes = (6, 48), (48, 6), (9, 48), (9, 9), (9, 9), (32, 9)
    projector = Projector(
        *(
            Affine(torch.from_numpy(param_value(name, 0, s)), torch.from_numpy(param_value(name, 1, s[:1])))
            for name, s in zip(LAYERS, shapes, strict=True)
        )
    )
    arrays = projector.arrays()
    assert [a.shape for a in arrays[4:6]] == [(48, 9), (9,)]
    again = Projector.from_arrays(arrays)
    assert torch.equal(again.project_1.weight, projector.project_1.weight)
    with pytest.raises(WeightsError, match="11 arrays; a weight and a bias for each of change_tmp, change"):
        Projector.from_arrays(arrays[:11])
    with pytest.raises(WeightsError, match=r"layer 'project_2': a weight of \(9, 9\) .* found \(9, 48\) and \(9,\)"):
        Projector.from_arrays([*arrays[:6], arrays[4], *arrays[7:]])
    state = {f"{name}.{part}": value for name in LAYERS for part, value in getattr(projector, name)._asdict().items()}
    assert torch.equal(Projector.from_state(state).change.bias, projector.change.bias)
    del state["project_3.bias"]
    with pytest.raises(WeightsError, match=r"the network lacks project_3\.bias: it has no correction module"):
        Projector.from_state(state)
