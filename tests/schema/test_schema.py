"""The schema: .proto reading, dialects laid over BVLC's, private pools."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_compat.errors import DialectError, FileError, PrototxtError
from caffe_compat.schema import (
    BVLC,
    dialect_names,
    dialects_mentioning,
    is_repeated,
    load_schema,
    merged_file,
    read_dialect,
    told_layer_types,
)
from caffe_compat.schema.protofile import DISPLACED, parse_proto
from caffe_compat.schema.prototxt import parse_message

PROTO = """
// a comment with { braces }
syntax = "proto2";
package caffe;
option dialect = "some/fork";
message LayerParameter {
  optional WarpParameter warp_param = 147;  /* block
  comment */
  repeated WarpParameter.Mode modes = 200 [packed = true];
}
message WarpParameter {
  enum Mode { NEAR = 0; FAR = 0x10; BACK = -1; }
  message Inner { required string name = 1 [default = "a\\tb" "c"]; }
  optional Mode mode = 1 [default = FAR, deprecated = true];
  optional caffe.WarpParameter.Inner inner = 2;
  extensions 100 to max;
  oneof choice { float x = 3; double y = 4; }
  optional FillerParameter filler = 5;
}
"""


def test_proto_text_becomes_fields_with_full_type_names() -> None:
    file = parse_proto(PROTO)
    warp = file.messages["WarpParameter"]
    assert [(f.name, f.number, f.type, f.label) for f in warp.values()] == [
        ("mode", 1, "WarpParameter.Mode", "optional"),
        ("inner", 2, "WarpParameter.Inner", "optional"),
        ("x", 3, "float", "optional"),
        ("y", 4, "double", "optional"),
        ("filler", 5, "FillerParameter", "optional"),
    ]
    assert warp["mode"].default == "FAR"
    assert file.messages["WarpParameter.Inner"]["name"].default == "a\tbc"
    assert file.messages["LayerParameter"]["modes"].packed
    assert file.enums["WarpParameter.Mode"].values == {"NEAR": 0, "FAR": 16, "BACK": -1}
    assert file.options["dialect"] == "some/fork"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("message A {\n  optional int32 a = b;\n}", 2, 22),
        ("message A {", 1, 12),
        ("message A {\n  optional int32 a 1; }", 2, 20),
        ("thing A { }", 1, 1),
        ("message A { optional int32 a = 1 ? ; }", 1, 34),
    ],
)
def test_errors_in_proto_text_have_their_place(text: str, line: int, column: int) -> None:
    with pytest.raises(PrototxtError) as caught:
        parse_proto(text, "fork.proto")
    assert (caught.value.line, caught.value.column, caught.value.path) == (line, column, "fork.proto")


def test_a_fork_laid_over_bvlc_wins_but_loses_no_name_of_bvlc() -> None:
    merged = load_schema().file.merged_with(parse_proto(PROTO))
    layer = merged.messages["LayerParameter"]
    assert layer["warp_param"].number == 147
    assert layer["swish_param"].number >= DISPLACED
    assert layer["clip_param"].number == 148
    assert len({f.number for f in layer.values()}) == len(layer)


def test_two_dialects_over_each_other_keep_every_number_unique() -> None:
    file, types = merged_file("NVIDIA/caffe", "weiliu89/caffe@ssd", "chanyn/3Dpose_ssl")
    for name, fields in file.messages.items():
        assert len({f.number for f in fields.values()}) == len(fields), name
    assert {"mpjpe_param", "prior_box_param", "detectnet_augmentation_param"} <= file.messages["LayerParameter"].keys()
    assert {"Mask", "PriorBox", "DetectNetTransformation", "Convolution"} <= types.keys()


def test_a_field_repeated_in_bvlc_stays_repeated_where_an_old_fork_had_one() -> None:
    fork = parse_proto("message ConvolutionParameter { optional uint32 pad = 3 [default = 0]; }")
    pad = load_schema().file.merged_with(fork).messages["ConvolutionParameter"]["pad"]
    assert (pad.label, pad.default) == ("repeated", None)


def test_the_old_name_of_v1_layers_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "old.proto"
    path.write_text(
        "package caffe; message NetParameter { repeated LayerParameter layers = 2; }"
        "message LayerParameter { enum LayerType { WARP = 77; } optional LayerType type = 5; optional float w = 90; }"
    )
    net = parse_message("layers { type: WARP w: 0.5 }", dialect=str(path)).message
    assert (net.layers[0].type, net.layers[0].w) == (77, 0.5)
    assert net.DESCRIPTOR.fields_by_name["layers"].message_type.name == "V1LayerParameter"


def test_a_users_own_caffe_proto_is_a_dialect(tmp_path: Path) -> None:
    path = tmp_path / "caffe.proto"
    path.write_text(PROTO)
    schema = load_schema(str(path))
    layer = schema.message("LayerParameter")(name="a")
    assert layer.warp_param.mode == 16
    assert layer.warp_param.filler.type == "constant"


def test_every_dialect_makes_classes() -> None:
    for name in dialect_names():
        schema = load_schema(name)
        assert schema.name == name
        # What the code asks of any dialect.
        net = schema.message("NetParameter")()
        net.layer.add(name="a", type="B", bottom=["c"], top=["d"])
        net.layers.add(name="a")
        assert not schema.message("SolverParameter")().weights
        assert schema.layer_types.keys() >= load_schema().layer_types.keys()


def test_bvlc_leads_and_known_dialects_are_found_by_their_words() -> None:
    assert dialect_names()[0] == BVLC
    assert len(set(dialect_names())) == len(dialect_names()) > 100
    assert dialects_mentioning(["MPJPEEvaluation"]) == ["chanyn/3Dpose_ssl"]
    assert dialects_mentioning(["MPJPEEvaluatio"]) == []
    assert dialects_mentioning([]) == []
    # Very many words, or very long ones, are looked for in another way.
    others = [f"Nobody{k}" for k in range(200)]
    assert dialects_mentioning(["MPJPEEvaluation", *others]) == ["chanyn/3Dpose_ssl"]
    assert dialects_mentioning(["MPJPEEvaluatio", "M" * 1_000_000, *others]) == []
    assert dialects_mentioning(["M" * 1_000_000]) == []


def test_unknown_dialects_and_unreadable_files_say_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(DialectError, match=r"no dialect 'segnet'\. Did you mean .*alexgkendall/caffe-segnet"):
        load_schema("segnet")
    with pytest.raises(FileError, match="No such file"):
        load_schema(str(tmp_path / "none.proto"))
    bad = tmp_path / "bad.proto"
    bad.write_text("message A { optional Missing m = 1; }")
    with pytest.raises(DialectError, match="message A, field m: type Missing is not defined"):
        load_schema(str(bad))


def test_repeated_fields_are_told_from_single_ones() -> None:
    fields = load_schema().message("LayerParameter").DESCRIPTOR.fields_by_name
    assert is_repeated(fields["bottom"])
    assert is_repeated(fields["include"])
    assert not is_repeated(fields["name"])


FOREIGN = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
def foreign():
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    message = file.message_type.add(name="NetParameter")
    message.field.add(name="other", number=1, type=5, label=1)
    descriptor_pool.Default().Add(file) if hasattr(descriptor_pool.Default(), "Add") else (
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString()))
    found = descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")
    return message_factory.GetMessageClass(found)
def ours():
    from caffe_compat.schema.prototxt import parse_message
    return parse_message('name: "x" layer { name: "a" type: "ReLU" }').message
"""


