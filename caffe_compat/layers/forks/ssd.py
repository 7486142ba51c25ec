"""Permute and DetectionOutput of the single-shot detector (SSD), and of the many forks that took them over."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...network.registry import Layer, LayerSpec, layer
from ..exporting import insist, rows_or
from .boxes import decode, suppress
from .families import CAMBRICON, DREADLORD, SSD, SSD_FIRST

__all__ = ["DetectionOutput", "DetectionSettings", "Permute", "check_predictions", "detection_settings"]

# Lyp100208/Caffe_action has another layer of this name.
_PERMUTE = (
    *SSD,
    *SSD_FIRST,
    *DREADLORD,
    *CAMBRICON,
    "BoLiu-SVCL/video-caffe",
    "GuohongWu/caffe-windows",
    "JimmyLauren/yolo5_caffe_hisi3559",
    "MhLiao/TextBoxes_plusplus",
    "Wulingtian/yolov5_caffe",
    "happynear/caffe-windows",
    "luoyetx/mini-caffe",
    "peteanderson80/caffe",
    "t2mhanh/caffe_convLSTM_WTA",
    "xmfbit/warpctc-caffe",
    "yuqj1991/caffe_train",
)
# These take scores of a first stage as a fourth bottom, where SSD has images to draw boxes into.
_TWO_STAGES = (
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "jolibrain/caffe",
    "sfzhang15/RefineDet",
)
# choasup/caffe-yolo9000, MhLiao/TextBoxes_plusplus, BirdeeChen/caffe_yolo_v2, gklz1982/caffe-yolov2 and
# yuqj1991/caffe_train have other layers of this name; none of them is built here.
_FIRST = (*(fork for fork in SSD_FIRST if fork != "choasup/caffe-yolo9000"), *CAMBRICON)


class Permute(Layer):
    """The axes in another order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order).contiguous()


@layer("Permute", bottoms=1, tops=1, dialects=_PERMUTE)
def permute(spec: LayerSpec) -> Layer:
    rank, order = len(spec.bottom_shapes[0]), spec.params("permute_param").order
    if len(set(order)) < len(order) or any(axis >= rank for axis in order):
        spec.fail(f"order {list(order)} must name axes of a bottom of {rank} axes, each at most once")
    return Permute((*order, *(axis for axis in range(rank) if axis not in order)))


@dataclass(frozen=True)
class DetectionSettings:
    """Parameters of :class:`DetectionOutput`: which boxes count as detections.

    Attributes:
        background: the class that is none; -1 if there is none such. shared: all classes have the same boxes.
        code: how offsets encode boxes. encoded: the offsets have the variances in them.
        confidence: scores must be above it. top_k: how many of a class go into suppression, -1 for all.
        keep: how many of an image are kept after it, -1 for all.
        first: corners are cut off at the image, and without any detection there is one row of -1.
        flat: the top is (detections, 7).
    """

    classes: int
    background: int
    shared: bool
    code: str
    encoded: bool
    confidence: float
    threshold: float
    eta: float
    top_k: int
    keep: int
    first: bool = False
    flat: bool = False


class DetectionOutput(Layer):
    """Detections (image, class, score, x1, y1, x2, y2) from offsets, scores and prior boxes: (1, 1, detections, 7).

    Ordered by image and class, the best first within a class. Without any, a row (image, -1 ...) for every image. Their
    number depends on the values; before the first pass it is 1, as in Caffe. It has no gradient.
    """

    def __init__(self, settings: DetectionSettings) -> None:
        super().__init__()
        self.settings = settings

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty((1, 7) if self.settings.flat else (1, 1, 1, 7))

    def forward(self, offsets: Tensor, scores: Tensor, priors: Tensor, *others: Tensor) -> Tensor:
        rows = self._rows(offsets, scores, priors)
        return rows if self.settings.flat else rows[None, None]

    def more(self, boxes: Tensor) -> Tensor:
        """What else stands in the rows (detections, any) of these prior boxes (detections,)."""
        return boxes.new_empty(boxes.shape[0], 0)  # not len(), which has to be a number when a net is traced

    @torch.no_grad()
    def _rows(self, offsets: Tensor, scores: Tensor, priors: Tensor) -> Tensor:
        s = self.settings
        images, boxes = offsets.shape[0], priors.shape[2] // 4
        locations = 1 if s.shared else s.classes
        prior, variance = priors[0].reshape(2, boxes, 4)[:, :, None]
        offsets = offsets.reshape(images, boxes, locations, 4)
        if s.code != "CORNER":
            sound = torch.all(prior[..., 2:] > prior[..., :2])
            insist(sound, "a prior box has no area", layer=self.layer_name, type="DetectionOutput")
        decoded = decode(offsets, prior, None if s.encoded else variance, s.code).transpose(1, 2)
        classes = [c for c in range(s.classes) if c != s.background]
        wanted = scores.reshape(images, boxes, s.classes).transpose(1, 2)[:, classes]
        count = boxes if s.top_k < 0 else min(s.top_k, boxes)
        ranked, place = (t[..., :count] for t in wanted.sort(dim=-1, descending=True, stable=True))
        own = decoded.expand(-1, s.classes, -1, -1)[:, classes]
        best = own.gather(2, place[..., None].expand(-1, -1, -1, 4))
        rows = images * len(classes)
        kept = suppress(
            best.reshape(rows, count, 4), (ranked > s.confidence).reshape(rows, count), s.threshold, eta=s.eta
        ).view(images, len(classes), count)
        if s.keep >= 0:
            kept = self._best(kept, ranked, place)
        image, number, rank = kept.nonzero().unbind(1)
        labels = torch.tensor(classes, device=scores.device)[number]
        corners = best[image, number, rank]
        head = torch.stack([image.to(scores.dtype), labels.to(scores.dtype), ranked[image, number, rank]], 1)
        more = self.more(place[image, number, rank]).to(scores.dtype)
        found = torch.cat([head, corners.clamp(0, 1) if s.first else corners, more], 1)
        first = torch.arange(1 if s.first else images, device=scores.device).to(scores.dtype)[:, None]
        none = torch.cat(
            [first - 1 if s.first else first, scores.new_full((*first.shape[:1], found.shape[1] - 1), -1)], 1
        )
        return rows_or(found, none)

    def _best(self, kept: Tensor, ranked: Tensor, place: Tensor) -> Tensor:
        """The best of each image, over its classes."""
        flat = torch.where(kept, ranked, -math.inf).flatten(1)
        order = flat.argsort(dim=1, descending=True, stable=True)[:, : self.settings.keep]
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, True)
        return kept & chosen.view(kept.shape)


