"""A target driven by atheris, which follows the code that an input reaches and keeps what reaches more.

It runs in one process: what ends that, or raises anything but an error of the library, is written by libFuzzer to a
file ``crash-...`` in the current folder, whose bytes are the input. Damage comes from the target's own mutator and from
libFuzzer in turn.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.target import Target

__all__ = ["fuzz"]


def fuzz(name: str, seconds: float, options: Sequence[str] = ()) -> int:
    """Feed the target for so many seconds; ``options`` are libFuzzer's. The exit status, if atheris returns at all."""
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["caffe_compat", "converters", "hpm"]):
        from tests.fuzz.targets import targets

    every = {target.name: target for target in targets()}
    if name not in every:
        print(f"no target {name}; there are {', '.join(every)}", file=sys.stderr)
        return 2
    target = every[name]
    warnings.simplefilter("ignore")

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        chance = Random(seed)
        return (target.mutate(data, chance) if chance.random() < 0.5 else atheris.Mutate(data, size))[:size]

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for k, seed in enumerate(target.seeds):
            corpus.joinpath(str(k)).write_bytes(seed)
        largest = 4 * max(map(len, target.seeds))
        told = [f"-max_total_time={seconds:.0f}", f"-max_len={largest}", "-rss_limit_mb=4096", "-timeout=60"]
        work = Path(folder, "work")
        atheris.Setup(
            [sys.argv[0], *told, *options, str(corpus)],
            lambda data: read_one(target, data, work),
            custom_mutator=mutated,
        )
        atheris.Fuzz()
    return 0


def read_one(target: Target, content: bytes, folder: Path) -> None:
    """Read an input that lies in ``folder``. Raises what is no error of the library."""
    from caffe_compat.errors import CaffeCompatError

    for name, other in {**target.beside, target.file: content}.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(other)
    try:
        target.read(folder / target.file)
    except CaffeCompatError as error:
        if len(str(error).splitlines()) > 1:
            raise ValueError("the error has several lines") from error
