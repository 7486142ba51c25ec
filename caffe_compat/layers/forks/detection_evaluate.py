"""DetectionEvaluate of the single-shot detector (SSD)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from .boxes import area, overlap
from .families import SSD
from .resizing import Resizing, read_resizing

__all__ = ["DetectionEvaluate"]

# These change the classes of ground truths that are none of theirs, or leave such ones out.
_STRICT = (
    "NVIDIA/caffe",
    "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "jolibrain/caffe",
    "openvinotoolkit/training_toolbox_caffe",
    "sfzhang15/RefineDet",
    "tidsp/caffe-jacinto@caffe-0.17",
)
# The tops of SSD's first state, of TextBoxes++, gklz1982/caffe-yolov2, zhaoweicai/cascade-rcnn and yuqj1991/caffe_train
# have other rows; dreadlord1984/SSD_windows_caffe leaves small ground truths out. None of these is built here.
_FORKS = (
    *(fork for fork in SSD if fork not in (*_STRICT, "makefile/frcnn")),
    "eric612/Caffe-YOLOv3-Windows",
)


class DetectionEvaluate(Layer):
    """Which detections (image, class, score, box) meet a ground truth: rows (image, class, score, hit, miss).

    Before them stands a row (-1, class, number of ground truths, -1, -1) for every class but the background.
    Ground truths are rows (image, class, instance, x1, y1, x2, y2, difficult); an image of -1 ends them. Without
    ``difficult``, difficult ones do not count, and a detection that meets one is neither hit nor miss.

    Args:
        sizes: file with the name, height and width of each image in the order of the detections' images; boxes are then
            compared in pixels.
        resizing: how an image of that size became the network's, of which the boxes are fractions.
        strict: a ground truth of a class that there is none is an error.
    """

    def __init__(
        self,
        classes: int,
        background: int,
        threshold: float,
        *,
        difficult: bool,
        sizes: str | None,
        strict: bool,
        resizing: Resizing | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.strict = strict
        self.positive = [c for c in range(classes) if c != background]
        self.background = background
        self.threshold = threshold
        self.difficult = difficult
        self.sizes_file = sizes
        self.resizing = resizing
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
        labels = truth[:, 1].astype(int)
        if self.strict and ((labels < 0) | (labels >= self.classes)).any():
            raise LayerError(
                f"a ground truth is of none of the {self.classes} classes; this fork "
                "takes it for one of them or leaves it out, which is not supported",
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
            first, second = (self._in_pixels(corners, size) for corners in (first, second))
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

    def _in_pixels(self, corners: np.ndarray, size: tuple[float, float]) -> np.ndarray:
        """Corners (..., 4) in the pixels of an image of ``size`` (width, height)."""
        if self.resizing is not None:
            return self.resizing.undone(corners, size)
        return np.clip(corners, 0, 1) * np.array([*size, *size], np.float32)

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


@layer("DetectionEvaluate", bottoms=2, tops=1, dialects=_FORKS)
def detection_evaluate(spec: LayerSpec) -> Layer:
    return _detection_evaluate(spec, strict=False)


@layer("DetectionEvaluate", bottoms=2, tops=1, dialects=_STRICT)
def detection_evaluate_strict(spec: LayerSpec) -> Layer:
    return _detection_evaluate(spec, strict=True)


def _detection_evaluate(spec: LayerSpec, *, strict: bool) -> Layer:
    params = spec.params("detection_evaluate_param")
    if not params.has("num_classes"):
        spec.fail("needs num_classes")
    if params.overlap_threshold <= 0:
        spec.fail(f"overlap_threshold {params.overlap_threshold:g} must be positive")
    spec.shaped(0, 1, 1, "boxes", 7)
    spec.shaped(1, 1, 1, "objects", 8)
    sizes = params.name_size_file if params.has("name_size_file") and params.name_size_file else None
    if params.knows("resize_param") and params.has("resize_param"):
        resizing = read_resizing(spec, params.resize_param)
    else:
        resizing = None
    return DetectionEvaluate(
        params.num_classes,
        params.background_label_id,
        params.overlap_threshold,
        difficult=params.evaluate_difficult_gt,
        sizes=sizes,
        strict=strict,
        resizing=resizing,
    )
