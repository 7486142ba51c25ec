"""Networks as plain PyTorch source: equal bits, readable, formatted, and nothing that a file says can run."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import caffe_compat
import converters
from caffe_compat import CaffeNet, LayerError, NetworkError, ParityError, UsageError
from caffe_compat.parity.seeded import seeded_inputs
from converters.plain.source import Source, source_of
from tests.converters.plain import module_of, outputs_of, same_bits
from tests.network import small_networks
from tests.networks import filled, input_layer, ip, layer

STORED = {
    "v0net": "formats/v0net.prototxt",
    "v1net": "formats/v1net.prototxt",
    "tiny_mask3d": "tiny_mask3d/deploy.prototxt",
    "synthetic_pose": "synthetic_pose/deploy.prototxt",
    "solver": "solvers/small.prototxt",
}
DRAWN = ("ALEXNET", "INCEPTION", "RECURRENT", "RESNET", "SSD")


def _drawn(name: str) -> CaffeNet:
    return small_networks.drawn(getattr(small_networks, name), "weiliu89/caffe@ssd" if name == "SSD" else None)


def _with_batch(net: CaffeNet, batch: int) -> dict[str, torch.Tensor]:
    """Seeded inputs, with another first axis."""
    found = {}
    for name, x in seeded_inputs(net).items():
        times = -(-batch // len(x))
        found[name] = torch.from_numpy(x).repeat(times, *[1] * (x.ndim - 1))[:batch].clone()
    return found


def _check(net: CaffeNet, source: Source, inputs: dict[str, torch.Tensor]) -> None:
    """Equal bits, twice: what is remembered from call to call is equal, too."""
    net.reset_state()
    module = module_of(source)
    for _ in range(2):
        expected = net.run(inputs)
        outputs = outputs_of(module, source, inputs)
        # An input that nobody reads is an output in Caffe, and no business of the source.
        assert set(expected) - set(outputs) <= set(net.input_names) - set(source.inputs)
        assert outputs
        for name, value in outputs.items():
            assert same_bits(value, expected[name]), name
    net.reset_state()


@pytest.mark.parametrize("name", STORED)
def test_stored_networks_have_equal_bits(name: str, reference: Path) -> None:
    net = caffe_compat.load(reference / STORED[name], seed=1)
    source = source_of(net)
    _check(net, source, _with_batch(net, next(iter(net.input_shapes.values()))[0]))
    for batch in (1, 3):
        inputs = _with_batch(net, batch)
        try:
            net.run(inputs)
        except caffe_compat.CaffeCompatError:
            continue  # the definition fixes the batch
        _check(net, source, inputs)


@pytest.mark.parametrize("name", DRAWN)
def test_networks_in_the_manner_of_known_ones_have_equal_bits(name: str) -> None:
    net = _drawn(name)
    source = source_of(net)
    batches = (5,) if name == "RECURRENT" else (1, 2, 3)
    for batch in batches:
        inputs = _with_batch(net, batch)
        if name == "RECURRENT":
            inputs = {"words": torch.arange(10.0).reshape(5, 2) % 9, "cont": torch.tensor([[0.0, 1]] + [[1, 1]] * 4)}
        _check(net, source, inputs)


@pytest.mark.parametrize("name", [*STORED, *DRAWN])
def test_the_source_is_formatted(name: str, reference: Path, tmp_path: Path) -> None:
    net = _drawn(name) if name in DRAWN else caffe_compat.load(reference / STORED[name], seed=1)
    path = tmp_path / "network.py"
    path.write_text(source_of(net, ["a fact of it"]).text, encoding="utf-8")
    _formatted(path)


def _formatted(path: Path) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff, "the development tools are not installed"
    options = ("--isolated", "--line-length", "120", "--no-cache", str(path))
    done = subprocess.run([ruff, "format", "--diff", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([ruff, "check", "--select", "E,F,I,W,UP", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_layers_stand_under_their_names_in_their_order() -> None:
    text = source_of(_drawn("RESNET")).text
    names = [line.split(" = ")[0].strip() for line in text.splitlines() if line.startswith("        self.")]
    of_the_net = names[names.index("self.res1") :]
    assert of_the_net[:5] == ["self.res1", "self.bn1", "self.scale1", "self.conv1_relu", "self.pool1"]
    assert "class ResNet8(nn.Module):" in text
    assert "        res2a = res2a_branch1 + res2a_branch2b\n" in text
    assert text.count("class ChannelScale") == text.count("Caffe stores sums and what to divide them by") == 1


@pytest.mark.slow
def test_it_runs_alone(tmp_path: Path, reference: Path) -> None:
    """Written, checked on the way, and run by a process that finds neither this library nor its folder."""
    net = caffe_compat.load(reference / "formats/v1net.prototxt", reference / "formats/v1net.caffemodel")
    converters.export(net, tmp_path / "v1net.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1net.py", "v1net.safetensors"]
    script = (
        "import sys; sys.modules.update(caffe_compat=None, converters=None); sys.path.insert(0, '.')\n"
        "import torch, v1net\n"
        "x = torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)\n"
        "with torch.no_grad():\n"
        "    torch.save(v1net.load()(x), 'outputs')\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    expected = net.run({"data": torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)})
    assert same_bits(torch.load(tmp_path / "outputs")["prob"], expected["prob"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_stored_as_asked(dtype: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    net = _drawn("RESNET")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    converters.export(net, tmp_path / "m.py", dtype=dtype)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.get_tensor("res1.weight").dtype == getattr(torch, dtype)
        assert file.get_tensor("bn1.running_var").dtype == torch.float32
        assert file.metadata()["dialect"] == "bvlc"
    assert f"stored in {dtype}" in (tmp_path / "m.py").read_text()


@pytest.mark.slow
def test_what_a_conversion_knows_is_told(tmp_path: Path, reference: Path) -> None:
    tiny = reference / "tiny_mask3d"
    conversion = caffe_compat.convert(
        tiny / "deploy.prototxt",
        tiny / "tiny_mask3d.caffemodel",
        reference=tiny / "tiny_mask3d.h5",
        preprocess="order=bgr",
    )
    converters.export(conversion, tmp_path / "tiny.py")
    text = ast.get_docstring(ast.parse((tmp_path / "tiny.py").read_text()))
    assert text is not None
    for told in (
        "From tiny_mask3d.caffemodel, SHA-256 ",
        "Equal to tiny_mask3d.h5 of real Caffe in 78 blobs",
        "'channel_order': 'bgr'",
    ):
        assert told in text


HOSTILE = [
    'a"b',
    "it's",
    'x"""\nimport os\nos.abort()\n"""',
    "x'''",
    "back\\",
    'q\\"',
    "class",
    "self",
    "torch",
    "nn",
    "print",
    "__init__",
    "__class__",
    "forward",
    "training",
    "1x1",
    "\u202eevil",
    "\u2028",
    "größe",
    "gröse",
    "ﬁ",
    "fi",
    "",
    "a.b",
    "a b",
    "a-b",
    "a/b",
    "#c",
    "{x}",
    "%s",
    "load_state_dict",
    "None",
    "F",
    "Tensor",
    "WEIGHTS",
    "load",
]


def _hostile_chain() -> str:
    """A linear layer and a ReLU in place for every name, which is the layer's and the blob's."""

    def quote(name: str) -> str:
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    text, bottom = f"name: {quote(HOSTILE[2])}\n" + input_layer("in", 2, 3), "in"
    for name in HOSTILE:
        blob = name or "empty"
        text += (
            f'layer {{ name: {quote(name)} type: "InnerProduct" bottom: {quote(bottom)} top: {quote(blob)} '
            "inner_product_param { num_output: 3 } }\n"
            f'layer {{ name: {quote(f"{name} again")} type: "ReLU" bottom: {quote(blob)} top: {quote(blob)} }}\n'
        )
        bottom = blob
    return text


@pytest.mark.slow
def test_names_cannot_do_anything(tmp_path: Path) -> None:
    text = _hostile_chain()
    net = filled(text)
    path = tmp_path / 'a"b\\.py'
    converters.export(net, path)
    source = path.read_text(encoding="utf-8")
    _formatted(path)
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls <= {"super", "Path", "load_file", source_of(net).class_name}
    assert [char for char in source if not char.isprintable() and char != "\n"] == []


def test_what_is_refused(tmp_path: Path) -> None:
    files = input_layer("x", 2, 3) + layer(
        "out", "HDF5Output", "x x", "", 'hdf5_output_param { file_name: "somewhere.h5" }'
    )
    with pytest.raises(
        NetworkError, match=r"'out' \(HDF5Output\): plain PyTorch cannot hold it: .*files; stop before it"
    ):
        converters.export(filled(files + ip("fc", "x", "y", 2)), tmp_path / "m.py")
    train = filled(input_layer("x", 2, 3) + ip("fc", "x", "y", 2), state=caffe_compat.NetState("TRAIN"))
    with pytest.raises(NetworkError, match="of phase TEST"):
        converters.export(train, tmp_path / "m.py")
    net = filled(input_layer("x", 2, 3) + ip("fc", "x", "y", 2))
    net.fc.weight.data[0, 0] = 1e6
    with pytest.raises(UsageError, match="float16 ends at"):
        converters.export(net, tmp_path / "m.py", dtype="float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_layer_cannot_take_is_refused_in_its_name(reference: Path) -> None:
    """The check is a function beside the class, which is given the layer."""
    folder = reference / "tiny_mask3d"
    net = caffe_compat.load(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    module = module_of(source_of(net))
    with pytest.raises(ValueError, match=r"layer 'inverted1': takes poses.*has shape \[2, 3, 4, 5\]"):
        module.inverted1(torch.zeros(2, 3, 4, 5))


@pytest.mark.slow
def test_other_sizes_are_made_sure_of(tmp_path: Path) -> None:
    net = _drawn("ALEXNET")
    exported = converters.export(net, tmp_path / "m.py", dynamic_batch=True)
    assert exported.verification is not None
    assert (exported.verification.runs, exported.verification.worst_abs) == (2, 0.0)
    fixed = filled(
        input_layer("x", 2, 4) + layer("r", "Reshape", "x", "y", "reshape_param { shape { dim: 2 dim: 2 dim: 2 } }")
    )
    with pytest.raises(LayerError, match=r"'r' \(Reshape\): allows no other size"):
        converters.export(fixed, tmp_path / "n.py", dynamic_batch=True)


@pytest.mark.slow
def test_a_source_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters import python

    def wrong(net: CaffeNet, facts: list[str]) -> Source:
        source = source_of(net, facts)
        return Source(source.text.replace("nn.ReLU()", "nn.Identity()"), *list(vars(source).values())[1:])

    monkeypatch.setattr(python, "source_of", wrong)
    with pytest.raises(ParityError, match="z departs from the net"):
        converters.export(
            filled(
                input_layer("x", 2, 3)
                + layer("p", "Power", "x", "y", "power_param { shift: -0.5 }")
                + layer("r", "ReLU", "y", "z")
            ),
            tmp_path / "m.py",
        )
    assert list(tmp_path.iterdir()) == []
