"""Nets in pickles: equal bits afterwards, in this process and in another one."""

from __future__ import annotations

import copy
import importlib
import io
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from caffe_compat import CaffeNet, NetState
from caffe_compat.errors import NetworkError, UsageError
from caffe_compat.layers.bvlc import python_layer
from caffe_compat.layers.bvlc.python_layer import Blob, PythonLayer, register_python_layer
from caffe_compat.network import registry
from caffe_compat.network.checkpoint import load_checkpoint, save_checkpoint
from caffe_compat.network.graph import phase_graph
from caffe_compat.network.plugins import load_plugins
from caffe_compat.schema import keep_dialect, load_schema
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.networks import filled, input_layer, ip, layer, net_of

X = torch.from_numpy(np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32))
PLAIN = input_layer("x", 2, 3) + ip("a", "x", "a", 4) + layer("r", "ReLU", "a", "a") + ip("b", "a", "b", 5)
SHARED = (
    input_layer("x", 2, 3)
    + ip("one", "x", "a", 4, 'param { name: "w" lr_mult: 2 } param { lr_mult: 0 }')
    + ip("two", "a", "b", 3, 'param { name: "w" share_mode: PERMISSIVE }')
    + ip("three", "b", "c", 4, 'param { name: "w" }')
)


def again(net: Any) -> Any:
    return pickle.loads(pickle.dumps(net))


def through_torch(net: Any) -> Any:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"pickle": again, "torch.save": through_torch, "deepcopy": copy.deepcopy}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


def equal_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# What comes back


def test_the_same_net_comes_back(way: Any, device: torch.device) -> None:
    net = filled(PLAIN).to(device)
    twin = way(net)
    assert type(twin) is CaffeNet
    assert equal_bits(twin.run({"x": X}, "all"), net.run({"x": X}, "all"))
    assert list(twin.state_dict()) == list(net.state_dict())
    assert (twin.warnings, twin.notes, twin.param_specs) == (net.warnings, net.notes, net.param_specs)
    assert twin.message == net.message
    twin.graph.check()
    with torch.no_grad():
        twin.get_parameter("a.weight").zero_()
    assert float(net.get_parameter("a.weight").detach().abs().sum()) > 0
    assert twin.part(["b"])(X.to(device))["b"].shape == (2, 5)


def test_what_is_shared_stays_shared(way: Any) -> None:
    net = filled(SHARED)
    twin = way(net)
    assert equal_bits(twin.run({"x": X}), net.run({"x": X}))
    assert twin.get_parameter("one.weight") is twin.get_parameter("three.weight")
    assert sorted(twin.state_dict()) == ["one.bias", "one.weight", "three.bias", "three.weight", "two.bias"]
    twin.assign_blob("two", "weight", torch.arange(12.0).reshape(3, 4))
    for name in ("one", "three"):
        assert torch.equal(twin.get_parameter(f"{name}.weight"), torch.arange(12.0).reshape(4, 3))
    assert twin.double().blobs_of("two")["weight"].dtype == torch.float64
    assert again(twin).blobs_of("two")["weight"].dtype == torch.float64


def test_shared_buffers_stay_shared(way: Any) -> None:
    param = "".join(f'param {{ name: "{n}" lr_mult: 0 }} ' for n in "mvs")
    text = (
        input_layer("x", 5, 3) + layer("b1", "BatchNorm", "x", "y", param) + layer("b2", "BatchNorm", "y", "z", param)
    )
    twin = way(filled(text, state=NetState("TRAIN")))
    assert twin.get_buffer("b1.mean") is twin.get_buffer("b2.mean")
    assert twin.double().get_buffer("b1.mean") is twin.get_buffer("b2.mean")


