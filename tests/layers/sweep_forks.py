"""Networks for the sweep over parameters of layers that single forks have: what their stored cases leave out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.layers.sweep import Base, from_text

WINDOWS, WU, BNKANG = "happynear/caffe-windows", "GuohongWu/caffe-windows", "bnkang/caffe-windows-for-fr"
C3D = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
FLOWNET2, FRCNN = "lmb-freiburg/flownet2", "makefile/frcnn"
YOLO, YOLO_WINDOWS = "eric612/MobileNet-YOLO", "eric612/Caffe-YOLOv3-Windows"


def net_text(layer: str, **shapes: tuple[int, ...]) -> str:
    """A network of one layer on inputs of these shapes, which all get gradients."""
    inputs = "".join(
        f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {n}" for n in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    return f'{inputs}force_backward: true layer {{ name: "l" {bottoms} {layer} }}'


def fork_bases() -> Iterator[Base]:
    """The networks; each says for which parameters it is there."""
    yield from _distances()
    yield from _margins()
    yield from _yolo()
    # Sizes that a map grows to, both ways.
    for params in ("top_height: 9 top_width: 11", "size_divisible_by: 8"):
        yield from_text(
            net_text(f'type: "Accum" top: "y" accum_param {{ {params} }}', x=(2, 3, 6, 7)), dialect=FLOWNET2
        )
    # A filler's value.
    constant = '{ type: "constant" value: 0.5 }'
    text = f"num_output: 3 kernel_size: 2 kernel_depth: 2 weight_filler {constant}"
    yield from_text(
        net_text(f'type: "Deconvolution3D" top: "y" convolution3d_param {{ {text} }}', x=(2, 3, 2, 4, 3)), dialect=C3D
    )
    boxes = np.array([[0, 3, 2, 60, 45], [1, 10, 20, 50, 70]], np.float32)
    # A bin that is moved.
    yield from_text(
        net_text(
            'type: "DeformablePSROIPooling" top: "y" deformable_psroi_pooling_param { spatial_scale: 0.1 output_dim: 2 '
            "group_size: 3 part_size: 2 sample_per_part: 2 trans_std: 0.3 }",
            x=(2, 18, 7, 9),
            rois=(2, 5),
            moves=(2, 4, 2, 2),
        ),
        dialect=FRCNN,
        rois=boxes,
    )


def _distances() -> Iterator[Base]:
    labels = np.array([2, 0, 3, 1, 0, 2], np.float32)
    d = np.random.RandomState(4).uniform(0.05, 1.4, (6, 4)).astype(np.float32)
    # Own distances above a bound, where nothing else is learnt; no centre where nothing is too near.
    for kind, field, more in (
        ("GeneralContrastiveLoss", "general_contrastive_loss_param", "negative_margin: 0.9 positive_upper_bound: 0.5"),
        ("GeneralTripletLoss", "general_triplet_loss_param", "add_center_loss: false positive_upper_bound: 0.5"),
    ):
        for first in ("true", "false"):
            text = net_text(f'type: "{kind}" top: "y" {field} {{ {more} positive_first: {first} }}', d=(6, 4), t=(6,))
            for dialect in (WINDOWS, WU):
                yield from_text(text, dialect=dialect, d=d, t=labels)
    # Own distances within a margin, and nobody else near; own ones beyond it.
    far = np.where(np.arange(4) == labels[:, None], 0.3, d + 1).astype(np.float32)
    yield from_text(net_text('type: "GeneralTripletLoss" top: "y"', d=(6, 4), t=(6,)), dialect=WINDOWS, d=far, t=labels)
    text = 'type: "SoftContrastiveLoss" top: "y" soft_contrastive_loss_param { positive_margin: 0.1 }'
    yield from_text(net_text(text, d=(6, 4), t=(6,)), dialect=WINDOWS, d=d, t=labels)
    # Pairs of one class that are far apart.
    wide = np.random.RandomState(1).uniform(0.1, 2.4, (6, 6)).astype(np.float32)
    yield from_text(
        net_text('type: "BatchContrastiveLoss" top: "y"', d=(6, 6), t=(6,)), dialect=WINDOWS, d=wide, t=labels
    )
    yield from_text(net_text('type: "Gram" top: "y"', x=(2, 3, 4, 5)), dialect=BNKANG)
    # Centres that are a bottom, of which one learns; a filler's value.
    yield from_text(
        net_text(
            'type: "InnerDistance" top: "y" inner_distance_param { update_center_only: true }',
            x=(6, 5),
            c=(4, 5),
            t=(6,),
        ),
        dialect=WINDOWS,
        t=labels,
    )
    constant = '{ type: "constant" value: 0.5 }'
    yield from_text(
        net_text(
            f'type: "InnerDistance" top: "y" inner_distance_param {{ num_output: 4 weight_filler {constant} }}',
            x=(6, 5),
        ),
        dialect=WINDOWS,
    )


def _margins() -> Iterator[Base]:
    labels = np.array([2, 0, 3, 1, 0, 2], np.float32)
    constant = '{ type: "constant" value: 0.5 }'
    for kind, field, dialect in (
        ("LargeMarginInnerProduct", "largemargin_inner_product_param", WINDOWS),
        ("MarginInnerProduct", "margin_inner_product_param", WINDOWS),
    ):
        # A share that passes change, above the least one; and one below it.
        for least in (0, 2):
            text = f"num_output: 4 type: DOUBLE base: 3 gamma: 0.5 lambda_min: {least} weight_filler {constant}"
            yield from_text(
                net_text(f'type: "{kind}" top: "y" top: "share" {field} {{ {text} }}', x=(6, 5), t=(6,)),
                phase="TRAIN",
                dialect=dialect,
                t=labels,
            )
    # A bias that passes change, within its bounds and beyond them.
    for bounds in ("bias_min: -2 bias_max: 2", "bias_min: 0.5 bias_max: 2", "bias_min: -2 bias_max: -0.5"):
        text = f"bias_base: 0.1 bias_gamma: 0.2 bias_power: 0.7 {bounds}"
        yield from_text(
            net_text(f'type: "LabelSpecificAdd" top: "y" label_specific_add_param {{ {text} }}', x=(6, 4), t=(6,)),
            phase="TRAIN",
            dialect=WINDOWS,
            t=labels,
        )


def _yolo() -> Iterator[Base]:
    """Objects that are learnt with the gradient's slope, by an older fork."""
    objects = np.zeros((2, 1, 300, 5), np.float32)
    objects[0, 0, 0] = (1, 0.52, 0.41, 0.5, 0.7)
    objects[0, 0, 1] = (0, 0.53, 0.42, 0.5, 0.7)
    text = (
        "num_class: 3 num: 2 biases: 20 biases: 30 biases: 60 biases: 50 biases: 90 biases: 110 mask: 1 mask: 2 "
        "use_logic_gradient: true object_scale: 2"
    )
    for dialect in (YOLO, YOLO_WINDOWS):
        yield from_text(
            net_text(f'type: "Yolov3" top: "y" yolov3_param {{ {text} }}', x=(2, 16, 4, 4), gt=(2, 1, 300, 5)),
            phase="TRAIN",
            dialect=dialect,
            gt=objects,
        )
