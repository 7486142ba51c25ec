"""How fast the inference form is on a GPU, next to the same layers run one by one, and to what the card could do.

    python benchmarks/on_cuda.py [--device cuda] [--only NAME] [--batch 1 --batch 32] [--dtype float32 --dtype bfloat16]
                                 [--seconds 1] [--json FILE]

The trunk of the pose network, ResNet-50, GoogLeNet and SSD-300, in IEEE float32 and in bfloat16: milliseconds of a run,
medians by turns, the ratio with the spread of half of the runs, and images a second. The roof is what one run would
take if the card did nothing but multiply at the speed of its fastest matrix product, or move weights, inputs and
outputs of layers once at the speed of its fastest copy, whichever takes longer; both speeds are measured here.
``MISS`` is said only where the target lies outside of the spread. Without a GPU it says so and runs on the CPU, where
no number means anything. (It is not called ``cuda.py``, for that is what NVIDIA calls a package that torch imports.)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from classics import CLASSICS, net_of
from peers import Spread
from torch import Tensor

import caffe_compat
from caffe_compat.errors import first_line
from caffe_compat.inference.processor import processor
from caffe_compat.network.net import CaffeNet
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.reports.cost import multiply_accumulates
from converters.samples import sample_inputs

__all__ = ["NETWORKS", "Roof", "Row", "measured", "roof_of", "rows", "table"]

NETWORKS = ("trunk", "resnet50", "googlenet", "ssd300")
BATCHES = (1, 32)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# How many times as fast as layer by layer: for one image, and for more.
TARGET_SINGLE, TARGET_BATCH = 1.5, 1.0
# How far the form may be off in float32, of the largest value: rounding in another order. In half precision boxes and
# classes that are close change places, so what it is off by is only told.
BOUND = 1e-4


@dataclass(frozen=True)
class Roof:
    """What a device does at best: multiply-accumulates and bytes a second."""

    products: float
    bytes: float

    def milliseconds(self, products: int, moved: int) -> float:
        return max(products / self.products, moved / self.bytes) * 1e3


@dataclass(frozen=True)
class Row:
    """A network at a batch, in a precision.

    Attributes:
        plain, form: milliseconds, medians. ratio: plain / form of runs by turns. images: a second, by the form.
        roof: milliseconds. off: of the output that is off most, relative to its largest value.
    """

    network: str
    dtype: str
    batch: int
    plain: float
    form: float
    ratio: Spread
    images: float
    roof: float
    off: float
    verdict: str
    passes: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"| {self.network} | {self.dtype} | {self.batch} | {self.plain:.3f} | {self.form:.3f} | {self.ratio} "
            f"| {self.images:.0f} | {self.roof:.3f} | {self.roof / self.form:.0%} | {self.off:.1e} | {self.verdict} |"
        )


HEAD = "| network | dtype | batch | layer by layer, ms | optimize(), ms | ratio | images/s | roof, ms | of it | off | |"


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long ``run`` takes until the device has done its work."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def by_turns(runs: dict[str, Callable[[], object]], seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each run by turns, after rounds that warm up and record; at least 5, for about ``seconds``."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(3):
        for run in runs.values():
            run()
    begin = time.perf_counter()
    while len(next(iter(took.values()))) < 5 or time.perf_counter() - begin < seconds:
        for name, run in runs.items():
            took[name].append(seconds_of(run, device))
    return took


def roof_of(device: torch.device, dtype: torch.dtype, size: int = 8192) -> Roof:
    """By the best of some products of square matrices, and of some copies of 64 of them."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    a @ b  # warms up
    product = min(seconds_of(lambda: a @ b, device) for _ in range(5))
    there = torch.empty(max(size * size // 4, 1), 16, device=device, dtype=dtype)
    here = torch.zeros_like(there)
    copied = min(seconds_of(lambda: there.copy_(here), device) for _ in range(5))
    return Roof(size**3 / product, 2 * there.nbytes / copied)


def work_of(net: CaffeNet, itemsize: int) -> tuple[int, int]:
    """Multiply-accumulates of a run, and bytes that have to move: weights, and what every layer reads and makes.

    Layers that run as part of the one before them move nothing by themselves, so only those with weights count.
    """
    products = moved = 0
    for step in net.program.steps:
        module = net.get_submodule(step.module)
        bottoms, tops = ([net.shapes[v] for v in values] for values in (step.bottoms, step.tops))
        found = multiply_accumulates(module, bottoms, tops)
        if found:
            products += found
            numbers = sum(torch.Size(shape).numel() for shape in (*bottoms, *tops))
            moved += itemsize * (numbers + sum(p.numel() for p in module.parameters()))
    return products, moved


def rows(
    names: tuple[str, ...], batches: tuple[int, ...], dtypes: tuple[str, ...], device: torch.device, seconds: float
) -> Iterator[Row | str]:
    """A row for each, or a line that says what failed."""
    size = 8192 if device.type == "cuda" else 256
    for dtype in dtypes:
        with ExitStack() as stack:
            if dtype == "float32":
                stack.enter_context(ieee_float32())
            roof = roof_of(device, DTYPES[dtype], size)
            for name in names:
                for batch in batches:
                    try:
                        yield measured(name, batch, dtype, device, roof, seconds)
                    except Exception as error:  # one that fails is a line, whatever it was
                        yield f"FAIL {name} {dtype} x{batch}: {type(error).__name__}: {first_line(error)}"


def measured(name: str, batch: int, dtype: str, device: torch.device, roof: Roof, seconds: float) -> Row:
    """One row of the table."""
    single = net_of(CLASSICS[name], batch)
    given = {blob: torch.from_numpy(x) for blob, x in sample_inputs(single).items()}
    net = scoring(single).to(device, DTYPES[dtype]).requires_grad_(False)
    inputs = {blob: x.to(device, DTYPES[dtype]) for blob, x in given.items()}
    form = net.optimize()
    with torch.no_grad():
        off = max(differences(form(**inputs), net(**inputs)).values())
        took = by_turns({"plain": lambda: net(**inputs), "form": lambda: form(**inputs)}, seconds, device)
    ratio = Spread.of([plain / ours for plain, ours in zip(took["plain"], took["form"], strict=True)])
    middle = statistics.median(took["form"])
    target = TARGET_SINGLE if batch == 1 else TARGET_BATCH
    return Row(
        *(name, dtype, batch, statistics.median(took["plain"]) * 1e3, middle * 1e3, ratio, batch / middle),
        roof=roof.milliseconds(*work_of(net, DTYPES[dtype].itemsize)),
        off=off,
        verdict="OFF" if dtype == "float32" and off > BOUND else ratio.reaches(target),
        passes=tuple(map(str, form.passes)),
        notes=tuple(form.notes),
    )


def scoring(net: CaffeNet) -> CaffeNet:
    """``net`` up to its scores: a softmax of drawn weights says 1 of one class, whatever goes wrong before it."""
    before = {node.tops[0]: node.bottoms[0] for node in net.program.nodes() if node.type == "Softmax"}
    return net.part([net.graph.blobs[before.get(value, value)] for value in net.program.outputs])


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """By output, how far ``found`` is off, relative to the largest value; infinite where shapes differ."""
    off = {}
    for blob, reference in expected.items():
        x = found[blob]
        if x.shape != reference.shape:
            off[blob] = float("inf")
            continue
        largest = float(reference.float().abs().max()) or 1.0
        off[blob] = float((x.float() - reference.float()).abs().max()) / largest
    return off


def table(
    names: tuple[str, ...],
    batches: tuple[int, ...],
    dtypes: tuple[str, ...],
    device: torch.device,
    seconds: float,
    until: float = float("inf"),
) -> tuple[list[dict[str, object]], bool]:
    """Print the table; its rows as plain data, and whether no target was missed.

    Args:
        seconds: of measuring a row. until: the time (``time.monotonic``) after which no further row begins.
    """
    print(f"{name_of(device)}, torch {torch.__version__}")
    print(HEAD + "\n" + "|---" * HEAD.count(" | ") + "|---|", flush=True)
    told: list[dict[str, object]] = []
    good = True
    for row in rows(names, batches, dtypes, device, seconds):
        print(row, flush=True)
        told.append({"failed": row} if isinstance(row, str) else asdict(row))
        good &= not isinstance(row, str) and row.verdict not in ("MISS", "OFF")
        if time.monotonic() > until:
            print("left out: the other rows; no time is left")
            break
    return told, good


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def device_named(name: str | None) -> torch.device:
    """The device that was asked for; the GPU by default, or the CPU with a line that says so."""
    if name is not None:
        return torch.device(name)
    if not torch.cuda.is_available():
        print("there is no CUDA device here: everything runs on the CPU, where no number means anything", flush=True)
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", metavar="NAME", help="default: cuda, or cpu where there is none")
    parser.add_argument("--only", action="append", default=[], choices=NETWORKS, metavar="NAME")
    parser.add_argument("--batch", action="append", type=int, default=[], metavar="NUMBER")
    parser.add_argument("--dtype", action="append", default=[], choices=DTYPES)
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring a row, about")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore", caffe_compat.CaffeCompatWarning)
    told, good = table(
        tuple(options.only) or NETWORKS,
        tuple(options.batch) or BATCHES,
        tuple(options.dtype) or ("float32", "bfloat16"),
        device_named(options.device),
        options.seconds,
    )
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
