"""A made-up data set: articulated bodies that move, seen by four cameras, in the format of Human3.6M's lists.

    hpm.datasets.synthetic.write(SyntheticOptions(), "data")

Everything is a function of the seed. Labels are made as those of the original: bones rescaled to the mean limb
lengths, hip subtracted, camera coordinates, scaled by the bounds of the training labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_compat.errors import UsageError
from caffe_compat.formats.images import write_picture

from ..files.folders import ACTIONS as ACTION_NUMBERS
from ..files.lists import format_list_line
from ..scaling import Bounds, bounds_of, normalise, scale_limbs
from ..skeleton import H36M16, H36M17, convert
from .bodies import ACTIONS, MEAN_LENGTHS, MEAN_LIMBS, ground_shift, motion, pose
from .cameras import Camera, look_at, square_crops
from .layout import TrainingFolder, image_line, make_folder, remove_lists, write_both_bounds, write_lines
from .rendering import background, palette, render

__all__ = ["Sequence3D", "SyntheticOptions", "cameras", "sequences", "write"]

_ACTIONS = tuple(ACTIONS)
_FOCAL, _PICTURE = 1145.0, 1000.0  # as Human3.6M's cameras


@dataclass(frozen=True)
class SyntheticOptions:
    """What the data set is made of.

    Attributes:
        subjects: who is trained on. held_out: who is tested on.
        takes, test_takes: performances of each action by each subject. frames, test_frames: of each, as each camera
            sees it. Many short performances teach more than few long ones, whose frames are much alike.
        frame_rate: per second: every 5th of 50.
        singles: pictures with 2D poses only, in place of MPII's, from cameras anywhere.
        image_size: side of the pictures, pixels. noise: standard deviation added to every value of a pixel.
        run: consecutive frames in the shuffled list of runs (see :func:`write`).
        actions: kinds of motion, of :data:`.bodies.ACTIONS`.
    """

    subjects: tuple[str, ...] = ("S1", "S5", "S6", "S7", "S8")
    held_out: str = "S9"
    takes: int = 30
    test_takes: int = 1
    frames: int = 10
    test_frames: int = 50
    frame_rate: float = 10.0
    singles: int = 4000
    image_size: int = 64
    noise: float = 6.0
    run: int = 5
    actions: tuple[str, ...] = _ACTIONS
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("takes", "test_takes", "frames", "test_frames", "singles", "image_size", "run"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; 1 or more was expected")
        if unknown := [action for action in self.actions if action not in ACTIONS]:
            raise UsageError(f"no motion is called {', '.join(unknown)}; there are {', '.join(ACTIONS)}")
        if not self.subjects or not self.actions or self.held_out in self.subjects:
            raise UsageError("subjects to train on, another one held out, and actions are needed")
        if self.frames % self.run:
            raise UsageError(f"{self.frames} frames are no whole number of runs of {self.run}")


@dataclass(frozen=True, eq=False)
class Sequence3D:
    """One performance as one camera sees it.

    Attributes:
        name: of the folder of its pictures. key: makes its random draws its own.
        points: (frames, 17, 2), fractions of the crop's side. depth: (frames, 17), mm from the camera.
        per_mm: (frames,), fractions of the crop's side in a millimetre at the hip.
        labels: (frames, 16, 3), mm: camera coordinates, hip-centred, mean limbs.
    """

    name: str
    subject: str
    action: str
    key: tuple[int, ...]
    points: np.ndarray
    depth: np.ndarray
    per_mm: np.ndarray
    labels: np.ndarray

    @property
    def points16(self) -> np.ndarray:
        """(frames, 16, 2), fractions of the crop's side."""
        return convert(self.points, H36M17, H36M16)


def cameras() -> tuple[Camera, ...]:
    """Four cameras in the corners of a room, at breast height and above, as in Human3.6M."""
    places = ((45, 5200, 1500), (137, 5000, 1650), (228, 5400, 1550), (318, 4900, 1450))
    return tuple(_camera(np.deg2rad(azimuth), distance, height) for azimuth, distance, height in places)


def _camera(azimuth: float, distance: float, height: float) -> Camera:
    position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
    return look_at(position, np.array([0.0, 0.0, 900.0]), _FOCAL, _PICTURE)


