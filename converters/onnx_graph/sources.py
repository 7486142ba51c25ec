"""Layers whose tops do not depend on the values of any bottom: they are constants of the file."""

from __future__ import annotations

import torch

from caffe_compat.layers.bvlc.source import DummyData, Parameter
from caffe_compat.layers.forks.ctc_loss import ContinuationIndicator
from caffe_compat.layers.forks.prior_box import PriorBox

from .emitters import emits
from .graph import Site
from .sizes import is_fixed

__all__: list[str] = []


@emits(Parameter)
def parameter(site: Site) -> str:
    (name,) = site.module.blob_names
    return site.op("Identity", site.weight(name))


@emits(DummyData)
def dummy_data(site: Site) -> list[str]:
    for filler in site.module.tops_fillers:
        if filler is not None and filler.type != "constant":
            site.fail(f"draws its values anew in every pass ({filler.type})")
    return [site.floats(top) for top in site.module()]


@emits(PriorBox, wide=True)
def prior_box(site: Site) -> str:
    if not all(is_fixed(sizes[2:]) for sizes in site.bottom_sizes):
        site.fail("makes its boxes beforehand, which pictures of any size do not allow")
    bottoms = [torch.empty([1, 1, *[int(n) for n in s[2:] if isinstance(n, int)]]) for s in site.bottom_sizes]
    return site.floats(site.module(*bottoms))


@emits(ContinuationIndicator)
def continuation_indicator(site: Site) -> str:
    return site.floats(site.module())
