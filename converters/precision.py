"""Option ``dtype``: the precision that a file's weights are stored in."""

from __future__ import annotations

import copy

from caffe_compat.network.checkpoint import DTYPES, check_dtype
from caffe_compat.network.net import CaffeNet

__all__ = ["in_precision"]


def in_precision(net: CaffeNet, dtype: str) -> CaffeNet:
    """``net`` itself if that is its precision, else a copy of ``dtype``: ``"float32"``, ``"float16"``, ``"bfloat16"``.

    Raises:
        UsageError: not a dtype, or one in which a weight would become infinite.
    """
    check_dtype(net, dtype)
    return net if net.device_and_dtype()[1] == DTYPES[dtype] else copy.deepcopy(net).to(DTYPES[dtype])
