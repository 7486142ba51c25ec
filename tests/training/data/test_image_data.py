"""ImageData and its kin: order, labels, and what is wrong with a list."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_compat.errors import FileAccessError, FileError, LayerError, UsageError
from caffe_compat.training.data import Source
from tests.training.data.helpers import FORK, image_data, image_list, source_of, sources_of


def order(source: Source, batches: range) -> list[int]:
    """Which lines the batches hold, told by the first label."""
    labels = [source.batch(k)["label"] for k in batches]
    return [int(x) for label in labels for x in label.reshape(len(label), -1)[:, 0]]


def lstm(settings: str = "") -> str:
    return image_data(f"label_dim: 3 {settings}", kind="ImageDataLstm", field="image_data_lstm_param")


def test_in_order_and_round_again(tmp_path: Path) -> None:
    image_list(tmp_path, 7)
    source = source_of(image_data("batch_size: 4"), tmp_path)
    assert order(source, range(4)) == [*range(7), *range(7), 0, 1]
    assert not source.random


def test_images_and_labels_stay_together(tmp_path: Path) -> None:
    images = image_list(tmp_path, 7)
    batch = source_of(image_data("batch_size: 5 shuffle: true"), tmp_path).batch(2)
    for data, label in zip(batch["data"].numpy(), batch["label"].numpy(), strict=True):
        np.testing.assert_array_equal(data, images[int(label)].transpose(2, 0, 1))


def test_a_shuffled_epoch_has_every_line_once(tmp_path: Path) -> None:
    image_list(tmp_path, 10)
    source = source_of(image_data("batch_size: 4 shuffle: true"), tmp_path)
    lines = order(source, range(10))
    epochs = [lines[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    again = source_of(image_data("batch_size: 4 shuffle: true"), tmp_path)
    assert order(again, range(7, 10)) == lines[28:]  # without having read what came before
    assert order(source_of(image_data("batch_size: 4 shuffle: true"), tmp_path, seed=6), range(10)) != lines


def test_orders_are_the_same_everywhere() -> None:
    """A seed must mean the same order under every version of every library."""
    from caffe_compat.training.data.order import draw, permutation, stream

    assert permutation(stream(5, "TRAIN", "d", "shuffle"), 8).tolist() == [1, 3, 6, 5, 2, 0, 7, 4]
    assert draw(stream(5, "TRAIN", "d"), 77)[0] == 10831650579184488637


def test_layers_of_one_name_and_phases_have_streams_of_their_own(tmp_path: Path) -> None:
    image_list(tmp_path, 30)
    one = image_data("batch_size: 30 shuffle: true")
    two = one.replace('"data"', '"data2"').replace('"label"', '"label2"')
    first, second = sources_of(one + two, tmp_path, "TRAIN")
    labels = [first.batch(0)["label"].tolist(), second.batch(0)["label2"].tolist()]
    labels.append(source_of(one, tmp_path, "TEST").batch(0)["label"].tolist())
    assert len({tuple(x) for x in labels}) == 3


def test_rand_skip(tmp_path: Path) -> None:
    image_list(tmp_path, 9)
    starts = {order(source_of(image_data("rand_skip: 5"), tmp_path, seed=seed), range(1))[0] for seed in range(40)}
    assert starts == set(range(5))
    with pytest.raises(LayerError, match=r"rand_skip skips .* has only 9"):
        source_of(image_data("rand_skip: 1000000"), tmp_path)


def test_ranks_take_turns_batch_by_batch(tmp_path: Path) -> None:
    image_list(tmp_path, 11)
    net = image_data("batch_size: 3 shuffle: true", "mirror: true crop_size: 5")
    alone = source_of(net, tmp_path, "TRAIN")
    ranks = [source_of(net, tmp_path, "TRAIN", rank=r, world_size=2) for r in range(2)]
    for k in range(5):
        for r in range(2):
            ours, theirs = ranks[r].batch(k), alone.batch(2 * k + r)
            assert all((ours[top] == theirs[top]).all() for top in ours)
    test = [source_of(net, tmp_path, "TEST", rank=r, world_size=2).batch(1)["label"].tolist() for r in range(2)]
    assert test[0] == test[1]


# The fork's layers


def test_vector_labels(tmp_path: Path) -> None:
    image_list(tmp_path, 3, "{i},0.5,-1e-3,")
    source = source_of(lstm("batch_size: 2 is_shuffle_batch: false"), tmp_path)
    np.testing.assert_array_equal(source.batch(1)["label"], np.array([[2, 0.5, -1e-3], [0, 0.5, -1e-3]], np.float32))


def test_a_batch_that_starts_anywhere_begins_a_sequence(tmp_path: Path) -> None:
    image_list(tmp_path, 6, "{i},0.5,1")
    source = source_of(lstm("batch_size: 4"), tmp_path)  # is_shuffle_batch is true by default
    starts = set()
    for k in range(60):
        labels = source.batch(k)["label"].numpy()
        starts.add(labels[0, 0])
        np.testing.assert_array_equal(np.diff(labels[:, 0]) % 6, [1, 1, 1])  # goes on from there, round the end
        np.testing.assert_array_equal(labels[:, 2], [0, 1, 1, 1])
    assert starts == set(range(6))


def test_the_forks_image_data_starts_anywhere_but_keeps_its_labels(tmp_path: Path) -> None:
    image_list(tmp_path, 6, "{i},7")
    fork = source_of(image_data("batch_size: 2 label_dim: 2"), tmp_path)
    assert {fork.batch(k)["label"][0, 0].item() for k in range(60)} == set(range(6))
    assert (fork.batch(0)["label"][:, 1] == 7).all()
    shuffled = source_of(image_data("batch_size: 2 label_dim: 2 shuffle: true"), tmp_path)
    steps = {(b - a) % 6 for a, b in (shuffled.batch(k)["label"][:, 0].tolist() for k in range(60))}
    assert len(steps) > 2  # the next line of a shuffled list is any line


def test_self_divides_by_the_height_and_never_shuffles(tmp_path: Path) -> None:
    image_list(tmp_path, 4, "{i},30")
    net = image_data(
        "batch_size: 3 label_dim: 2 new_height: 10 new_width: 8 is_shuffle_batch: false shuffle: true",
        kind="ImageDataSelf",
        field="image_data_self_param",
    )
    source = source_of(net, tmp_path)
    expected = np.array([[0, 30], [1, 30], [2, 30]], np.float32) / np.float32(10)
    np.testing.assert_array_equal(source.batch(0)["label"], expected)
    assert source.batch(0)["data"].shape == (3, 3, 10, 8)
    assert any("shuffle has no effect" in note for note in source.notes)
    with pytest.raises(LayerError, match="new_height"):
        source_of(net.replace("new_height: 10 new_width: 8", ""), tmp_path)


# Seeds


def test_a_seed_is_drawn_and_told(tmp_path: Path) -> None:
    image_list(tmp_path, 9)
    net = image_data("batch_size: 9 shuffle: true")
    source = source_of(net, tmp_path, seed=None)
    assert any(f"seed {source.seed} was drawn" in note for note in source.notes)
    again = source_of(net, tmp_path, seed=source.seed)
    assert order(again, range(3)) == order(source, range(3))
    assert source_of(image_data(), tmp_path, seed=None).notes == []  # nothing is random
    with pytest.raises(UsageError, match="one seed"):
        source_of(net, tmp_path, "TRAIN", seed=None, world_size=2)


# Bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.txt: is empty"),
        ("\r\n\r\n", "list.txt: is empty"),
        ("0.png 0\nnolabel.png\n", "line 2: a file name, a space and a whole number"),
        ("0.png 1,2\n", "line 1: the label must be one whole number, found '1,2'"),
        ("0.png cat\n", "line 1: the label must be one whole number, found 'cat'"),
        ("0.png 0.5\n", "line 1: the label must be one whole number"),
    ],
)
def test_bad_lists(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(FileError, match=message):
        source_of(image_data(), tmp_path)


@pytest.mark.parametrize("labels", ["1,2", "1,2,3,4"])
def test_wrong_label_count(labels: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"0.png 1,2,3\n\n0.png {labels}\n")
    count = labels.count(",") + 1
    with pytest.raises(FileError, match=rf"list.txt: line 3: 3 labels were expected \(label_dim\), found {count}"):
        source_of(lstm(), tmp_path)


def test_a_label_that_is_no_number(tmp_path: Path) -> None:
    image_list(tmp_path, 1, "1,x,3")
    with pytest.raises(FileError, match=r"list.txt: line 1: a label is no number.*'x'"):
        source_of(lstm(), tmp_path).batch(0)


def test_windows_line_ends_and_names_with_spaces(tmp_path: Path) -> None:
    image_list(tmp_path, 2)
    (tmp_path / "0.png").rename(tmp_path / "a b.png")
    (tmp_path / "list.txt").write_bytes(b"a b.png 4\r\n1.png 5 \r\n\r\n")
    assert order(source_of(image_data("batch_size: 2"), tmp_path), range(1)) == [4, 5]


@pytest.mark.parametrize("name", [r"C:\data\0.png", r"folder\0.png"])
def test_windows_paths(name: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{name} 0\r\n")
    with pytest.raises(FileError, match=r"line 1: image .* cannot be opened.*the list has Windows paths"):
        source_of(image_data(), tmp_path).batch(0)


def test_a_missing_and_a_truncated_image(tmp_path: Path) -> None:
    image_list(tmp_path, 3)
    (tmp_path / "1.png").unlink()
    source = source_of(image_data(), tmp_path)
    with pytest.raises(FileError, match=r"list.txt: line 2: image .*1.png cannot be opened: No such file"):
        source.batch(1)
    cv2.imwrite(str(tmp_path / "x.jpg"), np.zeros((30, 30, 3), np.uint8))
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "1.png").write_bytes(data[:-9])
    with pytest.raises(FileError, match=r"list.txt: line 2: image .*1.png is a truncated JPEG"):
        source.batch(1)
    source.batch(2)


def test_a_root_folder_without_its_slash_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image_list(tmp_path / "images", 1)
    (tmp_path / "list.txt").write_text("0.png 0\n")
    source_of(image_data('root_folder: "images/"'), tmp_path).batch(0)
    with pytest.raises(FileError, match="root_folder 'images' lacks its final slash"):
        source_of(image_data('root_folder: "images"'), tmp_path).batch(0)


def test_a_confined_network_stays_inside(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    image_list(outside, 1)
    (inside / "list.txt").write_text("../out/0.png 0\n")
    source_of(image_data(), inside).batch(0)
    with pytest.raises(FileAccessError, match=r"layer 'd': reads '../out/0.png', which lies outside"):
        source_of(image_data(), inside, confined=True).batch(0)
    (inside / "link.txt").symlink_to(outside / "list.txt")
    with pytest.raises(FileAccessError):
        source_of(image_data().replace("list.txt", "link.txt"), inside, confined=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("new_height: 4", "new_height and new_width are needed together"),
        ("batch_size: 0", "batch_size is 0"),
        ("label_dim: 0", "label_dim is 0"),
        ("surprise: 1", "surprise.*not supported"),
    ],
)
def test_settings_that_make_no_sense(settings: str, message: str, tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    with pytest.raises(LayerError, match=message):
        source_of(image_data(settings), tmp_path)


def test_settings_without_effect_are_told(tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    source = source_of(image_data("crop_size: 3", "force_gray: true"), tmp_path)
    assert source.batch(0)["data"].shape == (1, 3, 6, 9)
    assert any("image_data_param.crop_size has no effect" in note for note in source.notes)
    assert any("force_gray" in note for note in source.notes)


def test_unknown_data_layers_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'d' \(CPMData\).*feed the blobs data, label yourself"):
        source_of('layer { name: "d" type: "CPMData" top: "data" top: "label" }', tmp_path)


def test_a_batch_before_the_first(tmp_path: Path) -> None:
    image_list(tmp_path, 1)
    with pytest.raises(UsageError, match="batch -1"):
        source_of(image_data(), tmp_path).batch(-1)


def test_asking_for_the_fork(tmp_path: Path) -> None:
    image_list(tmp_path, 5)
    source = source_of(image_data("batch_size: 2"), tmp_path, dialect=FORK)
    assert source.batch(0)["label"].shape == (2, 1)
    assert source.random


def test_a_first_image_that_is_missing_is_named_once(tmp_path: Path) -> None:
    """Where no size is given, it tells the size of the blob."""
    image_list(tmp_path, 3)
    (tmp_path / "list.txt").write_text("none.png 0\n")
    with pytest.raises(FileError, match=r"^\S*list\.txt: line 1: image \S*none\.png cannot be opened: No such file"):
        source_of(image_data("batch_size: 1"), tmp_path).shapes()


def test_a_byte_order_mark_before_a_list(tmp_path: Path) -> None:
    image_list(tmp_path, 3)
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert order(source_of(image_data("batch_size: 3"), tmp_path), range(1)) == [0, 1, 2]
