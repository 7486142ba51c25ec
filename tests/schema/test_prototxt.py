"""Text to messages and back: everything that real prototxt files hold, and text that means harm."""

from __future__ import annotations

import math
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from caffe_compat.errors import FileError, PrototxtError
from caffe_compat.formats.textformat import MAX_DEPTH, parse_text
from caffe_compat.schema import is_repeated, load_schema
from caffe_compat.schema.infer_text import fewest_misfits
from caffe_compat.schema.printing import format_message, format_value, quoted
from caffe_compat.schema.prototxt import parse_message, read_message
from caffe_compat.schema.unknown import TEXT_FIELD, Kind, Unknown, keep_unknown_text, unknown_fields_of

FOLDER = Path(__file__).parents[2] / "reference_outputs"


def net(text: str) -> Any:
    return parse_message(text).message


def parse(name: str, text: str) -> Any:
    return parse_message(text, name).message


# The text format


@pytest.mark.parametrize(
    "text",
    [
        'name: "a" input: "x" input: "y"',
        "name: 'a' input: 'x' input: 'y'",
        'name:"a"input:"x"input:"y"',
        '# first\nname: "a" # name\n#\ninput: "x"\n\n# between\ninput: "y" # no line end',
        'name: "a", input: "x"; input: "y",',
        'name: "a" input: ["x", "y"]',
        "name: 'a' input: ['x'] input: [] input: ['y'];",
        '\ufeffname: "a" input: "x" input: "y"',
        'name : "a"\r\ninput\t:\t"x"\r\ninput\n:\n"y"\r\n',
        "name: 'a' input: \"x\"\u00a0input: 'y'",
    ],
)
def test_spellings_of_the_same_fields(text: str) -> None:
    message = net(text)
    assert (message.name, list(message.input)) == ("a", ["x", "y"])


@pytest.mark.parametrize(
    "text",
    [
        "layer { pooling_param { stride: 2 } } layer { }",
        "layer: { pooling_param: { stride: 2 } } layer: {}",
        "layer < pooling_param < stride: 2 > > layer <>",
        "layer: < pooling_param { stride: 2 } >; layer {},",
        "layer: [{ pooling_param { stride: 2 } }, { }]",
        "layer [< pooling_param { stride: 2; } >, <>]",
        "layer{pooling_param{stride:2}}layer{}",
    ],
)
def test_spellings_of_the_same_messages(text: str) -> None:
    message = net(text)
    assert [layer.pooling_param.stride for layer in message.layer] == [2, 1]
    assert [layer.HasField("pooling_param") for layer in message.layer] == [True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"a\"b"', 'a"b'),
        (r"'a\'b\"c'", "a'b\"c"),
        ('"a" \'b\'\n  "c"', "abc"),
        (r'"\n\t\r\\\x41\101\?"', "\n\t\r\\AA?"),
        (r'"\303\251"', "é"),
        (r'"\u00e9\U0001F600"', "é😀"),
        ('"schön # no comment"', "schön # no comment"),
        ('""', ""),
        (r'"\xc4\xe3"', "Äã"),
    ],
)
def test_strings(text: str, expected: str) -> None:
    assert net(f"name: {text}").name == expected


def test_an_escape_that_caffe_refuses_is_kept_and_reported() -> None:
    parsed = parse_message('force_backward: true\nname: "C:\\data\\q"')
    assert parsed.message.name == "C:\\data\\q"
    assert parsed.warnings[0].startswith("line 2: Caffe refuses \\d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7), ("-7", -7), ("0x1F", 31), ("-0x1f", -31), ("017", 15), ("-017", -15), ("0", 0), ("- 3", -3)],
)
def test_whole_numbers(text: str, expected: int) -> None:
    assert parse("AccuracyParameter", f"axis: {text}").axis == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1e-3f", 1e-3),
        ("1.5F", 1.5),
        (".5", 0.5),
        ("-.5e+2", -50.0),
        ("5.", 5.0),
        ("3", 3.0),
        ("0x10", 16.0),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
    ],
)
def test_real_numbers(text: str, expected: float) -> None:
    assert parse("PowerParameter", f"scale: {text}").scale == np.float32(expected)


