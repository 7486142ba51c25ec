"""The networks of the 3D Human Pose Machine, built in Python as ``NetParameter`` messages.

:data:`NETWORKS` names them all. With default options each has the layers, the sizes and the learning rates of the
definition that 3Dpose_ssl ships; the options change sizes, data and files, never the structure. Where the original is
odd (two data layers named ``demo``, the spelling ``evalution``, losses of a blob with itself that only use up a top),
so is this: weights are matched by layer name, and results are read by blob name.

Poses have 16 joints in the order of the data set's files: 48 values in 3D, 32 in 2D, both normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from caffe_compat.errors import UsageError
from caffe_compat.network.definition import Definition
from caffe_compat.schema import load_schema
from caffe_compat.schema.messages import NetParameter

from .builder import DIALECT
from .cpm import pose_train_test_from_release, train_test_cpm
from .options import ORIGINAL, NetworkOptions, scaled_channels
from .pose import deploy, finetune_whole, mask3d, pose_2d, template_16_merge, three_d_to_two_d, two_d_to_three_d

__all__ = [
    "DIALECT",
    "NETWORKS",
    "ORIGINAL",
    "NetworkOptions",
    "define",
    "deploy",
    "finetune_whole",
    "mask3d",
    "pose_2d",
    "pose_train_test_from_release",
    "scaled_channels",
    "template_16_merge",
    "three_d_to_two_d",
    "train_test_cpm",
    "two_d_to_three_d",
]

NETWORKS: Mapping[str, Callable[[NetworkOptions], NetParameter]] = MappingProxyType(
    {
        "2d_to_3d": two_d_to_three_d,
        "3d_to_2d": three_d_to_two_d,
        "finetune_whole": finetune_whole,
        "mask3d": mask3d,
        "deploy": deploy,
        "template_16_merge": template_16_merge,
        "pose_2d": pose_2d,
        "train_test_cpm": train_test_cpm,
        "pose_train_test_from_release": pose_train_test_from_release,
    }
)
"""Builders by name. The four phases of training are the first four, in their order."""


def define(name: str, options: NetworkOptions = ORIGINAL) -> Definition:
    """Network ``name`` of :data:`NETWORKS`, ready for :func:`caffe_compat.network.loading.build_net`.

    Raises:
        UsageError: no such network.
    """
    if name not in NETWORKS:
        raise UsageError(f"no network {name!r}; there are {', '.join(NETWORKS)}")
    message = NETWORKS[name](options)
    return Definition(f"hpm network {name}", message, load_schema(DIALECT), "the pose machine's own")
