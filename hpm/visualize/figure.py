"""Pictures: the 2D skeleton, the ground truth, the coarse and the refined pose side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.display import shown
from caffe_compat.errors import UsageError
from caffe_compat.extras import require
from caffe_compat.formats.files import atomic_write

from .scene import LABELS, SIDE_COLOURS, Scene

__all__ = ["Figure", "save_contact_sheet", "save_png", "save_pngs"]

Progress = Callable[[int, int], None]

_GHOST = "#b8b8b8"
_FIELD = "#f2f2f2"


class Figure:
    """Draws the frames of a scene one after the other into pictures of one size.

    A panel for the picture with its 2D skeleton, and one for each 3D pose; these share centre, scale and point of view
    (in front of the camera, a little to its right and above). Ground truth is shown again in grey behind an estimate.

    Args:
        height: of a picture, pixels. Width follows from the number of panels; both are even, as video formats ask.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, scene: Scene, height: int = 420) -> None:
        if height < 100:
            raise UsageError(f"a picture height of {height} pixels; at least 100 are needed")
        # Not pyplot: it has a global state and may look for a display.
        matplotlib = require("matplotlib.figure", "plots")
        agg = require("matplotlib.backends.backend_agg", "plots")
        self._scene = scene
        # In heights of a panel: a wide picture has a wide one.
        wide = [_flat_width(scene)] * scene.has_flat + [1.0] * len(scene.poses)
        panels = sum(wide)
        dpi = 100 * height / 420
        width, height = (2 * round(size / 2) for size in (panels * 0.95 * height, height))
        self._figure = matplotlib.Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")
        self._canvas = agg.FigureCanvasAgg(self._figure)
        self._title = self._figure.text(
            0.5, 0.985, "", ha="center", va="top", fontsize=10, color="#333333", parse_math=False
        )
        boxes = [(sum(wide[:k]) / panels, 0.0, part / panels, 0.9) for k, part in enumerate(wide)]
        self._flat = _FlatPanel(self._figure, boxes.pop(0), scene) if scene.has_flat else None
        self._panels = [
            _PosePanel(self._figure, box, scene, name) for box, name in zip(boxes, scene.poses, strict=True)
        ]
        self._key(0.012 if panels > 1 else 0.02)

    def _key(self, left: float) -> None:
        for k, (side, colour) in enumerate(list(SIDE_COLOURS.items())[:2]):
            self._figure.text(left, 0.985 - 0.05 * k, side, va="top", fontsize=9, color=colour, weight="bold")

    def draw(self, index: int) -> np.ndarray:
        """Frame ``index`` as (height, width, 3), uint8, RGB."""
        if not 0 <= index < len(self._scene):
            raise UsageError(f"frame {index} of a scene of {len(self._scene)} frames")
        self._title.set_text(_short(self._scene.name(index)))
        if self._flat is not None:
            self._flat.show(index)
        for panel in self._panels:
            panel.show(index)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


def _flat_width(scene: Scene) -> float:
    """Width of the picture's panel in heights, by the first frame: 1 to 2."""
    width, height = scene.flat(0).size
    return min(2.0, max(1.0, width / height))


class _FlatPanel:
    """The picture and its 2D skeleton."""

    def __init__(self, figure: Any, box: tuple[float, float, float, float], scene: Scene) -> None:
        left, bottom, width, height = box
        self._scene = scene
        self._axes = figure.add_axes((left + 0.03 * width, bottom + 0.04, 0.94 * width, height - 0.1))
        self._axes.set_axis_off()
        figure.text(left + width / 2, bottom + height - 0.005, "2D", ha="center", va="center", fontsize=11)
        self._image: Any = None
        # A light rim, so that the lines stand out from any picture.
        effects = require("matplotlib.patheffects", "plots")
        rim = [effects.withStroke(linewidth=_LINE["linewidth"] + 1.6, foreground="white", alpha=0.8)]
        self._bones = [
            (child, parent, self._axes.plot([], [], color=SIDE_COLOURS[side], path_effects=rim, **_LINE)[0])
            for child, parent, side in scene.bones()
        ]

    def show(self, index: int) -> None:
        picture, (width, height), pose = self._scene.flat(index)
        if self._image is not None:
            self._image.remove()
        if picture is None:
            pixels = np.array([[[int(_FIELD[k : k + 2], 16) for k in (1, 3, 5)]]], np.uint8)
        else:
            pixels = picture[..., ::-1]
        self._image = self._axes.imshow(pixels, extent=(0, width, height, 0), aspect="equal")
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        if pose is not None:
            for child, parent, line in self._bones:
                # NaN, a joint that was not found, leaves out its bones.
                line.set_data(*(pose[[parent, child]] * (width, height)).T)