@layer("DetectionOutput", bottoms=(3, 4), tops=1, dialects=[fork for fork in SSD if fork not in _TWO_STAGES])
def detection_output(spec: LayerSpec) -> Layer:
    return DetectionOutput(detection_settings(spec))


@layer("DetectionOutput", bottoms=3, tops=1, dialects=_TWO_STAGES)
def detection_output_of_one_stage(spec: LayerSpec) -> Layer:
    return DetectionOutput(detection_settings(spec))


@layer("DetectionOutput", bottoms=3, tops=1, dialects=DREADLORD)
def detection_output_dreadlord(spec: LayerSpec) -> Layer:
    settings = detection_settings(spec)
    if settings.threshold >= 1:
        spec.fail("nms_threshold of 1 or more, which takes every box whatever its score, is not supported")
    return DetectionOutput(settings)


@layer("DetectionOutput", bottoms=(3, 4), tops=1, dialects=_FIRST)
def detection_output_first(spec: LayerSpec) -> Layer:
    return DetectionOutput(replace(detection_settings(spec), first=True))


@layer("DetectionOutput", bottoms=3, tops=1, dialects=("luoyetx/mini-caffe",))
def detection_output_mini(spec: LayerSpec) -> Layer:
    return DetectionOutput(replace(detection_settings(spec), flat=True))


def detection_settings(spec: LayerSpec) -> DetectionSettings:
    """What ``detection_output_param`` says."""
    params = spec.params("detection_output_param")
    for name in ("save_output_param", "visualize", "visualize_threshold", "save_file"):
        # Files and windows beside the top, which holds the same detections.
        if params.has(name) and not (name == "visualize" and not params.visualize):
            spec.warn(f"{name} is not honoured: detections are written nowhere but into the top")
        params.ignore(name)
    if params.has("save_output_param"):
        params.save_output_param.ignore(*(field.name for field, _ in params.save_output_param.message.ListFields()))
    if not params.has("num_classes"):
        spec.fail("needs num_classes")
    nms = params.nms_param
    settings = DetectionSettings(
        params.num_classes,
        params.background_label_id,
        params.share_location,
        params.code_type,
        params.variance_encoded_in_target,
        params.get("confidence_threshold", -math.inf),
        nms.nms_threshold,
        nms.eta if nms.knows("eta") else 1.0,
        nms.get("top_k", -1),
        params.keep_top_k,
    )
    if settings.threshold < 0 or not 0 < settings.eta <= 1:
        spec.fail(
            f"nms_threshold {settings.threshold:g} must not be negative, and eta {settings.eta:g} above 0, at most 1"
        )
    check_predictions(spec, settings.classes, settings.shared)
    return settings


def check_predictions(spec: LayerSpec, classes: int, shared: bool) -> None:
    """Offsets, scores and prior boxes must be of the same images and of equally many boxes."""
    edges = spec.shaped(2, 1, 2, "edges", ...)[2]
    if edges % 4:
        spec.misfit(2, "(1, 2, 4 x boxes)")
    boxes, images = edges // 4, "images"
    for index, per_box in enumerate((4 if shared else 4 * classes, classes)):
        found, _ = spec.rows(index, images, f"{boxes} prior boxes with {per_box} values = {boxes * per_box}")
        images = f"images = {found}"
