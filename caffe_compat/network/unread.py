"""Fields of a definition that nothing here reads: known to be harmless, accepted by name, or an error.

A field that is not read might have changed the numbers, so a network that has one is refused. What is known to change
none is in :mod:`caffe_compat.schema.harmless`; anything else may be accepted by its name, and whoever gets the network,
its ``.pt`` or a report of it is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import LayerError, NetworkError
from ..schema import BVLC, load_schema
from ..schema.harmless import harmless_reason
from ..schema.messages import LayerParameter, Message, NetParameter
from ..schema.params import Unread
from ..schema.unknown import Unknown, near_name, unknown_fields_of, wrong_values_in

__all__ = ["ANY_FIELD", "IgnoredField", "UnreadFields"]

# Accepts whatever there is: for files of a time when everything was.
ANY_FIELD = "*"

# What the net itself reads of a layer, of a learned blob's specification and of a network.
_OF_LAYERS = frozenset(
    {
        *("name", "type", "bottom", "top", "phase", "loss_weight", "param", "blobs", "propagate_down"),
        *("include", "exclude"),
    }
)

_OF_PARAM_SPECS = frozenset({"name", "share_mode", "lr_mult", "decay_mult"})
_OF_NETS = frozenset({"name", "input", "input_dim", "input_shape", "layer", "layers", "state", "debug_info"}) | {
    "force_backward",
    "eltwise_mem_sharing",  # see shared_sums
}


@dataclass(frozen=True)
class IgnoredField:
    """A field that stands in the definition and has no effect.

    Attributes:
        layer, type: where it stands; empty for the network itself.
        field: its name.
        reason: why that changes no numbers, or that somebody accepted it.
        accepted: whether it was accepted by name, without anything being known of it.
    """

    layer: str
    type: str
    field: str
    reason: str
    accepted: bool = False

    def __str__(self) -> str:
        where = f"layer {self.layer!r} ({self.type})" if self.type else "the network"
        return f"{where}: {self.field} is ignored: {self.reason}"


@dataclass
class UnreadFields:
    """The judge of one network's fields, and what was let pass.

    Attributes:
        accepted: names of fields, alone or with their path (``relu_params``, ``lrn_param.norm_region``).
        ignored: what is not read, in the order of the layers.
    """

    dialect: str
    phase: str
    accepted: Collection[str] = ()
    ignored: list[IgnoredField] = field(default_factory=list)

    def check_net(self, message: NetParameter) -> None:
        """Judge the fields of a ``NetParameter`` itself. Raises NetworkError."""
        for name, unknown in _fields(message, _OF_NETS):
            self._judge(name, unknown, message, "", "")

    def check_spelling(self, message: LayerParameter) -> None:
        """Judge the fields of a ``LayerParameter`` that no schema knows. Raises LayerError."""
        for unknown in unknown_fields_of(message):
            self._judge(_name_of(unknown), unknown, message, message.name, message.type)

    def check_layer(self, message: LayerParameter, read: Collection[str], unread_inside: Iterable[Unread] = ()) -> None:
        """Judge the fields of a ``LayerParameter`` of which the builder read those in ``read``.

        Args:
            unread_inside: what it did not read of the parameter messages that it read.

        Raises:
            LayerError: one that is neither harmless nor accepted.
        """
        for name, unknown in _fields(message, _OF_LAYERS):
            if name not in read:
                self._judge(name, unknown, message, message.name, message.type)
        for unread in unread_inside:
            name, unknown = unread.name, unread.unknown
            if unknown is not None and unknown.is_wrong_value:
                raise LayerError(f"parameter {unread}", layer=message.name, type=message.type)
            if unknown is None:
                self._check_values(name, unread.message, message.name, message.type)
            if not self.accepts(name, unread.path):
                close = "" if unknown is None else near_name(name, unread.message)
                detail = f"parameter {unread} is not supported{close}; {_option(name)}"
                raise LayerError(detail, layer=message.name, type=message.type)
            self._add(message.name, message.type, name, "accepted by name", accepted=True)
        for i, spec in enumerate(message.param):
            for name, unknown in _fields(spec, _OF_PARAM_SPECS):
                self._judge(name, unknown, spec, message.name, message.type, f"param {i}: ")

    def check_source(self, message: LayerParameter) -> None:
        """Judge the fields of a layer whose tops are inputs here.

        Of a data layer only what no schema knows: its parameters say where data comes from. Raises LayerError.
        """
        if message.type != "Input":
            self.check_layer(message, frozenset(message.DESCRIPTOR.fields_by_name))
            return
        self.check_layer(message, {"input_param"})
        for inside in (message.input_param, *message.input_param.shape):
            for unknown in unknown_fields_of(inside):
                self._judge(_name_of(unknown), unknown, inside, message.name, message.type)

    def _judge(
        self, name: str, unknown: Unknown | None, message: Message, layer: str, type: str, inside: str = ""
    ) -> None:
        if unknown is not None and unknown.is_wrong_value:
            raise self._error(f"{inside}{unknown}", layer, type)
        if unknown is None:
            self._check_values(name, message, layer, type)
        reason = None if unknown is not None else self._harmless(name, type)
        if reason is not None:
            self._add(layer, type, name, reason)
        elif self.accepts(name):
            self._add(layer, type, name, "accepted by name", accepted=True)
        elif unknown is not None:
            raise self._error(f"{inside}{unknown}{near_name(name, message)}; {_option(name)}", layer, type)
        else:
            whom = f"type {type}" if type else "a network"
            raise self._error(
                f"{inside}{name} means nothing to {whom} here, and the fork may read it; {_option(name)}", layer, type
            )

    def _check_values(self, name: str, message: Message, layer: str, type: str) -> None:
        """Whoever lets field ``name`` of ``message`` pass lets no wrong value in it pass: Caffe refuses such a file."""
        for wrong in wrong_values_in(message, name):
            raise self._error(f"{name}: {wrong}", layer, type)

    def _harmless(self, name: str, type: str) -> str | None:
        reason = harmless_reason(name, type, self.phase, self.dialect)
        if reason is None and type and _is_bvlc(name, type):
            # The builders of BVLC's types read all that BVLC's classes read.
            return "the type does not read it, in Caffe either"
        return reason

    def accepts(self, *names: str) -> bool:
        """Whether the user accepts a field that goes by one of ``names``."""
        return not {*names, ANY_FIELD}.isdisjoint(self.accepted)

    def _add(self, layer: str, type: str, name: str, reason: str, *, accepted: bool = False) -> None:
        self.ignored.append(IgnoredField(layer, type, name, reason, accepted))

    def _error(self, detail: str, layer: str, type: str) -> NetworkError:
        return LayerError(detail, layer=layer, type=type) if type else NetworkError(detail)


def _fields(message: Message, read: frozenset[str]) -> Iterator[tuple[str, Unknown | None]]:
    """The fields of ``message`` that are set and not in ``read``, and the unknown ones."""
    for descriptor, _ in message.ListFields():
        if descriptor.name not in read:
            yield descriptor.name, None
    for unknown in unknown_fields_of(message):
        yield _name_of(unknown), unknown


def _name_of(unknown: Unknown) -> str:
    """A binary file's field has a number alone."""
    return unknown.name or str(unknown.number)


def _is_bvlc(name: str, type: str) -> bool:
    """Whether BVLC Caffe itself has the field and the type."""
    schema = load_schema(BVLC)
    return type in schema.layer_types and name in schema.message("LayerParameter").DESCRIPTOR.fields_by_name


def _option(name: str) -> str:
    return f"--ignore-field {name} accepts it, and the .pt says so"
