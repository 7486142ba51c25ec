"""Pictures, videos and interactive pages of poses.

    scene = Scene(pictures=frames, pose2d_normalised=pose2d, truth=truth, coarse=coarse, refined=refined)
    save_png(scene, 0, "first.png")
    save_video(scene, "clip.mp4")
    save_page(scene, "clip.html")
    save_scene(scene, path)  # any of them, by its ending

They take numpy arrays; the 3D poses are in millimetres.
"""

from .figure import Figure, save_contact_sheet, save_png, save_pngs
from .page import page_html, save_page
from .save import check_ending, save_scene
from .scene import Frames, Scene
from .video import save_video

__all__ = [
    "Figure",
    "Frames",
    "Scene",
    "check_ending",
    "page_html",
    "save_contact_sheet",
    "save_page",
    "save_png",
    "save_pngs",
    "save_scene",
    "save_video",
]
