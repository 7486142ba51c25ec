"""The layer types this library can build, and what a builder is given.

    @layer("AbsVal", bottoms=1, tops=1)
    def abs_val(spec: LayerSpec) -> Layer:
        return AbsVal()

A builder takes a :class:`LayerSpec` and returns an ``nn.Module`` whose ``forward(*bottoms)`` returns one tensor, or a
tuple with one tensor per top. Parameters and buffers that Caffe calls blobs are created without memory (on the ``meta``
device) and named in ``blob_names`` in Caffe's order. Shapes are inferred by running the module on ``meta`` tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..access import FileAccess
from ..errors import LayerError, UnknownLayerError
from ..schema import split_dialect
from ..schema.meanings import MEANINGS
from ..schema.messages import LayerParameter
from ..schema.params import Params, Unread, unread_fields
from ..schema.which_meaning import meaning_of
from .randomness import Randomness

__all__ = ["Layer", "LayerSpec", "LayerType", "Shape", "find_layer", "layer", "layer_types", "registered_types"]

Shape = tuple[int, ...]
Count = int | tuple[int, int | None]


class Layer(nn.Module):
    """Base of the layers that ship. A plain ``nn.Module`` works too; its blobs are then its parameters in order.

    >>> class Gain(Layer):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...         self.blob("gain", (channels,))
    ...
    ...     def forward(self, x):
    ...         return x * self.gain[:, None, None]
    >>> gain = Gain(3)
    >>> gain.blob_names, gain.gain.shape, gain.gain.device.type
    (('gain',), torch.Size([3]), 'meta')

    Attributes:
        blob_names: the parameters and buffers that are Caffe's ``blobs``, in Caffe's order.
        fillers: by blob name, the ``FillerParameter`` that gives its initial value where no weights are loaded; a blob
            without one starts at zero.
        forward_fills_diff: True where Caffe's forward pass leaves values in a bottom's diff that its backward reads.
        single_precision: buffers that stay float32 when the net is cast to float16 or bfloat16.
        counts: names of the attributes that count from pass to pass (numbers or arrays); snapshots keep them.
        carried: names of buffers in which a pass finds what the last one has left; :meth:`reset_state` zeroes them.
        any_axes_of_one: True where a file's blob may have axes of length 1 that the layer's has not, or lack some.
        layer_name: the name in the network, for messages.
        randomness, files: set by the net that owns the layer.
    """

    blob_names: tuple[str, ...] = ()
    forward_fills_diff: bool = False
    single_precision: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    any_axes_of_one: bool = False
    layer_name: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.fillers: dict[str, Params] = {}
        self.randomness = Randomness()
        self.files = FileAccess()

    def blob(self, name: str, shape: Sequence[int], filler: Params | None = None, *, learned: bool = True) -> None:
        """Declare the next blob: a parameter, or a buffer where Caffe never learns it."""
        tensor = torch.empty(tuple(shape), device="meta")
        if learned:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)
        self.blob_names = (*self.blob_names, name)
        if filler is not None:
            # Checked when it is used: with weights at hand, how a blob would have started has no bearing.
            filler.ignore(*(descriptor.name for descriptor, _ in filler.message.ListFields()))
            self.fillers[name] = filler

    def bias_blob(self, shape: Sequence[int], params: Params) -> None:
        """Declare blob ``bias`` if ``params.bias_term`` asks for it; else make it None: its filler fills nothing."""
        if params.bias_term:
            self.blob("bias", shape, params.bias_filler)
        else:
            params.ignore("bias_filler")
            self.register_parameter("bias", None)

    def stored_order(self, shapes: Sequence[Shape]) -> Sequence[int]:
        """For each of ``blob_names``, which blob of a file it is, by the shapes of the file's blobs.

        Override where files have them in several orders. It may raise LayerError to say what kind of file that is.
        """
        return range(len(shapes))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Layer:
        """What ``.to()`` and its kin do, except that ``single_precision`` buffers are moved but never narrowed."""
        before = {name: getattr(self, name) for name in self.single_precision}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = getattr(self, name)
            if torch.finfo(moved.dtype).bits < 32:
                setattr(self, name, tensor.to(moved.device, torch.float32))
        return self

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tops for ``meta`` bottoms.

        Override where ``forward`` needs values to know its shapes. The layers that nearly every net has say their
        shapes outright, too: what torch computes without memory it computes in Python, and first imports a computer
        algebra system for it, which takes longer than loading a large net.
        """
        result: Tensor | tuple[Tensor, ...] = self(*bottoms)
        return result

    def reset_state(self) -> None:
        """Forget what the last forward pass left behind. Override where there is such a thing."""


