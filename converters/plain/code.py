"""Source laid out as formatters lay it out: on one line where it fits, else what is in brackets below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["WIDTH", "Call", "Code", "assignment", "collection", "named"]

WIDTH = 120


@dataclass(frozen=True)
class Call:
    """``name(argument, argument, ...)``, or what else stands in brackets.

    >>> print(*Call("f", ["a", Call("g", ["b"])]).lines("    ", "y = "))
        y = f(a, g(b))

    Attributes:
        name: what stands before the bracket. collection: of a tuple, a list or a dictionary, where what does not fit on
            one line stands one below the other.
    """

    name: str
    arguments: Sequence[Code]
    brackets: str = "()"
    collection: bool = False

    def lines(self, indent: str, before: str = "", after: str = "") -> list[str]:
        """The lines of ``before`` this ``after``, indented."""
        opening, closing = f"{indent}{before}{self.name}{self.brackets[0]}", f"{self.brackets[1]}{after}"
        inside = self._inside()
        if len(opening + inside + closing) <= WIDTH or not self.arguments:
            return [opening + inside + closing]
        deeper = f"{indent}    "
        if not self.collection and len(deeper + inside) <= WIDTH:
            return [opening, deeper + inside, indent + closing]
        return [opening, *(line for x in self.arguments for line in _lines(x, deeper, "", ",")), indent + closing]

    def _inside(self) -> str:
        lone = "," if self.collection and self.brackets == "()" and len(self.arguments) == 1 else ""
        return ", ".join(map(str, self.arguments)) + lone

    def __str__(self) -> str:
        return self.name + self.brackets[0] + self._inside() + self.brackets[1]


Code = str | Call


def collection(values: Sequence[Code], brackets: str = "()") -> Call:
    """A tuple, list or dictionary of ``values``.

    >>> print(collection(["1"]), collection(["1", "2"], "[]"))
    (1,) [1, 2]
    """
    return Call("", values, brackets, collection=True)


def named(name: str, value: Code) -> Code:
    """``name=value``."""
    return replace(value, name=f"{name}={value.name}") if isinstance(value, Call) else f"{name}={value}"


def assignment(indent: str, target: str, value: Code) -> list[str]:
    """``target = value``, and nothing before it where there is no target."""
    return _lines(value, indent, f"{target} = " if target else "", "")


def _lines(value: Code, indent: str, before: str, after: str) -> list[str]:
    return value.lines(indent, before, after) if isinstance(value, Call) else [f"{indent}{before}{value}{after}"]
