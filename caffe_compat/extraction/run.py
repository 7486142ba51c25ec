"""An extraction from its images to its file: what is done is found, the rest is computed, all is put together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..errors import FileError, UsageError
from ..formats.files import atomic_write
from ..inference.optimization import optimize
from ..inference.preprocess import Preprocess
from ..network.net import CaffeNet
from ..network.running import ProgramNet
from ..training.data.loader import Loader
from .cluster import shards_on_ray
from .images import ImageRows
from .outputs import Layout, check_output, write_output
from .shards import BadRow, Shard, ShardStore, has_shards
from .work import Work

__all__ = ["Extracted", "extract"]


@dataclass(frozen=True)
class Extracted:
    """How many rows were written, how many of them were there before this run, and which images have none."""

    count: int
    found: int
    bad: tuple[BadRow, ...]


def extract(
    net: CaffeNet,
    images: ImageRows,
    output: str | os.PathLike[str],
    *,
    preprocess: Preprocess,
    blobs: Sequence[str] | None = None,
    batch: int = 32,
    shard: int = 1024,
    dtype: Literal["float32", "float16"] = "float32",
    optimized: bool = True,
    workers: int | None = None,
    strict: bool = False,
    ray: str | None = None,
    on_bad: Callable[[BadRow], None] = lambda bad: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Extracted:
    """Write the blobs of all images to ``output``, in their order.

    What is done lies in the folder ``<output>.parts`` until all is: a run that was killed at any moment goes on there,
    loses nothing and repeats nothing but the shards it was at. The file is the same, byte for byte, however often that
    happened and however many workers there are, as long as each net runs on as many threads.

    Args:
        net: of phase TEST, with one input of images; on the device and in the precision that it is to run in.
        output: ends in ``.h5``, ``.npy``, ``.parquet`` or ``.lmdb``, see :mod:`.outputs`.
        blobs: names; by default the net's outputs. batch: images that run at once. shard: images of a shard, rounded up
            to whole batches. dtype: of the features. optimized: in the inference form of the net.
        workers: processes that decode; None takes one for each core but one, 0 decodes in this one. Not for ``ray``.
        strict: an image that cannot be read is an error. Else it has no row in the output, and is listed in
            ``<output>.bad.txt``.
        ray: compute on Ray: the address of a cluster, or ``""`` for this machine.
        on_bad: told of every image without features. on_progress: told how many rows are done, of how many.

    Raises:
        UsageError: a net, blobs, or an output that cannot be; the parts of another job. FileError: nothing can be read
            or written; an image, if ``strict``. MissingExtraError.
    """
    path = os.fspath(output)
    kept = np.dtype(dtype)
    if batch < 1 or shard < 1:
        raise UsageError(f"a batch of {batch} and shards of {shard} images; at least 1 was expected")
    names = list(net.output_names if blobs is None else dict.fromkeys(blobs))
    check_output(path, names, kept)
    piece = _piece(net, names)
    work = Work(optimize(piece) if optimized else piece, images, preprocess, batch, -(-shard // batch), kept)
    job = _job(piece, work, optimized)
    parts = f"{path}.parts"
    finished = os.path.exists(path)  # if it is ours, a run before was killed when only its shards were left to remove
    if finished and not has_shards(parts):
        with suppress(OSError):  # not there, or somebody's own: what such a run leaves in the end is empty
            os.rmdir(parts)
        raise _is_there(path)
    store = ShardStore(parts, job, finished)
    with store:
        for bad in store.bad():
            _tell(bad, strict, on_bad)
        before = store.done
        pending = [] if finished else [number for number in range(work.shards) if number not in before]
        done = sum(_size(work, number) for number in before)
        on_progress(done, len(images))
        source = _local(work, pending, workers) if ray is None else shards_on_ray(ray, work, pending)
        for number, computed in source:
            for bad in computed.bad:
                _tell(bad, strict, on_bad)
            store.add(number, computed)
            done += _size(work, number)
            on_progress(done, len(images))
        found = tuple(store.bad())
        if len(found) == len(images):
            raise FileError(f"none of the {len(images)} images can be read; the first: {found[0].id} {found[0].reason}")
        if not finished:
            if os.path.exists(path):  # another run was through in the meantime
                raise _is_there(path)
            _put_together(path, work, store, found)
        store.remove()
    return Extracted(len(images) - len(found), sum(_size(work, number) for number in before), found)


def _is_there(path: str) -> UsageError:
    return UsageError("is there already; remove it, or choose another name", path=path)


def _piece(net: CaffeNet, blobs: list[str]) -> CaffeNet:
    """The part of the net that the blobs need. Raises UsageError: it is not fed by images alone."""
    piece = net.part(blobs)
    if len(piece.input_names) != 1:
        raise UsageError(f"{', '.join(blobs)} need the inputs {', '.join(piece.input_names)}; images are one input")
    ((name, shape),) = piece.input_shapes.items()
    if len(shape) != 4:
        raise UsageError(f"the input {name!r} has shape {list(shape)}; images are (N, C, H, W)")
    return piece


def _job(piece: CaffeNet, work: Work, optimized: bool) -> dict[str, str | int]:
    """What two runs have in common if what one left behind is good for the other."""
    return {
        "version": 1,
        "images": _digest(*(name.encode("utf-8", "surrogateescape") for name in work.rows.ids)),
        "number of images": len(work.rows),
        "blobs": ",".join(work.blobs),
        "net": _fingerprint(piece),
        "precision": str(piece.device_and_dtype()[1]),
        "preprocessing": _fingerprint_of(work.preprocess),
        "batch": work.batch,
        "batches of a shard": work.per_shard,
        "dtype": str(work.dtype),
        "optimized": int(optimized),
    }


def _digest(*pieces: bytes) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _fingerprint(net: ProgramNet) -> str:
    digest = hashlib.sha256(net.message.SerializePartialToString())
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fingerprint_of(preprocess: Preprocess) -> str:
    record = preprocess.to_record()
    image = record.pop("mean_image")
    return _digest(repr(sorted(record.items())).encode(), b"" if image is None else image.numpy().tobytes())


def _size(work: Work, shard: int) -> int:
    """How many images a shard is of."""
    whole = work.batch * work.per_shard
    return min(whole, len(work.rows) - shard * whole)


def _tell(bad: BadRow, strict: bool, on_bad: Callable[[BadRow], None]) -> None:
    if strict:
        raise FileError(f"{bad.reason} (row {bad.row}; without --strict it would be left out)", path=bad.id)
    on_bad(bad)


def _local(work: Work, pending: list[int], workers: int | None) -> Iterator[tuple[int, Shard]]:
    """Shards that this process computes, while others decode."""
    batches = [number for shard in pending for number in work.batches(shard)]
    if not batches:
        return
    with Loader([work.reader(batches)], stop=len(batches), workers=workers) as loader:
        for shard in pending:
            yield shard, work.compute(shard, loader)


def _put_together(path: str, work: Work, store: ShardStore, bad: Sequence[BadRow]) -> None:
    blobs = list(work.blobs)
    sample = store.read(0, blobs)
    layout = Layout(
        {blob: sample.arrays[blob].shape[1:] for blob in blobs},
        work.dtype,
        work.rows.ids,
        len(work.rows) - len(bad),
        max(len(name.encode("utf-8", "backslashreplace")) for name in work.rows.ids),
    )
    if bad:
        with atomic_write(f"{path}.bad.txt") as file:
            file.write(
                "".join(f"{one.row}\t{one.id}\t{one.reason}\n" for one in bad).encode("utf-8", "backslashreplace")
            )
    else:
        with suppress(FileNotFoundError):  # of an output of this name that is gone
            os.remove(f"{path}.bad.txt")
    write_output(path, layout, lambda: (store.read(number, blobs) for number in range(work.shards)))
