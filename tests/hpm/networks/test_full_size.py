"""The full-size network with seeded weights against what the original computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.parity.reference import verify_net
from hpm.networks import define
from tests.hpm.seeded import frame, seeded_net


@pytest.mark.slow
def test_deploy_network_reproduces_every_blob(reference: Path, device: torch.device) -> None:
    net = seeded_net(define("deploy")).to(device)
    with open_hdf5(reference / "hpm_networks.h5") as file:
        group = file["mask3d_deploy"]
        frames = [frame(int(group.attrs["first_frame_seed"]) + k, 368) for k in range(int(group.attrs["frames"]))]
        (result,) = verify_net(net, group, {"data": np.stack(frames)})
    assert [(b.name, b.max_abs, b.problem) for b in result.blobs if not b.passed] == []
    assert result.skipped == []
    # 41 blobs, and the weights of 29 layers: two each, three for the LSTMs.
    assert len(result.blobs) == 41 + 2 * 29 + 2
