"""See on a machine with a GPU what can only be seen there, in under 4 minutes, and write it down as one JSON file.

    scripts/check_cuda.sh [RESULT.json] [--device NAME] [--only PART] [--tests FILE ...] [--networks NAME ...]
    scripts/check_cuda.sh --bundle FILE.tar.gz [--small]

Parts, in this order: ``cases`` (every stored case of real Caffe and its forks, in IEEE float32), ``rank`` (one rank of
a group of processes, NCCL on a GPU: gradients as without it), ``precision`` (a net in half precision and in bfloat16),
``optimize`` (inference forms: fused, channels last, recorded as CUDA graphs, in bfloat16 inside), ``benchmark``
(benchmarks/on_cuda.py) and ``tests`` (those that run on every device, on this one). A part for which no time is left is
named as left out, and so are tests and cases whose files were left out of the bundle. The exit status is 1 if a number
is off, a test fails or a part ends with an error; a slow row is told and no failure.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import on_cuda
import torch
import torch.distributed as dist
from classics import CLASSICS, net_of
from torch import Tensor

import caffe_compat
from caffe_compat.errors import CaffeCompatError, first_line
from caffe_compat.inference.fused import Fused
from caffe_compat.inference.optimization import FusedNet
from caffe_compat.network.net import CaffeNet
from caffe_compat.parity.cases import run_cases
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.training.parallel import ParallelNet, gather
from converters.samples import sample_inputs

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "reference_outputs"
CASE_FILES = (
    *("bvlc_layers.h5", "ssl3d_layers.h5", "fork_layers.h5"),
    *("fork_layers_first.h5", "fork_layers_segnet_lstm.h5", "fork_layers_yolo.h5"),
)
# The cases are a part of their own.
CASE_TESTS = ("test_reference_cases.py", "test_fork_cases.py")
LARGEST_BUNDLE, LARGEST_IN_SMALL = 64 * 2**20, 2**20
SECONDS = 230.0  # for all of it
# How far half precision may be off, of the largest value, after fifty layers.
HALF_BOUNDS = {torch.float16: 2e-2, torch.bfloat16: 0.1}

Found: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Asked:
    """What the parts go by. ``until`` is the time at which all has to be over."""

    device: torch.device
    tests: tuple[str, ...]
    networks: tuple[str, ...]
    batches: tuple[int, ...]
    until: float

    @property
    def left(self) -> float:
        return self.until - time.monotonic()


def cases(asked: Asked) -> tuple[Found, bool]:
    """Every stored case; what forks' cases depart in on purpose is in a table beside their test."""
    table = json.loads((ROOT / "tests/parity/fork_cases.json").read_text(encoding="utf-8"))
    refused = {case for named in table["refused"].values() for case in named}
    counts: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for name in CASE_FILES:
        if not (REFERENCE / name).exists():
            counts[name] = "left out"
            continue
        results = list(run_cases(REFERENCE / name, device=asked.device))
        counts[name] = str(len(results))
        for result in results:
            failed = sorted(blob.name for blob in result.blobs if not blob.passed)
            expected = sorted(table["deviations"].get(result.name, {}).get("arrays", []))
            if failed != expected or bool(result.unsupported) != (result.name in refused):
                wrong[result.name] = result.unsupported or ", ".join(failed) or "is equal, and should not be"
    return {"cases": counts, "wrong": wrong}, not wrong


def rank(asked: Asked) -> tuple[Found, bool]:
    """Gradients of a net in a group of one, which every byte of a larger one goes through, and without it."""
    backend = "nccl" if asked.device.type == "cuda" else "gloo"
    net = net_of(CLASSICS["squeezenet"], 2, 67).to(asked.device)
    x = _drawn(net, asked.device)

    def gradients(model: torch.nn.Module) -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        loss, _ = model({"data": x["data"]})
        loss.backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    with tempfile.TemporaryDirectory() as folder, ieee_float32():
        alone = gradients(_Loss(net))
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            together = gradients(ParallelNet(_Loss(net)))
            gathered = gather("here")
        finally:
            dist.destroy_process_group()
    equal = len(alone) == len(together) and all(map(torch.equal, alone, together))
    found: Found = {"backend": backend, "gradients": len(alone), "equal": equal, "gathered": gathered}
    return found, equal and bool(alone) and gathered == ["here"]