def sequences(options: SyntheticOptions, *, held_out: bool) -> list[Sequence3D]:
    """Every performance from every camera: of the subjects to train on, or of the one held out."""
    people = [*options.subjects, options.held_out]
    chosen = people[-1:] if held_out else people[:-1]
    takes = options.test_takes if held_out else options.takes
    seconds = np.arange(options.test_frames if held_out else options.frames) / options.frame_rate
    found = []
    for subject in chosen:
        who = people.index(subject)
        limbs = _limbs(np.random.default_rng((options.seed, 1, who)))
        for number, action in enumerate(options.actions):
            for take in range(takes):
                key = (options.seed, 2, who, number, take)
                world = _performance(action, seconds, limbs, np.random.default_rng(key))
                for eye, camera in enumerate(cameras()):
                    name = f"{subject}_{action}_{take + 1}_cam{eye + 1}"
                    found.append(_seen(name, subject, action, (*key, eye), world, camera))
    return found


def _limbs(rng: np.random.Generator) -> dict[str, float]:
    """A subject's bone lengths: as a whole, and each by itself, a little off the mean."""
    tall = 1 + rng.uniform(-0.06, 0.06)
    return {name: length * tall * (1 + rng.uniform(-0.03, 0.03)) for name, length in MEAN_LIMBS.items()}


