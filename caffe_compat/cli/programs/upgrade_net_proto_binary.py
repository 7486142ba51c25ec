"""``upgrade_net_proto_binary OLD NEW``."""

from __future__ import annotations

from ...schema.upgrade_files import upgrade_caffemodel
from .upgrading import upgraded_file

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    return upgraded_file("upgrade_net_proto_binary", words, upgrade_caffemodel, "NetParameter", "binary")
