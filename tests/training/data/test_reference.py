"""What real Caffe read from the same files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from tests.training.data.helpers import FORK, OUTPUTS, source_of

FORMATS = OUTPUTS / "formats"


def cases() -> list[str]:
    with h5py.File(OUTPUTS / "formats.h5") as file:
        return [name for name in file if name.startswith(("ImageData.", "Data.", "HDF5Data."))]


def test_every_stored_case_is_found() -> None:
    assert len(cases()) == 11


@pytest.mark.parametrize("case", cases())
def test_stored_case(case: str) -> None:
    with h5py.File(OUTPUTS / "formats.h5") as file:
        group = file[case]
        prototxt = str(group.attrs["prototxt"])
        source = source_of(prototxt, FORMATS)
        shapes = source.shapes()
        # Where several batches were stored they are data_0, data_1 ...
        several = sorted({int(name.rpartition("_")[2]) for name in group if "_" in name})
        batches: list[int | None] = [*several] or [None]
        for k in batches:
            batch = source.batch(k or 0)
            for top in ("data", "label"):
                expected = group[top if k is None else f"{top}_{k}"][()]
                assert shapes[top] == tuple(batch[top].shape) == expected.shape
                got = batch[top].numpy()
                if case.startswith("ImageData") and top == "data":
                    grey_level = 0.5 if "mean_file" in case else 0.00390625 if "scale" in case else 1
                    np.testing.assert_array_equal(got[:3], expected[:3])  # PNG
                    assert np.abs(got[3:] - expected[3:]).max() <= grey_level * 1.0001  # JPEG: decoders may differ
                else:
                    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("net", "batch_size"), [("mask3d_test", 4), ("bilstm_test", 5), ("template_16_merge", 5)])
def test_pose_sequences(net: str, batch_size: int) -> None:
    source = source_of(
        'layer { name: "demo" type: "ImageDataLstm" top: "data" top: "label_clip" '
        "transform_param { scale: 0.00390625 mean_value: 128 } image_data_lstm_param { "
        f'source: "h36m_list.txt" root_folder: "./" new_height: 64 new_width: 64 batch_size: {batch_size} '
        "label_dim: 81 is_shuffle_batch: false } }",
        OUTPUTS / "train_data",
    )
    names = (OUTPUTS / "train_data" / "h36m_list.txt").read_text().split()[::2]
    with h5py.File(OUTPUTS / "hpm_test_phase.h5") as file:
        for k in range(len(file[net])):
            expected, batch = file[net][f"batch_{k}"], source.batch(k)
            labels = batch["label_clip"].numpy()
            np.testing.assert_array_equal(labels[:, :32], expected["label2d"])
            np.testing.assert_array_equal(labels[:, 32:80], expected["label3d"])
            np.testing.assert_array_equal(labels[:, 80:], expected["clip"])
            for i in range(batch_size):
                difference = np.abs(batch["data"][i].numpy() - expected["data"][i]).max()
                is_png = names[(k * batch_size + i) % len(names)].endswith(".png")
                assert difference <= (0 if is_png else 0.00391)


def test_the_dialect_is_the_forks() -> None:
    """``label_dim`` exists nowhere else, so a list of one label a line is BVLC's business."""
    prototxt = 'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "list.txt" } }'
    assert source_of(prototxt, FORMATS).shapes()["label"] == (1,)
    assert source_of(prototxt, FORMATS, dialect=FORK).shapes()["label"] == (1, 1)