@pytest.mark.parametrize("text", ["010", "-007.5", "00.5", "08"])
def test_real_numbers_that_caffe_refuses_or_reads_as_octal(text: str) -> None:
    with pytest.raises(PrototxtError, match=r"column 8: scale takes a number, found .* leave out the 0"):
        parse("PowerParameter", f"scale: {text}")


@pytest.mark.parametrize("text", ["1e39", "-3.5e38", "1e400", "0x" + "f" * 40])
def test_numbers_beyond_float32(text: str) -> None:
    with pytest.raises(PrototxtError, match=r"line 1, column \d+: scale is too small a field for"):
        parse_message(f'layer {{ name: "p" type: "Power" power_param {{ scale: {text} }} }}')
    parsed = parse_message('layer { name: "p" type: "Power" power_param { scale: 3.4028235e38 shift: -inf } }')
    assert parsed.message.layer[0].power_param.shift == -math.inf


def test_nan_is_a_number() -> None:
    assert math.isnan(parse("PowerParameter", "scale: nan").scale)


def test_a_negative_zero_keeps_its_sign() -> None:
    scale = parse("PowerParameter", "scale: -0").scale
    assert math.copysign(1, scale) == -1
    assert format_message(parse("PowerParameter", "scale: -0.0")) == "scale: -0\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("t", True), ("1", True), ("False", False), ("0", False)]
)
def test_truth_values(text: str, expected: bool) -> None:
    assert net(f"force_backward: {text}").force_backward is expected


def test_enum_values_by_name_and_number() -> None:
    assert parse("PoolingParameter", "pool: AVE").pool == 1
    assert parse("PoolingParameter", "pool: 2").pool == 2


def test_bytes_fields_take_every_byte() -> None:
    datum = parse("Datum", r'data: "\000\377a" label: 3')
    assert datum.data == b"\x00\xffa"
    assert parse("Datum", format_message(datum)) == datum


