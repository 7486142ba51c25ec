"""Layer names -> names of modules.

torch refuses dots and empty names, and a layer must not hide an attribute of the net. The mapping is reversible: ``%``
quotes, ``#2`` marks the second layer of a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn

__all__ = ["RESERVED", "layer_name", "module_names", "under_names"]

_T = TypeVar("_T")
_QUOTED = {"%": "%25", "#": "%23", ".": "%2E"}
_TABLE = str.maketrans(_QUOTED)

# Attributes of a net, which no layer may hide: torch's, and those of the classes in this library, past ones too.
RESERVED = frozenset(dir(nn.Module())) | frozenset(
    (
        *("choice", "engine", "guessed", "ignored", "recorded", "reduced", "unfilled", "_recordings"),
        *("_aliases", "_build", "_build_layer", "_check_inputs", "_check_unknown", "_execute", "_failure"),
        *("_find_layer", "_given", "_gone", "_gradient_stops", "_infer", "_is_loss", "_is_read", "_is_there"),
        *("__copy__", "__deepcopy__", "_adopt", "as_module", "param_groups", "part", "program"),
        *("_materialize_rest", "_merge_specs", "_plan", "_read_loss_weights", "_read_param_specs", "_sharers"),
        *("_steps", "_wanted", "assign_blob", "blobs_of", "device_and_dtype", "dialect", "files", "graph"),
        *("input_names", "input_shapes", "loss", "loss_weights", "materialize", "message", "nodes_with_blobs"),
        *(
            "ignored",
            "notes",
            "optimize",
            "output_names",
            "param_specs",
            "randomness",
            "reset_state",
            "run",
            "run_steps",
        ),
        *("ignored", "passes", "shapes", "unfilled", "values", "warnings"),
    )
)


def module_names(names: Iterable[str], reserved: frozenset[str]) -> list[str]:
    """One legal, unique module name per layer name: almost always the name itself.

    >>> module_names(["conv1", "a.b", "", "conv1", "forward"], frozenset({"forward"}))
    ['conv1', 'a%2Eb', '%', 'conv1#2', '%forward']
    """
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = count = seen.get(name, 0) + 1
        quoted = name if name.isidentifier() else name.translate(_TABLE)
        if not quoted or quoted in reserved:
            quoted = "%" + quoted
        out.append(quoted if count == 1 else f"{quoted}#{count}")
    return out


def layer_name(module_name: str) -> str:
    """The layer name behind a module name.

    >>> [layer_name(n) for n in ("conv1", "a%2Eb", "%", "conv1#2", "%forward")]
    ['conv1', 'a.b', '', 'conv1', 'forward']
    """
    name = module_name.partition("#")[0]
    if name.startswith("%") and name[1:3] not in ("25", "23", "2E"):
        name = name[1:]
    for char, quoted in reversed(_QUOTED.items()):
        name = name.replace(quoted, char)
    return name


def under_names(found: Mapping[str, _T], names: Iterable[str]) -> dict[str, _T]:
    """Entries by the full names that ``names`` has for them (``conv1.weight``), if a file has others.

    Which names are reserved depends on the release, and on torch's.

    >>> under_names({"%run.weight": 1, "go.weight": 2, "odd": 3}, ["run.weight", "%go.weight"])
    {'run.weight': 1, '%go.weight': 2, 'odd': 3}
    """
    known = {_unreserved(name): name for name in names}
    return {known.get(_unreserved(name), name): entry for name, entry in found.items()}


def _unreserved(name: str) -> str:
    marked = name.startswith("%") and name[1:3] not in ("25", "23", "2E") and name[1:2] not in ("", "#", ".")
    return name[1:] if marked else name
