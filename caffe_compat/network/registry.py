"""The layer types this library can build.

    @layer("AbsVal", bottoms=1, tops=1)
    def abs_val(spec: LayerSpec) -> Layer:
        return AbsVal()

A builder takes a :class:`.spec.LayerSpec` and returns an ``nn.Module`` whose ``forward(*bottoms)`` returns one tensor,
or a tuple with one tensor per top. Parameters and buffers that Caffe calls blobs are created without memory (on the
``meta`` device) and named in ``blob_names`` in Caffe's order. Shapes are inferred by running the module on ``meta``
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..access import FileAccess
from ..errors import LayerError, UnknownLayerError
from ..schema import split_dialect
from ..schema.meanings import MEANINGS
from ..schema.params import Params
from ..schema.which_meaning import meaning_of
from .randomness import Randomness
from .shapes import Shape
from .shipped import LAYERS, bring_all, bring_type
from .spec import LayerSpec

__all__ = [
    "Layer",
    "LayerSpec",
    "LayerType",
    "Shape",
    "find_layer",
    "is_registered",
    "layer",
    "layer_types",
    "registered_types",
]

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
            without one starts at zero, unless :meth:`start_blob` says otherwise.
        forward_fills_diff: True where Caffe's forward pass leaves values in a bottom's diff that its backward reads.
        single_precision: buffers that stay float32 when the net is cast to float16 or bfloat16.
        counts: names of the attributes that count from pass to pass (numbers or arrays); snapshots keep them.
        carried: names of buffers in which a pass finds what the last one has left; :meth:`reset_state` zeroes them.
        any_size: names of blobs that take those of a file with another height and width (:meth:`resized`).
        any_axes_of_one: True where a file's blob may have axes of length 1 that the layer's has not, or lack some.
        layer_name: the name in the network, for messages.
        randomness, files: set by the net that owns the layer.
    """

    blob_names: tuple[str, ...] = ()
    forward_fills_diff: bool = False
    single_precision: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    any_size: tuple[str, ...] = ()
    any_axes_of_one: bool = False
    layer_name: str = ""
    randomness: Randomness
    files: FileAccess

    def __init__(self) -> None:
        super().__init__()
        self.fillers: dict[str, Params]
        # Past torch's __setattr__, which asks of every attribute whether it is a parameter: that is most of what making
        # a small layer takes.
        vars(self).update(fillers={}, randomness=Randomness(), files=FileAccess())

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

    def start_blob(self, name: str, blob: Tensor) -> None:
        """Give a blob of zeros that no filler fills its first value. Override where Caffe's is another one."""

    def stored_order(self, shapes: Sequence[Shape]) -> Sequence[int]:
        """For each of ``blob_names``, which blob of a file it is, by the shapes of the file's blobs.

        Override where files have them in several orders. It may raise LayerError to say what kind of file that is.
        """
        return range(len(shapes))

    def resized(self, name: str, values: np.ndarray, shape: Shape) -> np.ndarray:
        """What a blob of ``any_size`` takes from a file's values of another size. Override where there is one."""
        raise NotImplementedError

    def learns_by_itself(self) -> bool:
        """Whether the next pass changes blobs, without any solver. Override where there is such a thing."""
        return False

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


Builder = Callable[[LayerSpec], nn.Module]


@dataclass(frozen=True)
class LayerType:
    """A registered type: its builder, how many bottoms and tops it takes, and whether its first top is a loss.

    ``verified`` is False for a type that was built from a fork's source and never compared with its outputs.
    ``unforced`` are the bottoms that a net's ``force_backward`` does not reach. ``ships`` tells whether it is the
    library's own, of which it is known what the builder looks at (see :mod:`.alike`).
    """

    name: str
    build: Builder
    bottoms: Count
    tops: Count
    is_loss: bool
    dialects: tuple[str, ...]
    verified: bool = True
    unforced: tuple[int, ...] = ()
    ships: bool = False


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
        ships = build.__module__.startswith(f"{LAYERS}.")
        entry = LayerType(name, build, bottoms, tops, loss, tuple(dialects), verified, own, ships)
        if not ships:
            bring_type(name)  # so that a type that ships is not registered a second time unseen
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
    bring_type(name)
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


def is_registered(name: str) -> bool:
    """Whether any dialect has a layer type ``name`` here."""
    bring_type(name)
    return any(known == name for known, _ in _TYPES)


def layer_types() -> tuple[str, ...]:
    """Every registered type, sorted."""
    bring_all()
    return tuple(sorted({name for name, _ in _TYPES}))


def registered_types() -> tuple[LayerType, ...]:
    """Every meaning of every type, each once."""
    bring_all()
    return tuple({id(entry): entry for _, entry in sorted(_TYPES.items())}.values())


def check_count(count: int, allowed: Count) -> str | None:
    """None if ``count`` is allowed, else what would be, in words."""
    low, high = (allowed, allowed) if isinstance(allowed, int) else allowed
    if low <= count and (high is None or count <= high):
        return None
    if low == high:
        return f"exactly {low}"
    return f"at least {low}" if high is None else f"{low} to {high}"