# Errors


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('name "a"', 1, 6, "expected ':' or '{' after 'name', found '\"a\"'"),
        ('name: "a"\n  layer { name: "b" ', 2, 21, "expected '}' that closes 'layer' opened at line 2, column 3"),
        ("layer { ]", 1, 9, "expected a field name, found ']'"),
        ("layer { > }", 1, 9, "expected a field name, found '>'"),
        ('name: "a', 1, 7, "a string that does not end on its line"),
        ('name: "a\nb"', 1, 7, "a string that does not end on its line"),
        ("name: }", 1, 7, "expected a value, found '}'"),
        ('input: ["a" "b", ]', 1, 18, "expected a value, found ']'"),
        ('input: ["a"; "b"]', 1, 12, "expected ',' or ']' in a list, found ';'"),
        ("layer: [{ }, 3]", 1, 14, "expected '{' for the next message of the list, found '3'"),
        ("layer { }\n\n  @", 3, 3, "unexpected character '@'"),
        ('name: "a" }', 1, 11, "expected a field name, found '}'"),
        ("input_dim: 3000000000", 1, 12, "input_dim takes a number from -2147483648 to 2147483647, found 3000000000"),
        ("input_dim: 2.5", 1, 12, "input_dim takes a whole number, found '2.5'"),
        ("input_dim: 089", 1, 12, "input_dim takes a whole number, found '089'"),
        ("input_dim: 1_0", 1, 12, "input_dim takes a whole number, found '1_0'"),
        ("layer: 3", 1, 8, "layer takes a message in braces, found '3'"),
        ("name { }", 1, 6, "name takes one value, found a message"),
        ("layer { loss_weight: 1.2.3 }", 1, 22, "loss_weight takes a number, found '1.2.3'"),
        (r'name: "\ud800"', 1, 7, r"\ud800 is no character"),
    ],
)
def test_errors_tell_line_column_and_what_was_expected(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        parse_message(text, path="net.prototxt")
    error = caught.value
    assert str(error).startswith(f"net.prototxt: line {line}, column {column}: {message}")
    assert (error.line, error.column) == (line, column)


@pytest.mark.parametrize("text", ["", "  \n# only a comment\n"])
def test_no_fields_is_an_error(text: str) -> None:
    with pytest.raises(PrototxtError, match="holds no fields"):
        parse_message(text)


@pytest.mark.parametrize("opener", ["layer {", "layer: <", "layer [{", "unknown {"])
def test_text_nested_deeply_is_refused(opener: str) -> None:
    with pytest.raises(PrototxtError, match=f"nested deeper than {MAX_DEPTH}"):
        parse_message(opener * 10_000)
    with pytest.raises(PrototxtError):
        parse_message("layer [" * 10_000)


def test_messages_as_deep_as_allowed_survive_copying_and_printing() -> None:
    text = "unknown {" * MAX_DEPTH + "}" * MAX_DEPTH
    message = net(text)
    assert net(format_message(message)) == message


@pytest.mark.slow
def test_a_long_text_is_read_whole() -> None:
    layer = (
        'layer { name: "conv" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 3 } } # note\n'
    )
    text = layer * 20_000 + "# " + "x" * 3_000_000 + "\n" + 'name: "' + "y" * 100_000 + '"'
    assert len(text) > 5_000_000
    tree = parse_text(text)
    assert len(tree.fields) == 20_001
    assert tree.place(tree.fields[-1].at) == (20_002, 1)
    assert len(net(layer * 2000).layer) == 2000


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a binary file, not a prototxt"):
        read_message(FOLDER / "tiny_mask3d" / "tiny_mask3d.caffemodel")
    with pytest.raises(FileError, match="No such file"):
        read_message(tmp_path / "none.prototxt")
    with pytest.raises(FileError):
        read_message(tmp_path)


def test_a_latin1_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    path.write_bytes(b'# caf\xe9\nname: "caf\xe9"')
    assert read_message(path).message.name == "café"


# Given twice, unknown, misfitting


# By what Caffe's parser does: TextFormat::Parse refuses both, Merge, which Caffe does not call, would not.
@pytest.mark.parametrize(
    ("text", "line", "column", "detail"),
    [
        (
            'name: "a"\nlayer {\n  name: "b"\n}\n\n name: "c"',
            *(6, 2),
            "name is given again, after line 1, column 1, and Caffe refuses a file with both; keep one of them",
        ),
        (
            "layer { pooling_param { stride: 2 }\npooling_param { pad: 1 } }",
            *(2, 1),
            "pooling_param is given again, after line 1, column 9, and Caffe refuses a file with both; "
            "put what is in them into one",
        ),
        (
            "layer { convolution_param { bias_term: false bias_term: false } }",
            *(1, 46),
            "bias_term is given again, after line 1, column 29, and Caffe refuses a file with both; keep one of them",
        ),
        (
            'layer { type: "ReLU" }\nlayer { type: "Clip" clip_param { min: 0 } }',
            *(2, 22),
            "clip_param leaves out max, and Caffe refuses a file without it; give max a value",
        ),
    ],
)
def test_a_field_that_is_given_again_or_left_out_is_refused(text: str, line: int, column: int, detail: str) -> None:
    with pytest.raises(PrototxtError) as found:
        parse_message(text, path="n.prototxt")
    error = found.value
    assert (error.path, error.line, error.column, error.detail) == ("n.prototxt", line, column, detail)
    message = load_schema().message("NetParameter")()
    with suppress(text_format.ParseError):
        text_format.Parse(text, message)
        assert not message.IsInitialized(), "what protobuf for C++ looks at here, and for Python does not"


def test_the_first_place_of_several_is_named() -> None:
    with pytest.raises(PrototxtError, match="line 2, column 1: name"):
        parse_message('name: "a"\nname: "b"\nname: "c"\nlayer { clip_param { } }')


@pytest.mark.parametrize(
    "text",
    [
        "layer { convolution_param { kernel_size: 3 kernel_size: 5 } }",
        'input: "a" input: "a" layer { name: "b" } layer { name: "b" }',
        "layer { clip_param { min: 0 max: 1 } }",
        "layer { param { lr_mult: 1 } param { lr_mult: 1 } }",
    ],
)
def test_what_caffe_takes_several_times_is_taken(text: str) -> None:
    assert net(text) == text_format.Parse(text, load_schema().message("NetParameter")())


def test_a_required_field_with_a_placeholder_for_a_value_is_given() -> None:
    assert [u.name for u in parse_message("layer { clip_param { min: $MIN max: 1 } }").unknown] == ["min"]


def test_a_fork_that_takes_several_values_is_named_and_taken_where_more_speaks_for_it() -> None:
    text = "layer { accuracy_param { ignore_label: 0 ignore_label: 255 } }"
    with pytest.raises(PrototxtError, match="keep one of them, or pass --dialect tianzhi0549/CTPN, which takes sev"):
        parse_message(text)
    for found in (
        parse_message(text, dialect="tianzhi0549/CTPN"),
        parse_message(f"{text} layer {{ type: 'Reverse' }}"),
    ):
        assert found.schema.name == "tianzhi0549/CTPN"
        assert list(found.message.layer[0].accuracy_param.ignore_label) == [0, 255]


def test_a_field_that_a_fork_must_have_counts_against_it() -> None:
    forks, text = ["weiliu89/caffe@ssd", "CMU-Perceptual-Computing-Lab/caffe"], "layer { clip_param { min: 0 } }"
    assert fewest_misfits(forks, "NetParameter", parse_text(text).fields) == forks[1:]
    assert not parse_message(text, dialect=forks[1]).message.layer[0].clip_param.HasField("max")
    with pytest.raises(PrototxtError, match="clip_param leaves out max"):
        parse_message(text, dialect=forks[0])


UNKNOWN = """layer {
  name: "a"
  warp_factor: 3
  warp_param { mode: FAST note: 'x"y' inner < k: [1, -2] > }
  pooling_param { pool: NOTHING ceil_of: "\\001" }
}
"""


def test_unknown_fields_are_kept_reported_and_printed() -> None:
    parsed = parse_message(UNKNOWN)
    assert [(u.name, u.text, u.line, u.column) for u in parsed.unknown] == [
        ("warp_factor", "3", 3, 3),
        ("warp_param", '{ mode: FAST note: "x\\"y" inner { k: 1 k: -2 } }', 4, 3),
        ("pool", "NOTHING", 5, 19),
        ("ceil_of", '"\\001"', 5, 33),
    ]
    assert str(parsed.unknown[0]) == "line 3, column 3: warp_factor (no such field in LayerParameter)"
    assert parsed.unknown[2].reason == "value 'NOTHING' is none of PoolingParameter.PoolMethod: MAX, AVE, STOCHASTIC"
    again = parse_message(format_message(parsed.message))
    kept = [(u.name, u.text, u.reason) for u in parsed.unknown]
    assert sorted((u.name, u.text, u.reason) for u in again.unknown) == sorted(kept)
    layer = again.message.layer[0]
    assert [u.name for u in unknown_fields_of(layer)] == ["warp_factor", "warp_param"]
    assert not layer.pooling_param.HasField("pool")


def test_unknown_fields_travel_with_copies_and_bytes() -> None:
    message = net(UNKNOWN)
    copy = type(message)()
    copy.CopyFrom(message)
    assert format_message(copy) == format_message(message)
    assert format_message(type(message).FromString(message.SerializeToString())) == format_message(message)


def test_unknown_numbers_of_a_binary_message_are_told_from_text() -> None:
    layer = load_schema().message("LayerParameter").FromString(b"\xf2\xff\x01\x03abc\xf0\xff\x01\x05")
    keep_unknown_text(layer, Unknown(Kind.VALUE, "M", "a", "1", "a word", 2, 3))
    found = unknown_fields_of(layer)
    assert [(u.number, u.name) for u in found] == [(4094, ""), (4094, ""), (0, "a")]
    assert str(found[0]) == "field number 4094"
    assert found[2] == Unknown(Kind.VALUE, "M", "a", "1", "a word", 2, 3)
    assert TEXT_FIELD == 2**29 - 1
    assert format_message(layer) == "a: 1\n"


@pytest.mark.parametrize(
    "number", ["0x" + 400 * "f", "1" + 5000 * "0", "-0x" + 400 * "f", "1e" + 400 * "9", "0" + 400 * "7"]
)
@pytest.mark.parametrize(("name", "field"), [("PoolingParameter", "stride"), ("SolverParameter", "base_lr")])
def test_numbers_of_any_length(number: str, name: str, field: str) -> None:
    """No field holds them, and the line that says so is short."""
    with pytest.raises(PrototxtError, match=r"takes a|too small a field") as raised:
        parse(name, f"{field}: {number}")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("text", "kind", "where", "reason"),
    [
        ("strange: 3", Kind.FIELD, "PoolingParameter", "no such field in PoolingParameter"),
        ("pool: BEST", Kind.ENUM_VALUE, "PoolingParameter.PoolMethod", "value 'BEST' is none of Pool.*Method"),
        (
            "pool: -9223372036854775808",
            Kind.ENUM_VALUE,
            "PoolingParameter.PoolMethod",
            "value '-9223372036854775808' is",
        ),
        ("pool: 1" + 5000 * "0", Kind.ENUM_VALUE, "PoolingParameter.PoolMethod", "value '10"),
        ("stride: $S", Kind.VALUE, "PoolingParameter", "value '.S' is not a whole number in PoolingParameter"),
        ('stride: "2"', Kind.VALUE, "PoolingParameter", 'value "2" is not a number in PoolingParameter'),
        (
            'pool: "none of x no such field in Y"',
            Kind.ENUM_VALUE,
            "PoolingParameter.PoolMethod",
            "value .* is none of P",
        ),
    ],
)
def test_what_is_unknown_is_data(text: str, kind: Kind, where: str, reason: str) -> None:
    parsed = parse_message(text, "PoolingParameter")
    (unknown,) = parsed.unknown
    assert (unknown.kind, unknown.where, unknown.line, unknown.column) == (kind, where, 1, 1)
    assert re.match(reason, unknown.reason)
    assert unknown.is_wrong_value == (kind is not Kind.FIELD)
    assert unknown_fields_of(parsed.message) == [unknown]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"a\0b",
        b"field\0M\0a\x1b[2J\x001\0\x001\x001",
        b"field\0M\0a\0a\nb: 1\0\x001\x001",
        b"field\0M\0a\x001\0\x00-1\x001",
        b"nothing\0M\0a\x001\0\x001\x001",
    ],
)
def test_a_binary_file_cannot_forge_a_field_of_a_text(payload: bytes) -> None:
    mark = b"\xfa\xff\xff\xff\x0f"
    layer = load_schema().message("LayerParameter").FromString(mark + bytes([len(payload)]) + payload)
    layer.MergeFromString(b"\xf8\xff\xff\xff\x0f\x05")  # the same number, an integer
    assert [(u.kind, u.number) for u in unknown_fields_of(layer)] == [(Kind.NUMBER, TEXT_FIELD)] * 2
    assert format_message(layer) == "\n"


