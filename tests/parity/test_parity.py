"""What counts as equal, what is compared, and references that are not what they should be."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.errors import CaffeCompatError, FileError, UsageError
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.parity.cases import run_case, run_cases
from caffe_compat.parity.compare import BlobResult, CaseResult, compare
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.parity.reference import verify_net
from caffe_compat.parity.reference_files import whole_or_fingerprint
from caffe_compat.parity.tolerance import Tolerance
from tests.networks import filled, input_layer, ip, layer, net_of

NAN, INF = float("nan"), float("inf")
EXACT = Tolerance(0, 0)
LOOSE = Tolerance(0.1, 0.01)


def both(ours: Any, reference: Any, tolerance: Tolerance = EXACT) -> BlobResult:
    """The result for arrays and for tensors, which must be the same."""
    ours, reference = np.asarray(ours, np.float32), np.asarray(reference, np.float32)
    result = compare("b", ours, reference, tolerance)
    assert repr(compare("b", torch.from_numpy(ours), reference, tolerance)) == repr(result)
    return result


# compare


def test_the_largest_difference_counts() -> None:
    result = both([[1, 2, 3], [4, 5, 6.5]], [[1, 2, 3.25], [4, 5, -8]])
    assert result == BlobResult("b", 6, (2, 3), 14.5, 14.5 / 8, False)


def test_tolerance_is_of_the_largest_value() -> None:
    # 0.1 + 0.01 * 10 allowed, on the small value too
    assert both([10, 1.125], [10, 1], LOOSE).passed
    assert both([10, 1.1875], [10, 1], LOOSE).passed
    assert not both([10, 1.25], [10, 1], LOOSE).passed
    assert not both([1, 1.1875], [1, 1], LOOSE).passed


def test_all_zeros() -> None:
    assert both([0, 0], [0, 0]) == BlobResult("b", 2, (2,), 0, 0, True)
    assert both([0, 0.5], [0, 0]) == BlobResult("b", 2, (2,), 0.5, INF, False)
    assert both([-0.0], [0.0]).passed


@pytest.mark.parametrize(
    ("ours", "reference", "passed"),
    [
        ([NAN, 1], [NAN, 1], True),
        ([NAN, 1], [1, 1], False),
        ([1, 1], [NAN, 1], False),
        ([INF, 1], [INF, 1], True),
        ([-INF, 1], [INF, 1], False),
        ([INF, 1], [3e38, 1], False),
        ([3e38, 1], [INF, 1], False),
        ([NAN, 1], [INF, 1], False),
        ([INF, NAN], [INF, NAN], True),
    ],
)
def test_what_is_no_number(ours: list, reference: list, passed: bool) -> None:
    result = both(ours, reference, LOOSE)
    assert result.passed is passed
    assert bool(result.problem) is not passed
    assert result.max_abs == (0 if passed else INF)


def test_infinity_does_not_widen_the_tolerance() -> None:
    result = both([INF, 1.5], [INF, 1], LOOSE)
    assert not result.passed
    assert (result.max_abs, result.max_rel) == (0.5, 0.5)


def test_shapes_must_be_equal() -> None:
    result = both(np.zeros((2, 3)), np.zeros((3, 2)), LOOSE)
    assert not result.passed
    assert result.problem == "shape [2, 3], the reference has [3, 2]"
    assert not both(np.zeros((1, 3)), np.zeros(3), LOOSE).passed
    assert both(np.zeros((0, 3)), np.zeros((0, 3))).passed
    assert compare("b", None, np.zeros(3), LOOSE).problem == "we have no such blob"


def test_differences_are_found_wherever_they_are(device: torch.device) -> None:
    reference = np.random.RandomState(0).uniform(-1, 1, 100_003).astype(np.float32)
    for place in (0, 32767, 32768, 65536, 100_002):
        ours = torch.from_numpy(reference.copy()).to(device)
        ours[place] += 0.25
        result = compare("b", ours, reference, Tolerance(0.2, 0))
        assert not result.passed
        assert abs(result.max_abs - 0.25) < 1e-6
        ours[place] = NAN
        assert not compare("b", ours, reference, LOOSE).passed


def test_other_layouts_and_precisions() -> None:
    reference = np.arange(6.0).reshape(2, 3)
    for ours in (
        torch.arange(6).reshape(2, 3),
        torch.arange(6.0).half().reshape(2, 3),
        torch.arange(6.0).reshape(3, 2).t(),
    ):
        assert compare("b", ours, reference if ours.is_contiguous() else np.asarray(ours), EXACT).passed
    assert compare("b", torch.tensor(3.0, requires_grad=True), np.array(3, ">f8"), EXACT).passed
    assert compare("b", np.arange(6)[::-1], np.arange(6)[::-1], EXACT).passed


def test_cases_count_as_failed_if_nothing_was_compared() -> None:
    good, bad = (BlobResult(n, 1, (1,), 1, r, n == "good") for n, r in (("good", 0.1), ("bad", 0.5)))
    assert not CaseResult("c").passed
    assert not CaseResult("c", [good], unsupported="no").passed
    assert CaseResult("c", [good]).passed
    result = CaseResult("c", [good, bad, bad])
    assert not result.passed
    assert result.first_failure is bad
    assert result.worst is bad
    assert CaseResult("c", [good]).first_failure is None


# Fingerprints


def fingerprint(group: h5py.Group, values: np.ndarray, /, **changes: Any) -> h5py.Group:
    flat = values.astype(np.float64).ravel()
    positions = np.arange(0, flat.size, 7)
    group.attrs["shape"] = changes.get("shape", values.shape)
    group.attrs["mean_std_min_max"] = changes.get("statistics", [flat.mean(), flat.std(), flat.min(), flat.max()])
    group["positions"] = changes.get("positions", positions)
    group["values"] = changes.get("values", flat[positions])
    return group


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        yield file


BLOB = np.random.RandomState(3).uniform(-1, 3, (5, 7, 11)).astype(np.float32)


def compare_stored(name: str, ours: Any, stored: h5py.Group, tolerance: Tolerance) -> BlobResult:
    """Compare with what a file holds of a blob, whole or as a fingerprint."""
    return compare(name, ours, whole_or_fingerprint(stored, name), tolerance)


def test_fingerprints(file: h5py.File) -> None:
    stored = fingerprint(file.create_group("b"), BLOB)
    tight = Tolerance(0, 1e-6)
    result = compare_stored("b", torch.from_numpy(BLOB), stored, tight)
    assert result.passed
    assert (result.count, result.shape) == (385, (5, 7, 11))
    at_position, elsewhere, everywhere = BLOB.copy(), BLOB.copy(), BLOB + np.float32(1e-4)
    at_position.ravel()[14] += 0.01
    elsewhere.ravel()[15] = 99
    for changed in (at_position, elsewhere, everywhere):
        assert not compare_stored("b", changed, stored, tight).passed
    problem = compare_stored("b", BLOB.reshape(7, 5, 11), stored, LOOSE).problem
    assert problem == "shape [7, 5, 11], the reference has [5, 7, 11]"


def test_fingerprints_that_make_no_sense(file: h5py.File) -> None:
    changes: list[dict[str, Any]] = [
        {"positions": np.arange(380, 435)},
        {"positions": -np.arange(55)},
        {"values": np.zeros(3)},
        {"statistics": [0.0, 1.0]},
    ]
    for i, change in enumerate(changes):
        with pytest.raises(UsageError, match="reference of b: "):
            compare_stored("b", BLOB, fingerprint(file.create_group(str(i)), BLOB, **change), LOOSE)
    empty = file.create_group("empty")
    empty.attrs["shape"] = BLOB.shape
    assert not compare_stored("b", BLOB, empty, LOOSE).passed


# Arithmetic


def precision_settings() -> list[Any]:
    backends: Any = torch.backends
    found = [
        backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        backends.cudnn.benchmark,
    ]
    if hasattr(backends, "fp32_precision"):
        kinds = (
            backends.cuda.matmul,
            backends.cudnn.conv,
            backends.cudnn.rnn,
            backends.mkldnn.matmul,
            backends.mkldnn.conv,
        )
        return found + [kind.fp32_precision for kind in kinds]
    return [*found, backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32]


@pytest.mark.parametrize("legacy", [True, False])
def test_ieee_arithmetic_is_scoped(legacy: bool) -> None:
    backends: Any = torch.backends
    first = precision_settings()
    loose = {"ieee", False}
    try:
        if legacy:
            torch.set_float32_matmul_precision("medium")
            backends.cudnn.allow_tf32 = True
        elif hasattr(backends, "fp32_precision"):
            backends.cuda.matmul.fp32_precision = backends.cudnn.conv.fp32_precision = "tf32"
            backends.mkldnn.conv.fp32_precision = "bf16"
        backends.cudnn.benchmark = True
        before = precision_settings()
        assert set(before) - loose
        with contextlib.suppress(RuntimeError), torch.autocast("cpu", dtype=torch.bfloat16), ieee_float32():
            assert set(precision_settings()) <= loose
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            raise RuntimeError("what was set comes back after an error too")
        assert precision_settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.benchmark = False
        backends.cudnn.allow_tf32 = True
        if hasattr(backends, "fp32_precision"):
            backends.mkldnn.conv.fp32_precision = "none"
    assert len(precision_settings()) == len(first)


# Cases

CASE = "force_backward: true " + input_layer("x", 2, 3) + ip("fc", "x", "y", 4) + layer("r", "ReLU", "y", "z")
X = np.random.RandomState(1).uniform(-1, 1, (2, 3)).astype(np.float32)


def write_case(case: h5py.Group, text: str = CASE) -> h5py.Group:
    """A case that we pass: its numbers come from numpy."""
    rng = np.random.RandomState(2)
    weight, bias = rng.uniform(-1, 1, (4, 3)).astype(np.float32), rng.uniform(-1, 1, 4).astype(np.float32)
    case.attrs["prototxt"] = text
    y = X.astype(np.float64) @ weight.T + bias
    z, dz = np.maximum(y, 0), rng.uniform(-1, 1, (2, 4))
    dy = dz * (y > 0)
    for name, array in {
        "bottom/x": X, "param/fc/0": weight, "param/fc/1": bias, "top/z": z, "top/y": y, "top_diff/z": dz,
        "bottom_diff/x": dy @ weight, "param_diff/fc/0": dy.T @ X, "param_diff/fc/1": dy.sum(0),
    }.items():  # fmt: skip
        case[name] = array.astype(np.float32)
    return case


def test_arrays_of_a_case_may_be_of_any_number_type(file: h5py.File) -> None:
    """Caffe computed with floats, whatever a recorder made of them."""
    case = write_case(file.create_group("c"))
    plain = write_case(file.create_group("plain"))
    for name, dtype in (("bottom/x", "i4"), ("top_diff/z", "f8"), ("top/y", "f8")):
        values = np.round(case[name][()]) if dtype == "i4" else case[name][()]
        del case[name], plain[name]
        case[name], plain[name] = values.astype(dtype), values.astype("f4")
    found, expected = run_case("c", case), run_case("plain", plain)
    assert found.unsupported == ""
    assert [(b.name, b.max_abs) for b in found.blobs] == [(b.name, b.max_abs) for b in expected.blobs]


def test_a_case_passes_forward_and_backward(file: h5py.File, device: torch.device) -> None:
    result = run_case("c", write_case(file.create_group("c")), device)
    assert result.passed, result
    # Tops in execution order, not in the order of the file.
    assert [b.name for b in result.blobs] == ["y", "z", "bottom_diff/x", "param_diff/fc/0", "param_diff/fc/1"]
    forward = run_case("c", file["c"], device, gradients=False)
    assert [b.name for b in forward.blobs] == ["y", "z"]
    assert forward.skipped == ["gradients were not asked for"]


@pytest.mark.parametrize("name", ["top/y", "top/z", "bottom_diff/x", "param_diff/fc/0", "param_diff/fc/1"])
def test_a_case_fails_where_its_numbers_differ(name: str, file: h5py.File) -> None:
    case = write_case(file.create_group("c"))
    case[name][(0,) * case[name].ndim] += 0.01
    result = run_case("c", case)
    assert not result.passed
    assert result.first_failure is not None
    assert result.first_failure.name == name.removeprefix("top/")
    assert sum(not blob.passed for blob in result.blobs) == 1


def moved(old: str, new: str) -> Callable[[h5py.Group], None]:
    return lambda case: case.move(old, new)


def replaced(name: str, value: Any) -> Callable[[h5py.Group], None]:
    def change(case: h5py.Group) -> None:
        del case[name]
        case[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda case: case.attrs.__delitem__("prototxt"), "has no attribute prototxt"),
        (lambda case: case.attrs.__setitem__("prototxt", "layer {"), "c: line 1"),
        (lambda case: case.attrs.__setitem__("prototxt", np.zeros(3)), "."),
        (
            lambda case: case.attrs.__setitem__("prototxt", input_layer("x", 2, 3) + layer("n", "Nope", "x", "y")),
            "'Nope'",
        ),
        (lambda case: case.attrs.__setitem__("phase", "DEPLOY"), "phase 'DEPLOY'"),
        (moved("param/fc", "param/other"), "weights param/other/0, which the network does not"),
        (moved("param/fc/1", "param/fc/2"), "weights param/fc/2, which the network does not"),
        (moved("param/fc/1", "param/fc/one"), "'fc/one': <layer>/<blob number> was expected"),
        (moved("param_diff/fc/1", "param_diff/fc/7"), "blob 7 of layer 'fc', which the network does not"),
        (moved("bottom/x", "bottom/w"), "missing x"),
        (moved("bottom_diff/x", "bottom_diff/w"), "w"),
        (moved("top_diff/z", "top_diff/w"), "w"),
        (replaced("param/fc/0", np.zeros((3, 4))), r"layer 'fc', blob weight: shape \[3, 4\] was given"),
        (replaced("bottom/x", np.zeros((2, 3, 1))), r"input 'x' has shape \[2, 3, 1\]"),
        (replaced("bottom/x", np.zeros((2, 5))), "layer 'fc' .* failed"),
        (replaced("bottom/x", np.array([b"ab", b"cd"])), r"data set /c/bottom/x holds \|S2, not numbers"),
        (replaced("top_diff/z", np.zeros((3, 4))), "top_diff/z"),
    ],
)
def test_cases_that_cannot_be_run_say_why(change: Callable, message: str, file: h5py.File) -> None:
    case = write_case(file.create_group("c"))
    change(case)
    result = run_case("c", case)
    assert not result.passed
    assert len(result.unsupported.splitlines()) == 1
    assert re.search(message, result.unsupported), result.unsupported


def test_a_top_that_we_do_not_have(file: h5py.File) -> None:
    case = write_case(file.create_group("c"))
    case["top/w"] = X
    result = run_case("c", case)
    assert result.first_failure is not None
    assert (result.first_failure.name, result.first_failure.problem) == ("w", "we have no such blob")


def test_cases_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("A.one", "A.two", "B"):
            write_case(file.create_group(name))
        file["array"] = X
    assert [r.name for r in run_cases(tmp_path / "f.h5")] == ["A.one", "A.two", "B"]
    assert [r.name for r in run_cases(tmp_path / "f.h5", ["A."])] == ["A.one", "A.two"]
    with pytest.raises(FileError, match="holds no case named C"):
        list(run_cases(tmp_path / "f.h5", ["C"]))


RFCN, SSD = "daijifeng001/caffe-rfcn", "weiliu89/caffe@ssd"


@pytest.mark.parametrize(
    ("recorded", "asked_for", "divisor"),
    [
        (RFCN, None, 8),
        (SSD, None, 2),
        (RFCN, SSD, 2),
        (SSD, RFCN, 8),
        (None, RFCN, 8),
    ],
)
def test_a_case_means_what_its_fork_means(
    recorded: str | None, asked_for: str | None, divisor: int, file: h5py.File
) -> None:
    """SSD divides this loss by the 2 examples, R-FCN by their 2 x 4 positions."""
    case = file.create_group("c")
    shape = (2, 3, 4, 1)
    case.attrs["prototxt"] = (
        input_layer("a", *shape) + input_layer("b", *shape) + layer("l", "SmoothL1Loss", "a b", "l")
    )
    if recorded is not None:
        case.attrs["dialect"] = recorded
    case["bottom/a"], case["bottom/b"] = np.full(shape, 2.5, np.float32), np.zeros(shape, np.float32)
    case["top/l"] = np.float32(24 * 2 / divisor)
    assert run_case("c", case, dialect=asked_for).passed
    case["top/l"][()] = 24 * 2 / (10 - divisor)
    assert not run_case("c", case, dialect=asked_for).passed


def test_a_case_may_be_read_as_its_network_says(file: h5py.File) -> None:
    case = file.create_group("c")
    case.attrs["prototxt"] = input_layer("x", 2, 3) + layer("r", "ReLU6", "x", "y")
    case["bottom/x"], case["top/y"] = 10 * X, np.clip(10 * X, 0, 6)
    assert run_case("c", case).passed
    case.attrs["dialect"] = "alexgkendall/caffe-segnet"
    assert run_case("c", case, dialect="auto").passed
    case.attrs["dialect"] = "own/caffe.proto"
    assert "names 'own/caffe.proto', which is none that ships" in run_case("c", case).unsupported
    assert run_case("c", case, dialect="auto").passed


def test_files_that_hold_no_cases(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no")
    h5py.File(tmp_path / "empty", "w").close()
    for name, message in (
        ("text", "is no HDF5 file"),
        ("empty", "holds no case"),
        ("gone", "No such file"),
        (".", "a folder, not a file"),
    ):
        with pytest.raises(FileError, match=message):
            list(run_cases(tmp_path / name))


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        write_case(other.create_group("c"))
        other["top"] = X
    with h5py.File(tmp_path / "f.h5", "w") as file:
        write_case(file.create_group("good"))
        file["linked"] = h5py.ExternalLink("other.h5", "c")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["good/top/far"] = h5py.ExternalLink("other.h5", "top")
        file["good/top/soft"] = h5py.SoftLink("/good/top/z")
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "top", (2, 3))
        bad = write_case(file.create_group("virtual"))
        del bad["bottom/x"]
        bad["bottom"].create_virtual_dataset("x", layout)
        huge = write_case(file.create_group("huge"))
        del huge["bottom/x"]
        huge["bottom"].create_dataset("x", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")
    results = {r.name: r for r in run_cases(tmp_path / "f.h5")}
    assert set(results) == {"good", "virtual", "huge"}
    assert [b.name for b in results["good"].blobs][:2] == ["y", "z"]
    assert "stores its values in other files; they are not opened" in results["virtual"].unsupported
    assert "declares 4000000000000 bytes but stores 0" in results["huge"].unsupported


# References of whole models

NET = input_layer("x", 2, 3) + ip("one", "x", "a", 4) + layer("r", "ReLU", "a", "a") + ip("two", "a", "b", 5)


def write_reference(group: h5py.Group, net: Any, x: np.ndarray = X, **changes: np.ndarray) -> None:
    for name, value in {**net.run({"x": x}, blobs="all"), **changes}.items():
        group[f"blob/{name}"] = np.asarray(value)


def test_blobs_are_compared_in_execution_order(file: h5py.File, device: torch.device) -> None:
    net = filled(NET).to(device)
    write_reference(file, filled(NET), a_split_0=X, a_split_1=X)
    (result,) = verify_net(net, file)
    assert result.passed
    assert [b.name for b in result.blobs] == ["x", "a", "b"]
    net.assign_blob("one", "bias", torch.zeros(4, device=device))
    (result,) = verify_net(net, file)
    assert [b.name for b in result.blobs if not b.passed] == ["a", "b"]
    assert result.first_failure is not None
    assert result.first_failure.name == "a"


def test_blobs_on_one_side_only(file: h5py.File) -> None:
    net = filled(NET)
    write_reference(file, net, more=X)
    del file["blob/a"]
    (result,) = verify_net(net, file)
    assert [b.name for b in result.blobs if not b.passed] == ["more"]
    assert result.skipped == ["a: not in the reference"]


@pytest.mark.slow
def test_a_damaged_reference(tmp_path: Path) -> None:
    net = filled(NET)
    with h5py.File(tmp_path / "good.h5", "w") as file:
        write_reference(file, net)
    good = (tmp_path / "good.h5").read_bytes()
    found = []
    for place in range(64, len(good), 64):
        path = tmp_path / f"{place}.h5"
        path.write_bytes(good[:place] + b"\x55" * 4 + good[place:])
        try:
            with open_hdf5(path) as file:
                verify_net(net, file)
        except CaffeCompatError as error:
            found.append(str(error))
    assert any("/blob cannot be read" in text for text in found)


def test_inputs_are_found_or_asked_for(file: h5py.File) -> None:
    net = filled(NET)
    write_reference(file, net)
    del file["blob/x"]
    with pytest.raises(UsageError, match=r"does not hold input 'x' whole; pass it with --input x=FILE.npy"):
        verify_net(net, file)
    assert verify_net(net, file, {"x": X})[0].passed
    file["bottom/x"] = X
    assert verify_net(net, file)[0].passed
    assert not verify_net(net, file, {"x": X + 1})[0].passed


def test_weights_of_the_reference_are_compared(file: h5py.File) -> None:
    net = filled(NET)
    write_reference(file, net)
    file["param/one/0"] = np.asarray(net.one.weight.detach())
    assert verify_net(net, file)[0].passed
    file["param/one/0"][0, 0] += 1
    (result,) = verify_net(net, file)
    assert [b.name for b in result.blobs if not b.passed] == ["param/one/0"]


def test_batches_carry_state_and_leave_none(file: h5py.File) -> None:
    text = (
        input_layer("x", 3, 2, 4)
        + input_layer("cont", 3, 2)
        + layer("l", "LSTM", "x cont", "h", "recurrent_param { num_output: 5 }")
    )
    net = filled(text)
    rng = np.random.RandomState(4)
    for k in (0, 1, 10, 2):
        x = rng.uniform(-1, 1, (3, 2, 4)).astype(np.float32)
        for name, value in {"x": x, "cont": np.ones((3, 2), np.float32)}.items():
            file[f"batch_{k}/bottom/{name}"] = value
    for k in (0, 1, 2, 10):
        given = {name: file[f"batch_{k}/bottom/{name}"][()] for name in ("x", "cont")}
        file[f"batch_{k}/blob/h"] = net.run(given)["h"].numpy()
    net.run({"x": np.ones((3, 2, 4)), "cont": np.ones((3, 2))})  # what it leaves behind must not count
    results = verify_net(net, file)
    assert [r.name for r in results] == ["batch_0", "batch_1", "batch_2", "batch_10"]
    assert all(r.passed for r in results)
    assert float(net.l.hidden.abs().sum()) == 0


def test_references_without_anything(file: h5py.File) -> None:
    net = filled(NET)
    file["bottom/x"] = X
    assert not verify_net(net, file)[0].passed
    with pytest.raises(CaffeCompatError):
        verify_net(net_of(NET).materialize(), file.create_group("empty"))


def test_references_are_no_pipes_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FileError), open_hdf5(path):
            pass
