"""The four phases of the pose machine, six steps each, against what the original's Caffe recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.network.net import CaffeNet
from caffe_compat.schema import load_schema
from caffe_compat.training.session import open_solver
from caffe_compat.training.solver import Event, Solver, parse_solver
from caffe_compat.training.solver.events import IterationShown
from caffe_compat.training.solver.settings import NetSource
from hpm.networks import DIALECT, NETWORKS, NetworkOptions
from tests.training.tiny_training import recorded_value

OPTIONS = NetworkOptions(
    image_size=64,
    shuffle=False,
    mask_probability=-1,
    train_list="h36m_list.txt",
    mpii_list="mpii_list.txt",
    h36m_root="./",
    mpii_root="./",
    bounds="max_min.csv",
)
SOLVER = """
net: "in Python" type: "Adam" base_lr: %g momentum: 0.9 momentum2: 0.999 lr_policy: "fixed" clip_gradients: 5
max_iter: 6 display: 1 snapshot_prefix: "none" random_seed: 0
"""


@pytest.mark.parametrize(
    ("phase", "steps"),
    [
        pytest.param("2d_to_3d", 6, marks=pytest.mark.slow),
        pytest.param("3d_to_2d", 6, marks=pytest.mark.slow),
        pytest.param("finetune_whole", 4, marks=pytest.mark.slow),  # chaotic in float32 afterwards
        pytest.param("mask3d", 6, marks=pytest.mark.slow),
    ],
)
def test_six_steps(
    phase: str, steps: int, reference: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses within 1e-3; of the sampled weights 99% within 1e-3 of their blob's standard deviation, and every one
    within two learning rates a step, since a gradient near zero may flip Adam's sign. oneDNN's kernels, which differ
    from processor to processor, round enough otherwise to be 4e-3 away after three steps of the whole; without them it
    is 2e-6.
    """
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    folder = tmp_path / "train_data"  # the networks write there
    shutil.copytree(reference / "train_data", folder)
    with h5py.File(reference / "hpm_training.h5") as file:
        recorded = file[phase]
        rate = float(recorded.attrs["base_lr"])
        settings = replace(
            parse_solver(SOLVER % rate),
            train=NetSource(phase, None, NETWORKS[phase](OPTIONS), load_schema(DIALECT), "TRAIN"),
        )
        shown: list[IterationShown] = []

        def observe(event: Event) -> None:
            if isinstance(event, IterationShown):
                shown.append(event)

        with open_solver(settings, base=folder, device=device, workers=0, observer=observe) as solver:
            set_weights(solver.net)
            rates = {blob.name: rate * blob.lr_mult for blob in solver.learnable}
            for step in range(1, steps + 1):
                solver.step(1)
                check_losses(shown[-1], recorded["loss"], step)
                check_weights(solver, recorded, step, rates)


def set_weights(net: CaffeNet) -> None:
    """The seeded weights of the recorded run."""
    with torch.no_grad():
        for node in net.nodes_with_blobs():
            for i, blob in enumerate(net.blobs_of(node.module_name).values()):
                blob.copy_(torch.from_numpy(recorded_value(node.name, i, tuple(blob.shape))))


def check_losses(shown: IterationShown, recorded: h5py.Group, step: int) -> None:
    values: dict[str, float] = {}
    for output in shown.outputs:
        values.setdefault(output.blob, output.value)
    for blob in recorded:
        expected = recorded[blob][step - 1]
        assert abs(values[blob] - expected) <= 1e-3 * abs(expected), (blob, step)


def check_weights(solver: Solver, recorded: h5py.Group, step: int, rates: dict[str, float]) -> None:
    close: list[np.ndarray] = []
    for full, ours, sample, positions in sampled(solver.net, recorded, step):
        difference = np.abs(ours.ravel()[positions] - sample["values"][()])
        deviation = sample.attrs["mean_std_min_max"][1]
        close.append(difference <= 1e-3 * deviation)
        # A rounding of the weight itself may come on top.
        assert np.all(difference <= 2 * rates[full] * step + 1e-7), (full, step)
    assert len(close) > 20
    assert np.concatenate(close).mean() >= 0.99


def sampled(net: CaffeNet, recorded: h5py.Group, step: int) -> Iterator[tuple[str, np.ndarray, h5py.Group, np.ndarray]]:
    """Full name, our values, the recorded sample and its positions, of every blob."""
    modules = {node.name: node.module_name for node in reversed(net.nodes_with_blobs())}
    layers = recorded[f"iteration_{step}/param"]
    for layer in layers:
        blobs = net.blobs_of(modules[layer])
        for i in layers[layer]:
            name = list(blobs)[int(i)]
            positions = recorded[f"iteration_1/param/{layer}/{i}/positions"][()]
            yield f"{modules[layer]}.{name}", blobs[name].detach().cpu().numpy(), layers[layer][i], positions
