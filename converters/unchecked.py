"""What a net heeds and a file does not: a line for each such layer, for whoever exports it."""

from __future__ import annotations

from caffe_compat.layers.bvlc.accuracy import Accuracy
from caffe_compat.layers.bvlc.loss import HingeLoss, MultinomialLogisticLoss
from caffe_compat.layers.bvlc.softmax_loss import InfogainLoss, SoftmaxWithLoss
from caffe_compat.layers.forks.distances import InnerDistance
from caffe_compat.layers.forks.rpn import Proposal
from caffe_compat.network.net import CaffeNet

__all__ = ["CHECK_LABELS", "unchecked"]

CHECK_LABELS = (Accuracy, HingeLoss, InfogainLoss, MultinomialLogisticLoss, SoftmaxWithLoss)
"""Layers that look at labels only to refuse what is no class."""


def unchecked(net: CaffeNet) -> list[str]:
    """Lines for files that are graphs, where nothing is refused by its value and sorts are stable."""
    lines = []
    for node in net.program.nodes():
        module = net.get_submodule(node.module_name)
        if isinstance(module, CHECK_LABELS) or (isinstance(module, InnerDistance) and module.own_only):
            said = "the file takes any label, the net refuses what is no class"
        elif isinstance(module, Proposal):
            said = (
                "boxes of equal scores keep the order of the map in the file; the net has that of the fork's quicksort"
            )
        else:
            continue
        lines.append(f"layer {node.name!r} ({node.type}): {said}")
    return lines
