"""Heat maps, the pictures that they go with, and the pre-training on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import cos, exp, radians, sin
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from caffe_compat.errors import FileError, UsageError
from caffe_compat.formats.weights import read_solverstate, read_weights
from caffe_compat.training.data import Loader
from caffe_compat.training.solver import Action, Event
from caffe_compat.training.solver.events import IterationShown
from hpm.cli import main
from hpm.datasets.heatmaps import PARTS, HeatMapOptions, HeatMaps, View, augment, gaussian, label_maps
from hpm.datasets.mpii import read_mpii
from hpm.datasets.synthetic import SyntheticOptions, write
from hpm.drivers.training import HEAT_MAPS, TrainingOptions, train_phase, trained_model
from hpm.networks import NetworkOptions, scaled_channels
from hpm.skeleton import MPII16

SIZE = 56
CELLS = SIZE // 8
OPTIONS = HeatMapOptions(annotation="mpii.json", pictures="pictures")
STILL = replace(OPTIONS, scale_probability=0.0, max_degrees=0.0, flip_probability=0.0)
# A person of scale 1.171 keeps its size in a crop of 368, and so does this one in a smaller crop.
OWN_SIZE = 1.171 * SIZE / 368


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _people() -> np.ndarray:
    """(3, 16, 2): two people of the first picture and one of the second, pixels from 0."""
    return np.random.default_rng(3).uniform(30, 90, (3, 16, 2)).round(1)


CENTRES = np.array([[60.0, 55.0], [72.0, 50.0], [50.0, 64.0]])


def _entry(k: int, image: str) -> dict[str, object]:
    joints = _people()[k] + 1
    return {
        "image": image,
        "joints": joints.tolist(),
        "joints_vis": [1] * 16,
        "center": (CENTRES[k] + 1).tolist(),
        "scale": OWN_SIZE,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pictures of 130 x 110 with three people."""
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    for name, seed in (("a.png", 1), ("b.png", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (110, 130, 3), np.uint8)
        cv2.imwrite(str(folder / "pictures" / name), cv2.GaussianBlur(noise, (9, 9), 4))
    _write(folder, [_entry(0, "a.png"), _entry(1, "a.png"), _entry(2, "b.png")])
    return folder


def _write(folder: Path, entries: list[dict[str, object]]) -> None:
    (folder / "mpii.json").write_text(json.dumps(entries))


def _maps(data: Path, options: HeatMapOptions = OPTIONS, **other: int) -> HeatMaps:
    return HeatMaps(data, options, size=SIZE, **{"batch": 2, "seed": 5} | other)  # type: ignore[arg-type]


# Maps


def _value(x: float, y: float, at: np.ndarray, sigma: float) -> float:
    exponent = ((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2 / sigma / sigma
    return 0.0 if exponent > 4.6052 else exp(-exponent)


def test_a_map_is_the_formula_at_the_middle_of_every_cell() -> None:
    at = np.array([[17.3, 30.1], [-5.0, 52.0]])
    maps = gaussian(at, SIZE, 8, 7.0)
    assert maps.shape == (2, CELLS, CELLS)
    for k in range(2):
        expected = [[_value(8 * i + 3.5, 8 * j + 3.5, at[k], 7.0) for i in range(CELLS)] for j in range(CELLS)]
        np.testing.assert_allclose(maps[k], expected, rtol=1e-12)
    assert 0 < (maps[0] == 0).sum() < maps[0].size
    centre = gaussian(at[0], SIZE, 1, 21.0)
    assert centre.shape == (SIZE, SIZE)
    assert centre[40, 11] == pytest.approx(_value(11, 40, at[0], 21.0))


def test_the_label_has_the_one_in_the_centre_then_everybody() -> None:
    rng = np.random.default_rng(4)
    people = rng.uniform(0, SIZE, (3, 14, 2))
    people[1, 2] = people[0, 2]  # two on the same spot: more than 1 is cut to 1
    people[0, 2] = people[1, 2] = [19.5, 27.5]
    shown = np.ones((3, 14), bool)
    shown[0, 5] = shown[2, 7] = False
    label = label_maps(people, shown, SIZE, 8, 7.0)
    assert label.shape == (30, CELLS, CELLS)
    for j in range(CELLS):
        for i in range(CELLS):
            each = [
                [_value(8 * i + 3.5, 8 * j + 3.5, people[p, k], 7.0) if shown[p, k] else 0.0 for k in range(14)]
                for p in range(3)
            ]
            all_of_them = [min(1.0, sum(one[k] for one in each)) for k in range(14)]
            expected = [*each[0], 1 - max(each[0]), *all_of_them, 1 - max(all_of_them)]
            np.testing.assert_allclose(label[:, j, i], expected, atol=1e-12)
    assert not label[5].any()
    assert label[20].any()
    assert label[15 + 2, 3, 2] == 1


def test_the_order_of_the_parts() -> None:
    """As the CPM release's: head to wrists, then the legs, right before left."""
    assert [MPII16.joints.index(part) for part in PARTS] == [9, 8, 12, 11, 10, 13, 14, 15, 2, 1, 0, 3, 4, 5]


# Augmentation


def test_the_centre_lands_amid_the_crop() -> None:
    centre = np.array([300.0, 200.0])
    view = augment(centre, 2.5, 368, OPTIONS, [0.3, 0.75, 0.9, 0.8])
    np.testing.assert_allclose(view.points(centre), [184, 184])
    zoom, angle = 1.171 / 2.5 * 1.1, radians(32)
    moved = view.points(centre + np.array([10, 0])) - 184
    np.testing.assert_allclose(moved, [10 * zoom * cos(angle), -10 * zoom * sin(angle)])
    assert not view.flipped
    plain = augment(centre, 2.5, 184, OPTIONS, [0.6, 0.75, 0.5, 0.2])
    assert plain.flipped
    moved = plain.points(centre + np.array([10, 6]))
    np.testing.assert_allclose(moved, [183 - 92 - 10 * 1.171 / 5, 92 + 6 * 1.171 / 5])


def test_a_mirrored_person_has_its_sides_swapped() -> None:
    points, shown = _people()[0], np.arange(16) != MPII16.joints.index("LWrist")
    plain = augment(CENTRES[0], OWN_SIZE, SIZE, OPTIONS, [0.9, 0, 0.3, 0.9])
    turned = augment(CENTRES[0], OWN_SIZE, SIZE, OPTIONS, [0.9, 0, 0.3, 0.1])
    a, seen_a = plain.person(points, shown)
    b, seen_b = turned.person(points, shown)
    left = [PARTS.index(name) for name in PARTS if name.startswith("L")]
    right = [PARTS.index("R" + PARTS[k][1:]) for k in left]
    assert len(left) == 6
    np.testing.assert_allclose(b[left], [SIZE - 1, 0] + a[right] * [-1, 1])
    np.testing.assert_allclose(b[right], [SIZE - 1, 0] + a[left] * [-1, 1])
    np.testing.assert_allclose(b[:2], [SIZE - 1, 0] + a[:2] * [-1, 1])
    assert np.flatnonzero(~seen_a).tolist() == [PARTS.index("LWrist")]
    assert np.flatnonzero(~seen_b).tolist() == [PARTS.index("RWrist")]
    np.testing.assert_array_equal(
        label_maps(b[None], seen_b[None], SIZE, 8, 7.0)[right],
        label_maps(a[None], seen_a[None], SIZE, 8, 7.0)[left][..., ::-1],
    )


@pytest.mark.parametrize("mirror", [0.2, 0.8])
def test_the_picture_moves_as_the_points_do(mirror: float) -> None:
    spot, centre = np.array([70.0, 41.0]), np.array([60.0, 55.0])
    picture = np.zeros((110, 130, 3), np.uint8)
    cv2.circle(picture, spot.astype(int).tolist(), 4, (250, 250, 250), -1)
    view: View = augment(centre, OWN_SIZE, SIZE, OPTIONS, [0.1, 0.9, 0.8, mirror])
    crop = view.picture(picture, SIZE)
    assert crop.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(np.argwhere(crop[..., 0] > 128).mean(0)[::-1], view.points(spot), atol=0.5)
    beyond = augment(np.array([0.0, 0.0]), OWN_SIZE, SIZE, STILL, [0.9, 0, 0.5, 0.9]).picture(picture, SIZE)
    assert (beyond[: SIZE // 2 - 2, : SIZE // 2 - 2] == 128).all()


# Batches


def test_a_batch(data: Path) -> None:
    maps = HeatMaps(data, STILL, size=SIZE, batch=3, seed=1, shuffle=False)
    batch = maps.batch(0)
    assert {name: tuple(x.shape) for name, x in batch.items()} == maps.shapes()
    assert maps.shapes() == {"data": (3, 4, SIZE, SIZE), "label": (3, 30, CELLS, CELLS)}
    picture = np.asarray(cv2.imread(str(data / "pictures" / "a.png")), np.float64)
    x, y = (CENTRES[0] - SIZE / 2).astype(int)
    expected = (picture[y : y + SIZE, x : x + SIZE] - 128) / 256
    np.testing.assert_allclose(batch["data"][0, :3].numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    middle = np.full(2, SIZE / 2)
    for row in range(3):
        np.testing.assert_allclose(batch["data"][row, 3].numpy(), gaussian(middle, SIZE, 1, 21.0), atol=1e-6)
    order = [MPII16.joints.index(part) for part in PARTS]
    for row, group in enumerate(([0, 1], [1, 0], [2])):
        people = _people()[group][:, order] - CENTRES[row] + SIZE / 2
        label = label_maps(people, np.ones((len(group), 14), bool), SIZE, 8, 7.0)
        np.testing.assert_allclose(batch["label"][row].numpy(), label, atol=1e-6)


def test_parts_that_are_missing_or_beyond_the_picture_have_no_map(data: Path) -> None:
    entry = _entry(0, "a.png")
    joints = np.array(entry["joints"])
    joints[MPII16.joints.index("HeadTop")] = [131.0, 40.0]  # 130 from 0: one beyond the last
    joints[MPII16.joints.index("UpperNeck")] = [60.0, 0.5]
    joints[MPII16.joints.index("RHip")] = 0
    entry |= {"joints": joints.tolist()}
    _write(data, [entry])
    wide = replace(STILL, sigma=500.0)
    label = HeatMaps(data, wide, size=SIZE, batch=1, seed=1).batch(0)["label"][0].numpy()
    assert [PARTS[k] for k in range(14) if not label[k].any()] == ["HeadTop", "UpperNeck", "RHip"]


def test_batches_depend_on_seed_index_and_rank_alone(data: Path) -> None:
    ahead = _maps(data)
    seventh = ahead.batch(7)
    for k in range(3):
        ahead.batch(k)
    again = _maps(data).batch(7)
    for name, values in seventh.items():
        assert torch.equal(values, again[name])
        assert torch.equal(values, ahead.batch(7)[name])
        assert not torch.equal(values, _maps(data, seed=6).batch(7)[name])
        assert not torch.equal(values, _maps(data, rank=1, world_size=2).batch(7)[name])
    with Loader([_maps(data)], start=6, stop=8, workers=1) as loader:
        read = list(loader)
    assert all(torch.equal(read[1][name], seventh[name]) for name in seventh)


def test_ranks_share_out_the_batches_of_one_process(data: Path) -> None:
    alone = _maps(data)
    for index in range(3):
        for rank in range(2):
            own, expected = _maps(data, rank=rank, world_size=2).batch(index), alone.batch(2 * index + rank)
            assert all(torch.equal(own[name], expected[name]) for name in expected)


def _write_mat(path: Path, entries: list[dict[str, Any]]) -> None:
    """The people of ``entries`` as MPII's release holds them, among what it holds besides."""
    pictures: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        points = [{"x": x, "y": y, "id": k, "is_visible": k % 2} for k, (x, y) in enumerate(entry["joints"])]
        at = {"x": entry["center"][0], "y": entry["center"][1]}
        person = {"annopoints": {"point": _records(points)}, "objpos": at, "scale": entry["scale"]}
        pictures.setdefault(entry["image"], []).append(person)
    rows: list[Any] = [({"name": name}, _records(people)) for name, people in pictures.items()]
    head_only, of_the_test = {"x1": 3.0, "y1": 4.0}, {"objpos": {"x": 5.0, "y": 6.0}, "scale": 1.0}
    rows += [
        ({"name": "head.png"}, head_only),
        ({"name": "nobody.png"}, np.zeros((0, 0))),
        ({"name": "t"}, of_the_test),
    ]
    annolist = np.zeros(len(rows), dtype=[("image", object), ("annorect", object)])
    annolist[:] = rows
    savemat(path, {"RELEASE": {"annolist": annolist, "img_train": np.array([1] * (len(rows) - 1) + [0])}})


def _records(rows: list[dict[str, Any]]) -> np.ndarray:
    """A struct array of MATLAB's."""
    array = np.zeros(len(rows), dtype=[(name, object) for name in rows[0]])
    array[:] = [tuple(row.values()) for row in rows]
    return array


def test_the_release_s_mat_gives_the_batches_of_a_json(data: Path) -> None:
    _write_mat(data / "mpii.mat", json.loads((data / "mpii.json").read_text()))
    options = replace(OPTIONS, annotation="mpii.mat")
    assert len(read_mpii(data / "mpii.mat")) == 3
    for index in range(3):
        of_mat, of_json = _maps(data, options).batch(index), _maps(data).batch(index)
        assert all(torch.equal(of_mat[name], of_json[name]) for name in of_json)


def test_everybody_has_a_turn_in_every_epoch(data: Path) -> None:
    maps = HeatMaps(data, STILL, size=SIZE, batch=3, seed=1)
    whole = {row.numpy().tobytes() for row in maps.batch(0)["label"]}
    orders = [[row.numpy().tobytes() for row in maps.batch(k)["label"]] for k in range(1, 7)]
    assert len(whole) == 3
    assert all(set(order) == whole for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_what_cannot_be_learnt_from(data: Path) -> None:
    with pytest.raises(UsageError, match="pictures of 60 pixels; a multiple of 8"):
        HeatMaps(data, OPTIONS, size=60, batch=2, seed=1)
    lacking = [{**_entry(k, "a.png"), "center": [-1.0, -1.0]} for k in range(2)]
    _write(data, [*lacking, _entry(2, "b.png")])
    (note,) = _maps(data).notes
    assert "2 of 3 people lack a centre, a scale or parts" in note
    _write(data, lacking)
    with pytest.raises(UsageError, match="none of 2 people has a centre, a scale and a part"):
        _maps(data)
    _write(data, [_entry(0, "a.png"), _entry(1, "c.png")])
    with pytest.raises(FileError, match="1 of 2 pictures that the annotation names are not there"):
        _maps(data)
    with pytest.raises(UsageError, match=r"flip_probability is 1.5"):
        HeatMapOptions(flip_probability=1.5)
    with pytest.raises(UsageError, match="scale_range are above 0 and in order"):
        HeatMapOptions(scale_range=(1.2, 0.8))


def test_the_centre_and_scale_of_the_other_json(data: Path) -> None:
    joints = [[x, y, 1] for x, y in (_people()[0] + 1).tolist()]
    entry = {"img_paths": "a.png", "joint_self": joints, "objpos": [40.5, 33.0], "scale_provided": 3.25}
    _write(data, [entry, {**entry, "scale_provided": -1}])
    first, second = read_mpii(data / "mpii.json")
    assert first.centre is not None
    assert first.centre.tolist() == [39.5, 32]
    assert (first.scale, second.scale) == (3.25, None)
    _write(data, [{**entry, "objpos": [1, 2, 3]}])
    with pytest.raises(FileError, match="person 0: ValueError"):
        read_mpii(data / "mpii.json")


def test_the_centre_and_scale_of_the_mat(tmp_path: Path) -> None:
    def person(**fields: object) -> dict[str, object]:
        return {"annopoints": {"point": {"x": 8.0, "y": 9.0, "id": 3}}, **fields}

    people = [
        person(objpos={"x": 40.5, "y": 33.0}, scale=3.25),
        person(objpos=np.zeros((0, 0)), scale=np.zeros((0, 0))),
        person(),
    ]
    pictures = np.zeros(3, dtype=[("image", object), ("annorect", object)])
    for k, fields in enumerate(people):
        pictures[k] = ({"name": f"{k}.jpg"}, fields)
    savemat(tmp_path / "mpii.mat", {"RELEASE": {"annolist": pictures, "img_train": np.ones(3)}})
    whole, empty, none = read_mpii(tmp_path / "mpii.mat")
    assert whole.centre is not None
    assert (whole.centre.tolist(), whole.scale) == ([39.5, 32], 3.25)
    assert (empty.centre, empty.scale, none.centre, none.scale) == (None, None, None, None)


# Training

NETWORK = NetworkOptions(image_size=SIZE, channels=(4, 4, 5, 6, 7, 8), batch=2)
TRAINING = TrainingOptions(
    NETWORK, iterations=4, learning_rate=3e-3, initial="scaled", snapshot=2, display=1, heat_maps=OPTIONS
)


@pytest.mark.slow
def test_it_learns_to_look_at_the_picture(data: Path, tmp_path: Path, device: torch.device) -> None:
    """The loss falls below that of the mean maps: the best that a network can do which ignores the picture."""
    network = replace(NETWORK, channels=(8, 8, 12, 16, 16, 14))
    options = replace(TRAINING, network=network, iterations=120, learning_rate=6e-3, snapshot=120, heat_maps=STILL)
    losses: list[float] = []

    def observe(event: Event) -> None:
        if isinstance(event, IterationShown):
            losses.append(event.loss)

    done = train_phase(
        HEAT_MAPS, data, tmp_path / "out", options=options, seed=3, device=device, workers=0, observer=observe
    )
    assert done == trained_model(HEAT_MAPS, tmp_path / "out")
    labels = _maps(data, STILL, batch=3).batch(0)["label"]
    blind = float(((labels - labels.mean(0)) ** 2).sum() / 2 / 3)
    assert np.mean(losses[-10:]) < 0.8 * blind < 0.5 * losses[0]


def test_the_lifting_network_goes_on_from_it(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    maps = train_phase(HEAT_MAPS, data, out, options=TRAINING, seed=3, workers=0)
    frames = SyntheticOptions(
        subjects=("S1",), takes=1, frames=12, run=6, singles=5, image_size=SIZE, actions=("Walking",)
    )
    lists = write(frames, tmp_path / "frames").root
    options = replace(TRAINING, network=replace(NETWORK, hidden=8, projector=9, batch=5), iterations=1)
    lifted = train_phase("2d_to_3d", lists, out, maps, options, seed=3, workers=0)
    assert maps is not None
    assert lifted is not None
    before, after = _weights(maps), _weights(lifted)
    # It leaves the trunk as it was.
    for name in ("conv1_1", "conv4_2", "conv4_7_CPM"):
        np.testing.assert_array_equal(before[name], after[name])
    assert before["Mconv1_stage2"].shape[:2] == (8, 15 + 8 + 1)
    assert "Mconv1_stage2" not in after


def _weights(model: Path) -> dict[str, np.ndarray]:
    with read_weights(model) as weights:
        return {layer.name: np.array(layer.blobs[0].data) for layer in weights.layers if layer.blobs}


class _StopAt:
    """Asks a solver to stop after some iterations."""

    def __init__(self, iterations: int) -> None:
        self.left = iterations

    def __call__(self) -> Action:
        self.left -= 1
        return Action.STOP if self.left == 0 else Action.NONE


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(data: Path, tmp_path: Path) -> None:
    def run(name: str, seed: int | None, requested: Callable[[], Action] | None = None) -> Path | None:
        out = tmp_path / name
        return train_phase(HEAT_MAPS, data, out, options=TRAINING, seed=seed, workers=0, requested=requested)

    whole = run("whole", 7)
    assert run("parts", 7, _StopAt(1)) is None
    parts = run("parts", None)  # the snapshot knows the seed
    assert whole is not None
    assert parts is not None
    assert parts.read_bytes() == whole.read_bytes()
    other = replace(TRAINING, heat_maps=replace(OPTIONS, max_degrees=10.0))
    with pytest.raises(UsageError, match=r"data\.json was written by a run with other settings"):
        train_phase(HEAT_MAPS, data, tmp_path / "parts", options=other)


def _words(data: Path, out: Path, *more: str) -> list[str]:
    words = [HEAT_MAPS, "--data", str(data), "--out", str(out), "--width", "0.02", "--image-size", str(SIZE)]
    words += ["--seed", "1", "--workers", "0", "--batch", "2", "--pictures", "pictures", "--train-list", "mpii.json"]
    return [*words, *more]


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = _words(data, tmp_path / "out", "--iterations", "1", "--gradients", "true")
    with pytest.raises(SystemExit) as leaving:
        main(["train", *words])
    captured = capsys.readouterr()
    assert leaving.value.code == 0, captured.err
    assert captured.out == f"{HEAT_MAPS}: {trained_model(HEAT_MAPS, tmp_path / 'out')}\n"
    for wrong, message in (
        (["mask3d", *words[1:]], f"only {HEAT_MAPS} reads them"),
        ([*words[:-1], "caffe"], "was written by a run with other settings"),
        ([*words, "--device", "cpu", "--require-gpu"], "--device cpu is no GPU (--require-gpu)"),
        ([*words, "--device", "gpu", "--require-gpu"], "--device gpu: "),
    ):
        with pytest.raises(SystemExit) as leaving:
            main(["train", *wrong])
        assert leaving.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_no_gpu_where_one_is_required(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["train", *_words(data, tmp_path / "out", "--require-gpu")])
    assert leaving.value.code == 2
    assert "--device cuda: " in capsys.readouterr().err


def _torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "hpm",
        "train",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_two_processes_train_together_and_go_on(data: Path, tmp_path: Path) -> None:
    more = ("--iterations", "3", "--snapshot", "1")
    together = _torchrun(*_words(data, tmp_path / "two", *more))
    assert together.returncode == 0, together.stderr
    assert together.stdout == f"{HEAT_MAPS}: {trained_model(HEAT_MAPS, tmp_path / 'two')}\n"
    whole = trained_model(HEAT_MAPS, tmp_path / "two").read_bytes()
    # Adam's averages after a step from the same weights: the mean of both batches' gradients. Gradients are clipped, a
    # sum over batches before it is divided by their number.
    one = train_phase(
        HEAT_MAPS,
        data,
        tmp_path / "one",
        options=replace(TRAINING, network=_narrow(), initial="original", learning_rate=None, batches=2, snapshot=1),
        seed=1,
        workers=0,
    )
    assert one is not None
    first = f"{HEAT_MAPS}_iter_1.solverstate"
    alone, two = read_solverstate(tmp_path / "one" / first), read_solverstate(tmp_path / "two" / first)
    for a, b in list(zip(alone.history, two.history, strict=True))[: len(two.history) // 2]:
        np.testing.assert_allclose(2 * a.data, b.data, atol=1e-5 * np.abs(b.data).max() + 1e-12)
    for path in [*(tmp_path / "two").glob("*_iter_[23].*"), trained_model(HEAT_MAPS, tmp_path / "two")]:
        path.unlink()
    again = _torchrun(*_words(data, tmp_path / "two", *more))
    assert again.returncode == 0, again.stderr
    assert f"Restoring previous solver status from {tmp_path / 'two' / first}" in again.stderr
    assert trained_model(HEAT_MAPS, tmp_path / "two").read_bytes() == whole
    wrong = _torchrun(*_words(data, tmp_path / "two", "--iterations", "9"))
    assert wrong.returncode != 0
    assert "was written by a run with other settings" in wrong.stderr


def _narrow() -> NetworkOptions:
    return replace(NETWORK, channels=scaled_channels(0.02))
