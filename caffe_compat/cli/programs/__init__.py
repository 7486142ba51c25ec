"""Caffe's other programs, with their flags, logs and exit statuses, for the scripts that call them.

Each module has one: a function ``main`` that takes the words after the program's name and returns the exit status. What
it does is a public function; here its arguments are read and its log is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

__all__ = ["PROGRAMS", "run"]

# The name of each, as Caffe's folders have it -> its module.
PROGRAMS = {
    "classification": "classification",
    "classification.bin": "classification",
    "compute_image_mean": "compute_image_mean",
    "convert_imageset": "convert_imageset",
    "extract_features": "extract_features",
    "extract_features.bin": "extract_features",
    "parse_log": "parse_log",
    "parse_log.py": "parse_log",
    "plot_training_log.py": "plot_training_log",
    "upgrade_net_proto_binary": "upgrade_net_proto_binary",
    "upgrade_net_proto_text": "upgrade_net_proto_text",
    "upgrade_solver_proto_text": "upgrade_solver_proto_text",
}


def run(name: str, words: Sequence[str]) -> int:
    """Run the program ``name``. Raises CaffeCompatError."""
    status: int = importlib.import_module(f"{__name__}.{PROGRAMS[name]}").main(list(words))
    return status
