"""FrcnnProposal: the region proposals of Faster R-CNN, as forks that have its Python layers in C++ compute them; and
the settings that these layers share.

They read one JSON file of settings, with texts for numbers, which the program is given beside the network; here it is
the configuration (``--python-config FILE``). Sources: makefile/frcnn and rickyHong/caffe-rcnn-action-recognition,
``src/caffe/FRCNN/frcnn_proposal_layer.cpp`` and ``util/frcnn_param.cpp``; the defaults are those of
``examples/FRCNN/config/default_config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.python_registry import Project, PythonSettings, configured_type
from ...network.registry import Layer, LayerSpec, layer
from ..forks.boxes import best_apart, pixel_overlap
from .anchors import Anchors
from .proposal import Choice, ProposalLayer, check_image, check_maps

__all__ = ["FRCNN", "MAKEFILE", "RICKY", "FrcnnChoice", "anchors_of", "note_settings", "settings_of"]

MAKEFILE, RICKY = "makefile/frcnn", "rickyHong/caffe-rcnn-action-recognition"

# Three scales of three ratios, (x1, y1, x2, y2) around the first cell.
_ANCHORS = (
    *(-84.0, -40.0, 100.0, 56.0, -176.0, -88.0, 192.0, 104.0, -360.0, -184.0, 376.0, 200.0),
    *(-56.0, -56.0, 72.0, 72.0, -120.0, -120.0, 136.0, 136.0, -248.0, -248.0, 264.0, 264.0),
    *(-36.0, -80.0, 52.0, 96.0, -80.0, -168.0, 96.0, 184.0, -168.0, -344.0, 184.0, 360.0),
)

FRCNN = Project(
    MAKEFILE,
    "",
    {
        "feat_stride": 16,
        "anchors": _ANCHORS,
        # Proposals: how many are looked at and kept, the overlap above which the lower goes, the least side.
        "rpn_pre_nms_top_n": 12000,
        "rpn_post_nms_top_n": 2000,
        "rpn_nms_thresh": 0.7,
        "rpn_min_size": 16,
        "test_rpn_pre_nms_top_n": 6000,
        "test_rpn_post_nms_top_n": 300,
        "test_rpn_nms_thresh": 0.7,
        "test_rpn_min_size": 16,
        # What else there is for proposals, with the value that changes nothing.
        "test_rpn_score_thresh": 0.0,
        "test_soft_nms": 0,
        # What anchors are to learn: how many, which part of them with an object, and by which overlap.
        "rpn_batchsize": 256,
        "rpn_fg_fraction": 0.5,
        "rpn_positive_overlap": 0.7,
        "rpn_negative_overlap": 0.3,
        "rpn_clobber_positives": 0,
        "rpn_positive_weight": -1.0,
        "rpn_bbox_inside_weights": (1.0, 1.0, 1.0, 1.0),
        "rpn_allowed_border": 0.0,
        "eps": 1e-14,
        # What proposals are to learn.
        "batch_size": 128.0,
        "fg_fraction": 0.25,
        "fg_thresh": 0.5,
        "bg_thresh_hi": 0.5,
        "bg_thresh_lo": 0.1,
        "n_classes": 21,
        "bbox_normalize_targets": 1,
        "bbox_normalize_means": (0.0, 0.0, 0.0, 0.0),
        "bbox_normalize_stds": (0.1, 0.1, 0.2, 0.2),
        "bbox_inside_weights": (1.0, 1.0, 1.0, 1.0),
    },
    frozenset(
        {
            *("scales", "max_size", "use_flipped", "use_retinex", "use_haze_free", "use_hist_equalize", "data_jitter"),
            *("data_rand_scale", "data_rand_rotate", "data_hue", "data_saturation", "data_exposure", "im_size_align"),
            *("roi_canonical_scale", "roi_canonical_level", "test_use_gpu_nms", "test_bbox_vote"),
            *("test_decrypt_model", "bbox_reg", "bbox_thresh", "snapshot_infix", "test_scales", "test_max_size"),
            *("test_nms", "test_bbox_reg", "pixel_means", "rng_seed", "inf", "test_score_thresh", "iter_test"),
        }
    ),
    textual=True,
)
for _type in ("FrcnnAnchorTarget", "FrcnnProposal", "FrcnnProposalTarget"):
    configured_type(_type, FRCNN)


def settings_of(spec: LayerSpec) -> PythonSettings:
    """Where the layer's settings are."""
    return PythonSettings(spec.params("python_param").param_str, layer=spec.name, type=spec.type)