def test_quoted_text_is_one_line_that_does_nothing() -> None:
    text = 'a\x1b[2J\n\x9b\u202e"\\ é図'
    line = quoted(text)
    assert line.isprintable()
    assert parse_message(f"name: {line}").message.name == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("num_output: $COUNT", "num_output"),
        ("weight_filler { type: $KIND }", "type"),
        ("bias_term: maybe", "bias_term"),
        ('group: "2"', "group"),
        ("weight_filler { std: $STD }", "std"),
    ],
)
def test_a_placeholder_or_misfit_is_kept_and_reported(text: str, name: str) -> None:
    parsed = parse_message(text, "ConvolutionParameter")
    assert [u.name for u in parsed.unknown] == [name]
    assert parsed.schema.name == "bvlc"
    assert not parsed.message.ListFields() or not parsed.message.weight_filler.ListFields()
    assert [u.name for u in parse_message(format_message(parsed.message), "ConvolutionParameter").unknown] == [name]


def test_an_extension_name_is_an_unknown_field() -> None:
    assert [u.name for u in parse_message("[some.package.field]: 3").unknown] == ["[some.package.field]"]


# Dialects


def test_a_text_of_bvlc_stays_with_bvlc() -> None:
    parsed = parse_message('layer { name: "a" type: "Swish" swish_param { beta: 2 } }')
    assert (parsed.schema.name, parsed.dialect_reason) == ("bvlc", "every field and layer type is BVLC's")


