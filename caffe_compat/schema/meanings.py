"""The layer types that forks of Caffe define differently: which meanings a name has, and which forks share each.

Choosing a fork for a file is choosing what its layers mean, so this table is the one place that says when two forks
mean the same by a type. It was made by comparing the code of the forks (a layer's ``.cpp`` and ``.cu``), not only the
fields that they declare. A type that is not here has one meaning. A default that differs is not a meaning of its own:
the schemas tell defaults (see :mod:`.choice`).
"""

from __future__ import annotations

from . import BVLC
from . import fork_names as forks
from .uses import (
    Meaning,
    always,
    axes,
    bottoms,
    every,
    flat,
    is_one_stream,
    leaves,
    may_be_one_stream,
    numbers,
    sets,
    values,
)

__all__ = ["MEANINGS"]


# The first meaning of a type is the one its name is best known for.
MEANINGS: dict[str, tuple[Meaning, ...]] = {
    "Axpy": (
        Meaning(forks.NVIDIA, "a factor for each channel", None),
        Meaning(forks.BANNY, "a factor for each frame of each channel", quiet=True),
    ),
    "BN": (
        Meaning(
            forks.SEGNET,
            "two blobs, scale and shift",
            ("TimoSaemann/caffe-enet", "TimoSaemann/caffe-segnet-cudnn5", "HyeonwooNoh/caffe", forks.FRCNN_3D),
            blobs=2,
        ),
        Meaning(
            forks.PSPNET,
            "four blobs, slope, bias, mean and variance",
            ("BassyKuo/PSPNET-cudnn5", forks.XIONG, "yjxiong/caffe@interp", forks.BANNY),
            blobs=4,
        ),
        Meaning(forks.SYNOPSYS, "SegNet's, or PSPNet's if icnet", quiet=True),
        Meaning("lxx1991/caffe_mpi", "PSPNet's with a momentum of 0.95", blobs=4, quiet=True),
        Meaning(
            forks.WINDOWS,
            "four blobs, the last of them the inverse standard deviation",
            (forks.WINDOWS_WU, "wy1iu/LargeMargin_Softmax_Loss", forks.MINI),
            blobs=4,
            quiet=True,
        ),
        Meaning(
            "ducha-aiki/caffe",
            "four blobs, averages only if moving_average",
            (forks.WINDOWS_MASTER, "bnkang/caffe-windows-for-fr", forks.ACTION),
            blobs=4,
            quiet=True,
        ),
        Meaning(forks.FCN, "two blobs, of a map each unless across_spatial", blobs=2, quiet=True),
        Meaning(forks.TVG, "batch renormalisation", blobs=4, quiet=True),
        Meaning(forks.CAMBRICON[0], "frozen unless told otherwise", forks.CAMBRICON[1:], blobs=4, quiet=True),
    ),
    "BatchNorm": (
        Meaning(BVLC, "running sums and their factor", None),
        Meaning(forks.NVIDIA_15, "scale, bias, mean, variance and a number without meaning", quiet=True),
        Meaning(forks.NVIDIA, "averages, their factor, and maybe scale and bias", quiet=True),
        Meaning(
            forks.JACINTO,
            "averages that no factor divides",
            (forks.JACINTO_16, forks.MPI),
            quiet=True,
            same=forks.NVIDIA,
            when=lambda use: "batch_norm_param.scale_bias" in use.on,
        ),
        Meaning(
            "Tongcheng/caffe",
            "running sums, but scale and bias with cuDNN",
            same=BVLC,
            when=leaves("batch_norm_param.scale_filler", "batch_norm_param.bias_filler"),
            quiet=True,
        ),
    ),
    "BoxAnnotatorOHEM": (Meaning(forks.RFCN, also=None),),
    "CTCGreedyDecoder": (
        Meaning(forks.OCR, "a row for each sequence, blank_index", (forks.YUQJ,)),
        Meaning(forks.CC4, "a row for each sequence, the loss's blank_label"),
        Meaning("ChWick/caffe@warp-ctc", "a column for each sequence", fits=bottoms(2, 3)),
        Meaning(forks.TEXT_PLUS, "a row for each sequence, with markers", fits=bottoms(2, 3)),
    ),
    "CenterLoss": (
        Meaning("ydwen/caffe-face", "a centre moves once per class", ("AlfredXiangWu/caffe", forks.CC4, forks.YUQJ)),
        Meaning(
            forks.WINDOWS,
            "a centre moves once per example",
            (forks.WINDOWS_WU, "imistyrain/ssd"),
            same_tops="ydwen/caffe-face",
        ),
        Meaning(forks.WSL, "centres of regions", quiet=True),
    ),
    "Convolution3D": (
        Meaning(forks.C3D_NEW, "kernel_depth and filter_group"),
        Meaning("CV-IP/3DObject-detection", "convolution_3d_param"),
        Meaning(forks.CAMBRICON[0], "of its accelerator", forks.CAMBRICON[1:], quiet=True),
    ),
    "ConvolutionDepthwise": (
        Meaning("dreadlord1984/SSD_windows_caffe", "no padding unless told otherwise", None),
        Meaning(
            forks.CC4,
            "a padding of 1 unless told otherwise",
            same="dreadlord1984/SSD_windows_caffe",
            when=sets("convolution_param.pad", "convolution_param.pad_h"),
        ),
    ),
    "CoordsFromHeatMaps": (Meaning(forks.POSE), Meaning(forks.POSE_ACTION)),
    "Correlation": (Meaning(forks.FLOWNET2, also=None),),
    "DecodeBBox": (
        Meaning(forks.CASCADE, "offsets, boxes and maybe the true boxes", (forks.MSCNN,), bottoms(2, 3)),
        Meaning(forks.FRCNN, "offsets, scores and boxes", fits=bottoms(3)),
    ),
    "DeformableConvolution": (
        Meaning(forks.FRCNN, "", (forks.PRIV,)),
        Meaning("unsky/FPN", "the weights times the bottom itself, whatever the offsets", quiet=True),
    ),
    "DetectionEvaluate": (
        Meaning(forks.SSD, "", None, bottoms(2)),
        Meaning(
            forks.REFINE,
            "a label beyond the classes is an error",
            (forks.NVIDIA, forks.JACINTO, forks.SYNOPSYS, forks.JOLI, forks.OPENVINO),
            bottoms(2),
            same=forks.SSD,
            when=always,
        ),
        Meaning(
            forks.MS_SSD, "rows of -1 for what is no detection", (forks.YOLO9000, forks.TEXT, forks.RMPE), quiet=True
        ),
        Meaning(forks.DREADLORD[0], "small ground truths left out", forks.DREADLORD[1:], quiet=True),
        Meaning(forks.YOLO2_GKLZ, "no background", quiet=True),
        Meaning(forks.YUQJ, "landmarks", quiet=True),
        Meaning(forks.TEXT_PLUS, "rotated boxes", quiet=True),
        Meaning(forks.CASCADE, "boxes in pixels", fits=bottoms(3)),
    ),
    "DetectionOutput": (
        Meaning(forks.SSD, "a fourth bottom is the image", None, every(bottoms(3, 4), axes(3, 4))),
        Meaning(
            forks.REFINE,
            "a fourth and fifth bottom are the anchors' refinement",
            (forks.JOLI, forks.SYNOPSYS),
            every(bottoms(3, 4, 5), axes(3, 2)),
            same=forks.SSD,
            when=bottoms(3),
        ),
        Meaning(
            forks.DREADLORD[0],
            "every box from an nms_threshold of 1 on",
            forks.DREADLORD[1:],
            bottoms(3),
            same=forks.SSD,
            when=always,
        ),
        Meaning(forks.MS_SSD, "corners cut off at the image", (forks.RMPE, forks.TEXT, *forks.CAMBRICON), quiet=True),
        Meaning(forks.MINI, "rows without the axes before them", quiet=True),
        Meaning(forks.YOLO2, "of YOLO 2", (forks.YOLO2_GKLZ,), bottoms(1)),
        Meaning(forks.YOLO9000, quiet=True),
        Meaning(forks.YUQJ, "landmarks", quiet=True),
        Meaning(forks.TEXT_PLUS, "rotated boxes", quiet=True),
    ),
    "Downsample": (Meaning(forks.FLOWNET2, also=None),),
    "FlowWarp": (Meaning(forks.FLOWNET2, also=None),),
    "ChannelNorm": (Meaning(forks.FLOWNET2, also=None),),
    "Mean": (Meaning(forks.FLOWNET2, also=None),),
    "Resample": (Meaning(forks.FLOWNET2, also=None),),
    "HeatMapsFromCoords": (Meaning(forks.POSE), Meaning(forks.POSE_ACTION)),
    "Interp": (
        Meaning("yjxiong/caffe@interp", "zoom_factor keeps the corners", None),
        Meaning(
            forks.CC4,
            "zoom_factor multiplies the size",
            same="yjxiong/caffe@interp",
            when=leaves("interp_param.zoom_factor", "interp_param.shrink_factor"),
            quiet=True,
        ),
    ),
    "L1Loss": (
        Meaning(
            forks.FLOWNET2,
            "targets may be NaN",
            (forks.FLOWNET, forks.LITE, forks.SEGAWARE, forks.SYNOPSYS),
            bottoms(1, 2),
        ),
        Meaning(
            forks.NVIDIA,
            "a plain absolute difference",
            (forks.NVIDIA_15, forks.JACINTO, forks.JACINTO_16, forks.MPI, "AlfredXiangWu/caffe"),
            bottoms(2),
        ),
    ),
    "Lstm": (
        Meaning(forks.LSTM, "rows of steps and streams, with batch_size streams"),
        Meaning(
            forks.CTPN,
            "steps and streams are two axes",
            (forks.CC4, forks.FRCNN),
            every(axes(0, *range(3, 33)), may_be_one_stream),
        ),
        Meaning(
            forks.OCR,
            "the values of a step are one axis",
            (forks.YUQJ,),
            every(axes(0, 3), may_be_one_stream),
            same=forks.CTPN,
            when=always,  # of three axes, that is
        ),
        Meaning(
            forks.SPOTTER,
            "each stream has marks of its own",
            fits=axes(0, *range(3, 33)),
            same=forks.CTPN,
            when=is_one_stream,
        ),
    ),
    "Mask": (Meaning(forks.POSE), Meaning("lxx1991/caffe_mpi")),
    "MultiBoxLoss": (
        Meaning(forks.SSD, "", None, bottoms(4)),
        Meaning(
            forks.REFINE,
            "a fifth and sixth bottom are the anchors' refinement",
            (forks.JOLI, forks.SYNOPSYS),
            bottoms(4, 5, 6),
            same=forks.SSD,
            when=bottoms(4),
        ),
        Meaning(forks.MS_SSD, "hard negatives by their score", (forks.YOLO9000, forks.TEXT, forks.RMPE), quiet=True),
        Meaning(forks.DREADLORD[0], quiet=True, also=forks.DREADLORD[1:]),
        Meaning(forks.TEXT_PLUS, "rotated boxes", quiet=True),
    ),
    "Normalize": (
        Meaning(forks.SSD, "norm_param, with a learned scale", None),
        Meaning(forks.WINDOWS_WU, "norm_param, eps 1e-6", quiet=True),
        Meaning(forks.WINDOWS, "each position, by normalize_type", (forks.YUQJ,)),
        Meaning(
            forks.XIONG,
            "each example",
            (
                *(
                    forks.WINDOWS_MASTER,
                    "yjxiong/caffe@interp",
                    forks.BANNY,
                    "bnkang/caffe-windows-for-fr",
                    "ducha-aiki/caffe",
                ),
                "lxx1991/caffe_mpi",
            ),
        ),
        Meaning("pulkitag/caffe", "less the mean"),
    ),
    "PSROIPooling": (
        Meaning(forks.RFCN, "the mean of a bin", None),
        Meaning(forks.PRIV, "four points of a bin", quiet=True),
    ),
    "Permute": (
        Meaning(forks.SSD, "order", None),
        Meaning(forks.ACTION, "two axes", quiet=True),
    ),
    "Pooling3D": (
        Meaning(forks.C3D_NEW),
        Meaning("CV-IP/3DObject-detection"),
        Meaning(forks.SYNOPSYS, quiet=True),
        Meaning(forks.FRCNN_3D, quiet=True),
        Meaning(forks.POSE_ACTION),
        Meaning(forks.CAMBRICON[0], "", forks.CAMBRICON[1:], quiet=True),
    ),
    "PoseHeatMapLoss": (
        Meaning(forks.POSE, "keeps a share of the background at random"),
        Meaning(
            forks.POSE_ACTION,
            "keeps hard negatives too, and must say which",
            fits=every(
                sets("pose_heat_map_loss_param.prob_num"),
                sets("pose_heat_map_loss_param.heat_score_thres"),
                sets("pose_heat_map_loss_param.parts_err_num_thres"),
            ),
        ),
    ),
    "PosePDJAccuracy": (
        Meaning(forks.POSE),
        Meaning(
            forks.POSE_ACTION,
            "writes the best so far into its log, and nothing at the first iteration",
            same=forks.POSE,  # its top
            when=leaves("pose_pdj_accuracy_param.zero_iter_test"),
        ),
    ),
    "PriorBox": (
        Meaning(forks.SSD, "", None),
        Meaning(forks.SSTD, "a ratio stretches one side only", quiet=True),
        Meaning(forks.TEXT, "every box twice", quiet=True),
        Meaning(forks.RMPE, "sizes in fractions of a pixel", (forks.YOLO9000,), quiet=True),
        Meaning(forks.DREADLORD[0], "no boxes of max_size", forks.DREADLORD[1:], quiet=True),
        Meaning(forks.YUQJ, "kinds of boxes of its own", quiet=True),
    ),
    "Proposal": (
        Meaning(forks.PVANET, "four numbers of image information", fits=numbers(2, 4)),
        Meaning(forks.MINI, "three numbers of image information", fits=numbers(2, 3)),
        Meaning(forks.WINDOWS, "three numbers, its own order of boxes", (forks.WINDOWS_WU,), numbers(2, 3)),
        Meaning(forks.FRCNN_3D, "in three dimensions", quiet=True),
        Meaning(forks.SYNOPSYS, quiet=True),
        Meaning(forks.CAMBRICON[0], "of its accelerator", forks.CAMBRICON[1:], quiet=True),
    ),
    "ReLU6": (
        Meaning(forks.YOLO, "", None),
        Meaning(forks.YOLO_WINDOWS, "a plain ReLU", quiet=True),
    ),
    "ROIAlign": (
        Meaning(forks.CASCADE, "of Cascade R-CNN", (forks.MSCNN,)),
        Meaning(forks.FRCNN, "bi_type and is_multi_interpolate"),
        Meaning(forks.SYNOPSYS, "roi_align_param", quiet=True),
        Meaning(forks.PRIV, "roi_align_param", quiet=True),
        Meaning(forks.WSL, quiet=True),
        Meaning(forks.CAMBRICON[0], "of its accelerator", forks.CAMBRICON[1:], quiet=True),
    ),
    "ROIPooling": (
        Meaning(forks.FAST, "", None),
        Meaning(
            forks.WINDOWS,
            "halves below 0 rounded up",
            (forks.WINDOWS_MASTER, forks.WINDOWS_WU, "bnkang/caffe-windows-for-fr", "ducha-aiki/caffe"),
            quiet=True,
        ),
        Meaning(forks.INTEL, "a gradient for every cell of a maximum", same_tops=forks.FAST),
        Meaning(forks.CASCADE, "a gradient for boxes that end before they start", same_tops=forks.FAST),
        Meaning(forks.MSCNN, "no gradient beyond the map", ("BoLiu-SVCL/video-caffe",), same_tops=forks.FAST),
        Meaning(
            forks.JOLI,
            "boxes as parts of the image unless spatial_scale is given",
            same=forks.FAST,
            when=sets("roi_pooling_param.spatial_scale"),
        ),
        Meaning(forks.FRCNN_3D, "in three dimensions", quiet=True),
    ),
    "Reorg": (
        Meaning(forks.YOLO, "", None),
        Meaning(forks.YOLO2, "the derivative as its gradient", quiet=True, same_tops=forks.YOLO),
        Meaning(forks.YOLO5, "reverse the other way round", quiet=True),
        Meaning(forks.YOLO9000, quiet=True),
        Meaning(forks.SYNOPSYS, "width and height exchanged", quiet=True),
    ),
    "RegionLoss": (
        Meaning(forks.YOLO, "300 objects, the squares of what is handed back", fits=values(1, 1500)),
        Meaning(forks.YOLO_WINDOWS, "the same, but boxes learn their anchors in the first passes", quiet=True),
        Meaning(forks.YOLO2_GKLZ, "30 objects, classes that may be a tree", fits=values(1, 150)),
        Meaning(forks.YOLO2, "30 objects, the loss of another error than is handed back", fits=values(1, 150)),
        Meaning(forks.YOLO9000, "as many objects as there are, classes that may be a tree", quiet=True),
        Meaning(forks.INTEL, "the same, in parallel", quiet=True),
        Meaning(forks.MASKYOLO, "objects with a mask", quiet=True),
    ),
    "RescaledPoseCoords": (
        Meaning(forks.POSE, "a plain division"),
        # All of its networks have them so: of its CoordsFromHeatMaps, or of its data layers.
        Meaning(forks.POSE_ACTION, "-1 outside the image, x mirrored if flippable", fits=axes(0, 4)),
    ),
    "Resize": (
        Meaning(forks.POSE_ACTION, "a size, factors, or a second bottom", fits=bottoms(1, 2)),
        Meaning(forks.WINDOWS, "a size, or scales for a pyramid", (forks.WINDOWS_WU,), bottoms(1)),
        Meaning(forks.MASKYOLO, "a size, on the GPU's grid", fits=bottoms(1)),
        Meaning("philkr/caffe@future", "a size or scales, with a crop", quiet=True),
    ),
    "Reverse": (
        Meaning(forks.CTPN, "", None),
        Meaning(forks.ACTION, quiet=True),
        Meaning(forks.SYNOPSYS, quiet=True),
    ),
    "ShuffleChannel": (Meaning("imistyrain/ssd", also=None),),
    "SmoothL1Loss": (
        Meaning(forks.FAST, "divided by the examples", None, bottoms(2, 3)),
        Meaning(
            forks.FASTER,
            "divided by the examples, with sigma and weights outside",
            None,
            bottoms(2, 4),
            same=forks.FAST,
            when=every(bottoms(2), leaves("smooth_l1_loss_param.sigma")),
            reads="smooth_l1_loss_param",
        ),
        Meaning(
            forks.INTEL,
            "Faster R-CNN's, undivided with loss_param.normalization NONE",
            fits=bottoms(2, 4),
            same=forks.FASTER,
            when=leaves("loss_param.normalization"),
        ),
        Meaning(
            forks.CASCADE,
            "Faster R-CNN's, with a second top",
            fits=bottoms(2, 4),
            same=forks.FASTER,
            when=lambda use: use.tops < 2,
        ),
        Meaning(
            forks.RFCN,
            "divided by examples and positions, or as loss_param says",
            fits=bottoms(2, 3),
            same=forks.FAST,
            when=every(flat(0), leaves("loss_param")),
        ),
        Meaning(
            forks.WINDOWS,
            "with a turn_point",
            fits=bottoms(2, 3),
            same=forks.FAST,
            when=leaves("smoothl1_param.turn_point"),
        ),
        Meaning(
            forks.SEGAWARE,
            "divided by examples and positions",
            ("ShaoqingRen/caffe",),
            bottoms(2, 3),
            quiet=True,
            same=forks.FAST,
            when=flat(0),
        ),
        Meaning("eldar/deepcut-cnn", "divided by the sum of the weights", fits=bottoms(3), quiet=True),
        Meaning(forks.SYNOPSYS, "abssum", quiet=True),
        Meaning(forks.YUQJ, "weights outside", fits=bottoms(2, 3), quiet=True),
    ),
    "SmoothL1LossOHEM": (Meaning("Microsoft/caffe", also=None),),
    "SoftmaxWithLossOHEM": (
        Meaning("Microsoft/caffe", "", None),
        Meaning(
            forks.INTEL,
            "the CPU code of Intel",
            same="Microsoft/caffe",
            when=lambda use: use.tops < 3 and "loss_param.ignore_label" not in use.set,
        ),
    ),
    "SpatialDropout": (Meaning(forks.INTEL, also=None),),
    "SpatialTransformer": (
        Meaning("daerduoCarey/SpatialTransformerLayer", "", (forks.CC4,)),
        Meaning(forks.RMPE, "de_transform", quiet=True),
    ),
    "Transpose": (
        Meaning(forks.CTPN, "the axes in dim", None),
        Meaning("BestSonny/apollocaffe", "channels last, as rows", quiet=True),
        Meaning("CharlesShang/caffe", "channels last, as rows of four axes", quiet=True),
        Meaning(forks.ACTION, "two axes", quiet=True),
    ),
    "Upsample": (
        Meaning(
            forks.SEGNET,
            "unpooling by a mask",
            (
                "AlfredXiangWu/caffe",
                "TimoSaemann/caffe-enet",
                "TimoSaemann/caffe-segnet-cudnn5",
                forks.SYNOPSYS,
                forks.JOLI,
            ),
            bottoms(2),
        ),
        Meaning(forks.YOLO, "every value repeated", ("imistyrain/ssd", forks.YUQJ), bottoms(1)),
        Meaning(forks.FRCNN_3D, "unpooling in three dimensions", fits=bottoms(2), quiet=True),
        Meaning(forks.YOLO5, "by mode", quiet=True),
        Meaning(forks.CAMBRICON[0], "of its accelerator", forks.CAMBRICON[1:], quiet=True),
    ),
    "VisualizedHeatMaps": (Meaning(forks.POSE), Meaning(forks.POSE_ACTION)),
    "Yolov3DetectionOutput": (
        Meaning(forks.YOLO, "", ("Tencent/ncnn",)),
        Meaning(forks.YOLO_WINDOWS, "every map a square", same=forks.YOLO, when=always),
    ),
}
