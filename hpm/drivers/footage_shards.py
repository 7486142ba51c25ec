"""What is predicted so far of one person's footage, as shards in a folder beside the poses: a killed run goes on there.

A shard holds consecutive blocks without their crops, which are files already, and what machine, refiner and doubter
remember after them. So the next frame is seen as it would have been in one go, and the files come out the same, byte
for byte, as long as the network runs on as many threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from caffe_compat.extraction.shards import Shard, ShardStore, job_of

from ..bridging import Bridged
from ..datasets.cameras import Crop
from ..model import PoseMachine
from ..refine import Refiner
from .doubts import Doubter
from .footage import Block
from .footage_sinks import Footage

__all__ = ["FootageShards", "digest_of"]

_FOLDER = "unfinished"
# Blocks of a shard, some 600 frames: what is lost at most.
_BLOCKS = 10
# Of a block, what has a row a frame, or is None; then the blocks themselves.
_ROWS = ("coarse", "change", "projected", "pose2d", "refined")
_OTHERS = ("corner", "side", "doubts", "lengths", "outside")
_NOTHING = np.zeros(0)


class FootageShards(AbstractContextManager["FootageShards"]):
    """The shards of one person.

    Args:
        root: the folder of the poses, where the shards get one of their own. What a run with another ``job`` left there
            is removed.
        job: what two runs have in common if what one left behind is good for the other.
        poses: the 2D poses of all frames, if any.

    Attributes:
        frames: how many are done. posed: whether the last of them has a pose.

    Raises:
        UsageError: another process is at work on it, or the folder holds shards of nobody knows what. FileError.
    """

    def __init__(
        self,
        root: Path,
        job: Mapping[str, str | int],
        machine: PoseMachine,
        refiner: Refiner | None,
        poses: Bridged | None,
    ) -> None:
        self._machine, self._refiner, self._poses = machine, refiner, poses
        self.doubter = Doubter(machine)
        folder = os.path.join(root, _FOLDER)
        if (begun := job_of(folder)) is not None and begun != dict(job):
            ShardStore(folder, {}).remove()
        self._store = ShardStore(folder, job)
        self.frames, self.posed = 0, False
        try:
            self._number, self._names = 0, [*_ROWS, *_OTHERS, *self._memory()]
            while self._number in self._store.done and self._find(Footage(root, 0, False)):
                self._number += 1
        except BaseException:
            self._store.close()
            raise

    def _find(self, footage: Footage) -> bool:
        """Whether the next shard is good, with its crops; then everybody remembers what they did after it."""
        shard = self._store.read(self._number, self._names)
        if shard.rows[0] != self.frames or not all(footage.crop(row).exists() for row in shard.rows.tolist()):
            return False
        self._recall(shard.arrays)
        self.frames += len(shard.rows)
        return True

    def found(self) -> Iterator[Block]:
        """The blocks of the frames that are done, without crops, one shard in memory."""
        for number in range(self._number):
            shard = self._store.read(number, self._names)
            yield from _blocks(shard.rows[0], shard.arrays, self._poses)

    def keeping(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks that follow, looked at by the doubter; kept when whoever takes them asks for the next one."""
        waiting: list[Block] = []
        for block in map(self.doubter.looked_at, blocks):
            yield block
            self.posed = block.posed
            waiting.append(replace(block, crops=[]))  # they are files by now, and would be half a gigabyte
            if len(waiting) == _BLOCKS:
                self._add(waiting)
                waiting = []
        if waiting:
            self._add(waiting)

    def _add(self, blocks: list[Block]) -> None:
        rows = np.arange(blocks[0].first, blocks[-1].first + len(blocks[-1].coarse))
        self._store.add(self._number, Shard(rows, {**_arrays(blocks), **self._memory()}))
        self._number += 1

    def _memory(self) -> dict[str, np.ndarray]:
        """What everybody remembers, by names that are always the same."""
        parts: dict[str, np.ndarray] = {"posed": np.array(self.posed)}
        parts |= {f"doubter {name}": value for name, value in self.doubter.memory().items()}
        tensors = {"machine": self._machine.memory()}
        if self._refiner is not None:
            tensors["refiner"] = self._refiner.memory()
        return parts | {f"{who} {n}": value.cpu().numpy() for who, m in tensors.items() for n, value in m.items()}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        def of(who: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(f"{who} "): value for n, value in arrays.items() if n.startswith(f"{who} ")}

        self.posed = bool(arrays["posed"])
        self.doubter.recall(of("doubter"))
        self._machine.recall(_tensors(of("machine")))
        if self._refiner is not None:
            self._refiner.recall(_tensors(of("refiner")))

    def remove(self) -> None:
        """Remove all shards: whatever they were kept for is there."""
        self._store.remove()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and not self._number:
            self._store.remove()  # nothing to go on from
        else:
            self._store.close()


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}


def _arrays(blocks: list[Block]) -> dict[str, np.ndarray]:
    """Blocks as arrays of :data:`_ROWS` and :data:`_OTHERS`."""

    def joined(parts: list[Any]) -> np.ndarray:
        return _NOTHING if parts[0] is None else np.concatenate(parts)

    found = {name: joined([getattr(block, name) for block in blocks]) for name in _ROWS}
    squares = [block.squares for block in blocks if block.squares is not None]
    return found | {
        "corner": joined([crop.corner for crop in squares]),
        "side": joined([crop.side for crop in squares]),
        "doubts": np.array([" ".join(doubts) for block in blocks for doubts in block.doubts], "U"),
        "lengths": np.array([len(block.coarse) for block in blocks]),
        "outside": np.array([block.outside for block in blocks]),
    }


def _blocks(first: int, arrays: Mapping[str, np.ndarray], poses: Bridged | None) -> Iterator[Block]:
    """The blocks again, the first one from frame ``first`` on."""
    start = 0
    for length, outside in zip(arrays["lengths"].tolist(), arrays["outside"].tolist(), strict=True):
        part = slice(start, start + length)
        coarse, *others = (arrays[name][part] if arrays[name].ndim == 2 else None for name in _ROWS)
        assert coarse is not None
        change, projected, pose2d, refined = others
        yield Block(
            int(first) + start,
            [],
            coarse,
            change,
            projected,
            pose2d,
            refined,
            outside,
            None if poses is None else poses.rows(slice(int(first) + start, int(first) + start + length)),
            Crop(arrays["corner"][part], arrays["side"][part]),
            tuple(tuple(text.split()) for text in arrays["doubts"][part].tolist()),
        )
        start += length


def digest_of(*arrays: np.ndarray) -> str:
    """Of the values of arrays and their shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
