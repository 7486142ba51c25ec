"""Networks for the sweep over parameters, where no stored case reads a parameter in a way that counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from caffe_compat.layers.bvlc.python_layer import PythonLayer, register_python_layer
from tests.layers.sweep import Base, from_text, stored_bases, under
from tests.layers.sweep_augmentation import augmentation_bases
from tests.layers.sweep_forks import fork_bases
from tests.layers.sweep_single_forks import single_fork_bases
from tests.layers.sweep_training import training_bases

CASCADE, C3D, POSE = "zhaoweicai/cascade-rcnn", "facebookarchive/C3D", "chanyn/3Dpose_ssl"
C3D_NEXT = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
VIDEO = "chuckcho/video-caffe"
MAKEFILE, RFCN = "makefile/frcnn", "daijifeng001/caffe-rfcn"


@register_python_layer("SweepScale")
class SweepScale(PythonLayer):
    """x times the number in ``param_str``."""

    def setup(self, bottom: list, top: list) -> None:
        self.factor = len(self.param_str)

    def reshape(self, bottom: list, top: list) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: list, top: list) -> None:
        top[0].data[...] = bottom[0].data * self.factor

    def backward(self, top: list, propagate_down: list, bottom: list) -> None:
        bottom[0].diff[...] = top[0].diff * self.factor


class SweepOther(SweepScale):
    """Another class, which nobody admits."""


def _net(layer: str, **shapes: tuple[int, ...]) -> str:
    inputs = "".join(
        f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {n}" for n in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    return f'{inputs}force_backward: true layer {{ name: "l" {bottoms} {layer} }}'


def own_bases() -> Iterator[Base]:
    """The networks; each says for which parameters it is there."""
    x, t = (7, 4, 3, 2), (7, 1, 3, 2)
    labels = np.random.RandomState(3).randint(0, 4, t).astype(np.float32)
    # Without normalization, the older normalize counts. (SmoothL1Loss, SoftmaxWithLoss, MultiBoxLoss and kin)
    yield from_text(
        _net('type: "SoftmaxWithLoss" top: "y" loss_param { normalize: false ignore_label: 1 }', x=x, t=t), t=labels
    )
    yield from _older_normalize()
    # A filler's value, which others than constant do not have.
    constant = '{ type: "constant" value: 0.5 }'
    yield from_text(
        _net(
            f'type: "CenterLoss" top: "y" center_loss_param {{ num_output: 4 center_filler {constant} }}',
            x=(7, 5),
            t=(7,),
        ),
        dialect="ydwen/caffe-face",
        t=labels[:, 0, 0, 0],
    )
    yield from_text(
        _net(
            f'type: "CenterLoss" top: "y" center_loss_param {{ num_output: 4 center_filler {constant} }}',
            x=(7, 5),
            t=(7,),
        ),
        dialect="happynear/caffe-windows",
        t=labels[:, 0, 0, 0],
    )
    volume = (2, 2, 6, 9, 8)
    yield from_text(
        _net(
            'type: "Convolution3D" top: "y" convolution3d_param { num_output: 3 kernel_size: 3 kernel_depth: 3 '
            f"weight_filler {constant} bias_filler {constant} }}",
            x=volume,
        ),
        dialect=C3D_NEXT,
    )
    yield from_text(
        _net(
            'type: "CONVOLUTION3D" top: "y" convolution_param { num_output: 3 pad: 1 temporal_pad: 1 kernel_size: 3 '
            f"kernel_depth: 3 stride: 2 temporal_stride: 2 weight_filler {constant} bias_filler {constant} }}",
            x=volume,
        ),
        dialect=C3D,
    )
    yield from_text(
        _net(
            'type: "DECONVOLUTION3D" top: "y" convolution_param { num_output: 3 pad: 1 temporal_pad: 1 kernel_size: 3 '
            f"kernel_depth: 3 stride: 2 temporal_stride: 2 weight_filler {constant} bias_filler {constant} }}",
            x=volume,
        ),
        dialect=C3D,
    )
    for pool in ("pool: AVE pad: 1", "pool: MAX"):
        yield from_text(
            _net(
                f'type: "POOLING3D" top: "y" pooling_param {{ {pool} kernel_size: 3 kernel_depth: 3 stride: 2 '
                "temporal_stride: 2 }",
                x=volume,
            ),
            dialect=C3D,
        )
    for dialect in (VIDEO, "BoLiu-SVCL/video-caffe"):
        yield from_text(
            _net(
                'type: "NdConvolution" top: "y" convolution_param { num_output: 4 group: 2 '
                "kernel_shape { dim: 3 dim: 3 dim: 2 } stride_shape { dim: 1 dim: 2 dim: 2 } "
                f"pad_shape {{ dim: 1 dim: 0 dim: 1 }} weight_filler {constant} bias_filler {constant} }}",
                x=volume,
            ),
            dialect=dialect,
        )
        yield from_text(
            _net(
                'type: "NdPooling" top: "y" pooling_param { kernel_shape { dim: 2 dim: 3 dim: 2 } '
                "stride_shape { dim: 2 dim: 2 dim: 2 } pad_shape { dim: 0 dim: 1 dim: 0 } }",
                x=volume,
            ),
            dialect=dialect,
        )
    # kernel_h goes with kernel_w.
    for dialect in ("dlunion/CC4.0", "GuohongWu/caffe-windows", "dreadlord1984/SSD_windows_caffe"):
        yield from_text(
            _net(
                'type: "ConvolutionDepthwise" top: "y" convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 '
                f"pad_h: 1 pad_w: 1 stride_h: 2 stride_w: 1 weight_filler {constant} }}",
                x=(2, 4, 7, 6),
            ),
            dialect=dialect,
        )
    yield from_text(_net('type: "InfogainLoss" top: "y" infogain_loss_param { source: "gains" }', x=x, t=t), t=labels)
    yield from _of_single_forks()
    yield from _measures()
    yield from _boxes()
    yield from augmentation_bases()
    yield from fork_bases()
    yield from single_fork_bases()
    yield from training_bases()
    for name in ("SweepScale", "SweepOther"):  # one admitted by its name, one found in its module
        text = f'python_param {{ module: "{__name__}" layer: "{name}" param_str: "seven" }}'
        yield from_text(_net(f'type: "Python" top: "y" {text}', x=(2, 3)))
    yield from_text(_net('type: "HDF5Output" hdf5_output_param { file_name: "out.h5" }', x=(2, 3), t=(2, 1)))


def _of_single_forks() -> Iterator[Base]:
    """Meanings that no stored case has, and whose networks read no other fork's text."""
    yield from_text(
        _net('type: "Axpy" top: "y"', a=(2, 3, 4, 1, 1), x=(2, 3, 4, 5, 6), z=(2, 3, 4, 5, 6)),
        dialect="BannyStone/Caffe",
    )
    filler = '{ type: "constant" value: 0.5 }'
    averages = f'type: "BN" top: "y" bn_param {{ engine: CAFFE slope_filler {filler} bias_filler {filler} }}'
    for phase in ("TEST", "TRAIN"):
        yield from_text(
            _net(averages, x=(4, 3, 4, 5)),
            dialect="happynear/caffe-windows",
            phase=phase,
        )
    for dialect in ("senlinuc/caffe_ocr", "tianzhi0549/CTPN", "tonghe90/textspotter"):
        cells = f"lstm_param {{ num_output: 5 weight_filler {filler} bias_filler {filler} }}"
        yield from_text(_net(f'type: "Lstm" top: "y" {cells}', x=(6, 1, 4)), dialect=dialect)
    yield from_text(_net('type: "Mask2D3D" top: "y" top: "z"', x=(2, 48)), dialect=POSE)
    matched = next(base for base in stored_bases() if base.name == "MultiBoxLoss.eric612.test_phase_weight")
    for dialect in ("BOBrown/caffe-ssd-microsoft", "weiliu89/caffe@ssd"):
        base = under(matched, dialect)
        assert base is not None
        base.message.layer[-1].multibox_loss_param.overlap_threshold = 0.1
        yield base
    yield _hard_examples_apart()


