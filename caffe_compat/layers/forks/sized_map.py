"""What layers that make maps of another size have in common: where they take that size from."""

from __future__ import annotations

from torch import Tensor

from ...network.registry import Layer

__all__ = ["Size", "SizedMap"]

# Height and width.
Size = tuple[int, ...]


class SizedMap(Layer):
    """Base of layers that make maps (N, C, H, W) of another size.

    Args:
        size: height and width; None takes those of the second bottom.
    """

    def __init__(self, size: Size | None) -> None:
        super().__init__()
        self.size = size

    def top_size(self, *bottoms: Tensor) -> Size:
        """Height and width of the top."""
        return self.size or tuple(bottoms[1].shape[2:])

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(*bottoms[0].shape[:2], *self.top_size(*bottoms))
