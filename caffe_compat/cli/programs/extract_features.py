"""``extract_features WEIGHTS MODEL BLOB[,BLOB] DB[,DB] BATCHES DB_TYPE [CPU/GPU] [DEVICE_ID=0]``."""

from __future__ import annotations

from ...errors import UsageError
from ...tools.features import features_to_databases
from ..glog import log
from ..options import parse_device
from .common import backend_of, usage

__all__ = ["main"]

_PLACE = "extract_features.cpp"


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    if len(words) < 6:
        return usage(
            "extract_features pretrained_net_param feature_extraction_proto_file blob_name1[,name2,...] "
            "save_feature_dataset_name1[,name2,...] num_mini_batches db_type [CPU/GPU] [DEVICE_ID=0]"
        )
    weights, model, blobs, databases, batches, kind, *where = words
    names, paths = blobs.split(","), databases.split(",")
    if len(names) != len(paths):
        raise UsageError(f"{len(names)} blob names and {len(paths)} dataset names; as many of each were expected")
    if not batches.isdecimal():
        raise UsageError(f"num_mini_batches {batches!r}: a whole number was expected")
    if len(set(names)) < len(names):
        raise UsageError(f"blob names {blobs}: each once was expected")
    device = _device(where)
    log("Extracting Features", f"{_PLACE}:133", "E")
    features_to_databases(
        model,
        weights,
        dict(zip(names, paths, strict=True)),
        int(batches),
        backend=backend_of(kind),
        device=device,
        warn=lambda text: log(text, f"{_PLACE}:104", "W"),
        on_progress=lambda blob, count: log(
            f"Extracted features of {count} query images for feature blob {blob}", f"{_PLACE}:176", "E"
        ),
    )
    log("Successfully extracted the features!", f"{_PLACE}:181", "E")
    return 0


def _device(where: list[str]) -> str:
    """The device of the last words; the CPU, with a warning, where there is no GPU, as for ``caffe train``."""
    if where[:1] != ["GPU"]:
        log("Using CPU", f"{_PLACE}:62", "E")
        return "cpu"
    number = where[1] if len(where) > 1 else "0"
    if not number.isdecimal():
        raise UsageError(f"DEVICE_ID {number!r}: a whole number was expected")
    log("Using GPU", f"{_PLACE}:52", "E")
    log(f"Using Device_id={number}", f"{_PLACE}:58", "E")
    try:
        parse_device(f"cuda:{number}")
    except UsageError:
        log(f"there is no GPU {number}: the CPU does the work", f"{_PLACE}:62", "W")
        return "cpu"
    return f"cuda:{number}"
