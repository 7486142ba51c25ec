"""The configurations that Faster R-CNN's Python layers share, with the defaults of each project's ``config.py``.

Sources: rbgirshick/py-faster-rcnn and unsky/FPN, ``lib/fast_rcnn/config.py``; what other projects added is among the
first one's, with the value that changes nothing: YuwenXiong/py-R-FCN's AGNOSTIC and RPN_NORMALIZE_*, and
ONLY_INSIDE_ANCHORS of soeaver/py-RFCN-priv.
"""

from __future__ import annotations

from typing import Any

from ...network.python_registry import Project

__all__ = ["FASTER_RCNN", "FPN"]

_ONES = (1.0, 1.0, 1.0, 1.0)
_NONE = (0.0, 0.0, 0.0, 0.0)
_SPREAD = (0.1, 0.1, 0.2, 0.2)

_DEFAULTS: dict[str, Any] = {
    # Images of a batch, and the sizes of their shorter and longer sides, in pixels.
    "TRAIN.IMS_PER_BATCH": 2,
    "TRAIN.SCALES": (600,),
    "TRAIN.MAX_SIZE": 1000,
    "TRAIN.HAS_RPN": False,
    "TRAIN.BBOX_REG": True,
    # Boxes of a batch: how many, how many of them with an object, and by what overlap they have one.
    "TRAIN.BATCH_SIZE": 128,
    "TRAIN.FG_FRACTION": 0.25,
    "TRAIN.FG_THRESH": 0.5,
    "TRAIN.BG_THRESH_HI": 0.5,
    "TRAIN.BG_THRESH_LO": 0.1,
    "TRAIN.BBOX_INSIDE_WEIGHTS": _ONES,
    "TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED": False,
    "TRAIN.BBOX_NORMALIZE_MEANS": _NONE,
    "TRAIN.BBOX_NORMALIZE_STDS": _SPREAD,
    "TRAIN.AGNOSTIC": False,
    # Anchors of a batch, likewise.
    "TRAIN.RPN_BATCHSIZE": 256,
    "TRAIN.RPN_FG_FRACTION": 0.5,
    "TRAIN.RPN_POSITIVE_OVERLAP": 0.7,
    "TRAIN.RPN_NEGATIVE_OVERLAP": 0.3,
    "TRAIN.RPN_CLOBBER_POSITIVES": False,
    "TRAIN.RPN_BBOX_INSIDE_WEIGHTS": _ONES,
    "TRAIN.RPN_POSITIVE_WEIGHT": -1.0,
    "TRAIN.RPN_NORMALIZE_TARGETS": False,
    "TRAIN.RPN_NORMALIZE_MEANS": _NONE,
    "TRAIN.RPN_NORMALIZE_STDS": _SPREAD,
    "TRAIN.ONLY_INSIDE_ANCHORS": True,
    # Proposals: how many are looked at and kept, the overlap above which the lower goes, the least side.
    "TRAIN.RPN_PRE_NMS_TOP_N": 12000,
    "TRAIN.RPN_POST_NMS_TOP_N": 2000,
    "TRAIN.RPN_NMS_THRESH": 0.7,
    "TRAIN.RPN_MIN_SIZE": 16,
    "TEST.RPN_PRE_NMS_TOP_N": 6000,
    "TEST.RPN_POST_NMS_TOP_N": 300,
    "TEST.RPN_NMS_THRESH": 0.7,
    "TEST.RPN_MIN_SIZE": 16,
}

# What the programs do around the network: reading pictures, choosing proposals of other methods, evaluating, storing.
_ELSEWHERE = frozenset(
    {
        *("TRAIN.USE_FLIPPED", "TRAIN.BBOX_THRESH", "TRAIN.SNAPSHOT_ITERS", "TRAIN.SNAPSHOT_INFIX"),
        *("TRAIN.USE_PREFETCH", "TRAIN.BBOX_NORMALIZE_TARGETS", "TRAIN.PROPOSAL_METHOD", "TRAIN.ASPECT_GROUPING"),
        *("TEST.SCALES", "TEST.MAX_SIZE", "TEST.NMS", "TEST.SVM", "TEST.BBOX_REG", "TEST.HAS_RPN"),
        *("TEST.PROPOSAL_METHOD", "TEST.AGNOSTIC", "DEDUP_BOXES", "PIXEL_MEANS", "RNG_SEED", "EPS", "ROOT_DIR"),
        *("DATA_DIR", "MODELS_DIR", "MATLAB", "EXP_DIR", "USE_GPU_NMS", "GPU_ID"),
        # of soeaver/py-RFCN-priv and intel/caffe
        *("TRAIN.DATA_ROOT", "TRAIN.LABELMAP_PATH", "TRAIN.SOURCE", "TRAIN.MIN_AREA", "TRAIN.MAX_RATIO"),
        *("TRAIN.LABEL_SHUFFLING", "TRAIN.SHUFFLE", "TRAIN.COLOR_FACTOR", "TRAIN.CONTRAST_FACTOR"),
        *("TRAIN.BRIGTHNESS_FACTOR", "TRAIN.GAUSSIAN_BLUR", "TRAIN.CROP", "TRAIN.CROP_MAX_ATTEMPTS"),
        *("TRAIN.CROP_AREA", "TRAIN.CROP_RATIO", "TRAIN.MIN_COVERED", "TRAIN.USE_OHEM", "TRAIN.OHEM_USE_NMS"),
        *("TRAIN.OHEM_NMS_THRESH", "TRAIN.FORMAT", "TEST.FORMAT", "TEST.SOFT_NMS", "TEST.BBOX_VOTE"),
        *("TEST.BBOX_VOTE_N_WEIGHTED_SCORE", "TEST.BBOX_VOTE_WEIGHT_EMPTY", "TEST.ITER_BBOX_REG"),
        *("TEST.ADD_OLD_BBOX", "TEST.ITER_THRESH", "TEST.BBOX_REG_BATCH_SIZE", "DATABASE_ROOT", "PIXEL_STDS"),
        # of unsky/FPN
        "TRAIN.IMAGE_STRIDE",
    }
)

# Shapes of the anchors in every level of unsky/FPN's pyramid.
_PYRAMID = {"FPNRATIOS": (0.5, 1.0, 2.0), "FPNRSCALES": (16.0, 32.0)}

FASTER_RCNN = Project("rbgirshick/py-faster-rcnn", "fast_rcnn.config", {**_DEFAULTS, **_PYRAMID}, _ELSEWHERE)

FPN = Project(
    "unsky/FPN",
    "fast_rcnn.config",
    {
        **FASTER_RCNN.defaults,
        "TRAIN.SCALES": (768,),
        "TRAIN.MAX_SIZE": 1280,
        "TRAIN.BATCH_SIZE": 256,
        "TRAIN.BG_THRESH_LO": 0.0,
        "TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED": True,
        "TEST.RPN_POST_NMS_TOP_N": 1000,
    },
    _ELSEWHERE,
)
