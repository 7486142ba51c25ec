"""The passes of ``net.optimize()``, in the order in which they run, each in a file of its own.

A new one is a file with a :class:`~caffe_compat.inference.passes.base.Pass` and a line here.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import UsageError
from .base import Pass, PassRun, rewrite
from .bfloat16 import BFLOAT16
from .drop_idle import DROP_IDLE
from .fold_affine import FOLD_AFFINE
from .join_relu import JOIN_RELU
from .join_sum import JOIN_SUM
from .pack_weights import PACK_WEIGHTS
from .record import RECORD
from .winograd import WINOGRAD

__all__ = ["BFLOAT16", "PASSES", "PORTABLE", "Pass", "PassRun", "find_passes", "rewrite"]

# What helps wherever a net goes: behind these, every module is still a layer, and exporters can take it.
PORTABLE = (DROP_IDLE, FOLD_AFFINE)

# All that keep to the numbers: the others are for running here. BFLOAT16, which does not, has to be asked for.
PASSES = (*PORTABLE, JOIN_SUM, JOIN_RELU, PACK_WEIGHTS, WINOGRAD, RECORD)


def find_passes(names: Iterable[str]) -> tuple[Pass, ...]:
    """The passes called ``names``, in the order in which they run.

    Raises:
        UsageError: there is none of a name; it lists those that there are.
    """
    wanted = set(names)
    known = {each.name for each in PASSES}
    if unknown := sorted(wanted - known):
        raise UsageError(f"no pass {unknown[0]!r}; there are {', '.join(each.name for each in PASSES)}")
    return tuple(each for each in PASSES if each.name in wanted)
