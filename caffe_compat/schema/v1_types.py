"""The layer types of V1's enum as the strings of the current generation."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["V1_TYPES", "plain", "string_type"]

V1_TYPES = "V1LayerParameter.LayerType"

# V1 types whose string type is not the same word in another spelling.
_RENAMED = {"NONE": "", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SOFTMAX_LOSS_DATA": "SoftmaxWithLossData"}


@lru_cache(maxsize=1024)
def string_type(v1_type: str, layer_types: tuple[str, ...]) -> str:
    """The layer type that a V1 enum value stands for: the same word without underscores, or else the value's name."""
    if v1_type in _RENAMED:
        return _RENAMED[v1_type]
    found = [t for t in layer_types if plain(t) == plain(v1_type)]
    # Forks of that time list their types by the enum's name as well as by the later string.
    return next((t for t in found if t != v1_type), found[0] if found else v1_type)


def plain(name: str) -> str:
    """``name`` as far as spelling does not matter: ``INNER_PRODUCT`` and ``InnerProduct`` are one word."""
    return name.replace("_", "").lower()
