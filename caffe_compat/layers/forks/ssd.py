"""The layers of the single-shot detector (SSD), and of the many forks that took them over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from ...schema.params import Params
from ..bvlc.scale import filler_or_constant
from ..precision import HALF_PRECISION, widened
from .boxes import area, decode, overlap, suppress

__all__ = ["DetectionEvaluate", "DetectionOutput", "Normalize", "Permute", "PriorBox"]


class Permute(Layer):
    """The axes in another order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order).contiguous()


@layer("Permute", bottoms=1, tops=1)
def permute(spec: LayerSpec) -> Layer:
    rank, order = len(spec.bottom_shapes[0]), spec.params("permute_param").order
    if len(set(order)) < len(order) or any(axis >= rank for axis in order):
        spec.fail(f"order {list(order)} must name axes of a bottom of {rank} axes, each at most once")
    return Permute((*order, *(axis for axis in range(rank) if axis not in order)))


class Normalize(Layer):
    """x divided by its Euclidean norm over the channels (and the positions, if ``across``), times a learned scale."""

    scale: nn.Parameter

    def __init__(self, channels: int, across: bool, eps: float, scale: Params, *, shared: bool) -> None:
        super().__init__()
        self.across = across
        self.eps = eps
        self.blob("scale", () if shared else (channels,), scale)

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(1, x.dim())) if self.across else 1
        y = widened(x)
        norm = ((y * y).sum(axes, keepdim=True) + self.eps).sqrt()
        scale = self.scale if self.scale.dim() == 0 else self.scale.view(-1, *[1] * (x.dim() - 2))
        return (y / norm).to(x.dtype) * scale


@layer("Normalize", bottoms=1, tops=1)
def normalize(spec: LayerSpec) -> Layer:
    shape = spec.bottom_shapes[0]
    if not spec.knows("norm_param"):
        spec.fail(f"under the dialect {spec.dialect}, this type is not SSD's (norm_param), the only one that is known")
    if len(shape) < 2:
        spec.fail(f"bottom {spec.bottoms[0]!r} has shape {list(shape)}; at least two axes were expected")
    params = spec.params("norm_param")
    filler = filler_or_constant(params, 1.0, "scale_filler")
    return Normalize(shape[1], params.across_spatial, params.eps, filler, shared=params.channel_shared)


class PriorBox(Layer):
    """Boxes of several sizes around every cell of the map, as parts of the image; below them, their variances.

    The top is (1, 2, 4 x boxes). It depends on shapes only.

    Args:
        sizes: (width, height) of the boxes of a cell in pixels.
        image, step: (width, height) of the image and of a cell in pixels; None takes the second bottom's size, and the
            size of the image divided by that of the map.
    """

    def __init__(
        self,
        sizes: tuple[tuple[float, float], ...],
        variances: tuple[float, ...],
        image: tuple[float, float] | None,
        step: tuple[float, float] | None,
        offset: float,
        *,
        clip: bool,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.variances = variances
        self.image = image
        self.step = step
        self.offset = offset
        self.clip = clip

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        height, width = features.shape[2:]
        full = self.image or (image.shape[3], image.shape[2])
        step = self.step or (full[0] / width, full[1] / height)
        dtype = torch.float32 if features.dtype in HALF_PRECISION else features.dtype
        x = (torch.arange(width, device=features.device, dtype=dtype) + self.offset) * step[0]
        y = (torch.arange(height, device=features.device, dtype=dtype) + self.offset) * step[1]
        centres = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)[:, :, None]
        sizes = torch.tensor(self.sizes, device=features.device, dtype=dtype)
        corners = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
        boxes = corners / torch.tensor([*full, *full], device=features.device, dtype=dtype)
        if self.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(self.variances, device=features.device, dtype=dtype).expand_as(boxes)
        return torch.stack([boxes.reshape(-1), variances.reshape(-1)])[None].to(features.dtype)


@layer("PriorBox", bottoms=2, tops=1)
def prior_box(spec: LayerSpec) -> Layer:
    params = spec.params("prior_box_param")
    for name, shape in zip(spec.bottoms, spec.bottom_shapes, strict=True):
        if len(shape) != 4:
            spec.fail(f"bottom {name!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    return PriorBox(
        _prior_sizes(spec, params),
        _prior_variances(spec, params),
        _pair(spec, params, "img_w", "img_h", "img_size"),
        _pair(spec, params, "step_w", "step_h", "step"),
        params.get("offset", 0.5),
        clip=params.clip,
    )


