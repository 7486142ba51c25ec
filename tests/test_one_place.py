"""Pictures, videos, HDF5 and arrays are opened in one place each, where what may hurt is looked for first.

Pictures are written in one place, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import caffe_compat

ROOT = Path(caffe_compat.__file__).parent.parent
# The script that records outputs of real Caffe runs on its own, wherever that is.
SOURCES = [
    path
    for folder in ("caffe_compat", "converters", "hpm", "scripts")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "resources" not in path.parts
]

# The names by which a library opens something, and the only files that may use them.
PLACES = {
    ("imread", "imdecode", "imreadmulti", "imreadanimation", "imdecodemulti"): ("caffe_compat/formats/images.py",),
    ("imwrite", "imencode", "imwritemulti", "imencodemulti"): ("caffe_compat/formats/images.py",),
    ("VideoCapture",): ("caffe_compat/formats/videos.py",),
    ("Image.open", "imageio.imread", "io.imread"): (),
    ("np.load", "numpy.load", "np.memmap", "np.fromfile", "numpy.lib.npyio", "lib.format"): (
        "caffe_compat/formats/arrays.py",
    ),
    # The script computes and writes outputs with nothing of ours.
    ("h5py",): (
        "caffe_compat/formats/hdf5.py",
        "caffe_compat/formats/hdf5_writing.py",
        "scripts/plain_pose_network.py",
    ),
    # A .pt is a zip archive too, of torch's own kind; so is a wheel, which the script that builds it looks into.
    ("zipfile",): ("caffe_compat/formats/arrays.py", "caffe_compat/network/checkpoint.py", "scripts/build.py"),
}


def used_names(tree: ast.AST) -> Iterator[str]:
    """Every name that a program uses; ``a.b.c`` gives ``a.b.c``, ``b.c`` and ``c``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = [node.attr]
            inner = node.value
            while isinstance(inner, ast.Attribute):
                parts.insert(0, inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                parts.insert(0, inner.id)
            yield from (".".join(parts[k:]) for k in range(len(parts)))
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # getattr(cv2, "imread")


@pytest.mark.parametrize("names", PLACES, ids=lambda names: names[0])
def test_only_one_place_opens_them(names: tuple[str, ...]) -> None:
    users = {path.relative_to(ROOT).as_posix() for path in SOURCES if uses(path.read_text(), names)}
    assert users == set(PLACES[names])


def uses(text: str, names: tuple[str, ...]) -> bool:
    """Whether a program uses one of ``names``; only one that spells all parts of a name is taken apart."""
    spelt = [name for name in names if all(part in text for part in name.split("."))]
    return bool(spelt) and not set(spelt).isdisjoint(used_names(ast.parse(text)))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import cv2\ncv2.imread(path)", "imread"),
        ("from cv2 import imdecode as d", "imdecode"),
        ("opencv().VideoCapture(0)", "VideoCapture"),
        ("cv2.imwrite(path, picture)", "imwrite"),
        ("getattr(cv2, 'imread')(path)", "imread"),
        ("import PIL.Image\nPIL.Image.open(path)", "Image.open"),
        ("from numpy import load\nload(path)", "numpy.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("import zipfile as z", "zipfile"),
        ("def f():\n    import h5py", "h5py"),
        ("from h5py import File", "h5py"),
        ("def f():\n    from PIL import Image\n    return Image.open", "Image.open"),
    ],
)
def test_a_planted_call_is_seen(line: str, name: str) -> None:
    assert uses(line, (name,))
