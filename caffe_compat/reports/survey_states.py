"""The states in which a survey tries a network: phases, and the stages and levels that its rules name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, combinations

from ..errors import GraphError
from ..network.graph import NetState
from ..network.rules import included, own_state
from ..schema.messages import NetParameter, NetStateRule

__all__ = ["MAX_TRIED", "combined_states", "plain_states"]

# Networks name a handful of stages. Of a file that names a hundred, the first few are combined, and no more than so
# many different selections of its layers are built.
_COMBINED_NAMES = 6
MAX_TRIED = 24


def plain_states(message: NetParameter) -> Iterator[NetState]:
    """TEST, TRAIN, and TEST in each of the stages that a rule of the file names."""
    yield NetState("TEST")
    yield NetState("TRAIN")
    for stage in _stages(message):
        yield NetState("TEST", stages=(stage,))


def combined_states(message: NetParameter) -> Iterator[NetState]:
    """What :func:`plain_states` leaves out and selects other layers than every state before.

    Levels, TRAIN in a stage, a stage at a level, two stages together, all of them: TEST before TRAIN. At most
    :data:`MAX_TRIED`.
    """
    stages, levels = _stages(message), _levels(message)
    few, low = stages[:_COMBINED_NAMES], levels[:_COMBINED_NAMES]
    groups = list(dict.fromkeys([(), *((stage,) for stage in few), *combinations(few, 2), tuple(stages)]))
    candidates = (
        NetState(phase, level, group) for group in groups for level in (0, *low) for phase in ("TEST", "TRAIN")
    )
    seen = {selected for state in plain_states(message) if (selected := _selected(message, state)) is not None}
    tried = 0
    for state in candidates:
        selected = _selected(message, state)
        if selected is None or selected in seen:
            continue
        seen.add(selected)
        yield state
        tried += 1
        if tried == MAX_TRIED:
            return


def _selected(message: NetParameter, state: NetState) -> tuple[str, tuple[int, ...]] | None:
    """The layers of a state, by number, and its phase, which layers read too. None if Caffe would refuse a rule."""
    state = own_state(message, state)
    with suppress(GraphError):
        return state.phase, tuple(i for i, layer in enumerate(message.layer) if included(layer, state))
    return None


def _stages(message: NetParameter) -> list[str]:
    rules = _rules(message)
    return list(dict.fromkeys(stage for rule in rules for stage in (*rule.stage, *rule.not_stage)))


def _levels(message: NetParameter) -> list[int]:
    """The levels other than 0 at which a rule begins to hold, or holds no more."""
    found: dict[int, None] = {}
    for rule in _rules(message):
        if rule.HasField("min_level"):
            found[rule.min_level] = None
        if rule.HasField("max_level"):
            found[rule.max_level] = None
    return [level for level in found if level != 0]


def _rules(message: NetParameter) -> Iterator[NetStateRule]:
    return chain.from_iterable((*layer.include, *layer.exclude) for layer in message.layer)
