"""What a ``parity.toml`` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_compat.errors import CaffeCompatError, UsageError
from caffe_compat.parity.tolerance import NET_TOLERANCE, Tolerance
from caffe_compat.testing.failure import reproduce
from caffe_compat.testing.suite import ParityTest, read_suite
from caffe_compat.testing.writing import write_suite

MODEL = '[[models]]\nprototxt = "net.prototxt"\nweights = "w/net.caffemodel"\nreference = "net.h5:a"\n'


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return tmp_path / "parity.toml"


def read(path: Path, text: str) -> tuple[ParityTest, ...]:
    path.write_text(text)
    return read_suite(path)


def test_every_combination_is_a_test(suite: Path) -> None:
    tests = read(
        suite,
        'devices = ["cpu", "cuda"]\ntolerance = 1e-3\n'
        + MODEL
        + 'formats = ["net", "onnx"]\n'
        + MODEL.replace("net.prototxt", "other.prototxt")
        + 'devices = ["cpu"]\noptimize = [false, true]\ntolerance = 1e-5\n',
    )
    assert [test.id for test in tests] == [
        "net[net-cpu-float32]",
        "net[net-cuda-float32]",
        "net[onnx-cpu-float32]",
        "net[onnx-cuda-float32]",
        "other[net-cpu-float32]",
        "other[net-cpu-float32-optimized]",
    ]
    assert [test.tolerance for test in tests[3:5]] == [Tolerance.of(1e-3), Tolerance.of(1e-5)]
    assert tests[0].model == str(suite.parent / "net.prototxt")
    assert tests[0].weights == str(suite.parent / "w/net.caffemodel")
    assert tests[0].reference == str(suite.parent / "net.h5:a")


def test_what_loading_is_told(suite: Path) -> None:
    (test,) = read(
        suite,
        MODEL
        + 'phase = "train"\nlevel = 2\nstages = ["deploy"]\ndialect = "BVLC/caffe"\nignore_fields = ["x"]\n'
        + 'fill_missing = true\nroot = "data"\ninput_shapes = { data = [1, 3, 4, 4] }\ninputs = { data = "x.npy" }\n',
    )
    assert test.options == {
        "phase": "train",
        "level": 2,
        "stages": ["deploy"],
        "dialect": "BVLC/caffe",
        "ignore_fields": ["x"],
        "fill_missing": True,
        "root": str(suite.parent / "data"),
        "input_shapes": {"data": (1, 3, 4, 4)},
    }
    assert test.inputs == {"data": str(suite.parent / "x.npy")}
    command = reproduce(test)
    for words in ("--phase train", "--level 2", "--stage deploy", "--ignore-field x", "--fill-missing", "--root"):
        assert words in command
    assert "--input-shape data=1,3,4,4" in command
    assert f"--input data={suite.parent}/x.npy" in command


def test_a_file_of_another_runtime(suite: Path) -> None:
    (test,) = read(suite, 'devices = ["cuda"]\n[[models]]\nmodel = "net.onnx"\nreference = "r.h5"\n')
    assert (test.form, test.device, test.is_file) == ("onnx", "cpu", True)
    assert test.tolerance == NET_TOLERANCE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "no TOML"),
        ("", "has no models"),
        ("models = 3", "has no models"),
        ('[[models]]\nname = "a"', "models[0] needs a prototxt"),
        ('[[models]]\nprototxt = "a"', "prototxt and weights go together"),
        ('[[models]]\nmodel = "a.pt"', "models[0] has no reference"),
        (MODEL + 'format = ["net"]', "models[0] has no key 'format'; did you mean 'formats'?"),
        (MODEL + "formats = []", "formats = []; a list of names"),
        (MODEL + 'formats = "net"', "a list of names was expected"),
        (MODEL + 'formats = ["net", "net"]', "has something twice"),
        (MODEL + "optimize = [1]", "a list of true and false"),
        (MODEL + 'precisions = ["float64"]', "no precision 'float64'; there are float32, float16, bfloat16"),
        (MODEL + 'precisions = ["float16"]', "float16 has no tolerance; for example"),
        (MODEL + 'precisions = ["float16"]\ntolerance = 0.1', "float16 has no tolerance"),
        (MODEL + "tolerance = -1", "tolerance -1; a number from 0"),
        (MODEL + "tolerance = true", "tolerance True"),
        (MODEL + "tolerance = { float = 1 }", "tolerance has no key 'float'; did you mean 'float32'?"),
        (MODEL + "level = true", "level = True; a whole number"),
        (MODEL + "phase = 3", "phase = 3; a text"),
        (MODEL + "input_shapes = { data = [0] }", "the shape [0] of 'data'"),
        (MODEL + "inputs = { data = 3 }", "a table of files"),
        (MODEL + MODEL, "two tests are called net[net-cpu-float32]"),
        ('[[models]]\nmodel = "a.onnx"\nreference = "r.h5"\noptimize = [true]', "exported already; optimize"),
    ],
)
def test_what_is_refused(suite: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(suite, text)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(suite))


def test_a_pyproject_without_the_table(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.other]\n")
    with pytest.raises(UsageError, match=r"has no table \[tool.caffe_compat.parity\]"):
        read_suite(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="no TOML"):
        read_suite(path)
    with pytest.raises(CaffeCompatError, match="No such file"):
        read_suite(tmp_path / "gone.toml")


def test_what_is_written_is_read(suite: Path) -> None:
    (test,) = read(
        suite,
        MODEL
        + 'name = "a \\"b\\" \\u0007"\nformats = ["pt"]\noptimize = [true]\ntolerance = { float32 = 1e-5 }\n'
        + 'stages = ["deploy"]\ninput_shapes = { data = [1, 3, 4, 4] }\ninputs = { data = "x.npy" }\nroot = "data"\n',
    )
    folder = suite.parent / "below"
    folder.mkdir()
    write_suite(folder / "parity.toml", test)
    (again,) = read_suite(folder / "parity.toml")
    assert Path(again.model).resolve() == Path(test.model)
    assert Path(again.inputs["data"]).resolve() == Path(test.inputs["data"])
    assert Path(again.options["root"]).resolve() == Path(test.options["root"])
    for attribute in ("id", "form", "optimized", "tolerance"):
        assert getattr(again, attribute) == getattr(test, attribute)
    assert again.options["stages"] == ["deploy"]
    with pytest.raises(UsageError, match="is there already"):
        write_suite(folder / "parity.toml", test)
