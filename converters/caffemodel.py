"""Back to Caffe: ``.caffemodel`` and ``.caffemodel.h5``, of fine-tuned, cast or edited nets too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from caffe_compat import CaffeNet, NetworkError
from caffe_compat.network.unread import ANY_FIELD
from caffe_compat.training.solver.snapshot import write_model

from .reading_back import check_read_back
from .registry import target

__all__ = ["write_binary", "write_hdf5"]

# What Caffe tells protobuf to read at most (kProtoReadBytesLimit of its ``util/io.cpp``), and protobuf's own limit.
LARGEST = 2**31 - 1

_CANNOT = ("weights of half precision: they are stored in single", "preprocessing, sources and parity record")


@target("caffemodel", suffix=".caffemodel", title="a caffemodel", cannot=("more than 2 GB", *_CANNOT))
def write_binary(net: CaffeNet, path: str | Path) -> None:
    """Write the network and its weights to ``path`` as BVLC Caffe writes them, whole or not at all.

    Raises:
        NetworkError: weights that the definition has no place for, or more than Caffe reads. ParityError: it reads back
            otherwise. FileError: ``path`` cannot be written.
    """
    _check_fits(net)
    _check_size(net)
    write_model(Path(path), net)
    check_read_back(net, path)


@target("caffemodel.h5", suffix=".caffemodel.h5", title="a caffemodel in HDF5", cannot=("the network itself", *_CANNOT))
def write_hdf5(net: CaffeNet, path: str | Path) -> None:
    """Write the weights to ``path`` as BVLC Caffe writes them to HDF5, whole or not at all.

    Raises:
        NetworkError: weights that the definition has no place for. ParityError: it reads back otherwise. FileError:
            ``path`` cannot be written.
    """
    _check_fits(net)
    write_model(Path(path), net, hdf5=True)
    check_read_back(net, path)


def _check_fits(net: CaffeNet) -> None:
    """Whether real Caffe could read the weights into the network of the definition.

    Raises:
        NetworkError: a layer was replaced or changed, so that it has other blobs than the definition gives it; or has
            no weights yet.
    """
    plain = _as_defined(net)
    for node in net.graph.computed:
        module = net.get_submodule(node.module_name)
        defined = {name: tuple(blob.shape) for name, blob in plain.blobs_of(node.module_name).items()}
        found = {name: tuple(blob.shape) for name, blob in net.blobs_of(node.module_name).items()}
        if list(defined.values()) != list(found.values()):
            raise NetworkError(
                f"has blobs {_listed(found)}, and by the definition it has {_listed(defined)}; Caffe goes by the "
                "definition, so change it there and load the weights into that",
                layer=node.name,
                type=node.type,
            )
        if any(blob.is_meta for blob in (*module.parameters(), *module.buffers())):
            raise NetworkError("has no weights yet", layer=node.name, type=node.type)


def _check_size(net: CaffeNet) -> None:
    """Whether protobuf could read the file. A blob that layers share is in it once for each of them.

    Raises:
        NetworkError: it could not.
    """
    blobs = (blob for node in net.nodes_with_blobs() for blob in net.blobs_of(node.module_name).values())
    size = sum(4 * blob.numel() for blob in blobs)
    if size > LARGEST:
        raise NetworkError(
            f"the weights take {size:,} bytes, and of a .caffemodel Caffe reads {LARGEST:,} at most, for protobuf ends "
            "there; write a .caffemodel.h5, which has no such limit"
        )


def _as_defined(net: CaffeNet) -> CaffeNet:
    """The net of the same definition, without memory."""
    return CaffeNet(
        net.message,
        net.graph.state,
        dialect=net.dialect,
        input_shapes=net.input_shapes,
        ignore_fields=(ANY_FIELD,),
        files=net.files,
    )


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "none"
