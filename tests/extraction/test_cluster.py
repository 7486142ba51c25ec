"""Extractions on Ray: on a cluster of two nodes, and with workers that are killed at any moment."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from caffe_compat.extraction import extract, find_images
from tests.extraction.small import FORMATS, HOW, small_net, write_images

# Warnings are of what Ray imports.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
KILLS = int(os.environ.get("CAFFE_COMPAT_TEST_KILLS", "50"))


def run(folder: Path, name: str, ray: str | None) -> bytes:
    """An extraction, on one thread without Ray; its file, which is removed."""
    output = folder / name
    rows, net = find_images(folder / "images"), small_net()
    extract(net, rows, output, preprocess=HOW, batch=4, shard=8, workers=0, ray=ray)
    content = output.read_bytes()
    output.unlink()
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    write_images(tmp_path / "images", 60)
    return tmp_path


def children(named: bytes) -> list[int]:
    """The processes whose name begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(named) and _descends(int(entry.name)):
                found.append(int(entry.name))
    return found


def _descends(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_workers_are_killed(folder: Path) -> None:
    """One after the other, at random moments of one extraction after the other: each file is the undisturbed one."""
    import ray

    whole = run(folder, "whole.h5", None)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    chance, killed, over = random.Random(7), [0], threading.Event()

    def kill() -> None:
        while killed[0] < KILLS and not over.wait(chance.uniform(0.05, 0.8)):
            workers = children(b"ray::_shard") + children(
                b"ray::IDLE"
            )  # Ray has other processes, too, which are the node
            if workers:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    killed[0] += 1

    killer = threading.Thread(target=kill)
    try:
        killer.start()
        while killed[0] < KILLS:
            assert run(folder, "ray.h5", "") == whole
    finally:
        over.set()
        killer.join()
        ray.shutdown()
    assert killed[0] == KILLS


# A cluster of two nodes

CODE = {
    "ray": "from ray.scripts.scripts import main; main()",
    "caffe-compat": "from caffe_compat.cli import main; main()",
}


def command(program: str, *words: str) -> list[str]:
    return [sys.executable, "-c", CODE[program], *words]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def cluster(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """A head and a second node, of one core each; the address. In the end both are gone, and no other Ray is."""
    port = _free_port()
    address = f"127.0.0.1:{port}"
    start = command("ray", "start", "--block", "--num-cpus=1", "--disable-usage-stats", "--node-ip-address=127.0.0.1")
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for options in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address={address}"]):
            said = folder / f"node{len(nodes)}.txt"
            with said.open("wb") as file:
                nodes.append(
                    subprocess.Popen(
                        [*start, *options], stdout=file, stderr=file, start_new_session=True, env=environment
                    )
                )
            _wait_for(said)
        yield address
    finally:
        for node in reversed(nodes):
            node.terminate()
            with suppress(subprocess.TimeoutExpired):
                node.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def _wait_for(said: Path) -> None:
    """Until a node says that it runs."""
    deadline = time.monotonic() + 200
    while "Ray runtime started" not in said.read_text():
        if time.monotonic() > deadline:
            pytest.fail(f"the node did not start:\n{said.read_text()[-2000:]}")
        time.sleep(0.2)


def test_a_cluster_of_two_nodes(folder: Path) -> None:
    """By the command, in processes that share a word of their own, which the cluster asks of its clients."""
    told = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    told |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **told}
    net = (str(FORMATS / "v1net.prototxt"), str(FORMATS / "v1net.caffemodel"))
    how = ("--preprocess", "order=bgr,mean=104:117:123,scale=0.5,resize=8x8", "--batch", "4", "--shard", "8")

    def extracted(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        words = command("caffe-compat", "extract", *net, "--images", "images", "-o", name, *how, *options)
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    assert extracted("whole.h5", "--workers", "0").returncode == 0
    with cluster(folder, environment) as address:
        done = extracted("ray.h5", "--ray", address)
        assert done.returncode == 0, done.stderr
    assert (folder / "ray.h5").read_bytes() == (folder / "whole.h5").read_bytes()
