"""The capture script, run as its users run it: a process of its own, in which ``import caffe`` finds a small fake."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat.errors import UsageError
from caffe_compat.parity.capture import capture_script

# A pycaffe of five layer types in numpy, speaking the Python that all interpreters share. FAKE_CAFFE chooses what kind
# of pycaffe it is: "modern"; "keyword" (only the newer constructor); "ancient" (no phase argument, no tops of layers).
FAKE_CAFFE = """
import os
import re
import sys
from collections import OrderedDict

import numpy as np

KIND = os.environ.get("FAKE_CAFFE", "modern")
__version__ = "0.9-fake"
state = {}


def set_mode_cpu():
    state["mode"] = "cpu"


if KIND == "ancient":

    def set_phase_test():
        state["phase"] = 1

    def set_phase_train():
        state["phase"] = 0
else:
    TRAIN, TEST = 0, 1

    def set_random_seed(seed):
        state["seed"] = seed


class Blob(object):
    def __init__(self, *shape):
        self.data = np.zeros(shape, np.float32)
        self.diff = np.zeros(shape, np.float32)

    def reshape(self, *shape):
        if len(shape) != self.data.ndim:
            raise ValueError("axes")
        self.__init__(*shape)


class Layer(object):
    def __init__(self, name, kind, bottoms, tops, *blobs):
        self.name, self.bottoms, self.tops, self.blobs = name, bottoms, tops, list(blobs)
        if KIND != "ancient":
            self.type = kind
        self.kind = kind

    def forward(self, net):
        if self.kind == "Input":
            return
        x = net.blobs[self.bottoms[0]].data if self.bottoms else None
        y = net.blobs[self.tops[0]]
        if self.kind == "Data":
            net.reads += 1
            y.data[...] = np.arange(y.data.size).reshape(y.data.shape) + 100 * net.reads
        elif self.kind == "InnerProduct":
            y.data = x.dot(self.blobs[0].data.T) + self.blobs[1].data
        elif self.kind == "ReLU":
            y.data[...] = np.maximum(x, 0)
        elif self.kind == "Flatten":
            y.data, y.diff = x, net.blobs[self.bottoms[0]].diff
        elif self.kind == "Split":
            for top in self.tops:
                net.blobs[top].data = x.copy()
        elif self.kind == "Counter":
            y.data = x + self.blobs[0].data
            self.blobs[0].data = self.blobs[0].data + 1
        elif self.kind == "SumLoss":
            y.data = np.array(x.sum(), np.float32)

    def backward(self, net):
        if self.kind in ("Input", "Data"):
            return
        dy, dx = net.blobs[self.tops[0]].diff, net.blobs[self.bottoms[0]]
        if self.kind == "InnerProduct":
            self.blobs[0].diff += dy.T.dot(dx.data)
            self.blobs[1].diff += dy.sum(0)
            dx.diff[...] = dy.dot(self.blobs[0].data)
        elif self.kind == "ReLU":
            dx.diff[...] = dy * (dx.data > 0)
        elif self.kind == "Split":
            dx.diff[...] = sum(net.blobs[top].diff for top in self.tops)
        elif self.kind == "Counter":
            dx.diff[...] = dy
        elif self.kind == "SumLoss":
            dx.diff[...] = dy
        elif self.kind == "Accuracy":
            die("Not Implemented Yet")


def die(message):
    sys.stderr.write("I0102 03:04:05.6 1 net.cpp:7] Setting up\\n")
    sys.stderr.write("F0102 03:04:05.6 1 net.cpp:8] %s\\n*** Check failure stack trace: ***\\n" % message)
    sys.stderr.flush()
    os.abort()


def ip(name, bottom, top, n_in, n_out, seed):
    weight, bias = Blob(n_out, n_in), Blob(n_out)
    rs = np.random.RandomState(seed)
    weight.data[...] = rs.uniform(-1, 1, (n_out, n_in))
    bias.data[...] = rs.uniform(-1, 1, n_out)
    return Layer(name, "InnerProduct", [bottom], [top], weight, bias), [(top, (4, n_out))]


