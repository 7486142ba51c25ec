"""Optimize a sample of the networks of a folder, in every engine, and see that numbers stay and that none is slower.

    python scripts/sweep_optimize.py FOLDER --count 20

Networks are taken in an order drawn from --seed until --count of them were built, as scripts/sample_exports.py takes
them, with drawn weights. For each, what ``optimize()`` gives in torch, in every engine that is installed and in the one
that ``auto`` takes is compared with the net, to 1e-5 of the largest value of each output; and the forms of torch and of
``auto`` are timed next to the net, by turns. The exit status is 1 if an output is off, or if what ``auto`` takes is
slower than the net with the whole spread of the ratios (half of them) below 1. An engine that cannot have a net is
listed, and no failure.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from sample_exports import fill, small
from torch import Tensor

from caffe_compat import CaffeCompatError, CaffeNet
from caffe_compat.errors import ParityError, first_line
from caffe_compat.inference.choosing import TOLERANCE
from caffe_compat.inference.engines import TORCH, engines
from caffe_compat.network.definition import read_definition
from caffe_compat.network.running import ProgramNet
from caffe_compat.parity.compare import compare
from converters.samples import sample_inputs

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from peers import Spread, by_turns, drop

AUTO = "auto"
# Networks of less than this say more of the clock than of themselves: seconds of a run.
_TOO_SHORT = 2e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with prototxt files, searched with its folders")
    parser.add_argument("--list", type=Path, help="a file with the beginnings of the names to take, one a line")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", type=float, default=100, help="pass by networks of more million weights")
    parser.add_argument("--seconds", type=float, default=2, help="of timing each form")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder} is no folder")
    paths = sorted(arguments.folder.rglob("*.prototxt"))
    if arguments.list is not None:
        paths = [path for path in paths if path.name.startswith(tuple(arguments.list.read_text().split()))]
    random.Random(arguments.seed).shuffle(paths)
    counts: Counter[str] = Counter()
    for path in paths:
        if counts["networks"] >= arguments.count:
            break
        try:
            net = drawn(path, arguments.largest * 1e6)
        except CaffeCompatError:
            net = None
        counts["networks" if net is not None else "passed by"] += 1
        for engine, kind, told in swept(net, arguments.seconds) if net is not None else ():
            counts[kind] += 1
            print(f"{kind:>7} {path.name} {engine}: {told}", flush=True)
    print(", ".join(f"{kind}: {count}" for kind, count in counts.items()) or "no prototxt files")
    return int(bool(counts["off"] + counts["slower"] + counts["failed"]) or not counts["networks"])


def drawn(path: Path, largest: float) -> CaffeNet | None:
    """The network with drawn weights, or None if it has more than ``largest`` of them.

    Raises:
        CaffeCompatError: it cannot be built.
    """
    net = small(read_definition(path))
    if sum(tensor.numel() for tensor in net.state_dict().values()) > largest:
        return None
    net.materialize(0)
    fill(net)
    return net.eval()


def swept(net: CaffeNet, seconds: float) -> Iterator[tuple[str, str, str]]:
    """For every engine its name, ``equal``, ``off``, ``slower``, ``refused`` or ``failed``, and what was found."""
    inputs = {name: torch.from_numpy(x) for name, x in sample_inputs(net).items()}
    try:
        expected = fresh(net, inputs)
    except CaffeCompatError as error:
        yield "the net", "failed", str(error)
        return
    for engine in (TORCH, *engines(), AUTO):
        try:
            form = net.optimize(engine=engine)
            found = fresh(form, inputs)
        except ParityError as error:
            yield engine, "off", first_line(error)
            continue
        except CaffeCompatError as error:
            yield engine, "failed" if engine in (TORCH, AUTO) else "refused", first_line(error)
            continue
        results = [compare(name, found.get(name), x.numpy(), TOLERANCE) for name, x in expected.items()]
        bad = next((result for result in results if not result.passed), None)
        if bad is not None:
            yield engine, "off", f"{bad.name}: {bad.problem or f'by {bad.max_rel:.1e} of the largest value'}"
            continue
        told = f"off by at most {max((float(result.max_rel) for result in results), default=0.0):.1e}"
        if engine in (TORCH, AUTO):
            kind, ratio = speed(net, form, inputs, seconds)
            taken = f" in {form.engine}" if engine == AUTO else ""
            # Where torch's form is slower, auto has to take another.
            yield engine, kind if engine == AUTO else "equal", f"{told}, {ratio} times as fast{taken}"
        else:
            yield engine, "equal", told


def speed(net: CaffeNet, form: ProgramNet, inputs: Mapping[str, Tensor], seconds: float) -> tuple[str, Spread]:
    """``equal``, or ``slower`` where the whole spread is, and how many times as fast as the net ``form`` is."""
    with torch.no_grad():
        took = by_turns({"net": runs(net, inputs), "form": runs(form, inputs)}, seconds, (5, 100))
    ratio = Spread.of([plain / ours for plain, ours in zip(took["net"], took["form"], strict=True)])
    slower = ratio.upper < 1 and Spread.of(took["net"]).median > _TOO_SHORT
    return "slower" if slower else "equal", ratio


def runs(net: ProgramNet, inputs: Mapping[str, Tensor]) -> Callable[[], None]:
    return lambda: drop(net(**inputs))


def fresh(net: ProgramNet, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a run that carries nothing over from another."""
    net.reset_state()
    with torch.no_grad():
        return net(**inputs)


if __name__ == "__main__":
    sys.exit(main())
