"""Networks and solvers of every generation -> the current one.

Caffe has had three generations of layers: V0 (:mod:`.upgrade_v0`), V1 (:mod:`.upgrade_v1`) and the current one
(``layer { type: "Convolution" }``). The rules here are those of BVLC Caffe 1.0.0's ``util/upgrade_proto.cpp``. Where
Caffe drops something it cannot place, it is kept as an unknown field, so that a layer that would need it objects, or a
note says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..display import brief
from ..errors import NetworkError, PrototxtError, located
from . import Schema
from .enums import enum_name
from .fields import carry_unknown, put
from .messages import Message, NetParameter, SolverParameter
from .unknown import unknown_fields_of
from .upgrade_v0 import upgrade_v0
from .upgrade_v1 import upgrade_v1
from .v1_types import plain

__all__ = ["Upgraded", "upgrade_net", "upgrade_solver"]

_M_co = TypeVar("_M_co", bound=Message, covariant=True)

_SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@dataclass(frozen=True)
class Upgraded(Generic[_M_co]):
    """A message of the current generation.

    Attributes:
        notes: what was done, and what Caffe would refuse or drop, one line each; empty if nothing had to be done.
        origins: for each layer the index of the layer it was made of, or None for one that is new.
        changed: whether anything had to be done.
    """

    message: _M_co
    notes: list[str] = field(default_factory=list)
    origins: tuple[int | None, ...] = ()
    changed: bool = False


def upgrade_net(message: NetParameter, schema: Schema, path: str | None = None) -> Upgraded[NetParameter]:
    """A NetParameter of the current generation; ``message``, of any generation, stays as it is.

    Args:
        schema: the schema that ``message`` belongs to.
        path: the file it came from, for errors.

    Raises:
        NetworkError: generations are mixed, or the inputs' shapes do not fit their number.
        LayerError: a V0 padding layer that nothing can absorb.
    """
    net = type(message)()
    net.CopyFrom(message)
    with located(path=path):
        return _upgraded(net, schema)


def _upgraded(net: NetParameter, schema: Schema) -> Upgraded[NetParameter]:
    notes: list[str] = []
    origins: list[int | None] = list(range(len(net.layers) or len(net.layer)))
    if net.layers and net.layer:
        raise NetworkError(
            f"holds {len(net.layers)} layers of the old form (`layers`) and {len(net.layer)} of the current one "
            '(`layer`); Caffe refuses such a mixture. Write all of them as `layer { type: "Type" ... }`'
        )
    if any(layer.HasField("layer") for layer in net.layers):
        origins = list(upgrade_v0(net, schema, notes))
        notes.append(f"{len(net.layers)} layers upgraded from V0 (`layers {{ layer {{ ... }} }}`)")
    if net.layers:
        upgrade_v1(net, schema, notes)
    if net.input:
        origins = [*_upgrade_inputs(net, notes), *origins]
    _upgrade_batch_norm(net, notes)
    return Upgraded(net, notes, tuple(origins), bool(notes))


def _upgrade_inputs(net: NetParameter, notes: list[str]) -> list[None]:
    """Turn the network's own inputs into an Input layer at the top; [None] if one was made."""
    names = list(net.input)
    listed = brief(", ".join(repr(name) for name in names), 200)
    shapes = list(net.input_shape)
    dims = list(net.input_dim)
    made: list[None] = []
    if shapes or dims:
        if not shapes:
            if len(dims) != 4 * len(names):
                raise NetworkError(
                    f"{len(names)} inputs ({listed}) need {4 * len(names)} input_dim, four for each, but "
                    f"{len(dims)} are given: {brief(str(dims))}. `input_shape {{ dim: ... }}` takes any number of axes"
                )
            shapes = [net.input_shape.add(dim=dims[4 * i : 4 * i + 4]) for i in range(len(names))]
        if len(shapes) != len(names):
            raise NetworkError(f"{len(names)} inputs ({listed}) but {len(shapes)} input_shape")
        layer = type(net)().layer.add(name="input", type="Input", top=names)
        layer.input_param.shape.extend(shapes)  # with what in them is no number, which is refused later
        net.layer.insert(0, layer)
        made = [None]
        notes.append(f"input {listed} became an Input layer")
    else:
        # A network saved by an old Caffe: its weights matter, not its inputs. Caffe drops them too.
        notes.append(f"input {listed} has no shape and was dropped, as in Caffe")
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
    return made


def _upgrade_batch_norm(net: NetParameter, notes: list[str]) -> None:
    """Hold BatchNorm's three blobs still: they are statistics, and old files had to say so for each."""
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            if any(spec.lr_mult or spec.decay_mult for spec in layer.param):
                notes.append(f"layer {layer.name!r}: lr_mult and decay_mult of a BatchNorm's statistics became 0")
            for spec in layer.param:
                spec.lr_mult = 0
                spec.decay_mult = 0


def upgrade_solver(message: SolverParameter, schema: Schema, path: str | None = None) -> Upgraded[SolverParameter]:
    """A SolverParameter with its type as a string, and the networks inside it upgraded; ``message`` stays as it is.

    Raises:
        PrototxtError: ``type`` and the old ``solver_type`` are both given. NetworkError: see :func:`upgrade_net`.
    """
    solver = type(message)()
    for descriptor, value in message.ListFields():
        put(solver, descriptor.name, value)
    carry_unknown(message, solver, "SolverParameter", without="solver_type")
    notes: list[str] = []
    old = next((u.text for u in unknown_fields_of(message) if u.name == "solver_type"), "")
    if solver.HasField("solver_type"):
        old = enum_name(solver, "solver_type")
    if old:
        if solver.HasField("type"):
            raise PrototxtError(
                f"type {solver.type!r} and solver_type {old} are both given; delete solver_type", path=path
            )
        solver.ClearField("solver_type")
        bare = old.strip("\"'")
        solver.type = next((t for t in _SOLVER_TYPES if plain(t) == plain(bare)), bare)
        notes.append(f"solver_type {old} is type {solver.type!r}")
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            upgraded = upgrade_net(getattr(solver, name), schema, path)
            getattr(solver, name).CopyFrom(upgraded.message)
            notes += upgraded.notes
    for inner in solver.test_net_param:
        upgraded = upgrade_net(inner, schema, path)
        inner.CopyFrom(upgraded.message)
        notes += upgraded.notes
    return Upgraded(solver, notes, changed=bool(notes))
