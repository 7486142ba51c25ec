"""Extraction: right rows in right order, in every form; what cannot be read; runs that go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_compat.cli import main
from caffe_compat.errors import CaffeCompatError, FileError, MissingExtraError, UsageError
from caffe_compat.extraction import BadRow, extract, find_images
from caffe_compat.formats.databases import open_database
from caffe_compat.inference.preprocess import Preprocess, decode_image
from caffe_compat.schema import load_schema
from caffe_compat.tools.imageset import images_to_database
from tests.extraction.small import FORMATS, HOW, small_net, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eleven pictures, of which rows 3 and 7 cannot be read."""
    write_images(tmp_path / "images", 11, bad=(6, 3))
    return tmp_path / "images"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def expected(folder: Path, blob: str, how: Preprocess = HOW) -> tuple[np.ndarray, list[int]]:
    """The values of the pictures that can be read, each alone through the net, and their rows."""
    net, rows, values = small_net(), list[int](), list[np.ndarray]()
    for row, name in enumerate(names(folder)):
        try:
            given = how.apply(decode_image(folder / name, how.channel_order))
        except CaffeCompatError:
            continue
        rows.append(row)
        values.append(net.run({"data": given[np.newaxis]}, blobs=[blob])[blob].numpy()[0])
    return np.stack(values), rows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mean_image", [False, True])
def test_hdf5_with_several_blobs(images: Path, workers: int, mean_image: bool) -> None:
    mean = np.random.RandomState(1).uniform(0, 255, (3, 8, 8)).astype(np.float32)
    how = Preprocess(resize=(8, 8), mean_image=mean, channel_order="rgb") if mean_image else HOW
    told: list[BadRow] = []
    output = images.parent / "features.h5"
    done = extract(
        small_net(),
        find_images(images),
        output,
        preprocess=how,
        blobs=["prob", "pool1"],
        batch=2,
        shard=4,
        workers=workers,
        on_bad=told.append,
    )
    assert done.count == 9
    assert list(done.bad) == told
    assert [bad.id for bad in told] == ["0006.png", "odd/0003.png"]
    assert "truncated PNG" in told[0].reason
    with h5py.File(output) as file:
        for blob in ("prob", "pool1"):
            values, rows = expected(images, blob, how)
            np.testing.assert_allclose(file[f"blob/{blob}"][()], values, rtol=1e-4, atol=1e-6)
            assert file["row"][()].tolist() == rows
        listed = [name.decode() for name in file["id"][()]]
        assert listed == [names(images)[row] for row in rows]
    lines = (images.parent / "features.h5.bad.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["3", "0006.png"], ["7", "odd/0003.png"]]
    assert not Path(f"{output}.parts").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy(images: Path, dtype: str) -> None:
    output = images.parent / "features.npy"
    extract(
        small_net(),
        find_images(images),
        output,
        preprocess=HOW,
        batch=3,
        shard=1,
        workers=0,
        dtype="float16" if dtype == "float16" else "float32",
    )
    values, rows = expected(images, "prob")
    found = np.load(output)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, values.astype(dtype), rtol=1e-2 if dtype == "float16" else 1e-4)
    ids = Path(f"{output}.ids.txt").read_text().splitlines()
    assert ids == [f"{row}\t{names(images)[row]}" for row in rows]


def test_parquet(images: Path) -> None:
    import pyarrow.parquet

    output = images.parent / "features.parquet"
    extract(small_net(), find_images(images), output, preprocess=HOW, blobs=["pool1", "prob"], batch=4, workers=0)
    table = pyarrow.parquet.read_table(output)
    for blob in ("pool1", "prob"):
        values, rows = expected(images, blob)
        assert table.schema.field(blob).metadata[b"shape"].decode() == ",".join(map(str, values.shape[1:]))
        found = np.array(table[blob].to_pylist(), np.float32).reshape(values.shape)
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-6)
        assert table["row"].to_pylist() == rows
        assert table["id"].to_pylist() == [names(images)[row] for row in rows]


