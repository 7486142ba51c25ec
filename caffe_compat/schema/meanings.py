"""The layer types that forks of Caffe define differently: which meanings a name has, and which forks share each.

Choosing a fork for a file is choosing what its layers mean, so this table is the one place that says when two forks
mean the same by a type. It was made by comparing the code of the forks (a layer's ``.cpp`` and ``.cu``), not only the
fields that they declare. A type that is not here has one meaning. A default that differs is not a meaning of its own:
the schemas tell defaults (see :mod:`.choice`).
"""

from __future__ import annotations

from . import BVLC
from . import fork_names as forks
from .meanings_detectors import DETECTORS
from .uses import (
    Meaning,
    always,
    axes,
    bottoms,
    every,
    is_one_stream,
    leaves,
    may_be_one_stream,
    sets,
    tops,
)

__all__ = ["MEANINGS"]


# The first meaning of a type is the one its name is best known for.
MEANINGS: dict[str, tuple[Meaning, ...]] = {
    **DETECTORS,
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
            ("BassyKuo/PSPNET-cudnn5", forks.XIONG, "yjxiong/caffe@interp", forks.BANNY, forks.P3D),
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
    "BNData": (Meaning(forks.ACTION), Meaning("lxx1991/caffe_mpi", "with a momentum of 0.95", quiet=True)),
    "CTCGreedyDecoder": (
        Meaning(forks.OCR, "a row for each sequence, blank_index", (forks.YUQJ,)),
        Meaning(
            forks.CC4,
            "a row for each sequence, the loss's blank_label",
            same=forks.OCR,  # 0 and repetitions that count once, if neither says otherwise
            when=leaves("ctc_loss_param.blank_label", "ctc_decoder_param"),
        ),
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
    "ContinuationIndicator": (
        Meaning("xmfbit/warpctc-caffe", "batch_size streams", (forks.CC4, forks.YUQJ), bottoms(0)),
        Meaning(forks.JOLI, "as many streams as a bottom has", fits=bottoms(1)),
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
    "CtcLoss": (
        Meaning("xmfbit/warpctc-caffe", "", (forks.CC4, forks.JOLI)),
        Meaning(forks.YUQJ, "in warpctc_loss_param"),
    ),
    "DeformableConvolution": (
        Meaning(forks.FRCNN, "", (forks.PRIV,)),
        Meaning("unsky/FPN", "the weights times the bottom itself, whatever the offsets", quiet=True),
    ),
    "DenseBlock": (
        Meaning(forks.OCR, "the channels of its bottom"),
        Meaning("Tongcheng/caffe", "initChannel channels", quiet=True),
        Meaning(forks.WINDOWS_WU, "of its own", quiet=True),
    ),
    "Downsample": (Meaning(forks.FLOWNET2, also=None),),
    "FocalLoss": (
        Meaning(
            forks.FRCNN,
            "alpha in front of it",
            (forks.PRIV, "lzx1413/CAFFE_SSD", "chuanqi305/ssd", forks.JOLI, "imistyrain/ssd"),
        ),
        Meaning(forks.WINDOWS, "alpha less the probability, or plus it"),
        Meaning(forks.WINDOWS_WU, "of sigmoids", quiet=True),
        Meaning(forks.DREADLORD[0], "gamma for the first class alone", forks.DREADLORD[1:], quiet=True),
    ),
    "FLOWriter": (Meaning(forks.FLOWNET2, also=None),),
    "FlowWarp": (Meaning(forks.FLOWNET2, also=None),),
    **{
        name: (Meaning(forks.FLOWNET2, also=None),)
        for name in ("DataAugmentation", "FlowAugmentation", "GenerateAugmentationParameters")
    },
    "ChannelNorm": (Meaning(forks.FLOWNET2, also=None),),
    "Maximum": (
        Meaning("CMU-Perceptual-Computing-Lab/caffe_rtpose", "where the largest value is", fits=bottoms(1)),
        Meaning(forks.SYNOPSYS, "the larger of two bottoms", fits=bottoms(2)),
    ),
    "Mean": (Meaning(forks.FLOWNET2, also=None),),
    "Resample": (Meaning(forks.FLOWNET2, also=None),),
    "Gather": (
        Meaning(forks.XIONG, "what all processes have", ("yjxiong/caffe@interp", forks.BANNY, forks.ACTION)),
        Meaning("lxx1991/caffe_mpi", "of its own", quiet=True),
        Meaning(forks.SYNOPSYS, "of indices", quiet=True),
    ),
    "GeneralContrastiveLoss": (
        Meaning(forks.WINDOWS, "a third bottom has the distances that count"),
        Meaning(forks.WINDOWS_WU, "a third bottom has weights", same=forks.WINDOWS, when=bottoms(2)),
    ),
    "Gram": (
        Meaning(forks.WINDOWS, "", (forks.WINDOWS_MASTER, forks.WINDOWS_WU)),
        Meaning("bnkang/caffe-windows-for-fr", "half of the gradient", quiet=True, same_tops=forks.WINDOWS),
    ),
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
    "LabelSpecificAdd": (
        Meaning(forks.WINDOWS, "adds the bias", (forks.WINDOWS_WU, "imistyrain/ssd", forks.YUQJ)),
        Meaning(forks.OPENVINO, "takes the size of the bias away"),
    ),
    "Lstm": (
        Meaning(forks.MYCAFFE, "BVLC's LSTM", fits=sets("recurrent_param")),
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
    "MULTI_SOFTMAX": (Meaning(forks.FLOW_PREDICTION, also=(forks.NORMALS,)),),
    "MULTI_SOFTMAX_LOSS": (
        Meaning(forks.FLOW_PREDICTION, "its sum, shown as it is"),
        Meaning(forks.NORMALS, "shown as a 336th", fits=tops(0), same_tops=forks.FLOW_PREDICTION),
    ),
    "Mask": (Meaning(forks.POSE), Meaning("lxx1991/caffe_mpi")),
    "MultiStageMeanfield": (
        Meaning("torrvision/caffe@crfrnn", "of scores and images", ("bittnt/caffe",), bottoms(3)),
        Meaning(forks.TVG, "of detections, too", fits=bottoms(4)),
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
    "Permute": (
        Meaning(forks.SSD, "order", None),
        Meaning(forks.ACTION, "two axes", quiet=True),
    ),
    "Pooling3D": (
        Meaning(forks.C3D_NEW),
        Meaning("CV-IP/3DObject-detection"),
        Meaning(forks.P3D, "windows and padding of three sizes"),
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
    "ReLU6": (
        Meaning(forks.YOLO, "", None),
        Meaning(forks.YOLO_WINDOWS, "a plain ReLU", quiet=True),
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
    "SeLu": (Meaning(forks.JOLI, also=(forks.PRIV,)),),
    "SeLuDropout": (Meaning(forks.JOLI, also=(forks.PRIV,)),),
    "SegAccuracy": (
        Meaning(
            forks.SEGAWARE,
            "three rates",
            ("BassyKuo/PSPNET-cudnn5", forks.PSPNET, "xmyqsh/deeplab-v2", forks.CC4, forks.SYNOPSYS),
        ),
        Meaning(forks.PRIV, "of its own", quiet=True),
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
    "TripletLoss": (
        Meaning(
            forks.WINDOWS,
            "anchor, positive and negative",
            (forks.WINDOWS_MASTER, forks.WINDOWS_WU, "AlfredXiangWu/caffe", "ducha-aiki/caffe"),
            bottoms(3),
        ),
        Meaning("bnkang/caffe-windows-for-fr", "sets of rows in one bottom", fits=bottoms(1)),
        Meaning(forks.YUQJ, "numbers of rows in a second bottom", fits=bottoms(2)),
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
    "WarpCTCLoss": (
        Meaning(forks.OCR, "blank_index"),
        Meaning(forks.CC4, "blank_label"),
        Meaning("ChWick/caffe@warp-ctc", "with a time for its calculation", quiet=True),
    ),
    "Yolov3": (
        Meaning(forks.YOLO, "overlaps of several kinds"),
        Meaning(forks.YOLO_WINDOWS, "one anchor for each object", quiet=True),
    ),
}