class _PosePanel:
    """One 3D pose."""

    def __init__(self, figure: Any, box: tuple[float, float, float, float], scene: Scene, name: str) -> None:
        left, bottom, width, height = box
        self._scene, self._name = scene, name
        with require("matplotlib", "plots").rc_context({"grid.color": "#dedede", "grid.linewidth": 0.7}):
            self._axes = figure.add_axes((left, bottom, width, height), projection="3d", proj_type="ortho")
        self._caption = figure.text(
            left + width / 2, bottom + height - 0.005, "", ha="center", va="center", fontsize=11
        )
        centre, half = scene.extent()
        step = _grid_step(half)
        small = {"ha": "right", "va": "bottom", "fontsize": 7, "color": "#888888"}
        figure.text(left + 0.97 * width, bottom + 0.02, f"grid {step:g} mm", **small)
        for axis, middle in zip("xyz", _upright(centre), strict=True):
            getattr(self._axes, f"set_{axis}lim")(middle - half, middle + half)
            _plain(getattr(self._axes, f"{axis}axis"), step)
        self._axes.set_box_aspect((1, 1, 1), zoom=1.25)
        self._axes.view_init(elev=12, azim=-70)
        ghost = "truth" in scene.poses and name != "truth"
        self._ghost = [
            (child, parent, self._axes.plot([], [], [], color=_GHOST, linewidth=1.6, zorder=1)[0])
            for child, parent, _ in scene.bones()
            if ghost
        ]
        self._bones = [
            (child, parent, self._axes.plot([], [], [], color=SIDE_COLOURS[side], zorder=2, **_LINE)[0])
            for child, parent, side in scene.bones()
        ]

    def show(self, index: int) -> None:
        errors, caption = self._scene.errors.get(self._name), LABELS[self._name]
        points = _upright(self._scene.poses[self._name][index])
        if np.isnan(points).any():
            caption = f"{caption}   no pose"
        elif errors is not None and np.isfinite(errors[index]):
            caption = f"{caption}   {errors[index]:.1f} mm"
        self._caption.set_text(caption)
        for child, parent, line in self._bones:
            line.set_data_3d(*points[[parent, child]].T)
        if self._ghost:
            points = _upright(self._scene.poses["truth"][index])
            for child, parent, line in self._ghost:
                line.set_data_3d(*points[[parent, child]].T)


_LINE: dict[str, Any] = {"linewidth": 2.4, "marker": "o", "markersize": 3.2, "solid_capstyle": "round"}


def _upright(points: np.ndarray) -> np.ndarray:
    """From a camera's axes to those of the plot, where z is up: x right, z away, -y up. A rotation: no mirror image."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def _grid_step(half: float) -> float:
    """Distance of the grid's lines, mm: 500 for a body, a round number with a few lines for anything else."""
    if 500 <= half <= 2000:
        return 500.0
    return float(10 ** np.floor(np.log10(half)))


def _plain(axis: Any, step: float) -> None:
    """Thin lines at round numbers; no numbers, which would only repeat the caption of the grid."""
    ticker = require("matplotlib.ticker", "plots")
    axis.set_major_locator(ticker.MultipleLocator(step))
    axis.set_major_formatter(ticker.NullFormatter())
    axis.set_pane_color((0.97, 0.97, 0.97, 1.0))
    axis.line.set_color("#dddddd")
    axis.set_tick_params(color="#dddddd")


def _short(name: str, limit: int = 90) -> str:
    """The end of a long name, which is what tells frames apart; on one line."""
    name = shown(" ".join(name.split()))
    return name if len(name) <= limit else "\u2026" + name[1 - limit :]


def save_png(scene: Scene, index: int, path: str | os.PathLike[str], height: int = 420) -> None:
    """Write frame ``index`` as a PNG. Raises FileError, UsageError, MissingExtraError (matplotlib, Pillow)."""
    _write_png(Figure(scene, height).draw(index), path)


def save_pngs(
    scene: Scene,
    folder: str | os.PathLike[str],
    indices: Sequence[int] | None = None,
    height: int = 420,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``frame_00000.png`` and so on into an existing folder; gives their paths.

    Args:
        indices: which frames; all if None.
        progress: told how many are written, and of how many.

    Raises:
        FileError, UsageError, MissingExtraError (matplotlib, Pillow).
    """
    figure = Figure(scene, height)
    chosen = range(len(scene)) if indices is None else indices
    paths = []
    for done, index in enumerate(chosen, 1):
        path = Path(folder) / f"frame_{index:05d}.png"
        _write_png(figure.draw(index), path)
        paths.append(path)
        if progress is not None:
            progress(done, len(chosen))
    return paths


def save_contact_sheet(
    scene: Scene,
    path: str | os.PathLike[str],
    indices: Sequence[int] | None = None,
    columns: int = 1,
    height: int = 320,
    progress: Progress | None = None,
) -> None:
    """Write several frames below and beside each other as one PNG.

    Args:
        indices: which frames; if None, six spread over the scene (all of a shorter one).
        columns: frames beside each other. height: of one frame, pixels.
        progress: told how many are drawn, and of how many.

    Raises:
        FileError, UsageError, MissingExtraError (matplotlib, Pillow).
    """
    if indices is None:
        indices = np.unique(np.linspace(0, len(scene) - 1, 6).round().astype(int)).tolist()
    if columns < 1 or not indices:
        raise UsageError(f"a contact sheet of {len(indices)} frames in {columns} columns")
    figure = Figure(scene, height)
    cells = []
    for done, index in enumerate(indices, 1):
        cells.append(figure.draw(index))
        if progress is not None:
            progress(done, len(indices))
    columns = min(columns, len(cells))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[k : k + columns], axis=1) for k in range(0, len(cells), columns)]
    _write_png(np.concatenate(rows), path)


def _write_png(pixels: np.ndarray, path: str | os.PathLike[str]) -> None:
    image = require("PIL.Image", "plots")
    with atomic_write(path) as handle:
        image.fromarray(pixels).save(handle, format="PNG")