@layer("PriorBoxClustered", bottoms=2, tops=1)
def prior_box_clustered(spec: LayerSpec) -> Layer:
    """The type of OpenVINO's fork: boxes of given widths and heights instead of sizes and ratios."""
    params = spec.params("prior_box_param")
    if not params.knows("width"):
        spec.fail(f"under the dialect {spec.dialect}, prior_box_param has no width and height; pass another --dialect")
    for name, shape in zip(spec.bottoms, spec.bottom_shapes, strict=True):
        if len(shape) != 4:
            spec.fail(f"bottom {name!r} has shape {list(shape)}; (images, channels, height, width) was expected")
    # Read by the fork's other type alone.
    params.ignore("flip")
    widths, heights = params.width, params.height
    if not widths or len(widths) != len(heights) or min((*widths, *heights)) <= 0:
        spec.fail(f"width {list(widths)} and height {list(heights)} must be positive numbers, equally many of both")
    return PriorBox(
        tuple(zip(widths, heights, strict=True)),
        _prior_variances(spec, params),
        _pair(spec, params, "img_w", "img_h", "img_size"),
        _pair(spec, params, "step_w", "step_h", "step"),
        params.offset,
        clip=params.clip,
    )


def _prior_sizes(spec: LayerSpec, params: Params) -> tuple[tuple[float, float], ...]:
    least, most = params.min_size, params.max_size
    if isinstance(least, tuple):
        # Caffe keeps them in integers here.
        least, most = [int(size) for size in least], [int(size) for size in most]
    else:
        # The first generation: one size each, and fractions count.
        least, most = [least] if params.has("min_size") else [], [most] if most > 0 else []
    if not least or min(least) <= 0:
        spec.fail(f"min_size {list(least)} must be given and positive")
    if most and len(most) != len(least):
        spec.fail(f"{len(most)} max_size for {len(least)} min_size; none, or one for each, was expected")
    ratios = [1.0]
    for ratio in params.aspect_ratio:
        if ratio <= 0:
            spec.fail(f"aspect_ratio {ratio:g} must be positive")
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if params.flip else [ratio]
    sizes = []
    for i, small in enumerate(least):
        sizes.append((float(small), float(small)))
        if most:
            if most[i] <= small:
                spec.fail(f"max_size {most[i]:g} must be greater than min_size {small:g}")
            sizes.append((math.sqrt(small * most[i]),) * 2)
        sizes += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return tuple(sizes)


def _prior_variances(spec: LayerSpec, params: Params) -> tuple[float, ...]:
    variances: tuple[float, ...] = params.variance or (0.1,)
    if len(variances) not in (1, 4) or min(variances) <= 0:
        spec.fail(f"variance {list(variances)} must be one or four positive numbers")
    return variances


def _pair(spec: LayerSpec, params: Params, wide: str, high: str, both: str) -> tuple[float, float] | None:
    """(width, height) from two fields or from the one that stands for both, each of which must be positive."""
    if params.has(wide) or params.has(high):
        if params.has(both):
            spec.fail(f"{both} and {high} / {wide} exclude each other")
        pair = (getattr(params, wide), getattr(params, high))
    elif params.has(both):
        pair = (getattr(params, both),) * 2
    else:
        return None
    if min(pair) <= 0:
        spec.fail(f"{wide} {pair[0]:g} and {high} {pair[1]:g} must be positive")
    return pair


