"""A net in the hands of torch's own tools: exporters, tracers, compilers, DDP, optimizers."""

from __future__ import annotations

import doctest
import inspect
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.export import Dim

from caffe_compat import CaffeNet, NetState, load
from caffe_compat.errors import LayerError, UsageError
from caffe_compat.network import running, signatures
from caffe_compat.network.positional import PositionalNet
from caffe_compat.training.solver import Solver, parse_solver
from tests.networks import filled, input_layer, ip, layer
from tests.tracing import FOLLOWS_STRICTLY, export, size

CONV2 = "convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 }"
CLASSIC = (
    input_layer("data", 2, 3, 19, 15)
    + layer("conv.1", "Convolution", "data", "conv1", "convolution_param { num_output: 8 kernel_size: 3 stride: 2 }")
    + layer("relu1", "ReLU", "conv1", "conv1")
    + layer("norm1", "LRN", "conv1", "norm1", "lrn_param { local_size: 3 alpha: 0.5 }")
    + layer("pool1", "Pooling", "norm1", "pool1", "pooling_param { kernel_size: 3 stride: 2 }")
    + layer(
        "conv2", "Convolution", "pool1", "conv2", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 }"
    )
    + layer("bn", "BatchNorm", "conv2", "conv2")
    + layer("scale", "Scale", "conv2", "conv2", "scale_param { bias_term: true }")
    + layer("sum", "Eltwise", "pool1 conv2", "sum")
    + layer("ave", "Pooling", "sum", "ave", "pooling_param { kernel_size: 2 stride: 2 pool: AVE }")
    + layer("up", "Deconvolution", "ave", "up", "convolution_param { num_output: 4 kernel_size: 2 stride: 2 }")
    + layer("cut", "Slice", "up", "cut1 cut2", "slice_param { slice_point: 1 }")
    + layer("cat", "Concat", "cut2 cut1", "cat")
    + layer("reshape", "Reshape", "cat", "rows", "reshape_param { shape { dim: 0 dim: 2 dim: -1 } }")
    + layer("flat", "Flatten", "rows", "flat")
    + ip("fc", "flat", "fc", 5)
    + layer("drop", "Dropout", "fc", "fc")
    + layer("prob", "Softmax", "fc", "prob")
)


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 19, 15, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net() -> CaffeNet:
    return filled(CLASSIC)


def close(found: Any, expected: Any) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


# Dynamic batches


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True] if FOLLOWS_STRICTLY else [False])
def test_the_net_itself_exports_with_a_dynamic_batch(net: CaffeNet, strict: bool) -> None:
    n = size("n")
    for args, kwargs, shapes in (
        ((images(2),), {}, ({0: n},)),
        ((images(2),), {}, {"data": {0: n}}),
        ((), {"data": images(2)}, {"data": {0: n}}),
    ):
        program = export(net, args, kwargs, dynamic_shapes=shapes, strict=strict).module()
        for count in (1, 2, 7):
            x = images(count, seed=count)
            found = program(x) if args else program(data=x)
            assert list(found) == ["prob"]
            torch.testing.assert_close(found["prob"], net(x)["prob"])


def test_inputs_that_do_not_go_by_name(net: CaffeNet) -> None:
    odd = filled(
        input_layer("im-info", 2, 3) + input_layer("class", 2, 3) + layer("s", "Eltwise", "im-info class", "s")
    )
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    program = export(odd, (a, b)).module()
    torch.testing.assert_close(program(a, b)["s"], a + b)
    assert list(inspect.signature(net.forward).parameters) == ["data"]
    module = odd.as_module()
    assert list(inspect.signature(module.forward).parameters) == ["im_info", "class_"]
    n = size("n")
    program = export(module, (a, b), dynamic_shapes=({0: n}, {0: n})).module()
    torch.testing.assert_close(program(torch.ones(5, 3), torch.ones(5, 3))[0], torch.full((5, 3), 2.0))
    assert doctest.testmod(signatures).failed == 0


def test_a_label_that_nobody_reads_may_be_left_out_of_an_export() -> None:
    labelled = filled(CLASSIC + input_layer("label", 2))
    program = export(labelled, (images(2),), dynamic_shapes=({0: size("n")},)).module()
    assert list(program(images(5))) == ["prob"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("reshape_param { shape { dim: 2 dim: -1 } }", "Reshape"),
        ("reshape_param { shape { dim: -1 dim: 24 } } ", None),
    ],
)
def test_what_forbids_a_dynamic_batch_is_named(text: str, what: str | None) -> None:
    fixed = filled(input_layer("x", 2, 3, 8) + layer("p", "Power", "x", "p") + layer("fold", "Reshape", "p", "y", text))
    x, shapes = torch.rand(2, 3, 8), ({0: size("n")},)
    for net in (fixed, fixed.as_module()):
        if what is None:
            export(net, (x,), dynamic_shapes=shapes)
            continue
        message = r"layer 'fold' \(Reshape\): works only where axis 0 of input 'x' is 2, which was asked to be dynamic"
        with pytest.raises(LayerError, match=message):
            export(net, (x,), dynamic_shapes=shapes)
        with pytest.raises(LayerError, match=message):
            export(net, (x,), dynamic_shapes=({0: Dim.DYNAMIC},))
        # Where torch may decide, it decides.
        export(net, (x,), dynamic_shapes=({0: Dim.AUTO},))
        export(net, (x,))


