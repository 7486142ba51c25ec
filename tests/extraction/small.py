"""A small net and some pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from caffe_compat import load
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.net import CaffeNet

FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"
HOW = Preprocess(resize=(8, 8), mean=(104.0, 117.0, 123.0), scale=0.5)


def small_net() -> CaffeNet:
    return load(FORMATS / "v1net.prototxt", FORMATS / "v1net.caffemodel")


def write_images(folder: Path, count: int, *, bad: tuple[int, ...] = ()) -> None:
    """``count`` pictures, the odd ones a folder further down; those in ``bad`` are cut short."""
    folder.joinpath("odd").mkdir(parents=True)
    for i in range(count):
        path = folder / ("odd" if i % 2 else ".") / f"{i:04d}.png"
        cv2.imwrite(str(path), np.random.RandomState(i).randint(0, 256, (11, 13, 3)).astype(np.uint8))
        if i in bad:
            path.write_bytes(path.read_bytes()[:60])
