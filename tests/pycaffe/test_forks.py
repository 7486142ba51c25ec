"""What the pycaffes of forks add, under ``--dialect``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import caffe_compat.pycaffe as caffe
from caffe_compat.pycaffe import install
from tests.pycaffe.test_run import Runner

SSD = "weiliu89/caffe@ssd"
FASTER = "rbgirshick/caffe-fast-rcnn@faster-rcnn-upstream-33f2445"
SPEC = """
import caffe
from caffe import layers as L
n = caffe.NetSpec()
n.data = L.DummyData(shape=dict(dim=[1, 3]))
n.ip = L.InnerProduct(n.data, num_output=4)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.chdir(tmp_path)
    return Runner(capsys)


def lines(run: Runner, script: str, dialect: str | None, *flags: str) -> list[str]:
    done = run(script, flags=(*flags, *(("--dialect", dialect) if dialect else ())))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("dialect", [SSD, "chuanqi305/ssd", "sfzhang15/RefineDet"])
def test_the_net_spec_of_ssd(run: Runner, dialect: str) -> None:
    script = SPEC + (
        "print(n.keys(), [top.fn.type_name for top in n.vals()])\n"
        "n.update('ip', dict(num_output=9, bias_term=False))\n"
        "param = n.to_proto().layer[1].inner_product_param\n"
        "print(param.num_output, param.bias_term)\n"
        "del n['ip']\n"
        "print(n.keys(), n.keys()[-1])\n"
        "try: del n['ip']\n"
        "except KeyError as error: print(error)\n"
    )
    assert lines(run, script, dialect) == [
        "['data', 'ip'] ['DummyData', 'InnerProduct']",
        "9 False",
        "['data'] data",
        "the spec has no 'ip'; it has data",
    ]


def test_the_net_spec_of_bvlc_has_tops_and_nothing_else(run: Runner) -> None:
    script = SPEC + (
        "n.keys = n.ip\n"
        "print(n.keys is n.ip)\n"
        "try: n.vals\n"
        "except AttributeError as error: print(error)\n"
        "try: del n['ip']\n"
        "except TypeError as error: print(str(error)[:40])\n"
    )
    assert lines(run, script, None) == [
        "True",
        "the spec has no 'vals'; it has data, ip, keys",
        "a NetSpec of BVLC's Caffe forgets nothin",
    ]


# As the Python layers of Fast R-CNN's programs choose their settings: cfg[str(self.phase)].
NAMED_PHASE = """
import sys, types
import caffe
class Probe(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top):
        print(repr(str(self.phase)), self.phase == caffe.PHASE, {1: 'one', 0: 'zero'}[self.phase])
    def backward(self, top, propagate_down, bottom): pass
module = types.ModuleType("probes")
module.Probe = Probe
sys.modules["probes"] = module
import pathlib
pathlib.Path("probe.prototxt").write_text('layer { name: "p" type: "Python" top: "p" '
                                  'python_param { module: "probes" layer: "Probe" } }')
caffe.Net("probe.prototxt", caffe.PHASE).forward()
"""


@pytest.mark.parametrize(
    ("phase", "dialect", "expected"),
    [
        ("TEST", FASTER, "'TEST' True one"),
        ("TRAIN", FASTER, "'TRAIN' True zero"),
        ("TEST", "AndreiBarsan/caffe-mnc", "'TEST' True one"),
        ("TEST", SSD, "'1' True one"),
        ("TEST", None, "'1' True one"),
    ],
)
def test_the_phase_has_a_name_where_the_fork_gives_it_one(
    run: Runner, phase: str, dialect: str | None, expected: str
) -> None:
    assert lines(run, NAMED_PHASE.replace("PHASE", phase), dialect) == [expected]


# Clips


@pytest.fixture
def fork() -> Iterator[Callable[[str | None], object]]:
    yield lambda dialect: install(dialect=dialect)
    install()


def test_clips(fork: Callable[[str | None], object]) -> None:
    fork("chuckcho/video-caffe")
    clip = np.random.RandomState(2).rand(10, 12, 3, 4).astype(np.float32)
    transformer = caffe.io.Transformer({"data": (1, 3, 4, 5, 6), "image": (1, 3, 5, 6)})
    transformer.set_transpose("data", (2, 3, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([1.0, 2.0, 3.0]))
    transformer.set_input_scale("data", 0.5)
    found = transformer.preprocess("data", clip)
    frames = [caffe.io.resize_image(clip[..., i], (5, 6)).transpose(2, 0, 1) for i in range(4)]
    mean = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    expected = (255 * np.stack(frames, 1)[::-1] - mean) * 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    back = np.stack(frames, 3).transpose(1, 2, 0, 3)
    np.testing.assert_allclose(transformer.deprocess("data", found), back, rtol=1e-4, atol=1e-5)
    # What is a picture there stays one.
    assert transformer.preprocess("image", clip[..., 0]).shape == (5, 6, 3)


def test_a_mean_picture_is_that_of_every_frame(fork: Callable[[str | None], object]) -> None:
    fork("BoLiu-SVCL/video-caffe")
    transformer = caffe.io.Transformer({"data": (1, 3, 4, 5, 6)})
    mean = np.random.RandomState(3).rand(3, 10, 12).astype(np.float32)
    transformer.set_mean("data", mean)
    assert transformer.mean["data"].shape == (3, 1, 5, 6)
    transformer.set_transpose("data", (2, 3, 0, 1))
    found = transformer.preprocess("data", np.zeros((5, 6, 3, 4)))
    resized = caffe.io.resize_image(mean.transpose(1, 2, 0), (5, 6)).transpose(2, 0, 1)
    np.testing.assert_allclose(found, -np.stack([resized] * 4, 1), rtol=1e-6)


# Modules that a fork adds


def test_a_module_of_the_forks_checkout(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "fork" / "python" / "caffe"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('the real one')")
    (folder / "bodies.py").write_text(
        "import caffe\nfrom caffe import layers as L\nfrom . import params as P\nfrom .proto import caffe_pb2\n"
        "def body(net):\n    net.pool = L.Pooling(net[net.keys()[-1]], pool=P.Pooling.MAX, kernel_size=2)\n"
    )
    script = f"import sys\nsys.path.insert(0, {str(folder.parent)!r})\n" + SPEC + (
        "from caffe.bodies import body\nbody(n)\nimport caffe.bodies\n"
        "print(n.to_proto().layer[-1].pooling_param.kernel_size, caffe.bodies.caffe is caffe)\n"
    )  # fmt: skip
    assert lines(run, script, SSD) == ["2 True"]


def test_a_module_that_is_nowhere(run: Runner) -> None:
    done = run("import caffe.model_libs\n", flags=("--dialect", SSD))
    assert done.returncode == 1
    assert done.stderr.endswith(
        "hint: caffe.model_libs is no module of BVLC's pycaffe; if it is one of the fork's, put the folder python of "
        "the fork's checkout on PYTHONPATH\n"
    )
    assert run("import nothing_of_the_kind\n", flags=("--dialect", SSD)).stderr.count("hint") == 0
