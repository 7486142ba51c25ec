"""FlowNet 2's augmentation against definitions with one loop per pixel, and what its draws are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converters
from caffe_compat import CaffeNet, LayerError, WeightsError, load
from caffe_compat.layers.forks.augmentation_coefficients import COEFFICIENTS, NEUTRAL, Chance, Schedule, read, written
from tests.layers.building import build
from tests.networks import write_weights

FLOWNET = "lmb-freiburg/flownet2"
EIGVEC = (0.51, 0.56, 0.65, 0.79, 0.01, -0.62, 0.35, -0.83, 0.44)
AXES = " ".join(f"chromatic_eigvec: {x}" for x in EIGVEC)


def close(found: torch.Tensor, expected: Any, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.detach().cpu().numpy(), np.asarray(expected), rtol=0, atol=atol)


def coefficients(count: int, **changed: list[float]) -> np.ndarray:
    """(count, 42), of which some are as given, one for each picture."""
    values = np.tile(NEUTRAL.double().numpy(), (count, 1))
    for name, column in changed.items():
        values[:, COEFFICIENTS.index(name)] = column
    return values


def as_blob(values: np.ndarray) -> torch.Tensor:
    return written(torch.tensor(values))[:, :, None, None]


def made(text: str, *shapes: tuple[int, ...], **options: Any) -> Any:
    """The layer with blobs of zeros."""
    module = build(text, *shapes, dialect=FLOWNET, **options).to_empty(device="cpu")
    for name in module.blob_names:
        getattr(module, name).zero_()
    return module


def matrices(values: np.ndarray, whole: tuple[int, int], cut: tuple[int, int]) -> list[np.ndarray]:
    """3 x 3, from places in the part to places in the picture, step by step; sizes are (height, width)."""
    found = []
    for row in values:
        c = dict(zip(COEFFICIENTS, row, strict=True))
        sign = -1 if c["mirror"] else 1
        cos, sin = math.cos(c["angle"]), math.sin(c["angle"])
        steps = [
            [[sign, 0, -sign * cut[1] / 2], [0, 1, -cut[0] / 2]],
            [[cos, -sin, 0], [sin, cos, 0]],
            [[1, 0, c["dx"] * cut[1]], [0, 1, c["dy"] * cut[0]]],
            [[1 / c["zoom_x"], 0, 0], [0, 1 / c["zoom_y"], 0]],
            [[1, 0, whole[1] / 2], [0, 1, whole[0] / 2]],
        ]
        matrix = np.eye(3)
        for step in steps:
            matrix = np.vstack([step, [[0, 0, 1]]]) @ matrix
        found.append(matrix)
    return found


def placed(x: np.ndarray, values: np.ndarray, cut: tuple[int, int]) -> np.ndarray:
    height, width = x.shape[2:]
    top = np.zeros((*x.shape[:2], *cut))
    for n, matrix in enumerate(matrices(values, (height, width), cut)):
        for i in range(cut[0]):
            for j in range(cut[1]):
                column, row = (matrix @ [j, i, 1])[:2]
                column, row = max(0, min(column, width - 1.05)), max(0, min(row, height - 1.05))
                left, above = int(column), int(row)
                right, below = column - left, row - above
                four = x[n, :, above : above + 2, left : left + 2]
                weights = np.outer([1 - below, below], [1 - right, right])
                top[n, :, i, j] = (four * weights).sum((1, 2))
    return top


SPATIAL: dict[str, list[float]] = {
    "mirror": [1, 0],
    "dx": [0.1, -0.2],
    "dy": [-0.1, 0.3],
    "angle": [0.3, -0.5],
    "zoom_x": [1.2, 0.8],
    "zoom_y": [0.9, 1.3],
}


@pytest.mark.parametrize("name", [*SPATIAL, "all"])
def test_where_pixels_come_from(name: str, device: torch.device) -> None:
    x = np.random.RandomState(0).uniform(0, 1, (2, 4, 9, 12))
    values = coefficients(2, **(SPATIAL if name == "all" else {name: SPATIAL[name]}))
    text = 'type: "DataAugmentation" augmentation_param { crop_width: 7 crop_height: 5 }'
    module = made(text, x.shape, (2, 42, 1, 1)).to(device)
    given = torch.tensor(x, device=device), as_blob(values).to(device)
    close(module(*given), placed(x, values, (5, 7)), atol=1e-6)
    assert module.infer(*given).shape == (2, 4, 5, 7)


def test_a_picture_that_is_not_cut_loses_a_twentieth_at_its_end() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    cut = made('type: "DataAugmentation" augmentation_param { crop_width: 4 crop_height: 3 }', x.shape)
    close(cut(x)[0, 0, 0], np.array([0, 1, 2, 2.95]), atol=1e-6)
    close(cut(x)[0, 0, :, 0], np.array([0, 4, 7.8]), atol=1e-5)
    assert cut(x)[0, 0, 0, 3] == pytest.approx(2.95)
    # Without sizes, or with one of them, nothing happens at all.
    for text in ("", "crop_width: 2", "crop_height: 2"):
        whole = made(f'type: "DataAugmentation" augmentation_param {{ {text} }}', x.shape)
        assert torch.equal(whole(x), x)


def coloured(x: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """In the order of the fork: colours along axes, then the others, then a shadow."""
    top = x.copy()
    vectors, height, width = np.reshape(EIGVEC, (3, 3)), x.shape[2], x.shape[3]
    everything = np.stack([vectors @ pixel for pixel in x.transpose(0, 2, 3, 1).reshape(-1, 3)])
    extent, mean = np.abs(everything).max(0), x.mean((0, 2, 3))
    reach = math.sqrt((extent**2).sum())
    for n, row in enumerate(values):
        c = dict(zip(COEFFICIENTS, row, strict=True))
        for i in range(height):
            for j in range(width):
                e = vectors @ (x[n, :, i, j] - mean) / extent
                for k in range(3):
                    e[k] = math.copysign(abs(e[k]) ** c[f"pow_nomean{k}"], e[k]) + c[f"add_nomean{k}"]
                    e[k] = e[k] * c[f"mult_nomean{k}"] + (vectors @ mean / extent)[k]
                e[0] = (math.copysign(abs(e[0]) ** c["pow_withmean0"], e[0]) + c["add_withmean0"]) * c["mult_withmean0"]
                length = math.hypot(e[1], e[2])
                target = max(length ** c["pow_withmean1"] + c["add_withmean1"], 0) * c["mult_withmean1"]
                cos, sin = math.cos(c["col_angle"]), math.sin(c["col_angle"])
                e[1], e[2] = cos * e[1] - sin * e[2], sin * e[1] + cos * e[2]
                e = e * extent
                light = max((np.linalg.norm(e) / reach) ** c["lmult_pow"] + c["lmult_add"], 0) * c["lmult_mult"] * reach
                e[1:] *= target / length
                e = np.minimum(e / np.linalg.norm(e) * light, extent)
                rgb = np.clip(vectors.T @ e, 0, largest)
                y = rgb * [c["color1"], c["color2"], c["color3"]]
                y = np.clip(y * rgb.sum() / (y.sum() + 0.01), 0, 1) ** c["gamma"] + c["brightness"]
                y = np.clip(0.5 + (y - 0.5) * c["contrast"], 0, largest)
                right, below = j - width // 2, i - height // 2
                line = right * math.cos(c["shadow_angle"]) + below * math.sin(c["shadow_angle"])
                y = np.clip(y - (c["shadow_strength"] if line > c["shadow_distance"] else 0), 0, largest)
                top[n, :, i, j] = y
    return top


COLOURS: dict[str, list[float]] = {
    **{f"{kind}_nomean{k}": [1.1 + 0.1 * k, 0.8] for k in range(3) for kind in ("pow", "mult")},
    **{f"add_nomean{k}": [0.05, -0.03 * k] for k in range(3)},
    "pow_withmean0": [1.2, 0.7],
    "add_withmean0": [0.1, -0.1],
    "mult_withmean0": [0.9, 1.1],
    "pow_withmean1": [0.9, 1.3],
    "add_withmean1": [0.02, -0.02],
    "mult_withmean1": [1.2, 0.8],
    "lmult_pow": [0.8, 1.2],
    "lmult_add": [0.1, -0.05],
    "lmult_mult": [1.1, 0.9],
    "col_angle": [0.4, -0.3],
    "gamma": [0.7, 1.4],
    "brightness": [0.1, -0.05],
    "contrast": [1.3, 0.6],
    "color1": [0.9, 1.1],
    "color2": [1.2, 0.8],
    "color3": [0.7, 1.0],
    "shadow_angle": [0.5, 2.0],
    "shadow_distance": [1.0, -1.0],
    "shadow_strength": [0.2, 0.3],
}


@pytest.mark.parametrize("groups", [("_nomean", "_withmean", "lmult", "col_"), ("",)])
def test_colours(groups: tuple[str, ...], device: torch.device) -> None:
    x = np.random.RandomState(0).uniform(0.05, 0.9, (2, 3, 5, 6))
    changed = {name: values for name, values in COLOURS.items() if any(part in name for part in groups)}
    if groups != ("",):
        changed |= {"gamma": [1.01, 1.01]}  # the definition always bounds what it adds last
    values = coefficients(2, **changed)
    text = f'type: "DataAugmentation" augmentation_param {{ crop_width: 6 crop_height: 5 max_multiplier: 0.8 {AXES} }}'
    module = made(text, x.shape, (2, 42, 1, 1)).to(device)
    found = module(torch.tensor(x, device=device), as_blob(values).to(device))
    expected = coloured(x, values, 0.8)
    # The last row and column are between pixels.
    close(found[:, :, :-1, :-1], expected[:, :, :-1, :-1], atol=1e-5)


@pytest.mark.parametrize("name", ["gamma", "col_angle", "shadow_strength"])
def test_colours_are_of_three_channels(name: str) -> None:
    text = 'type: "DataAugmentation" augmentation_param { crop_width: 2 crop_height: 2 ' + AXES + " }"
    module = made(text, (1, 2, 3, 4), (1, 42))
    with pytest.raises(LayerError, match="they have 2 channels, not 3"):
        module(torch.ones(1, 2, 3, 4), as_blob(coefficients(1, **{name: [1.5]})))


def test_axes_have_to_be_given() -> None:
    text = 'type: "DataAugmentation" augmentation_param { crop_width: 2 crop_height: 2 }'
    module = made(text, (1, 3, 3, 4), (1, 42))
    with pytest.raises(LayerError, match="nine numbers of chromatic_eigvec"):
        module(torch.ones(1, 3, 3, 4), as_blob(coefficients(1, col_angle=[1.5])))


NET = """
layer {{ name: "data" type: "Input" top: "data"
        input_param {{ shape {{ dim: 2 dim: 3 dim: {height} dim: {width} }} }} }}
