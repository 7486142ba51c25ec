"""Lists to the original's CSV files: what it wrote, no frame dropped, resumed per action; and released predictions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.access import FileAccess
from caffe_compat.errors import FileError, UsageError
from hpm.drivers.coarse_files import predict_actions
from hpm.drivers.released import verify_released
from hpm.files.folders import DataFolder, ResultFolder
from hpm.files.lists import read_list, read_results
from hpm.model import PoseMachine
from hpm.networks import NetworkOptions, define, scaled_channels
from hpm.scaling import read_bounds
from tests.hpm.seeded import seeded_net
from tests.hpm.tiny import SIDE, write_action

NARROW = NetworkOptions(image_size=SIDE, channels=scaled_channels(1 / 16), hidden=24, projector=40)


@pytest.fixture
def tiny(reference: Path) -> PoseMachine:
    folder = reference / "tiny_mask3d"
    bounds = read_bounds(reference / "max_min.csv")
    return PoseMachine.from_caffe(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel", bounds=bounds)


@pytest.mark.slow
def test_the_files_of_the_original(reference: Path, tmp_path: Path) -> None:
    """What the network's own layers write, line by line, over windows with a start amid the second."""
    write_action(tmp_path, 2, 10, starts=(0, 7))
    data, options = DataFolder(tmp_path), NetworkOptions(image_size=SIDE, bounds="max_min.csv")
    files = FileAccess(reference)
    net = seeded_net(define("template_16_merge", options), files=files)
    lines = read_list(data.ground_truth(2))
    assert lines.pose3d is not None
    assert lines.clip is not None
    pictures = np.stack([np.asarray(cv2.imread(str(tmp_path / "h36m" / path))) for path in lines.paths])
    images = (pictures.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 256
    label = np.concatenate([lines.pose2d, lines.pose3d, lines.clip[:, None]], 1).astype(np.float32)
    for k in (0, 5):
        net.run({"data": images[k : k + 5], "label_clip": label[k : k + 5]})
    machine = PoseMachine(net, bounds=read_bounds(reference / "max_min.csv"))
    seen: list[tuple[int, int, int]] = []
    summary = predict_actions(
        machine,
        data.ground_truth,
        tmp_path / "h36m",
        tmp_path / "out",
        actions=[2],
        progress=lambda *numbers: seen.append(numbers),
    )
    assert not summary.problems
    assert seen[-1] == (2, 10, 10)
    results = ResultFolder(tmp_path / "out")
    for path, name in (
        (results.normalised(2), options.norm_csv),
        (results.coarse_mm(2), options.unnorm_csv),
        (results.change_mm(2), options.change_csv),
    ):
        ours, theirs = path.read_text(), files.written[name]
        rows = [[line.split(",") for line in text.splitlines()] for text in (ours, theirs)]
        assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]
        values = [np.array([row[1:] for row in part], float) for part in rows]
        assert values[0].shape == (10, 48)
        assert np.abs(values[0] - values[1]).max() <= (1e-5 if name == options.norm_csv else 0.02)


