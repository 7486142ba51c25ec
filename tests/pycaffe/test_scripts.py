"""What people do with pycaffe, in small: each test is a script as its author would write it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat.errors import CaffeCompatWarning, FileError, MissingExtraError, UsageError
from tests.pycaffe.pycaffe_models import write

CLASSES = """
name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 3 dim: 10 dim: 12 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc"
  inner_product_param { num_output: 8 weight_filler { type: "gaussian" std: 0.05 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def tiny(caffe: Any) -> tuple[str, str]:
    """A model file and its weights."""
    write(CLASSES, "deploy.prototxt")
    caffe.Net("deploy.prototxt", caffe.TEST).save("tiny.caffemodel")
    return "deploy.prototxt", "tiny.caffemodel"


@pytest.fixture
def image(caffe: Any) -> str:
    pixels = np.random.RandomState(4).randint(0, 256, (20, 24, 3)).astype(np.uint8)
    cv2.imwrite("cat.png", pixels)
    return "cat.png"


def test_classification(caffe: Any, tiny: tuple[str, str], image: str) -> None:
    model, weights = tiny
    mu = np.array([104.0, 117.0, 123.0])
    net = caffe.Net(model, weights, caffe.TEST)
    transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", mu)
    transformer.set_raw_scale("data", 255)
    transformer.set_channel_swap("data", (2, 1, 0))
    net.blobs["data"].reshape(2, 3, 10, 12)
    transformed = transformer.preprocess("data", caffe.io.load_image(image))
    net.blobs["data"].data[...] = transformed
    output = net.forward()
    probability = output["prob"][0]
    top = probability.argsort()[::-1][:5]

    # Half the size is the mean of four pixels; OpenCV reads BGR.
    pixels = cv2.imread(image).astype(float).reshape(10, 2, 12, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    expected = caffe_compat.load(model, weights)(data=caffe_as_tensor(pixels - mu.reshape(3, 1, 1)))["prob"][0]
    np.testing.assert_allclose(probability, expected.detach().numpy(), rtol=1e-3, atol=1e-6)
    assert list(top) == list(expected.detach().numpy().argsort()[::-1][:5])
    assert output["prob"].shape == (2, 8)
    for name, blob in net.blobs.items():
        assert blob.data.shape[0] == 2, name
    assert [(name, p[0].data.shape) for name, p in net.params.items()] == [("conv1", (4, 3, 3, 3)), ("fc", (8, 80))]


def caffe_as_tensor(x: np.ndarray) -> Any:
    return torch.tensor(x[np.newaxis], dtype=torch.float32)


def test_classifier(caffe: Any, tiny: tuple[str, str], image: str) -> None:
    model, weights = tiny
    mean = np.random.RandomState(0).rand(3, 10, 12) * 100
    classifier = caffe.Classifier(
        model, weights, image_dims=(12, 15), mean=mean, raw_scale=255, channel_swap=(2, 1, 0), input_scale=0.5
    )
    images = [caffe.io.load_image(image), caffe.io.load_image(image)[:17, ::-1]]
    crops = caffe.io.oversample([caffe.io.resize_image(im, (12, 15)) for im in images], (10, 12))
    net = caffe_compat.load(model, weights)
    x = (crops.transpose(0, 3, 1, 2)[:, ::-1] * 255 - mean) * 0.5
    expected = net.run({"data": x.astype(np.float32)})["prob"].numpy().reshape(2, 10, 8)
    np.testing.assert_allclose(classifier.predict(images), expected.mean(1), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(classifier.predict(images, oversample=False), expected[:, 4], rtol=1e-3, atol=1e-6)
    plain = caffe.Classifier(model, weights)
    assert tuple(plain.image_dims) == (10, 12)
    assert plain.predict(images, False).shape == (2, 8)


def test_detector(caffe: Any, tiny: tuple[str, str], image: str) -> None:
    model, weights = tiny
    detector = caffe.Detector(model, weights, mean=np.array([1.0, 2.0, 3.0]), raw_scale=255, channel_swap=(2, 1, 0))
    windows = [(0, 0, 9, 10), (2, 3, 18, 20), (5, 5, 6, 7), np.array([1, 2, 10, 12])]
    found = detector.detect_windows([(image, windows)])
    assert [d["filename"] for d in found] == [image] * 4
    loaded = caffe.io.load_image(image)
    x = detector.transformer.preprocess("data", loaded[1:10, 2:12])
    expected = caffe_compat.load(model, weights).run({"data": x[np.newaxis]})["prob"][0]
    np.testing.assert_allclose(found[3]["prediction"], expected.numpy(), rtol=1e-3, atol=1e-6)
    assert tuple(found[1]["window"]) == windows[1]
    assert detector.detect_windows([]) == []
    with pytest.raises(UsageError, match="no pixel"):
        detector.crop(loaded, (5, 5, 5, 9))
    with pytest.raises(MissingExtraError, match="selective_search"):
        detector.detect_selective_search([image])


def test_detector_with_context(caffe: Any, tiny: tuple[str, str]) -> None:
    write(CLASSES.replace("dim: 10 dim: 12", "dim: 10 dim: 10"), "deploy.prototxt")
    caffe.Net("deploy.prototxt", caffe.TEST).save("square.caffemodel")
    detector = caffe.Detector(
        "deploy.prototxt",
        "square.caffemodel",
        mean=np.array([10.0, 20.0, 30.0]),
        raw_scale=255,
        channel_swap=(2, 1, 0),
        context_pad=2,
    )
    image = np.full((40, 50, 3), 0.5, np.float32)
    # A window of 12 x 12 grows to 20 x 20, which lies inside.
    inside = detector.crop(image, np.array([15, 15, 26, 26]))
    assert inside.shape == (10, 10, 3)
    np.testing.assert_allclose(inside[:-1, :-1], 0.5, rtol=1e-6)
    # In the corner, half of it lies beyond the image, where the mean is (RGB, from 0 to 1).
    corner = detector.crop(image, np.array([0, 0, 11, 11]))
    np.testing.assert_allclose(corner[0, 0], np.array([30, 20, 10]) / 255, rtol=1e-6)
    np.testing.assert_allclose(corner[5, 5], 0.5, rtol=1e-6)


def test_net_surgery(caffe: Any, tiny: tuple[str, str]) -> None:
    model, weights = tiny
    net = caffe.Net(model, weights, caffe.TEST)
    net.params["conv1"][0].data[1:] = 0
    net.params["conv1"][1].data[...] = [0, 1, 2, 3]
    net.params["fc"][0].data.flat = np.linspace(-1, 1, net.params["fc"][0].data.size)
    net.save("edited.caffemodel")
    again = caffe.Net(model, "edited.caffemodel", caffe.TEST)
    for name in ("conv1", "fc"):
        for a, b in zip(net.params[name], again.params[name], strict=True):
            np.testing.assert_array_equal(a.data, b.data)
    x = np.random.RandomState(0).randn(3, 3, 10, 12)
    out = again.forward(data=x, blobs=["conv1"])
    assert (out["conv1"][:, 3] == 3).all()
    expected = caffe_compat.load(model, "edited.caffemodel").run({"data": x.astype(np.float32)})["prob"]
    np.testing.assert_allclose(out["prob"], expected.numpy(), rtol=1e-3, atol=1e-6)


def test_fully_convolutional_casting(caffe: Any, tiny: tuple[str, str]) -> None:
    model, weights = tiny
    write(
        CLASSES.replace("dim: 3 dim: 3 dim: 10 dim: 12", "dim: 1 dim: 3 dim: 16 dim: 20")
        .replace('name: "fc" type: "InnerProduct"', 'name: "fc-conv" type: "Convolution"')
        .replace('top: "fc"', 'top: "fc-conv"')
        .replace(
            "inner_product_param { num_output: 8", "convolution_param { num_output: 8 kernel_size: 4 kernel_size: 5"
        )
        .replace('bottom: "fc"', 'bottom: "fc-conv"'),
        "conv.prototxt",
    )
    net = caffe.Net(model, weights, caffe.TEST)
    with pytest.warns(CaffeCompatWarning, match="fc"):
        full = caffe.Net("conv.prototxt", weights, caffe.TEST)
    fc = {"fc": (net.params["fc"][0].data, net.params["fc"][1].data)}
    conv = {"fc-conv": (full.params["fc-conv"][0].data, full.params["fc-conv"][1].data)}
    assert conv["fc-conv"][0].shape == (8, 4, 4, 5)
    conv["fc-conv"][0].flat = fc["fc"][0].flat
    conv["fc-conv"][1][...] = fc["fc"][1]
    full.save("full.caffemodel")

    big = np.random.RandomState(1).randn(1, 3, 16, 20).astype(np.float32)
    full = caffe.Net("conv.prototxt", "full.caffemodel", caffe.TEST)
    out = full.forward_all(data=big)["prob"]
    assert out.shape == (1, 8, 4, 5)
    for row in range(4):
        for column in range(5):
            window = big[:, :, 2 * row : 2 * row + 10, 2 * column : 2 * column + 12]
            one = net.forward_all(data=window)["prob"][0]
            np.testing.assert_allclose(out[0, :, row, column], one, rtol=1e-3, atol=1e-6)


def test_siamese(caffe: Any) -> None:
    n = caffe.NetSpec()
    L = caffe.layers
    n.a, n.b = L.DummyData(shape=[{"dim": [6, 5]}] * 2, data_filler=[{"type": "gaussian", "std": 1}] * 2, ntop=2)
    n.sim = L.DummyData(shape={"dim": [6]}, data_filler={"type": "constant", "value": 1})
    shared = [{"name": "w", "lr_mult": 1}, {"name": "b", "lr_mult": 2}]
    n.feat = L.InnerProduct(n.a, num_output=3, param=shared, weight_filler={"type": "gaussian", "std": 1})
    n.feat_p = L.InnerProduct(n.b, num_output=3, param=shared)
    n.loss = L.ContrastiveLoss(n.feat, n.feat_p, n.sim, margin=1)
    write(str(n.to_proto()), "siamese.prototxt")
    write(
        'net: "siamese.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 30 snapshot_after_train: false',
        "s.prototxt",
    )
    solver = caffe.SGDSolver("s.prototxt")
    net = solver.net
    assert list(net.params) == ["feat", "feat_p"]
    losses = []
    for _ in range(30):
        solver.step(1)
        losses.append(float(net.blobs["loss"].data))
    np.testing.assert_array_equal(net.params["feat"][0].data, net.params["feat_p"][0].data)
    # All pairs are alike, so the features shrink.
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert np.abs(net.params["feat"][0].data).mean() < 1
    weight, (a, b) = net.params["feat"][0].data, (net.blobs["a"].data, net.blobs["b"].data)
    net.forward(start="feat")
    expected = (((a - b) @ weight.T) ** 2).sum() / 12
    assert float(net.blobs["loss"].data) == pytest.approx(expected, rel=1e-3)


def digits(folder: Path, count: int = 64) -> None:
    """Images of two classes: bright above or below."""
    rng = np.random.RandomState(0)
    labels = np.arange(count) % 2
    images = 0.3 * rng.rand(count, 1, 12, 12)
    for image, label in zip(images, labels, strict=True):
        image[0, 6 * label : 6 * label + 6] += 0.7
    with h5py.File(folder / "digits.h5", "w") as file:
        file["data"], file["label"] = images.astype(np.float32), labels.astype(np.float32)
    (folder / "digits.txt").write_text(str(folder / "digits.h5"))


def test_learning_lenet(caffe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits(tmp_path)
    L, P = caffe.layers, caffe.params

    def lenet(source: str, batch_size: int) -> Any:
        n = caffe.NetSpec()
        n.data, n.label = L.HDF5Data(batch_size=batch_size, source=source, ntop=2)
        n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=4, weight_filler={"type": "xavier"})
        n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
        n.fc1 = L.InnerProduct(n.pool1, num_output=10, weight_filler={"type": "xavier"})
        n.relu1 = L.ReLU(n.fc1, in_place=True)
        n.score = L.InnerProduct(n.relu1, num_output=2, weight_filler={"type": "xavier"})
        n.loss = L.SoftmaxWithLoss(n.score, n.label)
        return n.to_proto()

    for name, size in (("train", 16), ("test", 8)):
        with open(f"lenet_{name}.prototxt", "w") as f:
            f.write(str(lenet("digits.txt", size)))
    s = caffe.proto.caffe_pb2.SolverParameter()
    s.train_net = "lenet_train.prototxt"
    s.test_net.append("lenet_test.prototxt")
    s.test_interval = 500
    s.test_iter.append(2)
    s.max_iter = 1000
    s.type = "SGD"
    s.base_lr = 0.1
    s.momentum = 0.9
    s.weight_decay = 5e-4
    s.lr_policy = "inv"
    s.gamma = 0.0001
    s.power = 0.75
    s.snapshot_prefix = "lenet"
    s.random_seed = 1
    with open("lenet_solver.prototxt", "w") as f:
        f.write(str(s))

    solver = caffe.get_solver("lenet_solver.prototxt")
    shapes = [(k, v.data.shape) for k, v in solver.net.blobs.items()]
    assert shapes[:3] == [("data", (16, 1, 12, 12)), ("label", (16,)), ("conv1", (16, 4, 8, 8))]
    assert next((k, v[0].data.shape) for k, v in solver.net.params.items()) == ("conv1", (4, 1, 5, 5))
    solver.net.forward()
    solver.test_nets[0].forward()
    assert set(solver.net.blobs["label"].data[:8]) == {0, 1}
    solver.step(1)
    assert solver.net.params["conv1"][0].diff[:, 0].any()

    niter, test_interval = 30, 10
    train_loss = np.zeros(niter)
    test_acc = np.zeros(int(np.ceil(niter / test_interval)))
    output = np.zeros((niter, 8, 2))
    for it in range(niter):
        solver.step(1)
        train_loss[it] = solver.net.blobs["loss"].data
        solver.test_nets[0].forward(start="conv1")
        output[it] = solver.test_nets[0].blobs["score"].data[:8]
        if it % test_interval == 0:
            correct = 0
            for _ in range(8):
                solver.test_nets[0].forward()
                correct += sum(
                    solver.test_nets[0].blobs["score"].data.argmax(1) == solver.test_nets[0].blobs["label"].data
                )
            test_acc[it // test_interval] = correct / 64
    assert train_loss[-1] < 0.1 < train_loss[0]
    assert test_acc[-1] == 1
    assert (output[0] != output[-1]).any()


def test_export_of_weights_that_walks_the_params(caffe: Any, tiny: tuple[str, str]) -> None:
    """As 3Dpose_ssl's script for its TensorFlow part: transposed weights and biases from one layer on."""
    model, weights = tiny
    net = caffe.Net(model, weights, caffe.TEST)
    kept, flag = [], False
    for layer_name, param in net.params.items():
        assert str(param[0].data.shape).startswith("(")
        if layer_name == "fc":
            flag = True
        if flag:
            kept.append(np.transpose(param[0].data))
            kept.append(param[1].data)
    with open("model.pkl", "wb") as f:
        pickle.dump(kept, f)
    del net, kept
    with open("model.pkl", "rb") as f:
        weight, bias = pickle.load(f)
    expected = caffe_compat.load(model, weights).fc
    np.testing.assert_array_equal(weight, expected.weight.detach().numpy().T)
    np.testing.assert_array_equal(bias, expected.bias.detach().numpy())


def test_saliency_and_dreaming(caffe: Any, tiny: tuple[str, str]) -> None:
    """Gradients at the input of a deploy net: set the top's diff, go back from there, follow the gradient."""
    model, weights = tiny
    write("force_backward: true\n" + Path(model).read_text(), "dream.prototxt")
    net = caffe.Net("dream.prototxt", weights, caffe.TEST)
    src, dst = net.blobs["data"], net.blobs["conv1"]
    src.data[...] = np.random.RandomState(0).randn(*src.data.shape)
    norms = []
    for _ in range(5):
        net.forward(end="conv1")
        dst.diff[:] = dst.data
        norms.append(float((dst.data**2).sum()))
        net.backward(start="conv1")
        g = src.diff[0]
        src.data[:] += 1.5 / np.abs(g).mean() * src.diff
    assert norms == sorted(norms)
    assert norms[-1] > 10 * norms[0]


def test_feature_extraction_with_growing_batches(caffe: Any, tiny: tuple[str, str]) -> None:
    model, weights = tiny
    net = caffe.Net(model, weights, caffe.TEST)
    reference = caffe_compat.load(model, weights)
    for size in (1, 5, 2):
        x = np.random.RandomState(size).randn(size, 3, 10, 12).astype(np.float32)
        net.blobs["data"].reshape(*x.shape)
        net.reshape()
        net.blobs["data"].data[...] = x
        net.forward()
        expected = reference.run({"data": x}, blobs=["fc"])["fc"].numpy()
        np.testing.assert_allclose(net.blobs["fc"].data.copy(), expected, rtol=1e-3, atol=1e-5)


def test_a_missing_model_is_an_exception(caffe: Any) -> None:
    with pytest.raises(FileError, match=r"models/bvlc\.caffemodel"):
        caffe.Net(write(CLASSES), "models/bvlc.caffemodel", caffe.TEST)