def test_a_foreign_caffe_pb2_lives_in_the_same_process() -> None:
    check = "f = foreign(); o = ours(); assert f(other=3).other == 3 and o.layer[0].type == 'ReLU'"
    check += "; assert not hasattr(o, 'other') and not hasattr(f(), 'layer')"
    subprocess.run([sys.executable, "-c", FOREIGN + check], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    "text",
    [
        "message LayerParameter { optional float a = 800; optional float b = 800; }",
        "message LayerParameter { optional int32 a = 800 [default = some]; }",
        "message LayerParameter { optional float a = 99999999999999; }",
        'message LayerParameter { optional string a = 800 [default = "\\x"]; }',
        "message LayerParameter { optional Nowhere a = 800; }",
        "enum Empty { } message LayerParameter { optional Empty a = 800; }",
        "message NetParameter { optional float layer = 100; } enum E { A = 99999999999; }",
    ],
)
def test_an_own_proto_that_is_no_schema_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.proto"
    path.write_text(text)
    with pytest.raises((DialectError, PrototxtError), match=re.escape(str(path))):
        load_schema(str(path))


def test_an_own_proto_must_be_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.proto")
    (tmp_path / "folder.proto").mkdir()
    for name in ("pipe.proto", "folder.proto", "none.proto"):
        with pytest.raises(FileError, match=name):
            load_schema(str(tmp_path / name))


@pytest.mark.parametrize("name", dialect_names())
def test_layer_types_are_told_without_reading_the_messages(name: str) -> None:
    assert told_layer_types(name) == (load_schema().layer_types if name == BVLC else read_dialect(name)[1])


def test_layer_types_of_an_own_proto(tmp_path: Path) -> None:
    path = tmp_path / "own.proto"
    path.write_text("message LayerParameter { optional int32 mine = 800; }")
    assert told_layer_types(str(path)) == {}
    with pytest.raises(DialectError, match="no dialect 'nobody/caffe'"):
        told_layer_types("nobody/caffe")


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        ("ConvolutionParameter.CuDNNConvolutionAlgorithmSeeker", "GET FINDEX"),
        ("DataParameter.RANDPERMORDER", "FIRST_PERMUTE_THEN_RANGE FIRST_RANGE_THEN_PERMUTE"),
        ("ImageDataParameter.LabelType", "NONE IMAGE PIXEL"),
        ("LayerParameter.ConnectivityMode", "CONNECTED DISCONNECTED_ELTWISE DISCONNECTED_GRPWISE"),
        ("TransformationParameter.InterpolationAlgo", "INTER_NEAREST INTER_LINEAR INTER_CUBIC INTER_AREA"),
        ("TransformationParameter.InvalidDetectionMode", "REMOVE ZERO_OUT"),
    ],
)
def test_enums_inside_bvlcs_messages_have_all_their_values(enum: str, values: str) -> None:
    """In binary files there are only numbers: a default that is not the first value has to have its own."""
    found = [file.enums[enum].values for name in dialect_names()[1:] if enum in (file := read_dialect(name)[0]).enums]
    assert found
    for numbers in found:
        assert list(numbers)[: len(values.split())] == values.split()
        assert list(numbers.values()) == list(range(len(numbers)))
