"""Check what holds of a network after each stage, for every prototxt in a folder.

    python scripts/check_graphs.py FOLDER

A file that is read is upgraded, filtered by phase and stage, built, and, where its weights are few, filled and brought
into its inference form. What is refused on the way is counted by the stage that it reached; what breaks a promise of a
stage is named, and the exit status is 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caffe_compat.errors import CaffeCompatError
from caffe_compat.formats.textformat import parse_text
from caffe_compat.network.graph import NetState, phase_graph
from caffe_compat.network.net import CaffeNet
from caffe_compat.reports.inspection import text_kind
from caffe_compat.schema import Schema
from caffe_compat.schema.printing import format_message
from caffe_compat.schema.prototxt import bind_tree, parse_message, read_text
from caffe_compat.schema.upgrade import upgrade_net

# What is filled with seeded weights: enough for most networks, quick enough for thousands.
MOST_WEIGHTS = 2 * 10**6

STAGES = ("read", "upgraded", "graph", "built", "optimized")


def check_stages(message: Any, schema: Schema, state: NetState) -> Iterator[str]:
    """The stages that a network of ``schema`` passes in ``state``, each as soon as what holds of it was checked.

    Raises:
        AssertionError: something does not hold, so the stage is wrong. CaffeCompatError: the network is refused.
    """
    yield "read"
    upgraded = upgrade_net(message, schema).message
    assert upgrade_net(upgraded, schema).message == upgraded, "upgrading twice is not upgrading once"
    text = format_message(upgraded)
    # Messages remember in fields of their own what was doubtful about their dialect, which is settled here.
    assert format_message(parse_message(text, dialect=schema.name).message) == text, "its text says something else"
    yield "upgraded"
    graph = phase_graph(upgraded, state, schema.name)
    graph.check()
    yield "graph"
    net = CaffeNet(upgraded, state, dialect=schema.name)
    net.graph.check()
    net.program.check()
    assert {step.module for step in net.program.steps} == {name for name, _ in net.named_children()}, (
        "steps and modules"
    )
    yield "built"
    if state.phase != "TEST" or sum(blob.numel() for blob in (*net.parameters(), *net.buffers())) > MOST_WEIGHTS:
        return
    optimized = net.materialize(seed=0).eval().optimize()  # whose passes check their plan
    optimized.program.check()
    yield "optimized"


def states(message: Any) -> Iterator[NetState]:
    """TEST, TRAIN, and both in each of the stages that a rule of the file names."""
    rules = [rule for layer in (*message.layer, *message.layers) for rule in (*layer.include, *layer.exclude)]
    named = dict.fromkeys(stage for rule in rules for stage in (*rule.stage, *rule.not_stage))
    for phase in ("TEST", "TRAIN"):
        yield NetState(phase)
        for stage in named:
            yield NetState(phase, stages=(stage,))


def check_file(path: Path) -> Iterator[tuple[str, str]]:
    """For every state of the network in ``path``: how far it gets, and what broke a promise, if something did."""
    try:
        tree = parse_text(read_text(path))
        if text_kind(tree) != "network":
            return
        parsed = bind_tree(tree, "NetParameter")
    except CaffeCompatError:
        yield "nothing", ""
        return
    for state in states(parsed.message):
        reached = "nothing"
        try:
            for stage in check_stages(parsed.message, parsed.schema, state):
                reached = stage
        except CaffeCompatError:
            pass
        except AssertionError as error:
            yield reached, f"{path} {state}: behind {reached}: {error}"
            continue
        yield reached, ""


def main(folder: Path) -> int:
    reached: Counter[str] = Counter()
    broken = []
    for path in sorted(folder.rglob("*.prototxt")):
        for stage, what in check_file(path):
            reached[stage] += 1
            broken += [what] * bool(what)
    for stage in ("nothing", *STAGES):
        print(f"{reached[stage]:6} end at: {stage}")
    for what in broken:
        print(what)
    print(f"{len(broken)} broke what holds of every network")
    return 1 if broken else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