def _hard_examples_apart() -> Base:
    """By prior boxes the second crowds out the first; by what the network finds, the fourth the third."""
    priors = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.42, 0.4], [0.6, 0.6, 0.9, 0.9], [0.6, 0.1, 0.9, 0.4]])
    offsets = np.zeros((4, 4))
    offsets[1, [1, 3]] = 5
    offsets[2] = (priors[3] - priors[2]) / 0.1
    text = (
        "num_classes: 2 overlap_threshold: 0.9 code_type: CORNER mining_type: HARD_EXAMPLE sample_size: 3 "
        "nms_param { nms_threshold: 0.5 top_k: 9 } use_prior_for_nms: true"
    )
    return from_text(
        _net(
            f'type: "MultiBoxLoss" top: "y" multibox_loss_param {{ {text} }}',
            l=(1, 16),
            c=(1, 8),
            p=(1, 2, 16),
            t=(1, 1, 1, 8),
        ),
        phase="TRAIN",
        dialect="weiliu89/caffe@ssd",
        l=offsets.reshape(1, 16),
        c=np.array([[0.0, 0.0, 0.0, 1.5, 0.5, 0.0, 0.0, 1.0]]),
        p=np.stack([priors.reshape(16), np.full(16, 0.1)])[None],
        t=np.array([0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0]).reshape(1, 1, 1, 8),
    )