@dataclass(frozen=True)
class DetectionSettings:
    """Parameters of :class:`DetectionOutput`: which boxes count as detections.

    Attributes:
        background: the class that is none; -1 if there is none such. shared: all classes have the same boxes.
        code: how offsets encode boxes. encoded: the offsets have the variances in them.
        confidence: scores must be above it. top_k: how many of a class go into suppression, -1 for all.
        keep: how many of an image are kept after it, -1 for all.
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


class DetectionOutput(Layer):
    """Detections (image, class, score, x1, y1, x2, y2) from offsets, scores and prior boxes: (1, 1, detections, 7).

    Ordered by image and class, the best first within a class. Without any, a row (image, -1 ...) for every image. Their
    number depends on the values; before the first pass it is 1, as in Caffe. It has no gradient.
    """

    def __init__(self, settings: DetectionSettings) -> None:
        super().__init__()
        self.settings = settings

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, 1, 7)

    @torch.no_grad()
    def forward(self, offsets: Tensor, scores: Tensor, priors: Tensor, *others: Tensor) -> Tensor:
        s = self.settings
        images, boxes = offsets.shape[0], priors.shape[2] // 4
        locations = 1 if s.shared else s.classes
        prior, variance = priors[0].reshape(2, boxes, 4)[:, :, None]
        offsets = offsets.reshape(images, boxes, locations, 4)
        if s.code != "CORNER" and not torch.all(prior[..., 2:] > prior[..., :2]):
            raise LayerError("a prior box has no area", layer=self.layer_name)
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
        at = kept.nonzero()
        if not len(at):
            none = scores.new_full((images, 7), -1)
            none[:, 0] = torch.arange(images, device=scores.device)
            return none[None, None]
        labels = torch.tensor(classes, device=scores.device)[at[:, 1]]
        head = torch.stack([at[:, 0].to(scores.dtype), labels.to(scores.dtype), ranked[kept]], 1)
        return torch.cat([head, best[kept]], 1)[None, None]

    def _best(self, kept: Tensor, ranked: Tensor, place: Tensor) -> Tensor:
        """The best of each image, over its classes."""
        flat = torch.where(kept, ranked, -math.inf).flatten(1)
        order = flat.argsort(dim=1, descending=True, stable=True)[:, : self.settings.keep]
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, True)
        return kept & chosen.view(kept.shape)


@layer("DetectionOutput", bottoms=(3, 4), tops=1)
def detection_output(spec: LayerSpec) -> Layer:
    params = spec.params("detection_output_param")
    if not params.knows("nms_param"):
        spec.fail(f"under the dialect {spec.dialect}, this type is not the one of SSD, the only one that is known")
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
    return DetectionOutput(settings)


def check_predictions(spec: LayerSpec, classes: int, shared: bool) -> None:
    """Offsets, scores and prior boxes must be of the same images and of equally many boxes."""
    offsets, scores, priors = spec.bottom_shapes[:3]
    if len(priors) < 3 or priors[0] != 1 or priors[1] != 2 or priors[2] % 4:
        spec.fail(f"the prior boxes {spec.bottoms[2]!r} have shape {list(priors)}; (1, 2, 4 x boxes) was expected")
    boxes = priors[2] // 4
    for name, shape, per_box in (
        (spec.bottoms[0], offsets, 4 if shared else 4 * classes),
        (spec.bottoms[1], scores, classes),
    ):
        if len(shape) < 2 or shape[0] != offsets[0] or math.prod(shape[1:]) != boxes * per_box:
            spec.fail(
                f"{name!r} has shape {list(shape)}; {boxes} prior boxes with {per_box} values each need "
                f"[{offsets[0] if offsets else 'images'}, {boxes * per_box}]"
            )


class DetectionEvaluate(Layer):
    """Which detections (image, class, score, box) meet a ground truth: rows (image, class, score, hit, miss).

    Before them stands a row (-1, class, number of ground truths, -1, -1) for every class but the background.
    Ground truths are rows (image, class, instance, x1, y1, x2, y2, difficult); an image of -1 ends them. Without
    ``difficult``, difficult ones do not count, and a detection that meets one is neither hit nor miss.

    Args:
        sizes: file with the name, height and width of each image in the order of the detections' images; boxes are then
            compared in pixels.
    """

    def __init__(self, classes: int, background: int, threshold: float, *, difficult: bool, sizes: str | None) -> None:
        super().__init__()
        self.positive = [c for c in range(classes) if c != background]
        self.background = background
        self.threshold = threshold
        self.difficult = difficult
        self.sizes_file = sizes
        self._sizes: list[tuple[float, float]] = []
        self._next = 0

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(1, 1, len(self.positive) + bottoms[0].shape[2], 5)

    def reset_state(self) -> None:
        self._next = 0

    @torch.no_grad()
    def forward(self, detections: Tensor, truths: Tensor) -> Tensor:
        found = detections.reshape(-1, 7).float().cpu().numpy()
        truth = truths.reshape(-1, 8).float().cpu().numpy()
        ends = np.flatnonzero(truth[:, 0].astype(int) == -1)
        truth = truth[: ends[0]] if len(ends) else truth
        for rows in (found[(found[:, 0] != -1)], truth):
            if self.background in rows[:, 1].astype(int):
                raise LayerError(
                    f"a box has the background's class {self.background}",
                    layer=self.layer_name,
                )
        counted = truth if self.difficult else truth[truth[:, 7] == 0]
        out: list[list[float]] = [[-1, c, int((counted[:, 1].astype(int) == c).sum()), -1, -1] for c in self.positive]
        found = found[(found[:, 0] != -1) & (found[:, 1] != -1)]
        for image in np.unique(found[:, 0].astype(int)):
            size = self._size_of_next()
            own = found[found[:, 0].astype(int) == image]
            for label in np.unique(own[:, 1].astype(int)):
                boxes = own[own[:, 1].astype(int) == label]
                known = truth[(truth[:, 0].astype(int) == image) & (truth[:, 1].astype(int) == label)]
                out += self._judged(int(image), int(label), boxes, known, size)
        return detections.new_tensor(out)[None, None]

    def _judged(
        self, image: int, label: int, boxes: np.ndarray, known: np.ndarray, size: tuple[float, float] | None
    ) -> list[list[float]]:
        if not len(known):
            return [[image, label, score, 0, 1] for score in boxes[:, 2]]
        boxes = boxes[np.argsort(-boxes[:, 2], kind="stable")]
        first, second = boxes[:, None, 3:7], known[None, :, 3:7]
        if size is not None:
            first, second = (
                np.clip(corners, 0, 1) * np.array([*size, *size], np.float32) for corners in (first, second)
            )
        measure = overlap if size is None else _pixel_overlap
        overlaps = measure(torch.from_numpy(first), torch.from_numpy(second)).numpy()
        met: set[int] = set()
        out = []
        for box, row in zip(boxes, overlaps, strict=True):
            best = int(row.argmax())
            hit, miss = 0, 0
            if row[best] < np.float32(self.threshold):
                miss = 1
            elif self.difficult or not known[best, 7]:
                hit, miss = int(best not in met), int(best in met)
                met.add(best)
            out.append([image, label, box[2], hit, miss])
        return out

    def _size_of_next(self) -> tuple[float, float] | None:
        """(width, height) of the image whose turn it is; None where boxes are compared as parts of it."""
        if self.sizes_file is None:
            return None
        if not self._sizes:
            words = self.files.read(self.sizes_file, self.layer_name).decode("utf-8", "replace").split()
            self._sizes = [(float(w), float(h)) for h, w in zip(words[1::3], words[2::3], strict=False)]
            if not self._sizes:
                raise LayerError(
                    f"no line of name, height, width in {self.sizes_file!r}",
                    layer=self.layer_name,
                )
        size = self._sizes[self._next % len(self._sizes)]
        self._next += 1
        return size


def _pixel_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes of whole pixels, the last of them inside. As in Caffe, two that do not meet
    share one pixel.
    """
    size = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = torch.where((size < 0).any(-1), 1, (size[..., 0] + 1) * (size[..., 1] + 1))
    return shared / (area(a, 1) + area(b, 1) - shared)


@layer("DetectionEvaluate", bottoms=2, tops=1)
def detection_evaluate(spec: LayerSpec) -> Layer:
    params = spec.params("detection_evaluate_param")
    if not params.has("num_classes"):
        spec.fail("needs num_classes")
    if params.overlap_threshold <= 0:
        spec.fail(f"overlap_threshold {params.overlap_threshold:g} must be positive")
    for name, shape, width in zip(spec.bottoms, spec.bottom_shapes, (7, 8), strict=True):
        if len(shape) != 4 or shape[:2] != (1, 1) or shape[3] != width:
            spec.fail(f"{name!r} has shape {list(shape)}; (1, 1, boxes, {width}) was expected")
    sizes = params.name_size_file if params.has("name_size_file") and params.name_size_file else None
    return DetectionEvaluate(
        params.num_classes,
        params.background_label_id,
        params.overlap_threshold,
        difficult=params.evaluate_difficult_gt,
        sizes=sizes,
    )
