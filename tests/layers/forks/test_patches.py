"""Layers that find cells of one blob in another (pose_action_caffe), in small nets, against loops over cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_compat.errors import LayerError
from caffe_compat.network.net import CaffeNet
from tests.layers.building import assert_equals, build, give_values
from tests.networks import input_layer, layer, net_of

# Windows of the two layers between blobs: of rows, and of columns.
BETWEEN = layer(
    "conv",
    "Convolution",
    "data",
    "conv",
    "convolution_param { num_output: 2 kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 1 }",
) + layer("pool", "Pooling", "conv", "peaks", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }")
# Where row i and column i of peaks lie in data: through (stride, (kernel - 1) / 2 - pad) of one layer and the next.
ROWS = (2.0, -0.5 + (1.0 - 2.0))
COLUMNS = (4.0, -1.0 + 0.5 - 1.0)
CROP = "crop_patch_from_max_feature_position_param { crop_factor: 0.4 match_channel: false match_channel: true }"


def net_with(kind: str, more: str = "", between: str = BETWEEN) -> CaffeNet:
    inputs = input_layer("data", 2, 3, 9, 11) + input_layer("other", 2, 2, 9, 11)
    tail = layer("l", kind, "data peaks data other", "a b", more)
    net = net_of(inputs + between + tail)
    give_values(net.conv, seed=3)
    return net


def inputs() -> dict[str, torch.Tensor]:
    draws = np.random.RandomState(6)
    return {name: torch.tensor(draws.uniform(-1, 1, (2, n, 9, 11))).float() for name, n in (("data", 3), ("other", 2))}


@pytest.mark.parametrize("factor", [0.4, 0.9])  # 0.9: patches that reach beyond the map
def test_patches_about_peaks(factor: float) -> None:
    net, given = net_with("CropPatchFromMaxFeaturePosition", CROP.replace("0.4", str(factor))), inputs()
    found = net.run(given, blobs=["peaks", "a", "b"])
    peaks = found["peaks"].detach().numpy()
    height, width = math.floor(9 * factor), math.floor(11 * factor)
    a, b = np.zeros((2, 2 * 3, height, width)), np.zeros((2, 2, height, width))
    slopes = {name: np.zeros(x.shape) for name, x in given.items()}
    for n, c in np.ndindex(2, 2):
        row, column = divmod(int(peaks[n, c].argmax()), peaks.shape[3])
        top = math.floor(ROWS[0] * row + ROWS[1] - height / 2)
        left = math.floor(COLUMNS[0] * column + COLUMNS[1] - width / 2)
        for h, w in np.ndindex(height, width):
            if 0 <= top + h < 9 and 0 <= left + w < 11:
                a[n, 3 * c : 3 * c + 3, h, w] = given["data"].detach()[n, :, top + h, left + w]
                b[n, c, h, w] = given["other"].detach()[n, c, top + h, left + w]
                slopes["data"][n, :, top + h, left + w] += 1
                slopes["other"][n, c, top + h, left + w] += 2
    assert_equals(found["a"], a)
    assert_equals(found["b"], b)
    data, other = (given[name].requires_grad_() for name in ("data", "other"))
    tops = net.l(data, found["peaks"], data, other)
    (tops[0].sum() + 2 * tops[1].sum()).backward()
    for name, x in given.items():
        assert_equals(x.grad, slopes[name])


def test_maps_seen_from_other_cells() -> None:
    net, given = net_with("ResizeWithMap"), inputs()
    found = net.run(given, blobs=["peaks", "a", "b"])
    rows, columns = found["peaks"].shape[2:]
    for name, top in (("data", "a"), ("other", "b")):
        x = given[name].numpy()
        expected = np.zeros((*x.shape[:2], rows, columns))
        for h, w in np.ndindex(rows, columns):
            y0, x0 = ROWS[0] * h + ROWS[1], COLUMNS[0] * w + COLUMNS[1]
            for i in (math.floor(y0), math.floor(y0) + 1):
                for j in (math.floor(x0), math.floor(x0) + 1):
                    if 0 <= i < 9 and 0 <= j < 11:
                        expected[:, :, h, w] += x[:, :, i, j] * (1 - abs(y0 - i)) * (1 - abs(x0 - j))
        assert_equals(found[top], expected)


UP = "convolution_param { num_output: 2 kernel_size: 2 stride: 2 }"


@pytest.mark.parametrize(
    ("layers", "rows"),
    [
        (
            layer("up", "Deconvolution", "data", "peaks", UP),
            18,
        ),
        (layer("up", "Pooling", "data", "peaks", "pooling_param { global_pooling: true }"), 1),
        (layer("up", "LRN", "data", "n") + layer("f", "Eltwise", "n data", "peaks"), 9),
    ],
)
def test_other_layers_between(layers: str, rows: int) -> None:
    tail = layer("l", "ResizeWithMap", "data peaks data", "a")
    net = net_of(input_layer("data", 2, 3, 9, 11) + layers + tail)
    # Through a Deconvolution cell i is at (i - 1/2) / 2, through a window over all of it at its middle.
    factor, shift = {18: (0.5, -0.25), 1: (9.0, 4.0), 9: (1.0, 0.0)}[rows]
    assert net.l.lines[0] == pytest.approx((1.0, 4.0) if rows == 1 else (factor, shift))
    assert net.shapes[net.graph.blobs.index("a")][2] == rows


def test_errors() -> None:
    with pytest.raises(LayerError, match="no common blob"):
        net_with("ResizeWithMap", between=BETWEEN.replace('"data"', '"other"', 1))
    with pytest.raises(LayerError, match=r"layer 'tanh' \(TanH\): lies between"):
        net_with("ResizeWithMap", between=BETWEEN.replace('"peaks"', '"p"') + layer("tanh", "TanH", "p", "peaks"))
    with pytest.raises(LayerError, match="needs the net around it"):
        build('type: "ResizeWithMap"', (2, 3, 9, 11), (2, 2, 4, 4), (2, 3, 9, 11))
    with pytest.raises(LayerError, match="width = 11"):
        build('type: "ResizeWithMap"', (2, 3, 9, 11), (2, 2, 4, 4), (2, 3, 9, 10))
    with pytest.raises(LayerError, match="2 were expected"):
        net_with("CropPatchFromMaxFeaturePosition", CROP.replace("match_channel: false", "match_channel: true"))
    with pytest.raises(LayerError, match="found 2"):
        build('type: "ResizeWithMap"', (2, 3, 9, 11), (2, 2, 4, 4), (2, 3, 9, 11), tops=2)