def test_lmdb_from_an_lmdb(tmp_path: Path) -> None:
    images_to_database(f"{FORMATS}/", FORMATS / "list.txt", tmp_path / "db", None)
    output = tmp_path / "features.lmdb"
    extract(small_net(), find_images(tmp_path / "db"), output, preprocess=HOW, blobs=["pool1"], batch=2, workers=0)
    net, message = small_net(), load_schema().message("Datum")
    database = open_database(str(output), "LMDB")
    assert database.keys == [b"%010d" % i for i in range(5)]
    for i in range(5):
        datum = message.FromString(database.get(i))
        name = (FORMATS / "list.txt").read_text().split()[2 * i]
        given = HOW.apply(decode_image(FORMATS / name))[np.newaxis]
        values = net.run({"data": given}, blobs=["pool1"])["pool1"].numpy()[0]
        assert (datum.channels, datum.height, datum.width) == values.shape
        np.testing.assert_allclose(np.array(datum.float_data, np.float32), values.ravel(), rtol=1e-4, atol=1e-6)


def test_a_list_is_relative_to_its_folder_and_keeps_its_order(images: Path) -> None:
    listed = images / "list.txt"
    listed.write_text("odd/0001.png\n0004.png 7\n0000.png\n")
    rows = find_images(listed)
    assert list(rows.ids) == ["odd/0001.png", "0004.png", "0000.png"]
    extract(small_net(), rows, images.parent / "a.npy", preprocess=HOW, batch=2, workers=0)
    values, order = expected(images, "prob")
    whole = dict(zip([names(images)[row] for row in order], values, strict=True))
    np.testing.assert_allclose(np.load(images.parent / "a.npy"), [whole[name] for name in rows.ids], rtol=1e-4)


def run(images: Path, name: str, **options: object) -> bytes:
    """An extraction; the bytes of its output."""
    settings: dict[str, object] = {"preprocess": HOW, "batch": 2, "shard": 2, "workers": 0}
    extract(small_net(), find_images(images), images.parent / name, **(settings | options))  # type: ignore[arg-type]
    return (images.parent / name).read_bytes()


def test_the_same_bytes_however_many_workers_there_are(images: Path) -> None:
    whole = run(images, "a.h5")
    assert run(images, "b.h5", workers=1) == whole
    assert run(images, "c.h5", workers=3) == whole


class StopError(Exception):
    """The end of a run, at a moment of its choice."""


def test_what_is_done_is_not_done_again(images: Path) -> None:
    whole = run(images, "a.h5")
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise StopError

    with pytest.raises(StopError):
        run(images, "b.h5", on_progress=stop)
    assert seen == [0, 2, 4]
    parts = images.parent / "b.h5.parts"
    # A shard that was cut short, and a line.
    (parts / "00000001.npz").write_bytes((parts / "00000001.npz").read_bytes()[:-1])
    with (parts / "done.jsonl").open("a") as file:
        file.write('{"shard": 5, "sha')
    seen.clear()
    assert run(images, "b.h5", on_progress=lambda done, total: seen.append(done)) == whole
    assert seen == [2, 4, 6, 8, 10, 11]
    assert not parts.exists()


