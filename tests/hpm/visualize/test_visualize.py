"""Scenes, pictures and videos: what is checked, and what is really to be seen in the files."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import caffe_compat.extras
from caffe_compat.errors import FileError, MissingExtraError, UsageError
from hpm.skeleton import H36M16, H36M17
from hpm.visualize import Figure, Scene, save_contact_sheet, save_page, save_png, save_pngs, save_video
from tests.hpm.visualize import scenes

LEFT, RIGHT, MIDDLE, GHOST = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x4D, 0x4D, 0x4D), (0xB8, 0xB8, 0xB8)


def near(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    return np.abs(image.astype(int) - colour).max(-1) <= tolerance


def panels(image: np.ndarray, count: int) -> list[np.ndarray]:
    """The panels of a picture without the strip of titles above them."""
    return np.array_split(image[int(0.15 * len(image)) :], count, axis=1)


# Scenes


def test_errors_are_the_mean_distance_of_all_joints() -> None:
    truth = np.zeros((2, 16, 3))
    coarse = truth.copy()
    coarse[1, 4] = (3, 4, 0)
    coarse[1, 9] = (0, 0, 11)
    scene = Scene(truth=truth, coarse=coarse)
    assert list(scene.errors) == ["coarse"]
    assert scene.errors["coarse"].tolist() == [0, 1]
    assert Scene(coarse=coarse).errors == {}


def test_2d_poses_in_either_unit() -> None:
    square = scenes.pose2d(90, 90)
    pictures = scenes.pictures(90, 90)
    pixels = Scene(pictures=pictures, pose2d_pixels=square)
    fractions = Scene(pictures=pictures, pose2d_normalised=square / 90)
    for frame in range(scenes.FRAMES):
        assert np.allclose(np.asarray(pixels.flat(frame).pose), square[frame] / 90, rtol=1e-12)
        assert np.allclose(np.asarray(fractions.flat(frame).pose), square[frame] / 90, rtol=1e-12)
    wide = Scene(pictures=scenes.pictures(160, 120), pose2d_pixels=scenes.pose2d(160, 120))
    assert wide.flat(0).size == (160, 120)
    assert np.allclose(wide.flat(1).pose * (160, 120), scenes.pose2d(160, 120)[1], rtol=1e-12)
    field = Scene(pose2d_pixels=scenes.pose2d(160, 120)).flat(0).size
    assert field[0] >= scenes.pose2d(160, 120)[..., 0].max()
    assert field[1] >= scenes.pose2d(160, 120)[..., 1].max()


def test_pictures_may_be_read_when_asked() -> None:
    class Reader:
        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return scenes.FRAMES

        def __getitem__(self, index: int) -> np.ndarray:
            self.read.append(index)
            return scenes.pictures(50, 40)[index]

    reader = Reader()
    scene = Scene(pictures=reader, truth=scenes.truth())
    assert reader.read == []
    assert np.array_equal(np.asarray(scene.flat(4).picture), scenes.pictures(50, 40)[4])
    assert reader.read == [4]


def bad_scenes() -> dict[str, tuple[dict[str, Any], str]]:
    truth, infinite = scenes.truth(), scenes.truth()
    infinite[3, 5, 1] = np.inf
    flat = scenes.pose2d(9, 9)
    endless = flat.copy()
    endless[2, 1, 0] = -np.inf
    return {
        "nothing": ({}, "needs a pose"),
        "pictures alone": ({"pictures": scenes.pictures(9, 9)}, "needs a pose"),
        "both units": ({"pose2d_pixels": flat, "pose2d_normalised": flat}, "not both"),
        "other joints": ({"truth": np.zeros((4, 17, 3))}, r"truth: shape \(frames, 16, 3\).*\(4, 17, 3\)"),
        "2D as 3D": ({"coarse": flat}, r"coarse: shape .*\(7, 16, 2\)"),
        "integers": ({"refined": np.zeros((4, 16, 3), int)}, "refined: .*int64"),
        "list": ({"refined": [[1.0]]}, "refined: .*list"),
        "lengths": ({"truth": truth, "coarse": truth[:5]}, "truth 7, coarse 5"),
        "names": ({"truth": truth, "names": ["a"]}, "truth 7, names 1"),
        "no frames": ({"truth": truth[:0]}, "0 frames"),
        "infinite": ({"truth": infinite}, "truth: frame 3: LKnee is .*inf"),
        "infinite 2D": ({"pose2d_pixels": endless}, "pose2d_pixels: frame 2: RHip is .*-inf"),
    }


@pytest.mark.parametrize("case", bad_scenes())
def test_scenes_that_cannot_be(case: str) -> None:
    arguments, message = bad_scenes()[case]
    with pytest.raises(UsageError, match=message):
        Scene(**arguments)


def test_pictures_that_cannot_be() -> None:
    truth = scenes.truth()
    for pictures, message in (
        (np.zeros((7, 9, 8, 3)), "float64"),
        (np.zeros((7, 9, 8), np.uint8), r"\(9, 8\)"),
        (np.zeros((7, 9, 8, 4), np.uint8), r"\(9, 8, 4\)"),
    ):
        with pytest.raises(UsageError, match=rf"frame 2: .*{message}"):
            Scene(pictures=pictures, truth=truth).flat(2)
    uncropped = Scene(
        pictures=scenes.pictures(9, 8), pose2d_normalised=scenes.pose2d(1, 1), names=["n"] * scenes.FRAMES
    )
    with pytest.raises(UsageError, match=r"n: .*square crop.* 9 x 8 pixels"):
        uncropped.flat(0)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(caffe_compat.extras, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"caffe-compat\[plots\]"):
        save_png(scenes.scene(), 0, tmp_path / "a.png")
    with pytest.raises(MissingExtraError, match=r"caffe-compat\[plots\]"):
        save_page(scenes.scene(), tmp_path / "a.html")
    save_page(replace(scenes.scene(), pictures=None), tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


# Pictures


def test_png(tmp_path: Path) -> None:
    save_png(scenes.scene(), 2, tmp_path / "a.png", height=300)
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "PNG"
        pixels = np.asarray(file.convert("RGB"))
    height, width, _ = pixels.shape
    assert height == 300
    assert width % 2 == 0
    assert width > 3 * height
    flat, truth, coarse, refined = panels(pixels, 4)
    assert near(flat, (0, 0, 255)).sum() > 5000  # pictures are BGR, files RGB
    # The green band of frame 2 begins at a sixth of the picture's height.
    rows = np.flatnonzero(near(flat, (0, 255, 0), 60).sum(1) > 50)
    blue = np.flatnonzero(near(flat, (0, 0, 255), 60).sum(1) > 50)
    assert (rows[0] - blue[0]) / np.ptp(blue) == pytest.approx(20 / 120, abs=0.03)
    for panel in (flat, truth, coarse, refined):
        left, right = np.argwhere(near(panel, LEFT)), np.argwhere(near(panel, RIGHT))
        assert min(len(left), len(right)) > 40
        assert left[:, 1].mean() > right[:, 1].mean() + 10  # no mirror image
        middle = np.argwhere(near(panel, MIDDLE))
        assert middle[:, 0].mean() < right[:, 0].mean() - 10  # the spine above the legs
    # The rims of letters and lines have this grey too.
    rims = near(truth, GHOST).sum()
    assert min(near(coarse, GHOST).sum(), near(refined, GHOST).sum()) > rims + 100


def test_depth_is_not_mirrored() -> None:
    """Seen from the right of the camera and from above, what is nearer to it lies to the left and lower."""
    drawn = Figure(Scene(truth=scenes.reaching()), 300).draw(0)[45:]
    wrist, hip = (np.argwhere(near(drawn, colour)).mean(0) for colour in (LEFT, RIGHT))
    assert wrist[1] < hip[1] - 10
    assert wrist[0] > hip[0] + 5


def test_3d_panels_share_their_scale() -> None:
    """The same pose is drawn at the same place in each panel, and a larger one larger."""
    truth = scenes.truth()
    drawn = Figure(Scene(truth=truth, coarse=truth, refined=0.5 * truth), 300).draw(0)
    spans = [np.ptp(np.argwhere(near(panel, LEFT))[:, 0]) for panel in panels(drawn, 3)]
    assert abs(spans[0] - spans[1]) <= 1
    assert spans[2] == pytest.approx(0.5 * spans[0], rel=0.08)


def test_joints_that_were_not_found_leave_out_their_bones() -> None:
    pose = scenes.pose2d(90, 90)
    whole = near(Figure(Scene(pose2d_pixels=pose), 200).draw(0), LEFT).sum()
    pose[0, H36M16.index("LKnee")] = np.nan
    part = near(Figure(Scene(pose2d_pixels=pose), 200).draw(0), LEFT).sum()
    assert 0.3 * whole < part < 0.85 * whole


def test_any_part_alone_and_other_joint_orders() -> None:
    truth17 = np.insert(scenes.truth(), 9, scenes.truth()[:, 9] + (0, 30, -40), axis=1)
    for scene in (
        Scene(truth=scenes.truth()),
        Scene(refined=scenes.truth().astype(np.float32)),
        Scene(pose2d_normalised=scenes.pose2d(1, 1)),
        Scene(coarse=truth17, joints=H36M17),
    ):
        drawn = Figure(scene, 200).draw(1)
        assert drawn.dtype == np.uint8
        assert drawn.shape[0] == 200
        assert min(near(drawn[40:], LEFT).sum(), near(drawn[40:], RIGHT).sum()) > 40


def test_names_are_not_markup() -> None:
    names = ["$\\frac{", "a\nb\x00", "x" * 500, "\udcff", "$$", "", "\u2028"]
    figure = Figure(Scene(truth=scenes.truth(), names=names), 200)
    for frame in range(scenes.FRAMES):
        assert near(figure.draw(frame)[40:], LEFT).sum() > 40


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    scene = scenes.scene()
    with pytest.raises(UsageError, match="99"):
        Figure(scene, 99)
    for frame in (-1, scenes.FRAMES):
        with pytest.raises(UsageError, match=f"frame {frame} of a scene of 7"):
            save_png(scene, frame, tmp_path / "a.png")
    with pytest.raises(UsageError, match="0 columns"):
        save_contact_sheet(scene, tmp_path / "a.png", columns=0)
    with pytest.raises(UsageError, match="0 frames"):
        save_contact_sheet(scene, tmp_path / "a.png", indices=[])
    with pytest.raises(FileError, match="no folder"):
        save_png(scene, 0, tmp_path / "missing" / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_png_per_frame(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    paths = save_pngs(scenes.scene(), tmp_path, [5, 1], 120, lambda done, total: told.append((done, total)))
    assert [path.name for path in paths] == ["frame_00005.png", "frame_00001.png"]
    assert told == [(1, 2), (2, 2)]
    for path, frame in zip(paths, (5, 1), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), Figure(scenes.scene(), 120).draw(frame))


def test_contact_sheet(tmp_path: Path) -> None:
    scene = scenes.scene()
    save_contact_sheet(scene, tmp_path / "a.png", indices=[0, 3, 6], columns=2, height=120)
    sheet, cell = np.asarray(Image.open(tmp_path / "a.png")), Figure(scene, 120).draw(3)
    height, width, _ = cell.shape
    assert sheet.shape == (2 * height, 2 * width, 3)
    assert np.array_equal(sheet[:height, width:], cell)
    assert (sheet[height:, width:] == 255).all()
    save_contact_sheet(scene, tmp_path / "a.png", height=120)
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (6 * height, width, 3)


# Videos


@pytest.mark.slow
def test_gif(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    progress = lambda done, total: told.append((done, total))  # noqa: E731
    save_video(scenes.scene(), tmp_path / "a.GIF", fps=30, height=120, progress=progress)
    expected = Figure(scenes.scene(), 120)
    durations = []
    with Image.open(tmp_path / "a.GIF") as file:
        assert (file.format, file.n_frames, file.info["loop"]) == ("GIF", scenes.FRAMES, 0)
        for frame in range(scenes.FRAMES):
            file.seek(frame)
            durations.append(file.info["duration"])
            pixels = np.asarray(file.convert("RGB")).astype(int)
            assert np.abs(pixels - expected.draw(frame)).mean() < 6
    # 30 a second are no whole hundredths; over the video the speed is right.
    assert durations == [30, 40, 30, 30, 40, 30, 30]
    assert told == [(k, scenes.FRAMES) for k in range(1, scenes.FRAMES + 1)]


def read_mp4(path: Path, width: int, height: int) -> np.ndarray:
    """The frames of a video, (n, height, width, 3), RGB."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.slow
