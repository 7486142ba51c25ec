"""Caffe's other programs: flags, logs, exit statuses. What they do is tested where it is done."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.cli import main, program
from caffe_compat.cli.programs import PROGRAMS
from caffe_compat.cli.programs.gflags import Value, parse_flags
from caffe_compat.errors import UsageError
from caffe_compat.formats.databases import open_database
from caffe_compat.formats.weights import read_binaryproto, read_weights
from tests.formats.test_log_tables import LOG

FORMATS = Path(__file__).parents[2] / "reference_outputs" / "formats"
PREFIX = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ (\S+:\d+\] .*)")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        cv2.imwrite(f"{i}.png", np.full((4, 5, 3), 10 * i, np.uint8))
    Path("list.txt").write_text("0.png 0\n1.png 1\n2.png 1\n")


def run(name: str, *words: str) -> int:
    with pytest.raises(SystemExit) as exit:
        program(name, words)
    return int(exit.value.code or 0)


def log_of(text: str) -> list[str]:
    """The lines of a log without times and threads."""
    return [found[1] if (found := PREFIX.fullmatch(line)) else line for line in text.splitlines()]


def test_a_database_and_its_mean(capfd: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("0.png 0\n1.png 1\ngone.png 1\n2.png 1\n")
    assert (
        run(
            "convert_imageset",
            "--resize_height=3",
            "-resize_width",
            "2",
            "--gray",
            "--shuffle=false",
            "./",
            "list.txt",
            "db",
            "--backend=leveldb",
        )
        == 0
    )
    assert log_of(capfd.readouterr().err) == [
        "convert_imageset.cpp:89] A total of 4 images.",
        "io.cpp:76] Could not open or find file ./gone.png: cannot be opened: No such file or directory",
        "convert_imageset.cpp:153] Processed 3 files.",
    ]
    assert run("compute_image_mean", "db", "mean.binaryproto", "--backend=leveldb") == 0
    assert log_of(capfd.readouterr().err) == [
        "compute_image_mean.cpp:70] Starting iteration",
        "compute_image_mean.cpp:101] Processed 3 files.",
        "compute_image_mean.cpp:108] Write to mean.binaryproto",
        "compute_image_mean.cpp:114] Number of channels: 1",
        "compute_image_mean.cpp:119] mean_value channel [0]: 10",
    ]
    np.testing.assert_array_equal(read_binaryproto("mean.binaryproto"), np.full((1, 1, 3, 2), 10))


def test_our_own_commands_do_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["images-to-db", "./", "list.txt", "ours", "--resize", "3", "2", "--encoded"],
        ["mean", "ours", "mean.binaryproto"],
    ):
        with pytest.raises(SystemExit) as exit:
            main(words)
        assert not exit.value.code
    assert (
        run("convert_imageset", "--resize_height=3", "--resize_width=2", "--encoded", "./", "list.txt", "theirs") == 0
    )
    ours, theirs = open_database("ours", "LMDB"), open_database("theirs", "LMDB")
    assert ours.keys == theirs.keys
    assert [ours.get(i) for i in range(3)] == [theirs.get(i) for i in range(3)]
    assert "wrote ours: 3 images" in capfd.readouterr().out


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"parse_log", "parse_log.py"}))
def test_how_it_is_called(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 1
    assert capfd.readouterr().err.startswith("Usage: ")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("convert_imageset", ["-grey", "./", "list.txt", "db"], "unknown command line flag 'grey'"),
        ("convert_imageset", ["-resize_width=x", "./", "list.txt", "db"], "illegal value 'x' for the flag"),
        ("convert_imageset", ["-gray=2", "./", "list.txt", "db"], "true or false was expected"),
        ("convert_imageset", ["./", "list.txt", "db", "-backend"], "is missing its argument"),
        ("convert_imageset", ["-backend=hdf5", "./", "list.txt", "db"], "lmdb or leveldb was expected"),
        ("convert_imageset", ["./", "gone.txt", "db"], "gone.txt: cannot be opened"),
        ("compute_image_mean", ["gone"], "no such database"),
        ("extract_features", ["w", "m", "a,b", "x", "1", "lmdb"], "2 blob names and 1 dataset names"),
        ("extract_features", ["w", "m", "a", "x", "-1", "lmdb"], "num_mini_batches '-1'"),
        ("parse_log", ["gone.log", "."], "gone.log"),
        ("plot_training_log.py", ["6", "a.jpg", "a.log"], "ends in .png"),
    ],
)
def test_mistakes_are_one_line(name: str, words: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(name, *words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{name}: error: ")
    assert message in line


def test_flags_in_every_spelling() -> None:
    defaults: dict[str, Value] = {"gray": False, "keep": True, "width": 0, "name": "a"}
    for words, expected in (
        (["--gray", "x"], {"gray": True}),
        (["-gray=false", "--nokeep", "x"], {"keep": False}),
        (["x", "-width", "7", "--name=b=c"], {"width": 7, "name": "b=c"}),
        (["--logtostderr", "-v=3", "-minloglevel", "2", "x"], {}),
    ):
        assert parse_flags(words, defaults) == ({**defaults, **expected}, ["x"])
    assert parse_flags(["--", "-gray"], defaults) == (defaults, ["-gray"])
    with pytest.raises(UsageError):
        parse_flags(["-width=1.5"], defaults)


def test_files_of_old_generations(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("upgrade_net_proto_text", str(FORMATS / "v1net.prototxt"), "new.prototxt") == 0
    assert log_of(capfd.readouterr().err)[-1].endswith("Wrote upgraded NetParameter text proto to new.prototxt")
    assert "layers" not in Path("new.prototxt").read_text()
    assert run("upgrade_net_proto_text", "new.prototxt", "again.prototxt") == 0
    assert "File already in latest proto format: new.prototxt" in capfd.readouterr().err
    assert run("upgrade_net_proto_binary", str(FORMATS / "v1net.caffemodel"), "new.caffemodel") == 0
    assert "already in latest" not in capfd.readouterr().err
    with read_weights("new.caffemodel") as ours, read_weights(FORMATS / "v1net.upgraded.caffemodel") as recorded:
        theirs = {layer.name: layer.blobs for layer in recorded.layers}
        found = {layer.name: layer.blobs for layer in ours.layers if layer.blobs}
        assert {layer.generation for layer in ours.layers} == {2}
        assert len(found) > 2
        for name, blobs in found.items():
            for blob, other in zip(blobs, theirs[name], strict=True):
                np.testing.assert_array_equal(blob.data.ravel(), other.data.ravel())
    assert run("upgrade_net_proto_binary", "new.caffemodel", "again.caffemodel") == 0
    assert "File already in latest proto format: new.caffemodel" in capfd.readouterr().err
    Path("solver.prototxt").write_text('net: "a"\nsolver_type: ADAM\n')
    assert run("upgrade_solver_proto_text", "solver.prototxt", "new_solver.prototxt") == 0
    assert 'type: "Adam"' in Path("new_solver.prototxt").read_text()
    capfd.readouterr()
    Path("bad.prototxt").write_text("layer {")
    assert run("upgrade_net_proto_text", "bad.prototxt", "x.prototxt") == 2
    assert "Failed to parse input text file as NetParameter: bad.prototxt" in capfd.readouterr().err
    assert not Path("x.prototxt").exists()


def test_tables_of_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.log").write_text(LOG)
    Path("out").mkdir()
    assert run("parse_log.py", "--verbose", "--delimiter", ";", "a.log", "out") == 0
    assert capfd.readouterr().out.splitlines() == ["Wrote out/a.log.train", "Wrote out/a.log.test"]
    assert Path("out/a.log.train").read_text().startswith("NumIters;Seconds;LearningRate;loss")
    with pytest.raises(SystemExit):
        main(["log", "a.log", "out", "--delimiter", ";"])
    assert capfd.readouterr().out.splitlines() == ["wrote out/a.log.train", "wrote out/a.log.test"]


def test_a_plot_of_a_log() -> None:
    Path("_$x$.log").write_text(LOG)
    for number in (0, 5, 6):
        assert run("plot_training_log.py", str(number), f"{number}.png", "_$x$.log") == 0
        assert Path(f"{number}.png").read_bytes().startswith(b"\x89PNG")
    Path("b.log").write_text("\n".join(line for line in LOG.splitlines() if "Test" not in line))
    assert run("plot_training_log.py", "0", "x.png", "b.log") == 2
