"""OpenCV's Caffe importer as a peer, in a Python of its own.

    opencv_peer.py deploy.prototxt weights.caffemodel 1,3,224,224 [--busy]

Prints how long reading the network took, then answers every line on standard input with the seconds of one forward
pass: on 2 threads, or with ``--busy`` seconds of processor time on one. OpenCV 5 has no such importer, hence the
environment of its own.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np


def main() -> None:
    prototxt, weights, shape = sys.argv[1:4]
    busy = "--busy" in sys.argv
    clock = time.process_time if busy else time.perf_counter
    cv2.setNumThreads(1 if busy else 2)
    start = time.perf_counter()
    net = getattr(cv2.dnn, "readNetFromCaffe")(prototxt, weights)  # noqa: B009  OpenCV 4 has it
    print(time.perf_counter() - start, flush=True)
    x = np.random.default_rng(1).standard_normal([int(n) for n in shape.split(",")], np.float32)
    for _ in sys.stdin:
        net.setInput(x)
        start = clock()
        net.forward()
        print(clock() - start, flush=True)


if __name__ == "__main__":
    main()
