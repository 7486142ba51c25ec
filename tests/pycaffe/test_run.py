"""``python -m caffe_compat.pycaffe script.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from caffe_compat.pycaffe import install
from caffe_compat.pycaffe.__main__ import main
from tests.pycaffe.pycaffe_models import DEPLOY

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Runner:
    """Runs scripts in this process, for a new one takes seconds to import torch."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, script: str, *arguments: str, flags: tuple[str, ...] = ()) -> Done:
        Path("scripts").mkdir(exist_ok=True)
        Path("scripts/script.py").write_text(script)
        modules, path, argv = dict(sys.modules), list(sys.path), list(sys.argv)
        try:
            code: Any = main([*flags, "scripts/script.py", *arguments])
        except SystemExit as leaving:
            code = leaving.code
        finally:
            install()  # with the settings of the start
            for name in set(sys.modules) - set(modules):
                # Only what the script brought: a module of ours that is imported twice registers its layers twice.
                file = getattr(sys.modules[name], "__file__", None)
                if name.partition(".")[0] == "caffe" or file is None or Path(file).is_relative_to(Path.cwd()):
                    del sys.modules[name]
            sys.path[:], sys.argv[:] = path, argv
        out, err = self._capsys.readouterr()
        return Done(code, out, err)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.chdir(tmp_path)
    return Runner(capsys)


SCRIPT = """
import sys
sys.path.insert(0, "../python")
import helper
import caffe
from caffe.proto import caffe_pb2
if __name__ == "__main__":
    caffe.set_mode_cpu()
    net = caffe.Net(sys.argv[1], caffe.TEST)
    print(sys.argv[1:], helper.NAME, net.forward()["prob"].shape, caffe_pb2.TEST, caffe.__version__)
    sys.exit(3)
"""


def test_a_script_runs_with_its_arguments(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(DEPLOY)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/helper.py").write_text("NAME = 'beside the script'\n")
    done = run(SCRIPT, "net.prototxt", "--flag", "x")
    assert done.stdout == "['net.prototxt', '--flag', 'x'] beside the script (2, 5) 1 1.0.0\n"
    assert done.returncode == 3
    assert not done.stderr


def test_python_layers_are_imported_where_allowed(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 } } }'
        'layer { name: "p" type: "Python" bottom: "data" top: "p" python_param { module: "own" layer: "Own" } }'
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/own.py").write_text(
        "import caffe\n"
        "class Own(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data + 1\n"
    )
    script = "import caffe\nprint(caffe.Net('net.prototxt', caffe.TEST).forward()['p'])\n"
    refused = run(script)
    assert refused.returncode == 1
    assert "--allow-python-layers" in refused.stderr
    assert run(script, flags=("--allow-python-layers",)).stdout == "[1. 1.]\n"
    assert run("import own\n" + script).stdout == "[1. 1.]\n"


FORK = """
import caffe
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
labels = caffe_pb2.LabelMap()
labels.item.add(name="cat", label=1)
n = caffe.NetSpec()
n.data = L.Input(shape=dict(dim=[1, 2, 3, 4]))
n.turned = L.Permute(n.data, order=[0, 2, 3, 1])
n.flat = L.Flatten(n.turned, name=labels.item[0].name)
with open("net.prototxt", "w") as file:
    file.write(str(n.to_proto()))
net = caffe.Net("net.prototxt", caffe.TEST)
net.save("net.caffemodel")
with open("net.caffemodel", "rb") as file:
    saved = caffe_pb2.NetParameter.FromString(file.read())
print(net._layer_names[-1], net.forward()["flat"].shape, saved.layer[1].permute_param.order, P.PriorBox.CENTER_SIZE)
"""


