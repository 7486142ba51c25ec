"""Detectors, on networks that are made here: what real ones find is tried in ``test_mediapipe_itself.py``.

MediaPipe's two networks are stand-ins written in numpy; RTMDet and RTMPose are small ONNX networks that onnxruntime
runs; torchvision's network and rtmlib's model are stand-ins with the outputs that these packages document, which are
not installed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from caffe_compat.errors import FileError, MissingExtraError, UsageError
from hpm.detectors import MediaPipe, Rtmlib, RTMPose, Torchvision, detect, mediapipe, open_detector
from hpm.detectors.patches import Patch
from hpm.joint_orders import COCO17, HALPE26, MEDIAPIPE33
from hpm.people import Person


def _spot(width: int, height: int, x: int, y: int) -> np.ndarray:
    """A grey picture with a small white spot, (height, width, 3)."""
    picture = np.full((height, width, 3), 90, np.uint8)
    picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    return picture


# MediaPipe


class _Sees:
    """Stands in for MediaPipe's first network: bodies with hips and ends at these fractions of the square picture."""

    def __init__(self, *bodies: tuple[tuple[float, float], tuple[float, float]]) -> None:
        self.bodies = bodies

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        assert pixels.shape == (224, 224, 3)
        assert pixels.min() >= -1
        raw, logits = np.zeros((2254, 12), np.float32), np.full((2254, 1), -100, np.float32)
        for hips, end in self.bodies:
            # Two anchors that see the same, one of them surer.
            nearest = np.linalg.norm(mediapipe._ANCHORS - hips, axis=1).argsort()[:2]
            for k, logit in zip(nearest, (3.0, 1.0), strict=True):
                anchor = mediapipe._ANCHORS[k]
                raw[k, :2], raw[k, 2:4] = 224 * (np.array(hips) - anchor), 60
                raw[k, 4:8] = 224 * (np.array([*hips, *end]) - np.tile(anchor, 2))
                logits[k] = logit
        return [raw, logits]


def _brightest(pixels: np.ndarray) -> list[np.ndarray]:
    """Stands in for MediaPipe's second network: all landmarks lie at the brightest place, the last but the hips."""
    assert pixels.shape == (256, 256, 3)
    assert pixels.max() <= 1
    rows, columns = np.nonzero(pixels.sum(-1) >= pixels.sum(-1).max() - 0.05)
    marks = np.zeros((39, 5), np.float32)
    marks[:, 0], marks[:, 1] = columns.mean(), rows.mean()
    marks[:, 3] = 2.0
    there = float(pixels.max() > 0.9)
    return [marks.reshape(-1), np.array([there]), np.full((64, 64, 39), -9.0, np.float32)]


def _mediapipe(*bodies: tuple[tuple[float, float], tuple[float, float]]) -> MediaPipe:
    detector = MediaPipe.__new__(MediaPipe)
    detector._detector, detector._landmarks = _Sees(*bodies), _brightest
    return detector


@pytest.mark.parametrize("end", [(0.5, 0.2), (0.7, 0.5), (0.4, 0.7), (0.35, 0.45)])
def test_what_lies_in_a_square_aslant_is_found_where_it_is(end: tuple[float, float]) -> None:
    picture = _spot(200, 150, 112, 63)
    (person,) = _mediapipe(((0.5, 0.5), end)).people(picture)
    assert person.points.shape == (len(MEDIAPIPE33), 2)
    # Pixels' middles lie half a pixel in.
    np.testing.assert_allclose(person.points, np.full((33, 2), (112.5, 63.5)), atol=1.0)
    np.testing.assert_allclose(person.confidence, 1 / (1 + np.exp(-2.0)))


def test_nobody_where_either_network_says_so() -> None:
    assert _mediapipe().people(_spot(100, 100, 50, 50)) == []
    assert _mediapipe(((0.5, 0.5), (0.5, 0.3))).people(np.full((100, 100, 3), 90, np.uint8)) == []


def test_the_square_is_upright_and_a_quarter_larger_than_the_circle() -> None:
    patch = mediapipe._upright(np.array([50.0, 60.0]), np.array([50.0, 40.0]))
    assert patch is not None
    assert (patch.centre, patch.size, patch.angle) == ((50.0, 60.0), (50.0, 50.0), 0.0)
    lying = mediapipe._upright(np.array([50.0, 60.0]), np.array([70.0, 60.0]))
    assert lying is not None
    assert lying.angle == pytest.approx(np.pi / 2)
    # Up in the patch is where the body's end lies.
    assert lying.to_picture(np.array([0.5, 0.1])).tolist() == pytest.approx([70.0, 60.0])
    assert mediapipe._upright(np.zeros(2), np.zeros(2)) is None


