"""Made-up recordings of Human3.6M, written in the formats that people have the real ones in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cdflib.cdfwrite
import cv2
import h5py
import numpy as np

from hpm.datasets.bodies import ground_shift, motion, pose
from hpm.datasets.human36m_cameras import human36m_cameras
from hpm.skeleton import COCO17, H36M17, H36M32, MPII16

SERIALS = ("54138969", "55011271", "58860488", "60457274")
SIZES = {"S1": 0.9, "S5": 0.95, "S9": 1.1}

FEW = {("S1", "Directions 1"): 11, ("S1", "TakingPhoto"): 7, ("S9", "Walking 1"): 6}

# The names of the official files; the alias is what VideoPose3D makes of some.
PERFORMANCES = tuple(
    f"{action}{take}"
    for action in (
        *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases", "Sitting"),
        *("SittingDown", "Smoking", "TakingPhoto", "Waiting", "Walking", "WalkingDog", "WalkTogether"),
    )
    for take in ("", " 1")
)


@dataclass
class Recordings:
    """Performances by (subject, name), each of so many frames of 50 a second."""

    frames: dict[tuple[str, str], int] = field(default_factory=lambda: dict(FEW))

    def world(self, subject: str, performance: str) -> np.ndarray:
        """(frames, 32, 3), mm: joints that 17 lack are where their parents are."""
        frames = self.frames[subject, performance]
        rng = np.random.default_rng([*subject.encode(), *performance.encode()])
        body = pose(motion("Walking", np.arange(frames) / 50, rng))
        body[..., 2] += ground_shift(body)[:, None]
        body *= SIZES.get(subject, 1.0)
        joints = np.zeros((frames, 32, 3))
        for k, name in enumerate(H36M32.joints):
            joints[:, k] = body[:, H36M17.index(name)] if name in H36M17.joints else joints[:, H36M32.parents[k]]
        return joints

    def seen(self, subject: str, performance: str, serial: str) -> tuple[np.ndarray, np.ndarray]:
        """(frames, 32, 3) in the axes of a camera, mm, and (frames, 32, 2) pixels."""
        camera = human36m_cameras()[subject, serial]
        points = camera.to_camera(self.world(subject, performance))
        return points, camera.project(points)

    # VideoPose3D

    def videopose(self, root: Path) -> Path:
        """``data_3d_h36m.npz``, with names made uniform and metres of float32."""
        data: dict[str, dict[str, np.ndarray]] = {}
        for subject, performance in self.frames:
            world = (self.world(subject, performance) / 1000).astype(np.float32)
            data.setdefault(subject, {})[_uniform(performance)] = world
        np.savez_compressed(root / "data_3d_h36m.npz", positions_3d=np.array(data, object))
        return root / "data_3d_h36m.npz"

    def detections(self, path: Path, order: str = "H36M17", noise: float = 4.0, more_frames: int = 3) -> Path:
        """``data_2d_h36m_<detector>.npz``: detections run on beyond the motion capture."""
        flat: dict[str, dict[str, list[np.ndarray]]] = {}
        for subject, performance in self.frames:
            views = []
            for serial in SERIALS:
                view = self.detected(subject, performance, serial, order, noise)
                views.append(np.concatenate([view, np.repeat(view[-1:], more_frames, 0)]).astype(np.float32))
            flat.setdefault(subject, {})[_uniform(performance)] = views
        left, right = {
            "H36M17": ([4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]),
            "COCO17": ([1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]),
            "MPII16": ([3, 4, 5, 13, 14, 15], [0, 1, 2, 10, 11, 12]),
        }[order]
        joints = 16 if order == "MPII16" else 17
        metadata = {"layout_name": "x", "num_joints": joints, "keypoints_symmetry": [left, right]}
        np.savez_compressed(path, positions_2d=np.array(flat, object), metadata=np.array(metadata, object))
        return path

    def detected(self, subject: str, performance: str, serial: str, order: str, noise: float) -> np.ndarray:
        """(frames, joints, 2): what a detector with joints in another order finds."""
        pixels = dict(zip(H36M32.joints, self.seen(subject, performance, serial)[1].swapaxes(0, 1), strict=True))
        # Their names of the same places, as 3d-pose-baseline has them; COCO's face is somewhere on the head.
        pixels |= {"Thorax": pixels["Spine"], "UpperNeck": pixels["Thorax"]} if order == "MPII16" else {}
        pixels |= {"HeadTop": pixels["Head"], **{s + part: pixels["Nose"] for s in "LR" for part in ("Eye", "Ear")}}
        joints = {"H36M17": H36M17, "COCO17": COCO17, "MPII16": MPII16}[order].joints
        rng = np.random.default_rng(7)
        found = np.stack([pixels[name] for name in joints], 1)
        return found + noise * rng.standard_normal(found.shape)

    # 3d-pose-baseline

    def baseline(self, root: Path) -> Path:
        """``S1/MyPoses/3D_positions/Directions 1.h5``."""
        for subject, performance in self.frames:
            folder = root / subject / "MyPoses" / "3D_positions"
            folder.mkdir(parents=True, exist_ok=True)
            with h5py.File(folder / f"{_uniform(performance)}.h5", "w") as file:
                file["3D_positions"] = self.world(subject, performance).reshape(-1, 96).T
        return root

    def hourglass(self, root: Path) -> Path:
        """``S1/StackedHourglass/Directions_1.54138969.h5``."""
        for subject, performance in self.frames:
            folder = root / subject / "StackedHourglass"
            folder.mkdir(parents=True, exist_ok=True)
            for serial in SERIALS:
                name = f"{_uniform(performance).replace(' ', '_')}.{serial}.h5"
                with h5py.File(folder / name, "w") as file:
                    file["poses"] = self.detected(subject, performance, serial, "MPII16", 4.0)
        return root

    # h36m-fetch

    def fetch(self, root: Path, universal_only: bool = False, as_it_comes: bool = False) -> Path:
        """``processed/S1/Directions-1/annot.h5``, of all frames, or of those that h36m-fetch chooses."""
        for subject, performance in self.frames:
            action, _, take = performance.partition(" ")
            folder = root / subject / f"{action}-{take or 2}"
            folder.mkdir(parents=True)
            parts: dict[str, list[np.ndarray]] = {}
            for serial in SERIALS:
                points, pixels = self.seen(subject, performance, serial)
                chosen = np.arange(len(points))
                if as_it_comes:
                    chosen = chosen[::64] if subject in ("S9", "S11") else _moved(points)
                rows = {
                    "pose/2d": pixels[chosen],
                    "pose/3d-univ": points[chosen],
                    "frame": chosen + 1,
                    "camera": np.full(len(chosen), int(serial)),
                    "subject": np.full(len(chosen), int(subject[1:])),
                    "action": np.full(len(chosen), 2),
                    f"intrinsics/{serial}": np.ones(4),
                }
                if not universal_only:
                    rows["pose/3d"] = points[chosen]
                for name, values in rows.items():
                    parts.setdefault(name, []).append(values)
            with h5py.File(folder / "annot.h5", "w") as file:
                for name, blocks in parts.items():
                    file.create_dataset(name, data=np.concatenate(blocks))
        return root

    # Official

    def cdf(self, root: Path, prefix: str = "", kind: str = "D3_Positions_mono", compress: int = 6) -> Path:
        """``S1/MyPoseFeatures/D3_Positions_mono/Directions 1.54138969.cdf`` and D2_Positions, with an ``_ALL``."""
        base = "" if prefix else "MyPoseFeatures"
        for subject, performance in self.frames:
            for serial in SERIALS:
                points, pixels = self.seen(subject, performance, serial)
                for name, values in ((kind, points), ("D2_Positions", pixels)):
                    folder = root / subject / base / f"{prefix}{name}"
                    folder.mkdir(parents=True, exist_ok=True)
                    write_cdf(folder / f"{performance}.{serial}.cdf", values, compress)
                    if not (folder / f"_ALL.{serial}.cdf").exists():
                        write_cdf(folder / f"_ALL.{serial}.cdf", values, compress)
        return root

    def world_cdf(self, root: Path) -> Path:
        """``S1/MyPoseFeatures/D3_Positions/Directions 1.cdf``."""
        for subject, performance in self.frames:
            folder = root / subject / "MyPoseFeatures" / "D3_Positions"
            folder.mkdir(parents=True, exist_ok=True)
            write_cdf(folder / f"{performance}.cdf", self.world(subject, performance), 0)
        return root

    def videos(self, root: Path, more_frames: int = 0, size: tuple[int, int] = (1000, 1000)) -> Path:
        """``S1/Videos/Directions 1.54138969.mp4``: a grey that tells the frame, a white dot at the head."""
        for subject, performance in self.frames:
            folder = root / subject / "Videos"
            folder.mkdir(parents=True, exist_ok=True)
            for serial in SERIALS:
                pixels = self.seen(subject, performance, serial)[1][:, H36M32.index("Head")]
                code = cv2.VideoWriter.fourcc(*"mp4v")
                video = cv2.VideoWriter(str(folder / f"{performance}.{serial}.mp4"), code, 50, size)
                for k in range(len(pixels) + more_frames):
                    picture = np.full((size[1], size[0], 3), grey(k + 1), np.uint8)
                    centre = np.rint(pixels[min(k, len(pixels) - 1)]).astype(int)
                    cv2.circle(picture, centre.tolist(), 25, (255, 255, 255), -1)
                    video.write(picture)
                video.release()
        return root


def grey(number: int) -> int:
    """The background of a video's frame of this number, from 1."""
    return 20 + 9 * (number % 16)


def write_cdf(path: Path, values: np.ndarray, compress: int) -> None:
    """One record of (frames, values), as in the official files."""
    flat = values.reshape(len(values), -1)
    writer = cdflib.cdfwrite.CDF(str(path), delete=True)
    spec = {"Variable": "Pose", "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": list(flat.shape)}
    writer.write_var(spec | {"Compress": compress}, var_data=flat.astype(np.float32)[None])
    writer.close()


def _uniform(performance: str) -> str:
    return performance.replace("TakingPhoto", "Photo").replace("WalkingDog", "WalkDog")


def _moved(points: np.ndarray) -> np.ndarray:
    """Frames in which a joint is 40 mm from where it was in the frame chosen before."""
    chosen = [0]
    for k in range(1, len(points)):
        if np.linalg.norm(points[k] - points[chosen[-1]], axis=-1).max() >= 40:
            chosen.append(k)
    return np.array(chosen)
