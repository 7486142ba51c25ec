"""The pose machine: windows and state, kinds and units, saving, and the parity gate."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat import load
from caffe_compat.errors import CaffeCompatWarning, FileError, ParityError, UsageError, WeightsError
from caffe_compat.formats.hdf5 import open_hdf5
from caffe_compat.network.checkpoint import read_checkpoint, save_checkpoint
from caffe_compat.network.definition import read_definition
from caffe_compat.parity.compare import compare
from caffe_compat.parity.record import ParityRecord
from caffe_compat.parity.tolerance import NET_TOLERANCE
from caffe_compat.schema.printing import format_message
from hpm.files.checkpoint_extras import bounds_in
from hpm.files.projector_pickle import read_projector_pickle, write_projector_pickle
from hpm.model import PoseMachine
from hpm.networks import NetworkOptions, define, scaled_channels
from hpm.networks.projector_network import projector_of, save_projector
from hpm.parity_gate import read_projector
from hpm.projector import Affine
from hpm.refine import Refiner, RefineSettings
from hpm.scaling import REFINEMENT_BOUNDS, Bounds, denormalise
from hpm.streaming import Stream
from tests.hpm.seeded import seeded_net
from tests.hpm.tiny import SIDE, random_frames

NARROW = NetworkOptions(image_size=SIDE, channels=scaled_channels(1 / 16), hidden=24, projector=40)


@pytest.fixture
def tiny(reference: Path) -> PoseMachine:
    folder = reference / "tiny_mask3d"
    return PoseMachine.from_caffe(
        folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel", bounds=REFINEMENT_BOUNDS
    )


@pytest.fixture
def recorded(reference: Path) -> Path:
    return reference / "tiny_mask3d" / "tiny_mask3d.h5"


# Coarse poses


def test_recorded_batches_with_carried_state(tiny: PoseMachine, recorded: Path, device: torch.device) -> None:
    tiny.to(device)
    with open_hdf5(recorded) as file:
        batches = [{k: np.asarray(file[b][k]) for k in ("data", "clip")} for b in ("batch_0", "batch_1")]
        expected = np.concatenate([np.asarray(file[b]["blob"]["3dpredict"]) for b in ("batch_0", "batch_1")])
        change = np.concatenate([np.asarray(file[b]["blob"]["change"]) for b in ("batch_0", "batch_1")])
    data, clip = (np.concatenate([batch[k] for batch in batches]) for k in ("data", "clip"))
    whole = tiny.predict(data, clip, window=4, pixels="preprocessed")
    assert compare("pose", whole.pose, expected, NET_TOLERANCE).passed
    assert whole.change is not None
    assert compare("change", whole.change, change, NET_TOLERANCE).passed
    tiny.reset_state()
    parts = [tiny.predict(b["data"], b["clip"], window=4, pixels="preprocessed").pose for b in batches]
    np.testing.assert_array_equal(np.concatenate(parts), whole.pose)


@pytest.mark.parametrize("sizes", [(13,), (1,) * 13, (4, 0, 7, 2), (5, 5, 3)])
def test_a_stream_gives_what_all_frames_at_once_give(sizes: tuple[int, ...], tiny: PoseMachine) -> None:
    frames = random_frames(13)
    whole = tiny.coarse(frames)
    stream = Stream(tiny, window=5)
    found, start = [], 0
    for size in sizes:
        found.append(stream.push(frames[start : start + size]))
        start += size
        assert len(stream) == start % 5
        assert sum(map(len, found)) == start - start % 5  # as soon as a window is full
    found.append(stream.end())
    np.testing.assert_array_equal(np.concatenate(found), whole)
    # The next frame begins another sequence.
    np.testing.assert_array_equal(stream.push(frames[:5]), whole[:5])
    preprocessed = (torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).float() - 128) / 256
    tensors = Stream(tiny, pixels="preprocessed", unit="mm").push(preprocessed[:6])
    np.testing.assert_allclose(tensors.numpy(), tiny.millimetres(whole[:5]), rtol=1e-5, atol=1e-2)
    with pytest.raises(UsageError, match="window 0"):
        Stream(tiny, window=0)


def test_another_window_than_the_models_is_said_once(tiny: PoseMachine) -> None:
    frames = random_frames(3)
    with pytest.warns(CaffeCompatWarning, match=r"^windows of 3 frames: .* learned with windows of 5") as said:
        tiny.coarse(frames, window=3)
    assert len(said) == 1
    tiny.coarse(frames, window=2)  # warnings are errors in tests
    tiny.coarse(frames)
    other = copy.deepcopy(tiny)
    other.coarse(frames, window=2)
    fresh = PoseMachine(tiny.net, bounds=REFINEMENT_BOUNDS)
    fresh.window = 2
    fresh.coarse(frames, window=2)


@pytest.mark.filterwarnings("ignore:windows of:caffe_compat.errors.CaffeCompatWarning")
def test_the_window_changes_results_and_the_last_may_be_shorter(tiny: PoseMachine) -> None:
    frames = random_frames(7)
    poses = {}
    for window in (3, 7):
        tiny.reset_state()
        poses[window] = tiny.coarse(frames, window=window)
        assert poses[window].shape == (7, 16, 3)
    assert np.abs(poses[3] - poses[7]).max() > 1e-4
    # The last window of three, of one frame, is what the net gives for it after the frames before.
    tiny.reset_state()
    tiny.coarse(frames[:6], window=3)
    np.testing.assert_allclose(tiny.coarse(frames[6:], window=5), poses[3][6:], atol=1e-6)


def test_state_carries_until_it_is_reset(tiny: PoseMachine) -> None:
    frames = random_frames(5)
    first = tiny.coarse(frames)
    assert np.abs(tiny.coarse(frames) - first).max() > 1e-4
    tiny.reset_state()
    np.testing.assert_array_equal(tiny.coarse(frames), first)
    # A clip value of 0 at each window's ends does to both LSTMs what a reset does.
    alone = [tiny.coarse(frames[:1], clip=[0]), tiny.coarse(frames[:1], clip=[0])]
    np.testing.assert_array_equal(*alone)


def test_pixels(tiny: PoseMachine) -> None:
    frames = random_frames(3)
    ready = (frames.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 256
    expected = tiny.coarse(frames)
    tiny.reset_state()
    np.testing.assert_array_equal(tiny.coarse(ready, pixels="preprocessed"), expected)
    tiny.reset_state()
    large = [np.repeat(np.repeat(frame, 2, 0), 2, 1) for frame in frames]
    np.testing.assert_allclose(tiny.coarse(large), expected, atol=1e-6)
    for wrong, pixels in ((ready, "bgr"), (frames, "preprocessed"), (ready[:, :, 1:], "preprocessed")):
        with pytest.raises(UsageError, match="expected"):
            tiny.coarse(wrong, pixels=pixels)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="clip of shape"):
        tiny.coarse(frames, clip=[0, 1])
    with pytest.raises(UsageError, match="window 0"):
        tiny.coarse(frames, window=0)
    assert tiny.coarse(frames[:0]).shape == (0, 16, 3)
    no_frames: tuple[Any, ...] = ([1, 2], "walk.mp4")
    for none in no_frames:
        with pytest.raises(UsageError, match=r"found a frame of type (int|str)"):
            tiny.coarse(none)
    with pytest.raises(UsageError, match="one array or tensor were expected, found list"):
        tiny.coarse(list(ready), pixels="preprocessed")
    ready[1, 0, 5, 5] = np.nan
    for bad in (ready, torch.from_numpy(ready)):
        with pytest.raises(UsageError, match="not finite"):
            tiny.coarse(bad, pixels="preprocessed")


def test_same_kind_out_and_units_by_name(tiny: PoseMachine, device: torch.device) -> None:
    tiny.to(device)
    frames, pose2d = random_frames(4), np.random.RandomState(1).rand(4, 16, 2)
    normalised = tiny.coarse(frames)
    tiny.reset_state()
    tensors: Any = [torch.from_numpy(frame) for frame in frames]
    several = tiny.coarse(tensors)
    assert isinstance(several, torch.Tensor)
    np.testing.assert_array_equal(several.cpu().numpy(), normalised)
    tiny.reset_state()
    tensor = tiny.coarse(torch.from_numpy(frames), clip=torch.tensor([0, 1, 1, 1]), unit="mm")
    assert isinstance(normalised, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.device.type == device.type
    mm = denormalise(normalised.astype(np.float64), REFINEMENT_BOUNDS)
    np.testing.assert_allclose(tensor.cpu().numpy(), mm, atol=2e-3)
    refined = tiny.refine(normalised, pose2d, allow_unverified=True)
    given = torch.from_numpy(normalised), torch.from_numpy(pose2d)
    of_tensors = tiny.refine(*given, allow_unverified=True, unit="mm")
    assert isinstance(of_tensors, torch.Tensor)
    assert refined.shape == (4, 16, 3)
    expected = denormalise(refined.astype(np.float64), REFINEMENT_BOUNDS)
    np.testing.assert_allclose(of_tensors.cpu().numpy(), expected, atol=2e-3)
    assert isinstance(tiny.project(given[0]), torch.Tensor)
    with pytest.raises(UsageError, match="unit 'cm'"):
        tiny.coarse(frames, unit="cm")  # type: ignore[arg-type]


def test_projection_is_the_networks(tiny: PoseMachine, recorded: Path) -> None:
    with open_hdf5(recorded) as file:
        change, flat = (np.asarray(file["batch_1/blob"][name]) for name in ("change", "project_2d"))
    assert compare("project_2d", tiny.project(change).reshape(-1, 32), flat, NET_TOLERANCE).passed
    with pytest.raises(UsageError, match="normalised 3D poses"):
        tiny.project(change[:, :32])


@pytest.mark.parametrize("name", ["mask3d", "template_16_merge", "2d_to_3d", "deploy"])
def test_networks_that_end_in_losses_and_files(name: str) -> None:
    """Data layers take their labels from us, and nothing is written or kept."""
    net = seeded_net(define(name, NARROW))
    machine = PoseMachine(net)
    blob = "predict_inverted" if name == "2d_to_3d" else "3dpredict"
    assert machine.pose_blob == blob
    frames = random_frames(5)
    pose = machine.coarse(frames)
    given = {"data": (frames.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 256}
    if name == "deploy":
        given["clip"] = np.ones((5, 1), np.float32)
        np.testing.assert_allclose(net.run(given, [blob])[blob].numpy().reshape(5, 16, 3), pose, atol=1e-6)
    assert net.files.written == {}
    assert machine.has_correction == (name != "2d_to_3d")


def test_a_2d_network_says_so() -> None:
    machine = PoseMachine(seeded_net(define("pose_2d", NARROW)))
    assert machine.pose2d(random_frames(3)).shape == (3, 16, 2)
    with pytest.raises(UsageError, match=r"gives 2D poses; ask for them with pose2d\(\)"):
        machine.coarse(random_frames(3))
    with pytest.raises(UsageError, match="no correction module"):
        machine.project(np.zeros((1, 48), np.float32))


def test_a_label_may_have_any_name_and_width(tmp_path: Path) -> None:
    """A definition of one's own, as "our2d" has: its lists hold 2D poses alone, and their blob is called otherwise."""
    ours = define("pose_2d", NARROW)
    text = format_message(ours.message).replace("label_clip", "annotation").replace("label_dim: 81", "label_dim: 33")
    text = re.sub(r"slice_point: 80|(top|bottom): \"label3d\"", "", text).replace(
        'type: "Silence"', 'type: "Silence" bottom: "label2d"'
    )
    (tmp_path / "our2d.prototxt").write_text(text)
    net = seeded_net(read_definition(tmp_path / "our2d.prototxt"))
    assert net.graph.inputs
    assert [list(net.shapes[v])[1:] for v in net.graph.inputs] == [[3, 64, 64], [33]]
    frames, clip = random_frames(5), [0, 1, 1, 0, 1]
    expected = PoseMachine(seeded_net(ours)).pose2d(frames, clip)
    np.testing.assert_array_equal(PoseMachine(net).pose2d(frames, clip), expected)


