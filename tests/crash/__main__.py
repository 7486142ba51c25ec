"""Kill everything that writes, again and again: ``python -m tests.crash --kills 200``.

The kills are divided among the jobs; ``--only`` chooses one. The exit status is 1 if a file was ever neither old nor
new, if a run that went on ended otherwise than one left in peace, or if something temporary stayed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch

from tests.crash.checking import check
from tests.crash.jobs import jobs


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all jobs together")
    parser.add_argument("--only", action="append", help="a job; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = {job.name: job for job in jobs()}
    chosen = [every[name] for name in arguments.only or every]
    total: Counter[str] = Counter()
    bad = 0
    for job in chosen:
        began = time.monotonic()
        outcome = check(job, -(-arguments.kills // len(chosen)), arguments.seed)
        total += outcome.counts
        bad += len(outcome.bad)
        said = ", ".join(f"{what} {number}" for what, number in sorted(outcome.counts.items()))
        print(f"{job.name:14} {time.monotonic() - began:6.1f} s: {said}", flush=True)
        for what in outcome.bad:
            print(f"  {what}", flush=True)
    print(f"{sum(n for what, n in total.items() if what.startswith('killed'))} kills, {bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run())
