"""What the pycaffes of some forks have and BVLC's has not, and which forks those are.

Read in their sources; ``--dialect`` (``install(dialect=...)``) says which fork a script is for. A module that a fork
adds to the package, as SSD adds ``caffe.model_libs``, is code of its own: it is found in the fork's checkout, whose
folder ``python`` such scripts put on ``sys.path``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from ..schema import split_dialect
from .runtime import runtime

__all__ = ["EDITED_SPECS", "OF_CLIPS", "ForkModules", "is_fork"]

EDITED_SPECS = frozenset(
    (
        *("BestSonny/SSTD", "ByeonghakYim/Hanyang_SSD", "MhLiao/TextBoxes", "MhLiao/TextBoxes_plusplus"),
        *("choasup/caffe-yolo9000", "chuanqi305/ssd", "dlunion/CC4.0", "dreadlord1984/SSD_windows_caffe"),
        *("eric612/MobileNet-YOLO", "foss-for-synopsys-dwc-arc-processors/synopsys-caffe", "imistyrain/ssd"),
        *("intel/caffe", "jolibrain/caffe", "leejang/two_stream_ssd_caffe", "lzx1413/CAFFE_SSD", "makefile/frcnn"),
        *("sfzhang15/RefineDet", "torrvision/caffe-tvg", "weiliu89/caffe@ssd", "yuqj1991/caffe_train"),
    )
)
"""Forks whose ``NetSpec`` has ``keys``, ``vals``, ``update`` and ``del``."""

OF_CLIPS = frozenset({"BoLiu-SVCL/video-caffe", "chuckcho/video-caffe"})
"""Forks whose ``caffe.io.Transformer`` takes clips for inputs of five axes."""


def is_fork(forks: frozenset[str]) -> bool:
    """Whether the script is for one of ``forks``."""
    return runtime.dialect is not None and not forks.isdisjoint(split_dialect(runtime.dialect))


class ForkModules(MetaPathFinder):
    """Finds modules that a fork adds to the package ``caffe``, in folders ``caffe`` on ``sys.path``."""

    def __init__(self, package: ModuleType) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What Python's import asks for a module that nobody before has found."""
        parent, _, name = fullname.partition(".")
        if parent != "caffe" or not name or "." in name or sys.modules.get("caffe") is not self._package:
            return None
        return PathFinder.find_spec(fullname, [str(Path(entry or ".", "caffe")) for entry in sys.path])
