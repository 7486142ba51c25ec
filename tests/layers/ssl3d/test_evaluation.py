from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_compat.access import FileAccess
from caffe_compat.errors import FileAccessError, FileError, LayerError
from caffe_compat.formats.cxx_numbers import cxx_number
from caffe_compat.layers.ssl3d.evaluation import read_bounds
from tests.layers.building import build

FORK = "chanyn/3Dpose_ssl"
PARENTS = (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)


def evaluation(params: str = "max_min_normalize: false", shape: tuple[int, ...] = (4, 48)) -> Any:
    for default in ('save_filepath: "m.csv"', "scale: 1"):
        if default.split(":")[0] not in params:
            params += " " + default
    text = f'type: "MPJPEEvaluation" mpjpe_param {{ sample_num: 6 {params} }}'
    return build(text, shape, shape)


def slow_mpjpe(a: np.ndarray, b: np.ndarray, span: np.ndarray | float = 1.0) -> float:
    difference = ((a - b).astype(np.float64) * span).reshape(a.shape[0], -1, 3)
    return float(np.sqrt((difference**2).sum(2)).mean())


def csv(values: np.ndarray, first: int = 1) -> str:
    rows = (",".join([str(i), *(cxx_number(float(v)) for v in row)]) for i, row in enumerate(values, first))
    return "".join(row + "\n" for row in rows)


@pytest.fixture
def bounds(tmp_path: Path) -> np.ndarray:
    """Maximum and minimum as a file beside the network, and what they become."""
    rs = np.random.RandomState(0)
    table = np.stack([rs.uniform(100, 900, 48), rs.uniform(-900, -100, 48)])
    table[:, :3] = 0
    (tmp_path / "max_min.csv").write_text("\n".join(",".join(f"{v:.6f}" for v in row) for row in table) + "\n")
    table = table.round(6).astype(np.float32)
    table[0, :3] = np.float32(1e-6)
    return table


def test_error_and_lines(device: torch.device) -> None:
    a, b = np.random.RandomState(1).standard_normal((2, 4, 48)).astype(np.float32)
    module = evaluation()
    top = module(torch.tensor(a, device=device), torch.tensor(b, device=device))
    assert top.shape == ()
    assert top.item() == pytest.approx(slow_mpjpe(a, b), rel=1e-6)
    assert module.files.written == {"m.csv": csv(a)}


def test_scale_and_half_precision() -> None:
    a, b = (torch.randn(4, 48, 1, 1, dtype=torch.bfloat16) for _ in range(2))
    module = evaluation("max_min_normalize: false scale: 2")
    top = module(a, b)
    assert top.dtype == torch.bfloat16
    assert top.item() == pytest.approx(2 * slow_mpjpe(*(x.float().flatten(1).numpy() for x in (a, b))), rel=1e-2)
    assert module.files.written["m.csv"] == csv(2 * a.float().flatten(1).numpy())


