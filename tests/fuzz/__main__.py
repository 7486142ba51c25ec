"""Feed every reader with damaged files: ``python -m tests.fuzz 60`` (seconds), or ``--inputs 1000`` of each.

The inputs are numbered, and a number is always the same input: ``--first`` goes on elsewhere, ``--one TARGET NUMBER``
writes one to a file. The exit status is 1 if anything but a clean error or a sound result came of one.

``--atheris TARGET`` lets atheris choose the damage by what the code does, if it is installed (``pip install atheris``):
see tests/fuzz/guided.py. It runs for as many seconds; what is behind ``--`` is for libFuzzer.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=30.0, help="for all targets together")
    parser.add_argument("--inputs", type=int, help="of each target, however long it takes")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", action="append", help="a target; may be repeated")
    parser.add_argument("--atheris", metavar="TARGET", help="let atheris choose the damage to one target's files")
    parser.add_argument("--one", nargs=3, metavar=("TARGET", "NUMBER", "FILE"), help="write an input and end")
    arguments, more = parser.parse_known_args()
    if more and not arguments.atheris:
        parser.error(f"no such option: {more[0]}")
    if arguments.atheris:
        from tests.fuzz.guided import fuzz  # before anything that it is to follow is imported

        return fuzz(arguments.atheris, arguments.seconds, [option for option in more if option != "--"])
    from tests.fuzz.server import content_of, run
    from tests.fuzz.targets import targets

    every = {target.name: target for target in targets()}
    if arguments.one:
        name, number, file = arguments.one
        Path(file).write_bytes(content_of(every[name], int(number)))
        return 0
    chosen = [every[name] for name in arguments.only or every]
    bad = total = 0
    for target in chosen:
        share = arguments.seconds / len(chosen)
        began = time.monotonic()
        deadline = None if arguments.inputs else began + share
        found = run(target, arguments.first, arguments.inputs or 10**9, deadline)
        count = sum(found.counts.values())
        total, bad = total + count, bad + len(found.bad)
        said = ", ".join(f"{number:,} {what}" for what, number in sorted(found.counts.items()))
        print(f"{target.name:16} {count:7,} in {time.monotonic() - began:5.1f} s: {said}", flush=True)
        for name, number, what in found.bad:
            print(f"  --one {name} {number} FILE: {what}", flush=True)
    print(f"{total:,} inputs, {bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
