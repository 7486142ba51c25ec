"""``upgrade_solver_proto_text OLD NEW``."""

from __future__ import annotations

from ...schema.upgrade_files import upgrade_solver_prototxt
from .upgrading import upgraded_file

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    return upgraded_file("upgrade_solver_proto_text", words, upgrade_solver_prototxt, "SolverParameter", "text")