def test_flags_precision_phase_and_what_layers_remember(way: Any) -> None:
    net = filled(
        input_layer("x", 3, 2, 4)
        + input_layer("cont", 3, 2)
        + layer("l", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
        + layer("drop", "Dropout", "h", "h", "include { phase: TRAIN }"),
        state=NetState("TRAIN", 2, ("stage",)),
    ).bfloat16()
    net.get_submodule("l").eval()
    net.get_parameter("l.weight_h").requires_grad_(False)
    net.randomness.seed = 7
    x, cont = torch.rand(3, 2, 4).bfloat16(), torch.ones(3, 2).bfloat16()
    with torch.no_grad():
        net(x, cont)
        twin = way(net)
        assert twin.graph.state == net.graph.state == NetState("TRAIN", 2, ("stage",))
        assert twin.device_and_dtype() == (torch.device("cpu"), torch.bfloat16)
        flags = {name: module.training for name, module in net.named_modules()}
        assert {name: module.training for name, module in twin.named_modules()} == flags
        assert {n: p.requires_grad for n, p in twin.named_parameters()} == {
            n: p.requires_grad for n, p in net.named_parameters()
        }
        assert twin.get_submodule("drop").randomness is twin.randomness
        # The recurrent state goes on, and the draws of dropout are the same.
        assert equal_bits(twin(x, cont), net(x, cont))


def test_a_net_without_memory_is_filled_the_same(way: Any) -> None:
    text = PLAIN.replace("num_output: 4", 'num_output: 4 weight_filler { type: "xavier" }')
    net = net_of(text)
    twin = way(net)
    assert twin.get_parameter("a.weight").is_meta
    assert equal_bits(twin.materialize(3).run({"x": X}), net.materialize(3).run({"x": X}))


def test_a_layer_of_the_users_own_goes_along(way: Any) -> None:
    net = filled(PLAIN)
    net.b = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    twin = way(net)
    assert equal_bits(twin.run({"x": X}), net.run({"x": X}))


def test_inference_forms_and_positional_modules(way: Any) -> None:
    net = filled(
        input_layer("x", 2, 8, 9, 7)
        + layer("c", "Convolution", "x", "c", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 }")
        + layer("bn", "BatchNorm", "c", "c")
        + layer("r", "ReLU", "c", "c")
        + layer("n", "LRN", "c", "n")
        + layer("f", "InnerProduct", "n", "f", "inner_product_param { num_output: 5 }")
    )
    x = torch.rand(2, 8, 9, 7, generator=torch.Generator().manual_seed(1))
    optimized = net.optimize()
    twin = way(optimized)
    assert type(twin) is type(optimized)
    assert equal_bits(twin(x), optimized(x))
    with pytest.raises(UsageError, match=r"optimize\(\) was called on"):
        twin.state_dict()
    for module in (net.as_module(outputs=["f", "c"]), optimized.as_module(outputs=["f"])):
        assert all(torch.equal(a, b) for a, b in zip(way(module)(x), module(x), strict=True))


def test_a_copy_by_reference_has_the_same_modules() -> None:
    net = filled(PLAIN)
    twin = copy.copy(net)
    assert twin.get_submodule("a") is net.get_submodule("a")
    assert equal_bits(twin.run({"x": X}), net.run({"x": X}))


# Dialects


OWN_PROTO = """
message LayerParameter { optional OwnParameter own_param = 7654; }
message OwnParameter { optional float scale = 1; }
"""


@pytest.mark.slow
def test_a_schema_of_the_users_own_comes_along(tmp_path: Path) -> None:
    proto = tmp_path / "own.proto"
    proto.write_text(OWN_PROTO)
    text = input_layer("x", 2, 3) + layer("r", "ReLU", "x", "y", "own_param { scale: 0.3 }")
    parsed = parse_message(text, dialect=str(proto))
    net = CaffeNet(parsed.message, dialect=parsed.schema.name, ignore_fields=["own_param"])
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    proto.unlink()
    code = (
        "import pickle, sys; net = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(net.dialect, net.message.layer[1].own_param.scale, *net.run({'x': [[-1.0, 0, 2]]})['y'].tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "net.pickle")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    name, scale, *values = out.split(maxsplit=2)
    assert (name, scale) == (keep_dialect("own.proto", OWN_PROTO), "0.30000001192092896")
    assert values == ["[0.0, 0.0, 2.0]\n"]


def test_a_shipped_dialect_whose_name_is_a_path(tmp_path: Path) -> None:
    """Its name ends as a user's own file would, and is none."""
    dialect = "facebookarchive/C3D:C3D-v1.1/src/caffe/proto/caffe.proto"
    net = filled(PLAIN)
    message = load_schema(dialect).message("NetParameter").FromString(net.message.SerializeToString())
    net = CaffeNet(message, dialect=dialect).materialize(1)
    assert again(net).dialect == dialect
    save_checkpoint(net, tmp_path / "net.pt")
    assert load_checkpoint(tmp_path / "net.pt").dialect == dialect


def test_what_no_schema_knows_is_kept() -> None:
    """A rule for a phase that Caffe does not have must not hold because it was forgotten."""
    text = input_layer("x", 2, 3) + layer("r", "ReLU", "x", "y", "include { phase: RUN }")
    graph = again(phase_graph(parse_message(text).message))
    assert [node.name for node in graph.nodes] == ["x"]


def test_messages_of_private_schemas_pickle() -> None:
    message = parse_message(PLAIN).message
    assert again(message) == message
    assert type(again(message.layer[1].inner_product_param)) is type(message.layer[1].inner_product_param)
    assert load_schema("bvlc") is load_schema()


# Every layer type


def stored_nets(path: Path) -> dict[str, CaffeNet]:
    """A net for every type and dialect among the stored cases."""
    nets: dict[str, CaffeNet] = {}
    with h5py.File(path) as file:
        for case in file.values():
            dialect = case.attrs.get("dialect")
            parsed = parse_message(str(case.attrs["prototxt"]), dialect=dialect)
            message = upgrade_net(parsed.message, parsed.schema).message
            types = "+".join(layer.type for layer in message.layer)
            if f"{types} {dialect}" not in nets:
                try:
                    net = CaffeNet(message, NetState(case.attrs.get("phase", "TEST")), dialect=parsed.schema.name)
                except NetworkError:
                    continue  # what is refused has no net
                nets[f"{types} {dialect}"] = net.materialize(1)
    return nets


@pytest.mark.parametrize("name", ["bvlc_layers.h5", "ssl3d_layers.h5", "fork_layers.h5", "fork_layers_first.h5"])
def test_every_layer_type(name: str, reference: Path) -> None:
    """No layer keeps what a pickle cannot hold, such as a function inside a function."""
    nets = stored_nets(reference / name)
    assert len(nets) > 8
    for what, net in nets.items():
        twin = again(net)
        twin.graph.check()
        theirs, ours = dict(net.named_buffers()), dict(twin.named_buffers())
        assert theirs.keys() == ours.keys(), what
        assert equal_bits(net.state_dict(), twin.state_dict()), what


# Other processes


def _run_there(net: Any, x: Tensor, answers: Any) -> None:
    answers.put({name: value.numpy() for name, value in net.run({"x": x}, "all").items()})


@pytest.mark.slow
@pytest.mark.parametrize("optimized", [False, True])
def test_a_spawned_process_gives_equal_bits(optimized: bool) -> None:
    net: Any = filled(SHARED)
    if optimized:
        net = net.optimize()
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_run_there, args=(net, X, answers))
    process.start()
    found = answers.get()
    process.join(60)
    assert process.exitcode == 0
    assert equal_bits({n: torch.from_numpy(v) for n, v in found.items()}, net.run({"x": X}, "all"))


PLUGIN = """
from caffe_compat import Layer, layer

class Doubled(Layer):
    def __init__(self):
        super().__init__()
        self.times = 2

    def forward(self, x):
        return self.times * x

@layer("PickledPlugin", bottoms=1, tops=1)
def doubled(spec):
    return Doubled()
"""


def test_layers_of_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there once the plugin is, and its absence is said."""
    (tmp_path / "doubled.py").write_text(PLUGIN)
    monkeypatch.setattr(registry, "_TYPES", dict(registry._TYPES))
    load_plugins([str(tmp_path / "doubled.py")])
    net = net_of(input_layer("x", 2, 3) + layer("d", "PickledPlugin", "x", "y"))
    net.d.times = 3
    content = pickle.dumps(net)
    assert torch.equal(pickle.loads(content).run({"x": X})["y"], 3 * X)
    monkeypatch.delitem(sys.modules, "caffe_compat_plugin_doubled")
    with pytest.raises(UsageError, match=r"layers of the plugin .*doubled.py; load it first: .*load_plugins\(\['/"):
        pickle.loads(content)


def test_layers_of_modules_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brought_along.py").write_text("from torch import nn\nclass Kept(nn.Tanh):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    net = filled(PLAIN)
    net.r = importlib.import_module("brought_along").Kept()
    content = pickle.dumps(net)
    monkeypatch.delitem(sys.modules, "brought_along")
    assert equal_bits(pickle.loads(content).run({"x": X}), net.run({"x": X}))
    monkeypatch.delitem(sys.modules, "brought_along")
    (tmp_path / "brought_along.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(UsageError, match=r"layers of the module brought_along .*cannot be imported here: No module"):
        pickle.loads(content)


class Counting(PythonLayer):
    """Adds how often it ran before."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.runs = 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].data[...] = bottom[0].data + self.runs
        self.runs += 1


def test_python_layers_go_on_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_layer, "_ADMITTED", {})
    register_python_layer("Counting")(Counting)
    net = net_of(
        input_layer("x", 2, 3) + layer("p", "Python", "x", "y", 'python_param { module: "brought" layer: "Counting" }')
    ).materialize()
    net.reset_state()
    first = net.run({"x": X})["y"]
    twin = again(net)
    assert torch.equal(twin.run({"x": X})["y"], net.run({"x": X})["y"])
    assert not torch.equal(twin.run({"x": X})["y"], first)


def test_a_class_that_nobody_finds_is_named() -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    net = filled(PLAIN)
    net.r = Local()
    with pytest.raises(UsageError, match=r"layer 'r': its class .*<locals>.Local is defined inside a function"):
        pickle.dumps(net)
    assert torch.equal(copy.deepcopy(net).run({"x": X})["b"], net.run({"x": X})["b"])
