"""Every name that `import caffe` offers, and the settings of the process."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from google.protobuf import descriptor_pool, text_format

from caffe_compat import pycaffe
from caffe_compat.errors import CaffeCompatWarning, UsageError
from caffe_compat.pycaffe.runtime import Runtime, runtime

NAMES = """
AdaDeltaSolver AdaGradSolver AdamSolver Classifier Detector Layer NCCL NesterovSolver Net NetSpec RMSPropSolver
SGDSolver TEST TRAIN Timer get_solver has_nccl init_log io layer_type_list layers log params set_device
set_mode_cpu set_mode_gpu set_multiprocess set_random_seed set_solver_count set_solver_rank solver_count
solver_rank to_proto
""".split()  # noqa: SIM905
OF_A_NET = """
backward blob_loss_weights blobs bottom_names clear_param_diffs copy_from forward forward_all forward_backward_all
inputs after_backward after_forward before_backward before_forward
layer_dict layers load_hdf5 outputs params reshape save save_hdf5 set_input_arrays share_with top_names _layer_names
""".split()  # noqa: SIM905
OF_A_SOLVER = """
add_callback apply_update iter lr net param restore share_weights snapshot solve step test_nets
""".split()  # noqa: SIM905


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    before = dict(sys.modules)
    yield pycaffe.install()
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] == "caffe":
            del sys.modules[name]
    runtime.allow_python = False


@pytest.mark.parametrize("name", NAMES)
def test_names_are_there(name: str) -> None:
    assert hasattr(pycaffe, name)
    assert name in pycaffe.__all__


def test_all_names_exist() -> None:
    assert sorted(pycaffe.__all__, key=str.lower) == sorted(set(pycaffe.__all__), key=str.lower)
    for name in pycaffe.__all__:
        assert getattr(pycaffe, name) is not None
    for name in OF_A_NET:
        assert hasattr(pycaffe.Net, name)
    made_in_init = {"net", "param", "test_nets"}
    for name in set(OF_A_SOLVER) - made_in_init:
        assert hasattr(pycaffe.SGDSolver, name)
    assert (pycaffe.TRAIN, pycaffe.TEST) == (0, 1)
    assert pycaffe.__version__ == "1.0.0"


def test_import_caffe(installed: Any) -> None:
    import caffe  # type: ignore[import-not-found]
    import caffe.draw  # type: ignore[import-not-found]
    from caffe import layers as L
    from caffe.classifier import Classifier  # type: ignore[import-not-found]
    from caffe.coord_map import crop  # type: ignore[import-not-found]
    from caffe.io import Transformer  # type: ignore[import-not-found]
    from caffe.net_spec import NetSpec  # type: ignore[import-not-found]
    from caffe.proto import caffe_pb2  # type: ignore[import-not-found]
    from caffe.proto.caffe_pb2 import NetParameter  # type: ignore[import-not-found]
    from caffe.pycaffe import Net  # type: ignore[import-not-found]

    assert caffe is installed is pycaffe
    assert Net is pycaffe.Net
    assert Classifier is pycaffe.Classifier
    assert NetSpec is pycaffe.NetSpec
    assert Transformer is pycaffe.io.Transformer
    assert L is pycaffe.layers
    assert crop is pycaffe.coord_map.crop
    assert NetParameter is caffe_pb2.NetParameter
    assert pycaffe.install() is pycaffe


def test_where_scripts_look_for_the_types(installed: Any) -> None:
    import caffe._caffe  # type: ignore[import-not-found]
    import caffe.pycaffe
    from caffe import pycaffe as module
    from caffe._caffe import RawBlobVec, layer_type_list

    names: dict[str, Any] = {}
    exec("from caffe.pycaffe import *", names)
    assert names["Net"] is module.Net is caffe.pycaffe.Net is caffe._caffe.Net is pycaffe.Net
    assert names["SGDSolver"] is pycaffe.SGDSolver
    assert issubclass(pycaffe.AdamSolver, caffe._caffe.Solver)
    assert layer_type_list is pycaffe.layer_type_list
    for name in caffe._caffe.__all__:
        assert getattr(caffe._caffe, name) is not None
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '
    text += 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 } }'
    Path("net.prototxt").write_text(text)
    net = pycaffe.Net("net.prototxt", pycaffe.TEST)
    assert type(net.params["ip"]) is type(net.layers[1].blobs) is caffe._caffe.BlobVec
    assert isinstance(net.params["ip"][0], caffe._caffe.Blob)
    assert isinstance(net.blobs["x"], caffe._caffe.Blob)
    assert isinstance(net.layers, RawBlobVec)


def test_another_caffe_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("caffe")
    other.__file__ = "/opt/caffe/python/caffe/__init__.py"
    monkeypatch.setitem(sys.modules, "caffe", other)
    with pytest.raises(UsageError, match="/opt/caffe/python"):
        pycaffe.install()
    assert sys.modules["caffe"] is other


def test_caffe_pb2() -> None:
    pb = pycaffe.proto.caffe_pb2
    net = pb.NetParameter()
    text_format.Merge(
        'name: "n" layer { name: "p" type: "Pooling" pooling_param { pool: AVE } } state { phase: TEST }', net
    )
    assert net.layer[0].pooling_param.pool == pb.PoolingParameter.AVE == 1
    assert net.state.phase == pb.TEST
    assert pb.Phase.Name(0) == "TRAIN"
    assert pb.Phase.Value("TEST") == 1
    copy = pb.NetParameter()
    copy.ParseFromString(net.SerializeToString())
    assert copy == net
    solver = pb.SolverParameter(base_lr=0.01, test_iter=[3])
    assert pb.SolverParameter.SGD == 0
    assert "base_lr: 0.01" in str(solver)
    assert pb.V1LayerParameter.CONVOLUTION == 4
    assert pb.BlobProtoVector().blobs.add().num == 0
    assert pb.__file__.endswith("proto.py")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")


def test_layer_type_list() -> None:
    found = pycaffe.layer_type_list()
    assert found == sorted(set(found))
    for name in ("Convolution", "Data", "HDF5Data", "Input", "MemoryData", "Python", "SoftmaxWithLoss", "Split"):
        assert name in found


def test_several_gpus_are_sent_elsewhere() -> None:
    assert pycaffe.has_nccl() is False
    for call in (
        lambda: pycaffe.NCCL(None, "uid"),
        pycaffe.NCCL.new_uid,
        lambda: pycaffe.set_solver_count(2),
    ):
        with pytest.raises(UsageError, match="torchrun"):
            call()
    with pytest.raises(UsageError, match="rank 0"):
        pycaffe.set_solver_rank(1)
    pycaffe.set_solver_count(1)
    pycaffe.set_solver_rank(0)
    pycaffe.set_multiprocess(True)
    assert (pycaffe.solver_count(), pycaffe.solver_rank()) == (1, 0)


def test_timer() -> None:
    timer = pycaffe.Timer()
    assert timer.ms == 0
    timer.start()
    time.sleep(0.02)
    timer.stop()
    first = timer.ms
    assert 20 <= first < 2000
    assert timer.ms == first


def test_a_gpu_that_is_not_there_is_worth_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "_warned", False)
    with pytest.warns(CaffeCompatWarning, match="on the CPU"):
        pycaffe.set_mode_gpu()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pycaffe.set_mode_gpu()
        pycaffe.set_device(0)
    assert runtime.device == torch.device("cpu")
    pycaffe.set_mode_cpu()


def test_set_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(runtime, "device_id", 0)
    monkeypatch.setattr(runtime, "gpu", True)
    pycaffe.set_device(1)
    assert runtime.device == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="2 CUDA devices"):
        pycaffe.set_device(2)


def test_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "level", 0)
    pycaffe.log("hello")
    line = capsys.readouterr().err
    assert line.startswith("I")
    assert line.endswith("] hello\n")
    pycaffe.init_log(1, True)
    pycaffe.log("hello")
    assert not capsys.readouterr().err
    monkeypatch.setenv("GLOG_minloglevel", "2")
    assert Runtime().level == 2