def _older_normalize() -> Iterator[Base]:
    rows, one = (6, 8, 2, 2), (6, 1, 2, 2)
    labels = np.random.RandomState(4).randint(0, 3, one).astype(np.float32)
    readers = {"SmoothL1Loss": ("intel/caffe", RFCN), "SmoothL1LossOHEM": (MAKEFILE, "intel/caffe")}
    for kind, dialects in readers.items():
        for dialect in dialects:
            text = _net(f'type: "{kind}" top: "y" loss_param {{ normalize: false }}', x=rows, t=rows)
            yield from_text(text, dialect=dialect)
    for dialect in (MAKEFILE, "intel/caffe"):
        yield from_text(
            _net('type: "SoftmaxWithLossOHEM" top: "y" loss_param { normalize: false ignore_label: 1 }', x=rows, t=one),
            dialect=dialect,
            t=labels,
        )


def _measures() -> Iterator[Base]:
    """Layers whose result lies in files."""
    rng = np.random.RandomState(5)
    for joints in (16, 17):
        yield from_text(
            _net(
                'loss_weight: 0 type: "MPJPEEvaluation" top: "y" mpjpe_param { sample_num: 5 scale: 2 '
                'save_filepath: "out.txt" need_project: false max_min_normalize: false }',
                x=(3, 3 * joints),
                t=(3, 3 * joints),
            ),
            dialect=POSE,
            x=rng.uniform(0, 1, (3, 3 * joints)).astype(np.float32),
            t=rng.uniform(0, 1, (3, 3 * joints)).astype(np.float32),
        )
    yield from_text(
        _net(
            'type: "VisualizedHeatMaps" visual_heat_maps_param { heat_map_path: "a/" heat_map_files_name: "b/" '
            'heat_map_images_name: "c/" visual_type: 0 threshold: 0.3 phase_name: "test" file_ext: ".txt" }',
            x=(2, 3, 4, 5),
        ),
        dialect=POSE,
    )


def _boxes() -> Iterator[Base]:
    """A box in another: their overlap over the union is small, over the smaller one it is all."""
    boxes = np.array([[0, 10, 10, 90, 90], [0, 40, 40, 60, 60], [0, 5, 5, 30, 30]], np.float32)
    scores = np.array([[0.1, 0.9], [0.3, 0.7], [0.2, 0.8]], np.float32)
    size = np.array([[100, 100]], np.float32)
    moves = np.random.RandomState(6).uniform(-0.1, 0.1, (3, 8)).astype(np.float32)
    adjustment = "bbox_reg_param { cls_aware: false bbox_mean: 0 bbox_mean: 0.1 bbox_mean: 0 bbox_mean: 0.1 " + (
        "bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.1 bbox_std: 0.2 }"
    )
    adjusted = next(base for base in stored_bases() if base.name == "BoxGroupOutput.casc.iou")
    adjusted.message.layer[-1].bbox_reg_param.bbox_mean.extend([0, 0.1, 0, 0.1])
    adjusted.message.layer[-1].bbox_reg_param.bbox_std.extend([0.1, 0.2, 0.1, 0.2])
    yield adjusted
    for mode in ("IOU", "IOMU"):
        yield from_text(
            _net(
                f'type: "FrcnnOutput" top: "y" {adjustment} frcnn_output_param {{ conf_thr: 0.1 iou_thr: 0.4 '
                f'nms_type: "{mode}" max_det_num: 4 }}',
                p=(3, 2, 1, 1),
                d=(3, 8, 1, 1),
                pri=(3, 5, 1, 1),
                sz=(1, 2, 1, 1),
            ),
            dialect=CASCADE,
            p=scores.reshape(3, 2, 1, 1),
            d=moves.reshape(3, 8, 1, 1),
            pri=boxes.reshape(3, 5, 1, 1),
            sz=size.reshape(1, 2, 1, 1),
        )