def test_a_script_for_a_fork(run: Runner) -> None:
    done = run(FORK, flags=("--dialect", "weiliu89/caffe@ssd"))
    assert (done.returncode, done.stdout) == (0, "cat (1, 24) [0, 2, 3, 1] 2\n")
    unnamed = run(FORK)
    assert unnamed.returncode == 1
    assert "no attribute 'LabelMap'; forks of Caffe have it" in unnamed.stderr
    assert "--dialect weiliu89/caffe@ssd" in unnamed.stderr
    unknown = run("from caffe import layers as L\nL.Permute(L.Input(), order=[1, 0]).to_proto()\n")
    assert "(Permute): LayerParameter has no field 'order'" in unknown.stderr
    assert "--dialect" in unknown.stderr
    wrong = run(FORK, flags=("--dialect", "nope"))
    assert wrong.returncode == 2
    assert "no dialect 'nope'" in wrong.stderr


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("print 'loss', 3", "print(x)"),
        ("print loss", "print(x)"),
        ("try: pass\nexcept ValueError, e: pass", "except Error as e"),
        ("raise ValueError, 'no'", "raise Error(message)"),
        ("if 1 <> 2: pass", "!="),
        ("x = `3`", "repr(x)"),
        ("os.chmod('a', 0755)", "0o17"),
        ("x = 10L", "no L"),
        ("exec 'x = 1'", "exec(code)"),
        ("if 1:\n        x = 1\n\ty = 2", "tabs"),
        ("x = ur'a'", "u'...'"),
    ],
)
def test_python_2_is_told_by_line(run: Runner, tmp_path: Path, line: str, advice: str) -> None:
    done = run("import caffe\n" + line + "\n")
    assert done.returncode == 2
    assert "scripts/script.py, line " in done.stderr
    assert "Python 2" in done.stderr
    assert advice in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_that_is_not_python_2(run: Runner, tmp_path: Path) -> None:
    done = run("x = (1,\n")
    assert done.returncode == 2
    assert "scripts/script.py, line 1" in done.stderr
    assert "Python 2" not in done.stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("xrange(3)", "xrange is Python 2; in Python 3 it is range"),
        ("{}.iteritems()", "iteritems is Python 2; in Python 3 it is items"),
        ("import cPickle as pickle", "cPickle is Python 2; in Python 3 it is pickle"),
        ("unicode('a')", "unicode is Python 2; in Python 3 it is str"),
        ("{}.has_key(1)", "`key in d`"),
        ("{}.keys()[0]", "write list(...) around it"),
        ("from collections import OrderedDict\nOrderedDict(a=1).items()[0]", "write list(...) around it"),
        ("{}.keys().sort()", "write list(...) around it"),
        ("[0] + range(3)", "write list(...) around it"),
        ("range(3) + [0]", "write list(...) around it"),
        ("len(map(str, []))", "write list(...) around it"),
        ("range(6 / 2)", "write a // b"),
        ("x = [1, 2, 3]\nx[4 / 2]", "write a // b"),
        ("x = [1, 2, 3]\nx[:4 / 2]", "write a // b"),
        ("import numpy as np\nnp.zeros(3)[4 / 2]", "write a // b"),
        ("import numpy as np\nnp.zeros(3)[:4 / 2]", "write a // b"),
        ("import numpy as np\nnp.zeros((4 / 2, 3))", "write a // b"),
        ("with open('a', 'wb') as f: f.write('a')", "open binary files with 'rb' or 'wb'"),
        ("with open('a', 'w') as f: f.write(b'a')", "open binary files with 'rb' or 'wb'"),
        ("b'a\\xff'.decode('utf-8')", "pickle.load(file, encoding='latin1')"),
        ("def load(stream, Loader): pass\nload('')", "yaml.safe_load"),
    ],
)
def test_names_of_python_2_get_a_hint(run: Runner, tmp_path: Path, line: str, hint: str) -> None:
    done = run(line + "\n")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert hint in done.stderr.splitlines()[-1]


def test_other_errors_get_no_hint(run: Runner, tmp_path: Path) -> None:
    for line in ("{}['x']", "[][0]", "raise TypeError", "None + 1", "import os\nos.nothing"):
        assert "hint" not in run(line + "\n").stderr


def test_no_such_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["nothing.py"]) == 2
    assert capsys.readouterr().err.startswith("error: nothing.py:")


@pytest.mark.slow
def test_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys, caffe\nprint(caffe.__name__, sys.argv)\n")
    done = subprocess.run(
        [sys.executable, "-m", "caffe_compat.pycaffe", "script.py", "a", "-b"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "caffe_compat.pycaffe ['script.py', 'a', '-b']\n"
