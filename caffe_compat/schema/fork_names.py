"""Short names for the dialects that tables mention often."""

from __future__ import annotations

SSD = "weiliu89/caffe@ssd"
FCN = "weiliu89/caffe@fcn"
FAST = "rbgirshick/caffe-fast-rcnn@fast-rcnn"
FASTER = "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445"
RFCN = "daijifeng001/caffe-rfcn"
CASCADE, MSCNN = "zhaoweicai/cascade-rcnn", "zhaoweicai/mscnn"
SEGNET, PSPNET = "alexgkendall/caffe-segnet", "hszhao/PSPNet"
WINDOWS, WINDOWS_MASTER, WINDOWS_WU = (
    "happynear/caffe-windows",
    "happynear/caffe-windows@master",
    "GuohongWu/caffe-windows",
)
NVIDIA, NVIDIA_15 = "NVIDIA/caffe", "NVIDIA/caffe@caffe-0.15"
JACINTO, JACINTO_16 = "tidsp/caffe-jacinto@caffe-0.17", "tidsp/caffe-jacinto@caffe-0.16"
MPI = "Caffe-MPI/Caffe-MPI.github.io"
INTEL = "intel/caffe"
CAMBRICON = ("Cambricon/caffe", "Cambricon/caffe:src/caffe/proto/old_caffe.proto")
SYNOPSYS = "foss-for-synopsys-dwc-arc-processors/synopsys-caffe"
POSE, POSE_ACTION = "chanyn/3Dpose_ssl", "zimenglan-sysu-512/pose_action_caffe"
CC4, OCR, YUQJ = "dlunion/CC4.0", "senlinuc/caffe_ocr", "yuqj1991/caffe_train"
FRCNN, PRIV, FRCNN_3D = "makefile/frcnn", "soeaver/py-RFCN-priv", "superxuang/caffe_3d_faster_rcnn"
YOLO, YOLO_WINDOWS = "eric612/MobileNet-YOLO", "eric612/Caffe-YOLOv3-Windows"
YOLO2, YOLO2_GKLZ, YOLO9000 = "BirdeeChen/caffe_yolo_v2", "gklz1982/caffe-yolov2", "choasup/caffe-yolo9000"
YOLO5 = "Wulingtian/yolov5_caffe"
JOLI, REFINE = "jolibrain/caffe", "sfzhang15/RefineDet"
TEXT, TEXT_PLUS, SSTD = "MhLiao/TextBoxes", "MhLiao/TextBoxes_plusplus", "BestSonny/SSTD"
RMPE, MS_SSD = "MVIG-SJTU/RMPE", "BOBrown/caffe-ssd-microsoft"
DREADLORD = (
    "dreadlord1984/SSD_windows_caffe",
    "dreadlord1984/SSD_windows_caffe:src/caffe/proto/caffeSSD.proto",
)
OPENVINO = "openvinotoolkit/training_toolbox_caffe"
TVG, WSL, SEGAWARE = "torrvision/caffe-tvg", "shenyunhang/caffe-wsl", "aharley/segaware"
BANNY, ACTION, XIONG = "BannyStone/Caffe", "Lyp100208/Caffe_action", "yjxiong/caffe"
FLOWNET2, FLOWNET, LITE = "lmb-freiburg/flownet2", "liruoteng/FlowNet", "twhui/LiteFlowNet"
LSTM, CTPN, SPOTTER = "junhyukoh/caffe-lstm", "tianzhi0549/CTPN", "tonghe90/textspotter"
C3D_NEW = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
MINI, PVANET = "luoyetx/mini-caffe", "sanghoon/caffe@dev_pvanet"
FLOW_PREDICTION, NORMALS = "Arroosh/optical_flow_prediction", "xiaolonw/caffe-3dnormal_joint_pose"
MASKYOLO = "leon-liangwu/MaskYolo_Caffe"
P3D = "ZhaofanQiu/pseudo-3d-residual-networks"
MYCAFFE = "MyCaffe/MyCaffe"
