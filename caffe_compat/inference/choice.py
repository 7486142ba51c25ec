"""What came out when the engines of a net were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["Choice"]


@dataclass(frozen=True)
class Choice:
    """What was measured, and where.

    Attributes:
        engine: the fastest. milliseconds: of a run of each that gives the net's numbers, the median.
        off: how far each is off, relative to the largest value of the output that is off most.
        refused: by engine, why it was not measured.
        processor, threads, runtimes: where that holds; elsewhere another may be faster.
    """

    engine: str
    milliseconds: Mapping[str, float]
    off: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""
    threads: int = 1
    runtimes: tuple[str, ...] = ()

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(self.milliseconds.items(), key=lambda x: x[1]))
        return f"engine {self.engine} ({times}) on {self.processor}, threads: {self.threads}"

    def to_record(self) -> dict[str, Any]:
        """Plain data, as a ``.pt`` has it."""
        return {**asdict(self), "runtimes": list(self.runtimes)}

    @classmethod
    def from_record(cls, record: Any) -> Choice:
        """What :meth:`to_record` gave. Raises TypeError or ValueError for anything else."""
        choice = cls(**record)
        if not all(isinstance(named, dict) for named in (choice.milliseconds, choice.off, choice.refused)):
            raise TypeError("numbers and reasons by engine were expected")
        if not isinstance(choice.runtimes, list | tuple):
            raise TypeError("a list of runtimes was expected")
        texts = (choice.engine, choice.processor, *choice.runtimes, *choice.refused, *choice.refused.values())
        numbers = (*choice.milliseconds.values(), *choice.off.values())
        named = (*choice.milliseconds, *choice.off)
        if not all(isinstance(x, str) for x in (*texts, *named)) or not all(isinstance(x, float) for x in numbers):
            raise TypeError("texts and numbers were expected")
        if not isinstance(choice.threads, int) or choice.threads < 1:
            raise ValueError(f"threads {choice.threads!r}")
        return replace(choice, runtimes=tuple(choice.runtimes))
