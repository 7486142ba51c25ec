"""WindowData against its geometry worked out by hand, or in plain float arithmetic."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileError, LayerError
from caffe_compat.formats.weights import write_binaryproto
from caffe_compat.training.data.window_data import _round, _warp
from tests.training.data.helpers import source_of

IMAGES = [np.random.RandomState(i).randint(0, 256, (20 + i, 30, 3)).astype(np.uint8) for i in range(2)]
FILE = """# 0
0.png
3 20 30
3
4 0.9 2 3 13 12
1 0.2 0 0 9 9
2 0.4 5 5 6 6
# 1
1.png
3
21
30
2
7 0.5 10 10 25 18
0 0.0 20 1 29 12
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    (tmp_path / "windows.txt").write_text(FILE)
    return tmp_path


def net(settings: str = "", transform: str = "") -> str:
    return (
        f'layer {{ name: "d" type: "WindowData" top: "data" top: "label" '
        f"transform_param {{ crop_size: 8 {transform} }} "
        f'window_data_param {{ source: "windows.txt" batch_size: 8 bg_threshold: 0.3 {settings} }} }}'
    )


def test_background_first_then_objects(folder: Path) -> None:
    source = source_of(net("fg_fraction: 0.4"), folder)
    assert source.shapes() == {"data": (8, 3, 8, 8), "label": (8,)}
    boxes = {4: (0, 2, 3, 13, 12), 7: (1, 10, 10, 25, 18), 0: None}
    seen = set()
    for k in range(20):
        batch = source.batch(k)
        labels = batch["label"].tolist()
        assert labels[:5] == [0] * 5
        assert set(labels[5:]) <= {4, 7}
        seen |= set(labels)
        for data, label in zip(batch["data"].numpy()[5:], labels[5:], strict=True):
            i, x1, y1, x2, y2 = boxes[int(label)]  # type: ignore[misc]
            expected = cv2.resize(IMAGES[i][y1 : y2 + 1, x1 : x2 + 1], (8, 8)).transpose(2, 0, 1)
            np.testing.assert_array_equal(data, expected)
    assert seen == {0, 4, 7}
    assert (source_of(net("fg_fraction: 0.4"), folder).batch(11)["data"] == source.batch(11)["data"]).all()


def test_context_scale_mirror_and_mean(folder: Path) -> None:
    """The window of class 4 grown to leave a pixel of context: 12 x 10 becomes 16 x 13.33."""
    mean = np.random.RandomState(4).uniform(0, 255, (1, 3, 12, 14)).astype(np.float32)
    write_binaryproto(folder / "mean", mean)
    source = source_of(
        net("context_pad: 1 fg_fraction: 1 scale: 0.5 fg_threshold: 0.8", 'mirror: true mean_file: "mean"'), folder
    )
    # centre (8, 8), half sizes 6 and 5 times 8/6: x 0..16, y round(1.33)..round(14.67)
    assert _warp((2, 3, 13, 12), 20, 30, 8, 1, False, False).box == (0, 1, 16, 15)
    cut = cv2.resize(IMAGES[0][1:16, 0:17], (8, 8)).transpose(2, 0, 1).astype(np.float32)
    crop = mean[0][:, 3:11, 3:11]
    plain, mirrored = (cut - crop) * np.float32(0.5), (cut[:, :, ::-1] - crop) * np.float32(0.5)
    batch = source.batch(0)["data"].numpy()
    kinds = [next(j for j, x in enumerate((plain, mirrored)) if np.array_equal(x, one)) for one in batch]
    assert set(kinds) == {0, 1}


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_clipped_windows_leave_zeros(square: bool, mirrored: bool) -> None:
    rng = np.random.RandomState(8)
    for _ in range(300):
        x1, x2 = sorted(rng.randint(0, 60, 2))
        y1, y2 = sorted(rng.randint(0, 40, 2))
        warp = _warp((x1, y1, x2, y2), 40, 60, 24, 3, square, mirrored)
        bx1, by1, bx2, by2 = warp.box
        assert 0 <= bx1 <= bx2 < 60
        assert 0 <= by1 <= by2 < 40
        assert warp.left + warp.size[0] <= 24
        assert warp.top + warp.size[1] <= 24
        other = _warp((x1, y1, x2, y2), 40, 60, 24, 3, square, not mirrored)
        assert abs(warp.left + warp.size[0] + other.left - 24) <= 1  # what is left blank changes sides


@pytest.mark.parametrize(("value", "rounded"), [(2.5, 3), (-2.5, -3), (0.5, 1), (-0.4, 0), (-1.6, -2), (7.0, 7)])
def test_halves_round_away_from_zero(value: float, rounded: int) -> None:
    assert _round(np.float32(value)) == rounded


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# 1", "# 2", "windows.txt: line 8: '# 1' was expected"),
        ("4 0.9 2", "0 0.9 2", "line 5: an object .* has class 0"),
        ("4 0.9 2 3 13 12", "4 0.9 2 3 13", "line 5"),
        ("0 0.0 20 1 29 12\n", "", "line 14: the file ends within"),
        ("3\n21", "1\n21", "1 channels after images of 3"),
        ("4 0.9 2", f"{2**64} 0.9 2", "line 5: 18446744073709551616 is larger than Caffe.s whole numbers"),
        ("4 0.9 2 3", f"4 0.9 2 -{2**31 + 1}", "line 5: -2147483649 is larger"),
        ("1 0.2", "1 0.6", "holds no background windows"),
    ],
)
def test_bad_window_files(old: str, new: str, message: str, folder: Path) -> None:
    text = FILE.replace(old, new)
    if "background" in message:
        text = text.replace("0 0.0 20", "1 0.9 20")
    (folder / "windows.txt").write_text(text)
    with pytest.raises(FileError, match=message):
        source_of(net(), folder)


def test_windows_that_leave_the_image(folder: Path) -> None:
    (folder / "windows.txt").write_text(FILE.replace("2 3 13 12", "2 3 33 12"))
    source = source_of(net("fg_fraction: 1 fg_threshold: 0.8"), folder)
    with pytest.raises(FileError, match=r"windows.txt: line 5: the window \[2, 3, 33, 12\] does not lie in .*0.png"):
        source.batch(0)
    (folder / "0.png").unlink()
    with pytest.raises(FileError, match=r"windows.txt: line 5: .*0.png: cannot be opened"):
        source.batch(0)


def test_settings(folder: Path) -> None:
    with pytest.raises(LayerError, match=r"crop_size 8 .* must exceed twice context_pad 4"):
        source_of(net("context_pad: 4"), folder)
    with pytest.raises(LayerError, match=r"fg_fraction is 1.5"):
        source_of(net("fg_fraction: 1.5"), folder)
    assert any("transform_param.scale has no effect" in n for n in source_of(net("", "scale: 2"), folder).notes)
