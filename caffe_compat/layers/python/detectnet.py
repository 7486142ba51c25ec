"""DetectNet's Python layers: cells with boxes become lists of boxes, which are compared with the true ones.

Source: NVIDIA/caffe, ``python/caffe/layers/detectnet/clustering.py`` and ``mean_ap.py`` (DIGITS has them from there);
OpenCV's ``groupRectangles`` is what clusters. A list is (N, 50, 5), with zeros behind its boxes. No gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import LayerError
from ...network.python_registry import PythonSettings, python_layer
from ...network.registry import Layer, LayerSpec

__all__ = ["ClusterDetections", "ClusterGroundtruth", "MeanAveragePrecision", "ScoreDetections", "group_rectangles"]

_MOST = 50
_OVERLAP = 0.7  # from which on a box is that of an object
_HIT, _WRONG, _MISSED = 1, 2, 3


def group_rectangles(boxes: np.ndarray, least: int, eps: float) -> list[tuple[int, ...]]:
    """OpenCV's ``groupRectangles``: similar rectangles (N, 4), as whole x, y, width, height, become their mean.

    Two are similar if their sides lie no further apart than ``eps`` times half the smaller width plus height. Groups of
    ``least`` or fewer go, and small ones inside a larger one. Each mean comes with the size of its group.
    """
    from scipy.sparse.csgraph import connected_components  # it takes as long to import as all layers together

    if least <= 0 or not len(boxes):
        return [(*(int(v) for v in box), 1) for box in boxes]
    ends = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    smaller = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]).sum(-1)
    similar = (np.abs(ends[:, None] - ends) <= (eps * smaller * 0.5)[..., None]).all(-1)
    count, group = connected_components(similar, directed=False)
    sizes = np.bincount(group, minlength=count)
    sums = np.stack([np.bincount(group, boxes[:, i], count) for i in range(4)], 1)
    means = np.rint(sums.astype(np.float32) * (np.float32(1) / sizes.astype(np.float32))[:, None]).astype(np.int64)
    return [
        (*(int(v) for v in means[i]), int(sizes[i]))
        for i in range(count)
        if sizes[i] > least and not _lies_inside(i, means, sizes, least, eps)
    ]


def _lies_inside(i: int, means: np.ndarray, sizes: np.ndarray, least: int, eps: float) -> bool:
    """Whether mean ``i`` lies in another one whose group is large, or is small itself."""
    slack = np.rint(means[:, 2:] * eps).astype(np.int64)
    low, high = means[:, :2] - slack, means[:, :2] + means[:, 2:] + slack
    inside = (means[i, :2] >= low).all(1) & (means[i, :2] + means[i, 2:] <= high).all(1)
    larger = (sizes > max(3, sizes[i])) | (sizes[i] < 3)
    others = np.arange(len(means)) != i
    return bool((inside & larger & others & (sizes > least)).any())


@dataclass(frozen=True)
class Grid:
    """The image's width and height, and pixels from cell to cell."""

    width: int
    height: int
    stride: int

    def boxes(self, chosen: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The boxes (M, 4) of the ``chosen`` cells, row by row; ``boxes`` (4, H, W) count from their cell."""
        columns, rows = self.width // self.stride, self.height // self.stride
        y, x = np.nonzero(chosen[:rows, :columns])
        corner = np.stack([x * (self.width / columns), y * (self.height / rows)], 1)
        return boxes[:, y, x].T + np.concatenate([corner, corner], 1)


class _Lists(Layer):
    """For each class a list of boxes, from coverage (N, classes, H, W) and boxes (N, 4, H, W)."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(bottoms[0].new_empty(bottoms[0].shape[0], _MOST, 5) for _ in range(bottoms[0].shape[1]))
        return tops[0] if len(tops) == 1 else tops

    @torch.no_grad()
    def forward(self, coverage: Tensor, boxes: Tensor) -> Tensor | tuple[Tensor, ...]:
        images, cells = coverage.float().cpu().numpy(), boxes.float().cpu().numpy()
        lists = np.zeros((images.shape[1], len(images), _MOST, 5), np.float32)
        for label in range(images.shape[1]):
            for i, image in enumerate(images):
                rows = self.listed(image[label], cells[i])
                if len(rows) > _MOST:
                    raise LayerError(
                        f"finds {len(rows)} boxes in an image; a list holds {_MOST}",
                        layer=self.layer_name,
                        type="Python",
                    )
                lists[label, i, : len(rows), : rows.shape[1]] = rows.astype(np.float16)
        tops = tuple(torch.from_numpy(rows).to(coverage) for rows in lists)
        return tops[0] if len(tops) == 1 else tops

    def listed(self, coverage: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The rows of one image's list."""
        raise NotImplementedError


class ClusterGroundtruth(_Lists):
    """The boxes of all covered cells, each once: x1, y1, x2, y2, 0. The original leaves their order open."""

    def listed(self, coverage: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        found = self.grid.boxes(coverage > 0, boxes)
        return np.array(list(dict.fromkeys(map(tuple, found.tolist())))).reshape(-1, 4)


class ClusterDetections(_Lists):
    """Clusters of the boxes of cells with a coverage from ``covered`` on: x1, y1, x2, y2, log of how many they are.

    Args:
        least, eps: as for :func:`group_rectangles`, for which corners and sizes are cut to whole pixels.
        height: the least height of a cluster.
    """

    def __init__(self, grid: Grid, covered: float, least: int, eps: float, height: int) -> None:
        super().__init__(grid)
        self.covered = covered
        self.least = least
        self.eps = eps
        self.height = height

    def listed(self, coverage: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        found = self.grid.boxes(coverage >= np.float32(self.covered), boxes)
        if not found.any():
            return np.zeros((0, 5))
        whole = np.trunc(np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], 1)).astype(np.int64)
        groups = group_rectangles(whole, self.least, self.eps)
        rows = [(x, y, x + w, y + h, np.log(count)) for x, y, w, h, count in groups if h >= self.height]
        return np.array(rows).reshape(-1, 5)


def _numbers(spec: LayerSpec, settings: PythonSettings, names: tuple[str, ...]) -> list[float]:
    """The numbers of ``param_str``, with commas between; the last, how many classes there are, may be left out."""
    words = settings.text.split(",")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) not in (len(names) - 1, len(names)):
        spec.fail(f"param_str {settings.text[:60]!r}: {len(names)} numbers with commas between were expected: {names}")
    return numbers if len(numbers) == len(names) else [*numbers, 1]


def _check_lists(spec: LayerSpec, grid: Grid, classes: float) -> None:
    if min(grid.width, grid.height, grid.stride) < 1 or grid.stride > min(grid.width, grid.height):
        spec.fail(f"an image of {grid.width} x {grid.height} and a stride of {grid.stride} make no grid")
    images, covered, height, width = spec.images()
    if covered != classes:
        spec.misfit(0, f"(images, {classes:g}, height, width)")
    if len(spec.tops) != classes:
        spec.fail(f"has {len(spec.tops)} tops for {classes:g} classes; one for each was expected")
    spec.shaped(1, f"images = {images}", 4, f"height = {height}", f"width = {width}")


_SIZES = ("width", "height", "stride")
_CLUSTERING = "caffe.layers.detectnet.clustering"


@python_layer(_CLUSTERING, "ClusterGroundtruth", bottoms=2, tops=(1, None), verified=False)
def cluster_groundtruth(spec: LayerSpec, settings: PythonSettings) -> Layer:
    *sizes, classes = _numbers(spec, settings, (*_SIZES, "classes"))
    grid = Grid(*(int(size) for size in sizes))
    _check_lists(spec, grid, classes)
    return ClusterGroundtruth(grid)


@python_layer(_CLUSTERING, "ClusterDetections", bottoms=2, tops=(1, None), verified=False)
def cluster_detections(spec: LayerSpec, settings: PythonSettings) -> Layer:
    names = (*_SIZES, "coverage", "rectangles", "eps", "least height", "classes")
    *sizes, covered, least, eps, height, classes = _numbers(spec, settings, names)
    grid = Grid(*(int(size) for size in sizes))
    _check_lists(spec, grid, classes)
    return ClusterDetections(grid, covered, int(least), eps, int(height))


class ScoreDetections(Layer):
    """Of lists of true and of found boxes, one list with what each is: 1 found, 2 wrong, 3 missed.

    Each true box, one after the other, takes the first found one that is free and overlaps it by ``_OVERLAP``.
    """

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0].new_empty(bottoms[0].shape[0], _MOST, 5)

    @torch.no_grad()
    def forward(self, truth: Tensor, found: Tensor) -> Tensor:
        lists = truth.new_zeros(truth.shape[0], _MOST, 5)
        for i, (true, own) in enumerate(zip(truth[..., :4], found[..., :4], strict=True)):
            rows = _judged(true[(true != 0).any(1)], own[(own != 0).any(1)])
            if len(rows) > _MOST:
                raise LayerError(
                    f"has {len(rows)} boxes for an image; a list holds {_MOST}", layer=self.layer_name, type="Python"
                )
            lists[i, : len(rows)] = rows
        return lists