@dataclass
class LayerSpec:
    """What a builder may look at.

    >>> from caffe_compat.schema import load_schema
    >>> message = load_schema().message("LayerParameter")(name="cut", type="Crop")
    >>> spec = LayerSpec("cut", "Crop", "TEST", ("x", "like"), ("y",), ((1, 3, 8, 8), (1, 3, 4, 4)), "bvlc", message)
    >>> spec.params("crop_param").axis, spec.axis(-1, rank=4)
    (2, 3)
    >>> spec.fail("the first bottom is smaller than the second")
    Traceback (most recent call last):
    caffe_compat.errors.LayerError: layer 'cut' (Crop): the first bottom is smaller than the second

    Attributes:
        name, type: of the layer, as in the file.
        phase: ``"TRAIN"`` or ``"TEST"``.
        bottoms, tops: blob names. bottom_shapes: shapes in the same order.
        dialect: name of the schema in force (``"bvlc"``, ``"chanyn/3Dpose_ssl"``, several joined by ``+``).
        message: the ``LayerParameter``.
        gradients: ``"caffe"`` for Caffe's own backward pass, ``"true"`` for the true gradient where the two differ.
        allow_python: whether ``Python`` layers may import and run the code they name.
        warnings, notes: what the builder wants the user to know, added by :meth:`warn` and :meth:`note`.
    """

    name: str
    type: str
    phase: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    bottom_shapes: tuple[Shape, ...]
    dialect: str
    message: LayerParameter
    gradients: str = "caffe"
    allow_python: bool = False
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _read: dict[str, Params] = field(default_factory=dict)

    def params(self, name: str) -> Params:
        """The parameter message in field ``name``, with defaults if the file has none."""
        if name not in self._read:
            if name not in self.message.DESCRIPTOR.fields_by_name:
                self.fail(
                    f"the schema {self.dialect} has no field {name}; pass the dialect that defines type {self.type}"
                )
            self._read[name] = Params(getattr(self.message, name), name)
        return self._read[name]

    def fail(self, message: str) -> NoReturn:
        """Raise :class:`LayerError` with the layer's name and type in front."""
        raise LayerError(message, layer=self.name, type=self.type)

    def warn(self, message: str) -> None:
        """Tell the user something that does not keep the layer from being built."""
        self.warnings.append(f"layer {self.name!r} ({self.type}): {message}")

    def note(self, message: str) -> None:
        """Say what was done, where there is nothing to worry about."""
        self.notes.append(f"layer {self.name!r} ({self.type}): {message}")

    def means(self, fork: str) -> bool:
        """Whether the dialect in force means by this type what ``fork`` does (:mod:`..schema.meanings`)."""
        found = (meaning_of(self.type, one) for one in split_dialect(self.dialect))
        return next((meaning for meaning in found if meaning is not None), None) == meaning_of(self.type, fork)

    def knows(self, name: str) -> bool:
        """Whether the schema in force has field ``name`` (``"smooth_l1_loss_param"``) for a layer's parameters."""
        return name in self.message.DESCRIPTOR.fields_by_name

    def axis(self, value: int, rank: int, what: str = "axis") -> int:
        """``value`` as an index into ``rank`` axes, negative ones counted from the end (Caffe's CanonicalAxisIndex)."""
        if not -rank <= value < rank:
            self.fail(f"{what} {value} is out of range for {rank} axes")
        return value % rank if rank else 0

    def read_fields(self) -> frozenset[str]:
        """The fields of the layer's message that the builder read."""
        return frozenset(self._read)

    def unread_inside(self) -> list[Unread]:
        """What the file sets in the parameter messages that the builder read, and that it did not read."""
        return [unread for params in self._read.values() for unread in unread_fields(params)]

    def check_all_read(self) -> None:
        """Refuse parameters that the builder did not honour."""
        for unread in self.unread_inside():
            self.fail(f"parameter {unread} is not supported")


Builder = Callable[[LayerSpec], nn.Module]


@dataclass(frozen=True)
class LayerType:
    """A registered type: its builder, how many bottoms and tops it takes, and whether its first top is a loss.

    ``verified`` is False for a type that was built from a fork's source and never compared with its outputs.
    ``unforced`` are the bottoms that a net's ``force_backward`` does not reach.
    """

    name: str
    build: Builder
    bottoms: Count
    tops: Count
    is_loss: bool
    dialects: tuple[str, ...]
    verified: bool = True
    unforced: tuple[int, ...] = ()