def test_heat_maps_move_a_landmark_where_they_are_sure() -> None:
    maps = np.full((64, 64, 2), -20.0, np.float32)
    maps[20, 33:35, :] = 5.0
    maps[..., 1] -= 5.1
    points = np.array([[31.5 / 64, 20.5 / 64]] * 2)
    moved = mediapipe._by_heat_maps(points, maps)
    np.testing.assert_allclose(moved[0] * 64, (33.5, 20), atol=1e-3)
    np.testing.assert_array_equal(moved[1], points[1])


def test_who_was_there_before_is_looked_for_there() -> None:
    points = np.full((33, 2), (50.0, 60.0))
    points[MEDIAPIPE33.index("LShoulder")] = points[MEDIAPIPE33.index("RShoulder")] = 50, 40
    points[0] = 50, 30
    before = [Person(points, np.ones(33))]
    (found,) = _mediapipe().people(_spot(100, 100, 60, 70), before)
    np.testing.assert_allclose(found.points[0], (60.5, 70.5), atol=1.0)
    lost = [Person(np.full((33, 2), np.nan), np.zeros(33)), Person(np.zeros((33, 2)), np.ones(33))]
    assert _mediapipe().people(_spot(100, 100, 60, 70), lost) == []


# RTMPose


def _save(
    path: Path, nodes: list[onnx.NodeProto], size: list[int | str], outputs: dict[str, int], **constants: np.ndarray
) -> Path:
    pictures = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *size])
    kinds = {"labels": TensorProto.INT64}
    ends = [
        helper.make_tensor_value_info(
            name, kinds.get(name, TensorProto.FLOAT), [1, rows] if name == "labels" else [1, rows, None]
        )
        for name, rows in outputs.items()
    ]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "made", [pictures], ends, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def _rtmdet(path: Path, *dets: Sequence[float], labels: Sequence[int]) -> Path:
    """Gives these boxes, whatever it sees, in an input of 64 x 64."""
    found, kinds = np.array([dets], np.float32), np.array([labels], np.int64)
    nodes = [helper.make_node("Identity", ["found"], ["dets"]), helper.make_node("Identity", ["kinds"], ["labels"])]
    return _save(path, nodes, [64, 64], {"dets": len(labels), "labels": len(labels)}, found=found, kinds=kinds)


def _rtmpose(path: Path, joints: int = 17) -> Path:
    """All joints lie in the brightest column and row of the input of 64 x 48, two places a pixel."""
    nodes = []
    for axis, name in ((2, "simcc_x"), (3, "simcc_y")):
        nodes += [
            helper.make_node("ReduceMax", ["input"], [f"{name}_line"], axes=[1, axis], keepdims=0),
            helper.make_node("Reshape", [f"{name}_line", f"{name}_in"], [f"{name}_column"]),
            helper.make_node("Expand", [f"{name}_column", f"{name}_wide"], [f"{name}_twice"]),
            helper.make_node("Reshape", [f"{name}_twice", f"{name}_out"], [name]),
        ]
    shapes = {
        f"{name}_{what}": np.array(shape)
        for name, side in (("simcc_x", 48), ("simcc_y", 64))
        for what, shape in (("in", [1, 1, side, 1]), ("wide", [1, joints, side, 2]), ("out", [1, joints, 2 * side]))
    }
    return _save(path, nodes, [64, 48], {"simcc_x": joints, "simcc_y": joints}, **shapes)


def test_rtmpose_finds_the_spot_in_each_box_of_a_person(tmp_path: Path) -> None:
    # In the input of 64 pixels the picture of 320 x 160 is shrunk to a fifth.
    boxes = ((20, 4, 30, 24, 0.9), (40, 4, 60, 30, 0.2), (20, 4, 30, 24, 0.95))
    detector = RTMPose(_rtmdet(tmp_path / "d.onnx", *boxes, labels=(0, 0, 1)), _rtmpose(tmp_path / "p.onnx"))
    assert detector.joints is COCO17
    (person,) = detector.people(_spot(320, 160, 118, 66))
    assert person.box.tolist() == pytest.approx([100, 20, 50, 100], abs=1e-3)
    np.testing.assert_allclose(person.points, np.full((17, 2), (118, 66)), atol=3)
    # White as the network takes it, in the channel in which that is most: blue.
    np.testing.assert_allclose(person.confidence, (255 - 103.53) / 57.375, rtol=0.05)


