"""Files whose outputs depart because rounding decides: layers one by one, each on what the file has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch

import converters
from caffe_compat import CaffeNet, ParityError
from caffe_compat.parity.tolerance import LAYER_TOLERANCE
from converters.layerwise import _in_order_of
from converters.registry import _TARGETS
from converters.samples import sample_inputs
from tests.networks import filled, input_layer, layer

Blobs = dict[str, np.ndarray]
STEP = layer("step", "Threshold", "double", "step", "threshold_param { threshold: %r }")
AFTER = layer("after", "Power", "step", "after", "power_param { scale: 3 }")


def _on_the_edge() -> CaffeNet:
    """A net in which the last bit of a value decides whether a later one is 0 or 1."""
    begin = input_layer("x", 2, 3) + layer("double", "Power", "x", "double", "power_param { scale: 2 }")
    value = float(2 * sample_inputs(filled(begin))["x"][0, 0])
    return filled(begin + STEP % value + AFTER)


@pytest.fixture
def runtime() -> Iterator[Callable[[Callable[[np.ndarray], Blobs]], None]]:
    """Registers format "toy", whose files give, of all blobs that a function makes of x, the outputs that they have."""
    written: dict[str, tuple[str, ...]] = {}

    def register(blobs_of: Callable[[np.ndarray], Blobs]) -> None:
        def run(path: str, runs: Sequence[Mapping[str, np.ndarray]]) -> list[Blobs]:
            return [{name: blobs_of(given["x"])[name] for name in written[path]} for given in runs]

        @converters.target("toy", suffix=".toy", title="a toy", run=run, runtime=lambda: "a toy 1.0")
        def write(net: CaffeNet, path: str) -> None:
            written[path] = net.output_names
            open(path, "w").close()

    yield register
    _TARGETS.pop("toy", None)


def test_a_jump_of_a_last_bit_is_no_departure(runtime: Callable[..., None], tmp_path: str) -> None:
    net = _on_the_edge()
    (threshold,) = (net.get_submodule(step.module) for step in net.program.steps if step.module == "step")

    def blobs_of(x: np.ndarray) -> Blobs:
        double = np.float32(2) * x * np.float32(1 + 2**-22)
        step = threshold(torch.from_numpy(double)).numpy()
        return {"double": double, "step": step, "after": 3 * step}

    runtime(blobs_of)
    exported = converters.export(net, f"{tmp_path}/a.toy")
    found = exported.verification
    assert found is not None
    assert (found.apart, found.blobs, found.worst_blob) == ("after", 3, "double")
    assert 1e-8 < found.worst_rel < 1e-6


def test_the_layer_that_departs_is_named(runtime: Callable[..., None], tmp_path: str) -> None:
    net = _on_the_edge()

    def blobs_of(x: np.ndarray) -> Blobs:
        blobs = {name: y.numpy() for name, y in net.run({"x": x}, blobs="all").items()}
        return blobs | {"after": 4 * blobs["step"]}

    runtime(blobs_of)
    message = r"'after' \(Power\): not written: in a toy 1.0, after departs .*; given what .* is off by 3\.3e-01"
    with pytest.raises(ParityError, match=message):
        converters.export(net, f"{tmp_path}/a.toy")


def test_rows_of_as_good_as_equal_scores_may_change_places() -> None:
    listed = [[0, 1, 0.9, 0, 0, 1, 1], [0, 1, 0.5, 2, 2, 3, 3], [0, 1, 0.5, 4, 4, 5, 5], [0, 2, 0.5, 6, 6, 7, 7]]
    rows = np.asarray(listed, np.float32)
    swapped = rows[[0, 2, 1, 3]]
    swapped[1, 2] += 1e-7
    ordered = (0, 1, 2)
    assert np.array_equal(_in_order_of(swapped, rows, LAYER_TOLERANCE, ordered), rows[[0, 2, 1, 3]])
    # Another class, a score that differs, and a box of its own stay departures.
    for wrong in (rows[[0, 1, 3, 2]], rows[[1, 0, 2, 3]], rows + 0.1):
        assert np.array_equal(_in_order_of(wrong, rows, LAYER_TOLERANCE, ordered), rows)
    assert np.array_equal(_in_order_of(None, rows, LAYER_TOLERANCE, ordered), rows)
    # Where all classes are one list, rows of two classes may.
    assert np.array_equal(_in_order_of(rows[[0, 1, 3, 2]], rows, LAYER_TOLERANCE, (2,)), rows[[0, 1, 3, 2]])