def test_parts_of_another_job_are_refused(images: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise StopError

    with pytest.raises(StopError):
        run(images, "a.h5", on_progress=stop)
    with pytest.raises(UsageError, match=r"a\.h5\.parts: was begun with another batch \(2, now 4\)"):
        run(images, "a.h5", batch=4)
    with pytest.raises(UsageError, match="another preprocessing"):
        run(images, "a.h5", preprocess=Preprocess(resize=(8, 8)))
    with pytest.raises(UsageError, match="another blobs"):
        run(images, "a.h5", blobs=["pool1"])
    (images / "new.png").write_bytes((images / "0000.png").read_bytes())
    with pytest.raises(UsageError, match="another images"):
        run(images, "a.h5")


def test_a_run_that_was_killed_right_before_it_was_through(images: Path) -> None:
    whole = run(images, "a.h5")

    def stop(done: int, total: int) -> None:
        if done == total:
            raise StopError

    with pytest.raises(StopError):
        run(images, "b.h5", on_progress=stop)
    (images.parent / "b.h5").write_bytes(whole)
    assert run(images, "b.h5") == whole
    with pytest.raises(UsageError, match="is there already"):
        run(images, "b.h5")


def test_a_run_that_was_killed_when_only_its_shards_were_left_to_remove(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(images, "a.h5")
    left = 0

    def killed(do: Callable[[str], None]) -> Callable[[str], None]:
        def remove(path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise StopError
            do(path)

        return remove

    ways = []
    for moment in range(12):
        output = images.parent / f"b{moment}.h5"
        with monkeypatch.context() as patch:
            left = moment
            patch.setattr(os, "remove", killed(os.remove))
            patch.setattr(os, "rmdir", killed(os.rmdir))
            try:
                run(images, output.name)
            except StopError:
                assert output.read_bytes() == whole
            else:
                break
        parts = output.with_name(f"{output.name}.parts")
        if list(parts.iterdir()):
            seen: list[int] = []
            assert run(images, output.name, on_progress=lambda done, total, seen=seen: seen.append(done)) == whole
            assert len(seen) == 1  # nothing was computed again
            ways.append("went on")
        else:
            with pytest.raises(UsageError, match="is there already"):
                run(images, output.name)
            ways.append("refused")
        assert not parts.exists()
    assert ways == [*["went on"] * (len(ways) - 1), "refused"]
    assert len(ways) >= 8  # six shards, their list, and whose they are


def test_a_folder_of_ones_own_is_left_alone(images: Path) -> None:
    folder = images.parent / "a.h5.parts"
    folder.mkdir()
    (folder / "mine.txt").write_text("")
    (images.parent / "a.h5").write_text("")
    with pytest.raises(UsageError, match="is there already"):
        run(images, "a.h5")
    assert (folder / "mine.txt").exists()


def test_what_is_refused(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"0006\.png: is a truncated PNG.*row 3; without --strict"):
        run(images, "a.h5", strict=True)
    with pytest.raises(
        FileError, match=r"none of the 11 images can be read; the first: 0000\.png becomes \[3, 11, 13\]"
    ):
        run(images, "b.h5", preprocess=Preprocess())
    with pytest.raises(UsageError, match=r"ends in \.h5, \.parquet, \.npy, \.lmdb"):
        run(images, "a.csv")
    with pytest.raises(UsageError, match="holds one blob, 2 were asked for"):
        run(images, "a.npy", blobs=["prob", "pool1"])
    with pytest.raises(UsageError, match="a Datum holds float32"):
        run(images, "a.lmdb", dtype="float16")
    with pytest.raises(UsageError, match="fc7"):
        run(images, "c.h5", blobs=["fc7"])
    with pytest.raises(FileError, match="no images are in it"):
        find_images(images.parent / "b.h5.parts")
    for module, name, options in (("pyarrow.parquet", "a.parquet", {}), ("ray", "d.h5", {"ray": ""})):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=r"pip install \"caffe-compat\[(parquet|cluster)\]\""):
            run(images, name, **options)


def test_the_command(images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = images.parent / "features.npy"
    words = ["extract", str(FORMATS / "v1net.prototxt"), str(FORMATS / "v1net.caffemodel"), "--images", str(images)]
    words += ["--blobs", "prob", "-o", str(output), "--workers", "0"]
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 2
    assert "say how pixels become input" in capfd.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main([*words, "--preprocess", "order=bgr,mean=104:117:123,scale=0.5,resize=8"])
    assert not exit.value.code
    out, err = capfd.readouterr()
    assert out.splitlines() == [f"wrote {output}: 9 rows", f"2 images have none: {output}.bad.txt"]
    assert "left out: 0006.png is a truncated PNG" in err
    np.testing.assert_allclose(np.load(output), expected(images, "prob")[0], rtol=1e-4)
    with pytest.raises(SystemExit) as exit:
        main([*words, "--preprocess", "order=bgr"])
    assert exit.value.code == 2
