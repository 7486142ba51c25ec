"""Build the source distribution and the wheel, and see that the wheel works where nothing else of this project is.

    .venv/bin/python scripts/build.py [--out dist] [--with-dependencies]

The wheel is built from the source distribution, so that what is missing there shows. It is installed into a fresh
environment outside the checkout, and both command lines run there on files that ship: conversions with their parity
check, a comparison, an export. The environment borrows torch and the other dependencies from the one that runs this
script (a .pth names its packages; the wheel hides the project itself, if it is installed there), so nothing is
downloaded. With --with-dependencies pip installs them, as for a user.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of the checkout: what an earlier build left, and what is in neither file.
LEFT_OUT = (".*", "__pycache__", "build", "dist", "*.egg-info", "tests", "reference_outputs", "benchmarks")
PACKAGES = ("caffe_compat", "converters", "hpm")
PLUGIN = "caffe_compat_pytest.py"  # pytest's, outside the packages


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the two files [default: dist]")
    parser.add_argument("--with-dependencies", action="store_true", help="let pip install torch and the others, too")
    arguments = parser.parse_args()
    wheel = build(arguments.out.resolve())
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="caffe_compat_wheel_") as folder:
        place = Path(folder).resolve()
        python = fresh_environment(place / "env", wheel, with_dependencies=arguments.with_dependencies)
        check_packages(python, place)
        check_commands(python.parent, place)
    print(f"{wheel.name} is complete")


def build(out: Path) -> Path:
    """The wheel in ``out``, made from the source distribution beside it, both anew."""
    for old in (*out.glob("caffe_compat-*.tar.gz"), *out.glob("caffe_compat-*.whl")):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="caffe_compat_source_") as folder:
        source = Path(folder) / "source"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
        run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], ROOT)
    (wheel,) = out.glob("caffe_compat-*.whl")
    print(f"built {', '.join(sorted(path.name for path in out.glob('caffe_compat-*')))} in {out}")
    return wheel


def check_contents(wheel: Path) -> None:
    """The wheel holds every file of the packages, pytest's plugin, and nothing else but what describes it."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {PLUGIN}
    if packed != there:
        raise SystemExit(f"missing: {sorted(there - packed)}; too many: {sorted(packed - there)}")


def fresh_environment(folder: Path, wheel: Path, *, with_dependencies: bool) -> Path:
    """The Python of a new virtual environment with the wheel in it."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    if with_dependencies:
        run([*install, str(wheel)], folder)
        return python
    run([*install, "--no-deps", str(wheel)], folder)
    own = subprocess.run(
        [str(python), "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
    )
    borrowed = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    (Path(own.stdout.strip()) / "borrowed.pth").write_text("\n".join(map(str, borrowed)) + "\n", encoding="utf-8")
    return python


def check_packages(python: Path, place: Path) -> None:
    """Every package is the one that was installed."""
    for package in PACKAGES:
        found = Path(run([str(python), "-c", f"import {package}; print({package}.__file__)"], place).strip())
        if not found.resolve().is_relative_to(place):
            raise SystemExit(f"{package} comes from {found}, not from the wheel")


def check_commands(programs: Path, place: Path) -> None:
    """Both command lines, on files that ship, in an empty folder."""
    tiny, folder = ROOT / "reference_outputs" / "tiny_mask3d", place / "work"
    folder.mkdir()
    definition = [str(tiny / "deploy.prototxt"), str(tiny / "tiny_mask3d.caffemodel")]
    reference = ["--reference", str(tiny / "tiny_mask3d.h5")]
    for words in (
        ["caffe-compat", "--version"],
        ["caffe-compat", "capture-script", "-o", "capture.py"],
        ["caffe-compat", "dialects", "weiliu89/caffe@ssd"],
        ["caffe-compat", "convert", *definition, *reference, "-o", "tiny.pt"],
        ["caffe-compat", "convert", *definition, "--format", "pt2", "--quiet", "-o", "tiny.pt2"],
        ["caffe-compat", "verify", "tiny.pt", *reference],
        ["caffe-compat", "inspect", "tiny.pt"],
        ["hpm", "--help"],
        ["hpm", "convert", *definition, *reference, "--bounds", "published", "-o", "pose.pt"],
    ):
        run([str(programs / words[0]), *words[1:]], folder)
        print(f"ran {' '.join(Path(word).name for word in words)}", flush=True)


def run(words: Sequence[str], folder: Path) -> str:
    """The output of a program that runs in ``folder`` and sees nothing of the checkout; the end if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(words)} failed with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


if __name__ == "__main__":
    main()