def test_mp4(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    order = [6, 0, 3]
    progress = lambda done, total: told.append((done, total))  # noqa: E731
    save_video(scenes.scene(), tmp_path / "a.mp4", fps=12.5, indices=order, height=130, progress=progress)
    expected = [Figure(scenes.scene(), 130).draw(frame) for frame in order]
    height, width, _ = expected[0].shape
    frames = read_mp4(tmp_path / "a.mp4", width, height)
    assert len(frames) == 3
    differences = np.array([[np.abs(a.astype(int) - b).mean() for b in expected] for a in frames])
    assert (np.diag(differences) < 5).all()
    assert (differences.argmin(1) == np.arange(3)).all()
    about = next(imageio_ffmpeg.read_frames(tmp_path / "a.mp4"))
    assert (about["codec"], about["size"]) == ("h264", (width, height))
    assert about["fps"] == 12.5
    assert "yuv420p" in about["pix_fmt"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    head = (tmp_path / "a.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # plays before it is loaded to the end


def test_ffmpeg_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho no such encoder >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    with pytest.raises(FileError, match=r"a\.mp4: ffmpeg stopped with status 7: no such encoder"):
        save_video(scenes.scene(), tmp_path / "a.mp4", height=120)
    assert list(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_a_picture_that_fails_leaves_no_file(tmp_path: Path, ending: str) -> None:
    pictures = [*scenes.pictures(40, 30)[:3], *np.zeros((4, 30, 40, 3))]
    with pytest.raises(UsageError, match=r"frame 3: .*float64"):
        save_video(Scene(pictures=pictures, truth=scenes.truth()), tmp_path / f"a.{ending}", height=120)
    assert list(tmp_path.iterdir()) == []


def test_videos_that_cannot_be(tmp_path: Path) -> None:
    scene = scenes.scene()
    with pytest.raises(UsageError, match=r"ends in \.mp4 or \.gif"):
        save_video(scene, tmp_path / "a.avi")
    for fps in (0, -1, float("nan"), 51):
        with pytest.raises(UsageError, match=f"{fps} frames per second"):
            save_video(scene, tmp_path / "a.gif", fps=fps)
    with pytest.raises(UsageError, match="0 frames"):
        save_video(scene, tmp_path / "a.gif", indices=[])
    assert list(tmp_path.iterdir()) == []
