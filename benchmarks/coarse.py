"""How long the coarse pose of a frame takes, next to the same layers run window by window.

    python benchmarks/coarse.py [--full] [--rounds 5]

The peer runs the network as the original does, a batch of a window's 5 frames at a time. Ours is ``PoseMachine``, which
takes the convolutions of many windows at once where frames are small, and ``PoseMachine.optimize()``, which runs them
in their inference form. The network is a narrow one for pictures of 64 x 64, as the one that ships; with ``--full``
that of the paper, 368 x 368, in half a minute a round. Weights are seeded, on one thread by processor time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from peers import drop, fastest, verdict

from caffe_compat import CaffeNet, NetState
from caffe_compat.network.loading import build_net
from caffe_compat.parity.precision import ieee_float32
from hpm.model import PoseMachine
from hpm.networks import NetworkOptions, define

WINDOW = 5
NARROW = NetworkOptions(image_size=64, channels=(8, 16, 32, 64, 32, 64), hidden=192, projector=384)


def seeded(options: NetworkOptions) -> CaffeNet:
    """The deployed network with weights that keep values at their size from layer to layer."""
    net, _ = build_net(define("deploy", options), None, state=NetState("TEST"), files=None, seed=0)
    random = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        fan_in = max(1, parameter[0].numel())
        parameter.data.copy_(torch.randn(parameter.shape, generator=random) * (2 / fan_in) ** 0.5)
    return net


def by_window(net: CaffeNet, pose: str, frames: np.ndarray) -> np.ndarray:
    """The peer's poses (n, 48)."""
    net.reset_state()
    clip = np.ones((len(frames), 1), np.float32)
    clip[0] = 0
    poses = []
    with ieee_float32():
        for k in range(0, len(frames), WINDOW):
            part = slice(k, k + WINDOW)
            found = net.run({"data": frames[part], "clip": clip[part]}, [pose, "change"])
            poses.append(found[pose].reshape(-1, 48).numpy())
    return np.concatenate(poses)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options, count = (NetworkOptions(), 2 * WINDOW) if arguments.full else (NARROW, 60 * WINDOW)
    net, size = seeded(options), options.image_size
    plain, optimized = PoseMachine(net), PoseMachine(net).optimize()
    frames = np.random.RandomState(0).uniform(-0.5, 0.5, (count, 3, size, size)).astype(np.float32)

    def ours(machine: PoseMachine) -> np.ndarray:
        machine.reset_state()
        return np.asarray(machine.predict(frames, window=WINDOW, pixels="preprocessed").pose)

    pose = plain.pose_blob
    peer = net.part([pose, "change"])
    expected = by_window(peer, pose, frames)
    same = np.array_equal(ours(plain), expected)
    apart = float(np.abs(ours(optimized) - expected).max() / np.ptp(expected))
    runs: dict[str, Callable[[], None]] = {
        "by window": lambda: drop(by_window(peer, pose, frames)),
        "PoseMachine": lambda: drop(ours(plain)),
        "optimize()": lambda: drop(ours(optimized)),
    }
    best = fastest(runs, arguments.rounds, time.process_time)
    print(f"{size} x {size}: " + ", ".join(f"{name} {1000 * s / count:.2f} ms a frame" for name, s in best.items()))
    print(f"{'ok  ' if same else 'MISS'} PoseMachine gives the same bits as the peer")
    good = verdict("optimize() changes poses, relative to their range, by", apart, 1e-5)
    good &= verdict(
        "speed of PoseMachine over the peer",
        best["by window"] / best["PoseMachine"],
        0.95 if arguments.full else 1.3,
        least=True,
    )
    good &= verdict("speed of optimize() over the peer", best["by window"] / best["optimize()"], 1.5, least=True)
    return 0 if good and same else 1


if __name__ == "__main__":
    sys.exit(main())