def build(text):
    name = re.search('name: "(.*?)"', text).group(1)
    first = (Layer("in", "Input", [], ["data"]), [("data", (4, 5))])
    if name == "plain":
        split = "a/b_relu_0_split"
        copies = [split + "_0", split + "_1"]
        return [
            first,
            ip("a/b", "data", "a/b", 5, 3, 1),
            (Layer("relu", "ReLU", ["a/b"], ["a/b"]), []),
            (Layer(split, "Split", ["a/b"], copies), [(copy, (4, 3)) for copy in copies]),
            (Layer("count", "Counter", [copies[0]], ["counted"], Blob(1)), [("counted", (4, 3))]),
            ip("out", "counted", "out", 3, 2, 2),
            ip("a", copies[1], "a", 3, 6, 3),
        ]
    if name == "twins":
        return [first, ip("fc", "data", "x", 5, 3, 1), ip("fc", "x", "y", 3, 2, 2)]
    if name == "shared":
        return [
            first,
            ip("fc", "data", "fc", 5, 3, 1),
            (Layer("flat", "Flatten", ["fc"], ["flat"]), [("flat", (4, 3))]),
            (Layer("relu", "ReLU", ["flat"], ["flat"]), []),
        ]
    if name == "deep":
        return [first] + [(Layer("relu%d" % i, "ReLU", ["data"], ["data"]), []) for i in range(4500)]
    if name == "source":
        return [(Layer("reader", "Data", [], ["data"]), [("data", (4, 5))]), ip("fc", "data", "fc", 5, 3, 1)]
    if name == "loss":
        loss = Layer("loss", "SumLoss", ["fc"], ["loss"])
        accuracy = Layer("accuracy", "Accuracy", ["data"], ["accuracy"])
        return [first, ip("fc", "data", "fc", 5, 3, 1), (loss, [("loss", ())]), (accuracy, [("accuracy", ())])]
    die("Check failed: registry.count(type) == 1 (0 vs. 1) Unknown layer type: Strange")


class Net(object):
    def __init__(self, path, *arguments, **keywords):
        if KIND == "modern" and (len(arguments) != 2 or keywords) and "stages" not in keywords:
            raise TypeError("did not match C++ signature")
        if KIND == "keyword" and (len(arguments) != 1 or set(keywords) - set(["level", "stages"]) != set(["weights"])):
            raise TypeError("did not match C++ signature")
        if KIND == "ancient" and (len(arguments) != 1 or keywords):
            raise TypeError("did not match C++ signature")
        assert state["mode"] == "cpu" if KIND != "ancient" else "phase" in state
        with open(path) as source:
            text = source.read()
        said = re.sub("#.*", "", text)
        self.force_backward = re.findall("force_backward: *([a-z]*)", said) == ["true"]
        built = build(text)
        self.layers = [layer for layer, _ in built]
        self._layer_names = [layer.name for layer in self.layers]
        self.blobs = OrderedDict((name, Blob(*shape)) for _, tops in built for name, shape in tops)
        self.inputs = ["data"] if self.layers[0].kind == "Input" else []
        used = set(bottom for layer in self.layers for bottom in layer.bottoms)
        self.outputs = sorted(name for name in self.blobs if name not in used or name == "flat")
        self.reads = 0
        if "loss" in self.blobs:
            self.blobs["loss"].diff[...] = 0.25

    def forward(self):
        self._forward(0, len(self.layers) - 1)

    def _forward(self, start, end):
        for layer in self.layers[start : end + 1]:
            layer.forward(self)

    def _backward(self, start, end):
        if self.force_backward:
            for layer in reversed(self.layers[end : start + 1]):
                for top in layer.tops:
                    blob = self.blobs[top]
                    if blob.diff.shape != blob.data.shape:
                        raise ValueError("shapes")
                layer.backward(self)

    def reshape(self):
        for layer in self.layers[1:]:
            for top in layer.tops:
                blob = self.blobs[top]
                if blob.data.ndim:
                    blob.reshape(self.blobs["data"].data.shape[0], *blob.data.shape[1:])


