"""The networks that everybody knows, as definitions to run: which there are, how large, and what is published of them.

Definitions are written here from structure and sizes, in :mod:`classifiers`, :mod:`inception`, :mod:`localisers` and
:mod:`networks`; weights are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import classifiers
import localisers
from inception import inception_v4
from networks import draw_weights, trunk

from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message

__all__ = ["CLASSICS", "Classic", "count_parameters", "net_of"]


@dataclass(frozen=True)
class Classic:
    """A network.

    Attributes:
        text: ``text(batch, size)``, prototxt. size: of the side of its pictures in pixels, in the default table.
        parameters: how many numbers are learned. source: who says so.
        outputs: of one picture, shapes by blob.
        more: other sizes, which take longer.
        like_vgg: whether its time goes into large convolutions of 3x3 with stride 1.
        dialect: the fork whose layers it has, where its types do not tell.
    """

    text: Callable[[int, int], str]
    size: int
    parameters: int
    outputs: Mapping[str, tuple[int, ...]]
    source: str
    more: tuple[int, ...] = ()
    like_vgg: bool = False
    dialect: str | None = None


_CLASSES = {"prob": (1, 1000)}

CLASSICS: dict[str, Classic] = {
    "alexnet": Classic(classifiers.alexnet, 227, 60_965_224, _CLASSES, "Caffe's bvlc_alexnet"),
    "googlenet": Classic(classifiers.googlenet, 224, 6_998_552, _CLASSES, "Caffe's bvlc_googlenet"),
    "vgg16": Classic(classifiers.vgg16, 224, 138_357_544, _CLASSES, "torchvision", like_vgg=True),
    "mobilenet_v2": Classic(classifiers.mobilenet_v2, 224, 3_504_872, _CLASSES, "torchvision"),
    "shufflenet": Classic(classifiers.shufflenet, 224, 1_865_728, _CLASSES, "imgclsmob, ShuffleNet x1.0 (g=3)"),
    "inception_v4": Classic(inception_v4, 299, 42_679_816, _CLASSES, "timm"),
    "resnet50": Classic(classifiers.resnet50, 224, 25_557_032, _CLASSES, "torchvision"),
    "densenet121": Classic(classifiers.densenet121, 224, 7_978_856, _CLASSES, "torchvision"),
    "squeezenet": Classic(classifiers.squeezenet, 227, 1_235_496, {"prob": (1, 1000, 1, 1)}, "torchvision"),
    "fcn": Classic(
        *(localisers.fcn8, 250, 134_489_759, {"scored": (1, 21, 250, 250)}, "its paper has 134 million"),
        more=(500,),
        like_vgg=True,
    ),
    "openpose": Classic(
        *(localisers.openpose, 184, 52_311_446, {"limbs6": (1, 38, 23, 23), "joints6": (1, 19, 23, 23)}),
        "keras_Realtime_Multi-Person_Pose_Estimation",
        more=(368,),
        like_vgg=True,
    ),
    "trunk": Classic(
        *(trunk, 368, 10_225_344, {"fa_conv_2": (1, 128, 10, 10)}, "the sizes of its paper"), like_vgg=True
    ),
    "ssd300": Classic(
        *(localisers.ssd300, 300, 26_285_486, {"found": (1, 1, 1, 7)}, "ssd.pytorch"),
        like_vgg=True,
        dialect="weiliu89/caffe@ssd",
    ),
    "crnn": Classic(localisers.crnn, 100, 8_327_205, {"prob": (24, 1, 37)}, "its paper has 8.3 million"),
}


def net_of(classic: Classic, batch: int = 1, size: int | None = None, *, weights: bool = True) -> CaffeNet:
    """The network, with drawn weights or without any."""
    parsed = parse_message(classic.text(batch, size or classic.size), dialect=classic.dialect)
    net = CaffeNet(parsed.message, dialect=parsed.schema.name)
    return draw_weights(net) if weights else net


def count_parameters(net: CaffeNet) -> int:
    """How many numbers are learned, so without the statistics of batch normalisation."""
    nodes = (node for node in net.nodes_with_blobs() if node.type != "BatchNorm")
    return sum(blob.numel() for node in nodes for blob in net.blobs_of(node.module_name).values())