def test_field_names_and_types_choose_a_dialect() -> None:
    parsed = read_message(FOLDER / "tiny_mask3d" / "train.prototxt")
    assert parsed.schema.name == "chanyn/3Dpose_ssl"
    assert "MPJPEEvaluation" in parsed.dialect_reason
    assert not parsed.unknown
    assert any(layer.HasField("mask_param") for layer in parsed.message.layer)


def test_two_forks_in_one_text_are_laid_over_each_other() -> None:
    text = 'layer { type: "PriorBox" prior_box_param { min_size: 30 } } layer { type: "Mask" mask_param { prob: 0.5 } }'
    parsed = parse_message(text)
    assert set(parsed.schema.name.split("+")) == {"weiliu89/caffe@ssd", "chanyn/3Dpose_ssl"}
    assert not parsed.unknown
    assert list(parsed.message.layer[0].prior_box_param.min_size) == [30]
    assert parsed.message.layer[1].mask_param.prob == 0.5


def test_what_no_dialect_knows_is_said() -> None:
    parsed = parse_message('layer { type: "NobodysLayer" nobodys_param { x: 1 } }')
    assert parsed.schema.name == "bvlc"
    assert parsed.dialect_reason == "no dialect knows NobodysLayer, nobodys_param"


def test_a_dialect_asked_for_is_used() -> None:
    parsed = parse_message("layer { roi_pooling_param { pooled_h: 7 } }", dialect="daijifeng001/caffe-rfcn")
    assert (parsed.schema.name, parsed.dialect_reason) == ("daijifeng001/caffe-rfcn", "asked for")
    assert parsed.message.layer[0].roi_pooling_param.pooled_h == 7


