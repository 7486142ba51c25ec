"""``compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]``."""

from __future__ import annotations

from ...formats.weights import write_binaryproto
from ...tools.mean import image_mean
from ..glog import log
from .common import backend_of, usage
from .gflags import parse_flags, text_flag

__all__ = ["main"]

_PLACE = "compute_image_mean.cpp"


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    flags, rest = parse_flags(words, {"backend": "lmdb"})
    if len(rest) not in (1, 2):
        return usage("compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]; flags: backend")

    def start(encoded: bool) -> None:
        if encoded:
            log("Decoding Datum", f"{_PLACE}:57")
        log("Starting iteration", f"{_PLACE}:70")

    mean = image_mean(
        rest[0],
        backend_of(text_flag(flags, "backend")),
        start,
        lambda count: log(f"Processed {count} files.", f"{_PLACE}:101"),
    )
    if len(rest) == 2:
        log(f"Write to {rest[1]}", f"{_PLACE}:108")
        write_binaryproto(rest[1], mean.image)
    log(f"Number of channels: {len(mean.channels)}", f"{_PLACE}:114")
    for c, value in enumerate(mean.channels):
        log(f"mean_value channel [{c}]: {value:g}", f"{_PLACE}:119")
    return 0
