"""Networks that hypothesis draws: plain torch, the net, its inference form, a pickled copy, pt2 and ONNX agree."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import caffe_compat
import converters
from caffe_compat import CaffeNet
from caffe_compat.network.signatures import identifiers
from converters.onnx import run_onnxruntime
from converters.pt2 import program_of
from tests.drawn.sketch import Sketch
from tests.drawn.strategies import networks
from tests.networks import write_weights

# Of the largest value of a blob, or of 1: single precision against double, over a few layers.
TOLERANCE = 1e-4


def drawn(examples: int) -> settings:
    """The same examples each time, however long one takes; no file is kept."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def net_of(sketch: Sketch) -> CaffeNet:
    """The sketch as a user would load it: from a prototxt and a caffemodel."""
    with tempfile.TemporaryDirectory() as folder:
        definition = Path(folder, "net.prototxt")
        definition.write_text(sketch.text)
        weights = None
        if sketch.weights:
            weights = write_weights(Path(folder, "net.caffemodel"), list(sketch.weights.items()))
        return caffe_compat.load(definition, weights, phase=sketch.phase.lower())


def check_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        apart = float((found[name].double() - value.double()).abs().max())
        assert apart <= TOLERANCE * max(1.0, float(value.abs().max())), name


def inputs_of(sketch: Sketch) -> dict[str, Tensor]:
    return {name: value.float() for name, value in sketch.inputs.items()}


def check_net(sketch: Sketch) -> None:
    """The net against plain torch, blob by blob, and a pickled copy against the net, bit by bit."""
    net = net_of(sketch)
    copy = pickle.loads(pickle.dumps(net))
    assert set(net.output_names) == sketch.unread
    with torch.no_grad():
        found = net.run(inputs_of(sketch), "all")
        again = copy.run(inputs_of(sketch), "all")
    check_close(found, sketch.values)
    assert list(again) == list(found)
    assert all(torch.equal(again[name], value) for name, value in found.items())


def check_optimized(sketch: Sketch) -> None:
    with torch.no_grad():
        found = net_of(sketch).optimize().run(inputs_of(sketch))
    check_close(found, {name: sketch.values[name] for name in sketch.unread})


def check_program(sketch: Sketch) -> None:
    """As a program of ``torch.export``, written and read again."""
    net = net_of(sketch)
    file = io.BytesIO()
    torch.export.save(program_of(net), file)
    file.seek(0)
    given = {name: value for name, value in inputs_of(sketch).items() if name in net.program.needed_inputs}
    arguments = dict(zip(identifiers(list(given)), given.values(), strict=True))
    with torch.no_grad():
        found = torch.export.load(file).module()(**arguments)
    check_close(found, sketch.outputs)


def check_onnx(sketch: Sketch) -> None:
    net = net_of(sketch)
    given = {name: value for name, value in inputs_of(sketch).items() if name in net.program.needed_inputs}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "net.onnx"))
        exported = converters.export(net, path)
        (found,) = run_onnxruntime(path, [{name: value.numpy() for name, value in given.items()}])
    assert exported.verification is not None
    assert exported.verification.apart == ""
    # No two values of a graph have one name.
    names = {name: f"{name}/after" if name in sketch.inputs else name for name in sketch.outputs}
    check_close({k: torch.from_numpy(v) for k, v in found.items()}, {names[k]: v for k, v in sketch.outputs.items()})


@drawn(15)
@given(networks(("TEST", "TRAIN")))
def test_a_net_is_what_plain_torch_computes(sketch: Sketch) -> None:
    check_net(sketch)


@drawn(15)
@given(networks())
def test_its_inference_form(sketch: Sketch) -> None:
    check_optimized(sketch)


@drawn(2)
@given(networks(most=4))
def test_its_program(sketch: Sketch) -> None:
    check_program(sketch)


@drawn(8)
@given(networks())
def test_its_onnx_file(sketch: Sketch) -> None:
    check_onnx(sketch)


@pytest.mark.slow
@drawn(1000)
@given(networks(("TEST", "TRAIN"), most=16))
def test_many_nets(sketch: Sketch) -> None:
    check_net(sketch)
    if sketch.phase == "TEST":
        check_optimized(sketch)


@pytest.mark.slow
@drawn(100)
@given(networks(most=12))
def test_many_files(sketch: Sketch) -> None:
    check_program(sketch)
    check_onnx(sketch)
