"""The .pt: what goes in comes out, nothing in it can run, and damage is told."""

from __future__ import annotations

import doctest
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caffe_compat
from caffe_compat import CaffeNet, NetState
from caffe_compat.errors import CaffeCompatError, FileError, UsageError
from caffe_compat.formats.files import sha256_of
from caffe_compat.formats.sniff import is_checkpoint
from caffe_compat.network import names as names_module
from caffe_compat.network.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from caffe_compat.parity.record import ParityRecord, versions
from tests.networks import filled, input_layer, ip, layer

TEXT = (
    'name: "small" force_backward: true '
    + input_layer("x", 2, 3, 6, 5)
    + layer("a.b", "Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("bn", "BatchNorm", "c", "c")
    + layer("", "ReLU", "c", "c")
    + ip("fc", "c", "y", 2)
    + layer("train", "Dropout", "y", "y", "include { phase: TRAIN }")
)
X = np.random.RandomState(1).uniform(-1, 1, (2, 3, 6, 5)).astype(np.float32)
PARITY = ParityRecord("ref.h5", "ab" * 32, "group", 3, "y", 1e-7, 2e-7, "cpu", "float32 (IEEE)", versions())


@pytest.fixture
def net() -> CaffeNet:
    return filled(TEXT)


# There and back


def test_round_trip(net: CaffeNet, tmp_path: Path, device: torch.device) -> None:
    source = tmp_path / "source"
    source.write_text(TEXT)
    path = tmp_path / "m.pt"
    save_checkpoint(net, path, sources=[source], preprocess={"scale": 2.0}, parity=PARITY)
    assert is_checkpoint(path)
    assert not is_checkpoint(source)
    content = read_checkpoint(path)
    assert content.sources == ({"name": "source", "sha256": sha256_of(source)},)
    assert content.parity == PARITY
    assert content.preprocess == {"scale": 2.0}
    assert content.input_shapes == {"x": (2, 3, 6, 5)}
    assert content.written_by == versions()
    assert (content.dtype, content.dialect, content.state, content.optimized) == ("float32", "bvlc", NetState(), False)
    loaded = load_checkpoint(path).to(device)
    assert not loaded.training
    assert list(loaded.state_dict()) == list(net.state_dict())
    for key, tensor in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key].cpu(), tensor)
    for key, value in net.run({"x": X}, blobs="all").items():
        torch.testing.assert_close(loaded.run({"x": X}, blobs="all")[key].cpu(), value)
    assert str(loaded.message) == str(net.message)


def test_only_plain_data(net: CaffeNet, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "m.pt", parity=PARITY)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert set(content) == {
        *("format", "version", "network", "dialect", "state", "input_shapes", "dtype", "optimized", "state_dict"),
        *("dialect_text", "sources", "preprocess", "parity", "extra", "written_by", "outputs", "ignored", "unfilled"),
        *("guessed", "engine", "choice", "reduced"),
    }
    assert sorted(content["state_dict"])[0] == "a%2Eb.bias"


def test_what_a_program_adds_comes_back(net: CaffeNet, tmp_path: Path, edited: Callable) -> None:
    rows = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    save_checkpoint(net, tmp_path / "m.pt", dtype="float16", extra={"rows": rows, "unit": "mm"})
    extra = read_checkpoint(tmp_path / "m.pt").extra
    assert extra["unit"] == "mm"
    assert isinstance(extra["rows"], torch.Tensor)
    assert extra["rows"].dtype == torch.float64
    assert torch.equal(extra["rows"], rows)
    assert load_checkpoint(tmp_path / "m.pt").run({"x": X})["y"].dtype == torch.float16
    # Files of earlier releases lack the entry; no file brings anything but tensors and strings.
    assert read_checkpoint(edited(dropping("extra"))).extra == {}
    for value in (3, {"a": "b"}, rows.to_sparse(), torch.nn.Parameter(rows)):
        with pytest.raises(FileError, match="rows in extra is no plain tensor"):
            read_checkpoint(edited(setting("extra", to={"rows": value})))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_precisions(dtype: Any, net: CaffeNet, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "m.pt", dtype=dtype)
    save_checkpoint(net, tmp_path / "full.pt")
    assert net.fc.weight.dtype == torch.float32
    loaded = caffe_compat.load(tmp_path / "m.pt")
    assert loaded.fc.weight.dtype == getattr(torch, dtype)
    assert loaded.bn.mean.dtype == torch.float32
    assert torch.equal(loaded.bn.mean, net.bn.mean)
    assert torch.equal(loaded.fc.weight, net.fc.weight.to(getattr(torch, dtype)))
    assert loaded.run({"x": X})["y"].dtype == getattr(torch, dtype)
    assert read_checkpoint(tmp_path / "m.pt").dtype == dtype


