"""The layer types that forks of Caffe define differently: which meanings a name has, and which forks share each.

Choosing a fork for a file is choosing what its layers mean, so this table is the one place that says when two forks
mean the same by a type. It was made by comparing the code of the forks (a layer's ``.cpp`` and ``.cu``), not only the
fields that they declare. A type that is not here has one meaning. A default that differs is not a meaning of its own:
the schemas tell defaults (see :mod:`.choice`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from . import BVLC, merged_file, told_layer_types

__all__ = ["MEANINGS", "Meaning", "Use", "meaning_of"]


@dataclass(frozen=True)
class Use:
    """What one layer of a file tells of the fork that wrote it.

    Attributes:
        where: its place in the file's message: ``("layer", 3)``, or in a solver ``("train_net_param", "layer", 3)``.
        type: as written; of V1 the name of the enum's value.
        generation: the message it is: ``LayerParameter`` or ``V1LayerParameter``.
        bottoms, tops: how many it has. shapes: of its bottoms, where the file declares them as inputs.
        blobs: how many the weights hold for it; None where no weights are at hand.
        set: dotted names of the fields that it sets (``bn_param.frozen``). on: those of them that it sets to true.
    """

    where: tuple[str | int, ...]
    type: str
    generation: str = "LayerParameter"
    bottoms: int = 0
    tops: int = 0
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    blobs: int | None = None
    set: frozenset[str] = frozenset()
    on: frozenset[str] = frozenset()


Test = Callable[[Use], bool]


@dataclass(frozen=True)
class Meaning:
    """What some forks mean by a layer type.

    Attributes:
        fork: the fork that it is named after.
        says: what tells it from the others, in words.
        also: forks that share it; None means every fork that has the type and that no other meaning names, or, if
            ``reads`` is given, those of them whose layer reads that parameter.
        fits: False for a layer that these forks would refuse, can make no sense of, or never had in a network.
        blobs: how many it has, where that tells.
        quiet: a change that leaves no mark in a file, in a fork that few files come from: a layer is only read so if
            this fork is asked for, or if no other fits the file.
        same_tops: the gradient alone is another than that of the meaning named (by its fork).
        same, when: for a layer that ``when`` is true of, there is no difference to the meaning named.
    """

    fork: str
    says: str = ""
    also: tuple[str, ...] | None = ()
    fits: Test | None = None
    blobs: int | None = None
    quiet: bool = False
    same_tops: str = ""
    same: str = ""
    when: Test | None = None
    reads: str = ""


# What a layer can be asked


def _always(use: Use) -> bool:
    return True


def _bottoms(*counts: int) -> Test:
    return lambda use: use.bottoms in counts


def _tops(*counts: int) -> Test:
    return lambda use: use.tops in counts


def _numbers(bottom: int, count: int) -> Test:
    """A bottom holds ``count`` numbers per example, as far as the file tells."""

    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is None or shape[-1] == count

    return test


def _axes(bottom: int, *counts: int) -> Test:
    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is None or len(shape) in counts

    return test


def _flat(bottom: int) -> Test:
    """A bottom is known to have no positions: its third axis and those that follow are 1."""

    def test(use: Use) -> bool:
        shape = use.shapes[bottom] if bottom < len(use.shapes) else None
        return shape is not None and all(n == 1 for n in shape[2:])

    return test


def _is_one_stream(use: Use) -> bool:
    """Its sequences need no marks of where they begin, or are known to be of one stream."""
    return use.bottoms == 1 or (bool(use.shapes) and use.shapes[0] is not None and use.shapes[0][1:2] == (1,))


def _may_be_one_stream(use: Use) -> bool:
    return _is_one_stream(use) or not use.shapes or use.shapes[0] is None


def _sets(*names: str) -> Test:
    return lambda use: any(name in use.set for name in names)


def _leaves(*names: str) -> Test:
    return lambda use: not any(name in use.set for name in names)


def _all(*tests: Test) -> Test:
    return lambda use: all(test(use) for test in tests)


# The table

_SSD = "weiliu89/caffe@ssd"
_FCN = "weiliu89/caffe@fcn"
_FAST = "rbgirshick/caffe-fast-rcnn@fast-rcnn"
_FASTER = "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445"
_RFCN = "daijifeng001/caffe-rfcn"
_CASCADE, _MSCNN = "zhaoweicai/cascade-rcnn", "zhaoweicai/mscnn"
_SEGNET, _PSPNET = "alexgkendall/caffe-segnet", "hszhao/PSPNet"
_WINDOWS, _WINDOWS_MASTER, _WINDOWS_WU = (
    "happynear/caffe-windows",
    "happynear/caffe-windows@master",
    "GuohongWu/caffe-windows",
)
_NVIDIA, _NVIDIA_15 = "NVIDIA/caffe", "NVIDIA/caffe@caffe-0.15"
_JACINTO, _JACINTO_16 = "tidsp/caffe-jacinto@caffe-0.17", "tidsp/caffe-jacinto@caffe-0.16"
_MPI = "Caffe-MPI/Caffe-MPI.github.io"
_INTEL = "intel/caffe"
_CAMBRICON = ("Cambricon/caffe", "Cambricon/caffe:src/caffe/proto/old_caffe.proto")
_SYNOPSYS = "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
_POSE, _POSE_ACTION = "chanyn/3Dpose_ssl", "zimenglan-sysu-512/pose_action_caffe"
_CC4, _OCR, _YUQJ = "dlunion/CC4.0", "senlinuc/caffe_ocr", "yuqj1991/caffe_train"
_FRCNN, _PRIV, _3D = "makefile/frcnn", "soeaver/py-RFCN-priv", "superxuang/caffe_3d_faster_rcnn"
_YOLO, _YOLO_WINDOWS = "eric612/MobileNet-YOLO", "eric612/Caffe-YOLOv3-Windows"
_YOLO2, _YOLO2_GKLZ, _YOLO9000 = "BirdeeChen/caffe_yolo_v2", "gklz1982/caffe-yolov2", "choasup/caffe-yolo9000"
_YOLO5 = "Wulingtian/yolov5_caffe"
_JOLI, _REFINE = "jolibrain/caffe", "sfzhang15/RefineDet"
_TEXT, _TEXT_PLUS, _SSTD = "MhLiao/TextBoxes", "MhLiao/TextBoxes_plusplus", "BestSonny/SSTD"
_RMPE, _MS_SSD = "MVIG-SJTU/RMPE", "BOBrown/caffe-ssd-microsoft"
_DREADLORD = (
    "dreadlord1984/SSD_windows_caffe",
    "dreadlord1984/SSD_windows_caffe:src/caffe/proto/caffeSSD.proto",
)
_OPENVINO = "openvinotoolkit/training_toolbox_caffe"
_TVG, _WSL, _SEGAWARE = "torrvision/caffe-tvg", "shenyunhang/caffe-wsl", "aharley/segaware"
_BANNY, _ACTION, _XIONG = "BannyStone/Caffe", "Lyp100208/Caffe_action", "yjxiong/caffe"
_FLOWNET2, _FLOWNET, _LITE = "lmb-freiburg/flownet2", "liruoteng/FlowNet", "twhui/LiteFlowNet"
_LSTM, _CTPN, _SPOTTER = "junhyukoh/caffe-lstm", "tianzhi0549/CTPN", "tonghe90/textspotter"
_C3D_NEW = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
_MINI, _PVANET = "luoyetx/mini-caffe", "sanghoon/caffe@dev_pvanet"
_MASKYOLO = "leon-liangwu/MaskYolo_Caffe"

# The first meaning of a type is the one its name is best known for.
MEANINGS: dict[str, tuple[Meaning, ...]] = {
    "Axpy": (
        Meaning(_NVIDIA, "a factor for each channel", None),
        Meaning(_BANNY, "a factor for each frame of each channel", quiet=True),
    ),
    "BN": (
        Meaning(
            _SEGNET,
            "two blobs, scale and shift",
            ("TimoSaemann/caffe-enet", "TimoSaemann/caffe-segnet-cudnn5", "HyeonwooNoh/caffe", _3D),
            blobs=2,
        ),
        Meaning(
            _PSPNET,
            "four blobs, slope, bias, mean and variance",
            ("BassyKuo/PSPNET-cudnn5", _XIONG, "yjxiong/caffe@interp", _BANNY),
            blobs=4,
        ),
        Meaning(_SYNOPSYS, "SegNet's, or PSPNet's if icnet", quiet=True),
        Meaning("lxx1991/caffe_mpi", "PSPNet's with a momentum of 0.95", blobs=4, quiet=True),
        Meaning(
            _WINDOWS,
            "four blobs, the last of them the inverse standard deviation",
            (_WINDOWS_WU, "wy1iu/LargeMargin_Softmax_Loss", _MINI),
            blobs=4,
            quiet=True,
        ),
        Meaning(
            "ducha-aiki/caffe",
            "four blobs, averages only if moving_average",
            (_WINDOWS_MASTER, "bnkang/caffe-windows-for-fr", _ACTION),
            blobs=4,
            quiet=True,
        ),
        Meaning(_FCN, "two blobs, of a map each unless across_spatial", blobs=2, quiet=True),
        Meaning(_TVG, "batch renormalisation", blobs=4, quiet=True),
        Meaning(_CAMBRICON[0], "frozen unless told otherwise", _CAMBRICON[1:], blobs=4, quiet=True),
    ),
    "BatchNorm": (
        Meaning(BVLC, "running sums and their factor", None),
        Meaning(_NVIDIA_15, "scale, bias, mean, variance and a number without meaning", quiet=True),
        Meaning(_NVIDIA, "averages, their factor, and maybe scale and bias", quiet=True),
        Meaning(
            _JACINTO,
            "averages that no factor divides",
            (_JACINTO_16, _MPI),
            quiet=True,
            same=_NVIDIA,
            when=lambda use: "batch_norm_param.scale_bias" in use.on,
        ),
    ),
    "BoxAnnotatorOHEM": (Meaning(_RFCN, also=None),),
    "CTCGreedyDecoder": (
        Meaning(_OCR, "a row for each sequence, blank_index", (_YUQJ,)),
        Meaning(_CC4, "a row for each sequence, the loss's blank_label"),
        Meaning("ChWick/caffe@warp-ctc", "a column for each sequence", fits=_bottoms(2, 3)),
        Meaning(_TEXT_PLUS, "a row for each sequence, with markers", fits=_bottoms(2, 3)),
    ),
    "CenterLoss": (
        Meaning("ydwen/caffe-face", "a centre moves once per class", ("AlfredXiangWu/caffe", _CC4, _YUQJ)),
        Meaning(
            _WINDOWS,
            "a centre moves once per example",
            (_WINDOWS_WU, "imistyrain/ssd"),
            same_tops="ydwen/caffe-face",
        ),
        Meaning(_WSL, "centres of regions", quiet=True),
    ),
    "Convolution3D": (
        Meaning(_C3D_NEW, "kernel_depth and filter_group"),
        Meaning("CV-IP/3DObject-detection", "convolution_3d_param"),
        Meaning(_CAMBRICON[0], "of its accelerator", _CAMBRICON[1:], quiet=True),
    ),
    "ConvolutionDepthwise": (
        Meaning("dreadlord1984/SSD_windows_caffe", "no padding unless told otherwise", None),
        Meaning(
            _CC4,
            "a padding of 1 unless told otherwise",
            same="dreadlord1984/SSD_windows_caffe",
            when=_sets("convolution_param.pad", "convolution_param.pad_h"),
        ),
    ),
    "CoordsFromHeatMaps": (Meaning(_POSE), Meaning(_POSE_ACTION)),
    "Correlation": (Meaning(_FLOWNET2, also=None),),
    "DecodeBBox": (
        Meaning(_CASCADE, "offsets, boxes and maybe the true boxes", (_MSCNN,), _bottoms(2, 3)),
        Meaning(_FRCNN, "offsets, scores and boxes", fits=_bottoms(3)),
    ),
    "DeformableConvolution": (
        Meaning(_FRCNN, "", (_PRIV,)),
        Meaning("unsky/FPN", "the weights times the bottom itself, whatever the offsets", quiet=True),
    ),
    "DetectionEvaluate": (
        Meaning(_SSD, "", None, _bottoms(2)),
        Meaning(
            _REFINE,
            "a label beyond the classes is an error",
            (_NVIDIA, _JACINTO, _SYNOPSYS, _JOLI, _OPENVINO),
            _bottoms(2),
            same=_SSD,
            when=_always,
        ),
        Meaning(_MS_SSD, "rows of -1 for what is no detection", (_YOLO9000, _TEXT, _RMPE), quiet=True),
        Meaning(_DREADLORD[0], "small ground truths left out", _DREADLORD[1:], quiet=True),
        Meaning(_YOLO2_GKLZ, "no background", quiet=True),
        Meaning(_YUQJ, "landmarks", quiet=True),
        Meaning(_TEXT_PLUS, "rotated boxes", quiet=True),
        Meaning(_CASCADE, "boxes in pixels", fits=_bottoms(3)),
    ),
    "DetectionOutput": (
        Meaning(_SSD, "a fourth bottom is the image", None, _all(_bottoms(3, 4), _axes(3, 4))),
        Meaning(
            _REFINE,
            "a fourth and fifth bottom are the anchors' refinement",
            (_JOLI, _SYNOPSYS),
            _all(_bottoms(3, 4, 5), _axes(3, 2)),
            same=_SSD,
            when=_bottoms(3),
        ),
        Meaning(
            _DREADLORD[0],
            "every box from an nms_threshold of 1 on",
            _DREADLORD[1:],
            _bottoms(3),
            same=_SSD,
            when=_always,
        ),
        Meaning(_MS_SSD, "corners cut off at the image", (_RMPE, _TEXT, *_CAMBRICON), quiet=True),
        Meaning(_MINI, "rows without the axes before them", quiet=True),
        Meaning(_YOLO2, "of YOLO 2", (_YOLO2_GKLZ,), _bottoms(1)),
        Meaning(_YOLO9000, quiet=True),
        Meaning(_YUQJ, "landmarks", quiet=True),
        Meaning(_TEXT_PLUS, "rotated boxes", quiet=True),
    ),
    "Downsample": (Meaning(_FLOWNET2, also=None),),
    "FlowWarp": (Meaning(_FLOWNET2, also=None),),
    "ChannelNorm": (Meaning(_FLOWNET2, also=None),),
    "Mean": (Meaning(_FLOWNET2, also=None),),
    "Resample": (Meaning(_FLOWNET2, also=None),),
    "HeatMapsFromCoords": (Meaning(_POSE), Meaning(_POSE_ACTION)),
    "Interp": (
        Meaning("yjxiong/caffe@interp", "zoom_factor keeps the corners", None),
        Meaning(
            _CC4,
            "zoom_factor multiplies the size",
            same="yjxiong/caffe@interp",
            when=_leaves("interp_param.zoom_factor", "interp_param.shrink_factor"),
            quiet=True,
        ),
    ),
    "L1Loss": (
        Meaning(_FLOWNET2, "targets may be NaN", (_FLOWNET, _LITE, _SEGAWARE, _SYNOPSYS), _bottoms(1, 2)),
        Meaning(
            _NVIDIA,
            "a plain absolute difference",
            (_NVIDIA_15, _JACINTO, _JACINTO_16, _MPI, "AlfredXiangWu/caffe"),
            _bottoms(2),
        ),
    ),
    "Lstm": (
        Meaning(_LSTM, "rows of steps and streams, with batch_size streams"),
        Meaning(
            _CTPN,
            "steps and streams are two axes",
            (_CC4, _FRCNN),
            _all(_axes(0, *range(3, 33)), _may_be_one_stream),
        ),
        Meaning(
            _OCR,
            "the values of a step are one axis",
            (_YUQJ,),
            _all(_axes(0, 3), _may_be_one_stream),
            same=_CTPN,
            when=_always,  # of three axes, that is
        ),
        Meaning(
            _SPOTTER,
            "each stream has marks of its own",
            fits=_axes(0, *range(3, 33)),
            same=_CTPN,
            when=_is_one_stream,
        ),
    ),
    "Mask": (Meaning(_POSE), Meaning("lxx1991/caffe_mpi")),
    "MultiBoxLoss": (
        Meaning(_SSD, "", None, _bottoms(4)),
        Meaning(
            _REFINE,
            "a fifth and sixth bottom are the anchors' refinement",
            (_JOLI, _SYNOPSYS),
            _bottoms(4, 5, 6),
            same=_SSD,
            when=_bottoms(4),
        ),
        Meaning(_MS_SSD, "hard negatives by their score", (_YOLO9000, _TEXT, _RMPE), quiet=True),
        Meaning(_DREADLORD[0], quiet=True, also=_DREADLORD[1:]),
        Meaning(_TEXT_PLUS, "rotated boxes", quiet=True),
    ),
    "Normalize": (
        Meaning(_SSD, "norm_param, with a learned scale", None),
        Meaning(_WINDOWS_WU, "norm_param, eps 1e-6", quiet=True),
        Meaning(_WINDOWS, "each position, by normalize_type", (_YUQJ,)),
        Meaning(
            _XIONG,
            "each example",
            (
                *(_WINDOWS_MASTER, "yjxiong/caffe@interp", _BANNY, "bnkang/caffe-windows-for-fr", "ducha-aiki/caffe"),
                "lxx1991/caffe_mpi",
            ),
        ),
        Meaning("pulkitag/caffe", "less the mean"),
    ),
    "PSROIPooling": (
        Meaning(_RFCN, "the mean of a bin", None),
        Meaning(_PRIV, "four points of a bin", quiet=True),
    ),
    "Permute": (
        Meaning(_SSD, "order", None),
        Meaning(_ACTION, "two axes", quiet=True),
    ),
    "Pooling3D": (
        Meaning(_C3D_NEW),
        Meaning("CV-IP/3DObject-detection"),
        Meaning(_SYNOPSYS, quiet=True),
        Meaning(_3D, quiet=True),
        Meaning(_POSE_ACTION),
        Meaning(_CAMBRICON[0], "", _CAMBRICON[1:], quiet=True),
    ),
    "PoseHeatMapLoss": (
        Meaning(_POSE, "keeps a share of the background at random"),
        Meaning(
            _POSE_ACTION,
            "keeps hard negatives too, and must say which",
            fits=_all(
                _sets("pose_heat_map_loss_param.prob_num"),
                _sets("pose_heat_map_loss_param.heat_score_thres"),
                _sets("pose_heat_map_loss_param.parts_err_num_thres"),
            ),
        ),
    ),
    "PosePDJAccuracy": (
        Meaning(_POSE),
        Meaning(
            _POSE_ACTION,
            "writes the best so far into its log, and nothing at the first iteration",
            same=_POSE,  # its top
            when=_leaves("pose_pdj_accuracy_param.zero_iter_test"),
        ),
    ),
    "PriorBox": (
        Meaning(_SSD, "", None),
        Meaning(_SSTD, "a ratio stretches one side only", quiet=True),
        Meaning(_TEXT, "every box twice", quiet=True),
        Meaning(_RMPE, "sizes in fractions of a pixel", (_YOLO9000,), quiet=True),
        Meaning(_DREADLORD[0], "no boxes of max_size", _DREADLORD[1:], quiet=True),
        Meaning(_YUQJ, "kinds of boxes of its own", quiet=True),
    ),
    "Proposal": (
        Meaning(_PVANET, "four numbers of image information", fits=_numbers(2, 4)),
        Meaning(_MINI, "three numbers of image information", fits=_numbers(2, 3)),
        Meaning(_WINDOWS, "three numbers, its own order of boxes", (_WINDOWS_WU,), _numbers(2, 3)),
        Meaning(_3D, "in three dimensions", quiet=True),
        Meaning(_SYNOPSYS, quiet=True),
        Meaning(_CAMBRICON[0], "of its accelerator", _CAMBRICON[1:], quiet=True),
    ),
    "ReLU6": (
        Meaning(_YOLO, "", None),
        Meaning(_YOLO_WINDOWS, "a plain ReLU", quiet=True),
    ),
    "ROIAlign": (
        Meaning(_CASCADE, "of Cascade R-CNN", (_MSCNN,)),
        Meaning(_FRCNN, "bi_type and is_multi_interpolate"),
        Meaning(_SYNOPSYS, "roi_align_param", quiet=True),
        Meaning(_PRIV, "roi_align_param", quiet=True),
        Meaning(_WSL, quiet=True),
        Meaning(_CAMBRICON[0], "of its accelerator", _CAMBRICON[1:], quiet=True),
    ),
    "ROIPooling": (
        Meaning(_FAST, "", None),
        Meaning(
            _WINDOWS,
            "halves below 0 rounded up",
            (_WINDOWS_MASTER, _WINDOWS_WU, "bnkang/caffe-windows-for-fr", "ducha-aiki/caffe"),
            quiet=True,
        ),
        Meaning(_INTEL, "a gradient for every cell of a maximum", same_tops=_FAST),
        Meaning(_CASCADE, "a gradient for boxes that end before they start", same_tops=_FAST),
        Meaning(_MSCNN, "no gradient beyond the map", ("BoLiu-SVCL/video-caffe",), same_tops=_FAST),
        Meaning(
            _JOLI,
            "boxes as parts of the image unless spatial_scale is given",
            same=_FAST,
            when=_sets("roi_pooling_param.spatial_scale"),
        ),
        Meaning(_3D, "in three dimensions", quiet=True),
    ),
    "Reorg": (
        Meaning(_YOLO, "", None),
        Meaning(_YOLO2, "the derivative as its gradient", quiet=True, same_tops=_YOLO),
        Meaning(_YOLO5, "reverse the other way round", quiet=True),
        Meaning(_YOLO9000, quiet=True),
        Meaning(_SYNOPSYS, "width and height exchanged", quiet=True),
    ),
    "RescaledPoseCoords": (
        Meaning(_POSE, "a plain division"),
        # All of its networks have them so: of its CoordsFromHeatMaps, or of its data layers.
        Meaning(_POSE_ACTION, "-1 outside the image, x mirrored if flippable", fits=_axes(0, 4)),
    ),
    "Resize": (
        Meaning(_POSE_ACTION, "a size, factors, or a second bottom", fits=_bottoms(1, 2)),
        Meaning(_WINDOWS, "a size, or scales for a pyramid", (_WINDOWS_WU,), _bottoms(1)),
        Meaning(_MASKYOLO, "a size, on the GPU's grid", fits=_bottoms(1)),
        Meaning("philkr/caffe@future", "a size or scales, with a crop", quiet=True),
    ),
    "Reverse": (
        Meaning(_CTPN, "", None),
        Meaning(_ACTION, quiet=True),
        Meaning(_SYNOPSYS, quiet=True),
    ),
    "ShuffleChannel": (Meaning("imistyrain/ssd", also=None),),
    "SmoothL1Loss": (
        Meaning(_FAST, "divided by the examples", None, _bottoms(2, 3)),
        Meaning(
            _FASTER,
            "divided by the examples, with sigma and weights outside",
            None,
            _bottoms(2, 4),
            same=_FAST,
            when=_all(_bottoms(2), _leaves("smooth_l1_loss_param.sigma")),
            reads="smooth_l1_loss_param",
        ),
        Meaning(
            _INTEL,
            "Faster R-CNN's, undivided with loss_param.normalization NONE",
            fits=_bottoms(2, 4),
            same=_FASTER,
            when=_leaves("loss_param.normalization"),
        ),
        Meaning(
            _CASCADE,
            "Faster R-CNN's, with a second top",
            fits=_bottoms(2, 4),
            same=_FASTER,
            when=lambda use: use.tops < 2,
        ),
        Meaning(
            _RFCN,
            "divided by examples and positions, or as loss_param says",
            fits=_bottoms(2, 3),
            same=_FAST,
            when=_all(_flat(0), _leaves("loss_param")),
        ),
        Meaning(
            _WINDOWS,
            "with a turn_point",
            fits=_bottoms(2, 3),
            same=_FAST,
            when=_leaves("smoothl1_param.turn_point"),
        ),
        Meaning(
            _SEGAWARE,
            "divided by examples and positions",
            ("ShaoqingRen/caffe",),
            _bottoms(2, 3),
            quiet=True,
            same=_FAST,
            when=_flat(0),
        ),
        Meaning("eldar/deepcut-cnn", "divided by the sum of the weights", fits=_bottoms(3), quiet=True),
        Meaning(_SYNOPSYS, "abssum", quiet=True),
        Meaning(_YUQJ, "weights outside", fits=_bottoms(2, 3), quiet=True),
    ),
    "SmoothL1LossOHEM": (Meaning("Microsoft/caffe", also=None),),
    "SoftmaxWithLossOHEM": (
        Meaning("Microsoft/caffe", "", None),
        Meaning(
            _INTEL,
            "the CPU code of Intel",
            same="Microsoft/caffe",
            when=lambda use: use.tops < 3 and "loss_param.ignore_label" not in use.set,
        ),
    ),
    "SpatialDropout": (Meaning(_INTEL, also=None),),
    "SpatialTransformer": (
        Meaning("daerduoCarey/SpatialTransformerLayer", "", (_CC4,)),
        Meaning(_RMPE, "de_transform", quiet=True),
    ),
    "Transpose": (
        Meaning(_CTPN, "the axes in dim", None),
        Meaning("BestSonny/apollocaffe", "channels last, as rows", quiet=True),
        Meaning("CharlesShang/caffe", "channels last, as rows of four axes", quiet=True),
        Meaning(_ACTION, "two axes", quiet=True),
    ),
    "Upsample": (
        Meaning(
            _SEGNET,
            "unpooling by a mask",
            ("AlfredXiangWu/caffe", "TimoSaemann/caffe-enet", "TimoSaemann/caffe-segnet-cudnn5", _SYNOPSYS, _JOLI),
            _bottoms(2),
        ),
        Meaning(_YOLO, "every value repeated", ("imistyrain/ssd", _YUQJ), _bottoms(1)),
        Meaning(_3D, "unpooling in three dimensions", fits=_bottoms(2), quiet=True),
        Meaning(_YOLO5, "by mode", quiet=True),
        Meaning(_CAMBRICON[0], "of its accelerator", _CAMBRICON[1:], quiet=True),
    ),
    "VisualizedHeatMaps": (Meaning(_POSE), Meaning(_POSE_ACTION)),
    "Yolov3DetectionOutput": (
        Meaning(_YOLO, "", ("Tencent/ncnn",)),
        Meaning(_YOLO_WINDOWS, "every map a square", same=_YOLO, when=_always),
    ),
}


# Looking it up


@lru_cache(maxsize=4096)
def meaning_of(layer_type: str, dialect: str) -> Meaning | None:
    """What ``dialect`` (one name, or the path of a ``.proto`` file) means by a layer type; None if that is not known.

    A dialect that tells no layer types, such as a user's own file, is taken to mean what those forks mean whose
    parameters it declares. A type that is not in the table has one meaning, named after no fork.
    """
    meanings = MEANINGS.get(layer_type, (Meaning(""),))
    if len(meanings) == 1:
        return meanings[0]
    for meaning in meanings:
        if dialect == meaning.fork or dialect in (meaning.also or ()):
            return meaning
    others = sorted((meaning for meaning in meanings if meaning.also is None), key=lambda m: not m.reads)
    types = told_layer_types(dialect)
    if types:
        read = types.get(layer_type, told_layer_types(BVLC).get(layer_type))
        return None if read is None else next((m for m in others if not m.reads or m.reads in read), None)
    alike = {meaning: _likeness(layer_type, dialect, meaning.fork) for meaning in meanings}
    most = max(alike.values())
    found = [meaning for meaning, fields in alike.items() if fields == most >= 0]
    found = [meaning for meaning in found if not meaning.quiet] or found
    return found[0] if len(found) == 1 else None


def _likeness(layer_type: str, dialect: str, fork: str) -> int:
    """How many fields ``dialect`` declares as ``fork`` does for the parameters of a type; -1 if it declares others."""
    (mine, _), (theirs, types) = merged_file(dialect), merged_file(fork)
    count = 0
    for name in types.get(layer_type, ()):
        field, expected = (file.messages["LayerParameter"].get(name) for file in (mine, theirs))
        if field is None or expected is None:
            return -1
        fields, expected_fields = (
            {f.name: (f.type, f.label, f.default) for f in file.messages[type_].values()}
            for file, type_ in ((mine, field.type), (theirs, expected.type))
        )
        if fields != expected_fields:
            return -1
        count += len(fields)
    return count
