"""An ONNX file in onnxruntime or OpenVINO, as one would run it by hand, in a Python of its own.

    runtime_peer.py onnxruntime|openvino net.onnx inputs.npz THREADS [--busy]

Prints how long opening took, then answers every line on standard input with the seconds of one run (with ``--busy``
of processor time), and ``memory`` with the most that the process has held, in MB. Nothing of this project is imported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def onnxruntime(path: str, threads: int) -> Callable[[dict[str, np.ndarray]], object]:
    import onnxruntime as runtime

    runtime.set_default_logger_severity(3)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {given.name for given in session.get_inputs()}
    return lambda inputs: session.run(None, {name: x for name, x in inputs.items() if name in wanted})


def openvino(path: str, threads: int) -> Callable[[dict[str, np.ndarray]], object]:
    import openvino as runtime

    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = runtime.Core().compile_model(path, "CPU", hints).create_infer_request()
    return lambda inputs: request.infer(inputs, share_inputs=True)


def peak_memory() -> float:
    """The most that this process has held, in MB. (``ru_maxrss`` would begin with what its parent held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    name, path, inputs, threads = sys.argv[1:5]
    clock = time.process_time if "--busy" in sys.argv else time.perf_counter
    start = time.perf_counter()
    run = {"onnxruntime": onnxruntime, "openvino": openvino}[name](path, int(threads))
    print(time.perf_counter() - start, flush=True)
    with np.load(inputs) as stored:
        given = dict(stored)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(peak_memory(), flush=True)
            continue
        start = clock()
        run(given)
        print(clock() - start, flush=True)


if __name__ == "__main__":
    main()