def test_inputs_that_are_neither_pictures_nor_clip_values(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        """layer { name: "a" type: "Input" top: "data" top: "more"
                   input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 dim: 48 } } }
           layer { name: "f" type: "InnerProduct" bottom: "data" top: "f" inner_product_param { num_output: 48 } }
           layer { name: "s" type: "Eltwise" bottom: "f" bottom: "more" top: "s" }
           layer { name: "i" type: "InvertedOrder" bottom: "s" top: "pose" }"""
    )
    with pytest.raises(UsageError, match=r"inputs are data \[2, 3, 8, 8\], more \[2, 48\]; images"):
        PoseMachine(seeded_net(read_definition(tmp_path / "net.prototxt")))


def test_layers_without_weights(reference: Path) -> None:
    """Those that the pose depends on stop it; those of the other projector are told of."""
    folder = reference / "tiny_mask3d"
    options = NetworkOptions(image_size=SIDE, channels=(8, 16, 32, 48, 32, 16), hidden=64, projector=64)
    with pytest.warns(CaffeCompatWarning, match="project_media"):
        PoseMachine.from_definition(define("template_16_merge", options), folder / "tiny_mask3d.caffemodel")
    with pytest.raises(WeightsError, match="no weights for fc-final_2d"):
        PoseMachine.from_definition(define("pose_2d", options), folder / "tiny_mask3d.caffemodel")


