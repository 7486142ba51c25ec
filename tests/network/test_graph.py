"""Which layers a phase has, and how they are wired."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import check_graphs
import h5py
import pytest
from check_graphs import check_file
from torch import nn

from caffe_compat.errors import GraphError, LayerError, UsageError
from caffe_compat.formats.textformat import parse_text
from caffe_compat.network.definition import read_definition
from caffe_compat.network.graph import AUTOMATIC_TOP, Graph, NetState, phase_graph
from caffe_compat.network.names import RESERVED, layer_name, module_names
from caffe_compat.network.net import CaffeNet
from caffe_compat.network.program import Program
from caffe_compat.pycaffe.building import SteppedNet
from caffe_compat.reports.inspection import text_kind
from caffe_compat.schema.prototxt import parse_message, read_text
from caffe_compat.schema.upgrade import upgrade_net
from tests.networks import input_layer, layer, parse


def graph_of(text: str, **state: object) -> Graph:
    graph = phase_graph(parse(text), NetState(**state))  # type: ignore[arg-type]
    graph.check()
    return graph


def names(text: str, **state: object) -> list[str]:
    return [node.name for node in graph_of(text, **state).nodes]


# Rules


def ruled(*rules: str) -> str:
    """A net of layers a, b, c ... with these rules, and one layer "always" without."""
    return input_layer("always", 1) + "".join(
        layer(chr(ord("a") + i), "Input", "", f"t{i}", "input_param { shape { dim: 1 } } " + rule)
        for i, rule in enumerate(rules)
    )


@pytest.mark.parametrize(
    ("rule", "state", "there"),
    [
        ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
        ("include { phase: TRAIN }", {"phase": "TEST"}, False),
        ("include { phase: TEST }", {}, True),
        ("exclude { phase: TEST }", {}, False),
        ("exclude { phase: TEST }", {"phase": "TRAIN"}, True),
        ("include { }", {}, True),
        ("exclude { }", {}, False),
        ("include { min_level: 2 }", {"level": 1}, False),
        ("include { min_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 3}, False),
        ("include { min_level: 0 }", {"level": -1}, False),
        ("include { max_level: 0 }", {"level": 1}, False),
        ("include { min_level: -3 max_level: -1 }", {"level": -2}, True),
        ('include { stage: "s" }', {}, False),
        ('include { stage: "s" }', {"stages": ("s",)}, True),
        ('include { stage: "s" stage: "t" }', {"stages": ("s",)}, False),
        ('include { stage: "s" stage: "t" }', {"stages": ("t", "u", "s")}, True),
        ('include { not_stage: "s" }', {"stages": ("s",)}, False),
        ('include { not_stage: "s" not_stage: "t" }', {"stages": ("t",)}, False),
        ('include { not_stage: "s" }', {"stages": ("t",)}, True),
        ('include { stage: "s" not_stage: "t" }', {"stages": ("s", "t")}, False),
        ('include { phase: TRAIN stage: "s" }', {"stages": ("s",)}, False),
        ('include { phase: TRAIN } include { stage: "s" }', {"stages": ("s",)}, True),
        ('exclude { phase: TRAIN } exclude { stage: "s" }', {"stages": ("s",)}, False),
        ('exclude { phase: TRAIN } exclude { stage: "s" }', {"stages": ("t",)}, True),
    ],
)
def test_rules(rule: str, state: dict, there: bool) -> None:
    assert names(ruled(rule), **state) == ["always"] + ["a"] * there


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('exclude { stag: "a" }', "stag .no such field in NetStateRule"),
        ("include { min_level: a }", "min_level .value 'a' is not a whole number"),
    ],
)
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_a_rule_that_is_not_understood_is_refused(rule: str, message: str, phase: str) -> None:
    text = input_layer("x", 1, 3) + layer("r", "ReLU", "x", "y", rule)
    with pytest.raises(GraphError, match=f"layer 'r' .ReLU.: has an include or exclude rule with .*{message}"):
        CaffeNet(parse(text), NetState(phase))


def test_a_phase_that_caffe_does_not_have_never_comes() -> None:
    text = input_layer("x", 1, 3)
    text += layer("r", "ReLU", "x", "y", "include { phase: RUN }") + layer(
        "s", "ReLU", "x", "z", "exclude { phase: RUN }"
    )
    for phase in ("TRAIN", "TEST"):
        net = CaffeNet(parse(text), NetState(phase))
        assert [node.name for node in net.graph.computed] == ["s"]
        assert net.warnings == [
            f"layer {name!r} (ReLU): a rule for phase RUN, which Caffe does not have, never holds" for name in "rs"
        ]


def test_one_layer_may_not_include_and_exclude() -> None:
    with pytest.raises(GraphError, match=r"'a' \(Input\): has include and exclude rules"):
        graph_of(ruled("include { phase: TEST } exclude { phase: TRAIN }"))


def test_stages_of_the_definition_count() -> None:
    text = 'state { stage: "s" }' + ruled('include { stage: "s" }', 'include { stage: "u" }')
    assert names(text) == ["always", "a"]
    assert graph_of(text, stages=("u", "s")).state.stages == ("u", "s")
    net = CaffeNet(parse(text), NetState(stages=("u",)))
    assert [node.name for node in net.graph.nodes] == ["always", "a", "b"]


def test_nothing_left_says_so() -> None:
    with pytest.raises(
        GraphError, match=r"no layer is left for phase TEST level 3 stages x, y \(1 in the definition\)"
    ):
        graph_of(input_layer("a", 1).replace("type", "include { phase: TRAIN } type"), level=3, stages=("x", "y"))


def test_phase_must_be_one() -> None:
    with pytest.raises(UsageError, match="phase 'DEPLOY': train or test"):
        NetState("DEPLOY")


# Wiring


def wires(graph: Graph, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    node = next(n for n in graph.nodes if n.name == name)
    return node.bottoms, node.tops


def test_a_reader_between_two_writers_in_place_reads_the_first() -> None:
    graph = graph_of(
        input_layer("x", 2)
        + layer("w1", "ReLU", "x", "x")
        + layer("between", "Power", "x", "y")
        + layer("w2", "Sigmoid", "x", "x")
        + layer("after", "TanH", "x", "z")
    )
    assert graph.blobs == ("x", "x", "y", "x", "z")
    assert wires(graph, "w1") == ((0,), (1,))
    assert wires(graph, "between") == ((1,), (2,))
    assert wires(graph, "w2") == ((1,), (3,))
    assert wires(graph, "after") == ((3,), (4,))
    assert [graph.blobs[v] for v in graph.outputs] == ["y", "z"]


def test_in_place_holds_only_where_bottom_and_top_have_the_same_place() -> None:
    two = input_layer("a", 2) + input_layer("b", 2)
    graph = graph_of(two + layer("s", "Split2", "a b", "a b"))
    assert wires(graph, "s") == ((0, 1), (2, 3))
    with pytest.raises(GraphError, match=r"layer 's' .*: top 'b' is already produced by layer 'b'"):
        graph_of(two + layer("s", "Split2", "a b", "b a"))


def test_outputs_are_sorted_by_name_as_in_caffe() -> None:
    text = input_layer("x", 2) + "".join(layer(n, "ReLU", "x", n) for n in ("zeta", "Alpha", "alpha", "_"))
    graph = graph_of(text + input_layer("unread", 1))
    assert [graph.blobs[v] for v in graph.outputs] == ["Alpha", "_", "alpha", "unread", "zeta"]


def test_sources_and_the_rest() -> None:
    graph = graph_of(
        layer("d", "Data", "", "data label", "data_param { batch_size: 2 }")
        + layer("m", "SomeForksData", "", "more")
        + layer("r", "ReLU", "data", "r")
        + layer("dummy", "DummyData", "", "noise", "dummy_data_param { shape { dim: 1 } }")
    )
    assert [node.name for node in graph.sources] == ["d", "m"]
    assert [node.name for node in graph.computed] == ["r", "dummy"]
    assert [graph.blobs[v] for v in graph.inputs] == ["data", "label", "more"]


def test_inputs_of_the_net_come_first() -> None:
    graph = graph_of(
        'input: "a" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5 '
        'input: "b" input_dim: 6 input_dim: 7 input_dim: 8 input_dim: 9 ' + layer("r", "ReLU", "b", "r")
    )
    assert [graph.blobs[v] for v in graph.inputs] == ["a", "b"]
    assert [graph.blobs[v] for v in graph.outputs] == ["a", "r"]


def test_the_same_top_in_two_phases() -> None:
    text = "".join(
        layer(n, "Data", "", "data", f"data_param {{ batch_size: 2 }} include {{ phase: {p} }}")
        for n, p in (("one", "TRAIN"), ("two", "TEST"))
    ) + layer("r", "ReLU", "data", "r")
    assert names(text) == ["two", "r"]
    assert names(text, phase="TRAIN") == ["one", "r"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            layer("a", "ReLU", "nope", "a"),
            r"layer 'a' \(ReLU\): bottom 'nope' is produced by no layer .*; if it is an input .* --input-shape 'nope=",
        ),
        (layer("a", "ReLU", "a", "a"), r"layer 'a' \(ReLU\): bottom 'a' is produced by no layer above it$"),
        (
            layer("a", "ReLU", "b", "a") + layer("b", "TanH", "a", "b"),
            "bottom 'b' .* above it; layer 'b' produces it further down",
        ),
        (
            layer("a", "ReLU", "b", "c") + layer("in-place", "TanH", "b", "b") + input_layer("b", 1),
            "bottom 'b' .* above it; layer 'b' produces it further down",
        ),
        (
            input_layer("x", 1)
            + layer("t", "ReLU", "x", "t", "include { phase: TRAIN }")
            + layer("u", "ReLU", "t", "u"),
            "layer 'u' .*; layer 't' would, but is not part of phase TEST level 0",
        ),
        (
            input_layer("x", 1) + layer("p", "ReLU", "x", "y") + layer("q", "TanH", "x", "y"),
            r"layer 'q' \(TanH\): top 'y' is already produced by layer 'p'",
        ),
        (
            input_layer("x", 1) + layer("s", "Split", "x", "y y"),
            "layer 's' .*: top 'y' is already produced by layer 's'",
        ),
    ],
)
def test_wires_that_lead_nowhere(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        graph_of(text)


def test_a_loss_without_a_top_has_one_that_nobody_can_read() -> None:
    text = input_layer("x", 2) + input_layer("y", 2) + layer("l", "EuclideanLoss", "x y")
    graph = graph_of(text + layer("s", "Silence", "x y"))
    assert graph.blobs == ("x", "y", AUTOMATIC_TOP)
    assert wires(graph, "l") == ((0, 1), (2,))
    assert graph.outputs == ()
    assert wires(graph, "s") == ((0, 1), ())


# Inputs


def test_given_shapes_win_and_declare_inputs() -> None:
    text = layer("d", "Data", "", "data label", "data_param { batch_size: 2 }") + layer("s", "Silence", "data label z")
    with pytest.raises(GraphError, match="--input-shape 'z="):
        graph_of(text)
    graph = phase_graph(parse(text), input_shapes={"z": (1, 2), "data": (3, 4)})
    graph.check()
    assert [(node.name, node.index) for node in graph.sources] == [("input", 0), ("d", 1)]
    assert [graph.source_shapes(node) for node in graph.sources] == [((1, 2),), ((3, 4), (2,))]
    assert [phase_graph(parse(text), input_shapes={"z": (1,)}).source_shapes(graph.sources[1])] == [(None, (2,))]
    with pytest.raises(UsageError, match=r"names 'w', which is no input of the net \(data, label, z\)"):
        phase_graph(parse(text), input_shapes={"z": (1, 2), "w": (1,)})


def test_an_input_layer_that_contradicts_itself() -> None:
    text = 'layer { name: "x" type: "Input" top: "a" top: "b" top: "c" input_param { shape { } shape { dim: 2 } } }'
    graph = graph_of(text)
    with pytest.raises(UsageError, match=r"layer 'x' \(Input\): 2 shapes for 3 tops"):
        graph.source_shapes(graph.sources[0])


# What holds of every graph


def stored_networks(reference: Path) -> list[tuple[str, Any, str]]:
    """Name, message and dialect of every network among the stored outputs."""
    found = []
    for path in sorted(reference.rglob("*.prototxt")):
        if text_kind(parse_text(read_text(path))) == "network":
            definition = read_definition(path)
            found.append((path.name, definition.message, definition.schema.name))
    for path in sorted(reference.glob("*_layers*.h5")):
        with h5py.File(path) as file:
            for name, case in file.items():
                parsed = parse_message(str(case.attrs["prototxt"]), dialect=case.attrs.get("dialect"))
                message = upgrade_net(parsed.message, parsed.schema).message
                found.append((name, message, parsed.schema.name))
    return found


def test_stored_networks(reference: Path) -> None:
    networks = stored_networks(reference)
    assert len(networks) > 550
    refused = set()
    for name, message, dialect in networks:
        for phase in ("TRAIN", "TEST"):
            try:
                graph = phase_graph(message, NetState(phase), dialect)
            except GraphError as error:
                refused.add(f"{name} {phase}: {error}")
            else:
                graph.check()
    assert len(refused) < 10
    assert all("no layer is left" in text or "produced by no layer" in text for text in refused)


def test_whole_stored_networks_at_every_stage(reference: Path) -> None:
    """Read, upgraded, of a phase, built and optimised."""
    reached = Counter[str]()
    for path in sorted(reference.rglob("*.prototxt")):
        for stage, broken in check_file(path):
            assert broken == ""
            reached[stage] += 1
    assert reached["optimized"] > 2
    assert reached["built"] > 2


def test_what_breaks_a_promise_of_a_stage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.prototxt").write_text(input_layer("x", 2) + layer("r", "ReLU", "x", "y"))
    (tmp_path / "no.prototxt").write_text("base_lr: 1")
    assert [stage for stage, _ in check_file(tmp_path / "a.prototxt")] == ["optimized", "built"]
    assert list(check_file(tmp_path / "no.prototxt")) == []
    assert check_graphs.main(tmp_path) == 0
    real = phase_graph
    monkeypatch.setattr(check_graphs, "phase_graph", lambda *args: replace(real(*args), inputs=()))
    found = [(stage, "inputs are the sources' tops" in text) for stage, text in check_file(tmp_path / "a.prototxt")]
    assert found == [("upgraded", True)] * 2
    assert check_graphs.main(tmp_path) == 1


WRONG_PROGRAMS: dict[str, Callable[[Program], dict[str, Any]]] = {
    "reads what was not made, or is gone": lambda p: {"steps": p.steps[::-1]},
    "frees what is not there": lambda p: {"steps": (replace(p.steps[0], frees=(2,)), *p.steps[1:])},
    "what is wanted in the end is not there": lambda p: {"steps": p.steps[:1]},
    "what nobody needs is kept": lambda p: {"steps": tuple(replace(step, frees=()) for step in p.steps)},
    "two steps run one module": lambda p: {"steps": tuple(replace(step, module="one") for step in p.steps)},
    "a value has no shape": lambda p: {"shapes": p.shapes[:1]},
    "a value is another one, and made as well": lambda p: {"aliases": {1: 0}},
}


@pytest.mark.parametrize("what", WRONG_PROGRAMS)
def test_a_broken_program_is_seen(what: str) -> None:
    text = input_layer("x", 2) + layer("r", "ReLU", "x", "y") + layer("t", "TanH", "y", "z")
    program = CaffeNet(parse(text)).program
    program.check()
    with pytest.raises(AssertionError, match=what):
        replace(program, **WRONG_PROGRAMS[what](program)).check()


def test_random_networks() -> None:
    """Layers of random types between random blobs, in place or not, with rules: wired as they hold, or refused."""
    rng = random.Random(8)
    good = 0
    for _ in range(400):
        blobs, text = ["a", "b"], input_layer("a", 2) + input_layer("b", 2)
        for i in range(rng.randrange(1, 9)):
            bottoms = rng.choices([*blobs, *["nowhere"] * (rng.random() < 0.05)], k=rng.randrange(3))
            tops = [f"t{i}", *bottoms, *blobs][rng.randrange(2) :][: rng.randrange(3)]
            kind = rng.choice(["Concat", "EuclideanLoss", "Silence", "NoSuchType", "Data"])
            rule = rng.choice(["", "", "", "include { phase: TRAIN }", 'exclude { stage: "s" }'])
            text += layer(rng.choice(["same", "run", f"l{i}"]), kind, " ".join(bottoms), " ".join(tops), rule)
            blobs += tops
        for state in (NetState("TRAIN"), NetState("TEST", 0, ("s",))):
            try:
                graph = phase_graph(parse(text), state)
            except GraphError:
                continue
            graph.check()
            good += 1
    assert good > 200


BROKEN: dict[str, Callable[[Graph], dict[str, Any]]] = {
    "reads what no layer above it makes": lambda g: {"nodes": (g.nodes[1], g.nodes[0], *g.nodes[2:])},
    "reads what was overwritten": lambda g: {"nodes": (*g.nodes[:-1], replace(g.nodes[-1], bottoms=(0,)))},
    "makes value 0": lambda g: {"nodes": (*g.nodes[:-1], replace(g.nodes[-1], tops=(0,)))},
    "values that no layer makes": lambda g: {"blobs": (*g.blobs, "more")},
    "layer 't' .* reads .'x'.": lambda g: {"nodes": (*g.nodes[:-1], replace(g.nodes[-1], message=g.message.layer[0]))},
    "is not at its place": lambda g: {"nodes": (*g.nodes[:-1], replace(g.nodes[-1], index=1))},
    "neither a source nor computed": lambda g: {"computed": g.computed[1:]},
    "another name": lambda g: {"nodes": (*g.nodes[:-1], replace(g.nodes[-1], module_name="q"))},
    "outputs are what nobody reads": lambda g: {"outputs": (0, *g.outputs)},
    "inputs are the sources' tops": lambda g: {"inputs": ()},
    "two layers have one module": lambda g: {"nodes": tuple(replace(n, module_name="one") for n in g.nodes)},
    "hides an attribute": lambda g: {"computed": tuple(replace(n, module_name="run") for n in g.computed)},
    "no input": lambda g: {"given": {"y": (2,)}},
    "is not part of": lambda g: {"state": NetState("TRAIN")},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_graph_is_seen(what: str) -> None:
    text = input_layer("x", 2) + layer("r", "ReLU", "x", "x", "include { phase: TEST }") + layer("t", "TanH", "x", "y")
    graph = graph_of(text)
    with pytest.raises(AssertionError, match=what):
        replace(graph, **BROKEN[what](graph)).check()


def test_a_data_layer_with_bottoms_is_refused() -> None:
    text = input_layer("x", 2) + layer("d", "Data", "x", "data", "data_param { batch_size: 2 }")
    with pytest.raises(LayerError, match=r"layer 'd' \(Data\): takes exactly 0 bottoms, found 1"):
        CaffeNet(parse(text))


# Names


def test_repeated_and_empty_names() -> None:
    text = (
        input_layer("x", 1) + layer("", "ReLU", "x", "a") + layer("r", "ReLU", "a", "b") + layer("r", "ReLU", "b", "c")
    )
    graph = graph_of(text + layer("", "TanH", "c", "d"))
    assert [node.name for node in graph.nodes] == ["x", "", "r", "r", ""]
    assert [node.module_name for node in graph.nodes] == ["x", "%", "r", "r#2", "%#2"]


def test_names_that_torch_or_the_net_uses_itself() -> None:
    reserved = [
        "forward",
        "training",
        "graph",
        "loss",
        "run",
        "_steps",
        "state_dict",
        "T_destination",
        "register_buffer",
    ]
    text = input_layer("x", 1) + "".join(layer(n, "ReLU", "x", f"t{i}") for i, n in enumerate(reserved))
    net = CaffeNet(parse(text))
    net.graph.check()
    assert [node.module_name for node in net.graph.computed] == ["%" + n for n in reserved]
    assert all(callable(getattr(net, n)) for n in ("forward", "run", "loss", "state_dict", "register_buffer"))


def test_every_attribute_of_a_net_is_kept_from_layers() -> None:
    net = CaffeNet(parse(input_layer("x", 2, 3) + layer("r", "ReLU", "x", "y")))
    for one in (net, net.optimize(), SteppedNet(net.message)):
        own = {
            *dir(type(one)),
            *vars(one),
            *(n for kind in type(one).__mro__ for n in vars(kind).get("__annotations__", ())),
        }
        assert {name for name in own if not name.startswith("___")} <= RESERVED  # torch's compiler leaves such behind


def test_a_source_has_no_module_and_may_be_called_what_it_likes() -> None:
    graph = graph_of(layer("train", "Data", "", "x", "data_param { batch_size: 2 }") + layer("train", "ReLU", "x", "y"))
    assert [node.module_name for node in graph.nodes] == ["train", "%train#2"]


def test_ordinary_names_stay_as_they_are() -> None:
    ordinary = ["conv1_1", "res2a/branch1", "inception_3a/1x1", "层", "a b", "conv-1", "relu:0", "1"]
    assert module_names(ordinary, frozenset()) == ordinary


def test_module_names_are_unique_legal_and_can_be_undone() -> None:
    rng = random.Random(20)
    reserved = frozenset(dir(nn.Module()))
    pieces = ["%", "#", ".", "25", "23", "2E", "2", "a", "/", "", "forward", " ", "é", "%25", "#2", "%%", "training"]
    for _ in range(500):
        wanted = ["".join(rng.choices(pieces, k=rng.randrange(4))) for _ in range(rng.randrange(1, 9))]
        found = module_names(wanted, reserved)
        assert len(set(found)) == len(found), wanted
        assert [layer_name(name) for name in found] == wanted
        holder = nn.Module()
        for name in found:
            holder.add_module(name, nn.Identity())
        assert [name for name, _ in holder.named_children()] == found


def test_a_picture_s_shape_in_the_place_of_a_batch_s_is_said() -> None:
    parsed = parse_message(input_layer("x", 2, 3, 8, 8) + layer("r", "ReLU", "x", "y"))
    net = CaffeNet(parsed.message, input_shapes={"x": (1, 5, 6)})
    assert net.shapes == ((2, 1, 5, 6), (2, 1, 5, 6))
    said = "is the shape of one picture (channels, height, width); with the batch of the file it is 2,1,5,6"
    assert net.notes == [f"input 'x': 1,5,6 {said}"]
    assert CaffeNet(parsed.message, input_shapes={"x": (1, 1, 5, 6)}).notes == []
