"""The phases of training, chained, on a made-up data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_compat.errors import UsageError
from caffe_compat.formats.weights import read_weights
from caffe_compat.network.loading import build_net
from caffe_compat.training.solver import Action, Event, read_solver
from caffe_compat.training.solver.events import IterationShown
from hpm.datasets.synthetic import SyntheticOptions, write
from hpm.drivers.training import HEAT_MAPS, PHASES, TrainingOptions, train_phase, trained_model
from hpm.networks import NetworkOptions, define

NETWORK = NetworkOptions(image_size=56, channels=(2, 3, 4, 5, 6, 7), hidden=8, projector=9, batch=6, mpii_batch=2)
OPTIONS = TrainingOptions(NETWORK, iterations=3, learning_rate=1e-3, initial="scaled", snapshot=2, display=1)
PRETRAINING = replace(OPTIONS, network=replace(NETWORK, train_list="h36m/17skel_train_2d.txt"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = SyntheticOptions(
        subjects=("S1",), takes=1, frames=12, run=6, singles=5, image_size=56, actions=("Walking",)
    )
    return write(options, tmp_path_factory.mktemp("data")).root


def _arrays(model: Path) -> dict[str, list[np.ndarray]]:
    with read_weights(model) as weights:
        return {layer.name: [np.array(blob.data) for blob in layer.blobs] for layer in weights.layers if layer.blobs}


def _options(phase: str) -> TrainingOptions:
    return PRETRAINING if phase == "train_test_cpm" else OPTIONS


def test_the_whole_chain(data: Path, tmp_path: Path, device: torch.device) -> None:
    """Every phase starts from the one before, trains what it should and leaves the rest."""
    seen: list[Event] = []
    models = {}
    for phase in [name for name in PHASES if name != HEAT_MAPS]:  # which learns from other data
        models[phase] = train_phase(
            phase, data, tmp_path, options=_options(phase), seed=4, device=device, workers=0, observer=seen.append
        )
        assert models[phase] == trained_model(phase, tmp_path)
    assert sum(isinstance(event, IterationShown) for event in seen) == 6 * 4
    arrays = {phase: _arrays(model) for phase, model in models.items() if model is not None}

    def changed(before: str, after: str, layer: str) -> bool:
        return any((a != b).any() for a, b in zip(arrays[before][layer], arrays[after][layer], strict=True))

    assert not changed("train_test_cpm", "2d_to_3d", "conv1_1")
    assert not changed("2d_to_3d", "3d_to_2d", "fc-final_16")
    assert not changed("2d_to_3d", "3d_to_2d", "conv1_1")
    assert changed("3d_to_2d", "finetune_whole", "conv1_1")
    assert changed("3d_to_2d", "finetune_whole", "change")
    assert not changed("train_test_cpm", "pose_2d", "conv1_1")
    assert not changed("finetune_whole", "mask3d", "conv4_7_CPM")
    assert changed("finetune_whole", "mask3d", "lstm1")
    _, report = build_net(define("deploy", NETWORK), models["mask3d"])
    assert report.warnings == []
    assert not list(tmp_path.glob("*.csv")) + list(tmp_path.glob("*.txt"))


class _StopAt:
    """Asks a solver to stop after some iterations."""

    def __init__(self, iterations: int) -> None:
        self.left = iterations

    def __call__(self) -> Action:
        self.left -= 1
        return Action.STOP if self.left == 0 else Action.NONE


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(data: Path, tmp_path: Path) -> None:
    def run(out: Path, requested: Callable[[], Action] | None = None) -> Path | None:
        return train_phase("train_test_cpm", data, out, options=PRETRAINING, seed=7, workers=0, requested=requested)

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "parts", _StopAt(1)) is None
    assert not trained_model("train_test_cpm", tmp_path / "parts").exists()
    parts = run(tmp_path / "parts")
    assert whole is not None
    assert parts is not None
    assert parts.read_bytes() == whole.read_bytes()
    assert run(tmp_path / "parts", _StopAt(1)) == parts  # done: nothing is trained


def test_a_run_goes_on_in_a_folder_that_was_moved(data: Path, tmp_path: Path) -> None:
    run = {"options": PRETRAINING, "seed": 7, "workers": 0}
    assert train_phase("train_test_cpm", data, tmp_path / "old", requested=_StopAt(1), **run) is None  # type: ignore[arg-type]
    (tmp_path / "old").rename(tmp_path / "new")
    moved = train_phase("train_test_cpm", data, tmp_path / "new", **run)  # type: ignore[arg-type]
    assert moved is not None
    assert not (tmp_path / "old").exists()
    assert sorted(path.name for path in (tmp_path / "new").glob("*.solverstate")) == [
        f"train_test_cpm_iter_{k}.solverstate" for k in (1, 2, 3)
    ]
    whole = train_phase("train_test_cpm", data, tmp_path / "whole", **run)  # type: ignore[arg-type]
    assert whole is not None
    assert moved.read_bytes() == whole.read_bytes()


def test_other_settings_in_the_same_folder(data: Path, tmp_path: Path) -> None:
    run = {"options": PRETRAINING, "seed": 7, "workers": 0}
    train_phase("train_test_cpm", data, tmp_path, **run)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="was written by a run with other settings"):
        train_phase("train_test_cpm", data, tmp_path, **run | {"options": replace(PRETRAINING, iterations=4)})  # type: ignore[arg-type]


def test_the_original_s_numbers_are_the_defaults(data: Path, tmp_path: Path) -> None:
    plan = {"train_test_cpm": 1e-4, "2d_to_3d": 1e-4, "3d_to_2d": 1e-4, "finetune_whole": 1e-5, "mask3d": 1e-5}
    plan["pose_2d"] = 1e-4
    assert {phase.name: phase.learning_rate for phase in PHASES.values()} == plan | {HEAT_MAPS: 1e-4}
    weights = train_phase("train_test_cpm", data, tmp_path, options=PRETRAINING, seed=1, workers=0)
    network = replace(NETWORK, channels=(2, 3, 4, 5, 6, 7))
    stopped = train_phase(
        "2d_to_3d", data, tmp_path, weights, TrainingOptions(network), seed=1, workers=0, requested=_StopAt(1)
    )
    assert stopped is None
    settings = read_solver(tmp_path / "2d_to_3d.solver.prototxt")
    assert (settings.type, settings.max_iter, settings.policy.name) == ("Adam", 2_000_000, "fixed")
    assert settings.policy.base_lr == pytest.approx(1e-4)
    assert [settings.momentum, settings.momentum2] == pytest.approx([0.9, 0.999])
    assert settings.clip_gradients == 5
    assert (settings.weight_decay, settings.iter_size, settings.snapshot) == (0, 1, 20_000)
    # The network's own fillers: a standard deviation of 0.01.
    assert np.std(_arrays(tmp_path / "2d_to_3d_iter_1.caffemodel")["fa_conv_1"][0]) == pytest.approx(0.01, rel=0.1)


def test_scaled_initial_values_keep_the_size_of_signals(data: Path, tmp_path: Path) -> None:
    options = replace(PRETRAINING, learning_rate=0.0)
    model = train_phase("train_test_cpm", data, tmp_path, options=options, seed=1, workers=0)
    assert model is not None
    weight = _arrays(model)["conv4_4_CPM"][0]
    assert weight.std() == pytest.approx(np.sqrt(2 / np.prod(weight.shape[1:])), rel=0.1)


def test_what_makes_no_sense(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no phase 'mask2d'; there are pose_train_test_from_release, train_test_cpm"):
        train_phase("mask2d", data, tmp_path)
    with pytest.raises(UsageError, match="mask3d starts from the weights of finetune_whole; there is no"):
        train_phase("mask3d", data, tmp_path, options=OPTIONS, workers=0)