# Saving and the gate


def test_a_record_is_needed_to_refine(tiny: PoseMachine, recorded: Path, tmp_path: Path) -> None:
    coarse, pose2d = tiny.coarse(random_frames(3)), np.random.RandomState(2).rand(3, 32)
    tiny.save(tmp_path / "unverified.pt")
    for call in (
        lambda: tiny.refine(coarse, pose2d),
        tiny.refiner,
        lambda: read_projector(tmp_path / "unverified.pt"),
    ):
        with pytest.raises(ParityError, match=r"'hpm verify' .*--reference.*--released-coarse.*allow_unverified=True"):
            call()
    waived = tiny.refine(coarse, pose2d, allow_unverified=True)
    assert all(result.passed for result in tiny.verify(recorded))
    assert tiny.parity is not None
    assert tiny.parity.blobs == 78
    np.testing.assert_array_equal(tiny.refine(coarse, pose2d), waived)
    tiny.save(tmp_path / "model.pt")
    again = PoseMachine.from_pretrained(tmp_path / "model.pt")
    assert again.parity == tiny.parity
    np.testing.assert_array_equal(again.refine(coarse, pose2d), waived)
    tiny.reset_state()
    np.testing.assert_array_equal(again.coarse(random_frames(3)), tiny.coarse(random_frames(3)))


