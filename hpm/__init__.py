"""The 3D Human Pose Machine (3Dpose_ssl, TPAMI 2019) in PyTorch.

In short::

    from hpm import PoseMachine
    machine = PoseMachine.from_pretrained("mask3d.pt")
    poses = machine.coarse(frames)
"""

from __future__ import annotations

from .model import PoseMachine

__all__ = ["PoseMachine"]
