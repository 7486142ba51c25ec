"""A picture or a video that is cut short is an error wherever one is read, never half a grey picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError
from hpm.datasets.human36m import read_fetch
from hpm.datasets.kth_football import prepare_kth
from hpm.datasets.mpii import prepare_mpii
from hpm.datasets.prepare import PrepareOptions, prepare_human36m
from hpm.drivers.coarse_files import predict_list
from hpm.files.lists import format_list_line, write_list
from hpm.files.pictures import PictureFiles, frame_rate, read_frames
from hpm.model import PoseMachine
from hpm.scaling import REFINEMENT_BOUNDS
from tests.hpm.datasets.human36m_files import Recordings


def write_cut_jpeg(path: Path) -> None:
    """A JPEG of 1000 x 1000 whose second half is missing: OpenCV itself reads it, and fills the rest with grey."""
    picture = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[: len(data) // 2])
    assert cv2.imread(str(path)) is not None


def in_mpii(folder: Path) -> Path:
    joints = [[60 + 12 * (k % 4), 30 + 17 * k] for k in range(16)]
    entry = {"image": "a.jpg", "joints": joints, "joints_vis": [1] * 16, "center": [160, 160], "scale": 1.0}
    (folder / "p.json").write_text(json.dumps([entry]))
    write_cut_jpeg(folder / "a.jpg")
    prepare_mpii(folder / "p.json", folder, folder / "out")
    return folder / "out"


def in_kth(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    pose, cameras = rng.normal(0, 1, (14, 3)), np.zeros((3, 2, 4))
    cameras[:, 0, 0] = cameras[:, 1, 2] = 50
    cameras[..., 3] = 300
    points = np.einsum("cij,nj->inc", cameras[..., :3], pose) + 300
    arrays = {"positions2d": points, "positions3d": pose.T, "cameras": cameras.transpose(1, 2, 0)}
    for name, values in arrays.items():
        np.savetxt(folder / f"{name}.txt", values.ravel(order="F"))
    write_cut_jpeg(folder / "Camera 2" / "00001.jpg")
    prepare_kth(folder, folder / "out", REFINEMENT_BOUNDS)
    return folder / "out"


def in_h36m_fetch(folder: Path) -> Path:
    files = Recordings({("S1", "Walking 1"): 1})
    source = files.fetch(folder / "in")
    write_cut_jpeg(source / "S1/Walking-1/imageSequence/54138969/img_000001.jpg")
    prepare_human36m(lambda: read_fetch(source), folder / "out", PrepareOptions())
    return folder / "out"


def in_footage(folder: Path) -> Path:
    write_cut_jpeg(folder / "a.jpg")
    list(read_frames([folder]))
    return folder / "out"


def in_scenes(folder: Path) -> Path:
    write_cut_jpeg(folder / "a.jpg")
    PictureFiles([folder / "a.jpg"])[0]
    return folder / "out"


@pytest.mark.parametrize("use", [in_mpii, in_kth, in_h36m_fetch, in_footage, in_scenes])
def test_a_truncated_jpeg(use: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"\.jpg: is a truncated JPEG: its end marker is missing"):
        use(tmp_path)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_truncated_jpeg_in_a_list(reference: Path, tmp_path: Path) -> None:
    folder = reference / "tiny_mask3d"
    machine = PoseMachine.from_caffe(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    write_cut_jpeg(tmp_path / "a.jpg")
    write_list(tmp_path / "list.txt", [format_list_line("a.jpg", np.zeros(32), np.zeros(48), 0)])
    with pytest.raises(FileError, match=r"a\.jpg: is a truncated JPEG: its end marker is missing"):
        list(predict_list(machine, tmp_path / "list.txt", tmp_path, window=1))


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.avi", "XVID"), ("a.mkv", "MJPG"), ("a.mp4", "mp4v")])
def test_a_truncated_video(name: str, code: str, tmp_path: Path) -> None:
    path, rng = tmp_path / name, np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (160, 120))
    for _ in range(40):
        writer.write(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8))
    writer.release()
    assert len(list(read_frames([path]))) == 40
    assert len(list(read_frames([path], every=15))) == 3
    assert frame_rate([path], every=5) == 5
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        FileError,
        match=rf"{name}: is (a truncated video: it ends after \d+ of the 40 frames|no video that OpenCV can read)",
    ):
        list(read_frames([path]))


def test_a_playlist_is_no_video(tmp_path: Path) -> None:
    """A decoder would open the files that it names."""
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXTINF:10,\n/etc/passwd\n")
    with pytest.raises(FileError, match=r"a\.mp4: is text, no video"):
        list(read_frames([path]))


def test_frames_have_the_limit_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
    writer.write(np.zeros((120, 160, 3), np.uint8))
    writer.release()
    monkeypatch.setenv("CAFFE_COMPAT_MAX_PICTURE_BYTES", str(3 * 160 * 120 - 1))
    with pytest.raises(FileError, match=r"a\.avi: a frame of 160 x 120 pixels takes 57,600 bytes"):
        list(read_frames([path]))
