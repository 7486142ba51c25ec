"""How large a blob and a network can be: a file that goes beyond is no model."""

from __future__ import annotations

__all__ = ["MAX_BLOB_AXES", "MAX_BLOB_VALUES", "MAX_LAYERS"]

# Caffe aborts beyond these two. kMaxBlobAxes, which is HDF5's limit too.
MAX_BLOB_AXES = 32
# What an int counts.
MAX_BLOB_VALUES = 2**31 - 1
# Far beyond any network; bounds what a file of empty messages can make us allocate.
MAX_LAYERS = 100_000
