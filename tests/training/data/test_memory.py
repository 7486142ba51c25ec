"""MemoryData."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError, UsageError
from caffe_compat.training.data import Loader, MemoryData
from tests.training.data.helpers import source_of

NET = (
    'layer { name: "d" type: "MemoryData" top: "data" top: "label" '
    "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 } }"
)
DATA = np.random.RandomState(0).standard_normal((6, 3, 4, 5)).astype(np.float32)


def test_batches_over_and_over() -> None:
    source = source_of(NET, Path())
    assert isinstance(source, MemoryData)
    assert source.shapes() == {"data": (2, 3, 4, 5), "label": (2,)}
    source.set(DATA, np.arange(6).reshape(6, 1, 1, 1))
    batch = source.batch(4)
    np.testing.assert_array_equal(batch["data"], DATA[2:4])
    assert batch["label"].tolist() == [2, 3]
    with Loader([source], workers=2) as loader:
        next(loader)
        source.set(torch.from_numpy(DATA) + 1, torch.arange(6))
        np.testing.assert_array_equal(next(loader)["data"], DATA[2:4] + 1)


def test_what_does_not_fit() -> None:
    source = source_of(NET, Path())
    with pytest.raises(UsageError, match="has no data yet"):
        source.batch(0)
    with pytest.raises(UsageError, match=r"multiple of 2, found \[5, 3, 4, 5\]"):
        source.set(DATA[:5], np.arange(5))  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="5 labels, 6 rows"):
        source.set(DATA, np.arange(5))  # type: ignore[attr-defined]
    with pytest.raises(LayerError, match="must all be given"):
        source_of(NET.replace("height: 4", ""), Path())
