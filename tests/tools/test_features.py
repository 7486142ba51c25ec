"""Features row by row in databases, and the classes of one image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat import load
from caffe_compat.errors import UsageError
from caffe_compat.formats.databases import open_database
from caffe_compat.formats.weights import write_binaryproto
from caffe_compat.schema import load_schema
from caffe_compat.tools.classification import classify
from caffe_compat.tools.features import features_to_databases
from caffe_compat.tools.imageset import images_to_database
from tests.networks import write_weights
from tests.tools.test_imageset import pixels

BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 2 backend: LMDB } }
"""
INPUT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 7 dim: 9 } } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images, their database, a net over it and one that is given its input, and weights of both."""
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        image = np.random.RandomState(i).randint(0, 256, (7, 9, 3)).astype(np.uint8)
        cv2.imwrite(f"{i}.png", image)
    Path("list.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    images_to_database("", "list.txt", "db")
    Path("data.prototxt").write_text(DATA + BODY)
    Path("deploy.prototxt").write_text(INPUT + BODY)
    rng = np.random.RandomState(5)
    shapes = {"conv": [(4, 3, 3, 3), (4,)], "fc": [(3, 48), (3,)]}
    write_weights(
        Path("net.caffemodel"),
        [(name, [(rng.standard_normal(s) * 0.02).astype(np.float32) for s in own]) for name, own in shapes.items()],
    )
    return tmp_path


def run_on(image: np.ndarray) -> dict[str, np.ndarray]:
    """All blobs of the net for pixels (H, W, 3)."""
    net = load("deploy.prototxt", "net.caffemodel")
    given = image.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    return {name: value.numpy() for name, value in net.run({"data": given}, blobs="all").items()}


def test_rows_of_blobs(folder: Path) -> None:
    told: list[tuple[str, int]] = []
    features_to_databases(
        "data.prototxt",
        "net.caffemodel",
        {"conv": "conv_db", "prob": "prob_db"},
        3,
        workers=0,
        on_progress=lambda blob, count: told.append((blob, count)),
    )
    assert told == [("conv", 6), ("prob", 6)]
    message = load_schema().message("Datum")
    for blob, shape in (("conv", (4, 3, 4)), ("prob", (3, 1, 1))):
        database = open_database(f"{blob}_db", "LMDB")
        assert database.keys == [b"%010d" % i for i in range(6)]
        for i in range(6):  # the data begin anew after three
            value = database.get(i)
            datum = message.FromString(value)
            assert (datum.channels, datum.height, datum.width) == shape
            assert not any(datum.HasField(name) for name in ("data", "label", "encoded"))
            expected = run_on(pixels(f"{i % 3}.png"))[blob][0]
            np.testing.assert_allclose(np.array(datum.float_data, np.float32), expected.ravel(), rtol=1e-5)
            # One float after the other, each with its tag: Caffe's schema does not pack them.
            assert value.endswith(b"\x35" + np.float32(datum.float_data[-1]).tobytes())


def test_what_extraction_refuses(folder: Path) -> None:
    with pytest.raises(UsageError, match="fc7"):
        features_to_databases("data.prototxt", "net.caffemodel", {"fc7": "x_db"}, 1, workers=0)
    assert not Path("x_db").exists()
    with pytest.raises(UsageError, match="0 mini-batches"):
        features_to_databases("data.prototxt", "net.caffemodel", {"fc": "x_db"}, 0)


def test_classes_of_an_image(folder: Path) -> None:
    mean = np.random.RandomState(8).uniform(0, 255, (1, 3, 5, 5)).astype(np.float32)
    write_binaryproto("mean.binaryproto", mean)
    Path("labels.txt").write_text("n01 cat\r\nn02 dog\nn03 bird\n")
    wide = cv2.resize(pixels("1.png"), (30, 20))
    cv2.imwrite("wide.png", wide)
    given = cv2.resize(wide, (9, 7)).astype(np.float32) - mean[0].mean(axis=(1, 2))
    values = run_on(given)["prob"][0]
    found = classify("deploy.prototxt", "net.caffemodel", "mean.binaryproto", "labels.txt", "wide.png")
    assert [p.label for p in found] == [("n01 cat", "n02 dog", "n03 bird")[i] for i in np.argsort(-values)]
    np.testing.assert_allclose([p.value for p in found], -np.sort(-values), rtol=1e-4)
    grey = wide[:, :, 0]
    cv2.imwrite("grey.png", grey)
    cv2.imwrite("clear.png", np.dstack([wide, grey]))
    args = ("deploy.prototxt", "net.caffemodel", "mean.binaryproto", "labels.txt")
    assert classify(*args, "clear.png") == found
    assert len(classify(*args, "grey.png", most=2)) == 2
    Path("labels.txt").write_text("cat\ndog\n")
    with pytest.raises(UsageError, match="2 labels for 3 outputs"):
        classify(*args, "wide.png")
    write_binaryproto("mean.binaryproto", mean[:, :1])
    with pytest.raises(UsageError, match="has 1 channels, the net's input 3"):
        classify(*args, "wide.png")