class _Loss(torch.nn.Module):
    """A net with a loss of its first output, as a solver's model is called."""

    def __init__(self, net: CaffeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        values = self.net.values(inputs)
        (out,) = (values[v] for v in self.net.program.outputs)
        assert out is not None
        return out.square().sum(), values


def precision(asked: Asked) -> tuple[Found, bool]:
    """A net cast to half precision, and its inference form, next to the net in IEEE float32."""
    net = on_cuda.scoring(net_of(CLASSICS["resnet50"], 1, 97)).to(asked.device).requires_grad_(False)
    x = _drawn(net, asked.device)
    with ieee_float32(), torch.no_grad():
        expected = net(**x)
    found: Found = {}
    good = True
    for dtype, bound in HALF_BOUNDS.items():
        cast = copy.deepcopy(net).to(dtype)
        given = {name: a.to(dtype) for name, a in x.items()}
        form = cast.optimize()
        off = [_off(f(**given), expected) for f in (cast, form, form)]  # the second run of a form plays back
        fused = sum(module.in_cudnn for module in form.modules() if isinstance(module, Fused))
        found[str(dtype)] = {"net": off[0], "optimize()": off[1:], "convolutions with cuDNN's fused kernels": fused}
        good &= max(off) <= bound
    return found, good


def optimize(asked: Asked) -> tuple[Found, bool]:
    """Inference forms next to their nets: the first run, which records, later ones, other batches, after a move."""
    found: Found = {}
    good = True
    for name in asked.networks:
        net = on_cuda.scoring(net_of(CLASSICS[name])).to(asked.device).requires_grad_(False)
        other = net_of(CLASSICS[name], 3, weights=False)
        with ieee_float32(), torch.no_grad():
            form = net.optimize()
            assert isinstance(form, FusedNet)
            off = []
            for shape in (net, other, net):
                x = _drawn(net, asked.device, shape)
                off.append(_off(form(**x), net(**x)))
            kept = form(**x)
            before = {blob: y.clone() for blob, y in kept.items()}
            form(**{blob: -y for blob, y in x.items()})
            stays = all(torch.equal(kept[blob], y) for blob, y in before.items())
        told: Found = {"off": off, "outputs stay": stays, "passes": [str(run) for run in form.passes]}
        told["recorded"] = form.recorded
        told["not recorded"] = [note for note in form.notes if note not in net.notes]
        good &= max(off) <= on_cuda.BOUND and stays
        try:
            with torch.no_grad():
                reduced = net.optimize(dtype="bfloat16")
            told["bfloat16 inside"] = str(reduced.reduced)
        except CaffeCompatError as error:
            told["bfloat16 inside"] = f"refused: {error}"
            good &= asked.device.type != "cuda"
        found[name] = told
    return found, good


def benchmark(asked: Asked) -> tuple[Found, bool]:
    """Latency and throughput; a row that misses its target is told, and no failure."""
    told, _ = on_cuda.table(asked.networks, asked.batches, ("float32", "bfloat16"), asked.device, 0.4, asked.until)
    return {"rows": told}, not any("failed" in row or row["verdict"] == "OFF" for row in told)


def tests(asked: Asked) -> tuple[Found, bool]:
    """The tests that take a device, on this one, in as many processes as there are cores (16 at most)."""
    files = asked.tests or tuple(str(path.relative_to(ROOT)) for path in _with_devices())
    missing = [path.name for path in map(ROOT.joinpath, _manifest()) if not path.exists()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-k", asked.device.type, "-p", "no:cacheprovider"]
        command += ["--continue-on-collection-errors", f"--junitxml={report}", *files]
        if not asked.tests:
            command += ["-n", str(min(os.cpu_count() or 1, 16))]
        try:
            subprocess.run(command, cwd=ROOT, timeout=max(asked.left, 10), check=False, stdout=sys.stderr)
        except subprocess.TimeoutExpired:
            return {"left out": f"no end after {asked.left:.0f} s"}, False
        entries = list(ElementTree.parse(report).iter("testcase"))
    failed: dict[str, str] = {}
    left_out = []
    for entry in entries:
        told = " ".join(
            (part.text or "") + part.get("message", "") for part in entry if part.tag in ("failure", "error")
        )
        if told and any(name in told for name in missing):
            left_out.append(f"{entry.get('classname')}::{entry.get('name')}")
        elif told:
            failed[f"{entry.get('classname')}::{entry.get('name')}"] = told[-300:]
    found: Found = {"tests": len(entries), "failed": failed, "left out": left_out}
    return found, not failed and len(entries) > 0


def _with_devices() -> Iterator[Path]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path.name not in CASE_TESTS and "device: torch.device" in path.read_text(encoding="utf-8"):
            yield path


def _manifest() -> list[str]:
    named: dict[str, str] = json.loads((REFERENCE / "manifest.json").read_text(encoding="utf-8"))
    return [f"reference_outputs/{name}" for name in named]


def _drawn(net: CaffeNet, device: torch.device, shapes: CaffeNet | None = None) -> dict[str, Tensor]:
    given = sample_inputs(net, None if shapes is None else shapes.input_shapes)
    return {name: torch.from_numpy(x).to(device) for name, x in given.items()}


def _off(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(on_cuda.differences(found, expected).values())


PARTS: dict[str, Callable[[Asked], tuple[Found, bool]]] = {
    each.__name__: each for each in (cases, rank, precision, optimize, benchmark, tests)
}


def bundle(path: Path, small: bool) -> None:
    """Pack what git tracks, and what it does not ignore. Exits with a message where that is too large."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    sizes = {name: (ROOT / name).stat().st_size for name in names}
    left_out = [n for n in names if small and n.startswith("reference_outputs/") and sizes[n] > LARGEST_IN_SMALL]
    total = sum(sizes.values()) - sum(sizes[name] for name in left_out)
    if total > LARGEST_BUNDLE:
        hint = "" if small else "; --small leaves out large reference files"
        sys.exit(f"{total / 2**20:.1f} MiB, and {LARGEST_BUNDLE / 2**20:.0f} MiB is the most{hint}")
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            if name not in left_out:
                archive.add(ROOT / name, name)
    print(f"{path}: {len(names) - len(left_out)} files, {total / 2**20:.1f} MiB unpacked, left out: {len(left_out)}")


def surroundings(device: torch.device) -> Found:
    on_gpu = device.type == "cuda"
    return {
        "device": on_cuda.name_of(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if on_gpu else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", type=Path, default=Path("check_cuda.json"))
    parser.add_argument("--device", metavar="NAME", help="default: cuda, or cpu where there is none")
    parser.add_argument("--only", action="append", default=[], choices=PARTS, metavar="PART")
    parser.add_argument("--tests", nargs="+", default=[], metavar="FILE", help="by default all that take a device")
    parser.add_argument("--networks", nargs="+", default=on_cuda.NETWORKS, choices=on_cuda.NETWORKS, metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=on_cuda.BATCHES, metavar="NUMBER")
    parser.add_argument("--bundle", type=Path, metavar="FILE.tar.gz")
    parser.add_argument("--small", action="store_true", help="with --bundle: without large reference files")
    options = parser.parse_args()
    if options.bundle is not None:
        bundle(options.bundle, options.small)
        return 0
    warnings.simplefilter("ignore", caffe_compat.CaffeCompatWarning)
    began = time.monotonic()
    device = on_cuda.device_named(options.device)
    lists = (tuple(options.tests), tuple(options.networks), tuple(options.batches))
    asked = Asked(device, *lists, until=began + SECONDS)
    told: Found = surroundings(device)
    good = True
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        found: Found
        if asked.left < 5:
            found, fine = {"left out": "no time is left"}, False
        else:
            try:
                found, fine = part(asked)
            except Exception as error:  # one that fails is told, and the others run
                found, fine = {"error": f"{type(error).__name__}: {first_line(error)}"}, False
        told[name] = {"ok": fine, **found}
        good &= fine
        print(f"{'ok  ' if fine else 'FAIL'} {name}, after {time.monotonic() - began:.0f} s", flush=True)
        # Written after each part, so that what was seen is there if the machine goes away.
        told["seconds"] = round(time.monotonic() - began, 1)
        options.result.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
