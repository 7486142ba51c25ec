"""Networks for the sweep over parameters of layers that forks train with, which no stored case has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tests.layers.sweep import Base, from_text
from tests.layers.sweep_forks import net_text

CASCADE, MSCNN, NORMALS = "zhaoweicai/cascade-rcnn", "zhaoweicai/mscnn", "xiaolonw/caffe-3dnormal_joint_pose"
POSE_ACTION = "zimenglan-sysu-512/pose_action_caffe"

REGRESSION = (
    "bbox_reg_param { bbox_mean: 0.1 bbox_mean: -0.1 bbox_mean: 0.05 bbox_mean: 0.2 "
    "bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.3 bbox_std: 0.4 }"
)


def training_bases() -> Iterator[Base]:
    """The networks; each says for which parameters it is there."""
    yield from _fields()
    yield from _proposals()
    yield from _joints()
    yield from _losses()
    yield from _judged()
    yield from _regions()


def _cells(maps: int) -> np.ndarray:
    """Labels (maps, 6, 3, 4) of fields: class, centre, width, height and overlap of a true box."""
    draws = np.random.RandomState(3)
    labels = draws.uniform(0, 40, (maps, 6, 3, 4))
    labels[:, 0] = draws.randint(0, 3, (maps, 3, 4)) * (draws.uniform(size=(maps, 3, 4)) < 0.4)
    labels[:, 5] = draws.uniform(size=(maps, 3, 4))
    return labels.astype(np.float32)


def _of_fields(text: str, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> Base:
    return from_text(net_text(text, **shapes), dialect=CASCADE, s=given["s"], p=given["p"], t=given["t"])


def _fields() -> Iterator[Base]:
    """Losses and accuracies of fields, with every way to choose background, of all classes and of objects alone."""
    draws = np.random.RandomState(1)
    scores, places, labels = draws.uniform(-2, 2, (4, 3, 3, 4)), draws.uniform(-2, 2, (4, 4, 3, 4)), _cells(4)
    own = "cls_num: 3 field_w: 20 field_h: 30 field_xyr: 1.5 field_whr: 3 bg_threshold: 0.4"
    group = f"{own} field_w: 40 field_h: 26 stride: 8"
    ignored = "loss_param { ignore_label: 1 }"
    given = {"s": scores.astype(np.float32), "p": places.astype(np.float32), "t": labels}
    shapes = {"s": (4, 3, 3, 4), "p": (4, 4, 3, 4), "t": (4, 6, 3, 4)}
    for more in (
        'neg_mining_type: "bootstrap" lambda: 0.5 bg_multiple: 2 min_num_neg: 3 pos_neg_weighted: true',
        'neg_mining_type: "bootstrap" neg_ranking_type: "conf_prob" batch_size: 9',
        'neg_mining_type: "bootstrap" bg_multiple: 0 min_num_neg: 3',
        'neg_mining_type: "mixture" batch_size: 7 bbox_loss_type: "Euclidean_L2"',
    ):
        text = f'type: "DetectionGroupLoss" top: "y" detection_group_loss_param {{ {group} {more} }}'
        yield _of_fields(f"{text} {REGRESSION} {ignored}", shapes, given)
    text = f'type: "DetectionGroupAccuracy" top: "y" top: "z" detection_group_accuracy_param {{ {group} }}'
    yield _of_fields(f"{text} {REGRESSION} {ignored}", shapes, given)
    maps = np.concatenate([given["s"], given["p"]], 1)
    merged = {"x": (4, 7, 3, 4), "t": (4, 6, 3, 4)}
    for more in ("", "objectness: false iou_weighted: true pos_neg_weighted: true bb_smooth: false"):
        for mode in ("bootstrap", "mixture"):
            told = f'{own} downsample_rate: 8 sample_mode: "{mode}" bg_multiple: 2 {more}'
            text = f'type: "DetectionLoss" top: "y" detection_loss_param {{ {told} }} {REGRESSION} {ignored}'
            yield from_text(net_text(text, **merged), dialect=MSCNN, x=maps, t=labels)
    told = f"{own} downsample_rate: 8 top_k: 2"
    text = f'type: "DetectionAccuracy" top: "y" top: "z" detection_accuracy_param {{ {told} }} {REGRESSION} {ignored}'
    yield from_text(net_text(text, **merged), dialect=MSCNN, x=maps, t=labels)
    # Two classes, which may be an object and none.
    two = {"s": given["s"][:, 1:], "p": given["p"], "t": labels}
    for kind, field in (
        ("DetectionGroupLoss", "detection_group_loss_param"),
        ("DetectionGroupAccuracy", "detection_group_accuracy_param"),
    ):
        text = f'type: "{kind}" top: "y" {field} {{ {group.replace("cls_num: 3", "cls_num: 2 objectness: true")} }}'
        yield _of_fields(text, {**shapes, "s": (4, 2, 3, 4)}, two)
    for kind, field in (("DetectionLoss", "detection_loss_param"), ("DetectionAccuracy", "detection_accuracy_param")):
        told = f"{own.replace('cls_num: 3', 'cls_num: 2 objectness: true')} downsample_rate: 8"
        text = f'type: "{kind}" top: "y" {field} {{ {told} }}'
        yield from_text(net_text(text, x=(4, 6, 3, 4), t=(4, 6, 3, 4)), dialect=MSCNN, x=maps[:, 1:], t=labels)


def _proposals() -> Iterator[Base]:
    """Targets of proposals, too many and too few of them, and what is measured of their adjustments."""
    boxes = np.array(
        [[0, 0, 0, 19, 19], [0, 2, 1, 21, 20], [1, 30, 30, 59, 59], [1, 0, 0, 9, 9], [0, 12, 0, 31, 19]], np.float32
    )
    truth = np.array([[0, 1, 1, 20, 20, 2, 0], [1, 32, 30, 58, 59, 1, 0]], np.float32)
    told = "cls_num: 3 num_img_per_batch: 2 img_width: 60 img_height: 70 fg_thr: 0.5 bg_thr_hg: 0.4 bg_thr_lw: 0.1"
    tops = " ".join(f'top: "t{i}"' for i in range(7))
    for dialect, own in ((MSCNN, ("",)), (CASCADE, ("", "bbox_thr_lw: 0.85", "append_gtbox: false"))):
        for more in ("batch_size: 3 iou_weighted: true", "batch_size: 12", "batch_size: -1", *own):
            text = f'type: "ProposalTarget" {tops} proposal_target_param {{ {told} {more} }} {REGRESSION}'
            yield from_text(net_text(text, b=(5, 5), t=(2, 7)), dialect=dialect, b=boxes, t=truth)
        # Nothing but boxes at random.
        far = f"{told.replace('bg_thr_lw: 0.1', 'bg_thr_lw: 0.39').replace('fg_thr: 0.5', 'fg_thr: 1.5')}"
        more = "batch_size: 12" if dialect == MSCNN else "batch_size: 12 pickup_discard: false"
        text = f'type: "ProposalTarget" {tops} proposal_target_param {{ {far} {more} }}'
        yield from_text(net_text(text, b=(5, 5), t=(2, 7)), dialect=dialect, b=boxes, t=truth)
        moved = np.random.RandomState(2).uniform(-0.5, 0.5, (5, 12)).astype(np.float32)
        matched = np.array(
            [[2, 1, 1, 20, 20, 0.8], [2, 1, 1, 20, 20, 0.9], [1, 32, 30, 58, 59, 0.9], [0] * 6, [0] * 6], np.float32
        )
        text = f'type: "BboxAccuracy" top: "y" top: "z" {REGRESSION}'
        yield from_text(net_text(text, a=(5, 12), b=(5, 5), t=(5, 6)), dialect=dialect, a=moved, b=boxes, t=matched)
    losses = np.array([3, 1, 2, 2, 5], np.float32)
    text = 'type: "HardMining" top: "y" hard_mining_param { num_roi_per_image: 1 num_image: 2 }'
    yield from_text(net_text(text, x=(5,), b=(5, 5)), dialect=CASCADE, x=losses, b=boxes)


def _joints() -> Iterator[Base]:
    """Layers of the first generation: heat maps of joints."""
    draws = np.random.RandomState(0)
    x, labels = draws.randn(2, 3, 4, 5).astype(np.float32), draws.randint(0, 2, (2, 3, 4, 5)).astype(np.float32)
    labels[:, :, :2] = 0
    inputs = "".join(f'input: "{name}" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5 ' for name in "xt")
    params = "drop_neg_ratio: 0.7 hard_ratio: 0.4 rand_ratio: 0.5"
    text = (
        f'layers {{ name: "l" type: LABEL_DROPOUT bottom: "x" bottom: "t" top: "y" label_drop_param {{ {params} }} }}'
    )
    yield from_text(f"{inputs} force_backward: true {text}", dialect=NORMALS, x=x, t=labels)
    for params in ("height: 3 width: 8", "is_pyramid_test: true out_height_scale: 0.5 out_width_scale: 1.5"):
        text = f'layers {{ name: "l" type: RESIZE bottom: "x" top: "y" resize_param {{ {params} }} }}'
        yield from_text(f"{inputs} force_backward: true {text}", dialect=NORMALS, x=x, t=labels)


def _losses() -> Iterator[Base]:
    """Losses that are a formula each, and maps in another size."""
    x, t = (2, 3, 4, 1), (2, 3, 4, 1)
    for kind, more, shape, dialect in (
        ("AbsLoss", "", t, None),
        ("SigmoidCrossEntropyBalanceLoss", "", t, None),
        ("EuclideanLossWithIgnore", "", (2, 4, 4, 1), "pulkitag/caffe"),
        ("SimilaryEuclideanLoss", "similary_euclidean_loss_param { learn_lr: 0.5 }", (2,), POSE_ACTION),
    ):
        marks = np.ones(shape, np.float32)
        yield from_text(net_text(f'type: "{kind}" top: "y" {more}', x=x, t=shape), dialect=dialect, t=marks)
    inputs = "".join(f'input: "{name}" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5 ' for name in "xt")
    text = 'layers { name: "l" type: SIGMOID_LOSS bottom: "x" bottom: "t" }'
    yield from_text(f"{inputs} force_backward: true {text}", dialect=NORMALS)
    only = {"x": (2, 3, 4, 5)}
    for kind, more in (("RandomNoise", ""), ("RandomNoise", "random_noise_param { adaptive_sigma: true }")):
        yield from_text(net_text(f'type: "{kind}" top: "y" {more}', **only), dialect="pulkitag/caffe")
    for kind in ("SeLu", "SeLuDropout"):
        maps = np.random.RandomState(1).randn(2, 3, 4, 5).astype(np.float32)
        text = net_text(f'type: "{kind}" top: "y"', **only)
        yield from_text(text, phase="TRAIN", dialect="soeaver/py-RFCN-priv", x=maps)
    for params in ("height: 3 width: 8", "height_scale: 2 width_scale: 3"):
        text = f'type: "Upsample" top: "y" upsample_param {{ {params} }}'
        yield from_text(net_text(text, x=(2, 3, 4, 5)), dialect="Wulingtian/yolov5_caffe")


def _judged() -> Iterator[Base]:
    """Proposals; boxes of YOLO's second generation, and objects that some of them find."""
    objects = np.array([[0, 1, 0, 0.1, 0.1, 0.5, 0.6, 0], [1, 2, 0, 0.2, 0.2, 0.7, 0.9, 1]], np.float32)
    biases = " ".join(f"biases: {b}" for b in (1.3, 1.7, 0.6, 2.0, 2.5, 0.8, 0.4, 0.5, 1.0, 1.0))
    bottoms = {"s": (1, 18, 4, 6), "o": (1, 36, 4, 6), "i": (1, 3)}
    text = 'type: "FrcnnProposal" top: "y" proposal_param { feat_stride: 8 }'
    info = np.array([[40, 60, 1]], np.float32)
    yield from_text(net_text(text, **bottoms).replace("force_backward: true", ""), dialect="makefile/frcnn", i=info)
    truth = np.array([[3, 5, 19, 33, 2], [24, 2, 55, 15, 1]], np.float32)
    rois = np.array([[0, 3, 6, 19, 32], [0, 5, 5, 25, 33], [0, 24, 2, 50, 15], [0, 40, 30, 59, 39]], np.float32)
    wide = 'python_param { param_str: "{cfg: {rpn_allowed_border: 400}}" }'
    for kind, more, tops, blobs in (
        ("FrcnnAnchorTarget", wide, "abcd", {"s": np.zeros((1, 18, 4, 6), np.float32), "t": truth, "i": info}),
        (
            "FrcnnProposalTarget",
            "proposal_target_param { stage: 1 gt_iou_thr: 0.75 }",
            "abcde",
            {"r": rois, "t": truth},
        ),
    ):
        outputs = " ".join(f'top: "{top}"' for top in tops)
        text = net_text(f'type: "{kind}" {outputs} {more}', **{name: x.shape for name, x in blobs.items()})
        yield from_text(text.replace("force_backward: true", ""), phase="TRAIN", dialect="makefile/frcnn", **blobs)
    start = np.random.RandomState(4).uniform(0, 0.6, (24, 2))
    priors = np.stack([np.concatenate([start, start + 0.3], 1).flatten(), np.full(96, 0.1)])[None].astype(np.float32)
    shapes = {"o": (2, 3, 4, 8), "s": (2, 48), "p": (1, 2, 96)}
    for more in ("eta: 0.8", "top_k: 3"):
        nms = f"nms_param {{ nms_threshold: 0.6 {more} }}"
        params = f"num_classes: 2 confidence_threshold: 0.4 code_type: CENTER_SIZE keep_top_k: 9 {nms}"
        text = f'type: "DetectionOutputExtended" top: "y" detection_output_param {{ {params} }}'
        text = net_text(text, **shapes).replace("force_backward: true", "")
        yield from_text(text, dialect="openvinotoolkit/training_toolbox_caffe", p=priors)
    for more in ("", "threshold: 0.1 score_type: PROB nms: 0.7"):
        params = f"side: 3 num_class: 2 num_object: 5 {biases} {more}"
        text = f'type: "EvalDetection" top: "y" eval_detection_param {{ {params} }}'
        maps = np.random.RandomState(1).uniform(-1.5, 1.5, (2, 35, 3, 3)).astype(np.float32)
        given = net_text(text, x=maps.shape, t=(1, 1, 2, 8)).replace("force_backward: true", "")
        yield from_text(given, dialect="intel/caffe", x=maps, t=objects[None, None])


def _regions() -> Iterator[Base]:
    """Errors of rows of objects, by the shapes of anchors and by those of boxes."""
    maps = np.random.RandomState(4).uniform(-1, 1, (2, 21, 4, 4)).astype(np.float32)
    rows = np.array([[0, 1, 0, 0.1, 0.2, 0.45, 0.5, 0], [1, 2, 0, 0.6, 0.55, 0.9, 0.95, 0]], np.float32)
    biases = " ".join(f"biases: {value}" for value in (0.7, 0.9, 2.4, 2.7, 4.3, 1.6))
    scales = "object_scale: 5 noobject_scale: 0.7 class_scale: 2 coord_scale: 3 thresh: 0.3"
    for by_anchor in (0, 1):
        own = f"side: 4 num: 3 num_class: 2 coords: 4 bias_match: {by_anchor} {scales} {biases}"
        text = f'type: "RegionLoss" top: "y" region_loss_param {{ {own} }}'
        shapes = {"x": maps.shape, "t": (1, 1, 2, 8)}
        yield from_text(net_text(text, **shapes), dialect="choasup/caffe-yolo9000", x=maps, t=rows.reshape(1, 1, 2, 8))
