"""The pose machine's networks: equal to the original definitions, of the right size, and runnable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat import CaffeNet
from caffe_compat.access import FileAccess
from caffe_compat.errors import UsageError
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.network.graph import NetState
from caffe_compat.network.loading import build_net
from caffe_compat.parity.reference import verify_net
from caffe_compat.schema import is_repeated
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import parse_message, read_message
from hpm.networks import NETWORKS, ORIGINAL, NetworkOptions, define, scaled_channels
from tests.hpm.seeded import frame, seeded_net

# A folder with the prototxts that the authors released, which are not part of this project.
SEED = Path(os.environ.get("HPM_ORIGINALS", "originals"))
SMALL = NetworkOptions(
    image_size=64, batch=3, mpii_batch=2, test_batch=5, channels=(4, 5, 6, 7, 8, 9), hidden=11, projector=13
)

# Name of the original definition by name of the network.
ORIGINALS = {
    "2d_to_3d": "bilstm",
    "3d_to_2d": "addsrr",
    "finetune_whole": "finetune_whole",
    "mask3d": "mask3d",
    "deploy": "tools_deploy",
    "template_16_merge": "template_16_merge",
    "train_test_cpm": "train_test_cpm",
    "pose_train_test_from_release": "pose_train_test_from_release",
}

# Files are the user's, so only that a path is given is compared.
PATHS = {"source", "root_folder", "max_min_source", "save_filepath", "save_path"}

# What else differs, with the original's value and ours. CPMData's own parameters have nothing to differ from.
EXCEPTIONS: dict[str, dict[str, tuple[object, object]]] = {
    # The definition is a template; its batch size is the word BATCH.
    "template_16_merge": {"layer[0].image_data_lstm_param.batch_size": (None, 5)},
    # The fork's SavePath takes one bottom and refuses two.
    "train_test_cpm": {"layer[38].bottom[1]": ("clip", None)},
    "pose_train_test_from_release": {
        "layer[0].type": ("CPMData", "Input"),
        "layer[0].input_param": (None, "a message"),
        **{f"layer[0].input_param.shape[{i}]": (None, "a message") for i in range(2)},
        **{f"layer[0].input_param.shape[0].dim[{i}]": (None, n) for i, n in enumerate((4, 4, 368, 368))},
        **{f"layer[0].input_param.shape[1].dim[{i}]": (None, n) for i, n in enumerate((4, 30, 46, 46))},
    },
}


def _fields(message: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every field that is set, by its path."""
    for field, value in message.ListFields():
        many = is_repeated(field)
        for i, item in enumerate(value if many else [value]):
            path = f"{prefix}{field.name}[{i}]" if many else f"{prefix}{field.name}"
            if field.message_type is not None:
                yield path, "a message"
                yield from _fields(item, path + ".")
            else:
                yield path, "a path" if field.name in PATHS else item


@pytest.mark.skipif(not SEED.is_dir(), reason="set HPM_ORIGINALS to the folder of the original definitions")
@pytest.mark.parametrize("name", ORIGINALS)
def test_equals_the_original_definition(name: str) -> None:
    theirs = read_message(SEED / f"{ORIGINALS[name]}.prototxt").message
    ours = NETWORKS[name](ORIGINAL)
    assert [(layer.name, layer.type) for layer in ours.layer][1:] == [(x.name, x.type) for x in theirs.layer][1:]
    expected, found = dict(_fields(theirs)), dict(_fields(ours))
    differences = {
        path: (expected.get(path), found.get(path))
        for path in {**expected, **found}
        if expected.get(path) != found.get(path)
    }
    if name == "pose_train_test_from_release":
        own = ("layer[0].transform_param", "layer[0].cpmdata_param")
        differences = {path: values for path, values in differences.items() if not path.startswith(own)}
    assert differences == EXCEPTIONS.get(name, {})


def _bare(name: str, phase: str, options: NetworkOptions = ORIGINAL) -> CaffeNet:
    definition = define(name, options)
    return CaffeNet(definition.message, NetState(phase), dialect=definition.schema.name)


def test_every_network_has_a_size_below() -> None:
    assert {name for name, *_ in SIZES} == set(NETWORKS)


