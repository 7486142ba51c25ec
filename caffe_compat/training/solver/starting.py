"""The nets of a run before its first iteration: filled from files, test nets holding the trained one's blobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...errors import WeightsError
from ...formats.weights import read_weights
from ...network.filling import fill_net
from ...network.net import CaffeNet

__all__ = ["fill_nets"]


def fill_nets(
    net: CaffeNet,
    tests: Sequence[CaffeNet],
    weights: Sequence[Path],
    *,
    seed: int,
    device: torch.device,
    warn: Callable[[str], None],
) -> None:
    """Give nets their values: those of ``weights``, in order, then of fillers; ``tests`` share those of ``net``.

    Raises:
        FileError: a file cannot be read. WeightsError: it does not fit, or a test net's layer has other blobs.
    """
    for path in weights:
        with read_weights(path) as file:
            for text in fill_net(net, file).warnings:
                warn(text)
    net.materialize(seed, device).to(device)
    for test in tests:
        for path in weights:
            with read_weights(path) as file:
                fill_net(test, file)
        _share_blobs(net, test)
        test.materialize(seed, device).to(device)
        _share_blobs(net, test)  # moving a buffer to a device parts it from the one it shared


def _share_blobs(net: CaffeNet, test: CaffeNet) -> None:
    """Let ``test`` hold the very memory of the trained net's blobs, layer by layer of the same name."""
    targets = {node.name: node.module_name for node in reversed(test.nodes_with_blobs())}
    for node in net.nodes_with_blobs():
        if node.name not in targets:
            continue
        mine, theirs = net.blobs_of(node.module_name), test.blobs_of(targets[node.name])
        if len(mine) != len(theirs):
            raise WeightsError(f"has {len(mine)} blobs in training and {len(theirs)} in testing", layer=node.name)
        for blob, name in zip(mine.values(), theirs, strict=True):
            test.assign_blob(targets[node.name], name, blob.detach())