def test_no_frame_is_dropped_and_blocks_do_not_show(
    tiny: PoseMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write_action(tmp_path, 3, 14)
    files = []
    for block in (60, 4):
        monkeypatch.setattr("hpm.drivers.coarse_files._BLOCK", block)
        out = tmp_path / f"out{block}"
        summary = predict_actions(
            tiny, DataFolder(tmp_path).ground_truth, tmp_path / "h36m", out, actions=[3], window=4
        )
        assert [(done.frames, done.kept) for done in summary.done] == [(14, False)]
        files.append(ResultFolder(out).normalised(3).read_bytes())
    assert files[0] == files[1]
    tiny.reset_state()
    expected = tiny.predict(pictures, window=4).pose
    np.testing.assert_allclose(read_results(ResultFolder(out).normalised(3), 48), expected, rtol=1e-5, atol=1e-6)


def test_actions_do_not_see_each_other(tiny: PoseMachine, tmp_path: Path) -> None:
    """Whatever came before, an action starts with no state, even if its list does not say so."""
    write_action(tmp_path, 1, 6)
    write_action(tmp_path, 2, 6, starts=())
    lists = DataFolder(tmp_path).ground_truth
    predict_actions(tiny, lists, tmp_path / "h36m", tmp_path / "both", actions=[1, 2])
    predict_actions(tiny, lists, tmp_path / "h36m", tmp_path / "one", actions=[2])
    both, one = (ResultFolder(tmp_path / name).normalised(2).read_bytes() for name in ("both", "one"))
    assert both == one


def test_finished_actions_are_kept(tiny: PoseMachine, tmp_path: Path) -> None:
    write_action(tmp_path, 1, 3)
    write_action(tmp_path, 2, 4)
    lists, out = DataFolder(tmp_path).ground_truth, tmp_path / "out"

    def run(window: int = 5) -> dict[int, bool]:
        found = predict_actions(tiny, lists, tmp_path / "h36m", out, actions=[1, 2], window=window)
        assert not found.problems
        return {done.action: done.kept for done in found.done}

    assert run() == {1: False, 2: False}
    assert run() == {1: True, 2: True}
    # What is no longer as it was left, or was made otherwise, is done again.
    ResultFolder(out).change_mm(2).write_text("1,2\n")
    assert run() == {1: True, 2: False}
    assert run(window=2) == {1: False, 2: False}
    (out / "result1.json").write_text("{")
    assert run(window=2) == {1: False, 2: True}


def test_what_cannot_be_done_is_named_and_the_rest_goes_on(tiny: PoseMachine, tmp_path: Path) -> None:
    for action in (1, 2, 3):
        write_action(tmp_path, action, 3)
    lists = DataFolder(tmp_path).ground_truth
    path = lists(1)
    path.write_text(path.read_text().replace("1.png ", "1.png 5,"))
    (tmp_path / "h36m" / "action 2" / "2.png").write_bytes(b"no picture")
    summary = predict_actions(tiny, lists, tmp_path / "h36m", tmp_path / "out", actions=[1, 2, 3, 4])
    assert [done.action for done in summary.done] == [3]
    assert "test1.txt: line 2: 82 numbers" in summary.problems[1]
    assert "2.png" in summary.problems[2]
    assert "test4.txt" in summary.problems[4]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "result3.json",
        "result3_change_unnorm.csv",
        "result3_norm.csv",
        "result3_unnorm.csv",
    ]
    with pytest.raises(UsageError, match="action 16"):
        predict_actions(tiny, lists, tmp_path, tmp_path / "out", actions=[16])


def test_a_2d_network_writes_32_values(tmp_path: Path) -> None:
    pictures = write_action(tmp_path, 5, 7)
    machine = PoseMachine(seeded_net(define("pose_2d", NARROW)))
    data = DataFolder(tmp_path)
    out = data.pose2d(5, "ours").parent
    assert not predict_actions(machine, data.ground_truth, tmp_path / "h36m", out, actions=[5]).problems
    assert sorted(path.name for path in out.iterdir()) == ["result5.json", "result5_norm.csv"]
    machine.reset_state()
    found = read_results(data.pose2d(5, "ours"), 32)
    np.testing.assert_allclose(found, machine.pose2d(pictures).reshape(7, 32), rtol=1e-5, atol=1e-6)


def test_released_predictions_give_a_record(tiny: PoseMachine, tmp_path: Path) -> None:
    write_action(tmp_path, 1, 11)
    write_action(tmp_path, 2, 7)
    lists, images, out = DataFolder(tmp_path).ground_truth, tmp_path / "h36m", tmp_path / "released"
    predict_actions(tiny, lists, images, out, actions=[1, 2], window=4)
    # The authors' files lack the last incomplete window.
    for path in (ResultFolder(out).normalised(1), ResultFolder(out).change_mm(1)):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
    results = verify_released(tiny, lists, images, out, actions=[1, 2], window=4)
    assert [[blob.count for blob in result.blobs] for result in results] == [[8 * 48] * 2, [4 * 48] * 2]
    assert tiny.parity is not None
    assert tiny.parity.group == "actions 1,2, window 4"
    tiny.parity = None
    # Another window gives other numbers, as other weights would.
    results = verify_released(tiny, lists, images, out, actions=[1], window=2)
    assert not results[0].passed
    assert tiny.parity is None
    with pytest.raises(FileError, match=r"result3_norm\.csv"):
        verify_released(tiny, lists, images, out, actions=[3])
