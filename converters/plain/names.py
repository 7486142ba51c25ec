"""Names and texts of a network as Python identifiers and literals: whatever a file says, none of it can run."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

from torch import nn

__all__ = ["ATTRIBUTES", "VARIABLES", "Names", "class_name", "identifier", "quoted"]

# What no child of a module may be called, and what no variable of its forward may.
ATTRIBUTES = frozenset(dir(nn.Module()))
VARIABLES = frozenset(dir(builtins)) | {"self", "torch", "nn", "F", "Tensor", "Path", "math"}


def identifier(text: str, fallback: str = "layer") -> str:
    """``text`` as a Python name: what a name cannot hold becomes an underscore. Never private, never a keyword.

    >>> [identifier(name) for name in ("conv1", "inception_3a/1x1", "1x1", "class", "__init__", "größe", "层")]
    ['conv1', 'inception_3a_1x1', 'layer_1x1', 'class_', 'init__', 'gr__e', 'layer']
    """
    # ASCII alone: of letters beyond it, Python takes different spellings for one name.
    name = re.sub(r"[^0-9A-Za-z_]", "_", text).lstrip("_")
    if not name.strip("_"):
        return fallback
    if name[0].isdigit():
        name = f"{fallback}_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def class_name(text: str) -> str:
    """``text`` as the name of a class.

    >>> [class_name(name) for name in ("AlexNet", "open_nsfw", "ResNet-50", "3d pose", "")]
    ['AlexNet', 'OpenNsfw', 'ResNet50', 'Net3dPose', 'Net']
    """
    words = re.findall(r"[0-9A-Za-z]+", text)
    name = "".join(word[0].upper() + word[1:] for word in words)
    if not name or name[0].isdigit():
        name = f"Net{name}"
    return f"{name}Net" if keyword.iskeyword(name) or hasattr(builtins, name) else name


def quoted(text: str) -> str:
    """``text`` as a literal on one line, in the quotes that formatters choose.

    >>> print(quoted("it's"), quoted('a "b"'), quoted("\\n\\u202e"), quoted("'\\"\\\\"))
    "it's" 'a "b"' "\\n\\u202e" "'\\"\\\\"
    """
    # The characters inside as repr escapes them, quotes aside: no line break and no character that hides another.
    inside = repr(f"{text}'\"")[1:-4].replace("\\'", "'")
    double, single = text.count('"'), text.count("'")
    if double > single:
        return "'" + inside.replace("'", "\\'") + "'"
    return '"' + inside.replace('"', '\\"') + '"'


class Names:
    """Gives every key a name of its own."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def take(self, name: str) -> str:
        """``name``, or with a number behind if it is taken."""
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free
