"""Which layers of a definition a network has: its state, and the include and exclude rules matched against it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import GraphError, UsageError
from ..schema.enums import enum_name
from ..schema.messages import LayerParameter, NetParameter, NetStateRule
from ..schema.unknown import unknown_fields_of

__all__ = ["NetState", "included", "own_state", "strange_phases"]


@dataclass(frozen=True)
class NetState:
    """What include and exclude rules are matched against. ``phase`` is ``"TRAIN"`` or ``"TEST"``.

    >>> print(NetState("TRAIN", level=1, stages=("finetune",)))
    phase TRAIN level 1 stages finetune

    Raises:
        UsageError: another phase.
    """

    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.phase not in ("TRAIN", "TEST"):
            raise UsageError(f"phase {self.phase!r}: train or test was expected")

    def __str__(self) -> str:
        stages = f" stages {', '.join(self.stages)}" if self.stages else ""
        return f"phase {self.phase} level {self.level}{stages}"


def own_state(net: NetParameter, state: NetState) -> NetState:
    """``state`` with the stages that ``net`` (a ``NetParameter``) gives itself, as Caffe adds its own to them."""
    return NetState(state.phase, state.level, tuple(dict.fromkeys((*state.stages, *net.state.stage))))


def included(layer: LayerParameter, state: NetState) -> bool:
    """Caffe's FilterNet: with include rules one must match; with exclude rules none may."""
    include, exclude = layer.include, layer.exclude
    if not include and not exclude:
        return True
    if include and exclude:
        raise GraphError("has include and exclude rules; Caffe allows only one kind", layer=layer.name, type=layer.type)
    for rule in (*include, *exclude):
        for unknown in unknown_fields_of(rule):
            if unknown.name != "phase":
                # Left out, it would make the rule hold where it should not.
                raise GraphError(f"has an include or exclude rule with {unknown}", layer=layer.name, type=layer.type)
    if include:
        return any(_matches(rule, state) for rule in include)
    return not any(_matches(rule, state) for rule in exclude)


def strange_phases(layer: LayerParameter) -> list[str]:
    """Phases that rules of ``layer`` name and Caffe does not have (MyCaffe has ``RUN``)."""
    if not layer.include and not layer.exclude:  # as nearly all
        return []
    rules = (*layer.include, *layer.exclude)
    return [unknown.text for rule in rules for unknown in unknown_fields_of(rule) if unknown.name == "phase"]


def _matches(rule: NetStateRule, state: NetState) -> bool:
    if any(unknown.name == "phase" for unknown in unknown_fields_of(rule)):
        return False
    if rule.HasField("phase") and enum_name(rule, "phase") != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    return all(s in state.stages for s in rule.stage) and not any(s in state.stages for s in rule.not_stage)