# Message -> text


def test_format_is_readable_text_in_field_order() -> None:
    message = net('layer { top: "b" type: "Pooling" pooling_param { pool: AVE stride: 2 } loss_weight: 0.1 } name: "n"')
    assert format_message(message) == (
        'name: "n"\nlayer {\n  type: "Pooling"\n  top: "b"\n  loss_weight: 0.1\n'
        "  pooling_param {\n    pool: AVE\n    stride: 2\n  }\n}\n"
    )


def test_one_value_is_one_line() -> None:
    message = net('layer { name: "two  spaces" pooling_param { pool: AVE } }')
    (descriptor, layers) = message.ListFields()[0]
    assert format_value(descriptor, layers[0]) == '{ name: "two  spaces" pooling_param { pool: AVE } }'


def test_floats_are_written_as_the_shortest_text_that_reads_back() -> None:
    rs = np.random.RandomState(5)
    values = [0.1, 1e-5, 0.999, 1e10, 16777217.0, 3.4028235e38, 1e-45, *rs.standard_normal(300).tolist()]
    values += [float(v) for v in rs.randint(0, 2**31, 300).astype(np.uint32).view(np.float32) if np.isfinite(v)]
    for value in values:
        single = struct.unpack("<f", struct.pack("<f", value))[0]
        message = load_schema().message("PowerParameter")(scale=single)
        text = format_message(message)
        assert parse("PowerParameter", text).scale == single, text
        digits = text.split()[1].partition("e")[0].strip("-0").replace(".", "").strip("0")
        shortest = np.format_float_scientific(np.float32(single)).partition("e")[0].replace(".", "").strip("-0")
        assert len(digits) <= max(6, len(shortest)), (text, shortest)
    assert format_message(load_schema().message("PowerParameter")(scale=0.1)) == "scale: 0.1\n"


