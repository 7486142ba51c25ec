"""Layers that learn by themselves, without a solver: a file holds what they have learned, and learns nothing."""

from __future__ import annotations

from caffe_compat import CaffeNet, Layer, LayerError

__all__ = ["check_settled"]


def check_settled(net: CaffeNet) -> None:
    """Raises LayerError: the next pass of a layer changes its blobs."""
    for node in net.program.nodes():
        module = net.get_submodule(node.module_name)
        if isinstance(module, Layer) and module.learns_by_itself():
            raise LayerError(
                "learns its mean in the first passes, of which not all are done; a file holds what is learned: give "
                "weights, or stop before it with outputs (--outputs a,b)",
                layer=node.name,
                type=node.type,
            )
