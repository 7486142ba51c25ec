"""``caffe-compat extract``."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import UsageError, located
from ..extraction import BadRow, find_images
from ..extraction import extract as extract_rows
from ..formats.sniff import is_checkpoint
from ..inference.preprocess import Preprocess
from ..network.checkpoint import read_checkpoint
from ..network.loading import load
from .groups import network_options
from .options import device_option, note, parse_device, say

__all__ = ["extract"]

_SHOWN_BAD = 20
_EVERY = 10.0  # seconds between lines of progress where there is no terminal


@click.command("extract")
@click.argument("model", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option("--images", required=True, type=click.Path(), help="A folder, a list of files, an LMDB or a LevelDB.")
@click.option("--blobs", default="", metavar="A,B", help="Which blobs; the outputs if not given.")
@click.option("-o", "--output", required=True, type=click.Path(), help="Ends in .h5, .npy, .parquet or .lmdb.")
@click.option(
    "--preprocess", help="How pixels become input, e.g. order=bgr,mean=104:117:123,scale=1,resize=256x256,crop=224."
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Images at once.")
@click.option(
    "--shard", type=click.IntRange(1), default=1024, show_default=True, help="Images between two safe points."
)
@click.option(
    "--workers", type=click.IntRange(0), help="Processes that decode; one for each core but one if not given."
)
@click.option("--half", is_flag=True, help="Keep the features as float16.")
@click.option("--strict", is_flag=True, help="An image that cannot be read is an error.")
@click.option("--no-optimize", is_flag=True, help="Run the net as it is, not its inference form.")
@click.option("--ray", is_flag=False, flag_value="", metavar="[ADDRESS]", help="On a Ray cluster, or a local Ray.")
@network_options
@device_option
def extract(
    model: str,
    weights: str | None,
    images: str,
    blobs: str,
    output: str,
    preprocess: str | None,
    batch: int,
    shard: int,
    workers: int | None,
    half: bool,
    strict: bool,
    no_optimize: bool,
    ray: str | None,
    network: dict[str, Any],
    device: str,
) -> None:
    """Write blobs of MODEL (a .pt, or a prototxt and its WEIGHTS) for any number of images, resumably.

    Killed at any moment and started again, it goes on where it was.
    """
    net = load(model, weights, **network, seed=0).to(parse_device(device))
    told = _BadRows()
    with _Shown() as shown:
        done = extract_rows(
            net,
            find_images(images),
            output,
            preprocess=_preprocess(preprocess, model),
            blobs=[name for name in blobs.split(",") if name] or None,
            batch=batch,
            shard=shard,
            dtype=_kept(half),
            optimized=not no_optimize,
            workers=workers,
            strict=strict,
            ray=ray,
            on_bad=told.take,
            on_progress=shown.update,
        )
    before = f", {done.found} of them from a run before" if done.found else ""
    say(f"wrote {output}: {done.count} rows{before}")
    if done.bad:
        say(f"{len(done.bad)} images have none: {output}.bad.txt")


def _kept(half: bool) -> Literal["float16", "float32"]:
    return "float16" if half else "float32"


def _preprocess(text: str | None, model: str) -> Preprocess:
    if text:
        return Preprocess.from_text(text)
    record = read_checkpoint(model).preprocess if is_checkpoint(model) else None
    if not record:
        raise UsageError(
            "say how pixels become input: --preprocess order=bgr,mean=104:117:123,resize=256x256,crop=224 (order=bgr "
            "alone gives raw pixels, 0 to 255)"
        )
    with located(path=model):
        return Preprocess.from_record(record)


class _BadRows:
    """Says which images have no features; of very many, the first."""

    def __init__(self) -> None:
        self._count = 0

    def take(self, bad: BadRow) -> None:
        self._count += 1
        if self._count <= _SHOWN_BAD:
            note(f"left out: {bad.id} {bad.reason}")
        elif self._count == _SHOWN_BAD + 1:
            note("left out: more of them")


class _Shown:
    """Progress with its rate and the time left: a bar on a terminal, else a line now and then, on stderr."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=None, rate="")
        self._start, self._first, self._told = time.monotonic(), -1, time.monotonic()

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._start, self._first, self._told = now, done, now
        rate = (done - self._first) / (now - self._start) if now > self._start else 0.0
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f} images/s")
        elif now - self._told >= _EVERY and rate > 0:
            self._told = now
            note(f"{done} of {total} images, {rate:.1f} a second, {(total - done) / rate:.0f} s left")

    def __enter__(self) -> _Shown:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