# Network, phase, number of weights and biases, of layers that have any, and the shapes of its inputs.
_FRAMES = {"data": (5, 3, 368, 368), "label_clip": (5, 81)}
_MIXED = {
    "datah36m": (5, 3, 368, 368),
    "labelh36m": (5, 81),
    "datampii": (3, 3, 368, 368),
    "labelmpii": (3, 33),
}
SIZES = [
    ("2d_to_3d", "TRAIN", 40168176, 23, _FRAMES),
    ("2d_to_3d", "TEST", 40168176, 23, _FRAMES),
    ("3d_to_2d", "TRAIN", 42449728, 29, _MIXED),
    ("3d_to_2d", "TEST", 42449728, 29, _FRAMES),
    ("finetune_whole", "TRAIN", 42449728, 29, _MIXED),
    ("finetune_whole", "TEST", 42449728, 29, _FRAMES),
    ("mask3d", "TRAIN", 42449728, 29, _MIXED),
    ("mask3d", "TEST", 42449728, 29, {"data": (4, 3, 368, 368), "label_clip": (4, 81)}),
    ("deploy", "TEST", 42449728, 29, {"data": (4, 3, 368, 368), "clip": (4, 1)}),
    ("template_16_merge", "TEST", 44615520, 33, _FRAMES),
    # 2d_to_3d with 16 outputs fewer of 1024 weights and a bias.
    ("pose_2d", "TRAIN", 40168176 - 16 * 1025, 23, _FRAMES),
    ("pose_2d", "TEST", 40168176 - 16 * 1025, 23, _FRAMES),
    ("train_test_cpm", "TRAIN", 18319586, 16, {"data": (1, 3, 368, 368), "label_clip": (1, 36)}),
    ("train_test_cpm", "TEST", 18319586, 16, {"data": (1, 3, 368, 368), "label_clip": (1, 36)}),
    (
        "pose_train_test_from_release",
        "TRAIN",
        13317982,
        24,
        {"data": (4, 4, 368, 368), "label": (4, 30, 46, 46)},
    ),
]


@pytest.mark.parametrize(("name", "phase", "count", "layers", "inputs"), SIZES)
def test_sizes(name: str, phase: str, count: int, layers: int, inputs: dict[str, tuple[int, ...]]) -> None:
    net = _bare(name, phase)
    assert net.warnings == []
    assert sum(p.numel() for p in net.parameters()) == count
    assert len(net.nodes_with_blobs()) == layers
    assert net.input_shapes == inputs


def test_shapes_inside() -> None:
    net = _bare("deploy", "TEST")
    shapes = dict(zip(net.graph.blobs, net.shapes, strict=True))
    assert shapes["conv4_7_CPM"] == (4, 128, 46, 46)
    assert shapes["fa_conv_1"] == (4, 128, 22, 22)
    assert shapes["fa_conv_2"] == (4, 128, 10, 10)
    assert shapes["lstm2"] == (4, 1, 1024)
    assert [shapes[b] for b in ("3dpredict", "change", "residual1", "project_2d")] == [
        (4, 48),
        (4, 48),
        (4, 1024),
        (4, 32),
    ]


def test_learning_rates_by_phase_of_training() -> None:
    """The trunk stands still in the first phase; the last layers learn faster than the rest."""
    first = _bare("2d_to_3d", "TRAIN").param_specs
    assert {spec.lr_mult for name, spec in first.items() if name.startswith("conv")} == {0.0}
    assert [first[f"fc-final_16.{part}"].lr_mult for part in ("weight", "bias")] == [10, 20]
    last = _bare("mask3d", "TRAIN").param_specs
    assert [last[f"project_2d.{part}"].lr_mult for part in ("weight", "bias")] == [2, 1]
    assert {spec.decay_mult for name, spec in last.items() if name.startswith("conv") and name.endswith("bias")} == {0}


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("3d_to_2d", {"change", "project_2d"}),
        ("finetune_whole", {"conv1_1", "special_conv_1", "lstm1", "fc-final_16", "change", "project_2d"}),
        ("mask3d", {"special_conv_1", "lstm1", "fc-final_16", "change", "project_2d"}),
    ],
)
def test_where_gradients_reach(name: str, reached: set[str]) -> None:
    options = replace(SMALL, bounds="max_min.csv")
    net = seeded_net(define(name, options), "TRAIN", FileAccess(Path(__file__).parents[3] / "reference_outputs"))
    draw = np.random.RandomState(0)
    inputs = {k: torch.from_numpy(draw.uniform(-0.5, 1, s).astype(np.float32)) for k, s in net.input_shapes.items()}
    net.loss(net.values(inputs)).backward()
    layers = ("conv1_1", "special_conv_1", "lstm1", "fc-final_16", "change", "project_2d")
    learned = {layer for layer in layers if any(p.grad is not None for p in net.get_submodule(layer).parameters())}
    assert learned == reached
    assert all(bool(net.get_submodule(layer).weight.grad.any()) for layer in reached - {"lstm1"})


@pytest.mark.parametrize("name", NETWORKS)
def test_options_change_sizes_everywhere(name: str) -> None:
    for phase in ("TRAIN", "TEST"):
        if (name, phase) == ("template_16_merge", "TRAIN"):
            continue
        net = _bare(name, phase, SMALL)
        widths = {p.shape[0] for p in net.parameters() if p.dim() == 4}
        assert widths <= {4, 5, 6, 7, 8, 9, 15}
        assert max(p.shape[0] for p in net.parameters()) <= 48
        assert all(shape[-1] in (64, 8) for shape in net.input_shapes.values() if len(shape) == 4)
        batch = 3 if phase == "TRAIN" or name == "pose_train_test_from_release" else 5
        batch = 5 if name == "deploy" else batch
        assert {shape[0] for k, shape in net.input_shapes.items() if "mpii" not in k} == {batch}