def test_the_number_of_joints_tells_rtmposes_order(tmp_path: Path) -> None:
    boxes = _rtmdet(tmp_path / "d.onnx", (0, 0, 1, 1, 0.9), labels=(0,))
    assert RTMPose(boxes, _rtmpose(tmp_path / "p.onnx", 26)).joints is HALPE26
    with pytest.raises(FileError, match=r"17 \(COCO17\).* found 21 joints"):
        RTMPose(boxes, _rtmpose(tmp_path / "p.onnx", 21))
    with pytest.raises(FileError, match=r"outputs simcc_x, simcc_y were expected.* outputs dets, labels"):
        RTMPose(boxes, boxes)


# Other packages, whose networks are stand-ins here


class _KeypointNetwork(torch.nn.Module):
    """Gives what torchvision's keypoint networks document."""

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (picture,) = pictures
        assert picture.shape == (3, 4, 6)
        assert picture[0, 0, 0] == 1  # red comes first
        points = torch.arange(2 * 17 * 3.0).reshape(2, 17, 3)
        scores = torch.linspace(-4, 12, 34).reshape(2, 17)
        boxes = torch.tensor([[1.0, 2, 5, 9], [0, 0, 1, 1]])
        return [{"boxes": boxes, "scores": torch.tensor([0.9, 0.3]), "keypoints": points, "keypoints_scores": scores}]


def test_torchvisions_network() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 2] = 255
    (person,) = Torchvision(_KeypointNetwork()).people(picture)
    assert person.box.tolist() == [1, 2, 4, 7]
    assert person.points[1].tolist() == [3, 4]
    assert person.confidence[0] == pytest.approx(1 / (1 + np.exp(4)))
    other = torch.nn.Module()
    other.forward = lambda pictures: [{"boxes": None}]
    with pytest.raises(UsageError, match="gives no keypoints, keypoints_scores, scores"):
        Torchvision(other).people(picture)


def test_rtmlibs_model() -> None:
    def model(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((2, 26, 2)) * picture[0, 0, 0], np.linspace(-1, 1, 52).reshape(2, 26)

    people = Rtmlib(model, HALPE26).people(np.full((4, 4, 3), 7, np.uint8))
    assert [person.points[3].tolist() for person in people] == [[7, 7], [7, 7]]
    assert people[0].confidence[0] == 0
    wrong = Rtmlib(model)
    with pytest.raises(UsageError, match=r"frame 0: a detector of COCO17 gave points \(26, 2\)"):
        detect([np.zeros((4, 4, 3), np.uint8)], wrong)


# All of them


def test_a_detector_is_told_who_was_there_before() -> None:
    told: list[int] = []

    class Counts:
        joints = COCO17

        def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
            told.append(len(before))
            return [Person(np.zeros((17, 2)), np.ones(17))] * int(picture[0, 0, 0])

    frames = [np.full((2, 2, 3), k, np.uint8) for k in (1, 2, 0, 1)]
    found = detect(frames, Counts(), told.append)
    assert [len(people) for people in found.frames] == [1, 2, 0, 1]
    assert told == [0, 1, 1, 2, 2, 3, 0, 4]
    with pytest.raises(UsageError, match="no frames"):
        detect([], Counts())


def test_what_lies_beyond_the_picture() -> None:
    picture = np.full((4, 4, 3), 200, np.uint8)
    cut = Patch((0.0, 2.0), (4.0, 4.0)).cut(picture, 4, 4, beyond=17)
    assert cut[:, 0].tolist() == [[17] * 3] * 4
    assert cut[:, 3].tolist() == [[200] * 3] * 4
    assert Patch((-20.0, 2.0), (4.0, 4.0)).cut(picture, 4, 4).min() == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mediapipe", None, None), "--detect mediapipe needs --person-model and --pose-model: .*pip download"),
        (("rtmpose", "a.onnx", None), "--detect rtmpose needs --pose-model: .*end2end.onnx"),
        (("mediapipe", "none.tflite", "none.tflite"), "none.tflite: there is no such file; of mediapipe, .*0.10.21"),
        (("none", "a.onnx", None), "--person-model goes with --detect"),
        (("openpose", None, None), "'openpose': mediapipe, rtmpose, none was expected"),
    ],
)
def test_what_is_missing_is_said_with_what_to_get(arguments: tuple[str, str | None, str | None], words: str) -> None:
    kind, *files = arguments
    with pytest.raises((UsageError, FileError), match=words):
        open_detector(kind, *files)  # type: ignore[arg-type]


def test_nothing_is_detected_without_files() -> None:
    assert open_detector("none", None, None) is None


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    file = tmp_path / "a.tflite"
    file.write_bytes(b"no network")
    with pytest.raises(MissingExtraError, match=r"'ai_edge_litert.interpreter'.*caffe-compat\[detect\]"):
        open_detector("mediapipe", file, file)


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(b"no network")
    with pytest.raises(FileError, match="is no network that onnxruntime can run"):
        open_detector("rtmpose", file, file)
