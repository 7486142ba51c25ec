"""Ten steps of real Caffe's solvers, step by step."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_compat.formats.weights import read_solverstate
from tests.training.solver.recorded import CASES, FILES, REFERENCE, recorded_case

# The first step of these is nearly the sign of the gradient, so its rounding shows.
_SIGN_LIKE = ("adam", "rmsprop", "adadelta")


@pytest.mark.parametrize("name", CASES)
def test_trajectory(name: str, tmp_path: Path, device: torch.device) -> None:
    tolerance = 1e-3 if name.startswith(_SIGN_LIKE) else 1e-4
    solver = recorded_case(name, tmp_path, device=device)
    with h5py.File(REFERENCE / "solvers.h5") as file:
        case = file[name]
        losses = case["loss"][()]
        for k in range(10):
            solver.step(1)
            assert solver.loss == pytest.approx(float(losses[k]), rel=tolerance, abs=1e-6)
            for layer, blobs in case.get(f"iteration_{k + 1}", {}).items():
                for i, stored in blobs.items():
                    ours = list(solver.net.blobs_of(layer).values())[int(i)].detach().cpu().numpy()
                    assert np.abs(ours - stored[()]).max() <= tolerance * np.abs(stored[()]).max(), (k, layer, i)
        assert "iteration_10" in case

    recorded = read_solverstate(FILES / f"{name}_iter_10.solverstate")
    ours_history = solver.optimizer.history()
    assert (solver.iteration, solver.current_step) == (recorded.iteration, recorded.current_step)
    assert [tuple(h.shape) for h in ours_history] == [h.shape for h in recorded.history]
    for h, theirs in zip(ours_history, recorded.history, strict=True):
        assert np.abs(h.cpu().numpy() - theirs.data).max() <= 1e-3 * np.abs(theirs.data).max()
