"""The entries of a ``.pt``, each checked for its kind: a file may hold whatever its writer put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..errors import FileError, UsageError
from ..inference.choice import Choice
from ..inference.engines import TORCH
from ..inference.reduced import Reduced
from ..parity.record import ParityRecord
from ..schema import keep_dialect, ships
from .graph import NetState
from .guess import Guess
from .unread import ANY_FIELD, IgnoredField

__all__ = ["DTYPES", "Checkpoint", "checked"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_NUMBERS = frozenset(
    (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a ``.pt``; the docstring of :mod:`.checkpoint` says what each entry is."""

    network: str
    dialect: str
    dialect_text: str | None
    state: NetState
    input_shapes: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...] | None
    dtype: str
    optimized: bool
    state_dict: dict[str, torch.Tensor]
    sources: tuple[dict[str, str], ...]
    preprocess: dict[str, Any] | None
    parity: ParityRecord | None
    extra: dict[str, torch.Tensor | str]
    written_by: str
    ignored: tuple[IgnoredField, ...] | None = None
    unfilled: tuple[str, ...] = ()
    guessed: tuple[Guess, ...] = ()
    engine: str = TORCH
    choice: Choice | None = None
    reduced: Reduced | None = None

    @property
    def accepted_fields(self) -> tuple[str, ...]:
        """Fields that may stand in the network unread: what was let pass then. Earlier releases let everything pass."""
        return (ANY_FIELD,) if self.ignored is None else tuple(ignored.field for ignored in self.ignored)


def checked(content: Mapping[Any, Any], path: str) -> Checkpoint:
    """``content`` as far as it is what a ``.pt`` holds; what else is in it is left alone.

    Raises:
        FileError: an entry is missing, or of another kind.
    """
    found: dict[str, Any] = {}
    for name, read in _READERS.items():
        try:
            found[name] = read(content)
        except KeyError as error:
            raise FileError(f"is damaged: entry {error} is missing", path=path) from error
        except (TypeError, ValueError, UsageError) as error:
            raise FileError(f"is damaged: {error}", path=path, place=f"entry {name!r}") from error
    return Checkpoint(**found)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{kind.__name__} expected, found {type(value).__name__}")
    return value


def _listed(values: Any, kind: type) -> tuple[Any, ...]:
    return tuple(_typed(value, kind) for value in _typed(values, list))


def _or_none(value: Any, kind: type) -> Any:
    return None if value is None else _typed(value, kind)


def _dialect(name: Any, text: Any) -> str:
    """The name of a stored dialect, made known if the file brings it; never the path of a file to open."""
    if text is not None:
        return keep_dialect(_typed(name, str), _typed(text, str))
    if not ships(_typed(name, str)):
        raise ValueError(f"the text of dialect {name} is missing, and it is none of those that ship")
    return str(name)


def _state(entry: Any) -> NetState:
    _typed(entry, dict)
    return NetState(_typed(entry["phase"], str), _typed(entry["level"], int), _listed(entry["stages"], str))


def _input_shapes(entries: Any) -> dict[str, tuple[int, ...]]:
    return {_typed(name, str): _listed(shape, int) for name, shape in _typed(entries, dict).items()}


def _dtype(name: Any) -> str:
    if _typed(name, str) not in DTYPES:
        raise ValueError(f"dtype {name!r}")
    return str(name)


def _state_dict(tensors: Any, dtype: str) -> dict[str, torch.Tensor]:
    for name, tensor in _typed(tensors, dict).items():
        _check_tensor(_typed(name, str), tensor, DTYPES[dtype])
    return dict(tensors)


def _check_tensor(name: str, tensor: Any, dtype: torch.dtype, where: str = "state_dict") -> None:
    """A plain tensor with memory of its own for each value, as save_checkpoint writes them."""
    if type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise TypeError(f"{name} in {where} is no plain tensor")
    if tensor.dtype not in _NUMBERS:
        raise TypeError(f"{name} in {where} holds {tensor.dtype}, which is no number that a .pt holds")
    if tensor.dtype not in (dtype, torch.float32) and tensor.is_floating_point():
        raise TypeError(f"{name} in {where} holds {tensor.dtype}, {dtype} was expected")
    if not tensor.is_contiguous():
        raise ValueError(f"the values of {name} in {where} overlap or have gaps")


def _sources(entries: Any) -> tuple[dict[str, str], ...]:
    return tuple({key: _typed(entry[key], str) for key in ("name", "sha256")} for entry in _listed(entries, dict))


def _parity_record(entry: Any) -> ParityRecord | None:
    if entry is None:
        return None
    record = ParityRecord(**_typed(entry, dict))
    for field in fields(ParityRecord):
        _typed(getattr(record, field.name), {"str": str, "int": int, "float": float}[str(field.type)])
    return record


def _ignored(entries: Any) -> tuple[IgnoredField, ...] | None:
    """None for files of earlier releases, which do not say."""
    if entries is None:
        return None
    found = tuple(IgnoredField(**entry) for entry in _listed(entries, dict))
    for ignored in found:
        for field in fields(IgnoredField):
            _typed(getattr(ignored, field.name), {"str": str, "bool": bool}[str(field.type)])
    return found


def _guesses(entries: Any) -> tuple[Guess, ...]:
    return tuple(
        Guess(_typed(entry["blob"], str), _listed(entry["shape"], int), _typed(entry["why"], str))
        for entry in _listed(entries, dict)
    )


def _extra(entries: Any) -> dict[str, torch.Tensor | str]:
    for name, value in _typed(entries, dict).items():
        if not isinstance(value, str):
            _check_tensor(_typed(name, str), value, getattr(value, "dtype", torch.float32), "extra")
    return dict(entries)


# In the order in which they are read; one looks at what was found to be sound before. Those with a default are missing
# in files of earlier releases.
_READERS: dict[str, Callable[[Mapping[Any, Any]], Any]] = {
    "network": lambda content: _typed(content["network"], str),
    "dialect": lambda content: _dialect(content["dialect"], content["dialect_text"]),
    "dialect_text": lambda content: _or_none(content["dialect_text"], str),
    "state": lambda content: _state(content["state"]),
    "input_shapes": lambda content: _input_shapes(content["input_shapes"]),
    "outputs": lambda content: None if content.get("outputs") is None else _listed(content["outputs"], str),
    "dtype": lambda content: _dtype(content["dtype"]),
    "optimized": lambda content: _typed(content["optimized"], bool),
    "state_dict": lambda content: _state_dict(content["state_dict"], content["dtype"]),
    "sources": lambda content: _sources(content["sources"]),
    "preprocess": lambda content: _or_none(content["preprocess"], dict),
    "parity": lambda content: _parity_record(content["parity"]),
    "extra": lambda content: _extra(content.get("extra", {})),
    "written_by": lambda content: _typed(content["written_by"], str),
    "ignored": lambda content: _ignored(content.get("ignored")),
    "unfilled": lambda content: _listed(content.get("unfilled", []), str),
    "guessed": lambda content: _guesses(content.get("guessed", [])),
    "engine": lambda content: _typed(content.get("engine", TORCH), str),
    "choice": lambda content: Choice.from_record(content["choice"]) if content.get("choice") is not None else None,
    "reduced": lambda content: Reduced.from_record(content["reduced"]) if content.get("reduced") is not None else None,
}