def test_weights_that_half_precision_cannot_hold(net: CaffeNet, tmp_path: Path) -> None:
    net.fc.weight.data[0, 0] = -1e5
    with pytest.raises(UsageError, match=r"fc.weight holds 100000, and float16 ends at 65504; use bfloat16"):
        save_checkpoint(net, tmp_path / "m.pt", dtype="float16")
    assert not (tmp_path / "m.pt").exists()
    save_checkpoint(net, tmp_path / "m.pt", dtype="bfloat16")
    net.fc.weight.data[0, 0] = torch.inf  # as infinite as it was
    save_checkpoint(net, tmp_path / "m.pt", dtype="float16")


def test_running_sums_survive_half_precision(tmp_path: Path) -> None:
    net = filled(input_layer("x", 2, 3, 4, 4) + layer("bn", "BatchNorm", "x", "y"))
    for name in ("mean", "variance", "scale_factor"):
        getattr(net.bn, name).fill_(1e6 if name == "variance" else 999.98)
    save_checkpoint(net, tmp_path / "m.pt", dtype="float16")
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = load_checkpoint(tmp_path / "m.pt")(x=x.half())["y"]
    torch.testing.assert_close(found.float(), net(x=x)["y"], rtol=1e-2, atol=1e-2)


def test_state_of_the_definition(tmp_path: Path) -> None:
    save_checkpoint(filled(TEXT, state=NetState("TRAIN", 3, ("s",))), tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt")
    assert loaded.graph.state == NetState("TRAIN", 3, ("s",))
    assert loaded.training
    assert [node.name for node in loaded.graph.computed][-1] == "train"


def test_sharing_survives(tmp_path: Path) -> None:
    text = (
        input_layer("x", 2, 3)
        + ip("one", "x", "a", 4, 'param { name: "w" }')
        + ip("two", "a", "b", 3, 'param { name: "w" share_mode: PERMISSIVE }')
        + layer("bn1", "BatchNorm", "b", "c", 'param { name: "m" } param { name: "v" } param { name: "s" }')
        + layer("bn2", "BatchNorm", "c", "d", 'param { name: "m" } param { name: "v" } param { name: "s" }')
    )
    net = filled(text)
    save_checkpoint(net, tmp_path / "m.pt", dtype="float16")
    loaded = load_checkpoint(tmp_path / "m.pt")
    assert torch.equal(loaded.two.weight, net.one.weight.half().view(3, 4))
    assert loaded.bn1.mean is loaded.bn2.mean


def test_tensors_that_are_slices_are_written_alone(net: CaffeNet, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "plain.pt")
    large = torch.rand(1000, 48)
    net.assign_blob("fc", "weight", large[:2])
    net.assign_blob("fc", "bias", large[:4, 0][::2])
    save_checkpoint(net, tmp_path / "slices.pt")
    assert abs((tmp_path / "slices.pt").stat().st_size - (tmp_path / "plain.pt").stat().st_size) < 2000
    assert torch.equal(load_checkpoint(tmp_path / "slices.pt").fc.bias, large[:4, 0][::2])


def test_what_a_checkpoint_decides_itself(net: CaffeNet, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save_checkpoint(net, path)
    with pytest.raises(UsageError, match=r"holds its own weights; w.caffemodel would be ignored"):
        caffe_compat.load(path, "w.caffemodel")
    with pytest.raises(UsageError, match="converted for phase TEST; train would be ignored"):
        caffe_compat.load(path, phase="train")
    options: list[dict[str, Any]] = [
        {"level": 1},
        {"stages": ["s"]},
        {"dialect": "bvlc"},
        {"input_shapes": {"x": (1, 1)}},
    ]
    for option in options:
        with pytest.raises(UsageError, match=f"its own {next(iter(option))}; .* would be ignored"):
            caffe_compat.load(path, **option)


# Writing


def test_a_failing_write_leaves_nothing(net: CaffeNet, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone: cannot be opened"):
        save_checkpoint(net, tmp_path / "m.pt", sources=[tmp_path / "gone"])
    with pytest.raises(FileError, match="there is no folder"):
        save_checkpoint(net, tmp_path / "no" / "m.pt")
    with pytest.raises(UsageError, match="dtype 'int8': one of float32, float16, bfloat16"):
        save_checkpoint(net, tmp_path / "m.pt", dtype="int8")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_names_that_a_later_release_keeps_for_itself(tmp_path: Path) -> None:
    """A layer may be called what the net calls something since; in an older file it has its plain name."""
    names = ["part", "run", "a.b", "", "ordinary"]
    text = input_layer("x", 2, 3)
    for i, name in enumerate(names):
        text += ip(name, f"t{i - 1}" if i else "x", f"t{i}", 3)
    net = filled(text)
    assert {key.partition(".")[0] for key in net.state_dict()} == {"%part", "%run", "a%2Eb", "%", "ordinary"}
    save_checkpoint(net, tmp_path / "now.pt")
    content = torch.load(tmp_path / "now.pt", weights_only=True)
    x = {"x": torch.rand(2, 3)}
    for old in ({"%part": "part"}, {"%run": "run", "ordinary": "%ordinary"}):
        tensors = {}
        for key, tensor in content["state_dict"].items():
            module, _, blob = key.partition(".")
            tensors[f"{old.get(module, module)}.{blob}"] = tensor
        torch.save({**content, "state_dict": tensors}, tmp_path / "old.pt")
        assert torch.equal(load_checkpoint(tmp_path / "old.pt").run(x)["t4"], net.run(x)["t4"])
    assert doctest.testmod(names_module).failed == 0


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_file(net: CaffeNet, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("old")
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from tests.networks import filled; from tests.network.test_checkpoint import TEXT\n"
        "from caffe_compat import errors\n"
        "from caffe_compat.network import checkpoint; net = filled(TEXT)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: checkpoint.save_checkpoint(net, sys.argv[1])\n"
        "except errors.FileError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.pt"), str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "m.pt: cannot be written" in result.stdout, result.stderr
    assert os.listdir(tmp_path) == ["m.pt"]
    assert (tmp_path / "m.pt").read_text() == "old"


# Reading what is not ours, or not whole


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_code_in_a_file_does_not_run(net: CaffeNet, tmp_path: Path) -> None:
    path, trace = tmp_path / "m.pt", tmp_path / "ran"
    torch.save({"format": "caffe-compat", "version": 1, "state_dict": {}, "network": _Bomb(trace)}, path)
    with pytest.raises(FileError, match=r"m.pt: cannot be read as a .pt of plain tensors"):
        caffe_compat.load(path)
    path.write_bytes(pickle.dumps(_Bomb(trace)))
    with pytest.raises(CaffeCompatError):
        caffe_compat.load(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(FileError, match=r"cannot be read as a .pt of plain tensors"):
        caffe_compat.load(path)
    assert not trace.exists()


@pytest.fixture
def edited(net: CaffeNet, tmp_path: Path) -> Callable[[Callable[[dict], Any]], Path]:
    def edit(change: Callable[[dict], Any]) -> Path:
        path = tmp_path / "m.pt"
        save_checkpoint(net, path, parity=PARITY)
        content = torch.load(path, weights_only=True)
        content = change(content) or content
        torch.save(content, path)
        return path

    return edit


def setting(*keys: str, to: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def dropping(*keys: str) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


BIAS = torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"model": c}, "was not written by caffe-compat convert"),
        (lambda c: [c], "was not written by caffe-compat convert"),
        (setting("format", to="other"), "was not written by caffe-compat convert"),
        (setting("version", to=2), "has format version 2; this release reads version 1"),
        (dropping("version"), "has format version None"),
        *[
            (dropping(key), f"is damaged: entry '{key}' is missing")
            for key in (
                "network",
                "dialect",
                "state",
                "input_shapes",
                "dtype",
                "optimized",
                "state_dict",
                "sources",
                "written_by",
            )
        ],
        (dropping("state", "level"), "is damaged: entry 'level' is missing"),
        (setting("state", "level", to=float("inf")), "is damaged"),
        (setting("state", "phase", to="DEPLOY"), "is damaged: phase 'DEPLOY'"),
        (setting("state", to=None), "is damaged"),
        (setting("dtype", to="int4"), "is damaged: dtype 'int4'"),
        (setting("dtype", to=["float32"]), "is damaged"),
        (setting("network", to=b"layer"), "is damaged: str expected, found bytes"),
        (setting("network", to="layer {"), r"line 1, column \d+: "),
        (setting("network", to=""), "holds no fields"),
        (setting("dialect", to="nobody/nothing"), "nobody/nothing"),
        (setting("optimized", to=1), "is damaged: bool expected, found int"),
        (setting("input_shapes", to={"x": "abcd"}), "is damaged"),
        (setting("input_shapes", to={"y": [1]}), "names 'y', which is no input of the net"),
        (setting("input_shapes", to={"x": [2, 3, -6, 5]}), "negative dimension"),
        (setting("input_shapes", to={"x": [2**31, 2**31]}), "Caffe's limit"),
        (setting("input_shapes", "x", to=BIAS), "entry 'input_shapes': is damaged: list expected, found Tensor"),
        (setting("input_shapes", "x", to=[True]), "is damaged: int expected, found bool"),
        (setting("version", to=BIAS), "has format version tensor"),
        (setting("state", to=BIAS), "entry 'state': is damaged: dict expected, found Tensor"),
        (setting("state", "stages", to="abc"), "entry 'state': is damaged: list expected, found str"),
        (setting("sources", to=BIAS), "is damaged: list expected, found Tensor"),
        (setting("guessed", to=[BIAS]), "entry 'guessed': is damaged: dict expected, found Tensor"),
        (setting("preprocess", to=5), "is damaged: dict expected, found int"),
        (setting("written_by", to=BIAS), "is damaged: str expected, found Tensor"),
        (setting("sources", to=[{"name": "x"}]), "is damaged: entry 'sha256' is missing"),
        (setting("parity", to={"reference": "x"}), "is damaged"),
        (setting("parity", "worst_rel", to="nothing"), "is damaged: float expected, found str"),
        (setting("state_dict", to=None), "is damaged"),
        (setting("state_dict", 3, to=BIAS), "is damaged: str expected, found int"),  # type: ignore[arg-type]
        (setting("state_dict", "fc.bias", to=[0.0, 0.0]), "is damaged: fc.bias in state_dict is no plain tensor"),
        (setting("state_dict", "fc.bias", to=BIAS.to_sparse()), "is damaged: fc.bias in state_dict is no plain tensor"),
        (
            setting("state_dict", "fc.bias", to=torch.nn.Parameter(BIAS)),
            "is damaged: fc.bias in state_dict is no plain tensor",
        ),
        (setting("state_dict", "fc.bias", to=BIAS.to("meta")), "is damaged: fc.bias in state_dict is no plain tensor"),
        (
            setting("state_dict", "fc.bias", to=BIAS.to(torch.float8_e5m2)),
            "fc.bias in state_dict holds torch.float8_e5m2, which is no number",
        ),
        (setting("state_dict", "fc.bias", to=BIAS.to(torch.complex64)), "holds torch.complex64, which is no number"),
        (setting("state_dict", "fc.bias", to=BIAS.double()), "holds torch.float64, torch.float32 was expected"),
        (
            setting("state_dict", "fc.bias", to=BIAS.long()),
            "tensor fc.bias holds torch.int64, its network needs torch.float32",
        ),
        (
            setting("state_dict", "fc.bias", to=torch.zeros(1).expand(2)),
            "the values of fc.bias in state_dict overlap or have gaps",
        ),
        (
            setting("state_dict", "fc.bias", to=torch.zeros(4)[::2]),
            "the values of fc.bias in state_dict overlap or have gaps",
        ),
        (
            setting("state_dict", "fc.bias", to=torch.zeros(2, 1)),
            r"tensor fc.bias has shape \[2, 1\], its network needs \[2\]",
        ),
        (dropping("state_dict", "fc.bias"), "its tensors do not fit its network: lacks fc.bias"),
        (setting("state_dict", "more.w", to=BIAS), "its tensors do not fit its network: has more.w too many"),
    ],
)
def test_damaged_entries(change: Callable[[dict], Any], message: str, edited: Callable) -> None:
    path = edited(change)
    with pytest.raises(CaffeCompatError, match=message) as raised:
        load_checkpoint(path)
    assert len(str(raised.value).splitlines()) == 1


def test_entries_left_alone_load(edited: Callable, net: CaffeNet) -> None:
    assert torch.equal(load_checkpoint(edited(lambda content: None)).fc.weight, net.fc.weight)


def test_archives_that_grow_when_read_are_refused(net: CaffeNet, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "m.pt")
    with (
        zipfile.ZipFile(tmp_path / "m.pt") as stored,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in stored.namelist():
            out.writestr(name, stored.read(name))
    with pytest.raises(FileError, match=r"c.pt: cannot be read as a .pt of plain tensors: its entries are compressed"):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("keep", [0, 1, 4, 30, 500, -200, -30, -1])
def test_truncated(keep: int, net: CaffeNet, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save_checkpoint(net, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"m.pt: "):
        read_checkpoint(path)


def test_flipped_bits_are_noticed(net: CaffeNet, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save_checkpoint(net, path)
    good, rng, refused = path.read_bytes(), random.Random(7), 0
    expected = net.state_dict()
    for _ in range(200):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 4))):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(bad))
        try:
            loaded = load_checkpoint(path)
        except FileError:
            refused += 1
            continue
        # Only what means nothing, padding and time stamps, may differ.
        assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())
    assert refused > 50


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pt", tmp_path):
        for function in (read_checkpoint, caffe_compat.load, is_checkpoint):
            with pytest.raises(FileError):
                function(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        caffe_compat.load(tmp_path / "pipe")
