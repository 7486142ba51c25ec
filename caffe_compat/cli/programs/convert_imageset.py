"""``convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME``."""

from __future__ import annotations

from ...tools.imageset import BadImage, ImageForm, images_to_database
from ..glog import log
from .common import backend_of, usage
from .gflags import Value, parse_flags, text_flag, whole_flag

__all__ = ["main"]

_FLAGS: dict[str, Value] = {
    "gray": False,
    "shuffle": False,
    "backend": "lmdb",
    "resize_width": 0,
    "resize_height": 0,
    "check_size": False,
    "encoded": False,
    "encode_type": "",
}


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    flags, rest = parse_flags(words, _FLAGS)
    if len(rest) < 3:
        return usage(f"convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME; flags: {', '.join(_FLAGS)}")
    if flags["shuffle"]:
        log("Shuffling data", "convert_imageset.cpp:86")
    if flags["encode_type"] and not flags["encoded"]:
        log("encode_type specified, assuming encoded=true.", "convert_imageset.cpp:92")

    def left_out(bad: BadImage) -> None:
        log(f"Could not open or find file {bad.path}: {bad.reason}", "io.cpp:76", "E")

    images_to_database(
        rest[0],
        rest[1],
        rest[2],
        ImageForm(
            gray=bool(flags["gray"]),
            width=max(0, whole_flag(flags, "resize_width")),
            height=max(0, whole_flag(flags, "resize_height")),
            encoded=bool(flags["encoded"]),
            encode_type=text_flag(flags, "encode_type"),
            check_size=bool(flags["check_size"]),
        ),
        backend=backend_of(text_flag(flags, "backend")),
        shuffle=bool(flags["shuffle"]),
        on_listed=lambda count: log(f"A total of {count} images.", "convert_imageset.cpp:89"),
        on_stored=lambda count: log(f"Processed {count} files.", "convert_imageset.cpp:153"),
        on_bad=left_out,
    )
    return 0