def random_value(f: Any, rs: np.random.RandomState) -> Any:
    if f.enum_type is not None:
        return f.enum_type.values[rs.randint(len(f.enum_type.values))].number
    if f.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if f.type == FieldDescriptor.TYPE_BYTES:
            return rs.bytes(rs.randint(6))
        return "".join(rs.choice(list("ab\"'\\\n\t\r\x01\x7f é{}:#$😀"), rs.randint(8)))
    if f.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return bool(rs.randint(2))
    if f.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return float(rs.choice([0.0, -0.0, np.inf, -np.inf, *rs.standard_normal(4).astype(np.float32)]))
    if f.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return float(rs.standard_normal() * 10.0 ** rs.randint(-300, 300))
    low, high = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    }[f.cpp_type]
    return [low, high, 0, 1, int(rs.randint(1000))][rs.randint(5)]


def fill(message: Any, rs: np.random.RandomState, required: set[str], depth: int = 0) -> None:
    """Set those that must be and about half of the other fields to random values, messages down to three levels."""
    for f in message.DESCRIPTOR.fields:
        if f.full_name not in required and (rs.rand() < 0.5 or depth > 3):
            continue
        count = rs.randint(1, 4) if is_repeated(f) else 1
        for _ in range(count):
            if f.message_type is not None:
                inner = getattr(message, f.name).add() if is_repeated(f) else getattr(message, f.name)
                if not is_repeated(f):
                    inner.SetInParent()
                if f.message_type.name not in ("BlobProto", "NetParameter"):
                    fill(inner, rs, required, depth + 1)
            elif is_repeated(f):
                getattr(message, f.name).append(random_value(f, rs))
            else:
                setattr(message, f.name, random_value(f, rs))
    if rs.rand() < 0.2:
        keep_unknown_text(message, Unknown(Kind.FIELD, "M", "strange_field", '{ a: "\\"" b: 1 }'))


@pytest.mark.parametrize("dialect", ["bvlc", "weiliu89/caffe@ssd", "NVIDIA/caffe", "chanyn/3Dpose_ssl", "intel/caffe"])
def test_random_messages_survive_text(dialect: str) -> None:
    schema = load_schema(dialect)
    rs = np.random.RandomState(11)
    messages = schema.file.messages.items()
    required = {f"caffe.{name}.{f.name}" for name, fields in messages for f in fields.values() if f.label == "required"}
    for name in schema.file.messages:
        if "." in name or not schema.file.messages[name]:
            continue
        message = schema.message(name)()
        fill(message, rs, required, depth=2 if name in ("NetParameter", "SolverParameter", "LayerParameter") else 0)
        text = format_message(message)
        if text == "\n":
            continue
        again = parse_message(text, name, dialect)
        assert again.message.SerializePartialToString() == message.SerializePartialToString() or any(
            u.kind is Kind.FIELD for u in again.unknown
        ), name
        assert format_message(again.message) == text, name


def test_the_reference_networks_survive_text() -> None:
    for path in sorted(FOLDER.glob("*/*.prototxt")):
        kind = "SolverParameter" if "solver" in path.name else "NetParameter"
        parsed = read_message(path, kind)
        again = parse_message(format_message(parsed.message), kind)
        assert again.message == parsed.message, path
        assert not parsed.unknown, path
