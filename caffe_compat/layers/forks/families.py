"""Forks by what they share, for layer types of which several forks have another meaning.

A type is registered for the forks whose sources were compared and found to compute the same. What is here is shared by
several types; what concerns one type stands beside it.
"""

from __future__ import annotations

__all__ = ["CAMBRICON", "DREADLORD", "SSD", "SSD_FIRST"]

# The single-shot detector as Liu et al. left it, and the forks that took its code over.
SSD = (
    "weiliu89/caffe@ssd",
    "BestSonny/SSTD",
    "ByeonghakYim/Hanyang_SSD",
    "NVIDIA/caffe",
    "chuanqi305/ssd",
    "dlunion/CC4.0",
    "eric612/MobileNet-YOLO",
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "imistyrain/ssd",
    "intel/caffe",
    "jolibrain/caffe",
    "leejang/two_stream_ssd_caffe",
    "lzx1413/CAFFE_SSD",
    "makefile/frcnn",
    "openvinotoolkit/training_toolbox_caffe",
    "sfzhang15/RefineDet",
    "tidsp/caffe-jacinto@caffe-0.16",
    "tidsp/caffe-jacinto@caffe-0.17",
)
# Its first state of 2016: one min_size, hard negatives by their score, neither bp_inside nor mining_type.
SSD_FIRST = (
    "BOBrown/caffe-ssd-microsoft",
    "MVIG-SJTU/RMPE",
    "MhLiao/TextBoxes",
    "choasup/caffe-yolo9000",
)
DREADLORD = (
    "dreadlord1984/SSD_windows_caffe",
    "dreadlord1984/SSD_windows_caffe:src/caffe/proto/caffeSSD.proto",
)
CAMBRICON = ("Cambricon/caffe", "Cambricon/caffe:src/caffe/proto/old_caffe.proto")