def _performance(action: str, seconds: np.ndarray, limbs: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Joints (frames, 17, 3) in the world, mm, feet on the ground, on a small round about the room's middle."""
    angles = motion(action, seconds, rng)
    joints = pose(angles, limbs)
    joints[..., 2] += ground_shift(joints)[:, None]
    # Who turns while walking walks round a circle.
    radius = rng.uniform(300, 900) if action == "Walking" else 0.0
    centre = rng.uniform(-500, 500, 2)
    round_ = radius * np.stack([np.sin(angles["yaw"]), -np.cos(angles["yaw"])], -1)
    joints[..., :2] += (centre + round_)[:, None]
    return joints


def _seen(name: str, subject: str, action: str, key: tuple[int, ...], world: np.ndarray, camera: Camera) -> Sequence3D:
    points = camera.to_camera(world)
    pixels = camera.project(points)
    crops = square_crops(pixels)
    labels = convert(points - points[:, :1], H36M17, H36M16)
    return Sequence3D(
        name=name,
        subject=subject,
        action=action,
        key=key,
        points=crops.fractions(pixels),
        depth=points[..., 2],
        per_mm=camera.focal[0] / points[:, 0, 2] / crops.side,
        labels=scale_limbs(labels, MEAN_LENGTHS),
    )


def _singles(options: SyntheticOptions) -> list[Sequence3D]:
    """Frames of performances of their own, one of each, from cameras anywhere around and a little below to above."""
    found = []
    for k in range(options.singles):
        key = (options.seed, 3, k)
        rng = np.random.default_rng(key)
        action = options.actions[k % len(options.actions)]
        joints = pose(motion(action, rng.uniform(0, 5, 1), rng), _limbs(rng))
        joints[..., 2] += ground_shift(joints)[:, None]
        camera = _camera(rng.uniform(-np.pi, np.pi), rng.uniform(3500, 7000), rng.uniform(600, 2600))
        found.append(_seen(f"{k:06d}", "", action, key, joints, camera))
    return found


# Writing


def write(
    options: SyntheticOptions, root: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None
) -> TrainingFolder:
    """Write pictures, lists and bounds below ``root``, named as in :class:`.layout.TrainingFolder`.

    Beside the lists of the original there is one of shuffled runs of frames, with clip 0 where a run begins. Read in
    order, a batch of several whole runs is as good as several windows of the original in one step, and the LSTM that
    goes backwards starts anew where it should, because all runs have one length.

    The lists appear when all pictures are there.

    Args:
        progress: told how many pictures are written, and of how many.

    Raises:
        UsageError: lists of another data set are there. FileError: something cannot be written.
    """
    folder = TrainingFolder(Path(root))
    train, test = sequences(options, held_out=False), sequences(options, held_out=True)
    singles = _singles(options)
    bounds = bounds_of(np.concatenate([s.labels for s in train]), "the training labels")
    _make_room(folder, options)
    total, done = sum(len(s.points) for s in (*train, *test, *singles)), 0
    looks = {
        who: palette(np.random.default_rng((options.seed, 4, k)))
        for k, who in enumerate([*options.subjects, options.held_out])
    }
    for place, group in ((folder.h36m, (*train, *test)), (folder.mpii, singles)):
        for sequence in group:
            _write_pictures(place, sequence, looks.get(sequence.subject), options)
            done += len(sequence.points)
            if progress is not None:
                progress(done, total)
    write_both_bounds(folder, bounds)
    _write_lists(folder, options, train, test, singles, bounds)
    return folder


def _make_room(folder: TrainingFolder, options: SyntheticOptions) -> None:
    """Take away the lists of an earlier run, whose pictures will be replaced.

    Raises:
        UsageError: there are lists that a made-up data set does not have, or not this one.
    """
    truth = folder.test_data().ground_truth
    own = {folder.train_list, folder.test_list, folder.runs_list, folder.images_list, folder.mpii_list}
    own |= {truth(number) for number, action in ACTION_NUMBERS.items() if action in options.actions}
    others = [*folder.pose_lists, *folder.other.pose_lists]
    if strange := [path for path in others if path not in own and path.exists()]:
        raise UsageError(f"{folder.root} holds another data set ({strange[0]}); choose another folder")
    if not folder.runs_list.exists() and folder.train_list.exists():
        raise UsageError(f"{folder.root} holds another data set ({folder.train_list}); choose another folder")
    remove_lists(own)


def _image_name(sequence: Sequence3D, frame: int) -> str:
    if not sequence.subject:
        return f"images/{sequence.name}.png"
    return f"images/{sequence.name}/{frame + 1:04d}.png"


def _lines(sequence: Sequence3D, bounds: Bounds) -> list[str]:
    """Lines of 2D pose, 3D pose and clip, in order."""
    labels = normalise(sequence.labels, bounds)
    return [
        format_list_line(_image_name(sequence, f), p.ravel(), q.ravel(), int(f > 0))
        for f, (p, q) in enumerate(zip(sequence.points16, labels, strict=True))
    ]


def _write_lists(
    folder: TrainingFolder,
    options: SyntheticOptions,
    train: Sequence[Sequence3D],
    test: Sequence[Sequence3D],
    singles: Sequence[Sequence3D],
    bounds: Bounds,
) -> None:
    rng = np.random.default_rng((options.seed, 5))
    in_order = [_lines(sequence, bounds) for sequence in train]
    write_lines(folder.train_list, [line for lines in in_order for line in lines])
    runs = [lines[k : k + options.run] for lines in in_order for k in range(0, options.frames, options.run)]
    shuffled = [runs[k] for k in rng.permutation(len(runs))]
    # A run's first frame begins a sequence.
    write_lines(folder.runs_list, [f"{line[:-2]}{int(k > 0)}\n" for run in shuffled for k, line in enumerate(run)])
    images = [image_line(_image_name(s, f), s.points[f]) for s in train for f in range(len(s.points))]
    write_lines(folder.images_list, [images[k] for k in rng.permutation(len(images))])
    write_lines(
        folder.mpii_list,
        [
            format_list_line(_image_name(s, 0), s.points16[0].ravel(), None, 0)
            for s in (singles[k] for k in rng.permutation(len(singles)))
        ],
    )
    tested = [(s.action, _lines(s, bounds)) for s in test]
    write_lines(folder.test_list, [line for _, lines in tested for line in lines])
    for number, action in ACTION_NUMBERS.items():
        if action in options.actions:
            own = [line for name, lines in tested if name == action for line in lines]
            write_lines(folder.test_data().ground_truth(number), own)


def _write_pictures(place: Path, sequence: Sequence3D, look: np.ndarray | None, options: SyntheticOptions) -> None:
    rng = np.random.default_rng((*sequence.key, 6))
    colours = palette(rng) if look is None else look
    behind = background(options.image_size, rng)
    for frame, (points, depth, per_mm) in enumerate(zip(sequence.points, sequence.depth, sequence.per_mm, strict=True)):
        path = place / _image_name(sequence, frame)
        make_folder(path.parent)
        picture = render(points, depth, float(per_mm), colours, behind, rng, options.noise)
        write_picture(path, picture)
