"""MultiStageMeanfield: a dense conditional random field as a recurrent network (CRF-RNN).

Source: Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, and torrvision/caffe's
``multi_stage_meanfield.cpp`` and ``meanfield_iteration.cpp``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import LayerError
from ...network.registry import Layer, LayerSpec, layer
from .permutohedral import Permutohedral

__all__ = ["MultiStageMeanfield"]

_TINY = 1e-20  # keeps the fork from dividing by 0


class MultiStageMeanfield(Layer):
    """Scores of C classes, (N, C, H, W), after messages between all pixels of an image.

    Bottoms: the scores; the scores of the first iteration (N, C, H, W); the images (N, 3, H, W). In each iteration the
    probabilities (softmax over classes) are smoothed over pixels that lie near each other, and over those that lie near
    each other and look alike; both are mixed by a matrix of classes, then by that of compatibilities, and the scores
    less the outcome are the next ones. No gradient reaches the images.

    Args:
        apart: standard deviation, in pixels, of the first filter. near, alike: that of the second, in pixels and in
            brightness.
        starts: the diagonals of the first two matrices where no weights are loaded; empty if the file does not tell.
    """

    spatial: nn.Parameter
    bilateral: nn.Parameter
    compatibility: nn.Parameter

    def __init__(
        self,
        classes: int,
        iterations: int,
        *,
        apart: float,
        near: float,
        alike: float,
        starts: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        for name in ("spatial", "bilateral", "compatibility"):
            self.blob(name, (1, 1, classes, classes))
        self.iterations = iterations
        self.apart, self.near, self.alike = apart, near, alike
        self.starts = {"spatial": starts[0], "bilateral": starts[1], "compatibility": (-1.0,) * classes}

    def start_blob(self, name: str, blob: Tensor) -> None:
        if not self.starts[name]:
            text = f"has neither weights nor {name}_filter_weights_str, from which the fork starts"
            raise LayerError(text, layer=self.layer_name, type="MultiStageMeanfield")
        blob[0, 0].diagonal().copy_(torch.tensor(self.starts[name]))

    def infer(self, *bottoms: Tensor) -> Tensor:
        return bottoms[0]

    def forward(self, scores: Tensor, first: Tensor, images: Tensor) -> Tensor:
        height, width = scores.shape[2:]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=scores.device), torch.arange(width, device=scores.device), indexing="ij"
        )
        places = torch.stack([columns.flatten(), rows.flatten()], 1).float()
        spatial = _Normalised(places / self.apart)
        done = []
        for score, start, image in zip(scores.flatten(2), first.flatten(2), images.flatten(2), strict=True):
            bilateral = _Normalised(torch.cat([places / self.near, image.T.float() / self.alike], 1))
            done.append(self._settled(score, start, spatial, bilateral))
        return torch.stack(done).view_as(scores)

    def _settled(self, scores: Tensor, first: Tensor, spatial: _Normalised, bilateral: _Normalised) -> Tensor:
        """The scores (C, P) of an image after all iterations."""
        now = first
        for _ in range(self.iterations):
            q = now.softmax(0)
            messages = self.spatial[0, 0] @ spatial(q) + self.bilateral[0, 0] @ bilateral(q)
            now = scores - self.compatibility[0, 0] @ messages
        return now


class _Normalised:
    """A filter whose weights sum to 1 at each point."""

    def __init__(self, features: Tensor) -> None:
        self._filter = Permutohedral(features)
        self._norm = 1 / (self._filter(features.new_ones(1, len(features))) + _TINY)

    def __call__(self, values: Tensor) -> Tensor:
        return self._filter(values) * self._norm.to(values.dtype)


@layer("MultiStageMeanfield", bottoms=3, tops=1, dialects=("torrvision/caffe@crfrnn", "bittnt/caffe"), verified=False)
def multi_stage_meanfield(spec: LayerSpec) -> Layer:
    params = spec.params("multi_stage_meanfield_param")
    images, classes, height, width = spec.images(filled=True)
    spec.alike(0, 1)
    spec.shaped(2, f"images = {images}", "colours = 3", f"height = {height}", f"width = {width}")
    # The only mode there is, and settings that the fork declares and never reads.
    params.ignore("compatibility_mode", "threshold", "force_cpu")
    params.ignore("forced_spatial_filter_weight", "forced_bilateral_filter_weight")
    if params.num_iterations < 2:
        spec.fail(f"num_iterations is {params.num_iterations}; it must be at least 2")
    sizes = {name: getattr(params, f"theta_{name}") for name in ("alpha", "beta", "gamma")}
    for name, size in sizes.items():
        if not size > 0:
            spec.fail(f"theta_{name} is {size:g}; it must be positive")
    return MultiStageMeanfield(
        classes,
        params.num_iterations,
        apart=sizes["gamma"],
        near=sizes["alpha"],
        alike=sizes["beta"],
        starts=(_start(spec, "spatial", classes), _start(spec, "bilateral", classes)),
    )


def _start(spec: LayerSpec, name: str, classes: int) -> tuple[float, ...]:
    """The diagonal of a matrix of classes without weights: the numbers of a text, or one for all.

    Where a fork has no such text it reads the files spatial.par and bilateral.par, and the one number is what its
    definitions say beside them.
    """
    params = spec.params("multi_stage_meanfield_param")
    if not params.knows(f"{name}_filter_weights_str"):
        spec.note(f"without weights the fork reads {name}.par; here it starts from {name}_filter_weight")
        return (params.get(f"{name}_filter_weight", 1.0),) * classes
    text = getattr(params, f"{name}_filter_weights_str")
    if not text:
        return ()  # no bearing where there are weights
    try:
        numbers = tuple(map(float, text.split()))
    except ValueError:
        numbers = ()
    if len(numbers) < classes:
        spec.fail(f"{name}_filter_weights_str must have a number for each of the {classes} classes")
    return numbers[:classes]