def test_narrow_network_is_the_recorded_one(reference: Path, device: torch.device) -> None:
    """The narrow model that real Caffe wrote and ran fits the network of the same sizes and gives the same numbers."""
    options = NetworkOptions(image_size=64, channels=(8, 16, 32, 48, 32, 16), hidden=64, projector=64)
    folder = reference / "tiny_mask3d"
    net, report = build_net(define("deploy", options), folder / "tiny_mask3d.caffemodel")
    assert report.warnings == []
    net.to(device)
    with open_hdf5(folder / "tiny_mask3d.h5") as file:
        results = verify_net(net, file)
    assert [(b.name, b.max_abs, b.problem) for r in results for b in r.blobs if not b.passed] == []
    assert len(results) == 2


def test_pose_2d_writes_32_values_a_frame(device: torch.device) -> None:
    net = seeded_net(define("pose_2d", replace(SMALL, norm_csv="poses.csv"))).to(device)
    data = np.stack([frame(k, 64) for k in range(5)])
    values = net.run({"data": data, "label_clip": np.zeros((5, 81), np.float32)}, blobs=["2dpredict"])
    assert values["2dpredict"].shape == (5, 32)
    rows = [line.split(",") for line in net.files.written["poses.csv"].splitlines()]
    assert [len(row) for row in rows] == [33] * 5
    np.testing.assert_allclose(
        np.array([row[1:] for row in rows], float), values["2dpredict"].cpu(), rtol=1e-5, atol=1e-6
    )


def test_files_go_where_the_options_say() -> None:
    names = ["train_list", "test_list", "mpii_list", "h36m_root", "mpii_root", "bounds"]
    names += ["norm_csv", "unnorm_csv", "change_csv"]
    files: dict[str, Any] = {name: name for name in names}
    options = NetworkOptions(**files)
    h36m, mpii, test = (layer for layer in define("mask3d", options).message.layer if not layer.bottom)
    for layer, expected in ((h36m, ("train_list", "h36m_root")), (test, ("test_list", "h36m_root"))):
        params = layer.image_data_lstm_param
        assert (params.source, params.root_folder) == expected
    assert (mpii.image_data_param.source, mpii.image_data_param.root_folder) == ("mpii_list", "mpii_root")
    layers = {layer.name: layer for layer in define("template_16_merge", options).message.layer}
    assert layers["evalution"].mpjpe_param.save_filepath == "unnorm_csv"
    assert layers["eval2"].mpjpe_param.save_filepath == "change_csv"
    assert layers["Save1"].save_path_param.save_path == "norm_csv"
    assert {layers[name].mpjpe_param.max_min_source for name in ("evalution", "eval2")} == {"bounds"}


def test_order_and_mask_options() -> None:
    h36m, mpii, *_ = define("mask3d", replace(ORIGINAL, shuffle=False, mask_probability=-1)).message.layer
    assert not h36m.image_data_lstm_param.is_shuffle_batch
    assert not mpii.image_data_param.is_shuffle_batch
    assert not mpii.image_data_param.shuffle
    mask = next(
        layer
        for layer in define("mask3d", replace(ORIGINAL, mask_probability=-1)).message.layer
        if layer.type == "Mask"
    )
    assert mask.mask_param.prob == -1
    h36m, mpii, *_ = define("mask3d").message.layer
    assert h36m.image_data_lstm_param.is_shuffle_batch
    assert mpii.image_data_param.is_shuffle_batch
    assert mpii.image_data_param.shuffle


@pytest.mark.parametrize("name", NETWORKS)
def test_text_reads_back_the_same(name: str) -> None:
    message = NETWORKS[name](SMALL)
    parsed = parse_message(format_message(message), dialect="chanyn/3Dpose_ssl")
    assert parsed.unknown == []
    assert parsed.message == message


def test_scaled_channels() -> None:
    assert scaled_channels(1) == ORIGINAL.channels
    assert scaled_channels(0.125) == (8, 16, 32, 64, 32, 16)
    assert scaled_channels(0.001) == (1,) * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"hidden": -1}, "hidden is -1"),
        ({"channels": (1, 2, 3, 4, 5)}, "channels has 5 numbers"),
        ({"channels": (1, 2, 0, 4, 5, 6)}, r"channels\[2\] is 0"),
    ],
)
def test_impossible_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NetworkOptions(**change)


def test_heat_maps_need_a_multiple_of_8() -> None:
    with pytest.raises(UsageError, match="image_size is 100; a multiple of 8"):
        define("pose_train_test_from_release", NetworkOptions(image_size=100))


def test_unknown_network() -> None:
    with pytest.raises(UsageError, match="no network 'mask4d'; there are 2d_to_3d, 3d_to_2d"):
        define("mask4d")
