"""The pose network's deploy definition in plain numpy and double precision: a second opinion on our own numbers.

It shares nothing with the library but the reader of weight files. Written from the definitions of Caffe's layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from caffe_compat.formats.weights import read_weights

# Arrays of more values than this are stored as fingerprints.
WHOLE = 10_000

Arrays = dict[str, np.ndarray]


class PlainPoseNetwork:
    """Runs batches one after the other and carries the state of both LSTMs."""

    def __init__(self, model: Path) -> None:
        with read_weights(model) as weights:
            self.blobs = {
                layer.name: [np.array(blob.data, np.float64) for blob in layer.blobs]
                for layer in weights.layers
                if layer.blobs
            }
        self.state: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def run(self, data: np.ndarray, clip: np.ndarray) -> Arrays:
        """Every blob for frames (n, 3, size, size) and clip (n, 1), named as in the definition."""
        b: Arrays = {}
        x = data.astype(np.float64)
        blocks = (("1_1", "1_2"), ("2_1", "2_2"), ("3_1", "3_2", "3_3", "3_4"))
        for i, names in enumerate(blocks, 1):
            for name in names:
                x = b[f"conv{name}"] = relu(self.conv(f"conv{name}", x, 1))
            x = b[f"pool{i}_stage1"] = halved(x)
        features = ("conv4_1", "conv4_2", *(f"conv4_{k}_CPM" for k in range(3, 8)))
        for name in (*features, "special_conv_1", "special_conv_2"):
            x = b[name] = relu(self.conv(name, x, 1))
        for name in ("fa_conv_1", "fa_conv_2"):
            x = b[name] = relu(self.conv(name, x, 1, stride=2))
        x = b["fc"] = self.linear("fc", x.reshape(len(x), -1))
        b["fc-reshape"] = x[:, None]
        x = b["lstm1_reshape"] = self.lstm("lstm1", x, clip)
        b["lstm1"] = x[:, None]
        x = b["lstm1_inverted"] = x[::-1]
        b["lstm2_input"] = x[:, None]
        x = self.lstm("lstm2", x, clip)  # the clip values are not turned round
        b["lstm2"] = x[:, None]
        b["predict_inverted"] = b["fc-final"] = self.linear("fc-final_16", x)
        b["3dpredict"] = b["predict_inverted"][::-1]
        b["change_tmp"] = relu(self.linear("change_tmp", b["3dpredict"]))
        b["change"] = self.linear("change", b["change_tmp"])
        x = b["project_1"] = relu(self.linear("project_1", b["change"]))
        x = b["project_2"] = relu(self.linear("project_2", x))
        b["project_3"] = relu(self.linear("project_3", x))
        b["residual1"] = b["project_1"] + b["project_3"]
        b["project_2d"] = self.linear("project_2d", b["residual1"])
        return b

    def conv(self, name: str, x: np.ndarray, pad: int, stride: int = 1) -> np.ndarray:
        weight, bias = self.blobs[name]
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        return np.moveaxis(np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))), 3, 1) + bias[:, None, None]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        weight, bias = self.blobs[name]
        return x @ weight.T + bias

    def lstm(self, name: str, x: np.ndarray, clip: np.ndarray) -> np.ndarray:
        """One sequence; a clip of 0 forgets the state before its frame. Gates: input, forget, output, candidate."""
        from_input, bias, from_hidden = self.blobs[name]
        size = from_hidden.shape[1]
        hidden, cell = self.state.get(name, (np.zeros(size), np.zeros(size)))
        outputs = []
        for frame, goes_on in zip(x, clip.ravel(), strict=True):
            i, f, o, g = (from_input @ frame + bias + from_hidden @ (goes_on * hidden)).reshape(4, size)
            cell = sigmoid(f) * goes_on * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            outputs.append(hidden)
        self.state[name] = hidden, cell
        return np.stack(outputs)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def halved(x: np.ndarray) -> np.ndarray:
    """The greatest of every 2x2, for even sizes."""
    n, c, h, w = x.shape
    return np.asarray(x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5)))


def record(path: Path, model: Path, batches: Sequence[tuple[np.ndarray, np.ndarray]], source: str) -> None:
    """Store inputs and blobs of batches run one after the other, as ``caffe-compat verify --reference`` reads them."""
    net = PlainPoseNetwork(model)
    with h5py.File(path, "w") as file:
        file.attrs["source"] = source
        for k, (data, clip) in enumerate(batches):
            group = file.create_group(f"batch_{k}")
            group.create_dataset("data", data=data.astype(np.float32), compression="gzip", shuffle=True)
            group["clip"] = clip.astype(np.float32)
            store(group.create_group("blob"), net.run(data, clip), seed=k)


def store(group: h5py.Group, blobs: Mapping[str, np.ndarray], seed: int) -> None:
    """Small arrays whole, large ones as fingerprints."""
    rng = np.random.default_rng(seed)
    for name, x in blobs.items():
        if x.size <= WHOLE:
            group[name] = x.astype(np.float32)
            continue
        entry = group.create_group(name)
        positions = np.sort(rng.choice(x.size, 64, replace=False))
        entry["positions"], entry["values"] = positions, x.ravel()[positions]
        entry.attrs["shape"] = x.shape
        entry.attrs["mean_std_min_max"] = [x.mean(), x.std(), x.min(), x.max()]