layer {{ name: "aug" type: "DataAugmentation" bottom: "data" top: "aug"
        augmentation_param {{ crop_width: {width} crop_height: {height} recompute_mean: {passes} {more} }} }}
"""


def network(tmp_path: Path, passes: int, more: str = "", size: tuple[int, int] = (4, 6)) -> Path:
    path = tmp_path / f"{size}.prototxt"
    path.write_text(NET.format(height=size[0], width=size[1], passes=passes, more=more))
    return path


def weights(tmp_path: Path, passes: int, image: np.ndarray, channels: np.ndarray) -> Path:
    blobs = [np.full((1, 1, 1, 1), passes, np.float32), image.astype(np.float32), channels.astype(np.float32)]
    return write_weights(tmp_path / "w.caffemodel", [("aug", blobs)])


@pytest.mark.parametrize("per_pixel", [True, False])
def test_the_mean_is_learned_in_the_first_passes(tmp_path: Path, per_pixel: bool) -> None:
    net = load(network(tmp_path, 2, f"mean_per_pixel: {str(per_pixel).lower()}"), dialect=FLOWNET)
    random = np.random.RandomState(0)
    image = np.zeros((3, 4, 6))
    for count in range(1, 4):
        x = random.uniform(0, 1, (2, 3, 4, 6))
        cut = placed(x, coefficients(2), (4, 6))
        if count <= 2:
            image += (cut.mean(0) - image) / count
        mean = image if per_pixel else image.mean((1, 2), keepdims=True)
        close(net(data=torch.tensor(x, dtype=torch.float32))["aug"], cut - mean, atol=1e-5)
    assert float(net.aug.passes) == 2  # counted as long as it matters
    close(net.aug.mean, image.mean((1, 2))[None, :, None, None], atol=1e-5)


@pytest.mark.parametrize("per_pixel", [True, False])
@pytest.mark.parametrize("stored", [(4, 6), (3, 5)])
def test_a_stored_mean_is_subtracted_whatever_its_size(
    tmp_path: Path, per_pixel: bool, stored: tuple[int, int]
) -> None:
    random = np.random.RandomState(0)
    image = random.uniform(0, 1, (1, 3, *stored))
    model = weights(tmp_path, 1000, image, image.mean((2, 3), keepdims=True))
    net = load(network(tmp_path, 100, f"mean_per_pixel: {str(per_pixel).lower()}"), model, dialect=FLOWNET)
    x = random.uniform(0, 1, (2, 3, 4, 6))
    mean = image[0] if per_pixel and stored == (4, 6) else image[0].mean((1, 2), keepdims=True)
    expected = placed(x, coefficients(2), (4, 6)) - mean
    for _ in range(2):
        close(net(data=torch.tensor(x, dtype=torch.float32))["aug"], expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "py"])
def test_a_net_whose_mean_is_learned_goes_out(tmp_path: Path, suffix: str) -> None:
    image = np.random.RandomState(0).uniform(0, 1, (1, 3, 4, 6))
    model = weights(tmp_path, 1000, image, image.mean((2, 3), keepdims=True))
    net = load(network(tmp_path, 100), model, dialect=FLOWNET)
    done = converters.export(net, tmp_path / f"net.{suffix}")
    assert done.verification is not None
    assert done.verification.worst_rel < 1e-6
    assert float(net.aug.passes) == 1000
    new = load(network(tmp_path, 100), dialect=FLOWNET, seed=1)
    with pytest.raises(LayerError, match=r"'aug' \(DataAugmentation\): learns its mean in the first passes"):
        converters.export(new, tmp_path / f"new.{suffix}")
    assert not (tmp_path / f"new.{suffix}").exists()
    assert float(new.aug.passes) == 0


def test_a_stored_mean_of_other_channels_is_refused(tmp_path: Path) -> None:
    model = weights(tmp_path, 1, np.zeros((1, 2, 4, 6)), np.zeros((1, 3, 1, 1)))
    with pytest.raises(WeightsError, match=r"blob 1 \(mean_image\): the file has shape \[1, 2, 4, 6\]"):
        load(network(tmp_path, 100), model, dialect=FLOWNET)


def test_a_mean_that_is_given_is_one_of_the_channels() -> None:
    x = torch.rand(2, 3, 4, 5)
    text = 'type: "DataAugmentation" augmentation_param { mean: 0.1 mean: 0.2 mean: 0.3 mean_per_pixel: %s }'
    subtracts = made(text % "false", x.shape)
    close(subtracts(x), (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]).numpy())
    assert torch.equal(made(text % "true", x.shape)(x), x)  # as in the fork
    with pytest.raises(LayerError, match="a mean of 3 channels from pictures of 2"):
        build(text % "false", (1, 2, 3, 4), dialect=FLOWNET)


# What is drawn


def drawn(settings: str, count: int = 200, phase: str = "TRAIN", **options: Any) -> dict[str, np.ndarray]:
    """Coefficients of many pictures by name."""
    text = f'type: "DataAugmentation" augmentation_param {{ crop_width: 8 crop_height: 6 {settings} {AXES} }}'
    module = made(text, (count, 3, 12, 16), tops=2, phase=phase, **options)
    torch.manual_seed(0)
    blob = module(torch.full((count, 3, 12, 16), 0.5))[1]
    assert blob.shape == (count, 42, 1, 1)
    return dict(zip(COEFFICIENTS, read(blob).T.numpy(), strict=True))


def changed(values: dict[str, np.ndarray]) -> set[str]:
    return {
        name
        for name, column in values.items()
        if np.abs(column - NEUTRAL[COEFFICIENTS.index(name)].item()).max() > 1e-6
    }


DRAWS = {
    "translate": ({"dx", "dy"}, "spread: 0.1"),
    "translate_x": ({"dx"}, "spread: 0.1"),
    "translate_y": ({"dy"}, "mean: 0.05"),
    "rotate": ({"angle"}, 'rand_type: "gaussian" spread: 0.1'),
    "zoom": ({"zoom_x", "zoom_y"}, "exp: true mean: 0.1 spread: 0.1"),
    "squeeze": ({"zoom_x", "zoom_y"}, "exp: true spread: 0.1"),
    "mirror": ({"mirror"}, 'rand_type: "bernoulli" prob: 0.5'),
    "gamma": ({"gamma"}, "mean: 1 spread: 0.1"),
    "brightness": ({"brightness"}, "spread: 0.1"),
    "contrast": ({"contrast"}, "mean: 1 spread: 0.1"),
    "color": ({"color1", "color2", "color3"}, "mean: 1 spread: 0.1"),
    "lmult_pow": ({"lmult_pow"}, "mean: 1 spread: 0.1"),
    "lmult_mult": ({"lmult_mult"}, "mean: 1 spread: 0.1"),
    "lmult_add": ({"lmult_add"}, "spread: 0.1"),
    "sat_pow": ({"pow_withmean1", "pow_withmean2"}, "mean: 1 spread: 0.1"),
    "sat_mult": ({"mult_withmean1", "mult_withmean2"}, "mean: 1 spread: 0.1"),
    "sat_add": ({"add_withmean1", "add_withmean2"}, "spread: 0.1"),
    "col_pow": ({"pow_nomean1", "pow_nomean2"}, "mean: 1 spread: 0.1"),
    "col_mult": ({"mult_nomean1", "mult_nomean2"}, "mean: 1 spread: 0.1"),
    "col_add": ({"add_nomean1", "add_nomean2"}, "spread: 0.1"),
    "ladd_pow": ({"pow_nomean0"}, "mean: 1 spread: 0.1"),
    "ladd_mult": ({"mult_nomean0"}, "mean: 1 spread: 0.1"),
    "ladd_add": ({"add_nomean0"}, "spread: 0.1"),
    "col_rotate": ({"col_angle"}, "spread: 0.1"),
    "fog_amount": ({"fog_amount"}, "mean: 0.1"),
    "fog_size": ({"fog_size"}, "mean: 0.1"),
    "motion_blur_angle": ({"motion_blur_angle"}, "spread: 0.1"),
    "motion_blur_size": ({"motion_blur_size"}, "mean: 0.1"),
    "shadow_angle": ({"shadow_angle"}, "spread: 0.1"),
    "shadow_distance": ({"shadow_distance"}, "spread: 0.1"),
    "shadow_strength": ({"shadow_strength"}, "mean: 0.1"),
    "noise": ({"noise"}, "mean: 0.1"),
}


@pytest.mark.parametrize("setting", DRAWS)
def test_each_setting_draws_its_coefficients(setting: str) -> None:
    names, how = DRAWS[setting]
    values = drawn(f"{setting} {{ {how} }}", 20)
    assert changed(values) == names
    if setting.startswith("sat"):  # one number for both
        one, other = (values[name] for name in sorted(names))
        np.testing.assert_array_equal(one, other)
    if setting in ("translate", "color", "col_pow"):
        one, other = (values[name] for name in sorted(names)[:2])
        assert (one != other).any()
    # Nothing is drawn in a net for use, unless it is asked for.
    assert not changed(drawn(f"{setting} {{ {how} }}", 5, phase="TEST"))
    assert changed(drawn(f"{setting} {{ {how} }} augment_during_test: true", 20, phase="TEST")) == names


@pytest.mark.parametrize(
    ("how", "least", "mean", "most"),
    [
        ("mean: 0.5 spread: 0.2", 0.3, 0.5, 0.7),
        ("mean: 0.5 spread: 0.2 exp: true", math.exp(0.3), 1.66, math.exp(0.7)),
        ("mean: 0.5 spread: 0.2 multiplier: 3", 0.9, 1.5, 2.1),
        ("mean: 0.5 spread: 3.4 discretize: true", -3, 0.5, 4),
        ('rand_type: "bernoulli" prob: 0.3', 0, 0.3, 1),
        ('rand_type: "bernoulli" prob: 0', 0, 0, 0),
        ('rand_type: "uniform_bernoulli" mean: 0.5 spread: 0.2 prob: 0.3', 0, 0.15, 0.7),
        ('rand_type: "gaussian_bernoulli" mean: 2 spread: 0.01 prob: 0.6', 0, 1.2, 2.1),
        ('rand_type: "uniform_bernoulli" mean: 0.5 prob: 0.3 exp: true', 1, 1.19, math.exp(0.5)),
        ('rand_type: "gaussian" mean: 0.5 spread: 0.01', 0.4, 0.5, 0.6),
    ],
)
def test_kinds_of_draws(how: str, least: float, mean: float, most: float) -> None:
    values = drawn(f"brightness {{ {how} }}", 400)["brightness"]
    assert least - 1e-6 <= values.min()
    assert values.max() <= most + 1e-6
    assert values.mean() == pytest.approx(mean, abs=0.35 if "3.4" in how else 0.1)
    if "prob: 0.3" in how:
        assert len(np.unique(values)) >= 2
    if "discretize" in how:
        assert set(values) <= set(range(-3, 5))


def test_where_a_coin_says_no_places_stay_what_they_are() -> None:
    zoom = drawn('zoom { rand_type: "uniform_bernoulli" mean: 0.1 prob: 0.4 exp: true multiplier: 1.02 }')["zoom_x"]
    found, counts = np.unique(zoom.round(4), return_counts=True)
    assert list(found) == [1, round(1.02 * math.exp(0.1), 4)]  # not 1.02: the multiplier is of what is drawn
    assert 0.3 < counts[1] / len(zoom) < 0.5


def test_a_mirror_is_a_yes_or_no() -> None:
    def share(how: str) -> float:
        return float(drawn(f"mirror {{ {how} }}", 100)["mirror"].mean())

    assert (share("mean: 0.2"), share("mean: 0"), share("mean: 1 multiplier: 0"), share("exp: true")) == (1, 0, 0, 1)
    assert share("mean: 0 spread: 1") == 0  # the fork spreads nothing
    assert share("mean: 0 spread: 1 apply_schedule: false") == 1  # any number but 0 is a yes
    assert share('rand_type: "uniform_bernoulli" mean: 1 prob: 0') == 0


def test_draws_are_spread_further_as_passes_go_by() -> None:
    schedule = "coeff_schedule_param { half_life: 2 initial_coeff: 0 final_coeff: 4 }"
    text = 'type: "DataAugmentation" augmentation_param { crop_width: 2 crop_height: 2 brightness { spread: 0.1 %s } } '
    for how, wanted in (
        ("", [4 * (2 / (1 + math.exp(-1.0986 * n / 2)) - 1) for n in (1, 2, 3)]),
        ("apply_schedule: false", [1] * 3),
    ):
        module = made(text % how + schedule, (500, 3, 2, 2), tops=2, phase="TRAIN")
        torch.manual_seed(0)
        for discount in wanted:
            brightness = module(torch.full((500, 3, 2, 2), 0.5))[1][:, COEFFICIENTS.index("brightness")]
            assert float(brightness.abs().max()) == pytest.approx(0.1 * discount, rel=0.02)
    assert Schedule(0, 1, 3).discount(3) == pytest.approx(0.5, abs=1e-4)


def test_corners_come_from_within_the_picture() -> None:
    values = drawn("rotate { spread: 0.5 } translate { spread: 0.6 } mirror { mean: 1 }", 100)
    rows = np.stack([values[name] for name in COEFFICIENTS], 1)
    for matrix in matrices(rows, (12, 16), (6, 8)):
        corners = matrix[:2] @ [[0, 0, 7, 7], [0, 5, 0, 5], [1, 1, 1, 1]]
        assert (np.floor(corners) >= 0).all()
        assert (np.floor(corners) <= [[14], [10]]).all()
    # Where no draw does, nothing is done.
    assert not changed(drawn("translate { mean: 3 }", 5))


def test_noise_is_as_strong_as_drawn() -> None:
    text = 'type: "DataAugmentation" augmentation_param { crop_width: 40 crop_height: 40 max_multiplier: 1 }'
    module = made(text, (2, 3, 40, 40), (2, 42))
    torch.manual_seed(0)
    noisy = module(torch.full((2, 3, 40, 40), 0.5), as_blob(coefficients(2, noise=[0.1, 0])))
    assert float(noisy[0].std()) == pytest.approx(0.1, rel=0.05)
    assert float(noisy[1].std()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mode", ["add", "replace", "regenerate"])
def test_coefficients_on_top_of_others(mode: str) -> None:
    text = (
        f'type: "GenerateAugmentationParameters" augmentation_param {{ mode: "{mode}" augment_during_test: true '
        "rotate { mean: 0.1 } zoom { mean: 1.1 } gamma { mean: 1.2 } brightness { mean: 0.3 } noise { mean: 0.1 } }"
    )
    before = coefficients(
        3, angle=[0.05] * 3, zoom_x=[1.2] * 3, dx=[0.02] * 3, gamma=[1.5] * 3, noise=[0.2] * 3, contrast=[2.0] * 3
    )
    module = made(text, (3, 42, 1, 1), (3, 3, 60, 80), (3, 3, 30, 40))
    after = read(module(as_blob(before).float(), torch.zeros(3, 3, 60, 80), torch.zeros(3, 3, 30, 40)))
    expected = {
        "add": {
            "angle": 0.15,
            "zoom_x": 1.32,
            "zoom_y": 1.1,
            "dx": 0.02,
            "gamma": 1.8,
            "noise": 0.3,
            "contrast": 2,
            "brightness": 0.3,
        },
        "replace": {
            "angle": 0.1,
            "zoom_x": 1.1,
            "zoom_y": 1.1,
            "gamma": 1.2,
            "noise": 0.1,
            "contrast": 2,
            "brightness": 0.3,
        },
        "regenerate": {"angle": 0.1, "zoom_x": 1.1, "zoom_y": 1.1, "gamma": 1.2, "noise": 0.1, "brightness": 0.3},
    }[mode]
    close(after, coefficients(3, **{name: [value] * 3 for name, value in expected.items()}), atol=1e-5)
    # In a net for use they are passed on, or there are none.
    quiet = made(text.replace("augment_during_test: true", ""), (3, 42, 1, 1), (3, 3, 60, 80), (3, 3, 30, 40))
    passed = read(quiet(as_blob(before).float(), torch.zeros(3, 3, 60, 80), torch.zeros(3, 3, 30, 40)))
    close(passed, coefficients(3) if mode == "regenerate" else before, atol=1e-5)


def test_coefficients_for_pictures() -> None:
    settings = "crop_width: 40 crop_height: 30 translate_x { spread: 2 }"
    text = f'type: "GenerateAugmentationParameters" augmentation_param {{ {settings} }}'
    schedule = " coeff_schedule_param { half_life: 1 initial_coeff: 0.1 final_coeff: 0.2 }"
    module = made(text + schedule, (50, 3, 60, 80), phase="TRAIN")
    torch.manual_seed(0)
    spans = [float(module(torch.zeros(50, 3, 60, 80))[:, 1].abs().max()) for _ in range(5)]
    assert spans[0] < spans[-1] < 0.5  # half of a picture lies around what is cut out
    assert module.passes == 5
    module.reset_state()
    assert module.passes == 0
    small = 'crop_width: 40 crop_height: 30 bottomwidth: 80 bottomheight: 60 mode: "add" translate_x { mean: 0.1 }'
    module = made(
        f'type: "GenerateAugmentationParameters" augmentation_param {{ {small} }}', (2, 42, 1, 1), phase="TRAIN"
    )
    close(read(module(as_blob(coefficients(2, dx=[0.2, 0])).float()))[:, 1], np.array([0.3, 0.1]), atol=1e-6)


def test_a_flow_between_changed_pictures() -> None:
    random = np.random.RandomState(0)
    flow = random.uniform(-2, 2, (2, 2, 20, 24))
    first = coefficients(2, angle=[0.1, -0.1], dx=[0.05, 0], mirror=[0, 1], zoom_x=[1.1, 1.2])
    second = coefficients(2, angle=[0.2, 0.1], dy=[0.05, -0.1], zoom_y=[0.9, 1.1])
    text = 'type: "FlowAugmentation" augmentation_param { crop_width: 12 crop_height: 10 }'
    module = made(text, flow.shape, (2, 42, 1, 1), (2, 42, 1, 1))
    expected = np.zeros((2, 2, 10, 12))
    pairs = zip(*(matrices(values, (20, 24), (10, 12)) for values in (first, second)), strict=True)
    for n, (one, other) in enumerate(pairs):
        for i in range(10):
            for j in range(12):
                at = one @ [j, i, 1]
                moved = at + np.append(flow[n, :, int(at[1] + 0.5), int(at[0] + 0.5)], 0)
                expected[n, :, i, j] = (np.linalg.inv(other) @ moved)[:2] - [j, i]
    close(module(torch.tensor(flow), as_blob(first), as_blob(second)), expected, atol=1e-5)
    same = module(torch.tensor(flow), *2 * [as_blob(coefficients(2))])
    np.testing.assert_allclose(same.numpy(), flow[:, :, 5:15, 6:18])


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("DataAugmentation { crop_width: 9 crop_height: 2 }", [(1, 3, 4, 5)], "cuts 9 x 2 .* pictures of 5 x 4"),
        ("DataAugmentation { crop_width: 0 crop_height: 2 }", [(1, 3, 4, 5)], "crop_width is 0 and crop_height 2"),
        ("DataAugmentation { }", [(1, 3, 4)], r"\(images, channels, height, width\) was expected"),
        ("DataAugmentation { crop_width: 2 crop_height: 2 }", [(2, 3, 4, 5), (2, 41)], "coefficients = 42"),
        ("DataAugmentation { chromatic_eigvec: 1 }", [(2, 3, 4, 5)], "chromatic_eigvec has 1 numbers; 9"),
        (
            'DataAugmentation { zoom { rand_type: "cauchy" } }',
            [(2, 3, 4, 5)],
            "zoom: rand_type 'cauchy'; one of uniform",
        ),
        (
            "DataAugmentation { crop_width: 1 crop_height: 2 augment_during_test: true rotate { } }",
            [(2, 3, 4, 5)],
            "where the corners of 1 x 2 pixels come from",
        ),
        ("GenerateAugmentationParameters { }", [(1, 3, 4, 5)], "needs crop_width and crop_height"),
        ("GenerateAugmentationParameters { }", 2 * [(1, 42)], "has 2 bottoms; 1 or 3"),
        ('GenerateAugmentationParameters { mode: "put" }', [(1, 42)], "mode is 'put'; add, replace"),
        ("GenerateAugmentationParameters { crop_width: 2 crop_height: 2 }", [(1, 42)], "needs bottomwidth"),
        ("FlowAugmentation { crop_width: 2 }", [(1, 2, 4, 5), (1, 42), (1, 42)], "crop_width is 2 and crop_height 0"),
        ("FlowAugmentation { crop_width: 2 crop_height: 2 }", [(1, 3, 4, 5), (1, 42), (1, 42)], "images, 2"),
        ("FlowAugmentation { crop_width: 2 crop_height: 2 }", [(2, 2, 4, 5), (2, 42), (1, 42)], "images = 2"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    kind, _, settings = text.partition(" ")
    with pytest.raises(LayerError, match=message):
        build(f'type: "{kind}" augmentation_param {settings}', *shapes, dialect=FLOWNET)


def test_a_half_life_is_above_zero() -> None:
    with pytest.raises(LayerError, match="half_life is 0"):
        build('type: "DataAugmentation" coeff_schedule_param { half_life: 0 }', (1, 3, 4, 5), dialect=FLOWNET)


def test_draws_depend_on_the_seed(tmp_path: Path) -> None:
    text = network(tmp_path, 0, "brightness { spread: 0.1 }").read_text()
    (tmp_path / "n.prototxt").write_text(text)

    def top(seed: int) -> torch.Tensor:
        net: CaffeNet = load(tmp_path / "n.prototxt", dialect=FLOWNET, phase="train", seed=seed)
        net.randomness.seed = seed
        return net(data=torch.full((2, 3, 4, 6), 0.5))["aug"]

    assert torch.equal(top(1), top(1))
    assert not torch.equal(top(1), top(2))
    assert Chance(torch.Generator().manual_seed(1)).uniform(1, 0.5) == Chance(torch.Generator().manual_seed(1)).uniform(
        1, 0.5
    )
