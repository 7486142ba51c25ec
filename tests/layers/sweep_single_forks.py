"""Networks for the sweep over parameters: layers of single forks, of which no stored case has any."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.layers.sweep import Base, from_text
from tests.layers.sweep_forks import net_text
from tests.networks import input_layer, layer

ACTION, POSE_ACTION = "Lyp100208/Caffe_action", "zimenglan-sysu-512/pose_action_caffe"
CTC, OCR, CC4 = "xmfbit/warpctc-caffe", "senlinuc/caffe_ocr", "dlunion/CC4.0"
JOLI, YUQJ, SYNOPSYS = "jolibrain/caffe", "yuqj1991/caffe_train", "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
BANNY = "BannyStone/Caffe"
P3D, YOLO_SECOND = "ZhaofanQiu/pseudo-3d-residual-networks", "BirdeeChen/caffe_yolo_v2"
MYCAFFE = "MyCaffe/MyCaffe"
OPENCV = "weiliu89/caffe@ssd+opencv/opencv"
MSCNN, CASCADE = "zhaoweicai/mscnn", "zhaoweicai/cascade-rcnn"
NORMALS, OPENPOSE = "xiaolonw/caffe-3dnormal_joint_pose", "CMU-Perceptual-Computing-Lab/caffe_rtpose"
# Index, width, height, scale, flipped: of pictures of 16 x 12 and 15 x 13.
INFO = np.array([[0, 8, 6, 2, 0], [1, 10, 8.67, 1.5, 1]], np.float32)
POSES = np.array([[2.5, 9.25, 12, 3, 4, 5.75], [8, 1, 3.5, 11, 15.9, 12.9]], np.float32)
FILLER = '{ type: "constant" value: 0.5 }'
MOVES = "bbox_reg_param {" + " bbox_mean: 0.1 bbox_std: 0.3" * 4 + " }"


def single_fork_bases() -> Iterator[Base]:
    """The networks."""
    yield from _of_any_map()
    yield from _of_poses()
    yield from _of_texts()
    yield from _of_regions()
    yield from _of_detectors()
    yield from _of_cells()
    yield from _of_yolo()
    yield from _of_norms_and_volumes()
    yield from _of_inner_products()
    for where in ('folder: "out" prefix: "a" suffix: "b"', 'file: "flow.flo"'):
        text = net_text(f'type: "FLOWriter" writer_param {{ {where} }}', x=(2, 2, 4, 5))
        yield from_text(text, dialect="lmb-freiburg/flownet2")


def _of_any_map() -> Iterator[Base]:
    x, maps = (2, 3, 4, 5), np.random.RandomState(1).uniform(-2, 2, (2, 3, 4, 5)).astype(np.float32)
    yield from_text(net_text('type: "ArgMaxC" top: "y"', x=x), dialect=POSE_ACTION, x=maps)
    yield from_text(net_text('type: "Maximum" top: "y"', x=x), dialect=OPENPOSE, x=maps)
    yield from_text(net_text('type: "Mish" top: "y"', x=x), dialect=SYNOPSYS, x=maps)
    yield from_text(net_text('type: "Gather" top: "y" top: "z"', x=x, w=(4, 2)), dialect="yjxiong/caffe")
    window = f"num_output: 4 kernel_size: 3 weight_filler {FILLER} bias_filler {FILLER}"
    for more in ("stride: 2 pad: 1 dilation: 2", "kernel_size: 2 group: 2 bias_term: false"):
        text = f'type: "ConvolutionData" top: "y" convolution_param {{ {window} {more} }}'
        yield from_text(net_text(text, x=(2, 4, 7, 6)), dialect=ACTION)
    for phase in ("TEST", "TRAIN"):
        for moving in ("true", "false"):
            norm = f"scale_filler {FILLER} shift_filler {FILLER} moving_average: {moving} var_eps: 0.1 decay: 0.2"
            text = net_text(f'type: "BNData" top: "y" bn_param {{ {norm} }}', x=x)
            yield from_text(text, dialect=ACTION, phase=phase, x=maps)
        norm = f"slope_filler {FILLER} bias_filler {FILLER} momentum: 0.75 eps: 0.1"
        text = net_text(f'type: "BNData" top: "y" bn_param {{ {norm} }}', x=x)
        yield from_text(text, dialect="lxx1991/caffe_mpi", phase=phase, x=maps)
        block = f"numTransition: 3 growthRate: 2 initChannel: 9 Filter_Filler {FILLER} BN_Scaler_Filler {FILLER}"
        for narrow in ("true", "false"):
            text = (
                f'type: "DenseBlock" top: "y" denseblock_param {{ {block} BN_Bias_Filler {FILLER} use_BC: {narrow} }}'
            )
            yield from_text(net_text(text, x=x), dialect=OCR, phase=phase, x=maps)
    labels = np.random.RandomState(1).randint(1, 4, (2, 1, 4, 5)).astype(np.float32)
    # Of the first generation of layers, which have numbers for types.
    sizes = [" ".join(f"input_dim: {n}" for n in shape) for shape in (x, labels.shape)]
    text = f'input: "x" {sizes[0]} input: "t" {sizes[1]} force_backward: true '
    text += 'layers { name: "l" type: MULTI_SOFTMAX_LOSS bottom: "x" bottom: "t" }'
    yield from_text(text, dialect=NORMALS, x=maps, t=labels)
    yield from _of_windows()
    yield from _of_mask_yolo()
    scores = np.random.RandomState(2).randint(0, 3, (2, 4, 3, 5)).astype(np.float32)
    truth = np.random.RandomState(3).randint(0, 4, (2, 1, 3, 5)).astype(np.float32)
    text = 'type: "SegAccuracy" top: "y" seg_accuracy_param { ignore_label: 1 metric: PixelIOU }'
    yield from_text(net_text(text, x=scores.shape, t=truth.shape), dialect="aharley/segaware", x=scores, t=truth)
    # Other scores at every run, which are counted together.
    inputs = input_layer("x", 30, 1, 4) + input_layer("cont", 30, 1) + input_layer("t", 30, 1, 1, 1)
    recurrent = 'recurrent_param { num_output: 4 weight_filler { type: "gaussian" std: 2 } }'
    text = inputs + layer("rnn", "RNN", "x cont", "h", recurrent)
    text += layer("scores", "Reshape", "h", "scores", "reshape_param { shape { dim: 30 dim: 4 dim: 1 dim: 1 } }")
    text += layer("l", "SegAccuracy", "scores t", "y", "seg_accuracy_param { reset: false metric: PixelIOU }")
    truth = np.random.RandomState(3).randint(0, 4, (30, 1, 1, 1)).astype(np.float32)
    yield from_text(text, dialect="aharley/segaware", t=truth, cont=np.ones((30, 1), np.float32))


def _of_mask_yolo() -> Iterator[Base]:
    """Regions of YOLO, samples in them, and larger maps."""
    fork, x = "leon-liangwu/MaskYolo_Caffe", np.random.RandomState(3).randn(2, 10, 3, 4).astype(np.float32)
    own = "num_class: 0 num_object: 2 anchor_x: 1.5 anchor_x: 3 anchor_y: 2.5 anchor_y: 1 thresh: 0.45 prop_num: 8"
    text = net_text(f'type: "RoiGen" top: "y" top: "z" roi_gen_param {{ {own} net_w: 96 net_h: 80 }}', x=x.shape)
    yield from_text(text, dialect=fork, x=x)
    boxes = np.array([[0, 1, 0.5, 3, 4], [1, 0, 0, 2, 2]], np.float32)
    own = "roi_alignment_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }"
    text = net_text(f'type: "ROIAlignment" top: "y" {own}', x=x.shape, boxes=boxes.shape)
    yield from_text(text, dialect=fork, x=x, boxes=boxes)
    for own in ("height: 6 width: 7", "is_pyramid_test: true out_height_scale: 2 out_width_scale: 1.5"):
        yield from_text(net_text(f'type: "Resize" top: "y" resize_param {{ {own} }}', x=x.shape), dialect=fork, x=x)


def _of_windows() -> Iterator[Base]:
    """Distances within windows (aharley/segaware)."""
    fork, shape = "aharley/segaware", (2, 3, 7, 6)
    labels = np.random.RandomState(4).randint(0, 3, shape).astype(np.float32)
    window = "convolution_param { kernel_size: 3 pad: 1 stride: 1 dilation: 1 }"
    own = "im2dist_param { norm: L1 remove_center: false remove_bounds: false }"
    yield from_text(net_text(f'type: "Im2dist" top: "y" {window} {own}', x=shape), dialect=fork, x=labels)
    own = "im2parity_param { ignore_label: 2 }"
    yield from_text(net_text(f'type: "Im2parity" top: "y" {window} {own}', x=shape), dialect=fork, x=labels)
    for kind, columns in (("Convolution", "true"), ("Convolution", "false"), ("Im2col", "true")):
        own = f"num_output: 3 kernel_size: 3 group: 1 bottom_is_im2col: {columns} weight_filler {FILLER}"
        text = net_text(f'type: "{kind}" top: "y" convolution_param {{ {own} }}', x=(2, 18, 4, 5))
        yield from_text(text, dialect=fork)
    text = net_text('type: "Reorg" top: "y" reorg_param { stride: 2 }', x=(2, 3, 4, 6))
    yield from_text(text, dialect="Wulingtian/yolov5_caffe")
    boxes = np.array([[0, 1, 1, 3, 2, 0.5], [2, 0, 0, 4, 4, 2]], np.float32).reshape(1, 2, 1, 6)
    own = 'box_term_param { detection_box_input_dir: "" detection_pixel_input_dir: "" is_background_det: true }'
    text = net_text(f'type: "BoxFeatures" top: "y" {own}', x=(1, 3, 4, 5), boxes=boxes.shape)
    yield from_text(text, dialect="torrvision/caffe-tvg", boxes=boxes)
    text = net_text('type: "ChannelSelect" top: "y"', x=(4, 3, 4, 5), boxes=boxes.shape)
    yield from_text(text, dialect="torrvision/caffe-tvg", boxes=boxes)
    own = "dist_loss_param { alpha: 0.5 beta: 1.5 ignore_label: 2 }"
    text = net_text(f'type: "DistLoss" top: "y" {window} {own}', x=shape, t=shape)
    yield from_text(text, dialect=fork, x=labels / 2, t=labels)


def _of_poses() -> Iterator[Base]:
    log = 'acc_factor: 0.1 acc_factor_num: 4 images_num: 2 acc_path: "a/" acc_name: "b" log_name: "c"'
    text = f'type: "PoseEuDistAccuracy" top: "y" pose_eudist_accuracy_param {{ {log} }}'
    yield from_text(net_text(text, x=(2, 6), t=(2, 6)), dialect=POSE_ACTION, x=POSES)
    text = 'type: "VisualizedHeatMaps2" visual_heat_maps_param { heat_map_path: "a/" visual_type: 1 }'
    yield from_text(net_text(text, x=(2, 3, 4, 5), info=(2, 5)), dialect=POSE_ACTION, info=INFO)
    yield from_text(
        net_text('type: "VisualizedPoseCoords"', x=(2, 6), info=(2, 5)), dialect=POSE_ACTION, x=POSES, info=INFO
    )
    # The picture tells the size of the mask.
    inputs = input_layer("data", 2, 3, 9, 11) + input_layer("pose", 2, 6) + input_layer("info", 2, 5)
    box = "torso_mask_from_coords_param { top_id: 0 bottom_id: 1 top_id2: 1 bottom_id2: 2 value: 7 perb_num: 2 }"
    text = inputs + layer("s", "Silence", "data") + layer("l", "TorsoMaskFromCoords", "pose info", "mask", box)
    yield from_text(text, dialect=POSE_ACTION, pose=POSES, info=INFO)


def _of_texts() -> Iterator[Base]:
    scores = np.random.RandomState(2).uniform(-2, 2, (4, 3, 3)).astype(np.float32)
    texts = np.array([[0, 1, 2], [1, 2, 2], [0, 0, 1]], np.float32)  # 2 stands for nothing
    sizes = "blank_label: 2 time_step: 4 alphabet_size: 3"
    for text, dialect in (
        (f'"CtcLoss" top: "y" ctc_loss_param {{ {sizes} }}', CTC),
        (f'"CtcLoss" top: "y" warpctc_loss_param {{ {sizes} }}', YUQJ),
        ('"WarpCTCLoss" top: "y" ctc_loss_param { blank_index: 2 }', OCR),
        ('"WarpCTCLoss" top: "y" ctc_loss_param { blank_label: 2 }', CC4),
    ):
        yield from_text(net_text(f"type: {text}", x=scores.shape, t=texts.shape), dialect=dialect, x=scores, t=texts)
    read = np.eye(3, dtype=np.float32)[[[0, 0, 2, 1], [2, 1, 1, 1], [0, 1, 2, 1]]]  # 01, 1 and 011
    text = 'type: "LabelsequenceAccuracy" top: "y" labelsequence_accuracy_param { blank_label: 2 }'
    yield from_text(net_text(text, x=read.shape, t=texts.shape), dialect=CTC, x=read, t=texts)
    marks = 'type: "ContinuationIndicator" top: "y" continuation_indicator_param {{ time_step: 4 {} }}'
    yield from_text(net_text(marks.format("batch_size: 2")), dialect=CTC)
    yield from_text(net_text(marks.format("axis: 1"), x=(3, 2)), dialect=JOLI)


def _of_regions() -> Iterator[Base]:
    rows = np.random.RandomState(4).uniform(-1, 1, (6, 5)).astype(np.float32)  # 2 images of 3 regions
    yield from_text(net_text('type: "CrossBlobsSum" top: "y"', x=(6, 5), w=(6, 5)), dialect=POSE_ACTION, x=rows)
    text = 'type: "ExtractPrimary" top: "y" top: "z" extract_primary_param { ims_per_batch: 2 }'
    yield from_text(net_text(text, x=(6, 5)), dialect=POSE_ACTION, x=rows)
    for more, tops in (("op_scores: MAX", 'top: "row" top: "cell"'), ("has_scene_branch: true op_scores: AVE", "")):
        count = 4 if "scene" in more else 3
        field = f"secondary_regions_op_scores_param {{ n_secondary_regions: {count} {more} }}"
        text = f'type: "SecondaryRegionsOpScores" top: "y" {tops} {field}'
        yield from_text(net_text(text, x=(6, 5)), dialect=POSE_ACTION, x=rows)


def _of_detectors() -> Iterator[Base]:
    draws = np.random.RandomState(3)
    maps, labels = draws.uniform(-2, 2, (2, 7, 3, 4)), np.zeros((2, 6, 3, 4))
    labels[:, 0] = draws.randint(0, 3, (2, 3, 4)) * (draws.uniform(size=(2, 3, 4)) < 0.5)
    labels[:, 1:5], labels[:, 5] = draws.uniform(5, 30, (2, 4, 3, 4)), draws.uniform(size=(2, 3, 4))
    x, t = maps.astype(np.float32), labels.astype(np.float32)
    fields = "cls_num: 3 field_w: 20 field_h: 30 downsample_rate: 8 field_whr: 3 field_xyr: 1.5 bg_threshold: 0.4"
    more = 'bb_smooth: true lambda: 0.7 bg_multiple: 2 iou_weighted: true pos_neg_weighted: true sample_mode: "all"'
    text = f'type: "DetectionLoss" top: "y" detection_loss_param {{ {fields} {more} }} {MOVES}'
    yield from_text(net_text(text, x=x.shape, t=t.shape), dialect=MSCNN, x=x, t=t)
    text = f'type: "DetectionAccuracy" top: "y" top: "z" detection_accuracy_param {{ {fields} top_k: 2 }} {MOVES}'
    yield from_text(net_text(text, x=x.shape, t=t.shape), dialect=MSCNN, x=x, t=t)
    boxes = np.array(
        [[0, 2, 3, 20, 30], [0, 5, 5, 25, 20], [1, 0, 0, 9, 9], [1, 4, 4, 30, 30], [1, 1, 2, 8, 9]], np.float32
    )
    truth = np.array(
        [[1, 1, 1, 22, 28, 0.6], [2, 8, 4, 20, 22, 0.5], [0] * 6, [2, 4, 4, 30, 30, 1], [1, 1, 1, 9, 9, 0.9]],
        np.float32,
    )
    moves = draws.uniform(-1, 1, (5, 12)).astype(np.float32)
    for dialect in (MSCNN, CASCADE):
        text = f'type: "BboxAccuracy" top: "y" top: "z" {MOVES}'
        yield from_text(net_text(text, x=(5, 12), b=(5, 5), t=(5, 6)), dialect=dialect, x=moves, b=boxes, t=truth)
    objects = np.array([[0, 1, 0, 20, 20, 2, 0], [0, 28, 28, 45, 45, 1, 0], [1, 30, 30, 39, 49, 1, 1]], np.float32)
    tops = " ".join(f'top: "y{i}"' for i in range(7))
    for count in (-1, 12):  # all that fit; and as many, of which some are drawn
        wanted = f"cls_num: 3 batch_size: {count} num_img_per_batch: 2 img_width: 60 img_height: 50 fg_thr: 0.5"
        more = "bg_thr_hg: 0.4 bg_thr_lw: 0.1 iou_weighted: true fg_fraction: 0.4"
        text = f'type: "ProposalTarget" {tops} proposal_target_param {{ {wanted} {more} }} {MOVES}'
        yield from_text(net_text(text, b=(5, 5), t=(3, 7)), dialect=MSCNN, b=boxes, t=objects)
    yield from _of_grids()


def _of_grids() -> Iterator[Base]:
    sizes = "bias_scale: 20 bias_scale: 30 bias_scale: 50 net_width: 64 net_height: 64"
    for classes, kind, channels in ((1, "SIGMOID", 5), (2, "SOFTMAX", 6), (2, "SOFTMAX", 16)):
        marks = "true" if channels == 16 else "false"
        kept = f"nms_thresh: 0.35 confidence_threshold: 0.4 keep_top_k: 9 has_lm: {marks}"
        field = f"detection_output_param {{ num_classes: {classes} class_type: {kind} {sizes} {kept} }}"
        maps = []
        for size in (8, 4, 2):
            one = np.random.RandomState(size).uniform(-1, 1, (2, channels, size, size)).astype(np.float32)
            one[:, :2], one[:, 2:4] = np.abs(one[:, :2]) * 1.5, -np.abs(one[:, 2:4]) * 1.5
            maps.append(one)
        shapes = dict(zip("abc", (one.shape for one in maps), strict=True))
        text = net_text(f'type: "CenterGridOutput" top: "y" {field}', **shapes)
        yield from_text(text, dialect=YUQJ, a=maps[0], b=maps[1], c=maps[2])


def _of_cells() -> Iterator[Base]:
    """Layers that look for cells of one blob in another, through what lies between."""
    inputs = input_layer("data", 2, 3, 9, 11) + input_layer("other", 2, 2, 9, 11)
    window = 'num_output: 2 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "gaussian" std: 1 }'
    between = layer("conv", "Convolution", "data", "peaks", f"convolution_param {{ {window} }}")
    crop = "crop_patch_from_max_feature_position_param { crop_factor: 0.4 match_channel: false match_channel: true }"
    for kind, more in (("CropPatchFromMaxFeaturePosition", crop), ("ResizeWithMap", "")):
        yield from_text(inputs + between + layer("l", kind, "data peaks data other", "a b", more), dialect=POSE_ACTION)


def _of_yolo() -> Iterator[Base]:
    """Of the second generation."""
    maps = np.random.RandomState(1).randn(1, 14, 3, 3).astype(np.float32)
    text = 'type: "Region" top: "y" region_param { classes: 2 coords: 4 boxes_of_each_grid: 2 softmax: true }'
    yield from_text(net_text(text, x=maps.shape), dialect=YOLO_SECOND, x=maps)
    box = "side: 3 classes: 2 num_box: 2 biases: 1.5 biases: 2 biases: 3 biases: 1"
    text = f'{box} confidence_threshold: 0.2 nms_threshold: 0.3 coords: 4 label_map_file: "a"'
    text = f'type: "DetectionOutput" top: "y" detection_output_param {{ {text} }}'
    yield from_text(net_text(text, x=maps.shape), dialect=YOLO_SECOND, x=maps)
    prior = "min_size: 6 max_size: 9 aspect_ratio: 2 flip: true clip: true variance: 0.2 offset: 0.25"
    for more, dialect in (
        ("denser_prior_boxes: true step: 4 img_size: 20", "MhLiao/TextBoxes_plusplus"),
        ("denser_prior_boxes: true step_h: 4 step_w: 3 img_h: 20 img_w: 18", "MhLiao/TextBoxes_plusplus"),
    ):
        text = f'type: "PriorBox" top: "y" prior_box_param {{ {prior} {more} }}'
        yield from_text(net_text(text, x=(1, 2, 3, 4), data=(1, 3, 15, 16)), dialect=dialect)
    several = prior.replace("offset: 0.25", "offset_h: 0.5 offset_h: 1 offset_w: 0.5 offset_w: 0.25")
    text = f'type: "PriorBox" top: "y" prior_box_param {{ {several} }}'
    yield from_text(net_text(text, x=(1, 2, 3, 4), data=(1, 3, 15, 16)), dialect=OPENCV)


def _of_norms_and_volumes() -> Iterator[Base]:
    x, volumes = (2, 3, 4, 5), np.random.RandomState(1).randn(1, 2, 5, 6, 7).astype(np.float32)
    for more in (
        "kernel_l: 2 kernel_size: 3 stride_l: 2 stride: 2 pad: 1 pad_l: 1 pool: AVE",
        "kernel_l: 2 kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0 pool: MAX",
        "global_pooling: true kernel_l: 2 engine: CAFFE",
    ):
        text = f'type: "Pooling3D" top: "y" pooling3d_param {{ {more} }}'
        yield from_text(net_text(text, x=volumes.shape), dialect=P3D, x=volumes)
    for more in (
        "kernel_size: 3 kernel_size: 2 kernel_size: 3 stride: 2 stride: 1 stride: 2 pad: 1 pool: AVE",
        "kernel_size: 2 stride: 2 pool: MAX engine: CAFFE",
        "spatial_global_pooling: true pool: AVE",
    ):
        text = f'type: "Pooling" top: "y" pooling_param {{ {more} }}'
        yield from_text(net_text(text, x=volumes.shape), dialect=BANNY, x=volumes)
    thetas = "theta_alpha: 4 theta_beta: 2.5 theta_gamma: 1.5"
    for more, dialect in (
        ("spatial_filter_weight: 3 bilateral_filter_weight: 5", "bittnt/caffe"),
        (
            'spatial_filter_weights_str: "3 4 5" bilateral_filter_weights_str: "5 6 7" force_cpu: true',
            "torrvision/caffe@crfrnn",
        ),
    ):
        text = (
            f'type: "MultiStageMeanfield" top: "y" multi_stage_meanfield_param {{ num_iterations: 2 {thetas} {more} }}'
        )
        yield from_text(net_text(text, a=x, b=x, c=x), dialect=dialect)
    flow = np.random.RandomState(2).uniform(-2, 2, (2, 2, 4, 5)).astype(np.float32)
    yield from_text(net_text('type: "Warping" top: "y"', x=x, flow=flow.shape), dialect="lxx1991/caffe_mpi", flow=flow)
    norm = "batch_norm_param { eps: 0.1 use_global_stats: true moving_average_fraction: 0.5 }"
    text = input_layer("x", *x) + layer("power", "Power", "x", "y") + layer("l", "BatchNormScale", "y", "y", norm)
    yield from_text(f"force_backward: true {text}", dialect=YUQJ)
    steps = f"recurrent_param {{ num_output: 3 weight_filler {FILLER} bias_filler {FILLER} }}"
    text = net_text(f'type: "LSTMNew" top: "y" {steps}', x=(4, 2, 5), cont=(4, 2))
    yield from_text(text, dialect="tonghe90/textspotter", cont=np.ones((4, 2), np.float32))
    exposed = steps.replace("num_output: 3", "num_output: 3 expose_hidden: true")
    shapes = {"x": (4, 2, 5), "cont": (4, 2), "a": (1, 2, 3), "b": (1, 2, 3)}
    text = net_text(f'type: "LSTMNew" top: "y" top: "h" top: "c" {exposed}', **shapes)
    yield from_text(text, dialect="tonghe90/textspotter", cont=np.ones((4, 2), np.float32))
    value = f"parameter_param {{ shape {{ dim: 2 dim: 3 }} norm_axis: 0 filler {FILLER} }}"
    text = input_layer("x", 2, 3) + layer("p", "Parameter", "", "p", value) + layer("l", "Eltwise", "x p", "y")
    yield from_text(text, dialect="openvinotoolkit/training_toolbox_caffe")
    yield from _of_bounds()


def _of_bounds() -> Iterator[Base]:
    """Scale of caffe-windows with bounds that factors lie beyond, and its Parameter."""
    spread = 'filler { type: "uniform" min: -2 max: 2 }'
    for more in ("min_value: 0.5", "max_value: 0.25", "min_value: -0.5 max_value: 0.5"):
        own = f"{more} axis: 1 num_axes: 2 bias_term: true {spread} bias_filler {FILLER}"
        text = net_text(f'type: "Scale" top: "y" scale_param {{ {own} }}', x=(2, 3, 4))
        yield from_text(text, dialect="happynear/caffe-windows")
    value = f"parameter_param {{ shape {{ dim: 2 dim: 3 }} blob_filler {FILLER} }}"
    text = input_layer("x", 2, 3) + layer("p", "Parameter", "", "p", value) + layer("l", "Eltwise", "x p", "y")
    yield from_text(text, dialect="happynear/caffe-windows")


def _of_inner_products() -> Iterator[Base]:
    x, rows = (2, 3, 4), np.random.RandomState(5).uniform(-2, 2, (5, 4)).astype(np.float32)
    own = f"num_output: 3 axis: 2 weight_filler {FILLER} bias_filler {FILLER}"
    for more, shapes in (
        ("normalize: true", {"x": x}),
        ("normalize: false transpose: true", {"x": x}),
        ("bias_term: false", {"x": x, "w": rows.shape}),
        ("", {"x": x, "w": rows.shape, "b": (5,)}),
    ):
        text = net_text(f'type: "InnerProduct" top: "y" inner_product_param {{ {own} {more} }}', **shapes)
        yield from_text(text, dialect="happynear/caffe-windows")
    noisy = f'type: "InnerProduct" top: "y" inner_product_param {{ {own} enable_noise: true sigma_init: 0.5 }}'
    yield from_text(net_text(noisy, x=x), dialect=MYCAFFE, phase="TRAIN")
    plain = f'type: "InnerProduct" top: "y" inner_product_param {{ {own} min_top_axes: 2 }}'
    yield from_text(net_text(plain, x=x), dialect=MYCAFFE)
    recurrent = f'type: "Lstm" top: "y" recurrent_param {{ num_output: 3 weight_filler {FILLER} engine: CAFFE }}'
    marks = np.ones((6, 2), np.float32)
    yield from_text(net_text(recurrent, x=(6, 2, 4), marks=marks.shape), dialect=MYCAFFE, marks=marks)
    text = net_text('type: "SoftmaxWithLoss" top: "y" top: "p" top: "each"', x=(4, 3), labels=(4,))
    yield from_text(text, dialect="daijifeng001/caffe-rfcn", labels=np.array([0, 2, 1, 2], np.float32))
