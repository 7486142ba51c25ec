"""CTCGreedyDecoder on texts that can be read by eye."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from caffe_compat.errors import LayerError
from tests.layers.building import build

FORK = "senlinuc/caffe_ocr"


def _steps(*texts: str) -> torch.Tensor:
    """Probabilities (T, N, 4) whose best classes these digits are."""
    classes = torch.tensor([[int(c) for c in text] for text in texts])
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(*classes.T.shape, 4, generator=generator)
    return noise + 2 * functional.one_hot(classes.T, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["12", "12133", "", "331"]),  # a class counts again after a blank
        ("ctc_merge_repeated: false", ["112", "12133", "", "33311"]),
        ("blank_index: 1", ["020", "20303", "0", "3030"]),
        ("blank_index: -1", ["0120", "12100", "0", "010"]),  # the last class
    ],
)
@pytest.mark.parametrize("dialect", [FORK, "yuqj1991/caffe_train"])
def test_sequences(text: str, expected: list[str], dialect: str, device: torch.device) -> None:
    x = _steps("0112000", "1210303", "0000000", "3303110").to(device)
    module = build(f'type: "CTCGreedyDecoder" ctc_decoder_param {{ {text} }}', x.shape, dialect=dialect)
    top = module(x)
    assert top.shape == module.infer(x).shape == (4, 7, 1, 1)
    for row, digits in zip(top.flatten(1).tolist(), expected, strict=True):
        assert row == [int(c) for c in digits] + [-1] * (7 - len(digits))


def test_sequences_of_cc() -> None:
    x = _steps("1121003")
    top = build('type: "CTCGreedyDecoder" ctc_loss_param { blank_label: 1 }', x.shape, dialect="dlunion/CC4.0")(x)
    assert top.flatten().tolist() == [2, 0, 3, -1, -1, -1, -1]


def test_accuracy(device: torch.device) -> None:
    # Read as 12, 12133, nothing, 331 and 2.
    x = _steps("0112000", "1210303", "0000000", "3303110", "0220000").to(device)
    labels = torch.tensor(
        [
            [1, 2, -1, 3, 3],  # right: what follows the end does not count
            [1, 0, 2, 3, 3],  # one of five is missing; blanks do not count
            [-1, 0, 0, 0, 0],  # empty, too
            [2, 3, 1, 2, 0],  # one of four is replaced and one is missing
            [0, -1, 1, 1, 1],  # empty, but something is read
        ],
        device=device,
    )
    module = build('type: "CTCGreedyDecoder"', x.shape, labels.shape, dialect=FORK)
    top = module(x, labels.float())
    assert top.shape == module.infer(x, labels).shape == (1, 2, 1, 1)
    assert top.flatten().tolist() == pytest.approx([1 - (1 / 5 + 2 / 4 + 1) / 5, 1 / 5])


def test_errors() -> None:
    with pytest.raises(LayerError, match=r"\(steps > 0, images > 0, classes > 0\) was expected"):
        build('type: "CTCGreedyDecoder"', (7, 4, 4, 2), dialect=FORK)
    with pytest.raises(LayerError, match=r"\(images = 4, labels\) was expected"):
        build('type: "CTCGreedyDecoder"', (7, 4, 4), (3, 5), dialect=FORK)
