"""``parse_log.py [--verbose] [--delimiter D] LOG OUTPUT_DIR``."""

from __future__ import annotations

import argparse
import os

from ...formats.log_tables import read_log_tables, write_log_tables
from ..options import say

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Run the program on the words after its name; its exit status."""
    parser = argparse.ArgumentParser("parse_log.py", description="Parse a Caffe training log into two CSV files.")
    parser.add_argument("logfile_path")
    parser.add_argument("output_dir")
    parser.add_argument("--verbose", action="store_true", help="say which files are written")
    parser.add_argument("--delimiter", default=",", help="column delimiter in output files")
    given = parser.parse_args(words)
    tables = read_log_tables(given.logfile_path)
    for path in write_log_tables(tables, os.path.basename(given.logfile_path), given.output_dir, given.delimiter):
        if given.verbose:
            say(f"Wrote {path}")
    return 0
