"""The table of who registers which layer type is current, and a net imports no more than it needs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_compat import Layer, LayerSpec
from caffe_compat.errors import LayerError
from caffe_compat.network import shipped_types
from caffe_compat.network.registry import layer

ROOT = Path(__file__).parents[2]


def test_the_table_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("shipped_types_script", ROOT / "scripts" / "shipped_types.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written: dict[str, object] = {}
    exec(script.text(), written)
    for name in ("SHIPPED_TYPES", "PYTHON_CLASSES"):
        assert getattr(shipped_types, name) == written[name], "run scripts/shipped_types.py"


@pytest.mark.slow
def test_a_net_imports_the_layers_it_has(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
        'layer { name: "norm" type: "LRN" bottom: "data" top: "norm" }'
    )
    code = (
        "import sys, caffe_compat; caffe_compat.load('net.prototxt')\n"
        "print(*(name for name in sys.modules if name.startswith('caffe_compat.layers.forks.')))\n"
        "print('caffe_compat.layers.bvlc.lrn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    forks, lrn = done.stdout.splitlines()
    assert lrn == "True"
    assert len(forks.split()) <= 1, forks  # the optimisation knows one of a fork's


@pytest.mark.slow
def test_a_type_that_ships_is_not_registered_again_unseen() -> None:
    code = "import caffe_compat\n@caffe_compat.layer('LRN')\ndef lrn(spec): ..."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("layer type 'LRN' is registered twice")

    with pytest.raises(LayerError, match="'Softmax' is registered twice"):

        @layer("Softmax")
        def softmax(spec: LayerSpec) -> Layer:
            return Layer()