def test_bounds_turn_poses_into_millimetres(bounds: np.ndarray, tmp_path: Path) -> None:
    a, b = np.random.RandomState(2).uniform(0, 1, (2, 4, 48)).astype(np.float32)
    module = evaluation('max_min_source: "max_min.csv"')
    module.files = FileAccess(tmp_path)
    span = bounds[0] - bounds[1]
    assert module(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(slow_mpjpe(a, b, span), rel=1e-5)
    assert module.files.written["m.csv"] == csv(a * span + bounds[1])
    with pytest.raises(LayerError, match=r"max_min\.csv bounds 48 values, the poses have 45"):
        module(torch.zeros(4, 45), torch.zeros(4, 45))


def test_building_and_inferring_touch_no_file() -> None:
    module = evaluation('max_min_source: "max_min.csv"')
    assert module.infer(*torch.empty(2, 4, 48, device="meta")).shape == ()
    assert module.files.written == {}
    with pytest.raises(FileAccessError, match=r"layer 'l': reads 'max_min\.csv'"):
        module(torch.zeros(4, 48), torch.zeros(4, 48))


@pytest.mark.parametrize("joints", [16, 17, 5])
def test_projection_adds_up_from_the_hip(joints: int) -> None:
    a, b = np.random.RandomState(3).standard_normal((2, 4, 3 * joints)).astype(np.float32)
    module = evaluation("max_min_normalize: false need_project: true", a.shape)
    x = torch.tensor(a)
    top = module(x, torch.tensor(b))
    assert torch.equal(x, torch.tensor(a))
    for pose in (a, b):
        for c in range(1, joints):
            pose[:, 3 * c : 3 * c + 3] += pose[:, 3 * PARENTS[c] : 3 * PARENTS[c] + 3]
    assert top.item() == pytest.approx(slow_mpjpe(a, b), rel=1e-5)
    assert module.files.written["m.csv"] == csv(a)


def test_index_and_mean_start_again_after_sample_num(caplog: pytest.LogCaptureFixture) -> None:
    module = evaluation()
    batches = np.random.RandomState(4).standard_normal((3, 4, 48)).astype(np.float32)
    with caplog.at_level(logging.INFO):
        for batch in batches:
            module(torch.tensor(batch), torch.zeros(4, 48))
    # The counter is past 6 after the second batch of 4.
    assert module.files.written["m.csv"] == csv(batches[0]) + csv(batches[1], 5) + csv(batches[2])
    mean = slow_mpjpe(batches[:2].reshape(8, 48), np.zeros((8, 48)))
    assert [record.getMessage() for record in caplog.records] == [f"layer 'l': MPJPE {mean:g} over 8 frames"]
    assert module.frames == 4
    module.reset_state()
    module(torch.tensor(batches[1]), torch.zeros(4, 48))
    assert module.files.written["m.csv"] == csv(batches[1])


def test_evaluation_has_no_backward_pass() -> None:
    x = torch.randn(4, 48, requires_grad=True)
    with pytest.raises(LayerError, match="layer 'l' \\(MPJPEEvaluation\\): only measures and has no backward pass"):
        evaluation()(x, torch.zeros(4, 48)).backward()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("", "max_min_source names no file"),
        ('max_min_normalize: false save_filepath: ""', "save_filepath is empty"),
    ],
)
def test_evaluation_refuses_parameters(params: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        evaluation(params)


def test_evaluation_refuses_shapes() -> None:
    with pytest.raises(LayerError, match=r"found \[4, 48\] and \[4, 45\]"):
        evaluation()(torch.zeros(4, 48), torch.zeros(4, 45))
    with pytest.raises(LayerError, match="need_project knows 17 joints; found 18"):
        evaluation("max_min_normalize: false need_project: true")(torch.zeros(4, 54), torch.zeros(4, 54))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1,2,3\n", "has 1 lines"),
        (b"1,2,3\n1,x,3\n", "numbers parted by commas"),
        (b"1,2,3\n1,2\n", "3 maxima and 2 minima"),
    ],
)
def test_bounds_refuse(text: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_bounds(text, "bounds.csv")


def test_bounds_keep_the_hip_range_from_being_empty() -> None:
    table = read_bounds(b"0,0,500,7\r\n0,0,0,-7\r\n", "bounds.csv")
    np.testing.assert_array_equal(table, np.array([[1e-6, 1e-6, 500 + 1e-6, 7], [0, 0, 0, -7]], np.float32))


def test_poses_become_lines(tmp_path: Path) -> None:
    module = build('type: "SavePath" save_path_param { save_path: "poses.csv" }', (2, 3), tops=0)
    module.files = FileAccess(write_root=tmp_path)
    assert module.infer(torch.empty(2, 3, device="meta")) == ()
    assert module.files.written == {}
    assert module(torch.tensor([[1.0, -0.5, 1e-7], [0.1, 123456.7, 3.0]])) == ()
    module(torch.tensor([[4.0, 5.0, 6.0]]).reshape(1, 3, 1, 1))
    expected = ",1,-0.5,1e-07\n,0.1,123457,3\n,4,5,6\n"
    assert (tmp_path / "poses.csv").read_text() == expected
    assert module.files.written == {}
    module.reset_state()
    module(torch.tensor([[7.0]]))
    assert (tmp_path / "poses.csv").read_text() == ",7\n"


def test_lines_refuse() -> None:
    with pytest.raises(LayerError, match="save_path is empty"):
        build('type: "SavePath"', (2, 3), tops=0)
    with pytest.raises(LayerError, match=r"its bottom has shape \[2, 3, 4\]"):
        build('type: "SavePath" save_path_param { save_path: "p" }', (2, 3, 4), tops=0)(torch.zeros(2, 3, 4))


def accuracy(images: int, joints: int, factor: float = 0.25, factors: int = 3, shoulder: int = 1) -> Any:
    text = f"""type: "PosePDJAccuracy" pose_pdj_accuracy_param {{ acc_factor: {factor} acc_factor_num: {factors}
        images_num: {images} acc_path: "d/" acc_name: "acc.log" log_name: "loss.log" shoulder_id: {shoulder}
        hip_id: 0 }}"""
    return build(text, (4, 2 * joints), (4, 2 * joints), dialect=FORK)


def slow_report(a: np.ndarray, b: np.ndarray, factor: float = 0.25, factors: int = 3) -> str:
    """What is printed for these frames, counted joint by joint."""
    images, joints = a.shape[0], a.shape[1] // 2
    text = "\niter: 0\nlearn_lr: 0\n"
    for f in range(1, factors + 1):
        hits = np.zeros(joints)
        for p, q in zip(a.reshape(images, -1, 2), b.reshape(images, -1, 2), strict=True):
            torso = np.hypot(*(q[1] - q[0]))
            if (q[:2] < 0).any():
                continue
            for j in range(joints):
                hits[j] += (q[j] >= 0).all() and np.hypot(*(p[j] - q[j])) <= f * factor * torso
        text += f"acc_factor: {cxx_number(f * factor)} \naccuracy: {cxx_number((hits / images).mean())}\n"
        for j in range(joints - 1):
            text += f"{j + 1}th: {cxx_number(hits[j] / images)}, " + ("\n" if (j + 1) % 10 == 0 else "")
        text += f"{joints}th: {cxx_number(hits[-1] / images)}\n"
    return text + "\n\n"


@pytest.mark.parametrize("joints", [2, 10, 11, 21])
def test_detected_joints(joints: int, device: torch.device) -> None:
    rs = np.random.RandomState(joints)
    b = rs.uniform(0, 1, (9, 2 * joints)).astype(np.float32)
    a = (b + rs.normal(0, 0.15, b.shape)).astype(np.float32)
    b[1, 0] = b[2, -1] = b[6, 3] = -1
    module = accuracy(6, joints)
    for start, stop in ((0, 4), (4, 8), (8, 9)):
        x, t = (torch.tensor(v[start:stop], device=device) for v in (a, b))
        top = module(x, t)
        assert top.shape == (1, 1, 1, 1)
        assert top.item() == pytest.approx(((a - b)[start:stop] ** 2).sum() / (stop - start), rel=1e-5)
    # Frames 6 and 7 came with the pass that completed the six, and are not counted; frame 8 opens the next six.
    assert module.files.written["d/acc.log"] == slow_report(a[:6], b[:6])
    assert module.frames == 1
    losses = module.files.written["d/loss.log"].splitlines()
    assert len(losses) == 3
    assert losses[2] == f"iter: 0, loss: {cxx_number(top.item())}"


def test_reports_are_appended() -> None:
    module = accuracy(2, 5)
    x = torch.rand(2, 10)
    module(x, x)
    module(x, x)
    report = slow_report(x.numpy(), x.numpy())
    assert "accuracy: 1\n" in report
    assert module.files.written["d/acc.log"] == 2 * report


def test_accuracy_has_no_backward_pass_and_infers_without_files() -> None:
    module = accuracy(2, 5)
    assert module.infer(*torch.empty(2, 4, 10, device="meta")).shape == (1, 1, 1, 1)
    assert module.files.written == {}
    with pytest.raises(LayerError, match="only measures"):
        module(torch.rand(4, 10, requires_grad=True), torch.rand(4, 10)).backward()


def test_accuracy_refuses() -> None:
    for settings in ({"factor": 0.0}, {"factor": 1.5}, {"factors": 0}, {"factors": 4}):
        with pytest.raises(LayerError, match="acc_factor"):
            accuracy(2, 5, **settings)
    with pytest.raises(LayerError, match="images_num is 0"):
        accuracy(0, 5)
    with pytest.raises(LayerError, match="shoulder_id 5 or hip_id 0 is none of 5 joints"):
        accuracy(2, 5, shoulder=5)(torch.zeros(4, 10), torch.zeros(4, 10))
    with pytest.raises(LayerError, match=r"found \[4, 10\] and \[4, 12\]"):
        accuracy(2, 5)(torch.zeros(4, 10), torch.zeros(4, 12))
