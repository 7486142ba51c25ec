"""What the benchmark and the check on a GPU count and compare, seen on the CPU."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import check_cuda
import on_cuda
import pytest
import torch
from classics import CLASSICS

from tests.networks import input_layer, layer, net_of

NET = (
    input_layer("data", 2, 3, 5, 7)
    + layer("conv", "Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("relu", "ReLU", "conv", "conv")
    + layer("fc", "InnerProduct", "conv", "fc", "inner_product_param { num_output: 6 bias_term: false }")
    + layer("prob", "Softmax", "fc", "prob")
)
CPU = torch.device("cpu")


def test_the_work_of_a_run() -> None:
    products, moved = on_cuda.work_of(net_of(NET), 4)
    conv, fc = 2 * 3 * 5 * (4 * 3 * 9), 2 * (6 * 4 * 3 * 5)
    assert products == conv + fc
    assert moved == 4 * ((2 * 3 * 5 * 7 + 2 * 4 * 3 * 5 + 4 * 3 * 9 + 4) + (2 * 4 * 3 * 5 + 2 * 6 + 6 * 4 * 3 * 5))


def test_a_roof_is_the_slower_of_two() -> None:
    roof = on_cuda.Roof(products=1e6, bytes=1e3)
    assert roof.milliseconds(2_000_000, 1_000) == 2000
    assert roof.milliseconds(2_000_000, 3_000) == 3000
    found = on_cuda.roof_of(CPU, torch.float32, 64)
    assert found.products > 0
    assert found.bytes > 0


def test_scores_are_compared_before_a_softmax_that_hides_them() -> None:
    assert on_cuda.scoring(net_of(NET)).output_names == ("fc",)


def test_differences_are_of_the_largest_value() -> None:
    expected = {"a": torch.tensor([1.0, -4.0]), "b": torch.zeros(2, 3)}
    found = {"a": torch.tensor([1.0, -3.0]), "b": torch.zeros(3, 3)}
    assert on_cuda.differences(found, expected) == {"a": 0.25, "b": float("inf")}


def test_there_are_the_networks() -> None:
    assert set(on_cuda.NETWORKS) <= set(CLASSICS)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_cuda.device_named(None) == CPU
    assert "there is no CUDA device here" in capsys.readouterr().out


@pytest.mark.slow
def test_the_bundle_is_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (check_cuda.ROOT / ".git").exists():
        pytest.skip("what git tracks is what is packed")
    path = tmp_path / "all.tar.gz"
    check_cuda.bundle(path, small=True)
    with tarfile.open(path) as archive:
        sizes = {entry.name: entry.size for entry in archive}
    assert "scripts/check_cuda.sh" in sizes
    assert "reference_outputs/fork_layers.h5" not in sizes
    assert sum(sizes.values()) < 64 * 2**20
    monkeypatch.setattr(check_cuda, "LARGEST_BUNDLE", 2**20)
    with pytest.raises(SystemExit, match="MiB, and 1 MiB is the most; --small leaves out large reference files"):
        check_cuda.bundle(path, small=False)


def test_a_part_that_fails_is_told_and_without_time_none_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(asked: check_cuda.Asked) -> tuple[check_cuda.Found, bool]:
        monkeypatch.setattr(check_cuda, "SECONDS", -1e9)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def fine(asked: check_cuda.Asked) -> tuple[check_cuda.Found, bool]:
        return {"seen": 1}, True

    out = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["check_cuda.py", str(out), "--device", "cpu"])
    monkeypatch.setattr(check_cuda, "PARTS", {"first": broken, "second": fine})
    assert check_cuda.main() == 1
    told = json.loads(out.read_text())
    assert told["first"] == {"ok": False, "error": "RuntimeError: CUDA error: an illegal memory access was encountered"}
    assert told["second"] == {"ok": True, "seen": 1}
    assert check_cuda.main() == 1  # with no time at all
    assert json.loads(out.read_text())["second"] == {"ok": False, "left out": "no time is left"}
