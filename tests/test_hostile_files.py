"""Files that hurt once: each has the outcome that it should have had, and so has its kind."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat import cli
from caffe_compat.errors import FileError, UsageError
from caffe_compat.extraction.shards import ShardStore, job_of
from caffe_compat.formats.hdf5 import find, members, names_in, open_hdf5, read_array
from caffe_compat.formats.images import read_picture
from caffe_compat.formats.settings import read_settings
from caffe_compat.network.python_config import read_config
from caffe_compat.testing.suite import read_suite
from caffe_compat.training.solver.settings import read_solver
from caffe_compat.training.solver.snapshot import read_snapshot
from hpm.datasets.detections import read_detections
from hpm.datasets.human36m import read_cdf, read_fetch
from hpm.datasets.mpii import read_mpii
from hpm.files.action_records import made_otherwise, outdated
from tests.training.data.helpers import source_of
from tests.training.solver.recorded import recorded_case

HOSTILE = Path(__file__).with_name("hostile")
Command = Callable[..., tuple[int, str]]
WINDOWS = """layer { name: "data" type: "WindowData" top: "data" top: "label" transform_param { crop_size: 8 }
  window_data_param { source: "list.txt" batch_size: 1 } }"""
ROWS = 'layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { source: "list.txt" batch_size: 1 } }'
PICTURES = 'layer { name: "d" type: "ImageData" top: "data" image_data_param { source: "list.txt" batch_size: 1 } }'
DATABASE = """layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "db" batch_size: 1 backend: LMDB } }"""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; its exit status and all that it wrote."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(argument) for argument in arguments])
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, "".join(capsys.readouterr())

    return run


def test_pictures() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FileError, match="truncated PNG"):
        read_picture(HOSTILE / "png_20s_2GB.png", "color")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_datum(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as database, database.begin(write=True) as transaction:
        transaction.put(b"0", (HOSTILE / "datum_2GB.datum").read_bytes())
    with pytest.raises(FileError, match=r"record 0 \(key '0'\): is no Datum"):
        source_of(DATABASE, tmp_path)


@pytest.mark.parametrize("name", ["lmdb_sigbus.mdb", "lmdb_sigbus2.mdb"])
def test_pages_beyond_the_end_of_a_database(name: str, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    (tmp_path / "db").mkdir()
    shutil.copy(HOSTILE / name, tmp_path / "db" / "data.mdb")
    with pytest.raises(FileError, match="is a damaged LMDB: "):
        source_of(DATABASE, tmp_path)


def test_a_value_beyond_the_end_of_a_database(tmp_path: Path) -> None:
    """Its size stands in front of the key. The library does not notice, and reads what is not there."""
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as database, database.begin(write=True) as transaction:
        for k in range(3):
            transaction.put(b"key%d" % k, bytes(10_000))
    file = tmp_path / "db" / "data.mdb"
    content = bytearray(file.read_bytes())
    at = content.index(b"key2") - 8
    assert int.from_bytes(content[at : at + 4], "little") == 10_000
    content[at : at + 4] = (10**8).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(
        FileError, match=r"is a damaged LMDB: a value that page . names lies beyond the end of the file"
    ):
        source_of(DATABASE, tmp_path)


@pytest.mark.parametrize("name", ["mpii_segfault.mat", "mpii_sigbus.mat"])
def test_matlab_files(name: str) -> None:
    # What lies where a damaged pointer leads differs from run to run.
    ends = r"cannot be read: SIG(SEGV|BUS) ended its reader|is not MPII's release"
    with pytest.raises(FileError, match=f"{name}: ({ends})"):
        read_mpii(HOSTILE / name)


def test_a_cdf_that_goes_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cdflib")
    monkeypatch.setenv("CAFFE_COMPAT_MAX_READER_SECONDS", "0.5")
    folder = tmp_path / "S1" / "MyPoseFeatures" / "D3_Positions"
    folder.mkdir(parents=True)
    shutil.copy(HOSTILE / "pose_hang.cdf", folder / "Directions 1.cdf")
    with pytest.raises(FileError, match=r"Directions 1\.cdf: takes longer than 1 s to read"):
        next(read_cdf(tmp_path, subjects=["S1"]))


def test_an_attribute_without_end(command: Command) -> None:
    status, text = command("verify", "--cases", HOSTILE / "reference_endless.h5")
    assert status == 1
    assert "is a damaged HDF5 file: its strings at byte 2048 have no end" in text


def test_a_case_of_whole_numbers(command: Command) -> None:
    status, text = command("verify", "--cases", HOSTILE / "reference_int_bottom.h5")
    assert (status, "0 of 1 passed" in text) == (1, True)


def test_values_in_another_file(tmp_path: Path) -> None:
    """External storage, an external link and a virtual data set; what they name is not opened."""
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(4.0)
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("stored", (16,), "f4", external=[(str(tmp_path / "secret"), 0, 64)])
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        file.create_virtual_dataset("virtual", layout)
    with open_hdf5(tmp_path / "a.h5") as file:
        for name, reason in (("stored", "other files"), ("virtual", "other files"), ("linked", "another file")):
            with pytest.raises(FileError, match=f"{name}.*{reason}"):
                read_array(find(file, name))
    with open_hdf5(HOSTILE / "hdf5_external_storage.h5") as file:
        (name,) = file
        with pytest.raises(FileError, match="stores its values in other files; they are not opened"):
            read_array(find(file, name))


def test_arrays_of_objects(tmp_path: Path) -> None:
    folder = tmp_path / "S1" / "Directions-1"
    folder.mkdir(parents=True)
    shutil.copy(HOSTILE / "fetch_unsized.h5", folder / "annot.h5")
    with pytest.raises(FileError, match=r"annot\.h5: data set /pose/3d holds object, not numbers"):
        next(read_fetch(tmp_path))


def test_a_prefix_longer_than_a_name_may_be() -> None:
    """No folder is called so; what cannot be written is said when it is to be."""
    assert len(read_solver(HOSTILE / "solver_long_name.prototxt").snapshot_prefix) > 255


def test_a_shard_of_no_number(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "job.json").write_text('{"version": 1}')
    shutil.copy(HOSTILE / "shards_infinite.jsonl", tmp_path / "parts" / "done.jsonl")
    with ShardStore(str(tmp_path / "parts"), {"version": 1}) as store:
        assert store.done == set()


@pytest.mark.parametrize("text", [None, "[1]", "[" * 100_000])
def test_a_job_that_is_none(text: str | None, tmp_path: Path) -> None:
    job, lines = tmp_path / "parts" / "job.json", tmp_path / "parts" / "done.jsonl"
    job.parent.mkdir()
    job.write_bytes((HOSTILE / "shards_job_text.json").read_bytes() if text is None else text.encode())
    lines.write_text("[" * 100_000 + "\n")
    with pytest.raises(FileError, match=r"job\.json: is damaged: .*; remove the folder"):
        ShardStore(str(job.parent), {"version": 1})
    assert job_of(str(job.parent)) is None
    job.write_text('{"version": 1}')
    with ShardStore(str(job.parent), {"version": 1}) as store:
        assert store.done == set()


def test_json_that_is_nested_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("[" * 100_000)
    with pytest.raises(FileError):
        read_config(path)
    assert not made_otherwise(path, {})
    assert outdated(path) == []


def test_headers_of_arrays() -> None:
    with pytest.raises(FileError, match=r"positions_2d\.npy: no npy array"):
        read_detections(HOSTILE / "npz_tokenerror.npz")


@pytest.mark.parametrize("name", ["resume_notimplemented.npz", "resume_overflow.npz", "resume_tokenerror.npz"])
def test_resume_files(name: str, tmp_path: Path) -> None:
    state = recorded_case("adam", tmp_path).snapshot()
    assert state is not None
    shutil.copy(HOSTILE / name, tmp_path / "adam_iter_0.resume.npz")
    with pytest.raises(FileError, match=r"is damaged .*; delete it to go on without recurrent state"):
        read_snapshot(state, tmp_path)


def test_a_list_of_windows(tmp_path: Path) -> None:
    shutil.copy(HOSTILE / "window_overflow.txt", tmp_path / "list.txt")
    with pytest.raises(FileError, match="line 7: 18446744073709551616 is larger than Caffe's whole numbers are"):
        source_of(WINDOWS, tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in HOSTILE.glob("*.caffemodel")))
def test_damaged_weights_are_listed(name: str, command: Command) -> None:
    status, text = command("inspect", HOSTILE / name)
    assert (status, text.startswith(f"{HOSTILE / name}: weights (binary")) == (0, True)
    assert "\x1b" not in text


def test_a_solver(command: Command) -> None:
    status, text = command("train", "--solver", HOSTILE / "solver_value_out_of_range.prototxt")
    assert (status, len(text.splitlines())) == (2, 1)
    assert "solver_mode is given again" in text


def test_a_blob_forges_no_line_of_a_log(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = r"I1127 00:00:00.000000 1 solver.cpp:239] Iteration 7, loss = 666"
    text = (HOSTILE / "forged_log_net.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(text.replace('"loss"', rf'"loss\n{forged}"'))
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 1 display: 1 snapshot_after_train: false'
    )
    monkeypatch.chdir(tmp_path)
    status, text = command("train", "--solver", "solver.prototxt")
    lines = [line for line in text.splitlines() if "loss = 666" in line]  # a time may have these digits, too
    assert status == 0
    assert lines
    assert not [line for line in lines if line.startswith(("I1127 00:00:00", "Iteration"))]
    assert all(rf"loss\n{forged}" in line for line in lines)


def test_escapes_reach_no_terminal(command: Command) -> None:
    for words in (["inspect"], ["time"], ["survey"]):
        _, text = command(*words, HOSTILE / "ansi.prototxt")
        assert "\x1b" not in text
        assert "\nERROR: all fine" not in text


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """What lists the entries of such a file asks for texts."""
    with open_hdf5(HOSTILE / "hdf5_name_no_text.h5") as file:
        for ask in (members, names_in):
            with pytest.raises(FileError, match=r"the name b'dat\\xff' in it is no text"):
                ask(file)
    (tmp_path / "list.txt").write_text(str(HOSTILE / "hdf5_name_no_text.h5"))
    with pytest.raises(FileError, match=r"hdf5_name_no_text\.h5: the name b'dat\\xff' in it is no text"):
        source_of(ROWS, tmp_path)


def test_numbers_of_thousands_of_digits() -> None:
    text = (HOSTILE / "settings_digits.yml").read_text()
    with pytest.raises(FileError, match="line 1: a number of 5000 digits; 1000 are the most that are read"):
        read_settings(text, "settings_digits.yml")
    with pytest.raises(UsageError, match=r"parity_digits\.toml: no TOML: "):
        read_suite(HOSTILE / "parity_digits.toml")


def test_a_name_of_a_file_that_no_system_takes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a" * 20_000 + ".png 1\n")
    with pytest.raises(FileError, match=r"line 1: a file name of 20004 bytes; 4096 were expected at most$"):
        source_of(PICTURES, tmp_path)