def anchors_of(spec: LayerSpec, settings: PythonSettings) -> Anchors:
    """The corners of the boxes around the first cell."""
    values = settings.config(FRCNN, "anchors")
    if len(values) % 4:
        spec.fail(f"the configuration has {len(values)} numbers for anchors; four for each were expected")
    return tuple(tuple(values[i : i + 4]) for i in range(0, len(values), 4))


def note_settings(spec: LayerSpec, settings: PythonSettings) -> None:
    """Refuse what nobody asked for, and say where the settings are from."""
    settings.check_all_read()
    spec.note(
        f"of the settings of {FRCNN.name}, a file that the program is given (--python-config), it has "
        + (f"{settings.differing} instead of the defaults" if settings.differing else "the defaults")
    )


@dataclass(frozen=True)
class FrcnnChoice(Choice):
    """Of equal scores the last comes first, as C++ sorts pairs of a score and a place."""

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        order = scores.shape[0] - 1 - scores.flip(0).argsort(descending=True, stable=True)
        order = order[: self.before]
        boxes, scores = boxes[order], scores[order]
        kept = best_apart(boxes, self.overlap, pixel_overlap, self.after)
        return boxes[kept], scores[kept]


class FrcnnProposal(ProposalLayer):
    """:class:`.proposal.ProposalLayer`, whose tops have four axes: (boxes, 5, 1, 1) and (boxes, 1, 1, 1)."""

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._four_axes(super().infer(*bottoms))

    @torch.no_grad()
    def forward(self, scores: Tensor, offsets: Tensor, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._four_axes(super().forward(scores, offsets, image))

    @staticmethod
    def _four_axes(tops: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return tops[..., None, None] if isinstance(tops, Tensor) else tuple(top[..., None, None] for top in tops)


@layer("FrcnnProposal", bottoms=3, tops=(1, 2), dialects=(MAKEFILE, RICKY), verified=False, unforced=(0, 1, 2))
def frcnn_proposal(spec: LayerSpec) -> Layer:
    settings = settings_of(spec)
    anchors = anchors_of(spec, settings)
    check_maps(spec, 0, 1, len(anchors))
    check_image(spec, 2)
    phase = "test_" if spec.phase == "TEST" else ""
    names = ("pre_nms_top_n", "post_nms_top_n", "nms_thresh", "min_size")
    choice = FrcnnChoice(*(settings.config(FRCNN, f"{phase}rpn_{name}") for name in names))
    if min(choice.before, choice.after) < 1:
        spec.fail(f"{phase}rpn_pre_nms_top_n {choice.before} and post_nms_top_n {choice.after} must be at least 1")
    if settings.config(FRCNN, "test_soft_nms") or (phase and settings.config(FRCNN, "test_rpn_score_thresh") > 0):
        spec.fail("test_soft_nms and test_rpn_score_thresh other than 0 are not supported")
    stride = spec.params("proposal_param").feat_stride if spec.knows("proposal_param") else 0
    stride = stride or settings.config(FRCNN, "feat_stride")
    if stride < 1:
        spec.fail(f"feat_stride is {stride}; at least 1 was expected")
    note_settings(spec, settings)
    return FrcnnProposal(anchors, stride, choice, scored=len(spec.tops) == 2)
