"""MultiBoxLoss against a slow definition, object by object and prior box by prior box."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from tests.layers.building import build

SSD, FIRST = "weiliu89/caffe@ssd", "MVIG-SJTU/RMPE"
CLASSES = 4


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def _encoded(box: np.ndarray, prior: np.ndarray, variance: np.ndarray, code: str) -> np.ndarray:
    size = prior[2:] - prior[:2]
    if code == "CORNER":
        return (box - prior) / variance
    if code == "CORNER_SIZE":
        return (box - prior) / np.concatenate([size, size]) / variance
    centre = (box[:2] + box[2:] - prior[:2] - prior[2:]) / 2 / size
    return np.concatenate([centre, np.log((box[2:] - box[:2]) / size)]) / variance


def _expected(offsets: Any, scores: Any, priors: Any, objects: Any, o: dict[str, Any]) -> float:
    prior, variance = priors[0].reshape(2, -1, 4)
    boxes, total, matches = len(prior), 0.0, 0
    for n in range(len(offsets)):
        own = [r for r in objects[0, 0] if r[0] == n and (o["difficult"] or not r[7])]
        taken: dict[int, int] = {}
        table = np.array([[_iou(p, r[3:7]) for r in own] for p in prior]).reshape(boxes, len(own))
        best = table.max(1) if own else np.zeros(boxes)
        pool, legal = set(range(len(own))), [not o["inside"] or (p.min() >= 0 and p.max() <= 1) for p in prior]
        while pool:
            pairs = [
                (table[i, j], i, j)
                for i in range(boxes)
                if i not in taken and legal[i]
                for j in pool
                if table[i, j] > 1e-6
            ]
            if not pairs:
                break
            value, i, j = max(pairs, key=lambda pair: pair[0])
            taken[i], best[i] = j, value
            pool.remove(j)
        if not o["bipartite"]:
            for i in range(boxes):
                if own and i not in taken and legal[i] and table[i].max() >= 0.4:
                    taken[i] = int(table[i].argmax())
        losses = []
        for i in range(boxes):
            x, label = scores[n].reshape(boxes, CLASSES)[i], int(own[taken[i]][1]) if i in taken else 0
            if o["logistic"]:
                losses.append(sum(math.log(1 + math.exp(v)) - v * (c == label) for c, v in enumerate(x)))
            else:
                losses.append(math.log(np.exp(x).sum()) - x[label])
        negatives = [i for i in range(boxes) if i not in taken and legal[i] and best[i] < 0.3]
        hardness = losses
        if o["first"]:
            x = scores[n].reshape(boxes, CLASSES)
            hardness = (1 / (1 + np.exp(-x)) if o["logistic"] else np.exp(x) / np.exp(x).sum(1, keepdims=True))[
                :, 1:
            ].max(1)
        negatives = sorted(negatives, key=lambda i: -hardness[i])[: int(len(taken) * 1.5)]
        counted = ([*taken, *negatives] if own else []) if o["mined"] else range(boxes)
        total += sum(losses[i] for i in counted)
        for i, j in taken.items():
            d = offsets[n].reshape(boxes, 4)[i] / (variance[i] if o["encoded"] else 1) - _encoded(
                own[j][3:7], prior[i], variance[i], o["code"]
            )
            total += 0.7 * sum(v * v / 2 if o["l2"] or abs(v) < 1 else abs(v) - 0.5 for v in d)
        matches += len(taken)
    return total / max(matches, 1)


BASE = {
    "difficult": True,
    "bipartite": False,
    "inside": False,
    "logistic": False,
    "mined": True,
    "l2": False,
    "encoded": False,
    "code": "CENTER_SIZE",
    "first": False,
}


@pytest.mark.parametrize(
    "change",
    [{}, {"difficult": False}, {"bipartite": True}, {"inside": True}, {"logistic": True}, {"mined": False},
     {"l2": True}, {"encoded": True}, {"encoded": True, "l2": True}, {"code": "CORNER"}, {"code": "CORNER_SIZE"},
     {"first": True}, {"first": True, "logistic": True}, {"first": True, "mined": False}],
)  # fmt: skip
def test_multibox_loss(device: torch.device, change: dict[str, Any]) -> None:
    o = {**BASE, **change}
    random = np.random.RandomState(7)
    boxes, images = 23, 3
    low = random.uniform(-0.1, 0.7, (boxes, 2))
    prior = np.concatenate([low, low + random.uniform(0.1, 0.5, (boxes, 2))], 1)
    variance = random.uniform(0.1, 0.3, (boxes, 4))
    priors = np.stack([prior.reshape(-1), variance.reshape(-1)])[None]
    objects = np.zeros((1, 1, 7, 8))
    objects[0, 0, :, 0] = [0, 0, 0, 2, 2, -1, 2]
    objects[0, 0, :, 1] = random.randint(1, CLASSES, 7)
    corner = random.uniform(0, 0.6, (7, 2))
    objects[0, 0, :, 3:7] = np.concatenate([corner, corner + random.uniform(0.15, 0.4, (7, 2))], 1)
    objects[0, 0, 1, 7] = objects[0, 0, 6, 7] = 1
    offsets, scores = random.randn(images, boxes * 4), random.randn(images, boxes * CLASSES)
    flag = {True: "true", False: "false"}
    text = f"""type: "MultiBoxLoss" multibox_loss_param {{ num_classes: {CLASSES} loc_weight: 0.7 overlap_threshold: 0.4
    neg_overlap: 0.3 neg_pos_ratio: 1.5 code_type: {o["code"]} use_difficult_gt: {flag[o["difficult"]]}
    match_type: {"BIPARTITE" if o["bipartite"] else "PER_PREDICTION"}
    conf_loss_type: {"LOGISTIC" if o["logistic"] else "SOFTMAX"}
    loc_loss_type: {"L2" if o["l2"] else "SMOOTH_L1"} encode_variance_in_target: {flag[o["encoded"]]}"""
    if o["first"]:
        text += f" do_neg_mining: {flag[o['mined']]} }}"
    else:
        mining = "MAX_NEGATIVE" if o["mined"] else "NONE"
        text += f" ignore_cross_boundary_bbox: {flag[o['inside']]} mining_type: {mining} }}"
    shapes = [a.shape for a in (offsets, scores, priors, objects)]
    caffe, module = (
        build(text, *shapes, phase="TRAIN", dialect=FIRST if o["first"] else SSD, gradients=gradients)
        for gradients in ("caffe", "true")
    )
    given = [torch.tensor(a, device=device) for a in (offsets, scores, priors, objects)]
    found = module(*given)
    expected = _expected(offsets, scores, priors, objects, o)
    assert expected > 1
    torch.testing.assert_close(found.cpu(), torch.tensor(expected, dtype=torch.float64))
    for part in given[:2]:
        part.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: module(a, b, *given[2:]), given[:2], rtol=1e-4, fast_mode=True)
    assert module.infer(*given).shape == ()
    derived, stated = (torch.autograd.grad(m(*given), given[:2]) for m in (module, caffe))
    factor = given[2][0, 1] if o["encoded"] else 1  # Caffe forgets that it divided by the variances
    torch.testing.assert_close(stated[0], derived[0] * factor)
    torch.testing.assert_close(stated[1], derived[1])


def test_multibox_loss_without_objects() -> None:
    module = build(
        'type: "MultiBoxLoss" multibox_loss_param { num_classes: 2 }',
        (1, 8),
        (1, 4),
        (1, 2, 8),
        (1, 1, 1, 8),
        dialect=SSD,
    )
    priors, objects = torch.tensor([[[0.1, 0.1, 0.5, 0.5] * 2, [0.1] * 8]]), torch.full((1, 1, 1, 8), -1.0)
    assert module(torch.ones(1, 8), torch.ones(1, 4), priors, objects) == 0
    objects = torch.tensor([[[[0, 5, 0, 0.1, 0.1, 0.3, 0.3, 0]]]])
    with pytest.raises(LayerError, match="an object has class 5; 0 to 1 except the background's 0"):
        module(torch.ones(1, 8), torch.ones(1, 4), priors, objects)


def test_what_only_other_options_read_may_be_set() -> None:
    """The number of hard examples without any, and whose boxes suppress each other where none do."""
    for param in ("sample_size: 7", "use_prior_for_nms: true"):
        text = f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: 2 {param} }}'
        build(text, (1, 8), (1, 4), (1, 2, 8), (1, 1, 1, 8), dialect=SSD)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("share_location: false", "share_location: false is supported with mining_type NONE"),
        ("share_location: false mining_type: NONE use_prior_for_matching: false", "by prior boxes"),
        ("mining_type: HARD_EXAMPLE sample_size: 0", "sample_size is 0"),
        ("do_neg_mining: false", "contradict"),
        ("background_label_id: 2", "background_label_id 2"),
    ],
)
def test_multibox_loss_refuses(param: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(
            f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: 2 {param} }}',
            (1, 8),
            (1, 4),
            (1, 2, 8),
            (1, 1, 1, 8),
            dialect=SSD,
        )


# Two prior boxes that nearly coincide, and two apart from these; one object at the first.
PRIORS = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.42, 0.4], [0.6, 0.6, 0.9, 0.9], [0.6, 0.1, 0.9, 0.4]])
OBJECT = np.array([0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0])
SCORES = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 0.0], [1.0, 0.0]])


def _loss(param: str, *, classes: int = 2, offsets: np.ndarray | None = None, scores: np.ndarray = SCORES) -> Any:
    """The loss of scores alone, undivided, and its gradient by the scores."""
    text = f"num_classes: {classes} overlap_threshold: 0.99 code_type: CORNER {param}"
    text = f'type: "MultiBoxLoss" multibox_loss_param {{ {text} }} loss_param {{ normalization: NONE }}'
    text += " propagate_down: false propagate_down: true propagate_down: false propagate_down: false"
    module = build(text, (1, 16), (1, scores.size), (1, 2, 16), (1, 1, 1, 8), dialect=SSD)
    x = torch.tensor(scores.reshape(1, -1), requires_grad=True)
    given = torch.tensor(np.zeros((1, 16)) if offsets is None else offsets.reshape(1, -1))
    priors = np.stack([PRIORS.flatten(), np.full(16, 0.1)])[None]
    top = module(given, x, torch.tensor(priors), torch.tensor(OBJECT.reshape(1, 1, 1, 8)))
    return top, torch.autograd.grad(top, x)[0].reshape(scores.shape)


def _nll(place: int, label: int) -> float:
    return float(np.log(np.exp(SCORES[place]).sum()) - SCORES[place][label])


@pytest.mark.parametrize(
    ("param", "negatives"),
    [
        # Of background, the least sure first: 2, 3, 1.
        ("neg_pos_ratio: 2", (2, 3)),
        ("neg_pos_ratio: 3 neg_overlap: 0.5", (2, 3)),  # the second box overlaps the object by more
        ("neg_pos_ratio: 3 neg_overlap: 0.95", (2, 3, 1)),
        ("neg_pos_ratio: 3 neg_overlap: 0.95 nms_param { nms_threshold: 0.5 top_k: 2 }", (2, 3)),
        ("neg_pos_ratio: 3 neg_overlap: 0.95 nms_param { nms_threshold: 0 top_k: 2 }", (2, 3, 1)),
    ],
)
def test_negatives_that_count(param: str, negatives: tuple[int, ...]) -> None:
    top, gradient = _loss(param)
    np.testing.assert_allclose(top.item(), _nll(0, 1) + sum(_nll(i, 0) for i in negatives), rtol=1e-6)
    assert {int(i) for i in gradient.abs().sum(1).nonzero()} == {0, *negatives}


@pytest.mark.parametrize("by_prior", [True, False])
def test_hard_examples_are_apart(by_prior: bool) -> None:
    """By prior boxes the second is too near the first; by what the network finds, the third lies on the fourth."""
    offsets = np.zeros((4, 4))
    offsets[1, [1, 3]] = 5
    offsets[2] = (PRIORS[3] - PRIORS[2]) / 0.1
    scores = np.array([[0.0, 0.0], [0.0, 1.5], [0.5, 0.0], [0.0, 1.0]])
    param = "mining_type: HARD_EXAMPLE sample_size: 3 nms_param { nms_threshold: 0.5 top_k: 9 } "
    param += f"use_prior_for_nms: {str(by_prior).lower()}"
    _, gradient = _loss(param, offsets=offsets, scores=scores)
    # Hardest first: 1, 3, 0, 2. Where the first is crowded out, so is its object.
    expected = {1, 3, 2} if by_prior else {1, 3, 0}
    assert {int(i) for i in gradient.abs().sum(1).nonzero()} == expected
    assert by_prior or gradient[0, 1] < 0


@pytest.mark.parametrize("mining", ["MAX_NEGATIVE", "NONE"])
def test_objects_of_one_class(mining: str) -> None:
    top, _ = _loss(f"map_object_to_agnostic: true mining_type: {mining} neg_pos_ratio: 1")
    counted = (2,) if mining == "MAX_NEGATIVE" else (1, 2, 3)
    np.testing.assert_allclose(top.item(), _nll(0, 1) + sum(_nll(i, 0) for i in counted), rtol=1e-6)
    with pytest.raises(LayerError, match="needs num_classes 2, not 3"):
        _loss("map_object_to_agnostic: true", classes=3, scores=np.zeros((4, 3)))


def test_sigmoids_with_another_background() -> None:
    """What nothing sets to 1 is compared with the background's number, as in the fork."""
    top, _ = _loss(
        "conf_loss_type: LOGISTIC background_label_id: 2 neg_pos_ratio: 1", classes=3, scores=np.ones((4, 3))
    )
    softplus = math.log(1 + math.e)
    # The object's class and, of the negative, the background are 1; the other two numbers of each are 2.
    np.testing.assert_allclose(top.item(), 2 * (softplus - 1 + 2 * (softplus - 2)), rtol=1e-6)
