"""The dialect of a ``.pt``: kept with the file, never looked for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from caffe_compat import CaffeNet, load
from caffe_compat.errors import CaffeCompatWarning, DialectError, FileError
from caffe_compat.network.checkpoint import save_checkpoint
from caffe_compat.schema import dialect_names
from caffe_compat.schema.prototxt import parse_message
from tests.networks import input_layer, layer

OWN_PROTO = """
syntax = "proto2";
package caffe;
message LayerParameter { optional StretchParameter stretch_param = 777; }
message StretchParameter { optional float factor = 1 [default = 2]; }
"""
RELU = input_layer("data", 2, 3) + layer("relu", "ReLU", "data", "relu")


def test_a_dialect_of_ones_own_travels_with_the_file(tmp_path: Path) -> None:
    saved = []
    for folder, proto, factor in (("a+b", OWN_PROTO, 5), ("c", OWN_PROTO.replace("777", "778"), 7)):
        path = tmp_path / folder / "own.proto"
        path.parent.mkdir()
        path.write_text(proto)
        prototxt = path.with_name("net.prototxt")
        stretch = f"stretch_param {{ factor: {factor} }}"
        prototxt.write_text(input_layer("data", 2, 3) + layer("relu", "ReLU", "data", "relu", stretch))
        with pytest.warns(CaffeCompatWarning, match="stretch_param"):
            net = load(prototxt, dialect=str(path), ignore_fields=["stretch_param"])
        saved.append((path.with_name("net.pt"), factor))
        save_checkpoint(net, saved[-1][0])
        path.unlink()
    for file, factor in saved:
        content = torch.load(file, weights_only=True)
        assert str(tmp_path) not in content["dialect"]
        assert "StretchParameter" in content["dialect_text"]
        again = load(file)
        save_checkpoint(again, tmp_path / "again.pt")  # and with the net that was loaded
        assert torch.load(tmp_path / "again.pt", weights_only=True)["dialect"] == content["dialect"]
        again_layer: Any = load(tmp_path / "again.pt").message.layer[-1]
        assert again_layer.stretch_param.factor == factor


def test_a_dialect_joined_of_several_loads_again(tmp_path: Path) -> None:
    joined = "+".join(dialect_names()[1:3])
    save_checkpoint(CaffeNet(parse_message(RELU).message, dialect=joined), tmp_path / "net.pt")
    assert load(tmp_path / "net.pt").dialect == joined


def test_a_file_of_ones_own_is_not_joined_to_others(tmp_path: Path) -> None:
    (tmp_path / "own.proto").write_text(OWN_PROTO)
    net = CaffeNet(parse_message(RELU).message, dialect=f"{tmp_path / 'own.proto'}+{dialect_names()[1]}")
    with pytest.raises(DialectError, match=r"own\.proto.* cannot be kept: a \.proto file is kept alone"):
        save_checkpoint(net, tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["{}", "{}+weiliu89/caffe@ssd", "weiliu89/caffe@ssd+{}", "bvlc+{}", "{0}+{0}"])
@pytest.mark.parametrize("text", [None, 5])
def test_a_stored_dialect_opens_no_file(tmp_path: Path, text: object, name: str) -> None:
    (tmp_path / "own.proto").write_text("SECRET")
    net = CaffeNet(parse_message(RELU).message)
    save_checkpoint(net, tmp_path / "net.pt")
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    content |= {"dialect": name.format(tmp_path / "own.proto"), "dialect_text": text}
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(FileError, match="damaged") as raised:
        load(tmp_path / "net.pt")
    assert "SECRET" not in str(raised.value)