if KIND == "keyword":
    Net.top_names = property(lambda net: OrderedDict((layer.name, layer.tops) for layer in net.layers))
    Net.bottom_names = property(lambda net: OrderedDict((layer.name, layer.bottoms) for layer in net.layers))
elif KIND == "modern":
    Net._top_ids = lambda net, i: [list(net.blobs).index(top) for top in net.layers[i].tops]
    Net._bottom_ids = lambda net, i: [list(net.blobs).index(bottom) for bottom in net.layers[i].bottoms]
"""

PLAIN = 'name: "plain"\nlayer { name: "a/b" } # force_backward: false\n'
SEEDED = np.random.RandomState(0).uniform(-1, 1, (4, 5)).astype(np.float32)


def weights(seed: int, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """What the fake's InnerProduct layer of this seed holds."""
    rs = np.random.RandomState(seed)
    return rs.uniform(-1, 1, (n_out, n_in)).astype(np.float32), rs.uniform(-1, 1, n_out).astype(np.float32)


W1, B1 = weights(1, 5, 3)
W2, B2 = weights(2, 3, 2)
W3, B3 = weights(3, 3, 6)


def before_relu(x: np.ndarray) -> np.ndarray:
    return x @ W1.T + B1


def hidden(x: np.ndarray) -> np.ndarray:
    return np.maximum(before_relu(x), 0)


