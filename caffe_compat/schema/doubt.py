"""What a layer means where several forks fit its file and disagree: kept in the layer, so that only its use objects.

A network is read, upgraded and inspected with layers in doubt; building one of them is refused, unless the shapes that
are known by then leave no difference. Like the unknown fields of a text, a doubt rides along inside the message of its
layer, so that copying or serialising the message carries it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf import unknown_fields

from . import dialect_names
from .messages import Message
from .unknown import DOUBT_FIELD, keep_bytes
from .uses import Use

__all__ = ["Doubt", "doubt_of", "keep_doubt"]


@dataclass(frozen=True)
class Doubt:
    """Why the meaning of a layer is not known.

    Attributes:
        text: which forks fit and what each means, in words. gradient_only: they all compute the same tops.
        use, dialects: the layer, and the forks that fit the file. choices: one of these for each meaning.
    """

    text: str
    gradient_only: bool
    use: Use
    dialects: tuple[str, ...]
    choices: tuple[str, ...] = ()


def keep_doubt(layer: Message, doubt: Doubt) -> None:
    """Add ``doubt`` to the message of a layer."""
    use = {**vars(doubt.use), "set": sorted(doubt.use.set), "on": sorted(doubt.use.on)}
    plain = {"text": doubt.text, "gradient_only": doubt.gradient_only, "use": use, "dialects": doubt.dialects}
    plain["choices"] = doubt.choices
    keep_bytes(layer, DOUBT_FIELD, json.dumps(plain).encode())


def doubt_of(layer: Message) -> Doubt | None:
    """The doubt that was kept in the message of a layer."""
    for entry in unknown_fields.UnknownFieldSet(layer):
        if entry.field_number == DOUBT_FIELD:
            with suppress(ValueError, TypeError, LookupError):  # a stranger's file may use the number
                plain = json.loads(entry.data)
                use = plain["use"]
                shapes = tuple(None if shape is None else tuple(shape) for shape in use["shapes"])
                names = {"set": frozenset(use["set"]), "on": frozenset(use["on"])}
                found = Use(**{**use, **names, "where": tuple(use["where"]), "shapes": shapes})
                forks, choices = tuple(plain["dialects"]), tuple(plain["choices"])
                if {*forks, *choices} <= set(dialect_names()):
                    return Doubt(plain["text"], plain["gradient_only"], found, forks, choices)
    return None
