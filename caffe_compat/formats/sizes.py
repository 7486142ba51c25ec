"""How large a blob and a network can be: a file that goes beyond is no model, whatever kind of file it is."""

from __future__ import annotations

__all__ = ["MAX_BLOBS", "MAX_BLOB_AXES", "MAX_BLOB_VALUES", "MAX_LAYERS", "MAX_LAYER_BLOBS"]

# Caffe aborts beyond these two. kMaxBlobAxes, which is HDF5's limit too.
MAX_BLOB_AXES = 32
# What an int counts.
MAX_BLOB_VALUES = 2**31 - 1
# Far beyond any network; they bound what a file of empty messages can make us allocate.
MAX_LAYERS = 100_000
MAX_LAYER_BLOBS = 4096
MAX_BLOBS = 100_000  # of all layers, and of a solver's history