def test_changed_weights_lose_the_record(tiny: PoseMachine, recorded: Path, tmp_path: Path) -> None:
    tiny.verify(recorded)
    coarse, pose2d = np.zeros((2, 16, 3), np.float32), np.zeros((2, 16, 2), np.float32)
    tiny.refine(coarse, pose2d)
    # Not the projector's, and past torch's own count of changes.
    tiny.net.conv1_1.weight.data[0, 1, 2, 0] += 0.5
    assert tiny.parity is None
    with pytest.raises(ParityError):
        tiny.refine(coarse, pose2d)
    tiny.save(tmp_path / "changed.pt")
    assert PoseMachine.from_pretrained(tmp_path / "changed.pt").parity is None


def test_a_net_that_departs_gets_no_record(tiny: PoseMachine, recorded: Path) -> None:
    with torch.no_grad():
        tiny.net.change.bias[3] += 0.01
    # A record of before is withdrawn, whatever it was of.
    tiny.parity = ParityRecord("other.h5", "", "", 1, "x", 0.0, 0.0, "cpu", "float32", "")
    results = tiny.verify(recorded)
    assert not all(result.passed for result in results)
    assert tiny.parity is None


def test_a_reference_without_poses_proves_too_little(tiny: PoseMachine, recorded: Path, tmp_path: Path) -> None:
    import h5py

    with open_hdf5(recorded) as file, h5py.File(tmp_path / "part.h5", "w") as part:
        batch = file["batch_0"]
        for name in ("data", "clip"):
            part[f"batch_0/{name}"] = np.asarray(batch[name])
        part["batch_0/blob/conv1_1"] = np.asarray(batch["blob/conv1_1"])
    with pytest.raises(UsageError, match="holds no 3dpredict, change, project_2d"):
        tiny.verify(tmp_path / "part.h5")
    assert tiny.parity is None


