from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.registry import find_layer
from tests.layers.building import build

SHAPE = (3, 5, 4, 2)


def slow_accuracy(
    x: np.ndarray, labels: np.ndarray, axis: int, top_k: int, ignored: int | None
) -> tuple[float, np.ndarray]:
    scores = np.moveaxis(x, axis, -1)
    classes = scores.shape[-1]
    right, seen = np.zeros(classes), np.zeros(classes)
    for i, label in zip(np.ndindex(*scores.shape[:-1]), labels.flatten(), strict=True):
        if ignored is not None and label == ignored:
            continue
        seen[label] += 1
        rivals = sum(scores[i][k] >= scores[i][label] for k in range(classes) if k != label)
        right[label] += rivals < top_k
    return right.sum() / max(1, seen.sum()), right / np.maximum(seen, 1)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(("axis", "labels"), [(1, (3, 4, 2)), (-2, (3, 5, 2)), (1, (24,)), (0, (5, 4, 2))])
@pytest.mark.parametrize("ignored", [None, 0, -1])
def test_accuracy(top_k: int, axis: int, labels: tuple[int, ...], ignored: int | None, device: torch.device) -> None:
    rng = np.random.default_rng(1)
    classes = SHAPE[axis]
    if top_k > classes:
        top_k = classes
    # Few values, so that there are ties.
    x, t = rng.integers(4, size=SHAPE).astype(np.float32), rng.integers(classes, size=labels)
    ignore = ""
    if ignored is not None:
        t.flat[::5] = ignored
        ignore = f"ignore_label: {ignored}"
    text = f'type: "Accuracy" accuracy_param {{ top_k: {top_k} axis: {axis} {ignore} }}'
    overall, per_class = build(text, SHAPE, labels, tops=2)(
        torch.tensor(x, device=device, requires_grad=True), torch.tensor(t, device=device).float()
    )
    expected, each = slow_accuracy(x, t, axis % 4, top_k, ignored)
    assert overall.shape == ()
    assert not overall.requires_grad
    np.testing.assert_allclose(overall.cpu(), expected, rtol=1e-6)
    np.testing.assert_allclose(per_class.cpu(), each, rtol=1e-6)


def test_a_tie_counts_against_the_label() -> None:
    module = build('type: "Accuracy"', (1, 3), (1,))
    assert module(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0.0])) == 0
    assert module(torch.tensor([[1.0, 0.9, 0.0]]), torch.tensor([0.0])) == 1


def test_nothing_counted_is_zero() -> None:
    module = build('type: "Accuracy" accuracy_param { ignore_label: 2 }', (2, 3), (2,), tops=2)
    overall, per_class = module(torch.rand(2, 3), torch.full((2,), 2.0))
    assert overall == 0
    assert per_class.tolist() == [0, 0, 0]


def test_half_precision_counts_exactly(device: torch.device) -> None:
    x = torch.zeros(5001, 2, dtype=torch.float16, device=device)
    x[:, 0] = 1
    labels = torch.zeros(5001, dtype=torch.float16, device=device)
    labels[:2500] = 1
    result = build('type: "Accuracy"', (5001, 2), (5001,))(x, labels)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.float().item(), 2501 / 5001, rtol=1e-3, atol=0)


def test_meta_and_export() -> None:
    module = build('type: "Accuracy"', (3, 4), (3,), tops=2)
    tops = module(torch.empty(3, 4, device="meta"), torch.empty(3, device="meta"))
    assert [tuple(top.shape) for top in tops] == [(), (4,)]
    example = (torch.rand(3, 4), torch.tensor([0.0, 1.0, 3.0]))
    exported = torch.export.export(module, example).module()(*example)
    assert all(torch.equal(a, b) for a, b in zip(exported, module(*example), strict=True))


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(LayerError, match="top_k 6 exceeds the 5 classes"):
        build('type: "Accuracy" accuracy_param { top_k: 6 }', SHAPE, (3, 4, 2))
    with pytest.raises(LayerError, match=r"\[3\]; a label for each vector along axis 1 of 'b0', \[3, 4, 2\]"):
        build('type: "Accuracy"', SHAPE, (3,))
    with pytest.raises(LayerError, match="label 5 at position 2"):
        build('type: "Accuracy"', (3, 5), (3,))(torch.rand(3, 5), torch.tensor([0.0, 4.0, 5.0]))


def test_it_is_no_loss() -> None:
    assert not find_layer("Accuracy").is_loss
