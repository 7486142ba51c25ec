"""Pooling. Caffe's windows may hang over the padding: where that is known beforehand, it is padding of its own here."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_compat.layers.bvlc.pooling import Pooling, Windows

from .emitters import emits
from .graph import Site
from .sizes import is_fixed

__all__: list[str] = []


@emits(Pooling)
def pooling(site: Site) -> str | list[str] | None:
    m, x = site.module, site.bottoms[0]
    if m.method == "STOCHASTIC":
        return None
    if m.windows is None:
        if not m.with_mask:
            return site.op("GlobalAveragePool" if m.method == "AVE" else "GlobalMaxPool", x)
        if not is_fixed(site.bottom_sizes[0][2:]):
            return None
        height, width = (int(n) for n in site.bottom_sizes[0][2:] if isinstance(n, int))
        return _largest(site, Windows((height, width)))
    if is_fixed(site.bottom_sizes[0][2:]):
        return _largest(site, m.windows) if m.method == "MAX" else _mean(site, m.windows)
    if m.with_mask:
        site.fail("the places of maxima in pictures of any size")
    # With a size that varies, how far a window hangs over is left to the runtime, which counts like Caffe but for
    # windows without a pixel.
    return site.op(
        "MaxPool" if m.method == "MAX" else "AveragePool",
        x,
        **_windows(m.windows),
        pads=[*m.windows.pad, *m.windows.pad],
        ceil_mode=int(m.windows.ceil),
        count_include_pad=int(any(m.windows.pad)) if m.method == "AVE" else None,
    )


def _windows(windows: Windows) -> dict[str, Any]:
    return {"kernel_shape": list(windows.kernel), "strides": list(windows.stride)}


def _ends(site: Site, windows: Windows) -> tuple[list[int], list[int], list[int]]:
    """Vertical and horizontal: the size, the number of windows, and the padding that the last one needs behind."""
    size = [n if isinstance(n, int) else n.built for n in site.bottom_sizes[0][2:]]
    counts = list(windows.counts(*size))
    ends = [
        max(0, (count - 1) * s + k - n - p)
        for n, count, s, k, p in zip(size, counts, windows.stride, windows.kernel, windows.pad, strict=True)
    ]
    return size, counts, ends


def _largest(site: Site, windows: Windows) -> str | list[str]:
    size, _, ends = _ends(site, windows)
    x, pads = site.bottoms[0], [*windows.pad, *ends]
    with_mask = len(site.node.tops) == 2
    if any(p >= k for p, k in zip(pads, [*windows.kernel] * 2, strict=True)):
        if with_mask:
            site.fail("the places of maxima in windows without a pixel")
        lowest = site.floats(np.finfo(np.float32 if site.kind is np.float32 else np.float16).min)
        x = site.op("Pad", x, site.ints([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]]), lowest)
        pads = [0, 0, 0, 0]
    if not with_mask:
        return site.op("MaxPool", x, **_windows(windows), pads=pads)
    values, places = site.ops("MaxPool", x, outputs=2, **_windows(windows), pads=pads)
    # Places count on through planes and images; Caffe's begin anew in each plane.
    inside = site.op("Mod", places, site.ints(size[0] * size[1]))
    return [values, site.cast(inside, site.kind)]


def _mean(site: Site, windows: Windows) -> str | None:
    size, counts, ends = _ends(site, windows)
    x, pads = site.bottoms[0], [*windows.pad, *ends]
    over = [end > pad for end, pad in zip(ends, windows.pad, strict=True)]
    if any(p >= k for p, k in zip(pads, [*windows.kernel] * 2, strict=True)):
        return None
    if not any(windows.pad):
        return site.op("AveragePool", x, **_windows(windows), pads=pads, count_include_pad=0)
    y = site.op("AveragePool", x, **_windows(windows), pads=pads, count_include_pad=1)
    if not any(over):
        return y
    # Caffe divides by the part of a window that lies in the padded picture.
    parts = []
    for n, count, k, s, p in zip(size, counts, windows.kernel, windows.stride, windows.pad, strict=True):
        start = np.arange(count) * s - p
        parts.append(k / (np.minimum(start + k, n + p) - start))
    return site.op("Mul", y, site.floats(parts[0][:, None] * parts[1]))
