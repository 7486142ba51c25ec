"""The 3D Human Pose Machine (3Dpose_ssl, TPAMI 2019) in PyTorch.

A model and its numbers::

    import hpm
    machine = hpm.load("mask3d.pt")                      # or a prototxt and its caffemodel
    coarse = machine.coarse(frames)                      # (n, 16, 3), normalised
    refined = machine.refine(coarse, pose2d, unit="mm")  # (n, 16, 3), millimetres

From files to files, as the commands of ``hpm`` do::

    hpm.convert("deploy.prototxt", "mask3d.caffemodel", output="mask3d.pt", reference="recorded.h5", bounds="published")
    hpm.prepare.human36m("data_3d_h36m.npz", "data", videos="h36m")
    hpm.coarse_files("mask3d.pt", "data", "coarse")
    hpm.refine_files("mask3d.pt", "data", "refined", coarse="coarse", pose2d="gt")
    print(hpm.evaluate("data", "coarse", "refined").to_markdown())
    hpm.predict("walk.mp4", "mask3d.pt", "out", keypoints="detected.npy", joints="COCO17", overlay="out.html")

A number that has to be assumed is a CaffeCompatWarning, and what cannot be done a CaffeCompatError: see
:mod:`caffe_compat.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import metrics, skeleton
    from .drivers import prepare
    from .drivers.coarse_files import coarse_files
    from .drivers.conversion import convert
    from .drivers.evaluate import evaluate
    from .drivers.models import load
    from .drivers.predict import predict
    from .drivers.refine_files import refine_files
    from .drivers.training import train_phase
    from .drivers.verify import verify
    from .drivers.visualize import draw_action
    from .files.folders import DataFolder, KthFolder
    from .model import PoseMachine
    from .refine import RefineSettings
    from .scaling import Bounds, read_bounds
    from .streaming import Stream

__all__ = [
    "Bounds",
    "DataFolder",
    "KthFolder",
    "PoseMachine",
    "RefineSettings",
    "Stream",
    "coarse_files",
    "convert",
    "draw_action",
    "evaluate",
    "load",
    "metrics",
    "predict",
    "prepare",
    "read_bounds",
    "refine_files",
    "skeleton",
    "train_phase",
    "verify",
]

# Public name -> where it is. Torch takes a second to import, and not everything here needs it.
_HOMES = {
    "Bounds": "scaling",
    "DataFolder": "files.folders",
    "KthFolder": "files.folders",
    "PoseMachine": "model",
    "RefineSettings": "refine",
    "Stream": "streaming",
    "coarse_files": "drivers.coarse_files",
    "convert": "drivers.conversion",
    "draw_action": "drivers.visualize",
    "evaluate": "drivers.evaluate",
    "load": "drivers.models",
    "metrics": "",
    "predict": "drivers.predict",
    "prepare": "drivers",
    "read_bounds": "scaling",
    "refine_files": "drivers.refine_files",
    "skeleton": "",
    "train_phase": "drivers.training",
    "verify": "drivers.verify",
}
_MODULES = ("metrics", "prepare", "skeleton")


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = ".".join(filter(None, (__name__, _HOMES[name])))
    if name in _MODULES:
        value = importlib.import_module(f"{home}.{name}")
    else:
        value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
