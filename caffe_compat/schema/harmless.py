"""Fields that have no bearing on what a network computes, with the reason: they may stand in a file unread.

What a file says and nothing here reads is an error, because it might change numbers. The fields below do not; each was
looked up in the code of the forks that define it, or is met in their published networks. Fields inside a parameter
message that choose how Caffe computes, never what, are in :mod:`.params`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["HARMLESS", "Harmless", "harmless_reason"]


@dataclass(frozen=True)
class Harmless:
    """One or more fields of ``LayerParameter``, ``ParamSpec`` or ``NetParameter``.

    Attributes:
        dialects: the forks whose fields these are; empty for whoever has them.
        types: the layer types that they may stand in; empty for all.
        only_in_test: whether training would depend on them.
    """

    fields: tuple[str, ...]
    reason: str
    dialects: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    only_in_test: bool = False


# Forks with NVIDIA's choice of precision for each layer.
_OF_TWO_PRECISIONS = (
    "NVIDIA/caffe",
    "NVIDIA/TensorRT@master",
    "Caffe-MPI/Caffe-MPI.github.io",
    "tidsp/caffe-jacinto@caffe-0.16",
    "tidsp/caffe-jacinto@caffe-0.17",
)
_OF_SPARSE_TRAINING = ("IntelLabs/SkimCaffe", "wenwei202/caffe", "HUJI-Deep/caffe-simnets")
_SHARE_OF_GPU = tuple(f"gpu_{i}_{of}_proportion" for i in range(4) for of in ("batch", "depth"))

HARMLESS = (
    # How data layers make input of pictures; detection layers of SSD carry it along for what they write to files.
    Harmless(("transform_param",), "how pictures become input"),
    # What to print.
    Harmless(
        ("is_disp_info", "train_net_output_disp"), "what the fork prints", ("zimenglan-sysu-512/pose_action_caffe",)
    ),
    Harmless(
        ("copy_postfix_name",),
        "which other layers' weights the fork may start from; here weights find their layer by its own name",
        ("zimenglan-sysu-512/pose_action_caffe",),
    ),
    Harmless(
        ("visualise",),
        "windows in which the fork shows pictures",
        ("tpfister/caffe-heatmap", "CCChenfei/pose_estimation", "MVIG-SJTU/RMPE"),
    ),
    # Where and with what to compute.
    Harmless(("engine",), "the library that the fork computes with", ("intel/caffe",)),
    Harmless(_SHARE_OF_GPU, "how the fork spreads its work", ("HazyResearch/CaffeConTroll",)),
    Harmless(("deletetop", "deletebottom"), "when the fork frees memory", ("aharley/segaware",)),
    Harmless(
        ("mem_param",),
        "blobs for which the fork uses the same memory",
        ("yjxiong/caffe", "yjxiong/caffe@interp", "BannyStone/Caffe", "lxx1991/caffe_mpi"),
    ),
    Harmless(("multinode",), "how the fork spreads its work", ("intel/caffe",)),
    Harmless(
        ("default_forward_type", "default_forward_math", "default_backward_type", "default_backward_math"),
        "the precision that the fork computes in; here the net has its own",
        _OF_TWO_PRECISIONS,
    ),
    Harmless(
        ("forward_type", "forward_math", "backward_type", "backward_math"),
        "the precision that the fork computes in; here the net has its own",
        _OF_TWO_PRECISIONS,
    ),
    Harmless(
        ("quantization_param",),
        "ranges for the fork's 8-bit engine; in float32, as here and in its CAFFE engine, they have no effect",
        ("intel/caffe",),
    ),
    # Training alone.
    Harmless(
        ("global_grad_scale", "global_grad_scale_adaptive"),
        "scales gradients of 16 bits in training",
        _OF_TWO_PRECISIONS,
        only_in_test=True,
    ),
    Harmless(
        ("bn_stats_batch_size",),
        "the batch that statistics are taken over in training",
        ("intel/caffe",),
        only_in_test=True,
    ),
    Harmless(
        ("regularization_type", "kernel_shape_decay_mult", "breadth_decay_mult", "block_group_lasso", "force_mult"),
        "weight decay in training",
        _OF_SPARSE_TRAINING,
        only_in_test=True,
    ),
    Harmless(
        ("connectivity_mode",),
        "keeps weights at zero in training that are zero in the file",
        _OF_SPARSE_TRAINING,
        only_in_test=True,
    ),
    Harmless(
        ("prune_param",),
        "prunes in training; stored weights are pruned already",
        ("MingSun-Tse/Caffe_IncReg",),
        only_in_test=True,
    ),
    Harmless(
        ("blobs_lr", "weight_decay"),
        "learning rates and decay of the first generation, for training",
        ("HazyResearch/CaffeConTroll",),
        only_in_test=True,
    ),
)


def harmless_reason(field: str, type: str, phase: str, dialect: str) -> str | None:
    """Why ``field`` may stand unread in a layer of ``type`` (empty for the network itself); None if it may not.

    >>> harmless_reason("deletetop", "Convolution", "TEST", "aharley/segaware")
    'when the fork frees memory'
    >>> harmless_reason("deletetop", "Convolution", "TEST", "bvlc") is None
    True
    """
    names = dialect.split("+")
    return next((entry.reason for entry in HARMLESS if _holds(entry, field, type, phase, names)), None)


def _holds(entry: Harmless, field: str, type: str, phase: str, dialects: Iterable[str]) -> bool:
    return (
        field in entry.fields
        and (not entry.types or type in entry.types)
        and (not entry.dialects or not set(entry.dialects).isdisjoint(dialects))
        and (phase == "TEST" or not entry.only_in_test)
    )
