"""Preparations that share a folder: of both protocols, of other options, of other data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_compat.errors import FileError, UsageError
from hpm.datasets import synthetic
from hpm.datasets.human36m import read_baseline
from hpm.datasets.prepare import PrepareOptions, prepare_human36m
from hpm.datasets.synthetic import SyntheticOptions
from hpm.datasets.views import View
from hpm.drivers.training import prepared_lists
from hpm.files.folders import KthFolder
from hpm.scaling import REFINEMENT_BOUNDS, read_bounds, write_bounds
from tests.hpm.datasets.human36m_files import SERIALS, Recordings


def _views(root: Path, videos: Path | None = None) -> Callable[[], Iterator[View]]:
    return lambda: read_baseline(root, videos=videos)


@pytest.mark.slow
def test_each_protocol_has_lists_of_its_own(tmp_path: Path) -> None:
    """In one folder, in either order: neither touches a file of the other but those that both share, byte for byte."""
    files = Recordings({("S1", "TakingPhoto"): 11, ("S9", "Walking 1"): 11, ("S11", "Walking 1"): 11})
    videos = files.videos(tmp_path / "videos")
    views = _views(files.baseline(tmp_path / "in"), videos)
    shared = prepare_human36m(views, tmp_path / "alone", PrepareOptions(image_size=16))
    options = PrepareOptions(image_size=16, bounds=read_bounds(shared.folder.bounds), limbs=shared.limbs)
    alone = {}
    for protocol in (1, 3):
        done = prepare_human36m(views, tmp_path / str(protocol), replace(options, protocol=protocol))
        alone[protocol] = _files(done.folder.root)
    names = {path for path in alone[3] if path.suffix == ".txt"}
    assert names == {
        Path("h36m/16skel_train_2d3d_p3_clip.txt"),
        Path("h36m/16skel_test_2d3d_p3_clip.txt"),
        Path("h36m/17skel_train_2d_p3.txt"),
        Path("gt/test_p3/test13.txt"),
    }
    assert not names & alone[1].keys()
    for order in ((1, 3), (3, 1)):
        out = tmp_path / f"both{order[0]}"
        for protocol in order:
            prepare_human36m(views, out, replace(options, protocol=protocol))
        assert _files(out) == alone[1] | alone[3]
    lines = alone[1][Path("h36m/16skel_train_2d3d_clip.txt")].decode().splitlines()
    trained = {line.partition("_")[0] for line in lines}
    assert trained == {"images/S1"}


def _files(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_both_protocols_share_is_not_changed(tmp_path: Path) -> None:
    files = Recordings({(subject, "Walking 1"): 11 for subject in ("S1", "S9", "S11")})
    videos = files.videos(tmp_path / "videos")
    with_pictures, without = _views(files.baseline(tmp_path / "in"), videos), _views(tmp_path / "in")
    out = tmp_path / "out"
    first = prepare_human36m(with_pictures, out, PrepareOptions(image_size=16))
    before = _files(out)
    same = PrepareOptions(protocol=3, image_size=16, bounds=read_bounds(first.folder.bounds), limbs=first.limbs)

    def refused(message: str, views: Callable[[], Iterator[View]] = with_pictures, **options: object) -> None:
        with pytest.raises(UsageError, match=message):
            prepare_human36m(views, out, replace(same, **options))  # type: ignore[arg-type]
        assert _files(out) == before

    longer = first.limbs * 1.01
    refused(r"holds lists of protocol 1 whose limbs have other lengths \(the bone to the L?R?Foot is 40", limbs=longer)
    refused("holds lists of protocol 1 whose limbs have other lengths", limbs=None)
    pictures = "holds pictures of S1_Walking_1_54138969 that are cut otherwise, and lists of protocol 1 name them; give"
    for options in ({"margin": 0.2}, {"image_size": 20}, {"every": 1}):
        refused(pictures, **options)
        refused(pictures, without, **options)
    # Cut in the same way, they are those of the new lists too, with or without the videos.
    for views in (without, with_pictures):
        third = prepare_human36m(views, out, same)
        assert (third.pictures, third.kept) == (36, 36)
        assert before.items() <= _files(out).items()


@pytest.mark.slow
def test_lists_never_tell_of_pictures_that_were_replaced(tmp_path: Path) -> None:
    files = Recordings({("S1", "Walking 1"): 11, ("S9", "Walking 1"): 11})
    videos, root, out = files.videos(tmp_path / "videos"), files.baseline(tmp_path / "in"), tmp_path / "out"
    first = prepare_human36m(_views(root, videos), out, PrepareOptions(image_size=16))
    before = _files(out)
    with pytest.raises(UsageError, match="that are cut otherwise, and there is nothing to cut new ones from"):
        prepare_human36m(_views(root), out, PrepareOptions(image_size=16, margin=0.2))
    assert _files(out) == before
    # The second view's video breaks when the first one's pictures are cut anew.
    video = videos / "S1/Videos" / f"Walking 1.{SERIALS[1]}.mp4"
    whole = video.read_bytes()
    video.write_bytes(b"no video")
    with pytest.raises(FileError, match="no video that OpenCV can read"):
        prepare_human36m(_views(root, videos), out, PrepareOptions(image_size=16, margin=0.2))
    assert not list(out.rglob("*.txt"))
    video.write_bytes(whole)
    again = prepare_human36m(_views(root, videos), out, PrepareOptions(image_size=16, margin=0.2))
    assert (again.pictures, again.kept) == (24, 3)
    assert _files(out).keys() == before.keys()
    assert first.folder == again.folder


def test_data_sets_that_share_a_folder_share_its_bounds(tmp_path: Path) -> None:
    files = Recordings({("S1", "Walking 1"): 11, ("S9", "Walking 1"): 11})
    views = _views(files.baseline(tmp_path / "in"))
    few = SyntheticOptions(takes=1, frames=5, test_frames=2, singles=1, image_size=16, actions=("Walking",))
    made = synthetic.write(few, tmp_path / "made")
    with pytest.raises(UsageError, match="holds lists of a made-up data set that are normalised with other bounds"):
        prepare_human36m(views, made.root)
    synthetic.write(few, made.root)
    done = prepare_human36m(views, tmp_path / "real")
    before = _files(done.folder.root)
    with pytest.raises(UsageError, match=r"holds another data set \(.*16skel_train_2d3d_clip.txt\); choose another"):
        synthetic.write(few, done.folder.root)
    assert _files(done.folder.root) == before
    camera = KthFolder(tmp_path / "kth").ground_truth(1)
    camera.parent.mkdir()
    camera.write_text(f"a.png {','.join(['0.5'] * 80)},0\n")
    write_bounds(KthFolder(tmp_path / "kth").bounds, REFINEMENT_BOUNDS)
    with pytest.raises(UsageError, match="holds lists of KTH Multiview Football II that are normalised with other"):
        prepare_human36m(views, tmp_path / "kth")


@pytest.mark.parametrize("protocol", [1, 3])
def test_training_reads_the_lists_of_its_protocol(protocol: int, tmp_path: Path) -> None:
    files = Recordings({(subject, "Walking 1"): 11 for subject in ("S1", "S9", "S11")})
    prepare_human36m(_views(files.baseline(tmp_path / "in")), tmp_path / "out", PrepareOptions(protocol=protocol))
    for phase in ("mask3d", "train_test_cpm"):
        assert all((tmp_path / "out" / path).exists() for path in prepared_lists(phase, protocol))