class Bench:
    """A folder with the script, the fake and a network; ``run`` captures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "capture_reference.py").write_text(capture_script(), encoding="utf-8")
        (folder / "fake").mkdir()
        (folder / "fake" / "caffe.py").write_text(FAKE_CAFFE, encoding="utf-8")
        (folder / "deploy.prototxt").write_text(PLAIN)
        (folder / "w.caffemodel").write_bytes(b"weights")

    def start(
        self, *options: str, kind: str = "modern", python: str = sys.executable, output: str = "ref.h5"
    ) -> subprocess.CompletedProcess[str]:
        paths = [str(self.folder / "fake"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "FAKE_CAFFE": kind, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        command = [python, "capture_reference.py", "deploy.prototxt", "w.caffemodel", "-o", output, *options]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)

    def run(self, *options: str, kind: str = "modern", python: str = sys.executable) -> h5py.File:
        done = self.start(*options, kind=kind, python=python)
        assert done.returncode == 0, done.stderr
        assert "caffe-compat verify model.pt --reference ref.h5" in done.stdout
        assert self.leftovers() == []
        return h5py.File(self.folder / "ref.h5", "r")

    def fails(self, *options: str, kind: str = "modern") -> str:
        done = self.start(*options, kind=kind)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("capture_reference.py: error: ")
        assert not (self.folder / "ref.h5").exists()
        assert self.leftovers() == []
        return lines[0]

    def leftovers(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if ".part" in path.name]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def listed(case: h5py.Group, key: str) -> list[str]:
    return list(case.attrs[key])


def test_layout_and_values(bench: Bench) -> None:
    with bench.run() as file:
        assert list(file) == ["net"]
        case = file["net"]
        assert case.attrs["type"] == "Net"
        assert case.attrs["phase"] == "TEST"
        assert case.attrs["prototxt"] == PLAIN
        assert case.attrs["prototxt_sha256"] == hashlib.sha256(PLAIN.encode()).hexdigest()
        assert case.attrs["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
        assert case.attrs["seed"] == 0
        assert case.attrs["batches"] == 1
        np.testing.assert_array_equal(case.attrs["range"], [-1, 1])
        assert listed(case, "inputs") == ["data"]
        assert listed(case, "outputs") == ["a", "out"]
        assert listed(case, "blob_order") == ["data", "a/b", "counted", "out", "a"]
        assert listed(case, "layer_names") == ["in", "a/b", "relu", "count", "out", "a"]
        assert listed(case, "layer_types") == [
            "Input",
            "InnerProduct",
            "ReLU",
            "Counter",
            "InnerProduct",
            "InnerProduct",
        ]
        assert set(case) == {"bottom", "top", "blob", "param", "param_after_forward"}

        y = hidden(SEEDED)
        expected = {"data": SEEDED, "a%2Fb": y, "counted": y, "out": y @ W2.T + B2, "a": y @ W3.T + B3}
        assert set(case["blob"]) == set(expected)
        for key, value in expected.items():
            assert case["blob"][key].dtype == np.float32
            np.testing.assert_allclose(case["blob"][key], value, rtol=1e-5, atol=1e-6, err_msg=key)
        assert case["blob/a%2Fb"].attrs["name"] == "a/b"
        np.testing.assert_array_equal(case["bottom/data"], SEEDED)
        assert set(case["top"]) == {"a", "out"}
        np.testing.assert_array_equal(case["top/out"], case["blob/out"])


def test_source_says_versions_and_no_places(bench: Bench) -> None:
    with bench.run() as file:
        source = file.attrs["source"]
        assert source == file["net"].attrs["source"]
        assert "Caffe 0.9-fake, CPU" in source
        assert f"numpy {np.__version__}" in source
        told: list[str] = []
        file.visititems(lambda _, item: told.extend(map(str, item.attrs.values())))
        assert str(bench.folder) not in "".join([source, *told])


def test_input_recipe_repeats_the_input(bench: Bench) -> None:
    with bench.run("--seed", "7", "--range", "-3", "2.5", "--batches", "2") as file:
        recipe = file["net"].attrs["input"]
        assert recipe.startswith("data: rs = numpy.random.RandomState(7);")
        assert "rs.uniform(-3.0, 2.5, shape) as float32" in recipe
        rs = np.random.RandomState(7)
        for k in range(2):
            expected = rs.uniform(-3.0, 2.5, (4, 5)).astype(np.float32)
            np.testing.assert_array_equal(file[f"net/batch_{k}/bottom/data"], expected)


def test_batches_keep_state_and_see_changed_parameters(bench: Bench) -> None:
    with bench.run("--batches", "3", "--params") as file:
        case = file["net"]
        assert set(case) == {"param", "batch_0", "batch_1", "batch_2"}
        np.testing.assert_array_equal(case["param/a%2Fb/0"], W1)
        np.testing.assert_array_equal(case["param/count/0"], [0])
        for k in range(3):
            batch = case[f"batch_{k}"]
            y = hidden(np.array(batch["bottom/data"]))
            np.testing.assert_allclose(batch["blob/counted"], y + k, rtol=1e-5)
            assert list(batch["param_after_forward"]) == ["count"]
            np.testing.assert_array_equal(batch["param_after_forward/count/0"], [k + 1])


def test_parameters_are_fingerprints_by_default(bench: Bench) -> None:
    with bench.run() as file:
        params = file["net/param"]
        assert {key: params[key].attrs["name"] for key in params} == {
            "a%2Fb": "a/b",
            "count": "count",
            "out": "out",
            "a": "a",
        }
        weight = params["out/0"]
        flat = W2.reshape(-1)
        assert list(weight.attrs["shape"]) == [2, 3]
        expected = [flat.mean(), flat.std(), flat.min(), flat.max()]
        np.testing.assert_allclose(weight.attrs["mean_std_min_max"], expected, rtol=1e-5)
        np.testing.assert_array_equal(weight["values"], flat[np.array(weight["positions"])])
        np.testing.assert_array_equal(weight["data"], W2)


def test_big_blobs_are_fingerprints_and_outputs_whole(bench: Bench) -> None:
    with bench.run("--fingerprint-above", "12") as file:
        blob = file["net/blob"]
        assert isinstance(blob["out"], h5py.Dataset)  # 8 values
        assert isinstance(blob["counted"], h5py.Dataset)  # 12 values
        assert isinstance(blob["a"], h5py.Group)  # 24 values
        assert blob["a"].attrs["name"] == "a"
        assert list(blob["a"].attrs["shape"]) == [4, 6]
        whole = np.array(file["net/top/a"])
        assert whole.shape == (4, 6)
        np.testing.assert_array_equal(blob["a/values"], whole.reshape(-1)[np.array(blob["a/positions"])])
        assert file["net/bottom/data"].shape == (4, 5)
    with bench.run("--whole") as file:
        assert isinstance(file["net/blob/a"], h5py.Dataset)


def test_a_sample_of_every_blob(bench: Bench) -> None:
    with bench.run("--sample", "10") as file:
        assert file.attrs["version"] == 1
        blob = file["net/blob"]
        assert isinstance(blob["out"], h5py.Dataset)  # 8 values
        for name in ("a", "counted"):  # 24 and 12
            assert blob[f"{name}/values"].shape == (10,)
        assert file["net/top/a"].shape == (4, 6)
        assert file["net/bottom/data"].shape == (4, 5)


def test_a_script_that_samples_without_being_told(bench: Bench) -> None:
    (bench.folder / "capture_reference.py").write_text(capture_script(sample=10), encoding="utf-8")
    with bench.run() as file:
        assert file["net/blob/a/values"].shape == (10,)
    with bench.run("--whole") as file:
        assert isinstance(file["net/blob/a"], h5py.Dataset)
    with pytest.raises(UsageError, match="--sample 0: at least one value"):
        capture_script(sample=0)


def test_chosen_blobs(bench: Bench) -> None:
    with bench.run("--blobs", "a/b,out") as file:
        assert set(file["net/blob"]) == {"a%2Fb", "out"}
        assert set(file["net/top"]) == {"a", "out"}
        assert listed(file["net"], "blob_order") == ["data", "a/b", "counted", "out", "a"]


@pytest.mark.parametrize("kind", ["modern", "keyword"])
def test_every_layer_shows_what_is_changed_in_place(bench: Bench, kind: str) -> None:
    with bench.run("--every-layer", kind=kind) as file:
        steps = file["net/layer_top"]
        assert set(steps) == {"0_in", "1_a%2Fb", "2_relu", "3_count", "4_out", "5_a"}
        assert steps["1_a%2Fb"].attrs["layer"] == "a/b"
        assert steps["1_a%2Fb"].attrs["type"] == "InnerProduct"
        assert steps["2_relu"].attrs["index"] == 2
        raw = before_relu(SEEDED)
        assert (raw < 0).any()
        np.testing.assert_allclose(steps["1_a%2Fb/a%2Fb"], raw, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(steps["2_relu/a%2Fb"], np.maximum(raw, 0), rtol=1e-5, atol=1e-6)


def test_blob_that_shares_memory_is_recorded_before_it_is_overwritten(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text('name: "shared"\n')
    with bench.run() as file:
        np.testing.assert_allclose(file["net/blob/fc"], before_relu(SEEDED), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(file["net/blob/flat"], hidden(SEEDED), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(file["net/top/flat"], hidden(SEEDED), rtol=1e-5, atol=1e-6)


def test_given_inputs(bench: Bench) -> None:
    rs = np.random.RandomState(5)
    first, second = rs.uniform(size=(4, 5)), rs.uniform(size=(4, 5))
    np.save(bench.folder / "first.npy", first)
    np.save(bench.folder / "second.npy", second)
    with bench.run("--batches", "2", "--input", "data=first.npy", "--input", "data=second.npy") as file:
        np.testing.assert_array_equal(file["net/batch_0/bottom/data"], first.astype(np.float32))
        np.testing.assert_array_equal(file["net/batch_1/bottom/data"], second.astype(np.float32))
        assert file["net"].attrs["input"] == "data: given: an array, an array"
    with bench.run("--input", "data=0") as file:
        np.testing.assert_array_equal(file["net/bottom/data"], np.zeros((4, 5)))
        assert file["net"].attrs["input"] == "data: given: 0.0"


def test_given_input_reshapes_the_net(bench: Bench) -> None:
    x = np.random.RandomState(5).uniform(-1, 1, (7, 5)).astype(np.float32)
    np.save(bench.folder / "x.npy", x)
    with bench.run("--input", "data=x.npy") as file:
        np.testing.assert_allclose(file["net/top/out"], hidden(x) @ W2.T + B2, rtol=1e-5, atol=1e-6)


def test_what_data_layers_read_is_an_input(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text('name: "source"\n')
    with bench.run("--batches", "2") as file:
        assert listed(file["net"], "inputs") == []
        assert file["net"].attrs["input"] == "from the network's own data layers"
        for k in range(2):
            read = np.arange(20).reshape(4, 5) + 100 * (k + 1)
            np.testing.assert_array_equal(file[f"net/batch_{k}/bottom/data"], read)


def test_gradients(bench: Bench) -> None:
    with bench.run("--gradients", "--params", "--batches", "2") as file:
        case = file["net"]
        assert case.attrs["prototxt"].startswith("force_backward: true\n")
        assert case.attrs["prototxt_sha256"] == hashlib.sha256(PLAIN.encode()).hexdigest()
        rs = np.random.RandomState(1)
        for k in range(2):
            batch = case[f"batch_{k}"]
            x = np.array(batch["bottom/data"])
            y = hidden(x)
            d_a, d_out = (rs.uniform(-1, 1, shape).astype(np.float32) for shape in ((4, 6), (4, 2)))
            np.testing.assert_array_equal(batch["top_diff/a"], d_a)
            np.testing.assert_array_equal(batch["top_diff/out"], d_out)
            d_y = (d_a @ W3 + d_out @ W2) * (y > 0)
            expected = {
                "bottom_diff/data": d_y @ W1,
                "param_diff/a%2Fb/0": d_y.T @ x,
                "param_diff/a%2Fb/1": d_y.sum(0),
                "param_diff/out/0": d_out.T @ (y + k),
                "param_diff/a/1": d_a.sum(0),
            }
            for key, value in expected.items():
                np.testing.assert_allclose(batch[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


def test_gradients_of_a_loss_start_at_its_weight(bench: Bench) -> None:
    text = 'name: "loss" force_backward: false # no\nlayer { name: "loss" }\n'
    (bench.folder / "deploy.prototxt").write_text(text)
    with bench.run("--gradients", "--params") as file:
        assert file["net"].attrs["prototxt"].replace(" ", "") == (
            'force_backward:true\nname:"loss"#no\nlayer{name:"loss"}\n'
        )
        # Accuracy has no gradient, and running its backward pass would end the process
        assert list(file["net/top_diff"]) == ["loss"]
        assert file["net/top_diff/loss"][()] == np.float32(0.25)
        d_fc = np.full((4, 3), 0.25, np.float32)
        np.testing.assert_allclose(file["net/param_diff/fc/0"], d_fc.T @ SEEDED, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(file["net/bottom_diff/data"], d_fc @ W1, rtol=1e-5, atol=1e-6)


def test_input_that_no_gradient_reaches_has_none(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text('name: "twins"\n')
    with bench.run("--gradients", "--skip-backward", "fc") as file:
        assert "bottom_diff" not in file["net"]
        assert "top_diff" not in file["net"]


def test_layers_of_one_name_are_told_apart(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text('name: "twins"\n')
    with bench.run("--params") as file:
        params = file["net/param"]
        assert set(params) == {"fc", "fc%231"}
        assert {params[key].attrs["name"] for key in params} == {"fc"}
        np.testing.assert_array_equal(params["fc/0"], W1)
        np.testing.assert_array_equal(params["fc%231/0"], W2)


@pytest.mark.parametrize("kind", ["keyword", "ancient"])
def test_other_generations_of_pycaffe_record_the_same(bench: Bench, kind: str) -> None:
    def blobs(file: h5py.File) -> dict[str, np.ndarray]:
        groups = {title: file["net"][title] for title in ("bottom", "top", "blob")}
        return {f"{title}/{key}": np.array(group[key]) for title, group in groups.items() for key in group}

    with bench.run() as file:
        modern = blobs(file)
    with bench.run(kind=kind) as file:
        other = blobs(file)
        assert listed(file["net"], "blob_order") == ["data", "a/b", "counted", "out", "a"]
    assert modern.keys() == other.keys()
    for key, value in modern.items():
        np.testing.assert_array_equal(other[key], value, err_msg=key)


def test_level_and_stage_reach_caffe(bench: Bench) -> None:
    with bench.run("--level", "2", "--stage", "deploy", "--stage", "small", "--phase", "train") as file:
        assert file["net"].attrs["level"] == 2
        assert file["net"].attrs["phase"] == "TRAIN"
        assert listed(file["net"], "stages") == ["deploy", "small"]


def test_the_users_own_split_is_recorded(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text(PLAIN + 'layer { name: "a/b_relu_0_split" type: "Split" }\n')
    with bench.run() as file:
        assert "a%2Fb_relu_0_split_1" in file["net/blob"]
        assert "a/b_relu_0_split" in listed(file["net"], "layer_names")


def test_case_name_and_long_text(bench: Bench) -> None:
    text = PLAIN + "# padding\n" * 20000  # more than the 64 KB of a plain HDF5 attribute
    (bench.folder / "deploy.prototxt").write_text(text)
    with bench.run("--case", "mask3d") as file:
        assert file["mask3d"].attrs["prototxt"] == text


def test_thousands_of_layers(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text('name: "deep"\n')
    with bench.run() as file:  # the names alone outgrow the 64 KB of a plain HDF5 attribute
        assert listed(file["net"], "layer_names") == ["in", *(f"relu{i}" for i in range(4500))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "image=x.npy"], "--input image=x.npy: the net's inputs are: data"),
        (["--input", "data"], "--input data: write BLOB=FILE.npy or BLOB=NUMBER"),
        (["--input", "data=none.npy"], "--input data: cannot read none.npy as .npy"),
        (["--input", "data=flat.npy"], "--input data: shape (20,), the net wants (4, 5)"),
        (["--input", "data=text.npy"], "--input data: text.npy does not hold one array of numbers"),
        (["--batches", "3", "--input", "data=0", "--input", "data=1"], "--input data was given 2 times for 3 batches"),
        (["--blobs", "out,nothing"], "--blobs nothing: no such blob; the net has: data, a/b, counted, out, a"),
        (["--skip-backward", "nothing"], "--skip-backward nothing: no such layer"),
        (["--batches", "0"], "--batches must be at least 1"),
        (["--range", "1", "1"], "--range needs a LOW below its HIGH"),
        (["--case", "a/b"], '--case must be a name without "/"'),
        (["--gpu", "0"], "this pycaffe has no set_device"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(bench: Bench, options: list[str], message: str) -> None:
    np.save(bench.folder / "flat.npy", np.zeros(20))
    np.save(bench.folder / "text.npy", np.array(["a"]))
    assert message in bench.fails(*options)


def test_ancient_pycaffe_cannot_record_every_layer(bench: Bench) -> None:
    assert "which --every-layer needs" in bench.fails("--every-layer", kind="ancient")


def test_caffe_ending_the_process_is_one_line(bench: Bench) -> None:
    (bench.folder / "deploy.prototxt").write_text('name: "unknown"\n')
    assert "Caffe stopped: Check failed: registry.count(type) == 1 (0 vs. 1) Unknown layer" in bench.fails()


def test_failure_keeps_an_older_capture(bench: Bench) -> None:
    (bench.folder / "ref.h5").write_bytes(b"older")
    assert bench.start("--blobs", "nothing").returncode == 2
    assert (bench.folder / "ref.h5").read_bytes() == b"older"


def test_missing_files_and_modules(bench: Bench) -> None:
    done = bench.start(output="nowhere/ref.h5")
    assert done.returncode == 2
    assert "the folder to write into does not exist" in done.stderr
    (bench.folder / "fake" / "caffe.py").write_text("raise ImportError('libcaffe.so: cannot open shared object file')")
    assert "cannot import caffe (libcaffe.so: cannot open shared object file)" in bench.fails()
    (bench.folder / "w.caffemodel").unlink()
    assert "w.caffemodel: no such file" in bench.fails()


def other_interpreters() -> list[str]:
    """Pythons on the PATH, other than this one, that have numpy and h5py."""
    names = ["python2", "python2.7", "python3", *(f"python3.{minor}" for minor in range(4, 15))]
    found = {os.path.abspath(path) for path in map(shutil.which, names) if path} - {sys.executable}
    probe = ["-c", "import numpy, h5py"]
    return [path for path in sorted(found) if subprocess.run([path, *probe], capture_output=True).returncode == 0]


@pytest.mark.slow
def test_every_interpreter_records_the_same(bench: Bench) -> None:
    def numbers(file: h5py.File) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        file.visititems(lambda key, item: found.update({key: item[()]} if isinstance(item, h5py.Dataset) else {}))
        return found

    options = ("--gradients", "--batches", "2", "--every-layer")
    with bench.run(*options) as file:
        ours = numbers(file)
    assert len(ours) > 50
    for python in other_interpreters():
        with bench.run(*options, python=python) as file:
            theirs = numbers(file)
            assert listed(file["net"], "layer_names") == ["in", "a/b", "relu", "count", "out", "a"]
        assert ours.keys() == theirs.keys(), python
        for key, value in ours.items():
            np.testing.assert_allclose(theirs[key], value, rtol=1e-5, atol=1e-6, err_msg=f"{python}: {key}")


def modern_syntax(tree: ast.AST) -> list[str]:
    """What in a syntax tree Python 2.7 would refuse, or would take to mean something else."""
    refused = (
        *(ast.JoinedStr, ast.AnnAssign, ast.Nonlocal, ast.NamedExpr, ast.Starred, ast.Await, ast.YieldFrom),
        *(ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.MatMult, ast.Match),
    )
    found = []
    for node in ast.walk(tree):
        place = f"line {getattr(node, 'lineno', '?')}: {type(node).__name__}"
        starred_argument = isinstance(node, ast.Starred) and isinstance(node.ctx, ast.Load)
        if (isinstance(node, refused) and not starred_argument) or (isinstance(node, ast.Raise) and node.cause):
            found.append(place)
        if isinstance(node, ast.arguments) and (node.kwonlyargs or node.posonlyargs):
            found.append("keyword-only or positional-only parameters")
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns:
            found.append(place + " with annotations")
        if isinstance(node, ast.arg) and node.annotation:
            found.append(place + " with annotations")
        if isinstance(node, ast.ClassDef) and (node.keywords or not node.bases):
            found.append(place + " without object as base, or with keywords")
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and any(isinstance(x, ast.Starred) for x in node.elts):
            found.append(place + " with a starred item")
        if isinstance(node, ast.Dict) and None in node.keys:
            found.append(place + " with **")
        if isinstance(node, ast.Call):
            stars = [i for i, x in enumerate(node.args) if isinstance(x, ast.Starred)]
            if stars and (len(stars) > 1 or stars[0] != len(node.args) - 1):
                found.append(place + " with arguments after a starred one")
            if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
                found.append(place + " of super() without arguments")
    return found


def test_script_keeps_to_syntax_of_python_2() -> None:
    script = capture_script()
    assert script.isascii()
    assert "\nfrom __future__ import print_function\n" in script
    assert modern_syntax(ast.parse(script)) == []
    old = shutil.which("python2.7")
    if old and subprocess.run([old, "-c", ""], capture_output=True).returncode == 0:
        check = "import ast, sys; ast.parse(sys.stdin.read())"
        done = subprocess.run([old, "-c", check], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "f'{x}'",
        "x: int = 1",
        "def f(a, *, b): pass",
        "def f(a: int): pass",
        "def f() -> int: pass",
        "raise A from b",
        "class A: pass",
        "[*a, b]",
        "f(*a, b)",
        "{**a}",
        "a, *b = c",
        "super().f()",
        "(a := 1)",
    ],
)
def test_syntax_check_sees_newer_python(text: str) -> None:
    assert modern_syntax(ast.parse(text))
