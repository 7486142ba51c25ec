"""Python layers that read data, one picture or batch at a time: inputs of the net here, whose shapes pictures decide.

Sources: shelhamer/fcn.berkeleyvision.org ``voc_layers.py``, ``nyud_layers.py``, ``pascalcontext_layers.py`` and
``siftflow_layers.py``; kmaninis/OSVOS-caffe ``osvos_layer.py``; CSAILVision/sceneparsing ``ade_layers``;
CongWeilin/mtcnn-caffe ``pythonLayer.py``; BVLC's ``examples/pycaffe/layers/pascal_multilabel_datalayers.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...errors import LayerError
from ...network.python_registry import PythonSettings, python_source
from ...network.registry import Shape

__all__: list[str] = []

Shapes = Sequence[Shape | None]

# The side of every picture of SIFT Flow, and of MTCNN's batches how many pictures they have.
_SIFT_FLOW = 256
_MTCNN = 64


def _read(settings: PythonSettings, needed: Sequence[str], others: Sequence[str] = ()) -> None:
    """Read what only says which pictures are read, and in what order."""
    for name in needed:
        settings.get(name)
    for name in ("randomize", "seed", *others):
        settings.get(name, None)


def _pairs(needed: Sequence[str], others: Sequence[str] = ()) -> Callable[[PythonSettings, Sequence[str]], Shapes]:
    def shapes(settings: PythonSettings, tops: Sequence[str]) -> Shapes:
        """A picture (1, 3, H, W) and its labels (1, 1, H, W)."""
        _read(settings, needed, others)
        return [None, None]

    return shapes


for _module, _name, _needed, _others in (
    ("voc_layers", "VOCSegDataLayer", ("voc_dir", "split", "mean"), ()),
    ("voc_layers", "SBDDSegDataLayer", ("sbdd_dir", "split", "mean"), ()),
    ("pascalcontext_layers", "PASCALContextSegDataLayer", ("voc_dir", "context_dir", "split"), ()),
    ("osvos_layer", "OSVOSDataLayer", ("data_root_dir",), ("pair_list", "split")),
    ("ade_layers", "AdeSegDataLayer", ("split", "mean"), ("ade_dir",)),
):
    python_source(_module, _name, tops=2)(_pairs(_needed, _others))


@python_source("nyud_layers", "NYUDSegDataLayer", tops=(1, 4))
def nyud_seg_data_layer(settings: PythonSettings, tops: Sequence[str]) -> Shapes:
    """What ``tops`` in ``param_str`` names, each a picture: color, depth, hha, label."""
    named: Any = settings.get("tops")
    kinds = ("color", "depth", "hha", "label")
    if not isinstance(named, list | tuple) or len(named) != len(tops) or not set(named) <= set(kinds):
        raise LayerError(f"tops is {named!r}; one of {', '.join(kinds)} for each of {len(tops)} tops was expected")
    _read(settings, ("nyud_dir", "split"))
    return [None] * len(tops)


@python_source("siftflow_layers", "SIFTFlowSegDataLayer", tops=3)
def sift_flow_seg_data_layer(settings: PythonSettings, tops: Sequence[str]) -> Shapes:
    """A picture, and labels of what and of where is seen."""
    _read(settings, ("siftflow_dir", "split"))
    labels = (1, 1, _SIFT_FLOW, _SIFT_FLOW)
    return [(1, 3, _SIFT_FLOW, _SIFT_FLOW), labels, labels]


@python_source("pythonLayer", "Data_Layer_train", tops=4)
def mtcnn_data_layer(settings: PythonSettings, tops: Sequence[str]) -> Shapes:
    """Pictures, of 12, 24 or 48 pixels by the network; their class, box and five points, -1 where there is none."""
    return [None, (_MTCNN, 1), (_MTCNN, 4), (_MTCNN, 10)]


@python_source("pascal_multilabel_datalayers", "PascalMultilabelDataLayerSync", tops=2)
def pascal_multilabel_data_layer(settings: PythonSettings, tops: Sequence[str]) -> Shapes:
    """Pictures, and which of PASCAL's 20 classes each has."""
    batch = settings.whole("batch_size")
    height, width = (int(side) for side in settings.numbers("im_shape", count=2))
    _read(settings, ("pascal_root", "split"), ("shuffle",))
    return [(batch, 3, height, width), (batch, 20)]
