"""Builds one layer from a line of prototxt, without a network around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from caffe_compat import layers as _layers  # noqa: F401  importing registers every layer
from caffe_compat.network.registry import LayerSpec, check_count, find_layer
from caffe_compat.schema.prototxt import parse_message


def build(
    text: str,
    *bottom_shapes: tuple[int, ...],
    tops: int = 1,
    phase: str = "TEST",
    gradients: str = "caffe",
    dialect: str | None = None,
) -> Any:
    """The module for ``layer { name: "l" <text> }`` on bottoms b0, b1, ... of these shapes, with tops t0, t1, ..."""
    names = "".join(f' bottom: "b{i}"' for i in range(len(bottom_shapes))) + "".join(
        f' top: "t{i}"' for i in range(tops)
    )
    parsed = parse_message(f'layer {{ name: "l"{names} {text} }}', dialect=dialect)
    message = parsed.message.layer[0]
    spec = LayerSpec(
        name=message.name,
        type=message.type,
        phase=phase,
        bottoms=tuple(message.bottom),
        tops=tuple(message.top),
        bottom_shapes=tuple(bottom_shapes),
        dialect=parsed.schema.name,
        message=message,
        gradients=gradients,
    )
    entry = find_layer(message.type, spec.dialect)
    assert check_count(len(bottom_shapes), entry.bottoms) is None
    assert check_count(tops, entry.tops) is None
    module: Any = entry.build(spec)
    spec.check_all_read()
    module.layer_name = message.name
    return module.train(phase == "TRAIN")


def give_values(module: Any, device: torch.device | str = "cpu", seed: int = 0) -> Any:
    """``module`` on ``device`` with every blob drawn from (0.2, 1.2): none is zero, so none can go missing."""
    module.to_empty(device=device)
    for i, name in enumerate(module.blob_names):
        blob = getattr(module, name)
        values = np.random.RandomState(seed + i).uniform(0.2, 1.2, tuple(blob.shape))
        with torch.no_grad():
            blob.copy_(torch.as_tensor(values, dtype=blob.dtype))
    return module


def precise(device: torch.device) -> torch.dtype:
    """The most exact floats of ``device``: 64 bits, except where there are none."""
    return torch.float32 if device.type == "mps" else torch.float64


def assert_equals(found: torch.Tensor | None, expected: Any) -> None:
    """Equal up to the rounding of ``found``'s dtype, and of the same shape; a gradient that is None is not."""
    assert found is not None
    torch.testing.assert_close(found.detach().cpu(), torch.as_tensor(expected, dtype=found.dtype), equal_nan=True)