def _judged(truth: Tensor, found: Tensor) -> Tensor:
    """Boxes (M, 4) that are there and (N, 4) that were found, as rows of a box and what it is."""
    low = torch.maximum(truth[:, None, :2], found[:, :2])
    sides = (torch.minimum(truth[:, None, 2:], found[:, 2:]) - low).clamp_min(0)
    shared = sides[..., 0] * sides[..., 1]
    first, second = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (truth, found))
    close = torch.where(shared == 0, 0, shared / (first[:, None] + second - shared)) >= _OVERLAP
    hit, taken = found.new_zeros(len(truth), dtype=torch.bool), found.new_zeros(len(found), dtype=torch.bool)
    for i, row in enumerate(close.cpu()):
        free = (row & ~taken.cpu()).nonzero()
        if len(free):
            hit[i] = taken[int(free[0])] = True
    parts = ((found[taken], _HIT), (found[~taken], _WRONG), (truth[~hit], _MISSED))
    return torch.cat([torch.cat([boxes, boxes.new_full((len(boxes), 1), what)], 1) for boxes, what in parts])


class MeanAveragePrecision(Layer):
    """Of such lists: precision times recall, precision and recall, in per cent, each (1,); 0 where there is nothing."""

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].new_empty(1),) * 3

    @torch.no_grad()
    def forward(self, judged: Tensor) -> tuple[Tensor, ...]:
        hit, wrong, missed = ((judged[..., 4] == what).sum() for what in (_HIT, _WRONG, _MISSED))
        precision, recall = (100 * hit / (hit + others).clamp_min(1) for others in (wrong, missed))
        return tuple(top.reshape(1).to(judged.dtype) for top in (precision * recall / 100, precision, recall))


def _check_list(spec: LayerSpec, index: int) -> None:
    spec.shaped(index, f"images = {spec.shaped(0, 'images', ...)[0]}", "boxes", 5)


@python_layer("caffe.layers.detectnet.mean_ap", "ScoreDetections", bottoms=2, tops=1, verified=False)
def score_detections(spec: LayerSpec, settings: PythonSettings) -> Layer:
    for index in (0, 1):
        _check_list(spec, index)
    return ScoreDetections()


@python_layer("caffe.layers.detectnet.mean_ap", "mAP", bottoms=1, tops=3, verified=False)
def mean_average_precision(spec: LayerSpec, settings: PythonSettings) -> Layer:
    _check_list(spec, 0)
    return MeanAveragePrecision()
