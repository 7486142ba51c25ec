"""Shards on Ray: the same work in processes of a cluster, or of a local Ray.

A shard is a task. One whose worker is lost is done again, by Ray; the results come back to the process that keeps them,
so workers need no common disk but for the images.
"""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import CaffeCompatError, UsageError, first_line
from ..extras import require
from .shards import Shard
from .work import Work

__all__ = ["shards_on_ray"]

_RETRIES = 20  # of a shard whose worker was lost
_KEPT: dict[str, Work] = {}  # the job that this worker is at: unpacked once, not once a shard


def shards_on_ray(address: str, work: Work, pending: list[int]) -> Iterator[tuple[int, Shard]]:
    """Shards in the order in which they are finished.

    Args:
        address: of the cluster; empty for a Ray of this machine, which is started, and ends with the iteration. A Ray
            that this process is connected to already is used as it is.

    Raises:
        UsageError: no cluster is there. CaffeCompatError: what a worker raised, or a shard that lost all its workers.
    """
    ray: Any = require("ray", "cluster")
    ours = not ray.is_initialized()
    if ours:
        try:
            # Where no address is given, a cluster that the environment names is not meant: "local" starts one.
            ray.init(address or "local", include_dashboard=False, log_to_driver=False, logging_level="error")
        except Exception as error:  # whatever Ray finds wrong with an address
            raise UsageError(f"--ray {address}: {first_line(error)}") from error
    try:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_shard)
        # In a list, the reference stays one: the job is fetched once for each worker.
        job = [ray.put(pickle.dumps(work))]
        key = secrets.token_hex(8)
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = list(reversed(pending))
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < most:
                number = waiting.pop()
                running[task.remote(job, key, number)] = number
            (ready,), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(ready)
            yield number, _result(ray, ready, number)
    finally:
        if ours:
            ray.shutdown()


def _result(ray: Any, ready: Any, number: int) -> Shard:
    try:
        shard: Shard = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CaffeCompatError):
            raise error.cause from None
        raise CaffeCompatError(f"shard {number} failed on Ray: {first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise CaffeCompatError(f"shard {number} lost {_RETRIES + 1} workers of Ray: {first_line(error)}") from error
    return shard


def _shard(job: list[Any], key: str, number: int) -> Shard:
    """A shard, in a process of Ray's."""
    import ray

    if key not in _KEPT:
        torch.set_num_threads(1)
        _KEPT.clear()
        _KEPT[key] = pickle.loads(ray.get(job[0]))
    work = _KEPT[key]
    reader = work.reader(work.batches(number))
    return work.compute(number, (reader.batch(k) for k in range(len(reader.batches))))