def test_recurrent_state_forbids_a_dynamic_batch_too() -> None:
    recurrent = filled(
        input_layer("x", 3, 2, 4)
        + input_layer("cont", 3, 2)
        + layer("l", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
    )
    n = size("n")
    with pytest.raises(LayerError, match=r"layer 'l' \(LSTM\): works only where axis 1 of input 'x' is 2"):
        export(recurrent, (torch.rand(3, 2, 4), torch.ones(3, 2)), dynamic_shapes=({1: n}, {1: n}))


LAYERS = {
    "MVN": "",
    "Bias": "",
    "PReLU": "",
    "Crop": "crop_param { offset: 1 }",
    "Tile": "tile_param { tiles: 3 }",
    "SPP": "spp_param { pyramid_height: 2 }",
    "Im2col": "convolution_param { kernel_size: 3 }",
    "ArgMax": "argmax_param { axis: 1 }",
    "Reduction": "reduction_param { axis: 1 operation: MEAN }",
    "Embed": "embed_param { input_dim: 9 num_output: 3 }",
    "LRN": "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }",
}


@pytest.mark.parametrize("kind", LAYERS)
def test_other_layers_keep_the_batch_dynamic(kind: str) -> None:
    bottoms = "x like" if kind == "Crop" else "x"
    text = input_layer("x", 2, 3, 7, 6) + (input_layer("like", 2, 3, 4, 5) if kind == "Crop" else "")
    net = filled(text + layer("l", kind, bottoms, "y", LAYERS[kind]))
    n = size("n")
    given = {name: torch.rand(shape) for name, shape in net.input_shapes.items()}
    program = export(net, (), given, dynamic_shapes={name: {0: n} for name in given}).module()
    more = {name: torch.rand(5, *x.shape[1:]) for name, x in given.items()}
    torch.testing.assert_close(program(**more)["y"], net(**more)["y"])


# Positional modules


def test_a_positional_module_has_the_nets_modules(net: CaffeNet) -> None:
    module = net.as_module()
    assert isinstance(module, PositionalNet)
    assert module.state_dict().keys() == net.state_dict().keys()
    assert module.get_parameter("fc.weight") is net.get_parameter("fc.weight")
    (found,) = module(images(3))
    assert torch.equal(found, net(images(3))["prob"])
    assert repr(module).splitlines()[1].strip() == "data -> prob"
    assert not module.training
    with pytest.raises(UsageError, match="2 inputs were given; the net's inputs are data"):
        module(images(1), images(1))
    with pytest.raises(UsageError, match="missing data"):
        module()


def test_positional_modules_of_some_blobs(net: CaffeNet) -> None:
    everything = net.run({"data": images(2)}, "all")
    head = net.as_module(outputs=["pool1", "conv1"])
    assert sorted({name.partition(".")[0] for name in head.state_dict()}) == ["conv%2E1"]
    assert close(head(images(2)), (everything["pool1"], everything["conv1"]))
    tail = net.as_module(inputs=["ave"], outputs=["prob", "up"])
    assert close(tail(everything["ave"]), (everything["prob"], everything["up"]))
    turned = net.as_module(inputs=["conv2", "pool1"], outputs=["sum"])
    assert close(turned(everything["conv2"], everything["pool1"]), (everything["sum"],))
    with pytest.raises(UsageError, match="prob cannot be had without the input 'data'"):
        net.as_module(inputs=["conv2"])
    with pytest.raises(UsageError, match="no blob 'fc8'"):
        net.as_module(outputs=["fc8"])
    faster = net.optimize()
    found = faster.as_module(outputs=["prob", "sum"])(images(2))
    assert all(map(torch.equal, found, faster.run({"data": images(2)}, ["prob", "sum"]).values()))
    assert all(value.is_contiguous() and not value.requires_grad for value in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torch_takes_a_positional_module(net: CaffeNet) -> None:
    module, x = net.as_module(outputs=["prob", "sum"]), images(2)
    expected, more = module(x), images(5)
    traced = torch.jit.trace(module, (x,))
    stored = io.BytesIO()
    torch.jit.save(traced, stored)
    stored.seek(0)
    loaded = torch.jit.load(stored)
    assert close(loaded(x), expected)
    assert close(loaded(more), module(more))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert close(compiled(x), expected)
    program = export(module, (x,), dynamic_shapes=({0: size("n")},)).module()
    assert close(program(more), module(more))


@pytest.mark.parametrize("kind", ["net", "module"])
def test_ddp_takes_it(net: CaffeNet, kind: str, tmp_path: Path) -> None:
    trained = filled(CLASSIC)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(trained if kind == "net" else trained.as_module())
        found = model(images(2))
        (found["prob"] if kind == "net" else found[0])[:, 0].sum().backward()
    finally:
        dist.destroy_process_group()
    alone = filled(CLASSIC)
    alone(images(2))["prob"][:, 0].sum().backward()
    gradients = {name: parameter.grad for name, parameter in trained.named_parameters()}
    assert len(gradients) > 8
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


def test_examples_of_methods_that_nets_inherit(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reference.parent)
    found = doctest.testmod(running)
    assert (found.failed, found.attempted > 5) == (0, True)


# Optimizers


def test_multipliers_reach_the_optimizer() -> None:
    net = filled(
        input_layer("x", 2, 3)
        + ip("one", "x", "a", 3, 'param { name: "w" lr_mult: 2 decay_mult: 0.5 } param { lr_mult: 0 }')
        + ip("two", "a", "b", 3, 'param { name: "w" }')
        + layer("bn", "BatchNorm", "b", "b")
        + layer("s", "Scale", "b", "c", "param { lr_mult: 2 decay_mult: 0.5 }")
    )
    groups = net.param_groups(0.1, 0.01)
    assert [(g["lr"], g["weight_decay"], g["lr_mult"], g["decay_mult"]) for g in groups] == [
        (0.2, 0.005, 2, 0.5),
        (0.1, 0.01, 1, 1),
    ]
    names = {id(p): n for n, p in net.named_parameters()}
    assert [[names[id(p)] for p in g["params"]] for g in groups] == [["one.weight", "s.weight"], ["two.bias"]]
    frozen, statistics = net.get_parameter("one.bias").clone(), net.get_buffer("bn.mean").clone()
    optimizer = torch.optim.Adam(net.param_groups(0.1))
    net(torch.rand(2, 3))["c"].sum().backward()
    optimizer.step()
    assert torch.equal(net.get_parameter("one.bias"), frozen)
    assert torch.equal(net.get_buffer("bn.mean"), statistics)


def test_what_a_user_put_there_is_in_a_group() -> None:
    net = filled(CLASSIC)
    net.fc = nn.Linear(net.fc.weight.shape[1], 9)
    optimizer = torch.optim.SGD(net.param_groups(0.1, 0.01))
    assert any(p is net.fc.weight for g in optimizer.param_groups for p in g["params"])
    assert net(images(2))["prob"].shape == (2, 9)


def test_sgd_takes_the_steps_of_caffes_solver(reference: Path, tmp_path: Path) -> None:
    """With a constant rate; the solver itself is compared with real Caffe elsewhere."""
    text = (reference / "solvers" / "small.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(text)
    settings = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 5 momentum: 0.9 weight_decay: 0.01 '

    def batch(k: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(k)
        return {"x": torch.randn(6, 3, 6, 6, generator=generator), "t": torch.arange(6) % 5 * 1.0}

    solver = Solver(
        parse_solver(settings, base=tmp_path), filled(text, state=NetState("TRAIN")), batch, base=tmp_path, seed=1
    )
    net = filled(text, state=NetState("TRAIN"))
    with torch.no_grad():
        for ours, theirs in zip(net.parameters(), solver.net.parameters(), strict=True):
            theirs.copy_(ours)
    optimizer = torch.optim.SGD(net.param_groups(0.05, 0.01), momentum=0.9)
    solver.step(5)
    for k in range(5):
        optimizer.zero_grad()
        net.loss(net.values(batch(k))).backward()
        optimizer.step()
    for ours, theirs in zip(net.parameters(), solver.net.parameters(), strict=True):
        assert not np.array_equal(ours.detach(), torch.zeros_like(ours))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_torchs_own_onnx_exporter_takes_a_positional_module(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "reference_outputs" / "formats" / "v1net"
    module = load(model.with_suffix(".prototxt"), model.with_suffix(".caffemodel")).as_module(outputs=["prob", "pool1"])
    x = torch.rand(2, 3, 8, 8)
    path = str(tmp_path / "net.onnx")
    names = ["prob", "pool1"]
    torch.onnx.export(
        module, (x,), path, dynamo=False, input_names=["data"], output_names=names, dynamic_axes={"data": {0: "n"}}
    )
    session = onnxruntime.InferenceSession(path)
    for batch in (x, torch.rand(5, 3, 8, 8)):
        for found, expected in zip(session.run(None, {"data": batch.numpy()}), module(batch), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6)