def test_pickles_pass_by_equal_arrays(tiny: PoseMachine, recorded: Path, tmp_path: Path) -> None:
    pickled, good, bad = tmp_path / "refine.pkl", tmp_path / "model.pt", tmp_path / "unverified.pt"
    write_projector_pickle(pickled, tiny.projector)
    tiny.save(bad)
    tiny.verify(recorded)
    tiny.save(good)
    with pytest.raises(ParityError, match="--verified-by"):
        read_projector(pickled)
    with pytest.raises(ParityError, match=r"unverified\.pt was not shown"):
        read_projector(pickled, verified_by=bad)
    read_projector(pickled, allow_unverified=True)
    projector = read_projector(pickled, verified_by=good)
    for ours, theirs in zip(projector.arrays(), read_projector(good).arrays(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UsageError, match="verified_by is for pickles"):
        read_projector(good, verified_by=good)
    with pytest.raises(UsageError, match=r"tiny_mask3d\.caffemodel is neither a \.pt nor a pickle"):
        read_projector(recorded.parent / "tiny_mask3d.caffemodel", allow_unverified=True)
    weight, bias = projector.project_2
    write_projector_pickle(pickled, replace(projector, project_2=Affine(weight, bias + 1e-6)))
    with pytest.raises(ParityError, match="project_2's bias differs"):
        read_projector(pickled, verified_by=good)


def test_a_pickle_as_a_pt_and_back(tiny: PoseMachine, tmp_path: Path) -> None:
    write_projector_pickle(tmp_path / "a.pkl", tiny.projector)
    save_projector(read_projector_pickle(tmp_path / "a.pkl"), tmp_path / "a.pt", sources=[tmp_path / "a.pkl"])
    write_projector_pickle(tmp_path / "b.pkl", projector_of(tmp_path / "a.pt"))
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()
    pose = np.random.RandomState(3).rand(2, 48).astype(np.float32)
    values = load(tmp_path / "a.pt").run({"3dpredict": pose}, ["change", "project_2d"])
    np.testing.assert_allclose(tiny.project(values["change"].numpy()).reshape(2, 32), values["project_2d"], atol=1e-6)


# Bounds


def _bounds(scale: float = 1.0) -> Bounds:
    return Bounds(REFINEMENT_BOUNDS.maximum * scale, REFINEMENT_BOUNDS.minimum * scale, "some/folder/own.csv")


def test_bounds_go_with_the_model(tiny: PoseMachine, tmp_path: Path) -> None:
    tiny.bounds = _bounds(0.9)
    tiny.save(tmp_path / "model.pt")
    again = PoseMachine.from_pretrained(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.bounds.maximum, tiny.bounds.maximum)
    np.testing.assert_array_equal(again.bounds.minimum, tiny.bounds.minimum)
    assert again.bounds.source == "own.csv"  # no path of this machine
    frames = random_frames(3)
    normalised = tiny.coarse(frames).astype(np.float64)
    np.testing.assert_array_equal(again.coarse(frames, unit="mm"), denormalise(normalised, _bounds(0.9)))
    np.testing.assert_array_equal(again.refiner(allow_unverified=True).bounds.maximum, tiny.bounds.maximum)
    # And on through what is made of it; caffe_compat reads it as any other.
    again.save(tmp_path / "again.pt")
    stored = bounds_in(tmp_path / "again.pt")
    assert stored is not None
    np.testing.assert_array_equal(stored.maximum, tiny.bounds.maximum)
    assert sorted(read_checkpoint(tmp_path / "again.pt").extra) == ["pose_bounds_mm", "pose_bounds_source"]
    assert len(load(tmp_path / "again.pt").state_dict()) == len(tiny.net.state_dict())


def test_other_bounds_than_the_models_own_are_refused(tiny: PoseMachine, tmp_path: Path) -> None:
    tiny.bounds = _bounds(0.9)
    tiny.save(tmp_path / "model.pt")
    PoseMachine.from_pretrained(tmp_path / "model.pt", bounds=_bounds(0.9))
    with pytest.raises(UsageError, match=r"holds the bounds .*own\.csv.* differ: RWrist's minimum of y is -913\.75 mm"):
        PoseMachine.from_pretrained(tmp_path / "model.pt", bounds=REFINEMENT_BOUNDS)


def test_without_bounds_the_published_ones_are_assumed_and_said(tiny: PoseMachine, tmp_path: Path) -> None:
    tiny.bounds = None  #  # the setter takes it
    tiny.save(tmp_path / "model.pt")
    machine = PoseMachine.from_pretrained(tmp_path / "model.pt")
    assert machine.known_bounds is None
    frames = random_frames(3)
    normalised = machine.coarse(frames)
    with pytest.warns(CaffeCompatWarning, match="tiny_mask3d does not hold the bounds .* by those of the released"):
        mm = machine.coarse(frames, clip=[0, 1, 1], unit="mm")
    np.testing.assert_allclose(mm, denormalise(normalised.astype(np.float64), REFINEMENT_BOUNDS), atol=1e-9)
    machine.coarse(frames, unit="mm")  # said once
    # Those that a .pt lacks can be given.
    given = PoseMachine.from_pretrained(tmp_path / "model.pt", bounds=_bounds(0.9))
    given.coarse(frames, unit="mm")
    assert given.bounds.maximum[3] == 0.9 * REFINEMENT_BOUNDS.maximum[3]


def test_damaged_bounds(tiny: PoseMachine, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    damaged: tuple[dict[str, Any], ...] = (
        {"pose_bounds_mm": torch.zeros(2, 47), "pose_bounds_source": "x"},
        {"pose_bounds_mm": torch.zeros(2, 48), "pose_bounds_source": "x"},  # maxima that are no larger than minima
        {"pose_bounds_mm": torch.eye(2, 48)},
        {"pose_bounds_mm": "134", "pose_bounds_source": "x"},
    )
    for entries in damaged:
        save_checkpoint(tiny.net, path, extra=entries)
        with pytest.raises(FileError, match=r"model\.pt: is damaged"):
            PoseMachine.from_pretrained(path)


def test_a_named_blob_goes_with_the_model(tiny: PoseMachine, reference: Path, tmp_path: Path) -> None:
    folder = reference / "tiny_mask3d"
    files = folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel"
    PoseMachine.from_caffe(*files, pose_blob="predict_inverted").save(tmp_path / "model.pt")
    assert PoseMachine.from_pretrained(tmp_path / "model.pt").pose_blob == "predict_inverted"
    tiny.save(tmp_path / "model.pt")
    assert PoseMachine.from_pretrained(tmp_path / "model.pt").pose_blob == "3dpredict"


def test_a_projector_alone_has_bounds_too(tiny: PoseMachine, tmp_path: Path) -> None:
    save_projector(tiny.projector, tmp_path / "a.pt", bounds=_bounds(0.8))
    stored = bounds_in(tmp_path / "a.pt")
    assert stored is not None
    assert stored.minimum[5] == 0.8 * REFINEMENT_BOUNDS.minimum[5]
    write_projector_pickle(tmp_path / "a.pkl", tiny.projector)
    assert bounds_in(tmp_path / "a.pkl") is None


def test_saving_keeps_what_the_files_were(tiny: PoseMachine, tmp_path: Path, device: torch.device) -> None:
    tiny.to(device).save(tmp_path / "model.pt")
    assert tiny.device.type == device.type
    content = read_checkpoint(tmp_path / "model.pt")
    assert [source["name"] for source in content.sources] == ["deploy.prototxt", "tiny_mask3d.caffemodel"]
    assert content.preprocess is not None
    assert (content.preprocess["mean"], content.preprocess["scale"]) == ([128.0], 1 / 256)


def test_checking_a_pt_keeps_what_its_files_were(tiny: PoseMachine, recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    tiny.save(path)
    before = read_checkpoint(path).sources
    again = PoseMachine.from_pretrained(path)
    again.verify(recorded)
    again.save(path)
    assert read_checkpoint(path).sources == before
    assert len(before) == 2


def test_rounded_weights_have_no_record(tiny: PoseMachine, recorded: Path, tmp_path: Path) -> None:
    """The comparison was of the weights as they were before they were stored in half the bits."""
    tiny.verify(recorded)
    save_checkpoint(tiny.net, tmp_path / "half.pt", parity=tiny.parity, dtype="float16")
    assert PoseMachine.from_pretrained(tmp_path / "half.pt").parity is None
    with pytest.raises(ParityError, match="was not shown"):
        read_projector(tmp_path / "half.pt")


def test_refine_is_the_refiner(tiny: PoseMachine) -> None:
    random = np.random.RandomState(5)
    coarse, pose2d = random.rand(6, 16, 3), random.rand(6, 16, 2)
    settings = RefineSettings(mode="independent", steps=3, learning_rate=0.01)
    expected = Refiner(tiny.projector, settings).refine(coarse, pose2d).pose.reshape(6, 16, 3)
    np.testing.assert_array_equal(tiny.refine(coarse, pose2d, settings, allow_unverified=True), expected)
