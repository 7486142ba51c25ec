"""Programs of ``torch.export`` in a process that has torch and nothing of this library, which many of them share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

__all__ = ["TorchAlone"]

_RUNS_PROGRAMS = """
import sys
sys.modules["caffe_compat"] = sys.modules["converters"] = None
import numpy, torch
for line in sys.stdin:
    program, arrays = line.rstrip("\\n").split("\\t")
    try:
        with numpy.load(arrays) as given:
            found = torch.export.load(program).module()(**{n: torch.from_numpy(given[n]) for n in given.files})
        numpy.savez(arrays, **{name: x.detach().numpy() for name, x in found.items()})
        print("done", flush=True)
    except Exception as error:
        print(repr(error).replace("\\n", " "), flush=True)
"""


class TorchAlone:
    """The process, which starts with the first program and ends with the block."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> TorchAlone:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)

    def run(self, program: Path, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a program for arguments of these names.

        Raises:
            AssertionError: torch cannot load it, or it fails.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _RUNS_PROGRAMS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        arrays = program.with_suffix(".npz")
        np.savez(arrays, **given)  # type: ignore[arg-type]  # its stubs take every keyword for an option
        self._process.stdin.write(f"{program}\t{arrays}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        assert said == "done", said
        with np.load(arrays) as found:
            return {name: found[name] for name in found.files}