# By name and by the meaning of that name (see _meaning_key).
_TYPES: dict[tuple[str, str], LayerType] = {}


def layer(
    name: str,
    *,
    bottoms: Count = (0, None),
    tops: Count = (0, None),
    loss: bool = False,
    dialects: Sequence[str] = (),
    verified: bool = True,
    unforced: Sequence[int] | None = None,
) -> Callable[[Builder], Builder]:
    """Register a builder for layer type ``name``.

    >>> @layer("HalfOfIt", bottoms=1, tops=1)
    ... def half_of_it(spec):
    ...     class HalfOfIt(Layer):
    ...         def forward(self, x):
    ...             return x / 2
    ...     return HalfOfIt()
    >>> find_layer("HalfOfIt").bottoms
    1
    >>> layer("ReLU")(half_of_it)
    Traceback (most recent call last):
    caffe_compat.errors.LayerError: layer type 'ReLU' is registered twice

    Args:
        bottoms, tops: how many the type takes: a number, or (least, most) with None for no limit.
        loss: the first top counts as a loss with weight 1 unless the file says otherwise.
        dialects: the forks whose meaning of ``name`` this is, one for each meaning (:mod:`..schema.meanings` says which
            others share it); empty means BVLC's, or that it holds under every dialect that has none of its own.
        verified: False where no output of real Caffe was at hand to compare with; a net with such a layer says so.
        unforced: the bottoms for which Caffe's class does not ``AllowForceBackward``; by default the labels of a loss,
            which are its second bottom, and otherwise none.

    Raises:
        LayerError: the type is registered already.
    """

    def register(build: Builder) -> Builder:
        labels = (1,) if loss else ()
        own = labels if unforced is None else tuple(unforced)
        entry = LayerType(name, build, bottoms, tops, loss, tuple(dialects), verified, own)
        for dialect in dialects or ("",):
            key = (name, _meaning_key(name, dialect))
            if _TYPES.get(key, entry) is not entry:
                where = f" for dialect {dialect}" if dialect else ""
                raise LayerError(f"layer type {name!r} is registered twice{where}", type=name)
            _TYPES[key] = entry
        return build

    return register


def _meaning_key(name: str, dialect: str) -> str:
    """What ``dialect`` means by ``name``: equal for forks that mean the same, empty for what holds under them all."""
    if not dialect or len(MEANINGS.get(name, ())) == 1:
        return ""
    meaning = meaning_of(name, dialect) if name in MEANINGS else None
    return meaning.fork if meaning is not None else dialect


def find_layer(name: str, dialect: str = "") -> LayerType:
    """The type registered as ``name`` for what ``dialect`` (several joined by ``+``) means by it, else for them all.

    Raises:
        UnknownLayerError: it lists close names and says how to add one.
    """
    for one in (*(split_dialect(dialect) if dialect else ()), ""):
        key = (name, _meaning_key(name, one))
        if key in _TYPES:
            return _TYPES[key]
    elsewhere = sorted({of for (known, _), entry in _TYPES.items() if known == name for of in entry.dialects})
    if elsewhere:
        others = f" and {len(elsewhere) - 3} others" if len(elsewhere) > 3 else ""
        raise UnknownLayerError(
            f"layer type {name!r} is known as {' and '.join(elsewhere[:3])}{others} have it, not under dialect "
            f"{dialect}; if it is the same, pass --dialect {elsewhere[0]}",
            type=name,
        )
    close = [known for known in layer_types() if known.lower() == name.lower() or name.lower() in known.lower()]
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    raise UnknownLayerError(
        f"no layer type {name!r}.{hint} {len(layer_types())} types are known (`caffe-compat layers` lists them); "
        "a plugin can add one (--plugin my_layers.py)",
        type=name,
    )


def layer_types() -> tuple[str, ...]:
    """Every registered type, sorted."""
    return tuple(sorted({name for name, _ in _TYPES}))


def registered_types() -> tuple[LayerType, ...]:
    """Every meaning of every type, each once."""
    return tuple({id(entry): entry for _, entry in sorted(_TYPES.items())}.values())


def check_count(count: int, allowed: Count) -> str | None:
    """None if ``count`` is allowed, else what would be, in words."""
    low, high = (allowed, allowed) if isinstance(allowed, int) else allowed
    if low <= count and (high is None or count <= high):
        return None
    if low == high:
        return f"exactly {low}"
    return f"at least {low}" if high is None else f"{low} to {high}"
