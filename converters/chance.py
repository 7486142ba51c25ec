"""Operations of torch that give something else each time they run: no file repeats what the net gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["draws"]

# Arguments of torch's operations that say whether, or how much of, what they are given is dropped at random.
_SWITCHES = frozenset({"train", "training", "dropout", "dropout_p"})


def draws(operation: object, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None) -> bool:
    """Whether an operation draws at random when it is given these arguments.

    >>> aten, x = torch.ops.aten, torch.ones(2)
    >>> draws(aten.randn.default, ([2, 3],)), draws(aten.relu.default, (x,))
    (True, False)
    >>> draws(aten.dropout.default, (x, 0.5, True)), draws(aten.dropout.default, (x, 0.5, False))
    (True, False)
    """
    if torch.Tag.nondeterministic_seeded not in getattr(operation, "tags", ()):
        return False
    schema: Any = getattr(operation, "_schema")  # noqa: B009  torch's own, which has no public name
    given = {
        x.name: arguments[i] if i < len(arguments) else (keywords or {}).get(x.name, x.default_value)
        for i, x in enumerate(schema.arguments)
    }
    return all(given[name] for name in _SWITCHES & given.keys())
